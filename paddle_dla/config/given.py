"""What somebody gave for an option, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

OVERRIDE = "-o"  # the source of what the command line gives: it has no lines


@dataclass(frozen=True)
class Given:
    """A value that somebody gave: where (file and line, or ``-o``), under which key, in which layer.

    A later layer (a higher number) wins.
    """

    value: Any
    where: str
    said: str
    layer: int = 0
