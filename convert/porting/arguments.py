"""The arguments of a model, in order or by name. No framework."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Arguments = Sequence[Any] | Mapping[str, Any]


def named(inputs: Arguments) -> dict[Any, Any]:
    """The arguments by their names, or by their places."""
    return dict(inputs) if isinstance(inputs, Mapping) else dict(enumerate(inputs))


def each(inputs: Arguments, change: Callable[[Any], Any]) -> list[Any] | dict[str, Any]:
    """``inputs`` in the same form, each changed."""
    changed = {name: change(value) for name, value in named(inputs).items()}
    return changed if isinstance(inputs, Mapping) else [*changed.values()]


def called(model: Callable[..., Any], inputs: Arguments) -> Any:
    """What ``model`` returns for ``inputs``."""
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


def as_declared(function: Callable[..., Any], inputs: Arguments) -> Arguments:
    """``inputs``, those by name in the order in which ``function`` declares them."""
    if not isinstance(inputs, Mapping):
        return inputs
    places = {name: place for place, name in enumerate(inspect.signature(function).parameters)}
    return {name: inputs[name] for name in sorted(inputs, key=lambda name: places.get(name, len(places)))}
