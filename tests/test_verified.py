"""What is called verified is: a record that accounts for nothing, or for something else, is refused."""

import hashlib
import json

import pytest
from exports import rewrite
from small_models import save_small
from small_runs import make_images, small_config
from test_runner import run_alone

from paddle_dla import info, predict, weight_files
from paddle_dla.exporting.errors import ExportError
from paddle_dla.exporting.folder import RECORD, read_record
from paddle_dla.ranks import Ranks
from paddle_dla.storage.json_text import to_json
from paddle_dla.storage.manifest import manifest_path
from paddle_dla.training.checkpoints import STATE, newest
from paddle_dla.training.start import train
from paddle_dla.training.stopping import StopRequest
from paddle_dla.weight_files import CheckpointError

# --- exports ---------------------------------------------------------------------------------------------------------


def without(*names):
    """A record that lists all files but these."""

    def change(record):
        listed = record["files"]
        return {"files": {name: entry for name, entry in listed.items() if name not in names and "*" not in names}}

    return change


RECORDS = {
    "no files": without("*"),
    "no weights": without("model.pdiparams", "model.onnx"),
    "no program": without("model.json", "model.pdmodel", "model.onnx"),
}


@pytest.mark.parametrize("change", RECORDS.values(), ids=RECORDS)
def test_an_export_whose_record_lists_no_checksum_of_its_network_is_refused(change, exported_copy, tmp_path, capsys):
    rewrite(exported_copy, **change(json.loads((exported_copy / RECORD).read_text())))
    with pytest.raises(ExportError, match="model"):
        read_record(exported_copy)
    assert info.main([str(exported_copy)]) == 1
    assert predict.main(["--export", str(exported_copy), "--engine", "inference", str(tmp_path)]) == 1
    done = run_alone(exported_copy, tmp_path / "x.png")
    assert done.returncode == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize("formats", [["onnx", "tflite"], [["onnx"]], "onnx", [None], 7])
def test_an_export_of_a_format_that_nobody_knows_is_refused(formats, exported_copy):
    rewrite(exported_copy, formats=formats)
    with pytest.raises(ExportError):
        read_record(exported_copy)


@pytest.mark.parametrize("names", [["one"], [], "0123456789", 10, {"a": 1}])
def test_an_export_with_names_of_another_number_of_classes_is_refused(names, exported_copy, tmp_path):
    rewrite(exported_copy, class_names=names)
    with pytest.raises(ExportError, match="class_names"):
        read_record(exported_copy)
    done = run_alone(exported_copy, tmp_path / "x.png")
    assert done.returncode == 1 and "10 texts" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("place", [0, 1000, -1])
def test_the_runner_refuses_files_that_were_damaged(place, exported_copy, tmp_path):
    weights = exported_copy / "model.pdiparams"
    data = bytearray(weights.read_bytes())
    data[place] ^= 64
    weights.write_bytes(data)
    done = run_alone(exported_copy, tmp_path / "x.png")
    assert done.returncode == 1 and "model.pdiparams" in done.stderr and "Traceback" not in done.stderr


# --- manifests -------------------------------------------------------------------------------------------------------


def no_tensors(record):
    record["tensors"] = {}


def fewer_tensors(record):
    record["tensors"].popitem()


def another_tensor(record):
    record["tensors"]["more"] = record["tensors"]["fc.bias"]


def another_shape(record):
    record["tensors"]["fc.bias"]["shape"] = [11]


def tensors_that_are_none(record):
    record["tensors"] = dict.fromkeys(record["tensors"], 1)


def no_file(record):
    record["file"] = {}


CHANGES = [no_tensors, fewer_tensors, another_tensor, another_shape, tensors_that_are_none, no_file]


@pytest.mark.parametrize("suffix", [".pdparams", ".safetensors"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_manifest_that_does_not_account_for_its_file_is_refused(change, suffix, tmp_path, capsys):
    path = save_small(tmp_path / f"small{suffix}")
    record = json.loads(manifest_path(path).read_text())
    change(record)
    manifest_path(path).write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="manifest"):
        weight_files.read(path)
    assert info.main([path]) == 1
    assert "verified" not in capsys.readouterr().out


# --- checkpoints of a training ---------------------------------------------------------------------------------------


def quietly(config):
    return train(config, Ranks(), StopRequest(), lambda line: None)


def test_a_state_that_lists_no_checksums_is_passed_over(tmp_path):
    config = small_config(
        make_images(tmp_path), tmp_path / "run", "train.epochs=1", "schedule.warmup_epochs=0", "data.workers=0"
    )
    folder = quietly(config).folder
    found, _ = newest(folder)
    stored = json.loads((found.path / STATE).read_text())["content"] | {"files": {}}
    sum_of_it = hashlib.sha256(to_json(stored, sort_keys=True).encode()).hexdigest()
    (found.path / STATE).write_text(to_json({"sha256": sum_of_it, "content": stored}))
    after, faults = newest(folder)
    assert after is None or after.path != found.path
    assert any(STATE in fault for fault in faults)
