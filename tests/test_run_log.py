"""The log of a run: lines, records, tables and a picture, over kills and resumes."""

import csv
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from paddle_dla.progress import StepClock
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.training import log as log_module
from paddle_dla.training.curves import Curves, trailing_mean
from paddle_dla.training.log import RunLog
from paddle_dla.training.memory import peak_gpu
from paddle_dla.training.records import Records, read_records

TOTAL = 20
FAMILIAR = re.compile(
    r"epoch:\d+, train step:\d+, loss: [\d.]+, lr: [\d.e-]+, batch_cost: \d+\.\d+ s, reader_cost: \d+\.\d+ s, "
    r"ips: \d+\.\d+ images/sec\. eta: \d+:\d\d:\d\d, memory: \d+ MB"
)


DRAW = Curves.draw


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    """Drawing takes its time: only tests of the picture do it, by ``DRAW``."""
    monkeypatch.setattr(Curves, "draw", lambda self, path: None)


def loss(step):
    return 2.5 / step


def run(folder, first, last, rank=0, ranks=1, resumed_at=0, **options):
    """Updates ``first`` to ``last`` of a run with a validation every five; what was printed."""
    stream = io.StringIO()
    log = RunLog(folder, rank, ranks, TOTAL, resumed_at=resumed_at, stream=stream, **options)
    step = first
    clock = StepClock()
    for _ in clock.over([range(8)] * (last - first + 1)):
        log.train_step(step // 10, step, {"loss": loss(step), "lr": 0.1}, clock)
        if step % 5 == 0:
            log.validation(step // 10, step, {"top1": 4.0 * step, "top5": 90.0, "loss": 1.0, "ema_top1": 50.0}, 0.5)
        step += 1
    log.close()
    return stream.getvalue()


def steps(folder, kind="train", rank=0):
    return [record["step"] for record in read_records(folder / f"rank{rank}.jsonl") if record["kind"] == kind]


def rows(file):
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))


# --- lines -----------------------------------------------------------------------------------------------------------


def test_the_familiar_line_is_printed_at_each_interval(tmp_path):
    lines = [line for line in run(tmp_path, 1, 20, interval=5).splitlines() if line.startswith("epoch:")]
    assert [int(re.search(r"train step:(\d+)", line)[1]) for line in lines] == [5, 10, 15, 20]
    assert all(FAMILIAR.fullmatch(line) for line in lines), lines


def test_a_line_after_a_resume_comes_at_the_same_steps(tmp_path):
    printed = run(tmp_path, 8, 20, resumed_at=7, interval=5)
    assert re.findall(r"train step:(\d+)", printed) == ["10", "15", "20"]


def test_a_validation_has_its_line(tmp_path):
    assert "END epoch:0 valid top1: 20, top5: 90, loss: 1, ema_top1: 50, 0.5 s\n" in run(tmp_path, 1, 5)


def test_several_ranks_are_told(tmp_path):
    line = run(tmp_path, 1, 10, ranks=2).splitlines()[-2]
    assert line.endswith(", 2 ranks")


def test_the_estimate_is_what_is_left_at_the_pace_so_far(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(log_module.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    log = RunLog(tmp_path, 1, 2, 1000, resumed_at=400, interval=1, stream=stream)
    now[0] = 220.0  # 120 s for 100 updates: 500 more take 600 s
    log.train_step(0, 500, {"loss": 1.0, "lr": 0.1}, StepClock())
    assert "eta: 0:10:00" in stream.getvalue()


def test_memory_is_the_peak_of_this_process():
    code = """if True:
        from paddle_dla.training.memory import peak_resident
        peaks = [peak_resident()]
        block = bytearray(b"1") * 50 * 2**20
        peaks += [peak_resident()]
        del block
        print(*peaks, peak_resident())
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, with_block, after = (int(number) / 2**20 for number in done.stdout.split())
    # the kernel counts in batches of 64 pages for each thread: well within 2 MiB
    assert with_block - before == pytest.approx(50, abs=2)
    assert after == pytest.approx(with_block, abs=2)


def test_there_is_no_gpu_memory_on_cpu():
    pytest.importorskip("paddle").device.set_device("cpu")
    assert peak_gpu() is None


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_and_what_is_said_stands_above_it(tmp_path):
    pytest.importorskip("tqdm")
    stream = Terminal()
    log = RunLog(tmp_path, 0, 1, 10, resumed_at=4, stream=stream)
    for step in range(5, 11):
        log.train_step(0, step, {"loss": 0.25, "lr": 0.1}, StepClock())
    log.event("note", "half way")
    log.close()
    shown = stream.getvalue()
    assert "4/10" in shown and "10/10" in shown and "loss: 0.25" in shown
    assert "note: half way\n" in shown and "train step" not in shown


# --- records ---------------------------------------------------------------------------------------------------------


def test_every_update_validation_and_event_is_recorded(tmp_path):
    run(tmp_path, 1, 20)
    records = list(read_records(tmp_path / "rank0.jsonl"))
    assert steps(tmp_path) == list(range(1, 21))
    assert steps(tmp_path, "validation") == [5, 10, 15, 20]
    assert records[0]["kind"] == "start" and records[0]["pid"] == os.getpid()
    assert [record["loss"] for record in records if record["kind"] == "train"] == [loss(step) for step in range(1, 21)]


def test_each_rank_has_its_own_file_and_the_first_the_rest(tmp_path):
    run(tmp_path, 1, 5, rank=1, ranks=2)
    assert [file.name for file in tmp_path.iterdir()] == ["rank1.jsonl"]
    run(tmp_path, 1, 5, rank=0, ranks=2)
    names = {"rank0.jsonl", "rank1.jsonl", "train.csv", "validation.csv"}
    assert {file.name for file in tmp_path.iterdir()} - {"visualdl"} == names


def test_a_record_has_the_costs_of_its_own_step(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("paddle_dla.progress.time.perf_counter", lambda: now[0])

    def batches():
        for _ in range(4):
            now[0] += 1.0
            yield range(8)

    log, clock = RunLog(tmp_path, 1, 2, 4, interval=2, stream=io.StringIO()), StepClock()
    for step, _ in enumerate(clock.over(batches()), 1):
        now[0] += step
        log.train_step(0, step, {"loss": 1.0, "lr": 0.1}, clock)
    log.close()
    costs = [r["batch_cost"] for r in read_records(tmp_path / "rank1.jsonl") if r["kind"] == "train"]
    # a step is over when the next batch is asked for: each record has the cost of the step before it
    assert costs == [None, 2.0, 3.0, 4.0]


def test_what_is_not_finite_is_strict_json(tmp_path):
    log = RunLog(tmp_path, 0, 1, 10, stream=io.StringIO())
    log.train_step(0, 1, {"loss": math.nan, "lr": math.inf}, StepClock())
    log.close()
    line = (tmp_path / "rank0.jsonl").read_text().splitlines()[-1]

    def refuse(word):
        raise AssertionError(word)

    assert json.loads(line, parse_constant=refuse)["loss"] is None


def test_numpy_numbers_are_recorded_as_numbers(tmp_path):
    log = RunLog(tmp_path, 0, 1, 10, stream=io.StringIO())
    log.train_step(0, 1, {"loss": np.float32(0.5), "lr": np.array(0.1)}, StepClock())
    log.close()
    assert rows(tmp_path / "train.csv")[0]["loss"] == "0.5"


# --- after a kill ----------------------------------------------------------------------------------------------------


def test_on_resume_each_update_is_there_once(tmp_path):
    run(tmp_path, 1, 13)
    run(tmp_path, 8, 20, resumed_at=7)
    assert steps(tmp_path) == list(range(1, 21))
    assert steps(tmp_path, "validation") == [5, 10, 15, 20]
    assert [int(row["step"]) for row in rows(tmp_path / "train.csv")] == list(range(1, 21))
    assert [int(row["step"]) for row in rows(tmp_path / "validation.csv")] == [5, 10, 15, 20]


def test_were_nothing_dropped_updates_would_be_there_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(Records, "_step", lambda self, record: -math.inf)
    monkeypatch.setattr(Records, "append", lambda self, record: self._file.add(json.dumps(record) + "\n"))
    run(tmp_path, 1, 13)
    run(tmp_path, 8, 20, resumed_at=7)
    assert steps(tmp_path) == [*range(1, 14), *range(8, 21)]


def test_a_validation_that_is_done_again_takes_the_place_of_the_first(tmp_path):
    run(tmp_path, 1, 5)
    log = RunLog(tmp_path, 0, 1, TOTAL, resumed_at=5, stream=io.StringIO())
    log.validation(0, 5, {"top1": 33.0, "loss": 1.0}, 0.5)
    log.close()
    assert [row["top1"] for row in rows(tmp_path / "validation.csv")] == ["33.0"]
    assert steps(tmp_path, "validation") == [5] and steps(tmp_path) == [1, 2, 3, 4, 5]


def test_events_of_earlier_processes_stay(tmp_path):
    for start in (0, 0):
        log = RunLog(tmp_path, 0, 1, TOTAL, resumed_at=start, stream=io.StringIO())
        log.event("note", "hello")
        log.close()
    kinds = [record["kind"] for record in read_records(tmp_path / "rank0.jsonl")]
    assert kinds.count("start") == 2 and kinds.count("event") >= 2


@pytest.mark.parametrize("rest", ['{"kind": "train", "epo', "\x00\x00", '{"kind": "train"', "[]\n", "7\n"])
def test_a_half_written_line_is_dropped(tmp_path, rest):
    run(tmp_path, 1, 5)
    with open(tmp_path / "rank0.jsonl", "a") as file:
        file.write(rest)
    run(tmp_path, 6, 10, resumed_at=5)
    assert steps(tmp_path) == list(range(1, 11))
    for line in (tmp_path / "rank0.jsonl").read_text().splitlines():
        json.loads(line)


KILLED = """
import io, sys
from paddle_dla.progress import StepClock
from paddle_dla.training.log import RunLog
log = RunLog(sys.argv[1], 0, 1, 10**6, resumed_at=int(sys.argv[2]), stream=io.StringIO())
for step in range(int(sys.argv[2]) + 1, 10**6):
    log.train_step(0, step, {"loss": 1.0, "lr": 0.1, "grad_norm": 2.0}, StepClock())
"""


@pytest.mark.slow
def test_killed_at_any_moment_no_update_is_lost_or_doubled(tmp_path):
    resumed_at = 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), str(resumed_at)])
        while not (tmp_path / "rank0.jsonl").exists() or len(steps(tmp_path)) < resumed_at + 50:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = steps(tmp_path)
        assert done == list(range(1, len(done) + 1))
        resumed_at = len(done) - 20
    run(tmp_path, resumed_at + 1, resumed_at + 1, resumed_at=resumed_at)
    assert steps(tmp_path) == list(range(1, resumed_at + 2))
    assert [int(row["step"]) for row in rows(tmp_path / "train.csv")] == list(range(1, resumed_at + 2))


# --- tables ----------------------------------------------------------------------------------------------------------


def test_a_table_has_what_the_records_have(tmp_path):
    run(tmp_path, 1, 5)
    table = rows(tmp_path / "train.csv")
    assert [float(row["loss"]) for row in table] == [loss(step) for step in range(1, 6)]
    assert list(table[0]) == ["epoch", "step", "loss", "lr", "batch_cost", "reader_cost", "ips", "time"]


def test_a_value_that_comes_later_gets_its_column(tmp_path):
    log = RunLog(tmp_path, 0, 1, 10, stream=io.StringIO())
    log.train_step(0, 1, {"loss": 1.0, "lr": 0.1}, StepClock())
    log.train_step(0, 2, {"loss": 1.0, "lr": 0.1, "grad_norm": 3.0}, StepClock())
    log.train_step(0, 3, {"loss": 1.0, "lr": 0.1}, StepClock())
    log.close()
    assert [row["grad_norm"] for row in rows(tmp_path / "train.csv")] == ["", "3.0", ""]


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named(tmp_path):
    log = RunLog(tmp_path, 1, 2, 10, stream=io.StringIO())
    log._records._file._file = io.FileIO("/dev/full", "a")
    with pytest.raises(CheckpointError, match=r"cannot write .*rank1\.jsonl: No space left on device; free some space"):
        log.train_step(0, 1, {"loss": 1.0, "lr": 0.1}, StepClock())
    log.close()


# --- the picture -----------------------------------------------------------------------------------------------------


def test_the_picture_is_drawn_at_each_validation_and_at_the_end(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    drawn = []
    monkeypatch.setattr(Curves, "draw", lambda self, path: drawn.append(path.name))
    run(tmp_path, 1, 10)
    assert drawn == ["curves.png"] * 3


def test_the_picture_is_refreshed_at_most_every_so_often(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    now, drawn = [0.0], []
    monkeypatch.setattr(log_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Curves, "draw", lambda self, path: drawn.append(now[0]))
    log = RunLog(tmp_path, 0, 1, 10, stream=io.StringIO(), refresh=60)
    for step in range(1, 301):
        now[0] = float(step)
        log.train_step(0, step, {"loss": 1.0, "lr": 0.1}, StepClock())
    assert drawn == [60.0, 120.0, 180.0, 240.0, 300.0]


def test_drawing_takes_at_most_a_hundredth_of_the_time(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    now, drawn = [0.0], []

    def slow(self, path):
        drawn.append(now[0])
        now[0] += 10

    monkeypatch.setattr(log_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Curves, "draw", slow)
    log = RunLog(tmp_path, 0, 1, 10, stream=io.StringIO(), refresh=60)
    for step in range(1, 3001):
        now[0] += 1
        log.train_step(0, step, {"loss": 1.0, "lr": 0.1}, StepClock())
    assert np.diff(drawn).min() >= 1000


def test_where_a_run_went_on_is_marked_in_the_picture(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    marked = []
    monkeypatch.setattr(Curves, "add_resume", lambda self, step: marked.append(step))
    run(tmp_path, 1, 5)
    assert marked == []
    run(tmp_path, 6, 10, resumed_at=5)
    assert marked == [5]
    monkeypatch.undo()
    plain, resumed = Curves(), Curves()
    resumed.add_resume(5)
    DRAW(plain, tmp_path / "plain.png")
    DRAW(resumed, tmp_path / "resumed.png")
    assert (tmp_path / "plain.png").read_bytes() != (tmp_path / "resumed.png").read_bytes()


@pytest.mark.parametrize("updates", [0, 1, 2, 5000])
def test_a_run_of_any_length_can_be_drawn(tmp_path, updates):
    pytest.importorskip("matplotlib")
    curves = Curves()
    for step in range(1, updates + 1):
        curves.add_train({"step": step, "loss": None if step % 7 == 0 else loss(step), "lr": 0.1})
    DRAW(curves, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_run_says_so_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(Curves, "can_draw", staticmethod(lambda: False))
    assert "no curves.png, matplotlib is missing: pip install 'paddle-dla[plots]'" in run(tmp_path, 1, 5)
    assert not (tmp_path / "curves.png").exists() and steps(tmp_path) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("window", [1, 2, 5, 100])
def test_the_smoothed_loss_is_the_mean_of_the_last_values(window):
    values = np.random.RandomState(0).rand(20)
    expected = [values[max(0, end - window) : end].mean() for end in range(1, 21)]
    # sums of at most 20 numbers below 1, by differences of running sums
    np.testing.assert_allclose(trailing_mean(values, window), expected, rtol=0, atol=20 * np.finfo(float).eps * 20)


# --- VisualDL --------------------------------------------------------------------------------------------------------


def test_visualdl_shows_each_update_once(tmp_path):
    visualdl = pytest.importorskip("visualdl")
    run(tmp_path, 1, 13)
    run(tmp_path, 8, 20, resumed_at=7)
    files = list((tmp_path / "visualdl").glob("vdlrecords.*"))
    shown = visualdl.LogReader(file_path=str(files[0])).get_data("scalar", "train/loss")
    assert len(files) == 1 and [point.id for point in shown] == list(range(1, 21))
    # VisualDL keeps float32
    assert [point.value for point in shown] == [np.float32(loss(step)) for step in range(1, 21)]
