"""The files of reprod_log: read without running them, written as it reads them, compared by the largest error."""

import io
import os
import pickle

import numpy as np
import pytest

from alignment import compare
from alignment.engine.records.files import save_tape
from alignment.engine.records.store import Store
from alignment.engine.records.tape import Record, Tape
from alignment.reprod_files import NO_LAYER, compare_reprod, export_record, export_tape, read_reprod, write_reprod
from paddle_dla.storage.errors import CheckpointError

ARRAYS = {
    "logits": np.random.RandomState(0).standard_normal((2, 5)).astype(np.float32),
    "loss": np.asarray(0.5),
    "labels": np.arange(4),
    "half": np.ones((3, 0), np.float16),
    "transposed": np.arange(6.0).reshape(2, 3).T,
    "spectrum": np.ones(2, np.complex64),
    "mask": np.array([True, False]),
}


def saved_by_numpy(path, content):
    """As ``ReprodLogger.save`` does."""
    np.save(path, content, allow_pickle=True)
    return path


def loaded_by_numpy(path):
    """As ``ReprodDiffHelper.load_info`` does."""
    return np.load(path, allow_pickle=True).tolist()


def same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], strict=True)


def test_what_is_written_is_read_back(tmp_path):
    write_reprod(tmp_path / "a.npy", ARRAYS)
    same(read_reprod(tmp_path / "a.npy"), ARRAYS)


def test_what_reprod_log_writes_is_read(tmp_path):
    same(read_reprod(saved_by_numpy(tmp_path / "a.npy", ARRAYS)), ARRAYS)


@pytest.mark.parametrize("protocol", [3, 4])
def test_every_protocol_that_numpy_saves_with_is_read(protocol, tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": ()})
    (tmp_path / "a.npy").write_bytes(header.getvalue() + pickle.dumps(np.array(ARRAYS, object), protocol))
    same(read_reprod(tmp_path / "a.npy"), ARRAYS)


def test_reprod_log_reads_what_is_written(tmp_path):
    write_reprod(tmp_path / "a.npy", ARRAYS)
    content = loaded_by_numpy(tmp_path / "a.npy")
    assert type(content) is dict
    same(content, ARRAYS)
    assert all(type(array) is np.ndarray for array in content.values())
    # the array of objects is as numpy makes it: references are counted
    assert np.load(tmp_path / "a.npy", allow_pickle=True).dtype.flags == np.dtype(object).flags


class Payload:
    """Leaves a mark where its pickle is run."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("place", ["value", "element", "in an array"])
def test_code_in_a_file_is_refused_and_not_run(place, tmp_path):
    payload = Payload(tmp_path / "mark")
    contents = {
        "value": {"logits": payload},
        "element": payload,
        "in an array": {"logits": np.array([payload], object)},
    }
    path = saved_by_numpy(tmp_path / "bad.npy", np.array(contents[place], object))
    with pytest.raises(CheckpointError, match=r"names \w+\.mkdir, which is no numpy array: refused, nothing was run"):
        read_reprod(path)
    assert not (tmp_path / "mark").exists()
    loaded_by_numpy(path)  # the payload is a real one
    assert (tmp_path / "mark").exists()


def test_a_truncated_file_is_refused(tmp_path):
    content = saved_by_numpy(tmp_path / "a.npy", ARRAYS).read_bytes()
    for length in range(0, len(content), 7):
        (tmp_path / "cut.npy").write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"cut\.npy"):
            read_reprod(tmp_path / "cut.npy")


OTHERS = {
    "an array of numbers": (np.ones(3), r"holds an array of float64, \[3\], not the dict"),
    "a number": (np.asarray(1.0), r"holds an array of float64, \[\], not the dict"),
    "several dicts": (np.array([{}, {}], object), r"holds an array of object, \[2\]"),
    "a list": (np.array(None, object), "holds a NoneType, not a dict of named arrays"),
    "a dict of text": ({"logits": "text"}, "entry 'logits' is a str, not a named numeric array"),
    "a dict of dicts": ({"logits": {"a": np.ones(1)}}, "entry 'logits' is a dict"),
    "an array of text": ({"logits": np.array(["text"])}, "holds an array of 'U4', which are no numbers"),
    "an array of objects": ({"logits": np.array([{}, {}], object)}, "holds an array of several objects"),
    "one object": ({"logits": np.array({}, object)}, "entry 'logits' is a _ObjectArray"),
    "a name that is no text": ({3: np.ones(1)}, "a key in it is a int"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_anything_but_named_arrays_is_refused(other, tmp_path):
    content, words = OTHERS[other]
    with pytest.raises(CheckpointError, match=words):
        read_reprod(saved_by_numpy(tmp_path / "other.npy", content))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        read_reprod(tmp_path / "none.npy")


def test_what_reprod_log_could_not_read_is_not_written(tmp_path):
    with pytest.raises(CheckpointError, match=r"end in \.npy"):
        write_reprod(tmp_path / "a.npz", ARRAYS)
    with pytest.raises(CheckpointError, match="'name' is an array of <U4, no numbers"):
        write_reprod(tmp_path / "a.npy", {"name": np.array("text")})
    assert not any(tmp_path.iterdir())


# --- comparison -----------------------------------------------------------------------------------------------------


def files(folder, reference, candidate):
    write_reprod(folder / "a.npy", reference)
    write_reprod(folder / "b.npy", candidate)
    return [str(folder / "a.npy"), str(folder / "b.npy")]


def test_equal_files_are_aligned_and_no_layer_is_promised(tmp_path, capsys):
    assert compare.main(files(tmp_path, ARRAYS, ARRAYS)) == 0
    out = capsys.readouterr().out
    assert f"ALIGNED: {len(ARRAYS)} tensors" in out
    assert NO_LAYER in out


def test_a_difference_that_the_mean_hides_is_found(tmp_path, capsys):
    large = np.random.RandomState(0).standard_normal(2**20).astype(np.float32)
    wrong = large.copy()
    wrong[12345] += 0.5
    assert np.abs(wrong - large).mean() < 1e-6  # what reprod_log judges by, and its limit
    assert compare.main(files(tmp_path, {"logits": large}, {"logits": wrong})) == 1
    assert "1 of 1 tensors differ, first logits" in capsys.readouterr().out


@pytest.mark.parametrize(("dtype", "rounding"), [(np.float32, 1e-6), (np.float64, 2e-15)])
def test_rounding_is_allowed_and_a_thousand_times_as_much_in_float32_is_not(dtype, rounding, tmp_path):
    one = {"logits": np.ones(4, dtype)}
    assert compare_reprod(*files(tmp_path, one, {"logits": np.full(4, 1 + rounding, dtype)})).passed
    assert not compare_reprod(*files(tmp_path, one, {"logits": np.full(4, 1 + 1e-3, dtype)})).passed
    # a constant that was kept in float32 stands out in float64
    kept = compare_reprod(*files(tmp_path, one, {"logits": np.full(4, 1 + 6e-8, dtype)}))
    assert kept.passed == (dtype == np.float32)


def test_integers_must_be_equal(tmp_path):
    for number in (10**9, 2**53):
        pair = {"n": np.array([number])}, {"n": np.array([number + 1])}
        assert not compare_reprod(*files(tmp_path, *pair)).passed


def test_a_tolerance_of_ones_own_decides(tmp_path):
    paths = files(tmp_path, {"loss": np.ones(1)}, {"loss": np.ones(1) * (1 + 1e-4)})
    assert compare.main([*paths, "--tolerance", "1e-3"]) == 0
    assert compare.main([*paths, "--tolerance", "1e-5"]) == 1
    assert compare.main(paths) == 1


@pytest.mark.parametrize("swap", [False, True])
def test_a_name_that_one_file_lacks_is_a_difference(swap, tmp_path, capsys):
    pair = [{"a": np.ones(1), "b": np.ones(1)}, {"a": np.ones(1)}]
    assert compare.main(files(tmp_path, *(pair[::-1] if swap else pair))) == 1
    assert f"not in the {'first' if swap else 'second'} file" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [np.ones(3), np.array([np.nan, 1.0])])
def test_another_shape_and_nan_are_differences(wrong, tmp_path):
    assert compare.main(files(tmp_path, {"a": np.ones(2)}, {"a": wrong})) == 1


NOTHING = {"NaN": [np.nan, 1.0], "infinity": [np.inf, 1.0], "no elements": []}


@pytest.mark.parametrize("kind", NOTHING)
def test_a_reference_that_judges_nothing_is_no_success(kind, tmp_path, capsys):
    array = {"a": np.array(NOTHING[kind])}
    assert compare.main(files(tmp_path, array, array)) == 1
    assert "UNDECIDED" in capsys.readouterr().out


def test_files_without_arrays_are_no_success(tmp_path):
    assert compare.main(files(tmp_path, {}, {})) == 1


def test_an_unreadable_file_ends_with_1(tmp_path, capsys):
    (tmp_path / "a.npy").write_bytes(b"junk")
    assert compare.main([str(tmp_path / "a.npy"), str(tmp_path / "a.npy")]) == 1
    assert "no readable file of reprod_log" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.npy", "folder"],
        ["A", "B", "--tolerance", "1"],
        ["a.npy", "b.npy", "--tolerance", "-1"],
        ["a.npy", "b.npy", "--tolerance", "inf"],
        ["a.npy", "b.npy", "--tolerance", "nan"],
    ],
)
def test_bad_usage_ends_with_2(arguments):
    with pytest.raises(SystemExit) as ended:
        compare.main(arguments)
    assert ended.value.code == 2


def test_a_record_becomes_a_file_of_reprod_log(tmp_path):
    tape = Tape({"relu": "ReLU", "split": "Split"}, Store())
    refs = [tape.store.put(np.full(2, float(n))) for n in range(4)]
    tape.records = [
        Record("relu", "ReLU", 0, True, None, (), {}, refs[0]),
        Record("relu", "ReLU", 1, True, None, (), {}, refs[1]),
        Record("split", "Split", 0, True, None, (), {}, (refs[2], refs[3])),
    ]
    expected = {"relu": 0, "relu#2": 1, "split[0]": 2, "split[1]": 3}
    export_tape(tape, tmp_path / "tape.npy")
    save_tape(tape, tmp_path / "record", {})
    export_record(tmp_path / "record", tmp_path / "record.npy")
    for name in ("tape", "record"):
        assert {key: array[0] for key, array in loaded_by_numpy(tmp_path / f"{name}.npy").items()} == expected


def test_an_imaginary_part_counts(tmp_path):
    assert not compare_reprod(*files(tmp_path, {"z": np.array([1 + 1j])}, {"z": np.array([1 + 2j])})).passed


def test_a_damaged_file_is_refused_or_read_as_arrays(tmp_path):
    content = saved_by_numpy(tmp_path / "a.npy", {"logits": np.arange(3.0), "loss": np.asarray(0.5)}).read_bytes()
    refused = 0
    for position in range(len(content)):
        for mask in (0x01, 0x80, 0xFF):
            damaged = bytearray(content)
            damaged[position] ^= mask
            (tmp_path / "bad.npy").write_bytes(damaged)
            try:
                assert all(array.dtype.kind in "biufc" for array in read_reprod(tmp_path / "bad.npy").values())
            except CheckpointError:
                refused += 1
    assert refused > len(content)


def test_bytes_are_never_taken_for_objects(tmp_path):
    # the state of the outer array with eight bytes where its list of objects belongs: pointers, to an unwary reader
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": ()})
    whole = pickle.dumps(np.array(3, object), 4)
    at = whole.rindex(b"]\x94K\x03a")
    (tmp_path / "bad.npy").write_bytes(header.getvalue() + whole[:at] + b"C\x08AAAAAAAA" + whole[at + 5 :])
    with pytest.raises(CheckpointError):
        read_reprod(tmp_path / "bad.npy")
