"""The arguments of a model, in order or by name. No framework."""

from __future__ import annotations

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
