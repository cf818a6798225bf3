"""Write rows as CSV that a spreadsheet reads literally: no cell becomes a formula.

A spreadsheet computes a cell that begins with ``=``, ``+``, ``-`` or ``@``, and a formula can fetch and send data
(https://owasp.org/www-community/attacks/CSV_Injection). A leading apostrophe marks the cell as text.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, TextIO

_FORMULA = ("=", "+", "-", "@", "\t")


def write_rows(file: TextIO, rows: Iterable[Sequence[Any]]) -> None:
    """Write ``rows``; texts that a spreadsheet would compute are marked as text, numbers stay numbers."""
    csv.writer(file, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # Python before 3.13 does not quote it, and readers take it for the end of the row
    value = value.replace("\r", "\\r")
    if not value.startswith(_FORMULA):
        return value
    with suppress(ValueError):
        float(value)
        return value
    return f"'{value}"
