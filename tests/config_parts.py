"""Configs for the tests of configs: what is known, what is refused, and the defaults with a change."""

from __future__ import annotations

import typing
from collections.abc import Iterator

import pytest
from annotated_types import Ge, Gt, Le, Lt

from paddle_dla.config import Config, ConfigError, parse_config
from paddle_dla.config.kinds import HIGHEST
from paddle_dla.config.option import alternatives, parts
from paddle_dla.config.schema import build, known_options

KNOWN = known_options()


def refusal(text: str = "", *overrides: str) -> list[str]:
    """The faults of a config, as text."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "my.yaml", overrides)
    return [str(fault) for fault in caught.value.faults]


def changed(**options: object) -> Config:
    """The default config with some options at other values; ``__`` stands for the dot."""
    config, refused = build({key.replace("__", "."): value for key, value in options.items()})
    assert not refused
    return config


def simple_kinds(kind: object) -> Iterator[tuple[object, tuple[object, ...]]]:
    """Every type in ``kind`` that holds no other one, with its constraints."""
    for each in alternatives(kind):
        bare, constraints = parts(each)
        inside = typing.get_args(bare) if typing.get_origin(bare) is tuple else ()
        yield from (pair for item in inside if item is not Ellipsis for pair in simple_kinds(item))
        if not inside:
            yield bare, constraints


def bounds(kind: object) -> set[tuple[float, int]]:
    """Every bound of the numbers in ``kind`` but ``HIGHEST``, with the sign of what lies beyond it."""
    signs = {Ge: ("ge", -1), Gt: ("gt", -1), Le: ("le", 1), Lt: ("lt", 1)}
    named = [(each, *signs[type(each)]) for _, limits in simple_kinds(kind) for each in limits if type(each) in signs]
    found = {(getattr(each, name), sign) for each, name, sign in named}
    return {(bound, sign) for bound, sign in found if abs(bound) != HIGHEST}


def choices(kind: object) -> list[str]:
    """The texts that ``kind`` allows; none where it allows any."""
    literals = [bare for bare, _ in simple_kinds(kind) if typing.get_origin(bare) is typing.Literal]
    return [text for literal in literals for text in typing.get_args(literal)]


EXAMPLES = {bool: True, int: 2, float: 0.3, str: "other"}


def examples(kind: object) -> list[object]:
    """A value of every alternative of ``kind`` but ``None``, one of each choice."""
    found: list[object] = []
    for each in alternatives(kind):
        bare, _ = parts(each)
        if typing.get_origin(bare) is tuple:
            items = typing.get_args(bare)
            found.append(tuple(examples(items[0])) * (1 if items[-1] is Ellipsis else len(items)))
        elif bare is not type(None):
            found += typing.get_args(bare) or [EXAMPLES[bare]]
    return found
