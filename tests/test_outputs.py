"""An output path that is a link, a device or a pipe is written to; never is one replaced by a file."""

import errno
import os
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest

from alignment.engine.judging.error import Difference
from alignment.engine.judging.rows import tensor_row
from alignment.engine.records.files import TapeError, load_tape, save_tape
from alignment.engine.records.store import Store
from alignment.engine.records.tape import Record, Tape
from alignment.engine.reporting.page import write_html
from alignment.engine.reporting.text import write_json as write_report_json
from alignment.engine.result import Result
from paddle_dla import features, weight_files
from paddle_dla.data.errors import DataError
from paddle_dla.data.folders import new_folder
from paddle_dla.features import Rows, write_npy
from paddle_dla.reports import write_csv, write_jsonl
from paddle_dla.storage import folders
from paddle_dla.storage.atomic import atomic_path, check_writable
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.folders import atomic_folder
from paddle_dla.storage.manifest import describe, manifest_path
from paddle_dla.training.records import Records

pytestmark = pytest.mark.any_paddle

ARRAYS = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3)}
MANIFEST = {"format": 1, "model": "dla34", "tensors": {name: describe(array) for name, array in ARRAYS.items()}}
TABLE = ["name", "value"], [["a", 1], ["b", 2]]
CSV = b"name,value\na,1\nb,2\n"


def node(path, kind, major, minor):
    try:
        os.mknod(path, kind | 0o666, os.makedev(major, minor))
    except PermissionError:
        pytest.skip("only root makes device nodes")
    return path


@pytest.fixture
def null(tmp_path):
    """A device of the kind of /dev/null, in a folder of its own."""
    return node(tmp_path / "null.csv", stat.S_IFCHR, 1, 3)


def file_names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- devices and pipes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [write_csv, write_jsonl])
def test_a_device_is_written_to_and_stays(write, null):
    check_writable(null)
    write(null, TABLE)
    assert stat.S_ISCHR(null.stat().st_mode)
    assert file_names(null.parent) == ["null.csv"]


def test_a_device_that_is_full_is_an_error(tmp_path):
    full = node(tmp_path / "full", stat.S_IFCHR, 1, 7)
    with pytest.raises(CheckpointError, match=r"full: No space left"):
        write_csv(full, TABLE)
    assert stat.S_ISCHR(full.stat().st_mode)


def test_a_link_to_a_device_stays_a_link_to_a_device(null, tmp_path):
    (tmp_path / "link").symlink_to("null.csv")
    write_csv(tmp_path / "link", TABLE)
    assert os.readlink(tmp_path / "link") == "null.csv"
    assert stat.S_ISCHR(null.stat().st_mode)


def test_a_disk_is_refused(tmp_path):
    disk = node(tmp_path / "disk", stat.S_IFBLK, 259, 4095)  # no device has this number: opening it would fail
    for attempt in (check_writable, lambda path: write_csv(path, TABLE)):
        with pytest.raises(CheckpointError, match="a disk or a socket"):
            attempt(disk)
    assert stat.S_ISBLK(disk.stat().st_mode)


def test_a_pipe_gets_the_whole_content(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    check_writable(pipe)
    large = ["name", "value"], [["x" * 100, number] for number in range(5000)]  # more than a pipe holds
    write_csv(pipe, large)
    reader.join(10)
    assert got[0].count(b"\n") == 5001
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_pipe_without_reader_is_an_error_not_a_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="nobody reads"):
        write_csv(tmp_path / "pipe", TABLE)


PRINT = """
import sys
from paddle_dla.reports import write_csv
print("before")
write_csv(sys.argv[1], (["name", "value"], [["a", 1], ["b", 2]]))
print("after")
"""


@pytest.mark.parametrize("target", ["/proc/self/fd/1", "fd/1"])
@pytest.mark.parametrize("into", ["file", "pipe"])
def test_standard_output_can_be_named(target, into, tmp_path):
    """By links as those in /dev, but of its own: a writer that replaced one would break the machine's."""
    (tmp_path / "fd").symlink_to("/proc/self/fd")
    (tmp_path / "stdout").symlink_to(target)
    command = [sys.executable, "-c", PRINT, tmp_path / "stdout"]
    if into == "pipe":
        text = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    else:
        with open(tmp_path / "out", "wb") as out:
            subprocess.run(command, stdout=out, check=True)
        text = (tmp_path / "out").read_bytes()
    assert text == b"before\n" + CSV + b"after\n"
    assert os.readlink(tmp_path / "stdout") == target


@pytest.mark.parametrize("name", ["null.pdparams", "null.safetensors"])
def test_weights_are_not_written_to_a_device(name, tmp_path):
    path = node(tmp_path / name, stat.S_IFCHR, 1, 5)  # /dev/zero: whoever read it for a checksum would never end
    with pytest.raises(CheckpointError, match="regular file"):
        weight_files.save(path, ARRAYS, MANIFEST)
    assert file_names(tmp_path) == [name]
    assert stat.S_ISCHR(path.stat().st_mode)


def test_records_of_a_run_are_not_read_from_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "rank0.jsonl")
    with pytest.raises(CheckpointError, match="regular file"):
        Records(tmp_path / "rank0.jsonl", 0)


# --- links -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    """An empty folder ``store``, and ``here`` beside it for links into it."""
    for name in ("store", "here"):
        (tmp_path / name).mkdir()
    return tmp_path / "store"


@pytest.mark.parametrize("there", [True, False], ids=["replaced", "new"])
@pytest.mark.parametrize("hops", [1, 2])
def test_a_link_stays_and_its_target_is_written(hops, there, store, tmp_path):
    if there:
        (store / "old.csv").write_text("old")
    link = tmp_path / "here" / "x.csv"
    link.symlink_to("../store/old.csv" if hops == 1 else "y.csv")
    (tmp_path / "here" / "y.csv").symlink_to(store / "old.csv")
    check_writable(link)
    write_csv(link, TABLE)
    assert link.is_symlink()
    assert (store / "old.csv").read_bytes() == CSV
    assert file_names(store) == ["old.csv"]
    assert file_names(tmp_path / "here") == ["x.csv", "y.csv"]


def test_a_writer_that_fails_leaves_link_and_target(store, tmp_path):
    (store / "old.csv").write_text("old")
    link = tmp_path / "here" / "x.csv"
    link.symlink_to(store / "old.csv")
    with pytest.raises(CheckpointError), atomic_path(link) as part:
        part.write_text("half")
        raise OSError(28, "No space left on device")
    assert link.read_text() == "old" and link.is_symlink()
    assert file_names(store) == ["old.csv"]


@pytest.mark.parametrize("target", ["x.csv", "nowhere/x.csv", "."])
def test_a_link_to_nothing_that_can_be_written_is_refused_before_any_work(target, tmp_path):
    (tmp_path / "x.csv").symlink_to(target)
    with pytest.raises(CheckpointError, match="cannot write"):
        check_writable(tmp_path / "x.csv")
    assert os.readlink(tmp_path / "x.csv") == target


def test_weights_behind_a_link_agree_with_their_manifest_from_both_sides(store, tmp_path):
    weight_files.save(store / "v1.pdparams", {"weight": ARRAYS["weight"] + 1}, MANIFEST)
    link = tmp_path / "here" / "dla34.pdparams"
    link.symlink_to(store / "v1.pdparams")
    weight_files.save(link, ARRAYS, MANIFEST)
    for path in (link, store / "v1.pdparams"):
        arrays, manifest = weight_files.read(path)
        assert manifest["model"] == "dla34"
        assert np.array_equal(arrays["weight"], ARRAYS["weight"])
    assert file_names(tmp_path / "here") == ["dla34.pdparams"]


def test_links_to_weights_and_to_their_manifest_are_read(store, tmp_path):
    """As the cache of a hub keeps them: names are links, the content lies elsewhere under other names."""
    weight_files.save(store / "x.pdparams", ARRAYS, MANIFEST)
    for name, blob in (("x.pdparams", "1"), ("x.pdparams.manifest.json", "2")):
        (store / name).rename(store / blob)
        (tmp_path / "here" / name).symlink_to(store / blob)
    assert weight_files.read(tmp_path / "here" / "x.pdparams")[1]["model"] == "dla34"


def test_two_manifests_of_one_file_are_refused_before_any_work(store, tmp_path):
    weight_files.save(store / "x.pdparams", ARRAYS, MANIFEST)
    link = tmp_path / "here" / "x.pdparams"
    link.symlink_to(store / "x.pdparams")
    manifest_path(store / "x.pdparams").rename(f"{link}.manifest.json")
    manifest_path(store / "x.pdparams").write_bytes(manifest_path(link).read_bytes())
    before = (store / "x.pdparams").read_bytes()
    with pytest.raises(CheckpointError, match="both describe"):
        weight_files.save(link, {"weight": ARRAYS["weight"] + 1}, MANIFEST)
    assert (store / "x.pdparams").read_bytes() == before


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_a_folder_is_filled(there, store, tmp_path):
    if not there:
        store.rmdir()
    link = tmp_path / "here" / "data"
    link.symlink_to(store)
    with new_folder(link) as part:
        (part / "file").touch()
    assert link.is_symlink()
    assert file_names(store) == ["file"]


# --- reports of a comparison -----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 kB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small tmpfs here")
    yield place
    subprocess.run(["umount", place], check=True)


def comparison(rows):
    """A result with so many rows."""
    measured = Difference(0.0, 0.0, 0.0, 0.0)
    result = Result("x", "float64")
    result.rows = [
        tensor_row(f"layer{number}", f"layer{number}", "Linear", 1, (2, 3), measured, (1e-16, 1e-12))
        for number in range(rows)
    ]
    return result


@pytest.mark.parametrize("write", [write_report_json, write_html])
def test_a_report_that_does_not_fit_the_disk_leaves_the_old_one(write, small_disk):
    path = small_disk / "report"
    write([comparison(1)], path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="No space left"):
        write([comparison(2000)], path)
    assert path.read_bytes() == before
    assert file_names(small_disk) == ["report"]


def test_a_record_that_does_not_fit_the_disk_leaves_the_old_one(small_disk):
    save_tape(tape_of(np.ones(3)), small_disk, {"model": "a"})
    with pytest.raises(CheckpointError, match="No space left"):
        save_tape(tape_of(np.ones(100_000)), small_disk, {"model": "b"})
    loaded, facts, _ = load_tape(small_disk)
    assert facts == {"model": "a"} and len(loaded) == 1


def tape_of(array):
    tape = Tape({"a": "Layer"}, Store())
    tape.records = [Record("a", "Layer", 0, True, None, outputs=tape.store.put(array))]
    return tape


def test_a_record_of_one_run_is_not_read_with_the_tensors_of_another(tmp_path):
    for name, value in (("first", 1.0), ("second", 2.0)):
        save_tape(tape_of(np.full(3, value)), tmp_path / name, {"model": "a"})
    (tmp_path / "first" / "tape.json").write_bytes((tmp_path / "second" / "tape.json").read_bytes())
    with pytest.raises(TapeError, match="does not belong"):
        load_tape(tmp_path / "first")


# --- what belongs together, and what is not ours ---------------------------------------------------------------------


def test_a_matrix_that_cannot_be_written_leaves_no_table_of_its_rows(tmp_path):
    """Both appear or neither, and those that were there stay."""
    small = Rows(np.zeros((2, 3), np.float32), np.arange(2), np.arange(2))
    write_npy(str(tmp_path / "x.npy"), small, ["a", "b"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    code = """
import resource, sys, numpy as np
from paddle_dla.features import Rows, write_npy
from paddle_dla.storage.errors import CheckpointError
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))
for name in ("x.npy", "y.npy"):
    try:
        write_npy(name, Rows(np.zeros((100, 100), np.float32), np.arange(100), np.arange(100)), [*map(str, range(100))])
        sys.exit("written")
    except CheckpointError:
        pass
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_table_that_cannot_be_written_is_refused_before_any_work(tmp_path, capsys):
    (tmp_path / "x.npy.csv").mkdir()
    assert features.main(["--data", "nowhere", "--output", str(tmp_path / "x.npy")]) == 1
    assert "x.npy.csv: it is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", [".x.csv.notes.part", ".x.csv.12a.part", ".x.csv.part", ".x.csv.1.2.part"])
def test_hidden_files_of_a_user_are_left_alone(name, tmp_path):
    (tmp_path / name).write_text("mine")
    write_csv(tmp_path / "x.csv", TABLE)
    assert (tmp_path / name).read_text() == "mine"


def test_a_number_that_no_process_has_is_a_dead_writer(tmp_path):
    leftover = tmp_path / f".x.csv.{10**30}.part"
    leftover.touch()
    write_csv(tmp_path / "x.csv", TABLE)
    assert file_names(tmp_path) == ["x.csv"]


def test_a_new_folder_never_takes_the_place_of_one_that_appeared_meanwhile(tmp_path):
    with pytest.raises(DataError), new_folder(tmp_path / "data") as part:
        (part / "new").touch()
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "mine").touch()
    assert file_names(tmp_path / "data") == ["mine"]
    assert file_names(tmp_path) == ["data"]


@pytest.mark.parametrize("mode", [0o700, 0o775])
def test_permissions_stay_where_a_file_or_a_folder_is_replaced(mode, tmp_path):
    (tmp_path / "x.csv").touch()
    (tmp_path / "folder").mkdir()
    for name in ("x.csv", "folder"):
        (tmp_path / name).chmod(mode)
    write_csv(tmp_path / "x.csv", TABLE)
    with atomic_folder(tmp_path / "folder", replace=True) as part:
        (part / "new").touch()
    assert (tmp_path / "folder" / "new").exists() and (tmp_path / "x.csv").read_bytes() == CSV
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("x.csv", "folder")} == {mode}


def refuse(*_arguments, **_options):
    raise OSError(errno.EIO, "Input/output error")


def test_a_folder_whose_new_name_does_not_reach_the_disk_is_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    sync = folders._sync
    monkeypatch.setattr(folders, "_sync", lambda path: refuse() if path == tmp_path else sync(path))
    with pytest.raises(CheckpointError), atomic_folder(tmp_path / "folder", replace=True) as part:
        (part / "new").touch()
    assert file_names(tmp_path / "folder") == ["old"] and file_names(tmp_path) == ["folder"]


def test_a_look_at_a_place_that_fails_leaves_nothing_there(tmp_path, monkeypatch):
    close = os.close
    monkeypatch.setattr(os, "close", lambda descriptor: (close(descriptor), refuse()))  # as a full quota does over NFS
    with pytest.raises(CheckpointError):
        check_writable(tmp_path / "x.csv")
    assert file_names(tmp_path) == []
