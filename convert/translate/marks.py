"""Operators that mark places in a trace: a layer's call, and the tensors that a module returns. Imports torch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

MARK, STRIDED, RETURNED = "port::mark", "port::strided", "port::returned"


@functools.cache
def _identity(name: str) -> Any:
    """Return an operator that returns its tensor; its ``name`` and ``path`` mark a place in the graph."""

    @torch.library.custom_op(name, mutates_args=())
    def identity(x: torch.Tensor, path: str) -> torch.Tensor:
        return x.clone()

    identity.register_fake(lambda x, path: torch.empty_like(x))
    return identity


def marked(path: str, x: torch.Tensor) -> torch.Tensor:
    """The forward of a layer at ``path`` that is recorded as one call, whatever it does."""
    return _identity(MARK)(x, path)


@functools.cache
def _covering() -> Any:
    """Return an operator that stands for a layer whose output has ceil(side / stride) positions, marked by ``path``."""

    @torch.library.custom_op(STRIDED, mutates_args=())
    def covering(x: torch.Tensor, path: str, channels: int, stride: Sequence[int]) -> torch.Tensor:
        sides = [-(-side // step) for side, step in zip(x.shape[2:], stride, strict=True)]
        return x.new_empty([x.shape[0], channels, *sides])

    @covering.register_fake
    def _(x: torch.Tensor, path: str, channels: int, stride: Sequence[int]) -> torch.Tensor:
        sides = [(side + step - 1) // step for side, step in zip(x.shape[2:], stride, strict=True)]
        return x.new_empty([x.shape[0], channels, *sides])

    return covering


def strided(path: str, layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The forward of a layer at ``path`` that is recorded as one call and pads its input, as TensorFlow does."""
    stride = layer.stride if isinstance(layer.stride, (tuple, list)) else (layer.stride, layer.stride)
    return _covering()(x, path, getattr(layer, "out_channels", x.shape[1]), list(stride))


def returned(path: str, module: torch.nn.Module, args: Any, output: Any) -> Any:
    """Forward hook that marks the tensors of a returned tuple or list, whose order is not recorded otherwise.

    A hook is used rather than another ``forward`` because ``torch.export`` distinguishes the places of a shared module
    by the ``self`` that it passes.
    """
    if type(output) not in (tuple, list):
        return output
    return type(output)(_identity(RETURNED)(x, path) if isinstance(x, torch.Tensor) else x for x in output)
