"""Several processes as one job: whatever goes wrong, it ends, names the rank, and leaves nothing behind."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from each import each
from small_runs import ROOT, children, ended, environment, wait_for

from paddle_dla.launch import Job, log_folder, main, output_folder, parser
from paddle_dla.launching import one_rank
from paddle_dla.launching.ends import ending_signals
from paddle_dla.launching.fault import culprit, explain, how
from paddle_dla.launching.heartbeat import Beat, Heartbeat, read_beat
from paddle_dla.launching.master import is_taken
from paddle_dla.launching.one_rank import Guardian, forget_environment
from paddle_dla.launching.ranks import RankState, read_states

JOB = Path(__file__).with_name("job.py")
SECRET = "a-token-that-nobody-may-find"
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def launched(tmp_path, *job, nproc=2, **options):
    """The launcher with ``job`` as its script's arguments, everything temporary under ``tmp_path``."""
    for folder in ("temporary", "logs"):
        (tmp_path / folder).mkdir(exist_ok=True)
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "paddle_dla.launch", "--nproc", str(nproc), "--logs", str(tmp_path / "logs")]
    return subprocess.Popen(
        [*command, *arguments, str(JOB), *job],
        env={**environment(), "SECRET": SECRET, "TMPDIR": str(tmp_path / "temporary")},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def text_of(tmp_path, rank):
    return log_of(tmp_path, rank).read_text()


def log_of(tmp_path, rank):
    """The log of a rank in the newest launch; it may not be there yet."""
    return (tmp_path / "logs" / "latest").resolve() / f"rank{rank}.log"


def running(tmp_path):
    """Processes of this job that still run, by the path in their command line."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                command = (folder / "cmdline").read_text(errors="replace")
                environment = (folder / "environ").read_text(errors="replace")
            except OSError:
                continue
            if str(tmp_path / "temporary") in environment and command:
                found.append(command)
    return found


def nothing_is_left(tmp_path):
    """No process, no temporary file, no copy of the environment."""
    deadline = time.monotonic() + 20
    while running(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.2)
    copies = [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    return (running(tmp_path), copies) == ([], [])


# --- jobs ------------------------------------------------------------------------------------------------------------


@linux
@pytest.mark.slow
def test_a_job_that_goes_well_says_what_its_first_rank_says(tmp_path):
    code, out, err = ended(launched(tmp_path, "well"))
    assert (code, err) == (0, "")
    assert "step 5: 3.0" in out and out == text_of(tmp_path, 0)
    assert "step 5: 3.0" in text_of(tmp_path, 1)
    assert nothing_is_left(tmp_path) and list((tmp_path / "temporary").iterdir()) == []


ENDS = {
    "raise": (1, "ended with exit code 1", "ValueError: the label is out of range"),
    "kill": (137, "died of signal 9 (SIGKILL)", "step 2: 3.0"),
    "stop": (124, "no sign of life for ", "step 2: 3.0"),
    "sleep": (124, "no sign of life for ", "in go_wrong"),
}
# what Paddle's launcher and gloo make of a rank that has ended, and of one that is silent, is as much as they add
SEEN_BY_PADDLE = ("kill", "stop")


@linux
@pytest.mark.slow
@pytest.mark.parametrize("way", each(ENDS, SEEN_BY_PADDLE))
def test_a_rank_that_goes_wrong_ends_the_job_and_is_named(tmp_path, way):
    expected, end, last = ENDS[way]
    code, _, err = ended(launched(tmp_path, way, hang_timeout=3) if expected == 124 else launched(tmp_path, way))
    first = err.splitlines()[0]
    assert first.startswith("error: rank 1 (pid ") and end in first
    assert code == expected
    assert last in err and f"the last lines of {log_of(tmp_path, 1)}:" in err
    assert nothing_is_left(tmp_path) and list((tmp_path / "temporary").iterdir()) == []


def started(tmp_path, *job, **options):
    """A launched job once its ranks are at work."""
    process = launched(tmp_path, *job, **options)
    while not log_of(tmp_path, 1).exists() or "step 1" not in text_of(tmp_path, 1):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    return process


@linux
@pytest.mark.slow
@pytest.mark.parametrize("number", each([signal.SIGTERM, signal.SIGHUP], {signal.SIGTERM}))
def test_a_signal_to_end_lets_the_ranks_save(tmp_path, number):
    process = started(tmp_path, "slow", "600")
    began = time.monotonic()
    process.send_signal(number)
    code, _, err = ended(process)
    assert (code, err) == (128 + number, f"stopped by {number.name}\n")
    assert "\nsaved\n" in text_of(tmp_path, 0) and "\nsaved\n" in text_of(tmp_path, 1)
    assert time.monotonic() - began < 20
    assert nothing_is_left(tmp_path)


def test_under_nohup_a_terminal_that_is_closed_ends_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP not in ending_signals()
    finally:
        signal.signal(signal.SIGHUP, before)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("which", each(["ours", "Paddle's"], {"Paddle's"}))
def test_killing_a_launcher_leaves_nothing_running_and_no_copy_of_the_environment(tmp_path, which):
    process = started(tmp_path, "slow", "600")
    if which == "ours":
        process.kill()
        process.communicate()
    else:
        (paddles,) = children(process.pid)
        os.kill(paddles, signal.SIGKILL)
        code, _, err = ended(process)
        assert code == 137 and err.startswith("error: Paddle's launcher failed or was killed")
    assert nothing_is_left(tmp_path)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.heavy), 1])
def test_killing_the_guardian_of_a_rank_names_the_rank(tmp_path, rank):
    process = started(tmp_path, "slow", "600")
    (paddles,) = children(process.pid)
    (guardian,) = [pid for pid in children(paddles) if variables(pid)["PADDLE_TRAINER_ID"] == str(rank)]
    os.kill(guardian, signal.SIGKILL)
    code, _, err = ended(process)
    assert code == 137
    assert err.startswith(f"error: rank {rank} (pid ") and "guardian" in err.splitlines()[0]
    assert nothing_is_left(tmp_path) and list((tmp_path / "temporary").iterdir()) == []


@linux
@pytest.mark.heavy
def test_a_job_that_is_suspended_as_a_whole_goes_on(tmp_path):
    """As a scheduler does it; gloo's 30 seconds are not asked for."""
    process = started(tmp_path, "slow", "30", hang_timeout=4)
    everything = [process.pid]
    for pid in everything:
        everything += children(pid)
    for number, seconds in ((signal.SIGSTOP, 8), (signal.SIGCONT, 0)):
        for pid in everything:
            os.kill(pid, number)
        time.sleep(seconds)
    code, out, err = ended(process)
    assert (code, err) == (0, "") and "step 29: 3.0" in out


def variables(pid):
    """The environment of a process."""
    lines = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(line.split("=", 1) for line in lines if "=" in line)


@linux
@pytest.mark.heavy
def test_a_launch_goes_on_without_its_logs(tmp_path):
    process = started(tmp_path, "slow", "30")
    shutil.rmtree(tmp_path / "logs")
    code, out, err = ended(process)
    assert (code, err) == (0, "") and "step 29: 3.0" in out


@linux
@pytest.mark.heavy
def test_launches_at_once_with_the_same_logs_have_a_folder_each(tmp_path):
    jobs = [launched(tmp_path, way) for way in ("well", "raise")]
    ends = [ended(job) for job in jobs]
    assert [code for code, *_ in ends] == [0, 1]
    assert "ValueError" not in ends[0][1] and "ValueError" in ends[1][2]
    folders = [path for path in (tmp_path / "logs").iterdir() if not path.is_symlink()]
    assert sorted("ValueError" in (folder / "rank1.log").read_text() for folder in folders) == [False, True]


# --- limits, as they are by default: gloo's 30 seconds come before --hang-timeout's 600 -----------------------------


@linux
@pytest.mark.heavy
@pytest.mark.parametrize("way", ["stop", "sleep"])
def test_a_rank_that_another_gave_up_waiting_for_is_named(tmp_path, way):
    code, _, err = ended(launched(tmp_path, way))
    assert code == 124
    assert err.startswith("error: rank 1 (pid ") and "no sign of life for 3" in err.splitlines()[0]
    assert ("a signal has stopped it" in err) == (way == "stop")
    assert nothing_is_left(tmp_path) and list((tmp_path / "temporary").iterdir()) == []


@linux
@pytest.mark.heavy
def test_ranks_that_meet_wait_longer_than_gloo_allows(tmp_path):
    code, out, err = ended(launched(tmp_path, "late"))
    assert (code, err) == (0, "")
    assert "[0, 1]" in out


@linux
@pytest.mark.slow
@pytest.mark.parametrize("launcher", [pytest.param("ours", marks=pytest.mark.heavy), "Paddle's"])
def test_a_rank_that_ends_is_named_to_those_that_wait_in_a_meeting(tmp_path, launcher):
    if launcher == "ours":
        code, _, err = ended(launched(tmp_path, "leave", nproc=3))
        assert code == 7 and err.startswith("error: rank 1 (pid ")
    else:
        paddles = ["-m", "paddle.distributed.launch", "--nproc_per_node=3", f"--log_dir={tmp_path}/logs"]
        command = [sys.executable, *paddles, str(JOB), "leave"]
        done = subprocess.run(command, env=environment(), capture_output=True, check=False)
        assert done.returncode != 0
        assert "LostRankError: the connection to rank 1 is lost" in (tmp_path / "logs" / "workerlog.0").read_text()


@linux
@pytest.mark.slow
def test_paddles_launcher_alone_leaves_the_environment_behind(tmp_path):
    """What the tests above look for would be found: if this fails, Paddle has changed."""
    (tmp_path / "empty.py").touch()
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node=1", f"--log_dir={tmp_path}/log"]
    secret = {**environment(), "SECRET": SECRET}
    subprocess.run([*command, str(tmp_path / "empty.py")], env=secret, capture_output=True, check=True)
    assert not nothing_is_left(tmp_path)


# --- whose fault -----------------------------------------------------------------------------------------------------

LOST = "RuntimeError: [gloo/transport/tcp/pair.cc:576] Read error [127.0.0.1]:3281: Connection reset by peer\n"


GAVE_UP = "error: [gloo/transport/tcp/unbound_buffer.cc:133] TIMEOUT self_rank = -1 pair_rank = none\n"
RAISED = "ValueError: no\n"


@pytest.fixture
def state(tmp_path):
    def make(rank, code=None, ended=0.0, printed="step 1\n", **more):
        log = tmp_path / f"rank{rank}.log"
        log.write_text(printed)
        return RankState(rank, 4, rank, os.getpid(), "here", str(log), code, ended, **more)

    return make


ASKED = {"asked": True}
SILENT = {"asked": True, "silent": 30.0}
HUNG = {"hung": True, "silent": 600.0}
# rank, code, when it ended, its last line, and what its guardian has seen
CASES = {
    "killed, then the other lost it": ([(0, 1, 2.0, LOST), (1, -9, 1.0, "")], 1),
    "raised, but the other was faster to end": ([(0, 1, 1.0, LOST), (1, 1, 2.0, RAISED)], 1),
    "raised, then the launcher ended the other": ([(0, -15, 2.0, "", ASKED), (1, 1, 1.0, RAISED)], 1),
    "raised, and the launcher was faster to end the other": ([(0, -15, 0.9, "", ASKED), (1, 1, 1.0, RAISED)], 1),
    "raised, then the other's guardian was killed in the end": ([(0, None, 0.0, "", ASKED), (1, 1, 1.0, RAISED)], 1),
    "the first lost a peer, the launcher ended the other": ([(0, 1, 1.0, LOST), (1, -15, 2.0, "", ASKED)], 0),
    "both raised": ([(0, 1, 2.0, RAISED), (1, 1, 1.0, RAISED)], 1),
    "both were done": ([(0, 0, 2.0, ""), (1, 0, 1.0, "")], None),
    "one goes on": ([(0, None, 0.0, "", ASKED), (1, 3, 1.0, "")], 1),
    "its guardian was killed": ([(0, 1, 1.0, LOST), (1, None, 0.0, "")], 1),
    "its guardian was killed, the launcher ended the other": ([(0, -15, 1.0, "", ASKED), (1, None, 0.0, "")], 1),
    "hung, the launcher ended the other": ([(0, -15, 9.0, "", ASKED), (1, -9, 8.0, "", HUNG)], 1),
    "hung, the other waited in a collective": (
        [(0, -9, 8.0, "", {**HUNG, "step": 5}), (1, -9, 8.1, "", {**HUNG, "step": 4})], 1),
    "both hung in one step, one was stopped": (
        [(0, -9, 8.0, "", HUNG), (1, -9, 8.1, "", {**HUNG, "stopped": True})], 1),
    "both hung in one step, one for longer": (
        [(0, -9, 8.0, "", HUNG), (1, -9, 8.1, "", {**HUNG, "silent": 601.0})], 1),
    "raised, and the other waited until it counted as hung": ([(0, -9, 8.0, "", HUNG), (1, 1, 7.0, RAISED)], 1),
    "hung, and the other raised for that": ([(0, -9, 8.0, "", HUNG), (1, 1, 9.0, RAISED)], 0),
    "the other gave up, the launcher ended it": ([(0, 1, 31.0, GAVE_UP), (1, -15, 32.0, "", SILENT)], 1),
    "the other gave up, its guardian was killed": ([(0, 1, 31.0, GAVE_UP), (1, None, 0.0, "", SILENT)], 1),
    "the other gave up on one that was stopped": (
        [(0, 1, 31.0, GAVE_UP), (1, -9, 32.0, "", {**ASKED, "stopped": True})], 1),
    "one gave up, another lost that one first": (
        [(0, 1, 31.0, GAVE_UP), (1, -9, 34.0, "", SILENT), (2, 1, 30.9, LOST)], 1),
    "gave up on another node, its neighbour is alive": ([(0, 1, 31.0, GAVE_UP), (1, -15, 32.0, "", ASKED)], 0),
    "lost a third while another was in a long step": ([(0, 1, 31.0, LOST), (1, -15, 32.0, "", SILENT)], 0),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_rank_at_fault_is_the_first_that_did_not_fail_because_of_another(state, case):
    ends, expected = CASES[case]
    found = culprit([state(*end[:4], **(end[4] if len(end) > 4 else {})) for end in ends])
    assert (found and found.rank) == expected


def test_a_node_whose_rank_only_lost_a_peer_points_to_the_others(state):
    _, lines = explain([state(1, 1, 1.0, LOST)])
    assert lines[1] == "a rank of another node went first: its node's output says why"


def test_where_all_ranks_are_here_no_other_node_is_blamed(state):
    _, lines = explain([state(rank, 1, 1.0 + rank, LOST) for rank in range(4)])
    assert not any("another node" in line for line in lines)


def test_a_rank_that_was_waited_for_in_vain_hangs(state):
    awaited = state(1, -9, 34.0, "step 4\n", asked=True, silent=31.2, step=4, place="exchange", stopped=True)
    code, lines = explain([state(0, 1, 31.0, GAVE_UP), awaited])
    assert code == 124
    assert lines[0].startswith("error: rank 1 ")
    assert lines[0].endswith("no sign of life for 31 s, the last at step 4, exchange; a signal has stopped it")
    assert lines[-1].startswith("then rank 0 ") and lines[-1].endswith("exit code 1")


def test_a_rank_in_a_long_step_does_not_hang_when_another_raises(state):
    code, lines = explain([state(0, 1, 31.0, RAISED), state(1, -15, 32.0, "", **SILENT)])
    assert code == 1
    assert lines[-1].startswith("then rank 1 ") and "died of signal 15" in lines[-1]


def test_a_rank_whose_guardian_was_killed_counts_as_killed(state):
    code, lines = explain([state(0, 1, 1.0, LOST), state(1)])
    assert code == 137 and "guardian" in lines[0]


def test_the_end_of_a_rank_in_words(state):
    assert how(state(0, -11, 1.0)) == "died of signal 11 (SIGSEGV)"
    assert how(state(0, 3, 1.0)) == "ended with exit code 3"


def test_what_is_said_ends_with_the_other_ranks(state):
    code, lines = explain([state(0, 1, 2.0, LOST), state(1, -9, 1.0, "step 7\n")])
    assert code == 137
    assert lines[0].startswith(
        f"error: rank 1 (pid {os.getpid()}, node here) died of signal 9 (SIGKILL); out of memory"
    )
    assert lines[2] == "    step 7" and lines[-1].startswith("then rank 0")


def test_what_is_known_of_ranks_is_read_back_in_order(state, tmp_path):
    written = [state(10), state(2, -9, 1.5)]
    for one in written:
        one.write(tmp_path)
    assert read_states(tmp_path) == written[::-1]


# --- a guardian ------------------------------------------------------------------------------------------------------

BEATS = """
import sys, time
from paddle_dla.launching.heartbeat import Heartbeat
heart = Heartbeat(sys.argv[1])
"""
WORKS = "[(heart.beat('exchange', step), time.sleep(0.05)) for step in range(30)]\n"
LIVES = {
    "works": (BEATS + WORKS, 0),
    "works without a beat": ("import time; time.sleep(1.5)", 0),
    "is done and lives on": (BEATS + "heart.beat('exchange', 3); heart.close(); time.sleep(1.5)", 0),
    "has a minute before its first step": (BEATS + "heart.beat('opening'); time.sleep(1.5)", 0),
    "hangs": (BEATS + "heart.beat('exchange', 3); time.sleep(60)", -9),
}


@pytest.fixture
def guarded(tmp_path, monkeypatch):
    """A function that starts a program with a guardian; its stacks go to ``tmp_path / "log"``."""
    monkeypatch.setattr(one_rank, "STACKS", 0.3)
    started = []

    def make(program):
        beats, log = tmp_path / "rank1.beat", tmp_path / "log"
        with open(log, "wb") as output:
            child = subprocess.Popen([sys.executable, "-c", program, str(beats)], stderr=output, env=environment())
        started.append(child)
        return Guardian(child, RankState(1, 4, 1, child.pid, "here", str(log)), tmp_path, beats)

    yield make
    for child in started:
        child.kill()
        child.wait()


@linux
@pytest.mark.parametrize("life", LIVES)
def test_a_rank_hangs_that_is_silent_after_its_first_step(tmp_path, guarded, life):
    program, expected = LIVES[life]
    guardian = guarded(program)
    assert guardian.watch(timeout=0.8) == expected
    assert read_states(tmp_path) == [guardian.state]
    assert (guardian.state.code, guardian.state.hung) == (expected, expected != 0)
    if expected:
        assert guardian.state.silent == pytest.approx(0.9, abs=0.2)
        assert (guardian.state.step, guardian.state.place) == (3, "exchange")
        assert "most recent call first" in (tmp_path / "log").read_text()


@linux
def test_without_a_limit_no_rank_hangs(guarded):
    guardian = guarded(BEATS + "heart.beat('exchange', 3); time.sleep(1.5)")
    assert guardian.watch(timeout=0) == 0


@linux
@pytest.mark.parametrize("program", ["import time; time.sleep(60)", BEATS + "heart.close(); time.sleep(60)"])
def test_a_stopped_rank_hangs_wherever_it_was(tmp_path, guarded, program):
    guardian = guarded(program)
    if "heart" in program:
        wait_for((tmp_path / "rank1.beat").exists)
    os.kill(guardian.state.pid, signal.SIGSTOP)
    assert guardian.watch(timeout=0.8) == -signal.SIGKILL
    assert guardian.state.stopped and guardian.state.hung


@linux
def test_a_rank_that_was_stopped_for_a_while_does_not_hang(guarded):
    guardian = guarded("import time; time.sleep(1.5)")
    os.kill(guardian.state.pid, signal.SIGSTOP)
    threading.Timer(0.5, os.kill, (guardian.state.pid, signal.SIGCONT)).start()
    assert guardian.watch(timeout=5) == 0
    assert not guardian.state.stopped


@linux
def test_a_rank_is_asked_to_end_once(tmp_path, guarded):
    counts = """
import signal
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
heart.beat("ready")
while not asked:
    time.sleep(0.05)
time.sleep(0.5)
sys.exit(len(asked))
"""
    guardian = guarded(BEATS + counts)
    wait_for(lambda: read_beat(tmp_path / "rank1.beat"))
    guardian.ask()
    guardian.ask()
    assert guardian.watch(timeout=30) == 1
    assert guardian.state.asked


def test_without_a_guardian_a_heartbeat_does_nothing(monkeypatch):
    monkeypatch.delenv("PADDLE_DLA_HEARTBEAT", raising=False)
    heart = Heartbeat.from_environment()
    heart.beat("exchange", 1)
    heart.close()
    assert not heart.is_heard


@pytest.mark.parametrize("place", ["", "x" * 1000, "größe " * 100, '"\\' * 100])
def test_a_beat_is_always_read_whole(tmp_path, place):
    heart = Heartbeat(tmp_path / "beat")
    heart.beat(place, 10**12)
    assert read_beat(tmp_path / "beat").step == 10**12
    heart.beat("", 1)
    assert read_beat(tmp_path / "beat") == Beat(2, 1, "")
    heart.beat()
    assert read_beat(tmp_path / "beat") == Beat(3, 1, "")
    heart.close()
    assert read_beat(tmp_path / "beat") is None


def test_the_first_rank_is_shown_even_if_it_starts_last(tmp_path, state, capsysbinary):
    job = Job(parser().parse_args([str(JOB)]), tmp_path, tmp_path)
    second = state(1, printed="of rank 1\n")
    job._show([second])
    job._show([state(0, printed="of rank 0\n"), second])
    job._show([state(0, printed="of rank 0\nmore\n"), second])
    assert capsysbinary.readouterr().out == b"of rank 0\nmore\n"


# --- the command line ------------------------------------------------------------------------------------------------


def test_logs_go_to_the_output_folder_of_the_training():
    arguments = ["--config", str(ROOT / "configs" / "dla60.yaml"), "-o", "train.epochs=3", "train.output=here"]
    assert output_folder(arguments) == Path("here")
    assert output_folder([*arguments, "--output", "there"]) == Path("there")
    assert output_folder(["--other", "thing"]) == Path()


CONFIGURED = ["--config", str(ROOT / "configs" / "dla60.yaml"), "-o", "train.output=here"]


@pytest.mark.parametrize(("program", "arguments", "expected"), [
    ("train", CONFIGURED, "here/logs"),
    ("my_script.py", CONFIGURED, "here/logs"),
    ("evaluate", CONFIGURED, "here/logs/evaluate"),
    ("evaluate", ["--checkpoint", "dla60.pdparams"], "logs/evaluate"),
])  # fmt: skip
def test_an_evaluation_leaves_the_logs_of_the_training_alone(program, arguments, expected):
    assert log_folder(program, arguments) == Path(expected)


@pytest.mark.parametrize("program", ["train", "evaluate"])
def test_a_command_runs_as_a_module_with_its_own_arguments(tmp_path, program):
    args = parser().parse_args(["--nproc", "2", program, "--nproc", "3"])
    assert Job(args, tmp_path, tmp_path).command()[-4:] == ["-m", f"paddle_dla.{program}", "--nproc", "3"]


def test_a_mistake_in_the_config_is_told_once_and_before_anything_is_started(capsys):
    config = str(ROOT / "configs" / "dla60.yaml")
    assert main([str(JOB), "--config", config, "-o", "train.epochz=3"]) == 1
    assert "train.epochs" in capsys.readouterr().err


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.0 404 Not Found\r\n\r\n", None])
def test_a_master_that_another_program_listens_on_is_refused_before_anything_waits(answer):
    """``None``: a program that takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                if answer is None:
                    connection.recv(1000)
                    time.sleep(1)
                else:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        assert is_taken(f"127.0.0.1:{server.getsockname()[1]}", patience=0.5)
        thread.join()


def test_a_master_that_is_free_or_a_launcher_is_joined():
    from paddle.distributed.launch.utils.kv_server import KVServer

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert not is_taken(f"127.0.0.1:{port}")
    launcher = KVServer(port)
    launcher.start()
    try:
        assert not is_taken(f"127.0.0.1:{port}")
    finally:
        launcher.stop()


@pytest.mark.parametrize("text", ["10.0.0.1", "10.0.0.1:", ":29500", "10.0.0.1:x", "10.0.0.1:70000"])
def test_a_master_is_an_address(text, capsys):
    with pytest.raises(SystemExit):
        main(["--nnodes", "2", "--master", text, "--node-ip", "10.0.0.1", "train"])
    assert "IP:PORT" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["--master", "--node-ip"])
def test_several_nodes_need_to_know_each_other(capsys, missing):
    given = {"--nnodes": "2", "--master": "10.0.0.1:29500", "--node-ip": "10.0.0.2"}
    del given[missing]
    with pytest.raises(SystemExit) as caught:
        main([*(f"{name}={value}" for name, value in given.items()), str(JOB), "well"])
    assert caught.value.code == 2
    assert "several nodes need --master IP:PORT" in capsys.readouterr().err


@pytest.mark.parametrize("program", ["missing.py", "predict"])
def test_what_is_neither_a_command_for_ranks_nor_a_file_is_refused(capsys, program):
    with pytest.raises(SystemExit) as caught:
        main([program])
    assert caught.value.code == 2
    assert f"{program} is neither train nor evaluate nor a file" in capsys.readouterr().err


def test_arguments_of_the_program_are_its_own():
    args = parser().parse_args(["--nproc", "2", "train.py", "--nproc", "3", "-o", "a=b"])
    assert (args.nproc, args.arguments) == (2, ["--nproc", "3", "-o", "a=b"])


def test_the_shell_script_hands_everything_on(tmp_path):
    """``python`` replaced by one that tells what it was called with."""
    spy = tmp_path / "python"
    spy.write_text('#!/bin/sh\necho "$GLOO_SOCKET_IFNAME $NCCL_SOCKET_IFNAME"\nfor word; do echo "$word"; done\n')
    spy.chmod(0o755)
    places = {"NPROC": "2", "NNODES": "3", "MASTER": "10.0.0.1:29500", "NODE_IP": "10.0.0.2", "NIC": "eth0"}
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **places}
    command = [str(ROOT / "scripts" / "train_dist.sh"), "--config", "a b.yaml"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    interface, *words = done.stdout.splitlines()
    assert interface == "eth0 eth0"
    told = ["--nproc", "2", "--nnodes", "3", "--master", "10.0.0.1:29500", "--node-ip", "10.0.0.2"]
    assert words == ["-m", "paddle_dla.launch", *told, "train", "--config", "a b.yaml"]


def test_the_environments_copies_are_removed_and_read_first(tmp_path, monkeypatch):
    for name in ("envlog.0", "default.abcdef.log"):
        (tmp_path / name).write_text(SECRET)
    (tmp_path / "backup_env.0.json").write_text('{"LONG": "x", "HOME": "other"}')
    monkeypatch.setenv("PADDLE_BACKUP_ENV_PATH", str(tmp_path / "backup_env.0.json"))
    environment = forget_environment(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert environment["LONG"] == "x" and environment["HOME"] == os.environ["HOME"]
    assert "PADDLE_BACKUP_ENV_PATH" not in environment
