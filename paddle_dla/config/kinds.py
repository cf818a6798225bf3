"""The types of options: pydantic checks them strictly, so a text never becomes a number, nor a number a boolean.

In addition to its name, every type limits values to what Paddle can hold. Constraints are those of ``annotated_types``,
which ``option.py`` describes in words.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, ConfigDict

HIGHEST = 2**31 - 1
"""Paddle's counters, seeds and shapes are ``int`` in many places, and limited to this."""
LEAST = 2.0**-126
"""The smallest normal number of float32, in which Paddle computes: processors may treat smaller ones as 0."""
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""The pydantic settings of every section."""

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
    """Return ``values`` if each is larger than the previous one. Raises ``ValueError``."""
    if list(values) != sorted(set(values)):
        raise ValueError("not ascending")
    return values


Text = Annotated[str, AfterValidator(_usable)]
NonNegativeInt = Annotated[int, Ge(0), Le(HIGHEST)]
PositiveInt = Annotated[int, Ge(1), Le(HIGHEST)]
Number = Annotated[float, AfterValidator(_seen_by_float32)]
NonNegativeFloat = Annotated[Number, Ge(0)]
PositiveFloat = Annotated[Number, Gt(0)]
Probability = Annotated[Number, Ge(0), Le(1)]
Rate = Annotated[Number, Ge(0), Lt(1)]
Share = Annotated[Number, Gt(0), Le(1)]
