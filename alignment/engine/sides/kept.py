"""Save and restore what a layer object holds: attributes, hooks, caches. No framework.

A layer of either framework is a Python object whose ``__dict__`` holds its parameters, buffers, sublayers, hooks and
any other attributes. A run may change them (a cache filled in evaluation, a buffer that is reassigned), and a
comparison must return its models unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

DEPTH = 4
"""The depth to which dicts and lists in attributes are followed; a cache is a dict, or a dict of lists."""


@dataclass(frozen=True)
class _Noted:
    """A container and its saved content; values that are containers are saved, too."""

    held: Any
    items: Any

    def put_back(self) -> None:
        for item in self.items.values() if isinstance(self.items, dict) else self.items:
            if isinstance(item, _Noted):
                item.put_back()
        if isinstance(self.held, MutableMapping):
            now = {key: _plain(item) for key, item in self.items.items()}
            if not _same(self.held, now):
                self.held.clear()
                self.held.update(now)
        elif isinstance(self.held, list):
            self.held[:] = [_plain(item) for item in self.items]
        else:
            self.held.clear()
            self.held.update(self.items)


def _same(held: MutableMapping[Any, Any], now: MutableMapping[Any, Any]) -> bool:
    return [*held] == [*now] and all(held[key] is now[key] for key in now)


def _plain(item: Any) -> Any:
    return item.held if isinstance(item, _Noted) else item


def _noted(value: Any, depth: int = DEPTH) -> Any:
    if depth and isinstance(value, MutableMapping):
        return _Noted(value, {key: _noted(item, depth - 1) for key, item in value.items()})
    if depth and isinstance(value, list):
        return _Noted(value, [_noted(item, depth - 1) for item in value])
    return _Noted(value, set(value)) if type(value) is set else value


@contextmanager
def attributes_kept(layers: Iterable[Any]) -> Iterator[None]:
    """Restore every attribute of ``layers``, and the dicts and lists in them, at exit."""
    noted = [_noted(vars(layer)) for layer in layers]
    try:
        yield
    finally:
        for attributes in noted:
            attributes.put_back()


def plain_tensors(
    layers: Iterable[Any], is_tensor: Callable[[Any], bool], known: Iterable[Any] = ()
) -> Iterator[tuple[MutableMapping[Any, Any] | list[Any], Any, Any]]:
    """Yield ``(holder, key, tensor)`` of tensors in plain attributes that are neither parameter nor buffer (``known``).

    Registered tensors in ``_parameters`` and ``_buffers`` are skipped.
    """
    taken = {id(tensor) for tensor in known}
    for layer in layers:
        inside = {key: value for key, value in vars(layer).items() if not key.startswith(("_parameters", "_buffers"))}
        for key, value in inside.items():
            if is_tensor(value):
                if id(value) not in taken:
                    yield vars(layer), key, value
            elif isinstance(value, (dict, list)):
                yield from _inside(value, is_tensor, taken, DEPTH)


def _inside(held: Any, is_tensor: Callable[[Any], bool], taken: set[int], depth: int) -> Iterator[tuple[Any, Any, Any]]:
    for key, value in [*(held.items() if isinstance(held, dict) else enumerate(held))]:
        if is_tensor(value):
            if id(value) not in taken:
                yield held, key, value
        elif depth and isinstance(value, (dict, list)):
            yield from _inside(value, is_tensor, taken, depth - 1)


def in_other_type(
    layers: Sequence[Any], is_tensor: Callable[[Any], bool], known: Iterable[Any], cast: Callable[[Any], Any]
) -> None:
    """Replace floating-point tensors in plain attributes by ``cast`` copies, and empty the caches."""
    emptied_caches(layers)
    for holder, key, tensor in [*plain_tensors(layers, is_tensor, known)]:
        if tensor.is_floating_point():
            holder[key] = cast(tensor)


def is_cache(name: Any) -> bool:
    """Return whether an attribute of this name is a cache, which has to be recomputed in another dtype."""
    return isinstance(name, str) and "cache" in name.lower()


def emptied_caches(layers: Iterable[Any]) -> None:
    """Empty every dict or list in an attribute that ``is_cache``: it was computed from weights of another dtype."""
    for layer in layers:
        for name, value in vars(layer).items():
            if is_cache(name) and isinstance(value, (dict, list)):
                value.clear()
