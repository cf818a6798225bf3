"""Describe in words the values that an option accepts, derived from its type (``kinds.py``)."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, is_dataclass
from typing import Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator
from pydantic.dataclasses import is_pydantic_dataclass
from pydantic.fields import FieldInfo

from paddle_dla.config.kinds import HIGHEST, LEAST, ascending
from paddle_dla.storage.shown import shown


@dataclass(frozen=True)
class Option:
    """One option of the schema. ``key`` is its dotted name, ``kind`` its type with constraints."""

    key: str
    kind: Any
    default: Any
    doc: str

    @property
    def expected(self) -> str:
        """Return the accepted values in words: ``a number, at least 0, or null``."""
        words = [_expected(kind) for kind in alternatives(self.kind)]
        return ", or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]

    def refusal(self, value: Any) -> str:
        """Return why a ``value`` from YAML is refused: what it is, what is expected, and what to write instead."""
        return f"expected {self.expected}, not {_shown(value)}{self._advice(value)}"

    def _advice(self, value: Any) -> str:
        items = value if isinstance(value, list) else [value]
        if any(type(item) is int and abs(item) > HIGHEST for item in items):
            return f"; whole numbers end at {HIGHEST:,}"
        if any(type(item) is float and 0 < abs(item) < LEAST for item in items):
            return f"; in float32 less than {LEAST:.2g} is 0"
        if isinstance(value, str) and bool in alternatives(self.kind) and value.lower() in _OLD_BOOLEANS:
            return f"; write {str(_OLD_BOOLEANS[value.lower()]).lower()}"
        return ""


# booleans in YAML 1.1; here they are texts, so that a class or a file may be called "no"
_OLD_BOOLEANS = {"yes": True, "on": True, "y": True, "no": False, "off": False, "n": False}


def fields(section: type) -> dict[str, FieldInfo]:
    """Return the options of ``section`` and its subsections by name. Raises ``TypeError`` for another class."""
    if not is_pydantic_dataclass(section):
        raise TypeError(f"{section.__name__} is no section of the schema")
    return section.__pydantic_fields__


def options(section: type, prefix: str = "") -> Iterator[Option]:
    """Yield every option of ``section`` and its subsections, in the order of declaration."""
    for name, item in fields(section).items():
        key = f"{prefix}{name}"
        if isinstance(item.annotation, type) and is_dataclass(item.annotation):
            yield from options(item.annotation, f"{key}.")
        else:
            kind = typing.Annotated[item.annotation, *item.metadata] if item.metadata else item.annotation
            yield Option(key, kind, item.default, item.description or "")


def alternatives(kind: Any) -> tuple[Any, ...]:
    """Return the types of a union, or ``kind`` alone."""
    return typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)


def parts(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """Split a type into the type without constraints, and the constraints."""
    if typing.get_origin(kind) is typing.Annotated:
        return kind.__origin__, kind.__metadata__
    return kind, ()


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", types.NoneType: "null"}
_PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}
_BOUNDS = ((Ge, "at least", "ge"), (Gt, "above", "gt"), (Le, "at most", "le"), (Lt, "below", "lt"))


def _expected(kind: Any) -> str:
    kind, constraints = parts(kind)
    if typing.get_origin(kind) is typing.Literal:
        return f"text (one of {', '.join(typing.get_args(kind))})"
    if typing.get_origin(kind) is not tuple:
        return _WORDS[kind] + _limited(constraints)
    kinds = typing.get_args(kind)
    count = "" if kinds[-1] is Ellipsis else f"{len(kinds)} "
    order = "ascending " if AfterValidator(ascending) in constraints else ""
    item, limits = parts(kinds[0])
    return f"a list of {count}{order}{_PLURALS[item]}{_limited(limits)}"


def _limited(constraints: Iterable[Any]) -> str:
    bounds = [(word, getattr(each, name)) for each in constraints for kind, word, name in _BOUNDS if type(each) is kind]
    told = [
        f"{word} {bound if type(bound) is int else f'{bound:g}'}" for word, bound in bounds if abs(bound) != HIGHEST
    ]
    return f", {' and '.join(told)}" if told else ""


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    names = {str: "the text ", dict: "a section: "}
    return f"{names.get(type(value), '')}{shown(list(value) if isinstance(value, tuple) else repr(value))}"
