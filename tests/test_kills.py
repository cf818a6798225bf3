"""Killed at random moments, whatever process it hits: nothing is lost, and the same command ends with the same bits.

Trainings of one and two processes, exports, conversions and reports: 200 kills in all, each a SIGKILL. Half of them
come at any moment of a run, the other half when it writes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("yaml")

from numpy_weights import timm_weights
from small_models import save_small
from small_runs import (
    UPDATES,
    UPDATES_OF_TWO,
    children,
    command,
    final_files,
    kill,
    losses,
    make_images,
    run,
    started,
    steps,
    wait_for,
    write_config,
)
from timm_files import SMALL, write_safetensors

from paddle_dla import weight_files
from paddle_dla.exporting.folder import read_record

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]
KILLS = {"train": 50, "train of two": 50, "export": 30, "convert": 40, "report": 30}
STARTING = 8.0  # seconds in which a run imports, reads its checkpoint and makes its first update


# --- trainings -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"))


def training(config, processes):
    """The command of a user: of several processes, under the project's launcher."""
    if processes == 1:
        return command(config)
    launch = [sys.executable, "-m", "paddle_dla.launch", "--nproc", str(processes), "train"]
    return [*launch, *command(config)[3:]]


def tree_of(pid):
    """The process and all below it."""
    found = [pid]
    for one in found:
        found += children(one)
    return found


def kill_one(process, rng):
    """SIGKILL to a process of the job, and wait until nothing of it is left; whether it was still running."""
    if process.poll() is not None:
        return False
    victims = tree_of(process.pid)
    kill(rng.choice(victims), signal.SIGKILL)
    process.communicate(timeout=60)
    wait_for(lambda: not any(map(is_running, victims)), seconds=60)
    return process.returncode != 0


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for_a_moment(process, output, rng):
    """Any moment of the start, or some time after at least one more update."""
    if rng.random() < 0.5:
        time.sleep(rng.uniform(0, STARTING))
        return
    before = len(steps(output))
    wait_for(lambda: process.poll() is not None or len(steps(output)) != before)
    time.sleep(rng.uniform(0, 0.5))


def check_as_never_killed(folder, reference):
    assert losses(folder) == losses(reference)
    assert final_files(folder) == final_files(reference)
    assert list(folder.rglob(".*")) == []


@pytest.mark.parametrize(("kind", "processes"), [("train", 1), ("train of two", 2)])
def test_killed_trainings_end_with_the_same_bits(tmp_path, images, kind, processes):
    rng, whole = random.Random(processes), tmp_path / "whole"
    whole.mkdir()
    code, output = run(training(write_config(whole, images), processes))
    assert code == 0, output
    assert len(steps(whole / "run")) == {1: UPDATES, 2: UPDATES_OF_TWO}[processes]
    kills = 0
    for number in itertools.count():
        folder = tmp_path / str(number)
        folder.mkdir()
        arguments = training(write_config(folder, images), processes)
        while kills < KILLS[kind]:
            with started(arguments) as process:
                wait_for_a_moment(process, folder / "run", rng)
                if not kill_one(process, rng):
                    assert process.returncode == 0
                    break
            kills += 1
        code, output = run(arguments)
        assert code == 0, output
        check_as_never_killed(folder / "run", whole / "run")
        if kills == KILLS[kind]:
            break
    print(f"{kind}: {kills} kills in {number + 1} runs, all with the same bits")


# --- commands that write files ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """A command that writes into ``folder``: its arguments to write what is ``old`` and what is ``new`` there.

    ``state`` reads what is there as a user would, with every sum checked: a sum for each file that stands alone.
    """

    folder: Path
    old: list[str]
    new: list[str]

    def state(self):
        raise NotImplementedError


class Conversion(Written):
    def state(self):
        arrays, manifest = weight_files.read(self.folder / "model.pdparams")
        assert manifest is not None
        return (_sum(*(arrays[name].tobytes() for name in sorted(arrays))),)


class Export(Written):
    def state(self):
        place = self.folder / "exported"
        if not place.exists():  # killed between two renames: the next export brings back what was set aside
            (place,) = self.folder.glob(".exported.*.old")
        record = read_record(place)
        return (_sum(json.dumps(record.files, sort_keys=True).encode(), record.weights["sha256"].encode()),)


class Report(Written):
    def state(self):
        return tuple(_sum((self.folder / name).read_bytes()) for name in ("report.json", "report.html"))


def _sum(*parts):
    return hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two sets of weights, as timm's files and converted."""
    folder = tmp_path_factory.mktemp("sources")
    for number in (0, 1):
        weights = {name: array + number for name, array in timm_weights(SMALL).items()}
        write_safetensors(folder / f"{number}.safetensors", weights)
        save_small(folder / f"{number}.pdparams", seed=number)
    return folder


def converting(folder, sources):
    def arguments(number):
        names = ["--checkpoint", str(sources / f"{number}.safetensors"), "--output", str(folder / "model.pdparams")]
        return [sys.executable, "convert/timm2paddle.py", "--model", SMALL, "--no-verify", *names]

    return Conversion(folder, arguments(0), arguments(1))


def exporting(folder, sources):
    def arguments(number):
        names = ["--checkpoint", str(sources / f"{number}.pdparams"), "--output", str(folder / "exported")]
        return [sys.executable, "-m", "paddle_dla.export", "--overwrite", *names]

    return Export(folder, arguments(0), arguments(1))


def reporting(folder, sources):
    def arguments(size):
        outputs = ["--json", str(folder / "report.json"), "--html", str(folder / "report.html")]
        return [sys.executable, "alignment/check_forward.py", "--model", SMALL, "--input-size", str(size), *outputs]

    return Report(folder, arguments(32), arguments(64))


def entries(folder, hidden):
    """Every file below, with what changes when it is written; those that are still ``hidden``, too."""
    found = {}
    for place, folders, files in os.walk(folder):  # which does not mind what goes meanwhile
        if not hidden:
            folders[:] = [name for name in folders if not name.startswith(".")]
            files = [name for name in files if not name.startswith(".")]
        for name in (*folders, *files):
            with suppress(FileNotFoundError):
                status = os.lstat(os.path.join(place, name))
                found[place, name] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def wait_until_it_writes(process, folder, rng, seconds):
    """Any moment of the run, or soon after it has begun to write, or at once after something is in its place."""
    kind, end = rng.choice(["any", "any", "begun", "placed"]), time.monotonic() + rng.uniform(0, seconds)
    before = entries(folder, hidden=kind == "begun")
    while process.poll() is None:
        if time.monotonic() > end if kind == "any" else entries(folder, hidden=kind == "begun") != before:
            break
        time.sleep(0.0005)
    if kind == "begun":
        time.sleep(rng.choice([0, 0.001, 0.01, 0.1]) * rng.random())


@pytest.mark.parametrize("kind", ["convert", "export", pytest.param("report", marks=pytest.mark.torch)])
def test_killed_writers_leave_the_old_or_the_new(tmp_path, sources, kind):
    rng = random.Random(kind)
    written = {"convert": converting, "export": exporting, "report": reporting}[kind](tmp_path / "out", sources)
    written.folder.mkdir()
    began = time.monotonic()
    known = {}
    for name in ("new", "old"):
        code, output = run(getattr(written, name))
        assert code == 0, output
        known[name] = written.state()
    seconds, kills, left = (time.monotonic() - began) / 2, 0, Counter()
    while kills < KILLS[kind]:
        with started(written.new) as process:
            wait_until_it_writes(process, written.folder, rng, seconds)
            killed = process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.communicate()
        state = written.state()
        assert all(part in parts for part, *parts in zip(state, *known.values()))
        if killed:
            kills += 1
            left["the old" if state == known["old"] else "the new" if state == known["new"] else "one of each"] += 1
        if state != known["old"]:  # so that the next kill can be told
            code, output = run(written.old)
            assert code == 0, output
    code, output = run(written.new)
    assert code == 0, output
    assert written.state() == known["new"]
    assert list(written.folder.rglob(".*")) == []
    print(f"{kind}: {kills} kills left {dict(left)}, nothing else")
