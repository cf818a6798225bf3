"""Where the time of a training step goes, in Paddle and in torch: dla60 by kind of operation.

Usage: ``python benchmarks/train_profile.py [--batch 8] [--threads 2] [--steps 4]``, on an idle machine. The steps are
those of ``benchmarks/training_steps.py``, each framework's under its own profiler, after warm-up; torch in
channels-last form.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from machine import machine
from training_steps import CLASSES, WARM_UP, Step, ours, timms

# what an operation of that name belongs to; the first that fits
KINDS = {
    "convolution, forward": ("conv2d dygraph", "aten::mkldnn_convolution", "aten::_slow_conv2d_forward"),
    "convolution, backward": ("Conv2dGrad", "aten::convolution_backward"),
    "batch normalisation": ("BatchNorm", "batch_norm"),
    "pooling": ("Pool2d", "pool2d", "max_pool2d", "MeanGrad", "aten::mean"),
    "ReLU, sums, concatenation": ("Relu", "relu", "AddGrad", "add dygraph", "oncat", "threshold", "aten::add", "::cat"),
    "optimizer": ("momentum_", "_foreach", "aten::mul_", "SGD"),
}
REST = "everything else"


def sorted_by_kind(times: Iterable[tuple[str, float]], steps: int) -> dict[str, float]:
    """Milliseconds a step of each kind; ``times``: names of operations with their milliseconds in all ``steps``."""
    found = dict.fromkeys([*KINDS, REST], 0.0)
    for name, spent in times:
        kind = next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), REST)
        found[kind] += spent / steps
    return found


def paddle_times(step: Step, batch: tuple[np.ndarray, np.ndarray], steps: int) -> list[tuple[str, float]]:
    """Operations of Paddle with the milliseconds that they took."""
    from paddle import profiler
    from paddle.profiler.profiler_statistic import StatisticData

    watched = profiler.Profiler(targets=[profiler.ProfilerTarget.CPU], on_trace_ready=lambda made: None)
    watched.start()
    for _ in range(steps):
        step(*batch)
        watched.step()
    watched.stop()
    result = watched.profiler_result
    items = StatisticData(result.get_data(), result.get_extra_info()).event_summary.items
    return [(name, item.cpu_time / 1e6) for name, item in items.items()]  # from nanoseconds


def torch_times(step: Step, batch: tuple[np.ndarray, np.ndarray], steps: int) -> list[tuple[str, float]]:
    """Operations of torch with the milliseconds that they took by themselves."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as watched:
        for _ in range(steps):
            step(*batch)
    return [(event.key, event.self_cpu_time_total / 1e3) for event in watched.key_averages()]  # from microseconds


def report(paddle: Mapping[str, float], torch: Mapping[str, float]) -> list[str]:
    """The table."""
    lines = [f"{'ms a step':<28}{'ours':>8}{'share':>8}{'timm':>8}{'share':>8}{'ours - timm':>13}"]
    totals = sum(paddle.values()), sum(torch.values())
    for kind in [*KINDS, REST]:
        each = [f"{found[kind]:>8.0f}{found[kind] / total:>8.0%}" for found, total in zip((paddle, torch), totals)]
        lines.append(f"{kind:<28}{''.join(each)}{paddle[kind] - torch[kind]:>13.0f}")
    lines.append(f"{'sum':<28}{totals[0]:>8.0f}{'':>8}{totals[1]:>8.0f}{'':>8}{totals[0] - totals[1]:>13.0f}")
    return lines


def measured(step: Step, times: Callable[..., list[tuple[str, float]]], args: argparse.Namespace) -> dict[str, float]:
    draw = np.random.default_rng(0)
    images = draw.standard_normal((args.batch, 3, args.side, args.side), np.float32)
    batch = images, draw.integers(0, CLASSES, args.batch)
    for _ in range(WARM_UP):
        step(*batch)
    return sorted_by_kind(times(step, batch, args.steps), args.steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=224, help="of the images, in pixels")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--steps", type=int, default=4, help="that are watched")
    args = parser.parse_args()
    print(machine(["paddlepaddle", "torch", "timm", "numpy"]), flush=True)
    print(f"dla60, batches of {args.batch}, {args.side}x{args.side}, float32, {args.threads} threads\n", flush=True)
    torch = measured(timms(channels_last=True, threads=args.threads), torch_times, args)
    step, _ = ours(args.batch, args.side, recompute=False, threads=args.threads)
    print("\n".join(report(measured(step, paddle_times, args), torch)))


if __name__ == "__main__":
    main()
