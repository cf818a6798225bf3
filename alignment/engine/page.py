"""Results -> one self-contained HTML page: error against depth beside the noise floor, and every row. No framework."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from alignment.engine.report import HEADINGS, RIGHT, cells, coverage
from alignment.engine.result import Result, Row

WIDTH, HEIGHT = 1080, 340  # of the picture, in user units
LEFT, TOP, BOTTOM = 70, 16, 46  # margins


def write_html(results: Sequence[Result], path: str | os.PathLike[str]) -> None:
    """Write the page."""
    template = Template(files("alignment.engine").joinpath("page.html").read_text(encoding="utf-8"))
    passed = bool(results) and all(result.passed for result in results)
    page = template.substitute(
        title=escape(results[0].title if len(results) == 1 else f"{len(results)} comparisons"),
        state="aligned" if passed else "differs",
        sections="\n".join(map(_section, results)),
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(page, encoding="utf-8")


def _section(result: Result) -> str:
    state = "aligned" if result.passed else "differs"
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in result.facts.items())
    heading = "".join(f"<th{_align(i)}>{escape(name)}</th>" for i, name in enumerate(HEADINGS))
    body = "".join(map(_table_row, result.rows))
    return (
        f'<section><h2>{escape(result.title)}</h2><p class="verdict {state}">{escape(result.verdict())}</p>'
        f"<dl>{facts}</dl>{_culprits(result)}{''.join(_pictures(result))}"
        f"<pre>{escape(coverage(result))}</pre>"
        f"<table><thead><tr>{heading}</tr></thead><tbody>{body}</tbody></table></section>"
    )


def _culprits(result: Result) -> str:
    """A card for each layer at fault."""
    cards = []
    for found in result.culprits:
        evidence = "".join(f"<li>{escape(line)}</li>" for line in found.evidence)
        cards.append(
            f'<div class="culprit"><b>{escape(found.layer)}</b> <span class="kind">{escape(found.kind)}</span> '
            f"<p>{escape(found.cause)}</p><ul>{evidence}</ul></div>"
        )
    return "".join(cards)


def _pictures(result: Result) -> Iterator[str]:
    """One picture for each direction that was compared."""
    for direction in dict.fromkeys(row.direction for row in result.rows):
        yield _picture([row for row in result.rows if row.direction == direction], direction)


def _align(column: int) -> str:
    return ' class="number"' if column in RIGHT else ""


def _table_row(row: Row) -> str:
    columns = "".join(f"<td{_align(i)}>{escape(text)}</td>" for i, text in enumerate(cells(row)))
    return f'<tr class="{row.verdict}{"" if row.leaf else " container"}">{columns}</tr>'


def _picture(rows: Sequence[Row], direction: str) -> str:
    """Relative error of every tensor over the order of execution, logarithmic; exact ones lie on the lowest line."""
    values = [v for row in rows for v in (row.relative, row.floor, row.allowed) if 0 < v < math.inf]
    low = math.floor(math.log10(min(values, default=1e-17))) - 1
    high = math.ceil(math.log10(max(values, default=1.0)))
    low, high = min(low, high - 2), max(high, low + 2)

    def x(index: int) -> float:
        return LEFT + (WIDTH - LEFT - 16) * (index + 0.5) / len(rows)

    def y(value: float) -> float:
        exponent = low if value <= 0 else high if math.isinf(value) else math.log10(value)
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - min(max(exponent, low), high)) / (high - low)

    def line(name: str, points: Sequence[float]) -> str:
        path = " ".join(f"{x(i):.1f},{y(v):.1f}" for i, v in enumerate(points))
        return f'<polyline class="{name}" points="{path}"/>'

    grid = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 16}" y1="{y(10.0**e):.1f}" y2="{y(10.0**e):.1f}"/>'
        f'<text class="tick" x="{LEFT - 8}" y="{y(10.0**e) + 4:.1f}">{"exact" if e == low else f"1e{e}"}</text>'
        for e in range(low, high + 1, max(1, (high - low) // 8))
    )
    dots = "".join(
        f'<circle class="{row.verdict}" cx="{x(i):.1f}" cy="{y(row.relative):.1f}" r="{2.6 if row.aligned else 4}">'
        f"<title>{escape(' | '.join(cells(row)))}</title></circle>"
        for i, row in enumerate(rows)
    )
    first = next((row for row in rows if not row.aligned), None)
    mark = ""
    if first is not None:
        at = x(rows.index(first))
        anchor = "start" if at < WIDTH / 2 else "end"
        mark = (
            f'<line class="first" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            f'<text class="first" x="{at + (6 if anchor == "start" else -6):.1f}" y="{0.4 * HEIGHT:.0f}" '
            f'text-anchor="{anchor}">first difference: {escape(first.layer)}</text>'
        )
    floors, limits = line("floor", [r.floor for r in rows]), line("allowed", [r.allowed for r in rows])
    caption = f"{direction}: relative error of {len(rows)} tensors in the order of execution"
    legend = (
        f'<text class="label" x="{LEFT}" y="{HEIGHT - 14}">{escape(caption)}</text>'
        f'<text class="label" x="{WIDTH - 16}" y="{HEIGHT - 14}" text-anchor="end">'
        '<tspan class="aligned">&#9679; aligned</tspan>  <tspan class="differs">&#9679; differs</tspan>  '
        '<tspan class="floor">&#8212; rounding alone</tspan>  <tspan class="allowed">- - limit</tspan></text>'
    )
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{grid}{limits}{floors}{dots}{mark}{legend}</svg>'
