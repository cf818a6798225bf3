"""Plot loss, accuracy and learning rate of a run over its updates. Needs matplotlib (extra ``plots``)."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from paddle_dla.drawing import figure_in

POINTS = 2000  # of a line: more than its pixels
SMOOTHING = 50  # the smoothed loss is a mean over this fraction of the run
BLUE, ORANGE, GREY = "#1f77b4", "#d95f02", "#555555"


class Curves:
    """The data of the picture, in a few bytes per update."""

    def __init__(self):
        self._steps, self._losses, self._rates = array("q"), array("d"), array("d")
        self._validations: dict[str, tuple[list[int], list[float]]] = {}
        self._resumed: list[int] = []

    @staticmethod
    def can_draw() -> bool:
        """Return whether matplotlib is installed."""
        return find_spec("matplotlib") is not None

    def add_train(self, record: Mapping[str, Any]) -> None:
        """Add ``step``, ``loss`` and ``lr`` of an update; an unknown value (``None``) leaves a gap."""
        self._steps.append(record["step"])
        self._losses.append(_number(record.get("loss")))
        self._rates.append(_number(record.get("lr")))

    def add_validation(self, record: Mapping[str, Any]) -> None:
        """Add ``step``, and any of ``loss``, ``top<k>`` in %, and those of the EMA, ``ema_...``."""
        for name, value in record.items():
            if re.fullmatch(r"(ema_)?(loss|top\d+)", name) and type(value) in (int, float):
                steps, values = self._validations.setdefault(name, ([], []))
                steps.append(record["step"])
                values.append(value)

    def add_resume(self, step: int) -> None:
        """Mark that the run was stopped, and resumed after update ``step``."""
        self._resumed.append(step)

    def draw(self, path: Path) -> None:
        """Write the picture, whole or not at all. Raises ``CheckpointError`` if it cannot be written."""
        with figure_in(path, (15, 4.2)) as figure:
            loss, accuracy, rate = figure.subplots(1, 3)
            self._draw_loss(loss)
            self._draw_accuracy(accuracy)
            self._draw_rate(rate)
            for axes in (loss, accuracy, rate):
                axes.set_xlabel("updates")
                axes.grid(alpha=0.3)
                axes.set_xlim(0, max(self._steps, default=1))

    def _draw_loss(self, axes: Any) -> None:
        steps, losses = np.array(self._steps), np.array(self._losses)
        real = np.isfinite(losses)
        steps, losses = steps[real], losses[real]
        window = max(1, len(losses) // SMOOTHING)
        axes.plot(*_thinned(steps, losses), color=BLUE, alpha=0.3, linewidth=0.7, label="training")
        if window > 1:
            label = f"training, mean of {window} updates"
            axes.plot(*_thinned(steps, trailing_mean(losses, window)), color=BLUE, label=label)
        self._draw_validation(axes, "loss", ORANGE, "-", "validation")
        self._draw_validation(axes, "ema_loss", ORANGE, "--", "validation, EMA")
        for number, step in enumerate(self._resumed):
            axes.axvline(step, color=GREY, linestyle=":", label=None if number else "stopped, and gone on")
        if len(losses) and losses.min() > 0:  # the first updates would flatten the rest of the curve
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
        _finish(axes, "loss")

    def _draw_accuracy(self, axes: Any) -> None:
        tops = sorted({int(name.split("top")[1]) for name in self._validations if "top" in name})
        for place, k in enumerate(tops):
            colour = (BLUE, ORANGE, GREY)[place % 3]
            self._draw_validation(axes, f"top{k}", colour, "-", f"top-{k}")
            self._draw_validation(axes, f"ema_top{k}", colour, "--", f"top-{k}, EMA")
        _finish(axes, "validation accuracy in %")

    def _draw_validation(self, axes: Any, name: str, colour: str, style: str, label: str) -> None:
        if name in self._validations:
            steps, values = self._validations[name]
            # markers are not clipped at the edges, where the last one lies
            points = {"marker": "o", "markersize": 5, "clip_on": False}
            axes.plot(steps, values, color=colour, linestyle=style, label=f"{label}: {values[-1]:.4g}", **points)

    def _draw_rate(self, axes: Any) -> None:
        axes.plot(*_thinned(np.array(self._steps), np.array(self._rates)), color=GREY)
        _finish(axes, "learning rate")


def trailing_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Return the mean of each value and the ``window - 1`` before it, fewer at the start. (N,) -> (N,)."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _thinned(*lines: np.ndarray) -> Iterable[np.ndarray]:
    every = -(-len(lines[0]) // POINTS) or 1
    return (line[::every] for line in lines)


def _finish(axes: Any, title: str) -> None:
    axes.set_title(title)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
