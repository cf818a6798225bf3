"""An export: complete or absent, proved before it is there, verified when it is opened, and able to stand alone."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from exports import BOTH, ENGINE_NAMES, FORMATS, MODEL, NAMES, SPEC, needs_onnx, photograph, rewrite, wanted
from small_models import CLASSES, noise, small_model

from paddle_dla import export as command
from paddle_dla.engines import EngineError, base, open_engine
from paddle_dla.exporting import exporter
from paddle_dla.exporting.errors import ExportError
from paddle_dla.exporting.exporter import Wanted, export_model
from paddle_dla.exporting.folder import RECORD, export_folder, read_record
from paddle_dla.exporting.opening import load_export
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.manifest import describe
from paddle_dla.weight_files import save

ENGINES = {"inference": "inference", "onnx": "onnxruntime"}


# what is in it


@pytest.mark.parametrize("engine", [None, *ENGINE_NAMES])
def test_an_export_opens_with_what_evaluation_needs(exported, engine):
    model, folder = exported
    export = load_export(folder, engine)
    assert export.preprocessing == SPEC
    assert list(export.class_names) == NAMES
    assert export.engine.num_classes == CLASSES
    np.testing.assert_array_equal(
        export.engine.run(noise()).argmax(1), open_engine("paddle", model).run(noise()).argmax(1)
    )


@needs_onnx
def test_the_fastest_engine_that_is_there_opens_it(exported):
    assert load_export(exported[1]).engine.name == "onnxruntime"


def test_the_record_tells_where_the_export_came_from(exported):
    record = read_record(exported[1])
    assert (record.model, record.precision, record.formats) == (MODEL, "float32", FORMATS)
    assert record.weights == {"source": None, "sha256": exporter.state_sha256(exported[0])}
    assert {"paddle_dla", "python", "numpy"} <= record.versions.keys()
    assert all(item["error"] <= item["limit"] for item in record.check.values()) and record.check


def test_every_file_is_in_the_record(exported):
    assert sorted(read_record(exported[1]).files) == sorted(set(os.listdir(exported[1])) - {RECORD})


@needs_onnx
def test_the_onnx_file_is_valid_standard_and_takes_any_batch(exported):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported[1] / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [entry.domain for entry in model.opset_import] == [""]
    (source,), (result,) = model.graph.input, model.graph.output
    assert (source.name, result.name) == ("images", "logits")
    assert {value.type.tensor_type.shape.dim[0].dim_param for value in (source, result)} == {"batch"}


@needs_onnx
def test_the_onnx_file_has_one_node_for_a_convolution_with_its_norm(exported):
    onnx = pytest.importorskip("onnx")
    kinds = [node.op_type for node in onnx.load(exported[1] / "model.onnx").graph.node]
    assert kinds.count("Conv") == 49  # 48 with BN, and the classifier
    assert not {"BatchNormalization", "Identity", "Constant"} & set(kinds)


# what is refused, and what is left behind


@pytest.mark.parametrize("name", ["model.pdiparams", pytest.param("model.onnx", marks=needs_onnx), "run.py"])
def test_a_damaged_file_is_refused(exported_copy, name):
    content = bytearray((exported_copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (exported_copy / name).write_bytes(content)
    with pytest.raises(ExportError, match=f"{name} is not what was exported: sha256"):
        load_export(exported_copy)


@pytest.mark.parametrize("name", ["model.pdiparams", "run.py"])
def test_a_missing_file_is_refused(exported_copy, name):
    (exported_copy / name).unlink()
    with pytest.raises(ExportError, match=f"cannot read .*{name}"):
        load_export(exported_copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "has format 2; this version reads 1"),
        ({"preprocessing": {"input_size": [3, 32, 32]}}, "is damaged: preprocessing.crop_pct is missing"),
        ({"num_classes": "many"}, "is damaged"),
        ({"files": {"../../secret": {"bytes": 1, "sha256": "0" * 64}}}, "is no file of the folder"),
        ({"formats": []}, "has no network for None"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(exported_copy, changes, message):
    rewrite(exported_copy, **changes)
    with pytest.raises(ExportError, match=message):
        load_export(exported_copy)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_a_record_that_is_none_is_refused(exported_copy, content):
    (exported_copy / RECORD).write_bytes(content)
    with pytest.raises(ExportError, match=RECORD):
        load_export(exported_copy)


def test_other_folders_and_no_folder_are_refused(tmp_path):
    with pytest.raises(ExportError, match="is no export: it has no preprocessing"):
        load_export(tmp_path)
    with pytest.raises(ExportError, match="is no folder"):
        load_export(tmp_path / "absent")


def test_an_engine_whose_format_was_not_exported_is_refused(tmp_path):
    export_model(small_model(MODEL), tmp_path / "out", wanted("inference"))
    with pytest.raises(
        ExportError, match="has no network for onnxruntime, it holds: inference; export with --format onnx"
    ):
        load_export(tmp_path / "out", "onnxruntime")


def test_what_exists_is_not_replaced_unless_asked(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    for overwrite, message in ((False, "exists; choose another folder"), (True, "is not an export, so it is not")):
        with pytest.raises(ExportError, match=message):
            export_model(small_model(MODEL), tmp_path / "out", wanted(), overwrite=overwrite)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("name", ["weights.pdparams", ".notes", "model.dir/"])
def test_an_export_that_holds_something_else_is_not_replaced(name, exported_copy):
    """The weights that are being exported, for one."""
    path = exported_copy / name
    path.mkdir() if name.endswith("/") else path.write_text("mine")
    with pytest.raises(ExportError, match="holds more than an export"):
        export_model(small_model(MODEL, seed=1), exported_copy, wanted("inference"), overwrite=True)
    assert path.exists()


def test_an_export_is_replaced_when_asked(exported_copy):
    export_model(small_model(MODEL, seed=1), exported_copy, wanted("inference"), overwrite=True)
    assert read_record(exported_copy).formats == ("inference",)
    assert os.listdir(exported_copy.parent) == ["copied"]


@pytest.mark.parametrize("target", ["absent/out", "file/out"])
def test_a_folder_that_cannot_be_made_is_refused_before_any_work(tmp_path, target, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(exporter, "frozen", lambda layer: pytest.fail("worked"))
    with pytest.raises(
        CheckpointError, match=r"cannot write .*; (create the folder first|a part of the path is a file)"
    ):
        export_model(small_model(MODEL), tmp_path / target, wanted())


def test_a_folder_in_which_one_may_not_write_is_refused_before_any_work(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(CheckpointError, match="Permission denied; choose a folder in which you may write"):
        export_model(small_model(MODEL), tmp_path / "out", wanted())


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt])
def test_a_writer_that_fails_leaves_what_was_there(exported_copy, fault):
    before = {path.name: path.read_bytes() for path in exported_copy.iterdir()}
    with pytest.raises(fault), export_folder(exported_copy, overwrite=True) as part:
        (part / "half").write_bytes(b"half")
        raise fault
    assert {path.name: path.read_bytes() for path in exported_copy.iterdir()} == before
    assert os.listdir(exported_copy.parent) == ["copied"]


def test_what_killed_writers_left_is_put_right(exported_copy):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    half = exported_copy.with_name(f".copied.{dead.pid}.part")
    half.mkdir()
    # stopped between its two renames: the old export is set aside, the new one not in place
    exported_copy.rename(exported_copy.with_name(f".copied.{dead.pid}.old"))
    with pytest.raises(ExportError, match="copied exists"), export_folder(exported_copy):
        pass
    assert os.listdir(exported_copy.parent) == ["copied"]
    assert read_record(exported_copy).model == MODEL


def test_the_folder_of_a_writer_that_still_runs_is_left(tmp_path):
    (tmp_path / f".out.{os.getppid()}.part").mkdir()
    with export_folder(tmp_path / "out") as part:
        (part / "file").touch()
    assert sorted(os.listdir(tmp_path)) == [f".out.{os.getppid()}.part", "out"]


LIMITED = """
import resource, signal
from small_models import small_model
from exports import wanted
from paddle_dla.exporting.exporter import export_model
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
model = small_model("dla46x_c")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
export_model(model, {target!r}, wanted({form!r}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", BOTH)
def test_a_disk_that_is_full_leaves_nothing(tmp_path, form):
    root = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", LIMITED.format(target=str(tmp_path / "out"), form=form)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": f"{root}:{root.parent}"},
    )  # fmt: skip
    assert done.returncode != 0
    assert "was not written to its end; is the disk full?" in done.stderr
    assert not (tmp_path / "out").exists()


def halve_a_weight(layer, prefix, form, input_size, write=exporter.write_model):
    layer.level3.tree1.tree1.conv1.weight.set_value(layer.level3.tree1.tree1.conv1.weight * 0.5)
    write(layer, prefix, form, input_size)
    layer.level3.tree1.tree1.conv1.weight.set_value(layer.level3.tree1.tree1.conv1.weight * 2)


def forget_an_epsilon(layer, prefix, form, input_size, write=exporter.write_model):
    norm = layer.base_layer[1]
    known, norm._epsilon = norm._epsilon, 1e-3
    write(layer, prefix, form, input_size)
    norm._epsilon = known


@pytest.mark.parametrize("fault", [halve_a_weight, forget_an_epsilon])
@pytest.mark.parametrize("form", BOTH)
def test_an_export_that_computes_something_else_is_not_put_in_place(tmp_path, monkeypatch, fault, form):
    monkeypatch.setattr(exporter, "write_model", fault)
    with pytest.raises(ExportError, match=f"does not compute what the network does.*{ENGINES[form]}: 8 images"):
        export_model(small_model(MODEL), tmp_path / "out", wanted(form))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": ()}, "formats are of inference, onnx"),
        ({"formats": ("tflite",)}, r"not \['tflite'\]"),
        ({"class_names": ["one"]}, "1 class names for 10 classes"),
        ({"preprocessing": Preprocessing((1, 32, 32), mean=(0.5,), std=(0.5,))}, "takes 3 channels, images have 1"),
        ({"preprocessing": Preprocessing((3, 40, 40))}, "multiples of 32, not 40x40"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export_model(small_model(MODEL), tmp_path / "out", Wanted(**{"model": MODEL, "preprocessing": SPEC, **options}))


def test_a_missing_package_is_told_before_any_work(tmp_path, monkeypatch):
    there = base.find_spec
    monkeypatch.setattr(base, "find_spec", lambda name: None if name == "paddle2onnx" else there(name))
    with pytest.raises(EngineError, match=r'paddle2onnx is not installed: pip install "paddle-dla\[onnx\]"'):
        export_model(small_model(MODEL), tmp_path / "out", wanted("onnx"))
    assert os.listdir(tmp_path) == []


# the command


@pytest.fixture
def checkpoint(tmp_path):
    arrays = {name: tensor.numpy() for name, tensor in small_model(MODEL).state_dict().items()}
    manifest = {
        "format": 1, "model": MODEL, "num_classes": CLASSES, "preprocessing": SPEC.as_dict(),
        "tensors": {name: describe(array) for name, array in arrays.items()},
    }  # fmt: skip
    save(tmp_path / "small.pdparams", arrays, manifest)
    return tmp_path / "small.pdparams"


def call(checkpoint, *arguments):
    return command.main(
        ["--model", MODEL, "--checkpoint", str(checkpoint), "--output", str(checkpoint.parent / "out"), *arguments]
    )


def test_the_command_takes_classes_and_preprocessing_from_the_manifest(checkpoint, capsys):
    assert call(checkpoint) == 0
    export = load_export(checkpoint.parent / "out")
    assert export.preprocessing == SPEC and export.engine.num_classes == CLASSES
    assert export.record.weights["source"] == "small.pdparams"
    assert "rounding alone explains" in capsys.readouterr().out


def test_the_command_checks_on_the_users_images(checkpoint, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    for seed in range(6):
        photograph(tmp_path / "images" / f"{seed}.jpg", seed=seed)
    assert call(checkpoint, "--check", str(tmp_path / "images"), "--classes", str(names_file(tmp_path))) == 0
    assert "6 images" in capsys.readouterr().out
    assert list(load_export(tmp_path / "out").class_names) == NAMES


def names_file(folder):
    (folder / "names.txt").write_text("\n".join(NAMES) + "\n")
    return folder / "names.txt"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--check", "absent"], "absent: is not there"),
        (["--classes", "absent"], "cannot read the class names in absent"),
        (["--classes", "{other}"], "names 3 classes, the model has 10"),
        (["--num-classes", "3"], "has 10 classes, not 3"),
        (["--input-size", "40"], "multiples of 32, not 40x40"),
        (["--checkpoint", "absent.pdparams"], "absent.pdparams"),
        (["--model", "dla47"], "dla47"),
        (["--model", "dla34"], f"holds {MODEL}, not dla34"),
    ],
)
def test_what_the_command_cannot_do_it_says_and_leaves_nothing(checkpoint, tmp_path, capsys, arguments, message):
    (tmp_path / "other.txt").write_text("a\nb\nc\n")
    assert call(checkpoint, *[argument.format(other=tmp_path / "other.txt") for argument in arguments]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments", [["--int8"], ["--calibration", "x"], ["--int8", "--calibration", "x", "--format", "inference"]]
)
def test_options_that_do_not_go_together_are_a_mistake_of_usage(checkpoint, arguments):
    with pytest.raises(SystemExit) as stopped:
        call(checkpoint, *arguments)
    assert stopped.value.code == 2


@needs_onnx
def test_a_value_of_padding_that_was_never_set_is_zero_in_onnx():
    import onnx

    from paddle_dla.exporting.to_onnx import _padded_with_zeros

    # paddle2onnx 2.1 writes whatever was in memory, such as this
    garbage = onnx.numpy_helper.from_array(np.array(1.8e19, np.float32), "value")
    pads = onnx.numpy_helper.from_array(np.array([0, 0, 1, 1]), "pads")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", "y")]
    node = onnx.helper.make_node("Pad", ["x", "pads", "value"], ["y"])
    graph = onnx.helper.make_graph([node], "padded", ends[:1], ends[1:], [garbage, pads])
    changed = onnx.load_from_string(_padded_with_zeros(onnx.helper.make_model(graph).SerializeToString())).graph
    values = {one.name: onnx.numpy_helper.to_array(one) for one in changed.initializer}
    assert values[changed.node[0].input[2]] == 0
