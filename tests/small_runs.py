"""Trainings that take seconds: made images, a config, and runs in this process or in processes that can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image

from paddle_dla.config import Config, parse_config

ROOT = Path(__file__).parent.parent
CLASSES, EACH = 4, 10

# everything at once that could be forgotten: workers, erasing, mixing, dropout, average, accumulation, warm-up
CONFIG = """
model: {{name: dla46x_c, num_classes: 4, drop_rate: 0.3}}
data: {{train: {data}/train, val: {data}/val, batch_size: 4, workers: 2}}
transform:
  train: {{input_size: [3, 32, 32], re_prob: 0.5, scale: [0.5, 1.0]}}
  eval: {{input_size: [3, 32, 32], crop_pct: 1.0}}
mixing: {{mixup_alpha: 0.4, cutmix_alpha: 1.0}}
loss: {{smoothing: 0.1}}
optimizer: {{name: nesterov, lr: 0.01, weight_decay: 1e-4, clip_grad: 5.0}}
schedule: {{name: cosine, per_epoch: false, warmup_epochs: 1}}
ema: {{enabled: true, decay: 0.9, warmup: true}}
train: {{epochs: 2, grad_accum_steps: 2, threads: 1, recovery_interval: 1, log_interval: 1, output: {output}}}
"""
UPDATES = 2 * 5  # 2 epochs of 40 images in batches of 4, two of which make an update
UPDATES_OF_TWO = 2 * 3  # with 20 images for each of two processes: the last update of an epoch has one batch


def make_images(folder: Path) -> Path:
    """Class folders ``train`` and ``val`` of 32x32 images: noise around a colour of their class."""
    rng = np.random.default_rng(0)
    for split, each in (("train", EACH), ("val", 3)):
        for label in range(CLASSES):
            place = folder / split / f"class{label}"
            place.mkdir(parents=True)
            for index in range(each):
                pixels = rng.integers(0, 64, (32, 32, 3)) + 48 * np.array([label, 3 - label, 1])
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{index}.png")
    return folder


def write_config(folder: Path, data: Path, output: Path | None = None) -> Path:
    """The config as a file in ``folder``; its results go to ``folder/run`` unless ``output`` is given."""
    path = folder / "config.yaml"
    path.write_text(CONFIG.format(data=data, output=output or folder / "run"))
    return path


def small_config(data: Path, output: Path, *overrides: str) -> Config:
    """The config as a value; ``overrides`` as on the command line."""
    return parse_config(CONFIG.format(data=data, output=output), "test", overrides)


def environment() -> dict[str, str]:
    """For processes that this test starts: this tree's package, one thread, no pictures, no launcher around it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PADDLE_")}
    path = f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'without_pictures'}"
    return {**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def command(config: Path, *overrides: str, processes: int = 1, options: tuple[str, ...] = ()) -> list[str]:
    """The command line of a training."""
    start = [sys.executable, "-m", "paddle_dla.train"]
    if processes > 1:
        launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", str(processes)]
        start = [sys.executable, *launch, "--log_dir", str(config.parent / "launch"), "paddle_dla/train.py"]
    return [*start, "--config", str(config), *options, *(["-o", *overrides] if overrides else [])]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    """The process, in a session of its own; see ``started``."""
    return subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@contextmanager
def started(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    """The process; nothing of it is left afterwards, however the test ends."""
    process = start(arguments)
    try:
        yield process
    finally:
        if process.poll() is None:
            kill_session(process)


def ended(process: subprocess.Popen[str], timeout: float = 240) -> tuple[int, str, str | None]:
    """Exit code, output and, where it has a pipe of its own, what went to stderr.

    A process that does not end is killed with all of its session, and fails the test.
    """
    try:
        output, complaints = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        kill_session(process)
        raise
    return process.returncode, output, complaints


def finish(process: subprocess.Popen[str], timeout: float = 240) -> tuple[int, str]:
    """Exit code and output, as ``ended``."""
    return ended(process, timeout)[:2]


def run(arguments: list[str]) -> tuple[int, str]:
    """Exit code and output of a command."""
    return finish(start(arguments))


def kill_session(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the process and all below it."""
    below = [process.pid]
    for pid in below:
        below += children(pid)
    for pid in reversed(below):
        kill(pid, signal.SIGKILL)
    process.communicate()


def children(pid: int) -> list[int]:
    """The processes that ``pid`` started, as far as they live."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def kill(pid: int, number: int) -> None:
    """Send a signal to a process, if it is still there."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def wait_for(condition, seconds: float = 120, every: float = 0.01):
    """What ``condition`` returns once it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(every)
    raise TimeoutError(f"{condition} did not become true within {seconds} s")


def steps(output: Path, rank: int = 0) -> list[dict]:
    """The records of the updates in a run's log."""
    path = output / f"rank{rank}.jsonl"
    if not path.exists():
        return []
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [record for record in map(json.loads, lines) if record["kind"] == "train"]


def pid_of(output: Path, rank: int) -> int:
    """The process of a rank, as its log tells."""
    records = map(json.loads, (output / f"rank{rank}.jsonl").read_text().splitlines())
    return [record["pid"] for record in records if record["kind"] == "start"][-1]


def losses(output: Path) -> list[tuple[int, float, float, float]]:
    """What every update did, to the bit."""
    return [(item["step"], item["loss"], item["lr"], item["grad_norm"]) for item in steps(output)]


def final_files(output: Path) -> dict[str, str]:
    """The sums of what the last checkpoint learnt, and its best score."""
    last = (output / "checkpoints" / "last").resolve()
    content = json.loads((last / "state.json").read_text())["content"]
    names = ("model.pdparams", "ema.pdparams", "optimizer.pdopt")
    return {name: content["files"][name]["sha256"] for name in names} | {"best": content["best"], "at": last.name}
