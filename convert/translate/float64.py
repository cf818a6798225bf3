"""Compute in float64 throughout, even where a module requests float32. Imports torch."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

# the module's type while it is traced; it stands for the port's own type
WORKING = torch.float64


def double(values: Any) -> Any:
    """Return ``values`` in which all floating point tensors are float64."""
    return pytree.tree_map(
        lambda value: value.to(WORKING) if isinstance(value, torch.Tensor) and value.is_floating_point() else value,
        values,
    )


class Float64(TorchFunctionMode):
    """Mode in which requests for float32, ``x.float()`` or ``arange(dtype=float32)``, are computed in float64."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        function, args, kwargs = _in_float64(function, args, kwargs or {})
        return function(*args, **kwargs)


def _in_float64(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, tuple, dict[str, Any]]:
    function = torch.Tensor.double if function is torch.Tensor.float else function
    swapped = tuple(WORKING if value is torch.float32 else value for value in args)
    return function, swapped, {name: WORKING if value is torch.float32 else value for name, value in kwargs.items()}


def float64_throughout(module: torch.nn.Module) -> torch.nn.Module:
    """Make ``module`` compute in float64 throughout if its parameters or inputs are float64. Changes it in place."""
    inner = module.forward

    @functools.wraps(inner)
    def forward(*args: Any, **kwargs: Any) -> Any:
        tensors = (*module.parameters(), *pytree.tree_leaves((args, kwargs)))
        if any(isinstance(value, torch.Tensor) and value.dtype is WORKING for value in tensors):
            with Float64():
                return inner(*args, **kwargs)
        return inner(*args, **kwargs)

    module.forward = forward
    return module


@contextmanager
def made_in_float64() -> Iterator[None]:
    """Context manager in which new tensors are float64 unless they name a type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(WORKING)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
