"""Write a result as a terminal table, a JSON file or an HTML page. No framework."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from alignment.engine.result import FORWARD, INIT, Culprit, Result, Row, terms
from paddle_dla.storage.atomic import atomic_path, write_error

RIGHT = {3, 4, 5, 6}  # columns of numbers
ALIKE = 3  # culprits of one kind and cause that are listed individually
FOLD = 12  # aligned rows shown at either end of a folded run
SCREEN = 24  # lines of a terminal: a longer report scrolls the verdict away, so it is repeated at the end


def headings(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the column headings of a table, whose rows are all measured alike."""
    words = terms(rows[0].direction if rows else FORWARD)
    return ("layer", "kind", "shape", "max abs", words.heading, "limit", words.explained, "verdict")


def cells(row: Row) -> tuple[str, ...]:
    """Return a table row as text; a repeated call is numbered from 1."""
    call = f" #{row.call + 1}" if row.call else ""
    shape = "x".join(map(str, row.shape))
    numbers = (f"{row.max_abs:.2e}", f"{row.relative:.1e}", f"{row.allowed:.1e}", f"{row.floor:.1e}")
    errors = ("-",) * len(numbers) if row.note else numbers
    name = row.layer + row.place + call + ("" if row.direction in (FORWARD, INIT) else f" ({row.direction})")
    why = row.note or row.undecided
    return (name, row.kind, shape, *errors, f"{row.verdict}: {why}" if why else row.verdict)


def table(result: Result, fold: bool = True) -> str:
    """Return the rows in the order of execution; long runs of aligned ones are folded unless ``fold`` is false."""
    columns = headings(result.rows)
    lines = [columns, *(_folded(result.rows) if fold else map(cells, result.rows))]
    widths = [max(len(line[i]) for line in lines if len(line) > 1) for i in range(len(columns))]
    return "\n".join(_line(line, widths) for line in lines)


def _line(line: Sequence[str], widths: Sequence[int]) -> str:
    if len(line) == 1:
        return f"  {line[0]}"
    padded = [text.rjust(w) if i in RIGHT else text.ljust(w) for i, (text, w) in enumerate(zip(line, widths))]
    return "  ".join(padded).rstrip()


def _folded(rows: Sequence[Row]) -> Iterable[tuple[str, ...]]:
    """Yield text rows; of a long run of aligned rows only both ends remain, with a line between."""
    run: list[Row] = []
    for row in [*rows, None]:
        if row is not None and row.aligned:
            run.append(row)
            continue
        if len(run) <= 2 * FOLD + 1:
            yield from map(cells, run)
        else:
            hidden = run[FOLD:-FOLD]
            worst = max(hidden, key=lambda r: r.relative)
            yield from map(cells, run[:FOLD])
            measured = f"{terms(worst.direction).measured} {worst.relative:.1e}"
            yield (f"... {len(hidden)} more, all aligned, worst {measured} at {worst.layer} ...",)
            yield from map(cells, run[-FOLD:])
        run = []
        if row is not None:
            yield cells(row)


def coverage(result: Result) -> str:
    """Describe what was compared, and what was not, with the reasons."""
    found = result.coverage
    compared = (
        f"{found.compared} tensors ({found.leaves} of leaves, {found.compared - found.leaves} of containers), "
        f"{found.elements:,} elements, every one of them"
    )
    lines = [f"compared: {compared if found.compared else 'nothing'}"]
    lines += [f"not compared: {item.layer} ({item.kind}, {item.side}): {item.reason}" for item in found.skipped]
    return "\n".join(lines)


def culprits(result: Result) -> str:
    """Describe the layers at fault with cause and evidence; those of one cause share the first one's evidence."""
    lines = []
    for group in result.by_cause():
        apart = [group] if len(group) > ALIKE else [[found] for found in group]
        for some in apart:
            lines += _culprit_lines(some)
    return "\n".join(lines)


def _culprit_lines(alike: Sequence[Culprit]) -> list[str]:
    found = alike[0]
    evidence = [f"  {line}" for line in found.evidence if line != found.cause]
    twin = "" if found.twin == found.layer else f" (in Paddle {found.twin})"
    place = f"{found.layer}{twin}"
    if len(alike) > 1:
        return [f"{found.cause}: {len(alike)} layers, first {place} ({found.kind} fault)", *evidence]
    return [f"{found.kind} fault in {place}: {found.cause}", *evidence]


def text(result: Result, fold: bool = True) -> str:
    """Return the whole terminal report: verdict, culprits, facts, table, coverage; a long one repeats the verdict."""
    facts = "\n".join(f"{name}: {value}" for name, value in result.facts.items())
    verdict = f"{result.title}\n{result.verdict()}"
    blocks = [verdict, culprits(result), facts, table(result, fold), coverage(result), result.at_work()]
    report = "\n\n".join(filter(None, blocks))
    return f"{report}\n{result.verdict()}" if report.count("\n") >= SCREEN else report


def write_json(results: Sequence[Result], path: str | os.PathLike[str]) -> None:
    """Write one result as an object, several as a list, completely or not at all, as ``write_report``."""
    content = [result.to_dict() for result in results]
    write_report(path, _numbers_on_one_line(json.dumps(content[0] if len(content) == 1 else content, indent=1)) + "\n")


def _numbers_on_one_line(text: str) -> str:
    """Put each list of numbers in indented JSON on one line; strings in JSON contain no line breaks."""
    numbers = re.compile(r'\[\n\s+((?:[-+.\deE]+|"inf")(?:,\n\s+(?:[-+.\deE]+|"inf"))*)\n\s*\]')
    return numbers.sub(lambda found: f"[{' '.join(found[1].split())}]", text)


def write_report(path: str | os.PathLike[str], content: str) -> None:
    """Write a report, completely or not at all, and create its folder.

    Characters that are not valid text (in a name that is not UTF-8) are written as Python escapes. Raises
    ``CheckpointError`` where the system refuses.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from error
    with atomic_path(path) as part:
        part.write_text(content, encoding="utf-8", errors="backslashreplace")
