"""The types of options: pydantic checks them strictly, so that no text becomes a number and no number a truth.

Every type bounds what Paddle can hold, beside what its name says. Constraints are those of ``annotated_types``, which
``option.py`` tells in words.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, ConfigDict

HIGHEST = 2**31 - 1
"""Paddle's counters, seeds and shapes are ``int`` in many places, and end there."""
LEAST = 2.0**-126
"""Paddle computes in float32, of which this is the smallest normal number: processors may take less for 0."""
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""How every section is checked."""

Items = TypeVar("Items", bound=tuple)


def _seen_by_float32(value: float) -> float:
    if 0 < abs(value) < LEAST:
        raise ValueError("in float32 this is 0")
    return value


def _usable(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("text is not empty and holds no zero byte")
    return text


def ascending(values: Items) -> Items:
    """``values``, if each is above the one before it. Raises ``ValueError``."""
    if list(values) != sorted(set(values)):
        raise ValueError("not ascending")
    return values


Text = Annotated[str, AfterValidator(_usable)]
Whole = Annotated[int, Ge(-HIGHEST), Le(HIGHEST)]
NonNegativeInt = Annotated[int, Ge(0), Le(HIGHEST)]
PositiveInt = Annotated[int, Ge(1), Le(HIGHEST)]
Number = Annotated[float, AfterValidator(_seen_by_float32)]
NonNegativeFloat = Annotated[Number, Ge(0)]
PositiveFloat = Annotated[Number, Gt(0)]
Probability = Annotated[Number, Ge(0), Le(1)]
Rate = Annotated[Number, Ge(0), Lt(1)]
Share = Annotated[Number, Gt(0), Le(1)]
