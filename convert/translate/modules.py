"""Describe torch modules as plain values: settings, children, tensors, and the names that are shared. Imports torch."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from convert.translate import modes
from convert.translate.float64 import WORKING
from convert.translate.plain import Held, Module, Place
from convert.translate.replacing import replaced

PLAIN = (bool, int, float, str, type(None))


@contextmanager
def constructors_recorded() -> Iterator[None]:
    """Context manager in which torch modules record their constructor's arguments, used to name those of a port."""
    original = torch.nn.Module.__init__

    def init(module: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        original(module, *args, **kwargs)
        module.__dict__["_constructed_with"] = _arguments_of(module, sys._getframe(1))

    with replaced(torch.nn.Module, "__init__", init):
        yield


def _arguments_of(module: torch.nn.Module, frame: Any) -> dict[str, Any]:
    """Return the constructor arguments of ``module``, from the outermost ``__init__`` above ``frame`` for it."""
    found: dict[str, Any] = {}
    while frame is not None and frame.f_code.co_name == "__init__":
        code = frame.f_code
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if not names or frame.f_locals.get(names[0]) is not module:
            break
        found = {name: frame.f_locals[name] for name in names[1:] if name in frame.f_locals}
        frame = frame.f_back
    return {name: value for name, value in found.items() if _plain(value)}


def described(path: str, module: torch.nn.Module) -> Module:
    """Return the module at ``path`` as plain values."""
    kind = type(module)
    held = [Held(name, tuple(value.shape), type_name(value.dtype), True)
            for name, value in module._parameters.items() if value is not None]  # fmt: skip
    unsaved = module._non_persistent_buffers_set
    held += [Held(name, tuple(value.shape), type_name(value.dtype), False, name not in unsaved)
             for name, value in module._buffers.items() if value is not None]  # fmt: skip
    settings = {name: value for name, value in vars(module).items() if _plain(value) and not name.startswith("_")}
    forward = kind.forward
    return Module(
        path=path,
        kind=modes.qualified(kind),
        bases=tuple(modes.qualified(base) for base in kind.__mro__),
        forward=f"{forward.__module__}.{forward.__qualname__}",
        parameters=tuple(inspect.signature(forward).parameters)[1:],
        settings=settings,
        constructor=module.__dict__.get("_constructed_with", {}),
        children={name: f"{path}.{name}".lstrip(".") for name, child in module._modules.items() if child is not None},
        held=held,
        doc=next(iter(inspect.cleandoc(kind.__doc__ or "").splitlines()), ""),
        place=source_place(kind),
    )


def aliases_of(model: torch.nn.Module) -> dict[str, str]:
    """Return ``{other path: first path}`` of parameters and buffers with several paths."""
    first: dict[int, str] = {}
    found = {}
    for path, value in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        if first.setdefault(id(value), path) != path:
            found[path] = first[id(value)]
    return found


def known_as(aliases: Mapping[str, str]) -> dict[str, list[str]]:
    """Return all names of each tensor with several names, by each of them."""
    groups: dict[str, list[str]] = {}
    for name, first in aliases.items():
        groups.setdefault(first, [first]).append(name)
    return {name: names for names in groups.values() for name in names}


def shared_in(model: torch.nn.Module) -> dict[str, str]:
    """Return ``{second path: first path}`` of modules that are registered again, without the modules inside them."""
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        inside = any(path.startswith(f"{other}.") for other in found)
        if not inside and first.setdefault(id(module), path) != path:
            found[path] = first[id(module)]
    return found


def type_name(dtype: torch.dtype) -> str:
    """Return the name of a type; float64 stands for the port's own."""
    return "working" if dtype is WORKING else str(dtype).removeprefix("torch.")


@functools.cache
def source_place(kind: type) -> Place | None:
    """Return where a class is written; ``None`` if its source is not there."""
    try:
        return Place(inspect.getsourcefile(kind) or "", inspect.getsourcelines(kind)[1])
    except (OSError, TypeError):
        return None


def _plain(value: Any) -> bool:
    return isinstance(value, PLAIN) or (isinstance(value, (tuple, list)) and all(isinstance(x, PLAIN) for x in value))
