"""Two sides recorded on machines that have one framework each, compared where there is neither."""

import json
import subprocess
import sys

import numpy as np
import pytest
from numpy_weights import timm_weights

from alignment import compare
from alignment.engine.store import Store
from alignment.engine.tape import Record, Tape
from alignment.engine.tape_file import TapeError, load_tape, save_tape
from convert.conversion import convert_source
from convert.readers import source_from_arrays
from paddle_dla import checkpoint

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
    checkpoint.save(folder / "right.pdparams", conversion.arrays, conversion.manifest)
    wrong = dict(conversion.arrays)
    wrong["level3.tree2.root.bn._mean"] = wrong["level3.tree2.root.bn._mean"] + np.float32(1e-4)
    checkpoint.save(folder / "wrong.pdparams", wrong, conversion.manifest)
    options = ["torch", "--model", MODEL, "--checkpoint", folder / "timm.safetensors", "--batch", 1]
    done = without(PADDLE, "record", *options, "--dump", folder / "A")
    assert done.returncode == 0, done.stderr
    for name in ("right", "wrong"):
        options = ["--model", MODEL, "--converted", folder / f"{name}.pdparams", "--inputs", folder / "A/inputs.npy"]
        done = without(TORCH, "record", "paddle", *options, "--dump", folder / name)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.torch
def test_a_correct_port_is_aligned_where_there_is_no_framework(records):
    done = without(TORCH + PADDLE, "compare", records / "A", records / "right", "--json", records / "report.json")
    assert done.returncode == 0, done.stderr
    assert "ALIGNED: 191 tensors" in done.stdout
    assert json.loads((records / "report.json").read_text())["compared"] == 191


@pytest.mark.torch
def test_a_wrong_port_is_caught_at_its_layer_where_there_is_no_framework(records):
    done = without(TORCH + PADDLE, "compare", records / "A", records / "wrong")
    assert done.returncode == 1
    assert "first at level3.tree2.root.bn:" in done.stdout.splitlines()[-1]


def test_a_tape_comes_back_as_it_was(tmp_path):
    tape = Tape({"a": "Layer", "b": "Layer"}, Store())
    arrays = [np.arange(6.0).reshape(2, 3), np.ones(4, np.float32)]
    refs = [tape.store.put(array) for array in arrays]
    tape.records = [
        Record("a", "Layer", 0, True, ("b", 0), (refs[0],), {}, refs[1]),
        Record("b", "Layer", 0, False, None),
    ]
    tape.param_grads = {"a.weight": refs[0]}
    save_tape(tape, tmp_path / "tape", {"model": "a"}, [0.5] * len(tape.store.refs))
    loaded, facts, errors = load_tape(tmp_path / "tape")
    assert {errors[ref.index] for record in loaded for ref in record.output_refs()} == {0.5}
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
