"""A value given for an option, and its origin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

OVERRIDE = "-o"  # source of command-line values, which have no lines


@dataclass(frozen=True)
class Given:
    """A given value: its place (file and line, or ``-o``), its key, and its layer.

    A later layer (a higher number) overrides an earlier one.
    """

    value: Any
    where: str
    said: str
    layer: int = 0
