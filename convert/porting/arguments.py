"""Arguments of a model, positional or by name. No framework."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Arguments = Sequence[Any] | Mapping[str, Any]


def named(inputs: Arguments) -> dict[Any, Any]:
    """Return the arguments by name, or by position."""
    return dict(inputs) if isinstance(inputs, Mapping) else dict(enumerate(inputs))


def each(inputs: Arguments, change: Callable[[Any], Any]) -> list[Any] | dict[str, Any]:
    """Apply ``change`` to each of ``inputs`` and return the results in the same form."""
    changed = {name: change(value) for name, value in named(inputs).items()}
    return changed if isinstance(inputs, Mapping) else [*changed.values()]


def called(model: Callable[..., Any], inputs: Arguments) -> Any:
    """Call ``model`` with ``inputs`` and return its output."""
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


def as_declared(function: Callable[..., Any], inputs: Arguments) -> Arguments:
    """Return ``inputs``, with arguments by name in the order in which ``function`` declares them."""
    if not isinstance(inputs, Mapping):
        return inputs
    places = {name: place for place, name in enumerate(inspect.signature(function).parameters)}
    return {name: inputs[name] for name in sorted(inputs, key=lambda name: places.get(name, len(places)))}
