"""Write results as one self-contained HTML page: verdict, culprits, pictures, tree, table.

No framework, no script: sections open and close with ``<details>``, and a check box and CSS filter the table.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template

from alignment.engine.reporting.page_depth import depth_figure
from alignment.engine.reporting.page_spread import spread_figures
from alignment.engine.reporting.page_tree import module_tree
from alignment.engine.reporting.text import RIGHT, cells, coverage, headings, write_report
from alignment.engine.result import Culprit, Result, Row

COURSE = 3  # with more tensors of one direction, a picture is clearer than the table
FRAME = 640  # pixels: the verdict, the first culprit and a picture
OPEN = 1  # culprits that are shown open, so that the picture of all layers stays near; the others open with a click
LISTED = 10  # culprits with a line of their own; the others share one
LINES = 5  # lines of evidence; the others share one


def write_html(results: Sequence[Result], path: str | os.PathLike[str]) -> None:
    """Write the page, completely or not at all. Raises ``CheckpointError`` where the system refuses."""
    write_report(path, page(results))


def page(results: Sequence[Result]) -> str:
    """Return the page as text."""
    template = Template(files("alignment.engine.reporting").joinpath("page.html").read_text(encoding="utf-8"))
    passed = bool(results) and all(result.passed for result in results)
    return template.substitute(
        title=escape(results[0].title if len(results) == 1 else f"{len(results)} comparisons"),
        state=_state(results[0]) if len(results) == 1 else "aligned" if passed else "differs",
        overview=_overview(results) if len(results) > 1 else "",
        sections="\n".join(_section(result, number) for number, result in enumerate(results)),
    )


def framed(results: Sequence[Result]) -> str:
    """Return the page in a frame, which isolates its styles: for notebooks."""
    return f'<iframe srcdoc="{escape(page(results))}" style="width: 100%; height: {FRAME}px; border: 0"></iframe>'


def _state(result: Result) -> str:
    return "aligned" if result.passed else "undecided" if result.undecided else "differs"


def _overview(results: Sequence[Result]) -> str:
    """List several comparisons, one line each with a link."""
    lines = (
        f'<li class="{_state(result)}"><a href="#result-{number}">{escape(result.title)}</a> '
        f"{escape(result.verdict())}</li>"
        for number, result in enumerate(results)
    )
    return f'<nav><h1>{len(results)} comparisons</h1><ul class="overview">{"".join(lines)}</ul></nav>'


def _section(result: Result, number: int) -> str:
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in result.facts.items())
    parts = [
        f'<h2>{escape(result.title)}</h2><p class="verdict {_state(result)}">{escape(result.verdict())}</p>',
        f"<dl>{facts}</dl>" if facts else "",
        _culprits(result.culprits),
        *_pictures(result),
        _working(result),
        f"<h3>Modules</h3>{module_tree(result)}",
        _coverage(result),
        _table(result, number),
    ]
    return f'<section id="result-{number}">{"".join(parts)}</section>'


# --- culprits -------------------------------------------------------------------------------------------------------


def _culprits(found: Sequence[Culprit]) -> str:
    """Return a card for each layer at fault, the first open."""
    if not found:
        return ""
    cards = [_card(culprit, number < OPEN) for number, culprit in enumerate(found)]
    listed, others = "".join(cards[:LISTED]), cards[LISTED:]
    more = f"<details><summary>{len(others)} more</summary>{''.join(others)}</details>" if others else ""
    return f"<h3>{'Layer' if len(found) == 1 else f'{len(found)} layers'} at fault</h3>{listed}{more}"


def _card(found: Culprit, shown: bool) -> str:
    twin = "" if found.twin == found.layer else f" <small>in Paddle {escape(found.twin)}</small>"
    pictures = ""
    if found.spread:
        pictures = f"<h4>{escape(found.spread.line)}</h4>{spread_figures(found.spread)}"
    evidence = [line for line in found.evidence if not found.spread or line != found.spread.line]
    return (
        f'<details class="culprit"{" open" if shown else ""}><summary><b>{escape(found.layer)}</b>{twin} '
        f'<span class="badge">{escape(found.kind)}</span><p>{escape(found.cause)}</p></summary>'
        f"{_evidence(evidence)}{pictures}</details>"
    )


def _evidence(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = [f"<li>{escape(line)}</li>" for line in lines]
    shown, others = "".join(items[:LINES]), "".join(items[LINES:])
    more = f"<details><summary>{len(items) - LINES} more</summary><ul>{others}</ul></details>" if others else ""
    return f"<ul>{shown}</ul>{more}"


# --- tensors --------------------------------------------------------------------------------------------------------


def _pictures(result: Result) -> list[str]:
    """Return one picture for each direction with enough tensors."""
    directions: dict[str, list[Row]] = {}
    for row in result.rows:
        directions.setdefault(row.direction, []).append(row)
    drawn = {name: rows for name, rows in directions.items() if len(rows) >= COURSE} or directions
    return [depth_figure(rows, name) for name, rows in drawn.items()]


def _working(result: Result) -> str:
    """Return the pictures of working precision, folded, as they are informative only."""
    if result.working is None:
        return ""
    return f"<details><summary>{escape(result.at_work())}</summary>{''.join(_pictures(result.working))}</details>"


def _table(result: Result, number: int) -> str:
    """Return the table of all rows: closed if all are aligned, else filtered to the rows that differ."""
    wrong = sum(not row.aligned for row in result.rows)
    state, ticked = (" open", " checked") if wrong else ("", "")
    count = f"{wrong} of {len(result.rows)} differ" if wrong else f"{len(result.rows)} aligned"
    heading = "".join(f"<th{_align(i)}>{escape(name)}</th>" for i, name in enumerate(headings(result.rows)))
    faulty = {culprit.layer for culprit in result.culprits}
    body = "".join(_table_row(row, row.layer in faulty) for row in result.rows)
    return (
        f'<details class="tensors"{state}><summary>Tensors: {count}</summary>'
        f'<input type="checkbox" class="filter" id="filter-{number}"{ticked}>'
        f'<label for="filter-{number}">only what differs</label>'
        f"<table><thead><tr>{heading}</tr></thead><tbody>{body}</tbody></table></details>"
    )


def _align(column: int) -> str:
    return ' class="number"' if column in RIGHT else ""


def _table_row(row: Row, faulty: bool) -> str:
    columns = "".join(f"<td{_align(i)}>{escape(text)}</td>" for i, text in enumerate(cells(row)))
    return f'<tr class="{row.verdict}{"" if row.leaf else " container"}{" culprit" if faulty else ""}">{columns}</tr>'


def _coverage(result: Result) -> str:
    compared, *skipped = coverage(result).splitlines()
    items = "".join(f"<li>{escape(line)}</li>" for line in skipped)
    title = "1 layer was not compared" if len(skipped) == 1 else f"{len(skipped)} layers were not compared"
    more = f'<details class="skipped"><summary>{title}</summary><ul>{items}</ul></details>'
    return f'<p class="coverage">{escape(compared)}</p>{more if skipped else ""}'
