"""One model as a comparison sees it: its layers by path and what each is set to do. No framework."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from alignment.engine.records.tape import ROOT
from alignment.engine.sides.settings import Settings


class ModelRaised(RuntimeError):
    """An exception of a model while it ran; ``path`` is the innermost layer in which it was raised."""

    def __init__(self, side: str, path: str, error: BaseException):
        super().__init__(f"{side} raised in {path}: {in_one_line(error)}")
        self.path, self.error, self.words = path, error, in_one_line(error)


class LossError(ValueError):
    """A loss that is not one number."""


def in_one_line(error: BaseException) -> str:
    """An exception in one line: of Paddle's it is the last but one that says what was wrong."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("[Hint:", "[operator", "-----", "C++ Traceback"))]
    return f"{type(error).__name__}: {(told or lines or [''])[-1]}"


@dataclass
class Half:
    """One of both models: ``layers`` and ``settings`` by path, ``notes`` on how it runs."""

    layers: dict[str, Any]
    settings: dict[str, Settings]
    notes: dict[str, str]

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
