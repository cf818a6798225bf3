"""Plot trainings side by side: losses, their distance, accuracies. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignment.epoch_runs import Run, Seed
from paddle_dla.drawing import figure_in
from paddle_dla.training.curves import trailing_mean

TORCH, PADDLE = "#d95f02", "#1f77b4"
SMOOTHING = 50  # the plotted losses are means over 1/50 of the run


def draw(seeds: Sequence[Seed], path: Path) -> None:
    """Write the picture (PNG), completely or not at all."""
    with figure_in(path, (15, 4.2)) as figure:
        losses, distance, accuracy = figure.subplots(1, 3)
        _draw_losses(losses, seeds)
        _draw_distance(distance, seeds)
        _draw_accuracy(accuracy, seeds)
        for axes in (losses, distance):
            axes.set_xlabel("updates")
        for axes in (losses, distance, accuracy):
            axes.grid(alpha=0.3)


def _draw_losses(axes: Any, seeds: Sequence[Seed]) -> None:
    window = max(1, len(seeds[0].torch.losses) // SMOOTHING)
    for number, seed in enumerate(seeds):
        for run, colour, style, name in ((seed.torch, TORCH, "-", "timm"), (seed.paddle, PADDLE, "--", "Paddle")):
            label = f"{name}, {len(seeds)} seeds" if number == 0 else None
            smooth = trailing_mean(np.array(run.losses), window)
            axes.plot(np.arange(1, len(smooth) + 1), smooth, color=colour, linestyle=style, linewidth=1.2, label=label)
    axes.set_title(f"training loss, mean of {window} updates")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(frameon=False)


def _draw_distance(axes: Any, seeds: Sequence[Seed]) -> None:
    for number, seed in enumerate(seeds):
        label = None if number else f"Paddle and timm, {len(seeds)} seeds"
        _draw_apart(axes, seed.paddle, seed.torch, color=PADDLE, linewidth=0.7, alpha=0.6, label=label)
    for seed in seeds:
        if seed.again is not None:
            label = f"timm and timm, batches reversed, seed {seed.seed}"
            _draw_apart(axes, seed.again, seed.torch, color=TORCH, linewidth=0.9, label=label)
    axes.set_title("losses of the same update apart, relative")
    axes.legend(frameon=False, loc="lower right")


def _draw_apart(axes: Any, run: Run, other: Run, **look: Any) -> None:
    found, expected = np.array(run.losses), np.array(other.losses)
    apart = np.abs(found - expected) / np.abs(expected)
    # equal losses are plotted at the bottom
    axes.loglog(np.arange(1, len(apart) + 1), np.maximum(apart, np.finfo(np.float32).eps / 2), **look)


def _draw_accuracy(axes: Any, seeds: Sequence[Seed]) -> None:
    places = range(len(seeds))
    reference = [seed.torch.top1 for seed in seeds]
    axes.axhspan(min(reference), max(reference), color=TORCH, alpha=0.15, label="spread of timm's seeds")
    axes.plot(places, reference, "o", color=TORCH, markersize=9, fillstyle="none", label="timm")
    axes.plot(places, [seed.paddle.top1 for seed in seeds], "x", color=PADDLE, markersize=8, label="Paddle")
    axes.set_title("top-1 in % after training")
    axes.margins(y=0.3)  # room for the legend
    axes.set_xticks(places, [str(seed.seed) for seed in seeds])
    axes.set_xlabel("seed")
    axes.legend(frameon=False, loc="upper center", ncols=3)
