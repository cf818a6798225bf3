"""A port of a network trained on ImageNet, on 250 photographs: every command predicts what torch predicts.

torch's side is timm alone: its model with the weights of the package that ``scripts/imagenet_demo.py`` names, and its
own preprocessing. Paddle's side is what a user runs: ``convert/port.py``, then ``evaluate`` and ``export``.
"""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("paddle2onnx")

import torch

from alignment.engine.judging.error import compare
from alignment.engine.judging.limits import NoiseFloor
from alignment.engine.judging.noise import noise_of
from alignment.engine.records.store import Ref
from paddle_dla import evaluate, export
from paddle_dla.data.crop import EvalTransform
from paddle_dla.data.decoding import decode
from paddle_dla.data.normalise import Normalise
from paddle_dla.engines import open_engine
from paddle_dla.loading import load_model
from paddle_dla.storage.pdparams import write_pdparams
from paddle_dla.weight_files import read

ROOT = Path(__file__).parent.parent
WAYS = [
    ("paddle", "folder"),
    ("inference", "folder"),
    ("inference", "list"),
    ("onnxruntime", "list"),
    ("onnxruntime", "shards"),
    ("auto", "shards"),
]
"""Every engine, and every form of the images."""
EXPORTED = {"inference": "inference", "onnxruntime": "onnx"}
PHOTOGRAPHS, RIGHT, RIGHT_IN_FIVE = 250, 224, 246
BATCH = 50
pytestmark = [pytest.mark.heavy, pytest.mark.torch]


@dataclass(frozen=True)
class Photographs:
    """``labels`` are indices among ImageNet's 1,000 classes, (N,); ``names`` are without their suffix."""

    paths: list[Path]
    labels: np.ndarray

    @property
    def names(self):
        return [path.stem for path in self.paths]


@dataclass(frozen=True)
class Expected:
    """torch's logits of the photographs, (N, 1000), in float64 and in float32."""

    exact: np.ndarray
    rounded: np.ndarray

    @property
    def classes(self):
        return self.rounded.argmax(axis=1)

    def limit(self):
        """The largest relative error that alignment takes for rounding in float32: from torch's own."""
        floor = NoiseFloor("float32", {0: noise_of(self.exact, self.rounded)})
        return floor.allowed(Ref(0, self.exact.shape, self.exact.dtype.str))


@pytest.fixture(scope="module")
def photographs(shared_data):
    folder = shared_data / "imagenet_samples"
    if not folder.is_dir():
        pytest.skip(f"needs the photographs in {folder}")
    lines = [line.split() for line in (folder / "val_list.txt").read_text().splitlines()]
    found = Photographs([folder / name for name, _ in lines], np.array([int(label) for _, label in lines]))
    assert len(found.paths) == PHOTOGRAPHS
    return found


@pytest.fixture(scope="module")
def demo():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield __import__("imagenet_demo")
        for name in ("imagenet_demo", "photographs"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def made(demo, tmp_path_factory):
    """(the port, timm's checkpoint); the weights are kept where the demonstration keeps them."""
    out = tmp_path_factory.mktemp("imagenet")
    try:
        given = demo.fetched(ROOT / "out" / "imagenet")
    except demo.NoPackageError as error:
        pytest.skip(f"needs the weights of {demo.PACKAGE}: {error}")
    return demo.ported(out, given), out / f"{demo.MODEL}.safetensors"


@pytest.fixture(scope="module")
def expected(demo, made, photographs):
    """What timm's model says; neither the port nor its folder has a part in it."""
    from safetensors.torch import load_file

    from torch_ref.data import eval_batch
    from torch_ref.model import create_model, load_tensors

    module = load_tensors(create_model(demo.MODEL), load_file(made[1]))
    images = torch.from_numpy(eval_batch(module, photographs.paths))
    with torch.inference_mode():
        rounded = [module(batch).numpy() for batch in images.split(BATCH)]
        module.double()
        exact = [module(batch.double()).numpy() for batch in images.split(BATCH)]
    return Expected(np.concatenate(exact), np.concatenate(rounded))


@pytest.fixture(scope="module")
def data(photographs, tmp_path_factory):
    """The photographs in all three forms, as a user makes them."""
    out = tmp_path_factory.mktemp("data")
    for path in photographs.paths:
        (out / "val" / path.name.split("_")[0]).mkdir(parents=True)
        shutil.copy(path, out / "val" / path.name.split("_")[0])
    listed = photographs.paths[0].parent / "val_list.txt"
    words = [listed, out / "shards", "--samples-per-shard", "100"]
    subprocess.run([sys.executable, ROOT / "scripts" / "make_shards.py", *words], check=True, capture_output=True)
    return {"folder": out / "val", "list": listed, "shards": out / "shards"}


def evaluated(folder, *arguments):
    """(results, the predicted class by the name of each photograph) of the real command."""
    outputs = ["--json", folder / "results.json", "--predictions", folder / "samples.jsonl"]
    options = ["--batch-size", BATCH, "--workers", 0, "--threads", 1]
    assert evaluate.main([str(word) for word in [*arguments, *options, *outputs]]) == 0
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    # shards put the number of the sample in front of its name
    names = [re.fullmatch(r"(\d{8}_)?(.*?)(\.JPEG)?", Path(sample["name"]).name)[2] for sample in samples]
    classes = dict(zip(names, (sample["class1"] for sample in samples)))
    return json.loads((folder / "results.json").read_text()), classes


def check(found, photographs, expected):
    """Every prediction is torch's, and the scores are those that torch reaches."""
    results, classes = found
    assert classes == dict(zip(photographs.names, expected.classes.tolist(), strict=True))
    assert results["images"] == PHOTOGRAPHS
    assert results["top1"] == pytest.approx(100 * RIGHT / PHOTOGRAPHS, abs=1e-9)
    assert results["top5"] == pytest.approx(100 * RIGHT_IN_FIVE / PHOTOGRAPHS, abs=1e-9)


def test_torch_itself_scores_what_is_known(photographs, expected):
    places = (expected.rounded > expected.rounded[np.arange(PHOTOGRAPHS), photographs.labels][:, None]).sum(axis=1)
    assert ((places < 1).sum(), (places < 5).sum()) == (RIGHT, RIGHT_IN_FIVE)


@pytest.mark.parametrize(("engine", "source"), WAYS)
def test_every_engine_predicts_what_torch_predicts(engine, source, made, data, photographs, expected, tmp_path):
    found = evaluated(tmp_path, "--model", made[0], "--data", data[source], "--engine", engine)
    check(found, photographs, expected)


def logits(port, photographs, engine, interpolation="bicubic"):
    """(N, 1000) float32."""
    model = load_model(str(port), None)
    spec = replace(model.preprocessing, interpolation=interpolation)
    transform, normalise = EvalTransform(spec), Normalise(spec)
    images = normalise(np.stack([transform(decode(path.read_bytes())) for path in photographs.paths]))
    runs = open_engine(engine, model.layer, threads=1, input_size=spec.input_size)
    return np.concatenate([runs.run(images[start : start + BATCH]) for start in range(0, len(images), BATCH)])


@pytest.mark.parametrize("engine", ("paddle", *EXPORTED))
def test_logits_are_torchs_but_for_rounding(engine, made, photographs, expected):
    error, limit = compare(expected.exact, logits(made[0], photographs, engine)).relative, expected.limit()
    print(f"{engine}: error {error:.1e}, limit {limit:.1e}")
    assert error <= limit


def test_another_filter_is_no_rounding(made, photographs, expected):
    found = logits(made[0], photographs, "onnxruntime", interpolation="bilinear")
    assert compare(expected.exact, found).relative > expected.limit()


@pytest.fixture(scope="module")
def float_export(made, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "float"
    formats = [word for kind in EXPORTED.values() for word in ("--format", kind)]
    words = ["--model", made[0], *formats, "--check", data["list"], "--output", folder]
    assert export.main([str(word) for word in words]) == 0
    return folder


@pytest.mark.parametrize("engine", EXPORTED)
def test_exports_predict_what_torch_predicts(engine, float_export, data, photographs, expected, tmp_path):
    found = evaluated(tmp_path, "--export", float_export, "--data", data["folder"], "--engine", engine)
    check(found, photographs, expected)


def test_int8_is_measured_on_photographs_that_it_was_not_calibrated_on(made, photographs, expected, tmp_path):
    halves = {"calibration": slice(0, None, 2), "check": slice(1, None, 2)}
    for name, half in halves.items():
        pairs = zip(photographs.paths[half], photographs.labels[half])
        (tmp_path / f"{name}.txt").write_text("".join(f"{path} {label}\n" for path, label in pairs))
    folder, held_out = tmp_path / "int8", tmp_path / "check.txt"
    words = ["--model", made[0], "--int8", "--calibration", tmp_path / "calibration.txt", "--check", held_out]
    assert export.main([str(word) for word in [*words, "--output", folder]]) == 0
    measured = json.loads((folder / "preprocessing.json").read_text())["check"]["int8"]
    labels, classes = photographs.labels[halves["check"]], expected.classes[halves["check"]]
    assert (measured["images"], measured["labelled"]) == (len(labels), len(labels))
    assert measured["top1_float32"] == pytest.approx(100 * (classes == labels).mean(), abs=1e-9)

    results, found = evaluated(tmp_path, "--export", folder, "--data", held_out)
    by_int8 = np.array([found[name] for name in photographs.names[halves["check"]]])
    assert results["top1"] == pytest.approx(measured["top1_int8"], abs=1e-9)
    assert measured["same_top1"] == pytest.approx(100 * (by_int8 == classes).mean(), abs=1e-9)


def test_two_rows_of_the_classifier_that_changed_places_are_seen(made, data, photographs, expected, tmp_path):
    arrays, (one, other) = read(made[0] / "weights.pdparams")[0], np.unique(expected.classes)[:2]
    order = np.arange(1000)
    order[[one, other]] = other, one
    changed = {name: arrays[name][..., order] for name in ("classifier.weight", "classifier.bias")}
    write_pdparams(tmp_path / "changed.pdparams", arrays | changed)
    words = ["--model", made[0], "--checkpoint", tmp_path / "changed.pdparams", "--data", data["folder"]]
    with pytest.raises(AssertionError):
        check(evaluated(tmp_path, *words, "--engine", "onnxruntime"), photographs, expected)
