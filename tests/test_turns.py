"""Files that belong together are one process's, however many processes write them at once."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from paddle_dla import weight_files
from paddle_dla.storage import manifest, turn
from paddle_dla.storage.atomic import atomic_paths
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.manifest import describe

pytestmark = pytest.mark.any_paddle

ROOT = Path(__file__).parent.parent
PAIR = """
import sys
import numpy as np
from paddle_dla import weight_files
from paddle_dla.storage.manifest import describe
arrays = {"weight": np.full((2, 3), 7, np.float32)}
record = {"format": 1, "model": "dla34", "tensors": {name: describe(array) for name, array in arrays.items()}}
print("ready", flush=True)
weight_files.save(sys.argv[1], arrays, record)
"""
TABLES = """
import sys
from paddle_dla.storage.atomic import atomic_paths
print("ready", flush=True)
with atomic_paths(*sys.argv[1:]) as parts:
    for part in parts:
        part.write_text("theirs")
"""
WHILE_S = 0.5
"""What another process needs, once it is ready, for what it is kept from."""


def another(code, *arguments):
    """A process that runs ``code``, once it is ready to write."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout.readline() == "ready\n"
    return process


def weights(value):
    arrays = {"weight": np.full((2, 3), value, np.float32)}
    return arrays, {"format": 1, "model": "dla34", "tensors": {name: describe(array) for name, array in arrays.items()}}


@pytest.mark.parametrize("there", [False, True])
def test_weights_and_manifest_of_two_writers_are_of_one_of_them(there, tmp_path, monkeypatch):
    path, others, write = tmp_path / "w.pdparams", [], manifest._write_json
    if there:
        weight_files.save(path, *weights(0))

    def interrupted(sidecar, content):
        write(sidecar, content)
        if not others:
            others.append(another(PAIR, path))
            time.sleep(WHILE_S)

    monkeypatch.setattr(manifest, "_write_json", interrupted)
    weight_files.save(path, *weights(1))
    assert others[0].wait(60) == 0
    arrays, record = weight_files.read(path)
    assert record is not None and arrays["weight"][0, 0] == 7
    assert sorted(os.listdir(tmp_path)) == ["w.pdparams", "w.pdparams.manifest.json"]


def test_files_that_belong_together_are_put_in_place_by_one_process_after_the_other(tmp_path):
    files = tmp_path / "a.npy", tmp_path / "a.csv"
    with turn.in_turn(files):
        other = another(TABLES, *files)
        time.sleep(WHILE_S)
        assert other.poll() is None and not any(file.exists() for file in files)
    assert other.wait(60) == 0
    assert [file.read_text() for file in files] == ["theirs"] * 2


def test_a_writer_that_is_stopped_is_an_error_and_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(turn, "LONGEST_S", 0.1)
    holder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    try:
        with pytest.raises(CheckpointError):
            weight_files.save(tmp_path / "w.pdparams", *weights(1))
        with pytest.raises(CheckpointError), atomic_paths(tmp_path / "a", tmp_path / "b") as parts:
            for part in parts:
                part.write_text("ours")
    finally:
        os.close(holder)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("failing", [1, 2])
def test_where_one_of_a_pair_cannot_be_put_in_place_both_are_as_they_were(there, failing, tmp_path, monkeypatch):
    files = tmp_path / "a.npy", tmp_path / "a.csv"
    for file in files if there else ():
        file.write_text("old")
    replace, calls = os.replace, []

    def fails(source, target):
        calls.append(target)
        if len(calls) == failing:
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(CheckpointError), atomic_paths(*files) as parts:
        for part in parts:
            part.write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == (
        {"a.npy": "old", "a.csv": "old"} if there else {}
    )


@pytest.mark.parametrize("links", [True, False])
def test_a_pair_is_replaced_and_leaves_nothing_beside_it(links, tmp_path, monkeypatch):
    def refused(source, target):
        raise OSError(1, "Operation not permitted")  # FAT has no hard links

    if not links:
        monkeypatch.setattr(os, "link", refused)
    files = tmp_path / "a.npy", tmp_path / "a.csv"
    for content in ("old", "new"):
        with atomic_paths(*files) as parts:
            for part in parts:
                part.write_text(content)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.npy": "new", "a.csv": "new"}


def test_a_file_system_without_locks_holds_nobody_up(tmp_path, monkeypatch):
    def refused(descriptor, operation):
        raise OSError(9, "Bad file descriptor")  # NFS, for a folder

    monkeypatch.setattr(fcntl, "flock", refused)
    weight_files.save(tmp_path / "w.pdparams", *weights(1))
    assert weight_files.read(tmp_path / "w.pdparams")[1]
