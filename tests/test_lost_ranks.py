"""A rank that is stopped or killed under the launcher is named, in training and in evaluation, wherever it was."""

import os
import signal
import subprocess
import sys

import pytest

pytest.importorskip("yaml")

from each import each
from odd_images import drawing, encode
from pictures import write_tree
from small_models import CLASSES, save_small
from small_runs import command, ended, environment, make_images, pid_of, steps, wait_for, write_config

from paddle_dla.launching.heartbeat import read_beat
from paddle_dla.launching.ranks import read_states

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a guardian sees a rank stop on Linux"),
]
EACH = 100 // CLASSES  # images of a class


def picture(seed):
    return encode(drawing(40, 47, seed), "PNG")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_small(tmp_path_factory.mktemp("weights") / "small.pdparams", "dla46x_c")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    counts = {f"c{label:02}": EACH for label in range(CLASSES)}
    return write_tree(tmp_path_factory.mktemp("data") / "val", counts, picture)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"))


def launched(folder, *arguments, hang_timeout=None):
    """A job of two ranks whose temporary files are in ``folder/temporary``."""
    (folder / "temporary").mkdir(exist_ok=True)
    limit = [] if hang_timeout is None else ["--hang-timeout", str(hang_timeout)]
    return subprocess.Popen(
        [sys.executable, "-m", "paddle_dla.launch", "--nproc", "2", *limit, *map(str, arguments)],
        cwd=folder,
        env={**environment(), "TMPDIR": str(folder / "temporary")},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def evaluation(folder, weights, tree, **options):
    loading = ["--workers", 0, "--threads", 1, "--batch-size", 1]
    return launched(folder, "evaluate", "--checkpoint", weights, "--data", tree, *loading, **options)


def private(folder):
    """The job's own folder, which its ranks beat in."""
    return next((folder / "temporary").glob("paddle-dla-*"), None)


def started(folder):
    """The second rank's process, as soon as there is one."""
    return wait_for(lambda: next((state.pid for state in known(folder) if state.rank == 1), None))


def known(folder):
    return read_states(private(folder)) if private(folder) else []


def evaluating(folder, images=5):
    """The second rank's process, once it has evaluated some images."""

    def has_come_far():
        beat = read_beat(private(folder) / "rank1.beat") if private(folder) else None
        return started(folder) if beat and beat.place == "evaluation" and beat.step >= images else None

    return wait_for(has_come_far)


def check_named(job, pid, code, words, timeout=240):
    found, _, err = ended(job, timeout)
    assert found == code, err
    first = err.splitlines()[0]
    assert first.startswith(f"error: rank 1 (pid {pid}, ") and words in first
    assert "another node" not in err


MOMENTS = {"before it has joined": started, "while it evaluates": evaluating}


@pytest.mark.heavy
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_rank_that_is_stopped_in_evaluation_is_named(tmp_path, weights, tree, moment):
    job = evaluation(tmp_path, weights, tree, hang_timeout=10)
    pid = MOMENTS[moment](tmp_path)
    os.kill(pid, signal.SIGSTOP)
    check_named(job, pid, 124, "a signal has stopped it")


@pytest.mark.parametrize("moment", each(MOMENTS, {"while it evaluates"}))
def test_a_rank_that_is_killed_in_evaluation_is_named(tmp_path, weights, tree, moment):
    job = evaluation(tmp_path, weights, tree)
    pid = MOMENTS[moment](tmp_path)
    os.kill(pid, signal.SIGKILL)
    check_named(job, pid, 137, "died of signal 9 (SIGKILL)")


@pytest.mark.heavy
def test_a_rank_that_was_stopped_for_a_while_loses_nothing(tmp_path, weights, tree):
    job = evaluation(tmp_path, weights, tree, hang_timeout=20)
    pid = evaluating(tmp_path)
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: any(state.stopped for state in known(tmp_path)))
    os.kill(pid, signal.SIGCONT)
    code, out, err = ended(job)
    assert (code, err) == (0, "")
    assert f"{CLASSES * EACH} images, top-1" in out


@pytest.mark.heavy
def test_two_evaluations_from_one_folder_print_their_own_results(tmp_path, weights, tree):
    fewer = write_tree(tmp_path / "fewer", {f"c{label:02}": 1 for label in range(CLASSES)}, picture)
    jobs = [evaluation(tmp_path, weights, data) for data in (tree, fewer)]
    ends = [ended(job) for job in jobs]
    for (code, out, err), count in zip(ends, (CLASSES * EACH, CLASSES)):
        assert (code, err) == (0, "")
        assert out.count(" images, top-1") == 1 and f": {count} images, top-1" in out


# --- with the limits that are the default ---------------------------------------------------------------------------


@pytest.mark.heavy
def test_a_rank_that_is_stopped_in_evaluation_is_named_by_default(tmp_path, weights, tree):
    job = evaluation(tmp_path, weights, tree)
    pid = evaluating(tmp_path)
    os.kill(pid, signal.SIGSTOP)
    check_named(job, pid, 124, "no sign of life for 60", timeout=900)


@pytest.mark.heavy
def test_a_rank_that_is_stopped_in_training_is_named_by_default(tmp_path, images):
    """Between two steps the launcher's limit counts, within the exchange of gradients gloo's: see test_launch.py."""
    config = write_config(tmp_path, images)
    job = launched(tmp_path, "train", *command(config, "train.epochs=100", "train.recovery_interval=0")[3:])
    wait_for(lambda: len(steps(tmp_path / "run", 1)) >= 3)
    pid = pid_of(tmp_path / "run", 1)
    os.kill(pid, signal.SIGSTOP)
    check_named(job, pid, 124, "a signal has stopped it", timeout=900)
