"""Two nodes train as one process on the whole batch does, lose a rank, and go on: scripts/test_two_nodes.sh."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("yaml")

from two_nodes import TOLERANCE, compare

SCRIPT = Path(__file__).parent.parent / "scripts" / "test_two_nodes.sh"


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)


def refusal():
    """Why there can be no network namespaces here; nothing where there can."""
    if shutil.which("ip") is None:
        return "needs iproute2"
    name = f"dla-probe-{os.getpid()}"
    done = ip("netns", "add", name)
    ip("netns", "del", name)
    return f"needs network namespaces: {done.stderr.strip()}" if done.returncode else ""


def left_behind(pid):
    """The namespaces that are still there of the script that ran as ``pid``."""
    names = [line.split()[0] for line in ip("netns", "list").stdout.splitlines()]
    return [name for name in names if re.fullmatch(rf"dla-(near|far)-{pid}", name)]


def clean(names):
    """Whatever happened to the script: processes in these namespaces end, and the namespaces go."""
    for name in names:
        for process in ip("netns", "pids", name).stdout.split():
            os.kill(int(process), signal.SIGKILL)
        ip("netns", "del", name)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What the script says, which has ended well, and the namespaces that it left."""
    reason = refusal()
    if reason:
        pytest.skip(reason)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PADDLE_")}
    environment |= {"PYTHON": sys.executable, "SECRET": "a-token-that-nobody-may-find", "PYTHONWARNINGS": "ignore"}
    folder = tmp_path_factory.mktemp("nodes")
    command = ["bash", str(SCRIPT), str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    script = subprocess.Popen(command, env=environment, text=True, **pipes)
    try:
        out, err = script.communicate(timeout=400)
    finally:
        script.kill()
        left = left_behind(script.pid)
        clean(left)
    assert script.returncode == 0, out[-6000:] + err[-2000:]
    assert not [path for path in folder.rglob("*") if path.is_file() and b"nobody-may-find" in path.read_bytes()]
    return out, left


@pytest.fixture
def told(run):
    return run[0]


@pytest.mark.heavy
def test_two_nodes_train_as_one_process_on_the_whole_batch(told):
    found = re.search(r"one and two: 10 updates, losses differ by (\S+) relative", told)
    assert float(found[1]) <= TOLERANCE


@pytest.mark.heavy
def test_a_rank_killed_on_one_node_ends_the_job_on_both(told):
    assert "\nkilled: exit codes 1 and 137\n" in told
    assert re.search(r"^    far: error: rank 1 \(pid \d+, node \S+\) died of signal 9", told, re.MULTILINE)
    assert "    near: a rank of another node went first: its node's output says why\n" in told


@pytest.mark.heavy
def test_the_same_command_goes_on_to_the_same_bits(told):
    assert told.endswith("two and killed: 10 updates, losses differ by 0.0e+00 relative at most\n")


@pytest.mark.heavy
def test_nothing_is_left_of_the_nodes(run):
    _, left = run
    assert left == []


def test_what_a_script_leaves_behind_is_found_and_removed():
    if refusal():
        pytest.skip(refusal())
    pid = f"{os.getpid()}0000000"  # of no process: larger than Linux gives
    other = f"dla-near-{pid}1"
    for name in (f"dla-near-{pid}", f"dla-far-{pid}", other):
        ip("netns", "add", name)
    try:
        assert sorted(left_behind(pid)) == [f"dla-far-{pid}", f"dla-near-{pid}"]
        clean(left_behind(pid))
        assert left_behind(pid) == []
        assert other in ip("netns", "list").stdout
    finally:
        clean([*left_behind(pid), other])


# --- the comparison itself -------------------------------------------------------------------------------------------


def write(folder, ranks):
    """A run of 10 updates; ``ranks``: for each, by how much its losses and its gradients are off."""
    folder.mkdir()
    for rank, (loss, norm) in enumerate(ranks):
        records = [{"kind": "train", "step": s, "loss": 2 * (1 + loss), "grad_norm": 1 + norm} for s in range(1, 11)]
        (folder / f"rank{rank}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def test_the_loss_of_a_run_is_the_mean_over_its_ranks(tmp_path, capsys):
    compare(write(tmp_path / "one", [(0, 0)]), write(tmp_path / "two", [(0.25, 0), (-0.25, 0)]))
    assert capsys.readouterr().out == "one and two: 10 updates, losses differ by 0.0e+00 relative at most\n"


def test_losses_that_differ_by_more_than_rounding_are_refused(tmp_path):
    with pytest.raises(SystemExit, match="more than 1e-06"):
        compare(write(tmp_path / "one", [(0, 0)]), write(tmp_path / "two", [(4e-6, 0), (0, 0)]))


def test_ranks_with_different_gradients_are_refused(tmp_path):
    with pytest.raises(SystemExit, match="two: the ranks differ"):
        compare(write(tmp_path / "one", [(0, 0)]), write(tmp_path / "two", [(0, 0), (0, 1e-15)]))
