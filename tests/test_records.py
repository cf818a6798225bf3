"""Two sides recorded on machines that have one framework each, compared where there is neither."""

import errno
import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from numpy_weights import timm_weights

from alignment import compare, compare_records
from alignment.engine.judging.limits import NoiseFloor, credible
from alignment.engine.judging.noise import Noise, gradients_of
from alignment.engine.records.files import Measured, TapeError, load_tape, save_tape
from alignment.engine.records.store import Ref, Store, StoreError
from alignment.engine.records.tape import Record, Tape
from convert.conversion import convert_source
from convert.readers import source_from_arrays
from paddle_dla import weight_files
from paddle_dla.storage.json_text import json_sha256

MODEL = "dla46x_c"
TORCH, PADDLE = ("torch", "timm", "torchvision"), ("paddle",)


def without(frameworks, script, *arguments):
    """Run a script's ``main`` in a process in which ``frameworks`` cannot be imported."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({frameworks!r}))\n"
        f"from alignment.{script} import main\nsys.exit(main(sys.argv[1:]))"
    )
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Folders of both sides; the port's has one wrong value."""
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("records")
    save_file(timm_weights(MODEL), folder / "timm.safetensors")
    conversion = convert_source(source_from_arrays(timm_weights(MODEL)), MODEL)
    weight_files.save(folder / "right.pdparams", conversion.arrays, conversion.manifest)
    wrong = dict(conversion.arrays)
    wrong["level3.tree2.root.bn._mean"] = wrong["level3.tree2.root.bn._mean"] + np.float32(1e-4)
    weight_files.save(folder / "wrong.pdparams", wrong, conversion.manifest)
    options = ["torch", "--model", MODEL, "--checkpoint", folder / "timm.safetensors", "--batch-size", 1]
    done = without(PADDLE, "record", *options, "--output", folder / "A")
    assert done.returncode == 0, done.stderr
    for name in ("right", "wrong"):
        options = ["--model", MODEL, "--converted", folder / f"{name}.pdparams", "--inputs", folder / "A/inputs.npy"]
        done = without(TORCH, "record", "paddle", *options, "--output", folder / name)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.torch
def test_a_correct_port_is_aligned_where_there_is_no_framework(records):
    done = without(TORCH + PADDLE, "compare", records / "A", records / "right", "--json", records / "report.json")
    assert done.returncode == 0, done.stderr
    rows = json.loads((records / "report.json").read_text())["rows"]
    directions = Counter(row["direction"] for row in rows)
    assert directions == {"forward": 191, "gradient": 183, "parameter gradient": 146}
    assert "\nALIGNED: 520 tensors" in done.stdout


@pytest.mark.torch
def test_a_wrong_port_is_caught_at_its_layer_where_there_is_no_framework(records):
    done = without(TORCH + PADDLE, "compare", records / "A", records / "wrong")
    assert done.returncode == 1
    assert "first level3.tree2.root.bn:" in done.stdout.splitlines()[-1]


def any_pair(scale=1.0):
    """Two small models of one's own with the same names and weights; the gradient of Paddle's is scaled."""
    import paddle
    import torch

    torch.manual_seed(0)
    reference = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 2)
    )
    port = paddle.nn.Sequential(
        paddle.nn.Conv2D(3, 4, 3), paddle.nn.ReLU(), paddle.nn.Flatten(), paddle.nn.Linear(64, 2)
    )
    for name, value in reference.state_dict().items():
        port.state_dict()[name].set_value(value.numpy().T if name == "3.weight" else value.numpy())
    relu = port[1].forward
    port[1].forward = lambda x: relu(x) * scale + (relu(x) * (1 - scale)).detach()
    return reference, port


@pytest.mark.torch
@pytest.mark.parametrize(("scale", "passed"), [(1.0, True), (2.0, False)])
def test_any_model_is_recorded_with_its_gradients(tmp_path, scale, passed):
    from alignment import record_paddle, record_torch

    reference, port = any_pair(scale)
    inputs = np.random.RandomState(0).standard_normal((2, 3, 6, 6))
    record_torch(reference, inputs, tmp_path / "A", max_memory=0)
    record_paddle(port, inputs, tmp_path / "B", max_memory=0)
    result = compare_records(tmp_path / "A", tmp_path / "B")
    assert result.passed == passed
    assert (result.first_divergence, result.first_difference and result.first_difference.direction) == (
        (None, None) if passed else ("0", "gradient")
    )


def test_a_full_disk_is_no_fault_of_the_model(tmp_path, monkeypatch):
    import paddle

    from alignment import record_paddle

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreError, match="No space left"):
        record_paddle(paddle.nn.Linear(2, 2), np.zeros((1, 2)), tmp_path / "A", max_memory=0)
    assert not (tmp_path / "A").exists()


@pytest.mark.torch
def test_records_of_different_modes_do_not_belong_together(tmp_path):
    from alignment import record_paddle, record_torch

    reference, port = any_pair()
    inputs = np.random.RandomState(0).standard_normal((2, 3, 6, 6))
    record_torch(reference, inputs, tmp_path / "A", mode="train")
    record_paddle(port, inputs, tmp_path / "B")
    with pytest.raises(TapeError, match="mode train in torch, eval in Paddle"):
        compare_records(tmp_path / "A", tmp_path / "B")
    with pytest.raises(TapeError, match="no noise floor; is it the second one"):
        compare_records(tmp_path / "B", tmp_path / "A")


def recorded(folder, value=1.0, gradients=True, floor=True, gradient=1.0):
    """A record of one layer in ``folder``: of the torch side with a ``floor``."""
    tape = Tape({"a": "Layer"}, Store())
    refs = [tape.store.put(np.full(4, value)), tape.store.put(np.full(4, gradient))]
    tape.records = [Record("a", "Layer", 0, True, None, (), {}, refs[0])]
    tape.param_grads = {"a.weight": refs[1]} if gradients else {}
    measured = Measured({ref.index: 1e-7 for ref in refs}) if floor else None
    save_tape(tape, folder, {"model": "a", "mode": "eval"}, measured)
    return str(folder)


def test_a_record_of_the_torch_side_is_not_compared_with_itself(tmp_path, capsys):
    recorded(tmp_path / "A")
    assert compare.main([str(tmp_path / "A"), str(tmp_path / "A")]) == 1
    assert "is a record of the torch side, too" in capsys.readouterr().err


@pytest.mark.parametrize("side", ["torch", "Paddle"])
def test_gradients_of_one_side_alone_are_no_success(side, tmp_path):
    recorded(tmp_path / "A", gradients=side == "torch")
    recorded(tmp_path / "B", gradients=side == "Paddle", floor=False)
    with pytest.raises(TapeError, match=f"{side} has gradients"):
        compare_records(tmp_path / "A", tmp_path / "B")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_reference_that_is_no_number_judges_nothing(value, tmp_path):
    recorded(tmp_path / "A", value)
    recorded(tmp_path / "B", value, floor=False)
    with pytest.raises(TapeError, match="judges nothing"):
        compare_records(tmp_path / "A", tmp_path / "B")


@pytest.mark.parametrize("error", [0.125, 1.9, 2.1, 1e3, 1e9, 1e300])
@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("place", ["value", "gradient"])
def test_no_noise_floor_makes_two_of_one(tmp_path, error, sealed, place, capsys):
    """Whether the record was edited by hand, or by somebody who knows its sum."""
    folders = [recorded(tmp_path / "A"), recorded(tmp_path / "B", 2.0, floor=False)]
    if place == "gradient":
        folders = [recorded(tmp_path / "A"), recorded(tmp_path / "B", gradient=2.0, floor=False)]
    index = tmp_path / "A" / "tape.json"
    content = json.loads(index.read_text())
    for what in ("float32_errors", "float32_leaks"):
        content[what] = dict.fromkeys(content[what], error)
    if sealed:
        del content["sha256"]
        content["sha256"] = json_sha256(content)
    index.write_text(json.dumps(content))
    assert compare.main(folders) == 1
    assert sealed or "edited or damaged" in capsys.readouterr().err


def test_an_edited_floor_is_refused_where_the_sides_agree_too(tmp_path):
    folders = [recorded(tmp_path / "A"), recorded(tmp_path / "B", floor=False)]
    index = tmp_path / "A" / "tape.json"
    index.write_text(index.read_text().replace("1e-07", "2e-07"))
    with pytest.raises(TapeError, match="edited or damaged"):
        compare_records(*folders)


def test_a_tensor_that_float32_left_unmeasured_is_not_judged_as_one_that_vanishes():
    """The error of a sum that cancels says how little is left of it, and nothing of any other tensor."""
    floor = NoiseFloor("float64", {0: Noise(np.inf, 1.0), 1: Noise(1e-7, 1e-16), 2: Noise(1e-6, 1.0)})
    assert not floor.vanishes(Ref(0, (4,), "<f8"))
    assert floor.allowed(Ref(0, (4,), "<f8")) == floor.allowed(Ref(2, (4,), "<f8")) < 1e-10


@pytest.mark.torch
def test_what_cancels_in_a_real_network_is_credible(tmp_path):
    """A bias in front of a BatchNorm has a gradient of zero, of which float32 leaves nothing but rounding."""
    import torch

    from alignment import record_torch

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
    record_torch(module, np.random.RandomState(0).standard_normal((4, 3, 16, 16)), tmp_path, mode="train")
    tape, _, measured = load_tape(tmp_path)
    refs = {ref.index: np.abs(tape.get(ref)).max() for ref in gradients_of(tape)}
    noise = {index: Noise(measured.errors[index], scale) for index, scale in refs.items()}
    assert max(found.relative for found in noise.values()) > 1e3
    assert credible(tape, noise) == noise


def test_records_that_belong_together_are_compared(tmp_path):
    assert compare.main([recorded(tmp_path / "A"), recorded(tmp_path / "B", floor=False)]) == 0


def test_a_tape_comes_back_as_it_was(tmp_path):
    tape = Tape({"a": "Layer", "b": "Layer"}, Store())
    arrays = [np.arange(6.0).reshape(2, 3), np.ones(4, np.float32)]
    refs = [tape.store.put(array) for array in arrays]
    tape.records = [
        Record("a", "Layer", 0, True, ("b", 0), (refs[0],), {}, refs[1]),
        Record("b", "Layer", 0, False, None),
    ]
    tape.param_grads = {"a.weight": refs[0]}
    save_tape(tape, tmp_path / "tape", {"model": "a"}, Measured({ref.index: 0.5 for ref in tape.store.refs}))
    loaded, facts, measured = load_tape(tmp_path / "tape")
    assert {measured.errors[ref.index] for record in loaded for ref in record.output_refs()} == {0.5}
    assert facts == {"model": "a"}
    assert loaded.layers == tape.layers
    assert [(r.key, r.kind, r.leaf, r.parent) for r in loaded] == [(r.key, r.kind, r.leaf, r.parent) for r in tape]
    np.testing.assert_array_equal(loaded.outputs(loaded.records[0])[0], arrays[1])
    np.testing.assert_array_equal(loaded.get(loaded.param_grads["a.weight"]), arrays[0])


def test_a_folder_without_a_tape_is_refused(tmp_path, capsys):
    assert compare.main([str(tmp_path), str(tmp_path)]) == 1
    assert "holds no tape" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["tape.json", "tensors.safetensors"])
def test_a_damaged_tape_is_refused(tmp_path, file):
    save_tape(Tape({}, Store()), tmp_path, {})
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(TapeError, match="damaged tape"):
        load_tape(tmp_path)
