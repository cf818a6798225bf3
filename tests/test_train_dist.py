"""scripts/train_dist.sh with two real ranks: whatever happens to one, it is named, and the same command goes on."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("yaml")

from small_runs import ROOT, ended, environment, pid_of, steps, wait_for
from two_nodes import compare, prepare

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]
SCRIPT = ROOT / "scripts" / "train_dist.sh"
WAIT = "10"  # seconds without a sign of life: a busy machine may take a few for a step


def started(folder, run, ranks=2):
    """The job, training ``folder/run``."""
    variables = {"NPROC": str(ranks), "HANG_TIMEOUT": WAIT, "PYTHON": sys.executable}
    options = ["-o", f"train.output={folder / run}", f"data.batch_size={8 // ranks}"]
    return subprocess.Popen(
        [str(SCRIPT), "--config", str(folder / "config.yaml"), *options],
        env={**environment(), **variables},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def busy_pid(run, rank):
    """The rank's process, once it has made three updates."""
    wait_for(lambda: len(steps(run, rank)) >= 3)
    return pid_of(run, rank)


def interrupted(folder, run, number):
    """How the job ended in which rank 1 got the signal ``number``, and the rank's process."""
    job = started(folder, run)
    pid = busy_pid(folder / run, 1)
    os.kill(pid, number)
    return (*ended(job), pid)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images, weights, config, and ``whole``: the run that nothing happened to."""
    place = tmp_path_factory.mktemp("dist")
    prepare(place)
    code, _, err = ended(started(place, "whole"))
    assert (code, err) == (0, "")
    return place


STOPPED = (signal.SIGSTOP, 124, f"hangs: no sign of life for {WAIT} s, the last at step ")


@pytest.mark.parametrize(("number", "code", "end"), [
    pytest.param(signal.SIGKILL, 137, "died of signal 9 (SIGKILL)", id="killed"),
    pytest.param(*STOPPED, id="stopped", marks=pytest.mark.heavy),
])  # fmt: skip
def test_a_rank_that_is_lost_is_named_and_the_run_goes_on_to_the_same_bits(folder, number, code, end, capsys):
    run = f"lost{number}"
    found, _, err, pid = interrupted(folder, run, number)
    assert found == code
    assert err.startswith(f"error: rank 1 (pid {pid}, node ") and end in err.splitlines()[0]
    assert ended(started(folder, run))[0] == 0
    compare(folder / "whole", folder / run)
    assert "differ by 0.0e+00 relative" in capsys.readouterr().out


def test_a_run_goes_on_with_another_number_of_ranks_and_says_so(folder):
    interrupted(folder, "fewer", signal.SIGKILL)
    code, out, _ = ended(started(folder, "fewer", ranks=1))
    assert code == 0
    assert "going on from" in out and "not as before: processes: 2 -> 1" in out
    assert [item["step"] for item in steps(folder / "fewer")] == list(range(1, 11))


def test_sigterm_saves_and_the_run_goes_on_to_the_same_bits(folder, capsys):
    job = started(folder, "asked")
    busy_pid(folder / "asked", 0)
    began = time.monotonic()
    job.terminate()
    code, out, err = ended(job)
    assert (code, err) == (128 + signal.SIGTERM, "stopped by SIGTERM\n")
    assert "the same command goes on from" in out and time.monotonic() - began < 25
    assert ended(started(folder, "asked"))[0] == 0
    compare(folder / "whole", folder / "asked")
    assert "differ by 0.0e+00 relative" in capsys.readouterr().out


def test_a_mistake_is_told_once(folder):
    job = subprocess.run(
        [str(SCRIPT), "--config", str(folder / "config.yaml"), "-o", "train.epoch=3"],
        env={**environment(), "NPROC": "2", "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert job.returncode == 1 and job.stderr.count("train.epochs") == 1
