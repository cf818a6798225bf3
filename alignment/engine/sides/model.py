"""One model of a comparison: its layers by path and their settings. No framework."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from alignment.engine.records.store import StoreError
from alignment.engine.records.tape import ROOT
from alignment.engine.sides.settings import Settings
from paddle_dla.errors import words_of


class ModelRaised(RuntimeError):
    """An exception that a model raised while it ran; ``path`` is the innermost layer that raised it."""

    def __init__(self, side: str, path: str, error: BaseException):
        super().__init__(f"{side} raised in {path}: {in_one_line(error)}")
        self.path, self.error, self.words = path, error, in_one_line(error)


class LossError(ValueError):
    """The loss is not one number."""


def refuse_vector(shape: Sequence[int], side: str) -> None:
    """Raise ``LossError`` for a loss of this ``shape``, unless it is one number."""
    if np.prod(shape) != 1:
        raise LossError(f"the loss must be one number, got shape {list(shape)} in {side}; take its mean or sum")


class Hooked(Protocol):
    """The hooks of one run."""

    def attach(self) -> Sequence[Any]:
        """Attach the hooks and return their handles, each with a ``remove()``."""
        ...

    def place(self) -> str:
        """The innermost layer that is running."""
        ...


@contextmanager
def hooks_attached(hooks: Hooked, side: str, failed: Callable[[ModelRaised], None] | None = None) -> Iterator[None]:
    """Attach the hooks for this context; exceptions become ``ModelRaised`` and go to ``failed``, if that is given.

    ``LossError`` and ``StoreError`` are not converted: the model is not to blame for a full disk.
    """
    handles = hooks.attach()
    try:
        yield
    except (LossError, StoreError):
        raise
    except (Exception, SystemExit) as error:  # a model that ends the program has failed
        raised = ModelRaised(side, hooks.place(), error)
        if failed is None:
            raise raised from error
        failed(raised)
    finally:
        for handle in handles:
            handle.remove()


def in_one_line(error: BaseException) -> str:
    """Describe an exception in one line; Paddle's messages have the reason in the line before the last."""
    lines = [line.strip() for line in words_of(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("[Hint:", "[operator", "-----", "C++ Traceback"))]
    return f"{type(error).__name__}: {(told or lines or ['it says nothing'])[-1]}"


@dataclass
class Half:
    """One of the two models: ``layers`` and ``settings`` by path, ``notes`` on how it runs."""

    layers: dict[str, Any]
    settings: dict[str, Settings]
    notes: dict[str, str]

    @classmethod
    def of(
        cls, side: str, model: Any, layers: Iterable[tuple[str, Any]], mode: str, describe: Callable[[Any], Settings]
    ) -> Half:
        """Put ``model``, with ``layers`` by path, into ``mode``, read its settings, then switch dropout off.

        A model whose layers are all in one mode is put into ``mode``. A model with layers in different modes keeps
        them: that is either intended (a frozen BatchNorm) or the fault to be found.
        """
        named = {path or ROOT: layer for path, layer in layers}
        notes = mixed_modes(side, named.values())
        if not notes:
            model.train() if mode == "train" else model.eval()
        settings = {path: describe(layer) for path, layer in named.items()}
        for path, layer in named.items():
            if settings[path].category == "dropout":
                layer.training = False
        return cls(named, settings, notes)


class Owned(NamedTuple):
    """A tensor of a model by its full name, and its role in the model."""

    name: str
    tensor: Any
    is_parameter: bool
    is_trained: bool


@dataclass(frozen=True)
class Tensors:
    """Parameters and buffers of one model by full name, which of them are parameters, and which are trained.

    ``alias``: further names of a tensor, with its first one.
    """

    arrays: dict[str, np.ndarray]
    trained: frozenset[str]
    parameters: frozenset[str]
    alias: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, owned: Iterable[Owned], array_of: Callable[[Any], np.ndarray]) -> Tensors:
        """Collect every tensor of a model, by all of its names."""
        found, first = [*owned], {}
        alias = {one.name: own for one in found if (own := first.setdefault(id(one.tensor), one.name)) != one.name}
        return cls(
            {one.name: array_of(one.tensor) for one in found},
            frozenset(one.name for one in found if one.is_trained),
            frozenset(one.name for one in found if one.is_parameter),
            alias,
        )


def refuse_unknown_mode(mode: str) -> None:
    """Raise ``ValueError`` for an unknown mode."""
    if mode not in ("eval", "train"):
        raise ValueError(f"mode must be 'eval' or 'train', got {mode!r}")


def mixed_modes(name: str, layers: Iterable[Any]) -> dict[str, str]:
    """Return a note if layers are in different modes, which are then kept."""
    if len({layer.training for layer in layers}) == 1:
        return {}
    return {f"mode of {name}": "its layers are in different modes, which are kept"}


def join(path: str, name: str) -> str:
    """Return the full name of a layer's own tensor."""
    return name if path == ROOT else f"{path}.{name}"
