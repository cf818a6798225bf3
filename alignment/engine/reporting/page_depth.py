"""Plot the relative error over depth with noise floor and limit as one SVG picture. No framework."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from alignment.engine.reporting.text import cells
from alignment.engine.result import Row, terms

WIDTH, HEIGHT = 1080, 270  # in user units
LEFT, RIGHT, TOP, BOTTOM = 86, 16, 18, 16  # margins
TICKS = 8  # labelled lines, about
ORDER = {
    "gradient": "in the order of the backward pass",
    "parameter gradient": "in the order of the parameters",
    "init": "in the order of the parameters",
}
NAME = 44  # longest layer name: half the width, in the larger type of a narrow window


def depth_figure(rows: Sequence[Row], direction: str) -> str:
    """Return the plot of all errors in the order of execution, logarithmic; exact tensors lie on the lowest line."""
    low, high = _range(rows)

    def x(index: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (index + 0.5) / len(rows)

    def y(value: float) -> float:
        exponent = high if not math.isfinite(value) else math.log10(value) if value > 0 else low
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - min(max(exponent, low), high)) / (high - low)

    lines = _line("allowed", [row.allowed for row in rows], x, y) + _line("floor", [row.floor for row in rows], x, y)
    return (
        f'<figure class="depth"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{_grid(low, high, rows, y)}{lines}'
        f"{_dots(rows, x, y)}{_first(rows, x)}</svg>{_caption(rows, direction)}</figure>"
    )


def _range(rows: Sequence[Row]) -> tuple[int, int]:
    """Return the decades to show; one more at the top if an error is not a number."""
    values = [v for row in rows for v in (row.relative, row.floor, row.allowed) if 0 < v < math.inf]
    low = math.floor(math.log10(min(values, default=1e-17))) - 1
    high = math.ceil(math.log10(max(values, default=1.0)))
    low, high = min(low, high - 2), max(high, low + 2)
    return low, high + any(not math.isfinite(row.relative) for row in rows)


def _grid(low: int, high: int, rows: Sequence[Row], y: Callable[[float], float]) -> str:
    labels = {e: f"1e{e}" for e in range(high, low, -max(1, math.ceil((high - low) / TICKS)))}
    labels[low] = "exact"
    labels.pop(low + 1, None)  # too close to the lowest line
    if any(not math.isfinite(row.relative) for row in rows):
        labels[high] = "no value"
    return "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(10.0**e):.1f}" y2="{y(10.0**e):.1f}"/>'
        f'<text class="tick" x="{LEFT - 8}" y="{y(10.0**e) + 4:.1f}">{label}</text>'
        for e, label in labels.items()
    )


def _line(name: str, values: Sequence[float], x: Callable[[int], float], y: Callable[[float], float]) -> str:
    path = " ".join(f"{x(i):.1f},{y(v):.1f}" for i, v in enumerate(values))
    return f'<polyline class="{name}" points="{path}"/>'


def _dots(rows: Sequence[Row], x: Callable[[int], float], y: Callable[[float], float]) -> str:
    return "".join(
        f'<circle class="{row.verdict}" cx="{x(i):.1f}" cy="{y(row.relative):.1f}" r="{2.6 if row.aligned else 3.4}">'
        f"<title>{escape(' | '.join(cells(row)))}</title></circle>"
        for i, row in enumerate(rows)
    )


def _first(rows: Sequence[Row], x: Callable[[int], float]) -> str:
    """Return a line at the first difference, with the layer's name on the side that has more room."""
    first = next((row for row in rows if not row.aligned), None)
    if first is None:
        return ""
    at = x(rows.index(first))
    side, anchor = (6, "start") if at < WIDTH / 2 else (-6, "end")
    name = first.layer if len(first.layer) <= NAME else f"{first.layer[: NAME // 2]}...{first.layer[-NAME // 2 :]}"
    text = f'<text class="first" x="{at + side:.1f}" y="{0.42 * HEIGHT:.0f}" text-anchor="{anchor}">'
    return (
        f'<line class="first" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f"{text}first: {escape(name)}</text>"
    )


def _caption(rows: Sequence[Row], direction: str) -> str:
    marks = [
        ('<i class="dot aligned"></i>', "aligned"),
        ('<i class="dot differs"></i>', "differs"),
        ('<i class="dash floor"></i>', terms(direction).explained),
        ('<i class="dash allowed"></i>', "limit"),
    ]
    legend = "".join(f"<span>{mark}{name}</span>" for mark, name in marks)
    order = ORDER.get(direction, "in the order of execution")
    title = f"{direction}: {terms(direction).measured} of {len(rows)} tensors {order}"
    return f'<figcaption><span>{escape(title)}</span><span class="legend">{legend}</span></figcaption>'
