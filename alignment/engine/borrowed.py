"""Borrow two models: run them in other dtypes and modes, and return them exactly as they were.

The models are not copied. A port may hold references to its own layers (a replaced ``forward``, a hook), and in a copy
these would still point to the original.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignment.engine.sides.model import Half
from alignment.engine.sides.paddle import side as paddle_side
from alignment.engine.sides.paddle.side import Model as PaddleLayer
from alignment.engine.sides.settings import Settings
from alignment.engine.sides.side import Side
from alignment.engine.sides.torch import side as torch_side
from alignment.engine.sides.torch.side import Model as TorchModule

REFERENCE: Side = torch_side
PORT: Side = paddle_side


@dataclass
class Borrowed:
    """Both models, their layers by path, and the layers' settings when they were borrowed."""

    torch_module: TorchModule
    paddle_layer: PaddleLayer
    torch_half: Half
    paddle_half: Half

    @property
    def reference(self) -> dict[str, TorchModule]:
        """The reference's layers by path."""
        return self.torch_half.layers

    @property
    def port(self) -> dict[str, PaddleLayer]:
        """The port's layers by path."""
        return self.paddle_half.layers

    @property
    def reference_settings(self) -> dict[str, Settings]:
        """The settings of the reference's layers."""
        return self.torch_half.settings

    @property
    def port_settings(self) -> dict[str, Settings]:
        """The settings of the port's layers."""
        return self.paddle_half.settings

    @property
    def notes(self) -> dict[str, str]:
        """Notes on how each model runs, where that is unusual."""
        return self.torch_half.notes | self.paddle_half.notes

    def add(self, path: str, torch_module: TorchModule, paddle_layer: PaddleLayer, category: str) -> None:
        """Add a pair of layers from outside the models under ``path``, with a ``category`` of their own."""
        self.reference[path], self.port[path] = torch_module, paddle_layer
        self.reference_settings[path] = self.port_settings[path] = Settings(category)


def refuse_swapped(torch_module: Any, paddle_layer: Any) -> None:
    """Raise ``TypeError`` if an argument is not a model of its framework, or if the models are swapped."""
    for name, value, wanted in (
        ("torch_module", torch_module, TorchModule),
        ("paddle_layer", paddle_layer, PaddleLayer),
    ):
        if not isinstance(value, wanted):
            hint = "; are both models swapped?" if isinstance(value, (TorchModule, PaddleLayer)) else ""
            kind = f"{type(value).__module__}.{type(value).__name__}"
            raise TypeError(f"{name} must be a {wanted.__module__}.{wanted.__name__}, got {kind}{hint}")


def is_tensor(value: object) -> bool:
    """Return whether ``value`` is a tensor of either framework."""
    return REFERENCE.is_tensor(value) or PORT.is_tensor(value)


def side_of(tensor: Any) -> Side:
    """Return the side that a tensor belongs to."""
    return REFERENCE if REFERENCE.is_tensor(tensor) else PORT


@contextmanager
def borrow(torch_module: TorchModule, paddle_layer: PaddleLayer, mode: str) -> Iterator[Borrowed]:
    """Borrow both models in ``mode`` and read their settings; restore everything at exit, also after an error.

    Raises ``ValueError`` for an unknown ``mode``.
    """
    with settings_kept(), REFERENCE.borrow(torch_module, mode) as ours, PORT.borrow(paddle_layer, mode) as theirs:
        yield Borrowed(torch_module, paddle_layer, ours, theirs)


@contextmanager
def settings_kept() -> Iterator[None]:
    """Restore the frameworks' global settings that a model may change, and the random states of numpy and Python."""
    state, own = np.random.get_state(), random.getstate()
    try:
        with REFERENCE.settings_kept(), PORT.settings_kept():
            yield
    finally:
        np.random.set_state(state)
        random.setstate(own)
