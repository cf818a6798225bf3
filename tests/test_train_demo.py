"""The whole way of a model: scripts/train_demo.py, on a few drawn images."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("yaml")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def demo():
    spec = importlib.util.spec_from_file_location("train_demo", ROOT / "scripts/train_demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten classes of the brightness of noise: eight images each to train on, two to test."""
    folder, draw = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    names = [f"{number}_class" for number in range(10)]
    for part, count in (("train", 8), ("val", 2)):
        for number, name in enumerate(names):
            (folder / part / name).mkdir(parents=True)
            for image in range(count):
                pixels = draw.integers(0, 20, (32, 32)) + 20 * number
                Image.fromarray(pixels.astype(np.uint8)).save(folder / part / name / f"{image}.png")
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names))
    return folder


@pytest.mark.heavy
def test_every_step_runs_and_the_killed_training_goes_on(demo, data, tmp_path, monkeypatch, capfd):
    pytest.importorskip("paddle2onnx")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(ROOT)
    out = tmp_path / "out"
    quick = ["data.batch_size=4", "data.workers=0", "train.recovery_interval=1", "transform.train.input_size=[3,32,32]"]
    quick.append("transform.eval.input_size=[3,32,32]")
    code = demo.main(["--checkpoint", "missing", "--out", str(out), "--data", str(data), "-o", *quick])
    told = capfd.readouterr().out
    assert code == 0
    assert "missing is not there: the network is trained FROM SCRATCH" in told
    assert "killed (signal 9) after " in told
    records = [json.loads(line) for line in (out / "run" / "rank0.jsonl").read_text().splitlines()]
    starts = [record for record in records if record["kind"] == "start"]
    assert len(starts) == 2 and starts[1]["resumed_at"] > 0
    assert {record["step"] for record in records if record["kind"] == "train"} == set(range(1, 21))
    assert (out / "run" / "curves.png").stat().st_size > 10_000
    assert all(f"{data}/val/{number}_class/0.png" in told for number in (0, 3, 6))


def test_results_from_before_are_never_mixed_with_new_ones(demo, data, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    assert demo.main(["--checkpoint", "missing", "--out", str(tmp_path), "--data", str(data)]) == 1
    assert "remove it to see the demonstration from the start" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("found", "wanted", "exactly", "right"),
    [(87.11, 87.11, True, True), (87.12, 87.11, True, False), (89.0, 89.0, False, True), (88.99, 89.0, False, False)],
)
def test_an_accuracy_that_was_missed_ends_the_demonstration(demo, found, wanted, exactly, right):
    if right:
        demo.refuse_score(found, wanted, exactly)
    else:
        with pytest.raises(demo.StepFailedError, match=f"top-1 is {found} %"):
            demo.refuse_score(found, wanted, exactly)


def test_a_step_that_fails_is_named(demo):
    with pytest.raises(demo.StepFailedError, match=r"failed: python missing\.py 'a b'"):
        demo.call("missing.py", "a b")


def test_training_that_ends_before_it_is_killed_is_a_failure(demo, tmp_path):
    with pytest.raises(demo.StepFailedError, match="ended with exit code 3 before"):
        demo.train_and_kill(["-c", "import sys; sys.exit(3)"], tmp_path / "records")


def test_a_half_written_record_is_left_for_later(demo, tmp_path):
    start, update = {"kind": "start", "total_steps": 4}, {"kind": "train", "step": 1}
    lines = [json.dumps(record) + "\n" for record in (start, update, update)]
    (tmp_path / "records").write_text("".join(lines)[:-3])
    assert demo.updates(tmp_path / "records") == (1, 4)
    assert not demo.half_done(tmp_path / "records")
    (tmp_path / "records").write_text("".join(lines))
    assert demo.half_done(tmp_path / "records")
    assert demo.updates(tmp_path / "missing") == (0, 0)
