"""Which variants are tested in every run, and which in the heavy one alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest

DIFFERENT = ("dla34", "dla46x_c", "dla60_res2next", "dla102")
"""Every kind of block, with groups where it may have them, and dla102, which has none and a shortcut in its roots; the
others are more or wider of the same."""
EXTREMES = ("dla34", "dla60_res2next")
"""The plainest and the richest blocks."""


def each(names: Iterable[str], light: Collection[str]) -> list[Any]:
    """``names`` as parameters of a test, of which the ``light`` ones are in every run and the others are heavy.

    For properties that a network's width and depth do not touch.
    """
    return [pytest.param(name, marks=[] if name in light else pytest.mark.heavy) for name in names]
