"""A record in JSON that holds anything but what it should ends in the error of its room, whatever the key and value."""

import json
import shutil
import subprocess
import sys
from contextlib import suppress
from typing import Annotated, Any, TypedDict

import numpy as np
import pytest
from small_runs import make_images, small_config

from alignment.engine.records.files import Measured, TapeError, load_tape, save_tape
from alignment.engine.records.store import Store
from alignment.engine.records.tape import Record, Slot, Tape
from alignment.record import read_inputs
from convert.conversion import ConversionError
from convert.paddle2timm import convert_back
from paddle_dla import weight_files
from paddle_dla.config import ConfigError
from paddle_dla.data.errors import DataError
from paddle_dla.data.labels import read_real_labels
from paddle_dla.exporting.folder import RECORD, read_record
from paddle_dla.models.variants import resolve_name
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.json_record import DEEPEST, Count, RecordError, Within, check_record, parse_json
from paddle_dla.storage.json_record import read_record as read_json_record
from paddle_dla.storage.json_text import json_sha256
from paddle_dla.storage.manifest import describe, manifest_path
from paddle_dla.storage.tensors import read_safetensors
from paddle_dla.training import checkpoints
from paddle_dla.training.errors import ResumeError
from paddle_dla.training.plan import Plan
from paddle_dla.training.records import Records, read_records
from paddle_dla.training.resuming import changes, choose, position_in

pytestmark = pytest.mark.any_paddle

# --- the reader ------------------------------------------------------------------------------------------------------


class _Point(TypedDict):
    x: float


class _Optional(TypedDict, total=False):
    note: str | None
    extra: Any


class _Record(_Optional):
    format: int
    count: Count
    share: Annotated[float, Within(0, 1)]
    sure: bool
    points: list[_Point]
    named: dict[str, _Point]


GOOD = {"format": 1, "count": 3, "share": 0.5, "sure": True, "points": [{"x": 1}], "named": {"a": {"x": 2.5}}}


@pytest.mark.parametrize("more", [{}, {"note": None}, {"note": "x"}, {"extra": [[{}]]}, {"unknown": 1}])
def test_a_record_of_its_type_is_let_through(more):
    check_record({**GOOD, **more}, _Record)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"count": True}, "count"),
        ({"count": 1.0}, "count"),
        ({"count": -1}, "count"),
        ({"count": 2**63}, "count"),
        ({"share": float("nan")}, "share"),
        ({"share": 1.5}, "share"),
        ({"share": "0.5"}, "share"),
        ({"sure": 1}, "sure"),
        ({"points": {}}, "points"),
        ({"points": [{"x": 1}, {"x": None}]}, "points.1.x"),
        ({"points": [{}]}, "points.0.x"),
        ({"named": {"a\x1b[2J": {"x": []}}}, r"named.a\x1b[2J.x"),
        ({"named": []}, "named"),
        ({"note": 3}, "note"),
    ],
)
def test_the_key_at_fault_is_named(change, where):
    with pytest.raises(RecordError) as found:
        check_record({**GOOD, **change}, _Record)
    assert str(found.value).startswith(f"{where} is ")


def test_every_key_that_must_be_there_is_asked_for():
    for key in GOOD:
        with pytest.raises(RecordError, match=f"{key} is missing"):
            check_record({name: value for name, value in GOOD.items() if name != key}, _Record)


def nested(depth):
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    "text",
    ["", "{", "nope", nested(DEEPEST + 1), nested(200_000), '{"a":' * 200_000, "9" * 5000, '"\\ud800', "\x00",
     '{"a": 1, "a": 1}', '[{"b": {"c": 1, "d": 2, "c": 3}}]'],
)  # fmt: skip
def test_what_is_no_json_or_too_deep_or_ambiguous_is_refused(text):
    with pytest.raises(RecordError):
        parse_json(text)
    assert parse_json(nested(DEEPEST)) is not None


@pytest.mark.parametrize("text", [b"\xff\xfe", b"[]", b"null", b"3", b'"x"'])
def test_what_is_no_object_is_refused(text, tmp_path):
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(RecordError):
        read_json_record(tmp_path / "x.json", _Record, 1)


def test_a_record_is_read_up_to_a_stated_size(tmp_path):
    with open(tmp_path / "x.json", "wb") as file:
        file.truncate(2**40)  # a hole
    with pytest.raises(OSError, match="more than"):
        read_json_record(tmp_path / "x.json", _Record, 1)


# --- every record that is read ----------------------------------------------------------------------------------------

DEEP = json.loads(nested(99))
VALUES = [None, True, -1, 0, 7, 1e300, 2**70, float("nan"), "", "x" * 100_000, "\x1b[2J", [], {}, [{}], {"x": {}}, DEEP]


def paths_in(content, above=()):
    """Places in a record, by the keys that lead there; of many alike (tensors, files, a list's items) the first."""
    items = list(content.items() if isinstance(content, dict) else enumerate(content))
    alike = isinstance(content, list) or (len(items) > 1 and all(isinstance(value, dict) for _, value in items))
    for key, value in items[:1] if alike else items:
        yield (*above, key)
        if isinstance(value, (dict, list)):
            yield from paths_in(value, (*above, key))


def altered(content):
    """The record with each place in turn left out, or given each of ``VALUES``."""
    for path in list(paths_in(content)):
        for value in ("left out", *VALUES):
            copy = json.loads(json.dumps(content))
            inner = copy
            for key in path[:-1]:
                inner = inner[key]
            if value == "left out":
                del inner[path[-1]]
            else:
                inner[path[-1]] = value
            yield path, value, copy


def assert_refused_or_read(content, write, use, allowed):
    """Any other exception than ``allowed`` fails the test as it is; the place is then in a note."""
    for path, value, record in altered(content):
        write(record)
        message = ""
        try:
            use()
        except allowed as error:
            message = str(error)
        except BaseException as error:
            error.add_note(f"{path} = {str(value)[:50]}")
            raise
        assert len(message) < 2000, (path, str(value)[:50], "a long message")
        assert "\x1b" not in message, (path, str(value)[:50], "a control character")


def test_a_manifest_may_hold_anything(tmp_path):
    arrays = {"fc.weight": np.zeros((2, 3), np.float32)}
    tensors = {name: {**describe(array), "source_dtype": "float16"} for name, array in arrays.items()}
    manifest = {
        **{"format": 1, "model": "dla34", "num_classes": 2, "in_chans": 3, "global_pool": "avg", "tensors": tensors},
        "dropped": {"base_layer.1.num_batches_tracked": {"value": 3, "reason": "x"}},
        "source": {"file": "x"},
        "versions": {"numpy": "1"},
        "classes": ["a", "b"],
        "preprocessing": {
            "input_size": [3, 32, 32], "crop_pct": 0.9, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [1.0] * 3
        },
    }  # fmt: skip
    path = tmp_path / "x.pdparams"
    weight_files.save(path, arrays, manifest)
    written = json.loads(manifest_path(path).read_text())

    def use():
        read, found = weight_files.read(path)
        with suppress(ConversionError):  # one tensor is no model
            convert_back(read, resolve_name(found["model"] if found else "dla34"), found)

    assert_refused_or_read(
        written, lambda record: manifest_path(path).write_text(json.dumps(record)), use, (CheckpointError, ValueError)
    )


def test_the_record_of_an_export_may_hold_anything(exported_copy):
    written = json.loads((exported_copy / RECORD).read_text())
    written.pop("check")  # long, and of any content
    written["check"] = {}
    assert_refused_or_read(
        written,
        lambda record: (exported_copy / RECORD).write_text(json.dumps(record)),
        lambda: read_record(exported_copy),
        CheckpointError,
    )


def write_state(place, content):
    """With the right sum: whoever can write the folder can write that."""
    stored = {"sha256": json_sha256(content), "content": content}
    (place / "state.json").write_text(json.dumps(stored))


@pytest.fixture
def run(tmp_path):
    """The output of a run with two checkpoints, its config, and the newer checkpoint."""
    from test_training_state import snapshot

    config = small_config(make_images(tmp_path / "images"), output=str(tmp_path / "run"))
    for batch in (4, 8):
        place = checkpoints.write(
            tmp_path / "run" / "checkpoints",
            snapshot(0, batch, score=50.0, best={"score": 50.0, "epoch": 0}, config=config, scaler=None),
        )
    return tmp_path / "run", config, place


def test_the_state_of_a_run_may_hold_anything_and_then_the_one_before_it_is_used(run):
    output, config, place = run
    content = json.loads((place / "state.json").read_text())["content"]
    plan = Plan(3, 10, 4, 8, 2)

    def use():
        choice = choose(output, True)
        assert choice.checkpoint is not None
        checkpoints.read(choice.checkpoint)
        position_in(plan, choice.checkpoint)
        changes(choice.checkpoint, config, 4, plan, 1)
        checkpoints.rotate(output / "checkpoints", best=1)

    assert_refused_or_read(
        content, lambda record: write_state(place, record), use, (CheckpointError, ResumeError, ConfigError)
    )


@pytest.mark.parametrize(
    "text", [nested(200_000), "{}", "[]", '{"content": [], "sha256": ""}', '{"content": {}, "sha256": ""}', "null", ""]
)
def test_a_state_that_is_none_is_passed_over(text, run):
    output, _, place = run
    (place / "state.json").write_text(text)
    choice = choose(output, True)
    assert choice.checkpoint.position.batch == 4
    assert len(choice.notes) == 1


def test_the_index_of_a_tape_may_hold_anything(tmp_path):
    tape = Tape({"a": "Layer", "b": "Layer"}, Store())
    refs = [tape.store.put(np.ones(2)), tape.store.put(np.ones(3, np.float32))]
    tape.records = [
        Record("a", "Layer", 0, True, ("b", 0), (refs[0],), {}, refs[1], output_grads=[Slot(refs[1])]),
        Record("b", "Layer", 0, False, None, (refs[0],), {}, refs[1]),
    ]
    tape.param_grads, tape.buffers = {"a.weight": refs[0]}, {"a.mean": refs[1]}
    save_tape(tape, tmp_path, {"model": "a"}, Measured({0: 0.5, 1: float("inf")}))
    index = tmp_path / "tape.json"
    written = json.loads(index.read_text())
    assert load_tape(tmp_path)[2].errors == {0: 0.5, 1: float("inf")}

    def use():
        loaded, _, _ = load_tape(tmp_path)
        loaded.begun()
        for record in loaded:
            loaded.within(record, set(), set())

    def write(record):
        """With the right sum, where there is one: whoever can write the folder can write that."""
        if "sha256" in record:
            record["sha256"] = json_sha256({key: value for key, value in record.items() if key != "sha256"})
        index.write_text(json.dumps(record))

    assert_refused_or_read(written, write, use, TapeError)


@pytest.mark.parametrize("value", ["Infinity", "-Infinity", "NaN", "1e999", "-1"])
def test_the_noise_floor_of_a_tape_is_a_number(value, tmp_path):
    """With an infinite one everything would be aligned."""
    tape = Tape({}, Store())
    tape.buffers = {"a": tape.store.put(np.ones(2))}
    save_tape(tape, tmp_path, {}, Measured({0: 0.25}))
    text = (tmp_path / "tape.json").read_text()
    assert "0.25" in text
    (tmp_path / "tape.json").write_text(text.replace("0.25", value))
    with pytest.raises(TapeError, match="float32_errors"):
        load_tape(tmp_path)


def calls(*parents):
    """A tape of calls, each with the number of the one that it is within, or ``None``."""
    tape = Tape({}, Store())
    for number, parent in enumerate(parents):
        tape.records.append(
            Record(f"l{number}", "L", 0, False, None if parent is None else (f"l{parent}", 0), outputs=())
        )
    return tape


@pytest.mark.parametrize("parents", [(1, 0), (0,), (*range(1, 5000), None)], ids=["a circle", "itself", "deep"])
def test_calls_within_each_other_are_refused(parents, tmp_path):
    save_tape(calls(*parents), tmp_path, {})
    with pytest.raises(TapeError, match="within each other"):
        load_tape(tmp_path)


# --- records of other rooms -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [nested(200_000), '{"a":' * 200_000, "9" * 5000])
def test_labels_that_are_no_json_are_refused(text, tmp_path):
    (tmp_path / "real.json").write_text(text)
    with pytest.raises(DataError, match="is no JSON"):
        read_real_labels(tmp_path / "real.json")


@pytest.mark.parametrize(
    "line",
    [
        nested(200_000),
        '{"kind": "train"}',
        '{"kind": "train", "step": "x"}',
        '{"kind": "train", "step": 1, "lr": []}',
        '{"kind": []}',
        '{"kind": "start"}',
        "3",
    ],
)
def test_a_line_of_a_log_that_is_no_record_is_left_out(line, tmp_path):
    path = tmp_path / "rank0.jsonl"
    good = '{"kind": "train", "step": 1, "loss": 2.5}'
    path.write_text(f"{good}\n{line}\n{good}\n")
    assert [record["step"] for record in read_records(path)] == [1, 1]
    Records(path, 1).close()
    assert path.read_text() == f"{good}\n{good}\n"


# --- images that another machine wrote --------------------------------------------------------------------------------


def npy(header, data=b""):
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


INPUTS = {
    "nothing": b"",
    "text": b"hello",
    "a header that is code": npy(b"__import__('os').system('touch x')"),
    "a header of deep brackets": npy(b"(" * 60_000),
    "a header without end": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': ("),
    "more than the file holds": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 3, 1000, 1000), }\n"),
    "a size beyond any": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3, 4611686018427387904, 4), }\n"),
    "objects": npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1, 1, 1, 1), }\n", b"cos\nsystem\n(S'x'\ntR."),
    "whole numbers": npy(b"{'descr': '<i4', 'fortran_order': False, 'shape': (1, 1, 1, 1), }\n", bytes(4)),
    "two dimensions": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1), }\n", bytes(4)),
    "a negative side": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 1, 1, 1), }\n", bytes(4)),
    "a zip": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("content", INPUTS)
def test_what_are_no_images_is_refused(content, tmp_path):
    path = tmp_path / "inputs.npy"
    path.write_bytes(INPUTS[content])
    with pytest.raises(CheckpointError) as found:
        read_inputs(str(path))
    assert len(str(found.value)) < 1000
    np.save(path, np.ones((1, 3, 2, 2)))
    assert read_inputs(str(path)).shape == (1, 3, 2, 2)


@pytest.mark.parametrize("shape", [[1] * 71, [0, 2**40, 2**40]])
def test_a_shape_that_no_array_has_is_refused(shape, tmp_path):
    size = 0 if 0 in shape else 4
    header = json.dumps({"x\x1b[2J": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    with pytest.raises(CheckpointError) as found:
        read_safetensors(tmp_path / "x.safetensors")
    assert "\x1b" not in str(found.value)


# --- a manifest that is read by a command -----------------------------------------------------------------------------


def test_a_deep_manifest_is_one_line_of_error(tmp_path):
    arrays = {"fc.weight": np.zeros((2, 3), np.float32)}
    tensors = {name: describe(array) for name, array in arrays.items()}
    path = tmp_path / "x.pdparams"
    weight_files.save(path, arrays, {"format": 1, "model": "dla34", "tensors": tensors})
    shutil.copy(path, tmp_path / "y.pdparams")
    manifest_path(path).write_text(nested(100_000))
    done = subprocess.run(
        [sys.executable, "-m", "paddle_dla.info", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
