"""One run holds a folder; a folder that is taken away from a run ends it, and what it has learnt is kept."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys

import pytest

pytest.importorskip("yaml")

from each import each
from small_runs import (
    UPDATES,
    children,
    command,
    environment,
    final_files,
    finish,
    kill,
    losses,
    make_images,
    run,
    started,
    steps,
    wait_for,
    write_config,
)

from paddle_dla.storage.errors import CheckpointError
from paddle_dla.training.errors import FolderGoneError, FolderInUseError
from paddle_dla.training.hold import LOCK, Hold, holding
from paddle_dla.training.records import Records, Table

pytestmark = pytest.mark.any_paddle

LONG = "train.epochs=100"
LAUNCH = [sys.executable, "-m", "paddle_dla.launch", "--nproc", "2", "train"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def config(tmp_path, images):
    return write_config(tmp_path, images)


def at_work(process, output, updates=2):
    """Wait until the run has made some updates."""
    wait_for(lambda: process.poll() is not None or len(steps(output)) >= updates)
    assert process.poll() is None, process.communicate()


# --- real processes --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_second_training_into_the_same_folder_is_refused_and_changes_nothing(tmp_path, config):
    with started(command(config)) as first:
        at_work(first, tmp_path / "run")
        code, output = run(command(config, "train.seed=1234"))
        assert code == 1
        assert f"pid {first.pid} " in output and str(tmp_path / "run") in output
        assert finish(first)[0] == 0
    assert len(losses(tmp_path / "run")) == UPDATES
    assert "1234" not in (tmp_path / "run" / "config.yaml").read_text()


@pytest.mark.heavy
def test_of_two_trainings_that_start_together_one_runs_and_is_whole(tmp_path, config, images):
    with started(command(config)) as one, started(command(config, "train.seed=7")) as other:
        ends = [finish(one), finish(other)]
    assert sorted(code for code, _ in ends) == [0, 1]
    seed = "7" if ends[1][0] == 0 else "42"
    alone = tmp_path / "alone"
    alone.mkdir()
    assert run(command(write_config(alone, images), f"train.seed={seed}"))[0] == 0
    assert final_files(tmp_path / "run") == final_files(alone / "run")


@pytest.mark.slow
def test_a_killed_training_leaves_no_lock_behind_though_its_workers_live_on(tmp_path, config):
    with started(command(config, LONG)) as process:
        at_work(process, tmp_path / "run")
        workers = children(process.pid)
        assert workers
        for worker in workers:
            kill(worker, signal.SIGSTOP)  # cannot end by itself
        try:
            process.kill()
            process.wait()
            code, output = run(command(config))
        finally:
            for worker in workers:
                kill(worker, signal.SIGKILL)
    assert code == 0, output
    assert "going on from" in output


@pytest.mark.heavy
def test_a_training_of_two_processes_holds_its_folder_too(tmp_path, config):
    with started([*LAUNCH, *command(config, LONG)[3:]]) as first:
        at_work(first, tmp_path / "run")
        for second in (command(config), [*LAUNCH, *command(config)[3:]]):
            code, output = run(second)
            assert code == 1
            assert "error" in output and str(tmp_path / "run") in output
        assert first.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize("way", each(("removed", "moved", "replaced"), {"removed"}))
def test_a_run_whose_folder_is_taken_away_ends_at_once_and_keeps_what_it_learnt(tmp_path, config, way):
    output = tmp_path / "run"
    with started(command(config, LONG)) as process:
        at_work(process, output)
        if way == "removed":
            shutil.rmtree(output, ignore_errors=True)
        else:
            output.rename(tmp_path / "elsewhere")
        if way == "replaced":
            output.mkdir()
        code, said = finish(process, timeout=60)
    assert code == 1, said
    assert f"{output}" in said and "done" not in said
    newest = max((output / "checkpoints").glob("epoch-*"))
    assert f"the same command goes on from {newest}" in said
    code, said = run(command(config, "train.epochs=2"))
    assert code == 0, said


@pytest.mark.heavy
def test_two_processes_whose_folder_is_removed_keep_what_they_learnt_too(tmp_path, config):
    """The launcher's logs are in that folder, too: what it says does not depend on them."""
    output = tmp_path / "run"
    with started([*LAUNCH, *command(config, LONG)[3:]]) as process:
        at_work(process, output)
        shutil.rmtree(output, ignore_errors=True)
        code, said = finish(process, timeout=60)
    assert code == 1, said
    assert "error" in said and "done" not in said
    newest = max((output / "checkpoints").glob("epoch-*"))
    code, said = run(command(config, "train.epochs=2", processes=2))
    assert code == 0, said
    log = (tmp_path / "launch" / "workerlog.0").read_text()
    assert f"going on from {newest}" in log


@pytest.mark.slow
def test_a_rank_whose_records_are_removed_ends_the_job(tmp_path, config):
    with started([*LAUNCH, *command(config, LONG)[3:]]) as process:
        at_work(process, tmp_path / "run")
        (tmp_path / "run" / "rank1.jsonl").unlink()
        code, said = finish(process, timeout=60)
    assert code == 1, said
    assert "error: rank 1 " in said and str(tmp_path / "run" / "rank1.jsonl") in said


# --- the lock itself -------------------------------------------------------------------------------------------------


def test_of_two_holds_on_a_folder_the_second_is_refused_and_told_who_has_it(tmp_path):
    with holding(tmp_path, first=True), pytest.raises(FolderInUseError) as caught, holding(tmp_path, first=True):
        pass
    assert caught.value.folder == tmp_path and f"pid {os.getpid()} " in caught.value.holder
    with holding(tmp_path, first=True):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_other_ranks_take_no_lock(tmp_path):
    with holding(tmp_path, first=True), holding(tmp_path, first=False) as other:
        other.check()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_ends_with_its_process_though_what_it_started_lives_on(tmp_path, number):
    program = (
        "import subprocess, sys; from pathlib import Path; from paddle_dla.training.hold import Hold; "
        "hold = Hold(Path(sys.argv[1])); hold.take(); child = subprocess.Popen(['sleep', '60']); "
        "print(child.pid, flush=True); child.wait()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
    left = int(process.stdout.readline())
    try:
        with pytest.raises(FolderInUseError):
            Hold(tmp_path).take()
        process.send_signal(number)
        process.wait()
        hold = Hold(tmp_path)
        hold.take()
        hold.release()
    finally:
        kill(left, signal.SIGKILL)
        process.stdout.close()


@pytest.mark.parametrize("filled", [False, True])
def test_folders_that_were_made_for_a_run_go_if_nothing_was_put_there(tmp_path, filled):
    with holding(tmp_path / "a" / "b", first=True) as hold:
        if filled:
            (hold.folder / "config.yaml").touch()
    assert [path.name for path in tmp_path.rglob("*")] == (["a", "b", "config.yaml"] if filled else [])


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_where_there_are_no_locks_it_is_said_and_the_run_goes_on(tmp_path, monkeypatch, number):
    def refuse(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    said = []
    with holding(tmp_path / "run", first=True, say=said.append) as hold:
        hold.check()
    assert len(said) == 1 and list(tmp_path.iterdir()) == []


def test_another_failure_to_lock_is_an_error(tmp_path, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(CheckpointError), holding(tmp_path / "run", first=True):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_whose_file_the_last_holder_has_just_removed_is_taken_anew(tmp_path, monkeypatch):
    flock, removed = fcntl.flock, []

    def late(descriptor, operation):
        if not removed:
            removed.append(True)
            (tmp_path / LOCK).unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with holding(tmp_path, first=True) as hold:
        hold.check()
        assert removed and (tmp_path / LOCK).exists()


@pytest.mark.parametrize("way", ["removed", "moved", "replaced", "lock removed"])
def test_a_folder_that_was_taken_away_is_noticed(tmp_path, way):
    with holding(tmp_path / "run", first=True) as hold:
        hold.check()
        if way == "removed":
            shutil.rmtree(hold.folder)
        elif way == "lock removed":
            (hold.folder / LOCK).unlink()
        else:
            hold.folder.rename(tmp_path / "elsewhere")
        if way == "replaced":
            shutil.copytree(tmp_path / "elsewhere", hold.folder)
        with pytest.raises(FolderGoneError):
            hold.check()


# --- records and tables ----------------------------------------------------------------------------------------------


def replace(path):
    """As an editor saves: another file of the same name."""
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.rename(path)


def test_records_that_would_go_to_a_file_that_is_gone_are_an_error(tmp_path):
    records = Records(tmp_path / "rank0.jsonl", 0)
    records.append({"kind": "train", "step": 1})
    replace(records.path)
    with pytest.raises(FolderGoneError) as caught:
        records.append({"kind": "train", "step": 2})
    assert caught.value.path == records.path
    records.close()


def test_a_table_that_an_editor_has_saved_is_written_anew(tmp_path):
    records = Records(tmp_path / "rank0.jsonl", 0)
    table = Table(tmp_path / "train.csv", records, "train")
    for step in (1, 2, 3):
        record = {"kind": "train", "step": step}
        table.append(record, records.append(record))
        if step == 1:
            replace(tmp_path / "train.csv")
        if step == 2:
            (tmp_path / "train.csv").unlink()
    assert (tmp_path / "train.csv").read_text().split() == ["step", "1", "2", "3"]
    table.close()
    records.close()
