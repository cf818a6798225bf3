"""How an option of the schema is declared, and what may be given for it.

A section is a frozen dataclass whose fields are made by ``option``; a field that is itself a section nests. All that is
known of an option (type, default, choices, range, its line in the documents) stands in that one place.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from paddle_dla.storage.shown import shown

HIGHEST = 2**31 - 1
"""Paddle's counters, seeds and shapes are ``int`` in many places, and end there."""
LEAST = 2.0**-126
"""Paddle computes in float32, of which this is the smallest normal number: processors may take less for 0."""


@dataclass(frozen=True)
class Limits:
    """What a value must satisfy beyond its type; of a list, each item. ``above`` and ``below`` exclude the bound."""

    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    ascending: bool = False


@dataclass(frozen=True)
class Option:
    """One option of the schema. ``key`` is its dotted name, ``kind`` its Python type."""

    key: str
    kind: Any
    default: Any
    doc: str
    limits: Limits

    @property
    def expected(self) -> str:
        """What may be given, in words: ``a number, at least 0, or null``."""
        return _expected(self.kind, self.limits)


def option(default: Any, doc: str, **limits: Any) -> Any:
    """A field of a section: its ``default``, its line in the documents, and the ``Limits`` of what may be given."""
    return field(default=default, metadata={"doc": doc, "limits": Limits(**limits)})


def options(kind: type, prefix: str = "") -> Iterator[Option]:
    """Every option of the section ``kind`` and of those inside it, in the order of their declaration."""
    hints = typing.get_type_hints(kind)
    for item in fields(kind):
        key = f"{prefix}{item.name}"
        if is_dataclass(hints[item.name]):
            yield from options(hints[item.name], f"{key}.")
        else:
            yield Option(key, hints[item.name], item.default, item.metadata["doc"], item.metadata["limits"])


def convert(value: Any, wanted: Option) -> Any:
    """``value``, as YAML gave it, in the type of the option: a list becomes a tuple, a whole number a float.

    Raises ``TypeError`` for another type and ``ValueError`` for a value out of range; the message says what was given
    and what is expected.
    """
    refusal = f"expected {wanted.expected}, not {_shown(value)}{_advice(value, wanted)}"
    for kind in _alternatives(wanted.kind):
        with suppress(TypeError, OverflowError):
            converted = _as(value, kind)
            if not _fits(converted, wanted.limits):
                raise ValueError(refusal)
            return converted
    raise TypeError(refusal)


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


def _as(value: Any, kind: Any) -> Any:
    if typing.get_origin(kind) is tuple:
        return _as_tuple(value, typing.get_args(kind))
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:  # bool is an int to isinstance
        raise TypeError
    return value


def _as_tuple(value: Any, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError
    if kinds[-1] is Ellipsis:
        return tuple(_as(item, kinds[0]) for item in value)
    if len(value) != len(kinds):
        raise TypeError
    return tuple(_as(item, kind) for item, kind in zip(value, kinds, strict=True))


def _fits(value: Any, limits: Limits) -> bool:
    items = value if isinstance(value, tuple) else (value,)
    ordered = not limits.ascending or list(items) == sorted(set(items))
    return ordered and all(_within(item, limits) for item in items)


def _within(value: Any, limits: Limits) -> bool:
    if isinstance(value, str):
        return value in limits.choices if limits.choices else bool(value) and "\0" not in value
    if value is None or isinstance(value, bool):
        return True
    return (
        math.isfinite(value)
        and (type(value) is not int or abs(value) <= HIGHEST)
        and (value == 0 or abs(value) >= LEAST)
        and (limits.low is None or value >= limits.low)
        and (limits.high is None or value <= limits.high)
        and (limits.above is None or value > limits.above)
        and (limits.below is None or value < limits.below)
    )


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", types.NoneType: "null"}
_PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}


def _expected(kind: Any, limits: Limits) -> str:
    words = [_expected_one(alternative, limits) for alternative in _alternatives(kind)]
    return ", or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _expected_one(kind: Any, limits: Limits) -> str:
    if typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        count = "" if kinds[-1] is Ellipsis else f"{len(kinds)} "
        order = "ascending " if limits.ascending else ""
        return f"a list of {count}{order}{_PLURALS[kinds[0]]}{_limited(kinds[0], limits)}"
    return _WORDS[kind] + _limited(kind, limits)


def _limited(kind: Any, limits: Limits) -> str:
    if kind is str:
        return f" (one of {', '.join(limits.choices)})" if limits.choices else ""
    bounds = (
        ("at least", limits.low),
        ("above", limits.above),
        ("at most", limits.high),
        ("below", limits.below),
    )
    told = [f"{word} {bound if type(bound) is int else f'{bound:g}'}" for word, bound in bounds if bound is not None]
    return f", {' and '.join(told)}" if told and kind in (int, float) else ""


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    names = {str: "the text ", dict: "a section: "}
    return f"{names.get(type(value), '')}{shown(list(value) if isinstance(value, tuple) else repr(value))}"


def _advice(value: Any, wanted: Option) -> str:
    if any(type(item) is int and abs(item) > HIGHEST for item in (value if isinstance(value, list) else [value])):
        return f"; whole numbers end at {HIGHEST:,}"
    if any(type(item) is float and 0 < abs(item) < LEAST for item in (value if isinstance(value, list) else [value])):
        return f"; in float32 less than {LEAST:.2g} is 0"
    if isinstance(value, str) and bool in _alternatives(wanted.kind) and value.lower() in _OLD_BOOLEANS:
        return f"; write {str(_OLD_BOOLEANS[value.lower()]).lower()}"
    return ""


# what YAML 1.1 took for booleans; here they are texts, so that a class or a file may be called "no"
_OLD_BOOLEANS = {"yes": True, "on": True, "y": True, "no": False, "off": False, "n": False}
