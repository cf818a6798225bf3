"""One model as a comparison sees it: its layers by path and what each is set to do. No framework."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from alignment.engine.records.tape import ROOT
from alignment.engine.sides.settings import Settings


@dataclass
class Half:
    """One of both models: ``layers`` and ``settings`` by path, ``notes`` on how it runs."""

    layers: dict[str, Any]
    settings: dict[str, Settings]
    notes: dict[str, str]

    def leaves(self) -> frozenset[str]:
        """Paths of the layers without sublayers."""
        return frozenset(path for path, layer in self.layers.items() if next(iter(layer.children()), None) is None)

    def switch_dropout_off(self) -> None:
        """Put every dropout into evaluation, after it was read."""
        for path, layer in self.layers.items():
            if self.settings[path].category == "dropout":
                layer.training = False


def refuse_unknown_mode(mode: str) -> None:
    """Raises ``ValueError`` for a word that is no mode."""
    if mode not in ("eval", "train"):
        raise ValueError(f"mode must be 'eval' or 'train', got {mode!r}")


def mixed_modes(name: str, layers: Iterable[Any]) -> dict[str, str]:
    """A note where layers are in different modes, which stay so then."""
    if len({layer.training for layer in layers}) == 1:
        return {}
    return {f"mode of {name}": "its layers are in different modes and were left so"}


def join(path: str, name: str) -> str:
    """The full name of a layer's own tensor."""
    return name if path == ROOT else f"{path}.{name}"
