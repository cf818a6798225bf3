"""Training speed: a step of ours beside PaddleClas's DLA60 and timm's, each at its best number of threads.

Usage: ``python benchmarks/train.py [--batch 8] [--threads 1 2] [--runs 5]``, on an idle machine.

Each run is a process of its own, the contenders take turns; a step is forward, backward and update on images that lie
in memory, float32, after warm-up. All train the same network by SGD with momentum 0.9 and weight decay 1e-4 on the
cross entropy. ``ours`` is the step of ``paddle-dla train``: it also looks at the loss and the norm of the gradients.
PaddleClas runs under Paddle's own optimizer, timm under torch's. On AMD's processors ``paddle-dla`` also chooses the
kernels of Paddle's matrix products (``paddle_dla/cpu.py``); ``PaddleClas, our kernels`` is PaddleClas with the same
choice, so that what that brings is seen apart. Then what a checkpoint costs, and the memory that recomputation saves,
in batches of a size where one would want it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from training_steps import CLASSES, DECAY, MOMENTUM, RATE, WARM_UP, Step, ours, timms

from paddle_dla.config.cost import IMAGENET_IMAGES
from paddle_dla.cpu import VARIABLE

CONTENDERS = ("ours", "PaddleClas", "PaddleClas, our kernels", "timm", "timm, channels last")
RECOMPUTING = "ours, recomputing"
SHARE = 0.02  # of a run that checkpoints may take


def paddleclas(our_kernels: bool) -> Step:
    import paddle
    from paddleclas_wheel import backbone

    from paddle_dla.cpu import use_vector_kernels

    if our_kernels:
        use_vector_kernels()
    model = backbone("dla").DLA60()
    model.train()
    options = {"learning_rate": RATE, "momentum": MOMENTUM, "weight_decay": DECAY}
    optimizer = paddle.optimizer.Momentum(parameters=model.parameters(), **options)

    def step(images: np.ndarray, labels: np.ndarray) -> None:
        loss = paddle.nn.functional.cross_entropy(model(paddle.to_tensor(images)), paddle.to_tensor(labels))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()

    return step


def measure(name: str, batch: int, side: int, threads: int, steps: int) -> dict[str, float]:
    """``step`` in seconds (median), ``peak`` in MiB; ours: ``checkpoint`` in seconds."""
    from paddle_dla.training.memory import peak_resident

    save = None
    if name.startswith("ours"):
        step, save = ours(batch, side, "recomputing" in name, threads)
    elif name.startswith("PaddleClas"):
        step = paddleclas(our_kernels="our kernels" in name)
    else:
        step = timms("channels last" in name, threads)
    draw = np.random.default_rng(0)
    images, labels = draw.standard_normal((batch, 3, side, side), np.float32), draw.integers(0, CLASSES, batch)
    times = list(timed(lambda: step(images, labels), WARM_UP + steps))
    found = {"step": statistics.median(times[WARM_UP:]), "peak": peak_resident() / 2**20}
    if save is not None:
        with tempfile.TemporaryDirectory() as folder:
            found["checkpoint"] = statistics.median(timed(lambda: save(Path(folder)), 3))
    return found


def timed(work: Callable[[], Any], times: int) -> Iterable[float]:
    """Seconds of each call."""
    for _ in range(times):
        began = time.perf_counter()
        work()
        yield time.perf_counter() - began


def in_a_process(args: argparse.Namespace, name: str, threads: int, batch: int, steps: int) -> dict[str, float]:
    print(f"{name}, {threads} threads, batches of {batch}", file=sys.stderr, flush=True)
    sizes = ["--batch", batch, "--side", args.side, "--steps", steps, "--threads", threads]
    command = [sys.executable, __file__, "--only", name, *map(str, sizes)]
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    environment |= {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def collect(args: argparse.Namespace) -> dict[str, tuple[int, dict[str, float]]]:
    """Of each contender its best number of threads, and the medians there."""
    names = [name for name in CONTENDERS if name.split(",")[0] != "timm" or find_spec("timm")]
    runs: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(args.runs):
        for threads in args.threads:
            for name in names:
                runs.setdefault((name, threads), []).append(in_a_process(args, name, threads, args.batch, args.steps))
    medians = {
        key: {part: statistics.median(run[part] for run in several) for part in several[0]}
        for key, several in runs.items()
    }
    best = {name: min(args.threads, key=lambda threads, name=name: medians[name, threads]["step"]) for name in names}
    return {name: (threads, medians[name, threads]) for name, threads in best.items()}


def report(found: dict[str, tuple[int, dict[str, float]]], batch: int) -> list[str]:
    """The table, and what a checkpoint comes to."""
    theirs = found["PaddleClas"][1]["step"]
    lines = [f"{'dla60':<26}{'threads':>8}{'s/step':>9}{'images/s':>10}{'of PaddleClas':>15}{'peak MiB':>10}"]
    for name, (threads, at) in found.items():
        speed = f"{at['step']:>9.3f}{batch / at['step']:>10.2f}{theirs / at['step']:>15.2f}"
        lines.append(f"{name:<26}{threads:>8}{speed}{at['peak']:>10.0f}")
    writing, step = found["ours"][1]["checkpoint"], found["ours"][1]["step"]
    return [
        *lines,
        "",
        f"a checkpoint takes {writing:.2f} s: under {SHARE:.0%} of a run where one is written every "
        f"{int(writing / SHARE / step) + 1} steps or less often; once an epoch of ImageNet at this batch, "
        f"{writing / (step * IMAGENET_IMAGES / batch):.4%}",
    ]


def recomputation(args: argparse.Namespace, threads: int) -> str:
    """What keeping no activations saves and costs."""
    sizes = threads, args.memory_batch, 2
    plain, again = in_a_process(args, "ours", *sizes), in_a_process(args, RECOMPUTING, *sizes)
    memory, time = again["peak"] / plain["peak"], again["step"] / plain["step"]
    return (
        f"recomputing, in batches of {args.memory_batch}: {again['peak']:.0f} MiB instead of {plain['peak']:.0f}, "
        f"{memory:.2f} of the process's memory, and {time:.2f} times as long"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=224, help="of the images, in pixels")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, cores}), help="to try (1 and all cores)")
    parser.add_argument("--steps", type=int, default=8, help="of a run, after warm-up")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--memory-batch", type=int, default=32, help="where recomputation is measured")
    parser.add_argument("--only", choices=[*CONTENDERS, RECOMPUTING], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.only, args.batch, args.side, args.threads[0], args.steps)))
        return
    from machine import machine

    packages = ["paddlepaddle", "paddleclas", *(("torch", "timm") if find_spec("timm") else ()), "numpy"]
    print(machine(packages), flush=True)
    print(f"batches of {args.batch}, {args.side}x{args.side}, float32, medians of {args.runs} runs\n", flush=True)
    found = collect(args)
    print("\n".join(report(found, args.batch)), flush=True)
    print(recomputation(args, found["ours"][0]))


if __name__ == "__main__":
    main()
