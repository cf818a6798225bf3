"""Fill the tables of docs/coverage.md from the CSV files in docs/coverage: ``python docs/make_coverage.py``.

``benchmarks/coverage.py`` writes these; the page says by which commands. A test compares page and files.
"""

from __future__ import annotations

import csv
import re
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from marked_parts import filled

PAGES = tuple(Path(__file__).with_name(f"coverage{suffix}.md") for suffix in ("", ".zh-CN"))
TABLES = Path(__file__).parent / "coverage"
ALIGNED = "aligned"

Record = dict[str, str]


def records(name: str) -> list[Record]:
    """The rows of one CSV, by family and model."""
    with (TABLES / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return sorted(csv.DictReader(file), key=lambda row: (row["family"], row["model"]))


def sizes(record: Record) -> str:
    """The image sizes that a port takes: ``*`` as many as its reference, ``/64`` multiples, ``224`` that one."""
    found = record["size"]
    if multiple := re.search(r"multiples of (\d+)", found):
        return f"/{multiple[1]}"
    if one := re.search(r"must be (\d+) and \d+", found):
        return one[1]
    return "*" if found == ALIGNED or found.startswith("the reference refuses") else found


def verdict(found: str) -> str:
    """A mark that every language reads."""
    return {ALIGNED: "✓", "": "–"}.get(found, found)


def families(rows: Sequence[Record]) -> list[str]:
    """One line for each family."""
    return [
        f"| {row['family']} | {row['model']} | {int(row['parameters'] or 0):,} | {row['lines']} "
        f"| {row['reference_lines']} | {verdict(row['eval'])} | {verdict(row['train'])} | {sizes(row)} |"
        for row in rows
    ]


def models(rows: Sequence[Record]) -> list[str]:
    """One line for each model of a package."""
    return [
        f"| {row['family']} | {row['model']} | {int(row['parameters'] or 0):,} | {row['lines']} "
        f"| {verdict(row['eval'])} | {verdict(row['train'])} |"
        for row in rows
    ]


def count(rows: Sequence[Record]) -> list[str]:
    """How many are aligned in evaluation and in training, of how many, and the median length of the source."""
    aligned = [sum(row[mode] == ALIGNED for row in rows) for mode in ("eval", "train")]
    lines = statistics.median(int(row["lines"]) for row in rows if row["lines"])
    return [f"| {len(rows)} | {aligned[0]} | {aligned[1]} | {lines:.0f} |"]


def evaluated(rows: Sequence[Record]) -> list[str]:
    """The same of models that were compared in evaluation alone."""
    lines = statistics.median(int(row["lines"]) for row in rows if row["lines"])
    return [f"| {len(rows)} | {sum(row['eval'] == ALIGNED for row in rows)} | {lines:.0f} |"]


def others(rows: Sequence[Record]) -> list[str]:
    """Why a model is not aligned."""
    told = (row for row in rows if row["eval"] != ALIGNED)
    return [f"- {row['model']}: {row['why'].strip()}" for row in told] or ["-"]


PARTS: dict[str, tuple[str, Callable[[Sequence[Record]], list[str]]]] = {
    "families count": ("families", count),
    "families": ("families", families),
    "drawn count": ("drawn", evaluated),
    "drawn others": ("drawn", others),
    "packages": ("packages", models),
    "packages others": ("packages", others),
}
"""The parts of the page: ``{mark: (CSV, what makes its lines)}``."""


def written(page: str) -> str:
    """``page`` with the lines of its tables made again; their headings are in the language of the page."""

    def table(text: str, name: str, lines: Callable[[Sequence[Record]], list[str]]) -> str:
        heading = [line for line in text.splitlines()[:2] if line.startswith("|")]
        return "\n".join([*heading, *lines(records(name))]) + "\n"

    return filled(page, {mark: partial(table, name=name, lines=lines) for mark, (name, lines) in PARTS.items()})


def main() -> None:
    """Fill the pages."""
    for path in PAGES:
        path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
