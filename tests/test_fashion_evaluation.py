"""The whole pipeline on a really trained checkpoint: torch's prediction for each image, and its score.

Every engine, every source and either number of ranks is met, on the first 1,000 test images (class folders and two
ranks in test_evaluate.py); ``make test-heavy`` runs all eighteen combinations on all 10,000: 87.11 %.
"""

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from fashion import read_test_set, torch_predictions

from convert import timm2paddle
from paddle_dla import evaluate as command

ROOT = Path(command.__file__).parent.parent
ENGINES = ("paddle", "inference", "onnxruntime")
SOURCES = {"folder": "val", "list": "val.txt", "shards": "shards/val"}
COVERING = {
    ("paddle", "shards", 2),
    ("onnxruntime", "list", 1),
}
ALL = [(engine, source, ranks) for engine in ENGINES for source in SOURCES for ranks in (1, 2)]
pytestmark = [pytest.mark.slow, pytest.mark.torch]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The first so many test images in all three forms, as a user makes them."""
    read_test_set()  # skips where Debian's package is missing
    folder, script = tmp_path_factory.mktemp("fashion"), ROOT / "scripts" / "make_fashion_mnist.py"

    @cache
    def made(count):
        arguments = [folder / str(count), "--shards", "--limit", str(count)]
        subprocess.run([sys.executable, script, *arguments], check=True, capture_output=True)
        return arguments[0]

    return made


@pytest.fixture(scope="module")
def weights(shared_data, tmp_path_factory):
    """The checkpoint as a user converts it."""
    target = tmp_path_factory.mktemp("weights") / "fashion.pdparams"
    source = shared_data / "checkpoints/dla46_c_fashion_mnist.pth.tar"
    options = ["--num-classes", "10", "--input-size", "32", "--crop-pct", "1", "--no-verify"]
    arguments = ["--model", "dla46_c", "--checkpoint", str(source), "--output", str(target), *options]
    assert timm2paddle.main(arguments) == 0
    return target


@pytest.fixture(scope="module")
def expected(shared_data):
    """Torch's prediction for image ``i`` of the original file, and whether it is right, for the first so many."""
    images, labels = read_test_set()

    @cache
    def predicted(count):
        classes = torch_predictions(shared_data / "checkpoints/dla46_c_fashion_mnist.pth.tar", images[:count])
        return classes, 100 * (classes == labels[:count]).mean()

    return predicted


def evaluated(ranks, folder, *arguments):
    """Results and one record a sample of the real command, in one process or several."""
    script = ROOT / "paddle_dla" / "evaluate.py"
    launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", ranks, "--log_dir", folder / "log"]
    outputs = ("--json", folder / "results.json", "--predictions", folder / "samples.jsonl")
    command_line = [sys.executable, *(launcher if ranks > 1 else ()), script, *arguments, *outputs]
    done = subprocess.run(
        [str(argument) for argument in command_line],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    return json.loads((folder / "results.json").read_text()), samples


def check_predictions(count, engine, source, ranks, data, weights, expected, folder):
    """The command finds what torch finds; returns the score."""
    arguments = ("--checkpoint", weights, "--data", data(count) / SOURCES[source], "--engine", engine)
    results, samples = evaluated(ranks, folder, *arguments, "--threads", 2 // ranks, "--workers", 1)
    classes, score = expected(count)
    assert results["images"] == count
    assert results["top1"] == pytest.approx(score, abs=1e-9)
    # in each form the sample's name ends with the image's place in the original file
    places = [int(re.search(r"(\d{5})(\.png)?$", sample["name"])[1]) for sample in samples]
    found = np.full(count, -1)
    found[places] = [sample["class1"] for sample in samples]
    np.testing.assert_array_equal(found, classes)
    return score


@pytest.mark.parametrize(("engine", "source", "ranks"), sorted(COVERING))
def test_every_way_predicts_what_torch_predicts(engine, source, ranks, data, weights, expected, tmp_path):
    check_predictions(1000, engine, source, ranks, data, weights, expected, tmp_path)


@pytest.mark.heavy
@pytest.mark.parametrize(("engine", "source", "ranks"), ALL)
def test_every_way_scores_what_torch_scores_on_all_images(engine, source, ranks, data, weights, expected, tmp_path):
    score = check_predictions(10_000, engine, source, ranks, data, weights, expected, tmp_path)
    assert score == pytest.approx(87.11, abs=1e-9)
