"""The whole way of a model, each step by the command that a user would type.

Usage::

    python scripts/train_demo.py [--checkpoint dla46_c_fashion_mnist.safetensors] [--out out/train-demo]

Fashion-MNIST is made into images, the checkpoint (timm's dla46_c, trained with torch) converted and evaluated,
fine-tuned for an epoch, killed in the middle (``kill -9``) and gone on with, evaluated, exported, and the export
predicts. Without the checkpoint the network is trained from scratch. Exit codes: 0 done, 1 a step failed or the
accuracy was missed.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

MODEL = "dla46_c"
SHARED = Path("../shared/data/checkpoints/dla46_c_fashion_mnist.safetensors")
EXPECTED = 87.11  # percent of the 10,000 test images, as torch scores the checkpoint
WANTED = 89.0  # percent after fine-tuning for an epoch
KILL_AT = 0.5  # of the updates
RECIPE = [
    "base=recipes/fashion_mnist.yaml",
    "train.epochs=1",
    "optimizer.lr_base=0.05",
    "schedule.warmup_epochs=0.05",
    "train.recovery_interval=25",
]


class StepFailedError(Exception):
    """A command that failed, or a figure that was missed."""


def python(*arguments: object) -> list[str]:
    return [sys.executable, *(str(argument) for argument in arguments)]


def call(command: Sequence[str]) -> None:
    """Run a command in sight of the user. Raises ``StepFailedError``."""
    print(f"$ {shlex.join(['python', *command[1:]])}", flush=True)
    if subprocess.run(command, check=False).returncode:
        raise StepFailedError(f"failed: {shlex.join(command)}")


def heading(text: str) -> None:
    print(f"\n{text}", flush=True)


def make_data(out: Path) -> Path:
    data = out / "fashion"
    if (data / "val").is_dir():
        print(f"{data} is there already")
    else:
        call(python("scripts/make_fashion_mnist.py", data))
    return data


def convert(checkpoint: Path, out: Path) -> Path:
    weights = out / "fashion.pdparams"
    size = ("--num-classes", 10, "--input-size", 32, "--crop-pct", 1)
    call(python("convert/timm2paddle.py", "--model", MODEL, "--checkpoint", checkpoint, *size, "--output", weights))
    return weights


def score(weights: Path, data: Path, out: Path) -> float:
    """Top-1 in percent, on the test images."""
    results = out / "results.json"
    options = ("--data", data / "val", "--engine", "onnxruntime", "--log-interval", 100, "--results", results)
    call(python("-m", "paddle_dla.evaluate", "--checkpoint", weights, *options))
    return json.loads(results.read_text(encoding="utf-8"))["top1"]


def training(start: Path | None, data: Path, run: Path) -> list[str]:
    begin = [f"model.pretrained={start}"] if start else []
    options = [*RECIPE, *begin, f"data.train={data / 'train'}", f"data.val={data / 'val'}", "data.workers=1"]
    return python("-m", "paddle_dla.train", "--config", f"configs/{MODEL}.yaml", "-o", *options, "--output", run)


def updates(run: Path) -> int:
    """How many updates the run's records hold."""
    records = run / "rank0.jsonl"
    return records.read_text(encoding="utf-8").count('"kind": "train"') if records.exists() else 0


def train_and_kill(command: list[str], run: Path, at: int) -> None:
    """Start training, kill it without warning after ``at`` updates. Raises ``StepFailedError`` if it ends before."""
    print(f"$ {shlex.join(['python', *command[1:]])}    # to be killed after {at} updates", flush=True)
    process = subprocess.Popen(command)
    while updates(run) < at:
        if process.poll() is not None:
            raise StepFailedError(f"training ended with exit code {process.returncode} before it could be killed")
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    print(f"killed (signal 9) after {updates(run)} updates", flush=True)


def demonstrate(checkpoint: Path, out: Path) -> None:
    """All steps, one after the other. Raises ``StepFailedError``."""
    out.mkdir(parents=True, exist_ok=True)
    run = out / "run"
    if run.exists():
        raise StepFailedError(f"{run} is there from before: remove it to see the demonstration from the start")
    heading("1. Fashion-MNIST as images")
    data = make_data(out)
    start = None
    if checkpoint.exists():
        heading("2. timm's weights, converted and evaluated")
        start = convert(checkpoint, out)
        expect(score(start, data, out), EXPECTED, "as torch scores it", exactly=True)
    else:
        heading(f"2. {checkpoint} is not there: the network is trained FROM SCRATCH")
    heading("3. fine-tune for an epoch; killed in the middle, and gone on with by the same command")
    command = training(start, data, run)
    train_and_kill(command, run, at=int(234 * KILL_AT))
    call(command)
    heading("4. evaluate, export, predict with the export")
    best = run / "checkpoints" / "best" / "model.pdparams"
    expect(score(best, data, out), WANTED, "after an epoch", exactly=False)
    classes = ("--classes", data / "classes.txt")
    call(
        python(
            "-m",
            "paddle_dla.export",
            "--checkpoint",
            best,
            "--format",
            "onnx",
            *classes,
            "--output",
            out / "exported",
            "--overwrite",
        )
    )
    call(python(out / "exported" / "run.py", data / "val" / "6_shirt" / "00004.png"))
    print(f"\ncurves: {run / 'curves.png'}")


def expect(found: float, wanted: float, why: str, exactly: bool) -> None:
    right = abs(found - wanted) < 0.005 if exactly else found >= wanted
    if not right:
        raise StepFailedError(
            f"top-1 is {found:.2f} %, wanted is {'' if exactly else 'at least '}{wanted:.2f} % ({why})"
        )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=SHARED)
    parser.add_argument("--out", type=Path, default=Path("out/train-demo"))
    args = parser.parse_args(argv)
    began = time.monotonic()
    try:
        demonstrate(args.checkpoint, args.out)
    except StepFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"done in {(time.monotonic() - began) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
