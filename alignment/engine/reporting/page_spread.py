"""Plot the size and position of one tensor's differences: small SVG pictures of a ``Spread``. No framework."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from alignment.engine.spread import BARS, Spread, group_starts

WIDTH, HEIGHT = 300, 150  # of a picture, in user units
LEFT, RIGHT, TOP, BOTTOM = 8, 8, 18, 22  # margins; numbers stand below and above the bars
WIDEST = 28  # widest bar: two bars need not fill the picture
SHADES = 8  # shades of the map: about as many as the eye distinguishes


def spread_figures(found: Spread) -> str:
    """Return the histogram, and the plots by channel, position and batch element, if there is more than one."""
    batch, channel = found.axes
    figures = [_histogram(found), _map(found)]
    figures += [_bars(found.channels, channel, found.shape[1] if len(found.shape) > 1 else found.count)]
    figures += [_bars(found.batch, batch, found.shape[0] if found.shape else 1)]
    return f'<div class="figures">{"".join(figures)}</div>'


def _figure(name: str, picture: str, title: str, *notes: str) -> str:
    words = "<br>".join([f"<b>{escape(title)}</b>", *map(escape, notes)])
    return f'<figure class="{name}"><figcaption>{words}</figcaption>{picture}</figure>'


def _svg(content: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{content}</svg>'


def _text(x: float, y: float, text: str, anchor: str = "middle", name: str = "tick") -> str:
    return f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _bar(x: float, width: float, height: float, name: str, title: str) -> str:
    top = HEIGHT - BOTTOM - height
    return (
        f'<rect class="{name}" x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}">'
        f"<title>{escape(title)}</title></rect>"
    )


def _axis() -> str:
    return f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>'


# --- how large ------------------------------------------------------------------------------------------------------


def _histogram(found: Spread) -> str:
    """Plot the elements by size of difference; heights are logarithmic, so that single elements are visible."""
    limit = math.log10(found.limit) if found.limit > 0 else None
    marks = [*found.edges, *([limit] if limit is not None else [])] or [0.0]
    low, high = math.floor(min(marks)), math.ceil(max(marks))
    high = max(high, low + 1)
    exact, other = 34.0 * bool(found.exact), 34.0 * bool(found.not_finite)  # separate columns at either end
    span = WIDTH - LEFT - RIGHT - exact - other

    def x(exponent: float) -> float:
        return LEFT + exact + span * (exponent - low) / (high - low)

    most = max([found.exact, found.not_finite, *found.counts], default=1)

    def height(count: int) -> float:
        return (HEIGHT - TOP - BOTTOM) * math.log(1 + count) / math.log(1 + max(most, 1))

    parts = [_axis()]
    for edge, after, count in zip(found.edges, found.edges[1:], found.counts):
        beyond = limit is None or edge >= limit
        title = f"1e{edge:g} to 1e{after:g}: {count:,} elements"
        parts.append(_bar(x(edge) + 0.5, x(after) - x(edge) - 1, height(count), "beyond" if beyond else "below", title))
    if exact:
        parts.append(_bar(LEFT + 4, 20, height(found.exact), "below", f"equal: {found.exact:,} elements"))
        parts.append(_text(LEFT + 14, HEIGHT - 6, "equal"))
    if other:
        start = WIDTH - RIGHT - 24
        parts.append(_bar(start, 20, height(found.not_finite), "beyond", f"no number: {found.not_finite:,} elements"))
        parts.append(_text(WIDTH - 2, HEIGHT - 6, "nan, inf", "end"))
    parts.append(_exponents(low, high, x, bool(exact), bool(other)))
    if limit is not None:
        parts.append(f'<line class="limit" x1="{x(limit):.1f}" x2="{x(limit):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        anchor = "start" if x(limit) < WIDTH / 2 else "end"
        parts.append(_text(x(limit), TOP - 5, "limit", anchor, "limit"))
    note = f"{found.differing:,} of {found.count:,} beyond the limit"
    return _figure("histogram", _svg("".join(parts)), "size of the difference, relative", note)


def _exponents(low: int, high: int, x: Callable[[float], float], left_taken: bool, right_taken: bool) -> str:
    """Return about four labels; at the ends only if no column is there."""
    step = max(1, math.ceil((high - low) / 4))
    shown = [e for e in range(low, high + 1, step) if not (right_taken and x(e) > WIDTH - 70)]
    shown = [e for e in shown if not (left_taken and x(e) < LEFT + 46)]
    ends = {LEFT: "start", WIDTH - RIGHT: "end"}
    return "".join(_text(x(e), HEIGHT - 6, f"1e{e}", ends.get(round(x(e)), "middle")) for e in shown)


# --- where ----------------------------------------------------------------------------------------------------------


def _bars(values: Sequence[float], name: str, length: int) -> str:
    """Plot mean |difference| by index along an axis of ``length``; neighbours share a bar if there are many."""
    if len(values) < 2:
        return ""
    largest = max((value for value in values if math.isfinite(value)), default=0.0)
    starts = [*group_starts(length, BARS), length]
    width = min((WIDTH - LEFT - RIGHT) / len(values), WIDEST)
    gap = min(1.5, width / 4)
    parts = [_axis()]
    for number, value in enumerate(values):
        finite = math.isfinite(value)
        share = 1.0 if not finite else value / largest if largest else 0.0
        first, last = starts[number], starts[number + 1] - 1
        title = f"{name} {first}" + (f" to {last}" if last > first else "") + f": {value:.1e}"
        kind = "beyond" if finite else "endless"
        parts.append(_bar(LEFT + number * width + gap / 2, width - gap, (HEIGHT - TOP - BOTTOM) * share, kind, title))
    end = LEFT + len(values) * width
    parts += [_text(LEFT + gap / 2, HEIGHT - 6, "0", "start"), _text(end, HEIGHT - 6, str(length - 1), "end")]
    notes = [f"mean |difference|, {_scale('at most', values, largest)}"]
    notes += [f"{len(values)} groups of {length}"] if len(values) < length else []
    return _figure("bars", _svg("".join(parts)), f"by {name}", *notes)


def _map(found: Spread) -> str:
    """Plot mean |difference| over batch and channels by row and column; darker is larger."""
    rows = found.space
    columns = len(rows[0]) if rows else 0
    if len(rows) * columns < 2:
        return ""
    finite = [value for row in rows for value in row if math.isfinite(value)]
    largest = max(finite, default=0.0)
    paths: dict[int, list[str]] = {}
    for y, row in enumerate(rows):
        for x, length, shade in _runs([_shade(value, largest) for value in row]):
            paths.setdefault(shade, []).append(f"M{x} {y}h{length}v1h-{length}z")
    cells = "".join(f'<path class="shade{shade}" d="{"".join(d)}"/>' for shade, d in sorted(paths.items()))
    # cells are square as long as a strip stays visible
    size = f'viewBox="0 0 {columns} {len(rows)}" style="aspect-ratio: {columns} / {len(rows)}"'
    places = "x".join(map(str, found.shape[2:]))
    notes = [f"{places}, {_scale('darkest', [v for row in rows for v in row], largest)}"]
    if found.border is not None and found.border_area is not None:
        notes.append(f"border: {100 * found.border:.0f} % of it, {100 * found.border_area:.0f} % of the places")
    picture = f'<svg {size} preserveAspectRatio="none" role="img">{cells}</svg>'
    return _figure("map", picture, "by place", *notes)


def _scale(word: str, values: Sequence[float], largest: float) -> str:
    """Describe the value of the tallest bar or the darkest red, and the meaning of black."""
    black = [] if all(map(math.isfinite, values)) else ["black: no number"]
    return ", ".join([*([f"{word} {largest:.1e}"] if largest or not black else []), *black])


def _shade(value: float, largest: float) -> int:
    """Return 0 for none, 1 to ``SHADES`` by size, and one more for NaN or infinity."""
    if not math.isfinite(value):
        return SHADES + 1
    return math.ceil(SHADES * value / largest) if largest else 0


def _runs(shades: Sequence[int]) -> list[tuple[int, int, int]]:
    """Group equal neighbours: (start, length, shade)."""
    runs: list[tuple[int, int, int]] = []
    for x, shade in enumerate(shades):
        if runs and runs[-1][2] == shade:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1, shade)
        else:
            runs.append((x, 1, shade))
    return runs
