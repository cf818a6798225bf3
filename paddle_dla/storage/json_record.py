"""Records in JSON, read with limits and validated against a type: keys are declared in a ``TypedDict``.

This replaces pydantic with sixty lines, because ``storage`` needs only numpy and safetensors, and a compiled validator
would be a dependency of every export and conversion.
"""

from __future__ import annotations

import json
import math
import os
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_origin, is_typeddict

from paddle_dla.storage.regular import MOST_TEXT, read_text
from paddle_dla.storage.shown import shown

DEEPEST = 100
"""Nesting depth of objects. The deepest record written here has six levels; Python's own writer stops at a thousand."""


class RecordError(ValueError):
    """An invalid record; the message follows the record's name, as in ``state.json: plan.epochs is a text``."""


class FormatError(RecordError):
    """A record of a format that is not supported here."""


@dataclass(frozen=True)
class Within:
    """In ``Annotated``: a number from ``low`` to ``high``."""

    low: float
    high: float

    def holds(self, value: Any) -> bool:
        """Return whether ``value`` is in the range."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"from {self.low:,} to {self.high:,}"


@dataclass(frozen=True)
class Like:
    """In ``Annotated``: a text that ``pattern`` matches completely, called ``what`` in messages."""

    pattern: str
    what: str

    def holds(self, value: Any) -> bool:
        """Return whether ``value`` matches."""
        return re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return self.what


Sha256 = Annotated[str, Like("[0-9a-f]{64}", "a SHA-256 in hexadecimal digits")]
Count = Annotated[int, Within(0, 2**63 - 1)]
"""A whole number that fits the element count of an array, or the size of a file."""


def read_record(path: str | os.PathLike[str], kind: type, version: int, most: int = MOST_TEXT) -> dict[str, Any]:
    """Read the object in ``path`` with the keys and types of the ``TypedDict`` ``kind``; missing keys are accepted.

    Raises ``FormatError`` if its ``format`` is not ``version``, ``RecordError`` if a type differs, or it is not JSON or
    nested too deeply, and ``OSError`` for anything but a regular file of up to ``most`` bytes.
    """
    content = parse_json(_text(path, most))
    if isinstance(content, dict) and type(content.get("format")) is int and content["format"] != version:
        raise FormatError(f"has format {content['format']}; this version reads {version}")
    check_record(content, kind)
    return content


def _text(path: str | os.PathLike[str], most: int) -> str:
    try:
        return read_text(path, most)
    except UnicodeDecodeError as error:
        raise RecordError(f"is no text in UTF-8: {error.reason}") from error


def parse_json(text: str) -> Any:
    """Parse the value in ``text``.

    Raises ``RecordError`` if it is not JSON, is nested too deeply, or names a key twice, for which readers use one or
    the other value.
    """
    try:
        value = json.loads(text, object_pairs_hook=_each_key_once)
    except RecordError:
        raise
    except (ValueError, RecursionError) as error:
        raise RecordError(f"is no JSON: {error}") from error
    level = [value]
    for _ in range(DEEPEST):
        level = [item for outer in level for item in _items(outer)]
    if level:
        raise RecordError(f"is nested more than {DEEPEST} deep")
    return value


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise RecordError(f"names {shown(twice)!r} twice")
    return found


def _items(value: object) -> Iterator[Any]:
    return iter(value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())


def check_record(value: Any, kind: Any, where: str = "") -> None:
    """Raise ``RecordError`` with the first key of ``value`` that does not match the annotation ``kind``."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return
    if is_typeddict(kind):
        _require(isinstance(value, dict), value, "an object", where)
        for key, inner in _hints(kind).items():
            if key in value:
                check_record(value[key], inner, _inside(where, key))
            elif key in kind.__required_keys__:
                raise RecordError(f"{_inside(where, key)} is missing")
    elif origin is Annotated:
        check_record(value, arguments[0], where)
        for rule in arguments[1:]:
            _require(rule.holds(value), value, str(rule), where)
    elif origin in (typing.Union, types.UnionType):
        _check_either(value, arguments, where)
    elif origin in (list, dict):
        _require(type(value) is origin, value, _NAMES[origin], where)
        for key, item in value.items() if origin is dict else enumerate(value):
            check_record(item, arguments[-1], _inside(where, key))
    elif kind is float:
        is_number = type(value) in (int, float) and math.isfinite(value)
        _require(is_number, value, "a finite number", where)
    else:
        _require(type(value) is kind, value, _NAMES[kind], where)


_NAMES = {str: "a text", int: "a whole number", bool: "true or false", list: "a list", dict: "an object"}
_NAMES |= {types.NoneType: "null", float: "a number"}


def _check_either(value: Any, kinds: tuple[Any, ...], where: str) -> None:
    """Check against the kinds that are not ``None``, of which there is one."""
    if value is not None or types.NoneType not in kinds:
        for kind in kinds:
            if kind is not types.NoneType:
                check_record(value, kind, where)


def _require(holds: bool, value: Any, what: str, where: str) -> None:
    if not holds:
        found = value if type(value) in (int, float) and abs(value) < 1e18 else _NAMES.get(type(value), "of no type")
        raise RecordError(f"{where or 'it'} is {found}, expected is {what}")


def _inside(where: str, key: object) -> str:
    return f"{where}.{shown(key)}" if where else shown(key)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)
