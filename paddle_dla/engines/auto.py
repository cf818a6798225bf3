"""The fastest installed engine that agrees with the network itself, chosen on the first batch of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from paddle_dla.engines.base import Engine
from paddle_dla.engines.eager import EagerEngine
from paddle_dla.errors import UserError
from paddle_dla.extras import missing
from paddle_dla.storage.shown import shown

if TYPE_CHECKING:
    from paddle import nn

ONNX = ("onnx", "onnxruntime", "paddle2onnx")
CANDIDATES = {"openvino": (*ONNX, "openvino"), "onnxruntime": ONNX, "inference": ("paddle",)}
"""Engines, the fastest first, and the packages that each needs to run a network that was not exported before."""
FEW = 128
"""Number of images below which the network itself is faster: opening another engine takes some seconds."""
COMPARED = 5
"""Number of the likeliest classes that must be the same, in the same order."""

Open = Callable[[str], Engine]


class AutoEngine:
    """Runs the network itself on the first batch, and from then on the fastest engine that agrees with it.

    That is the first of ``CANDIDATES`` that ranks the classes of the first batch as the network does. ``expected`` is
    the number of images to come, if known: for few images the network itself is the fastest. ``open`` creates the
    engine of a name. ``tell`` receives a line on the choice, or on a refused engine and the reason.
    """

    def __init__(self, layer: nn.Layer, threads: int | None, open_named: Open, tell: Callable[[str], None]):
        self._eager, self._open, self._tell = EagerEngine(layer, threads), open_named, tell
        self._chosen: Engine | None = None
        self._first: tuple[np.ndarray, np.ndarray] | None = None
        self.expected: int | None = None

    @property
    def name(self) -> str:
        """Name of the chosen engine; before the choice, that of the network itself."""
        return (self._chosen or self._eager).name

    @property
    def num_classes(self) -> int:
        """Number of classes of the network."""
        return self._eager.num_classes

    def run(self, images: np.ndarray) -> np.ndarray:
        """(B, C, H, W) float32 -> logits (B, K) float32."""
        if self._first is None:
            logits = self._eager.run(images)
            self._first = images.copy(), logits
            return logits
        if self._chosen is None:
            self._chosen = self._choose(*self._first)
        return self._chosen.run(images)

    def _choose(self, images: np.ndarray, logits: np.ndarray) -> Engine:
        few = self.expected is not None and self.expected < FEW
        return self._eager if few else next(self._agreeing(images, logits), self._eager)

    def _agreeing(self, images: np.ndarray, logits: np.ndarray) -> Iterator[Engine]:
        """Open the engines one after the other, and yield those that rank ``images`` as ``logits`` do."""
        for name, packages in CANDIDATES.items():
            why = missing(*packages)
            if not why:
                try:
                    engine = self._open(name)
                    why = _difference(engine, images, logits)
                except UserError as error:
                    why = str(error).splitlines()[0]
            if not why:
                self._tell(f"engine: {name}, which has the same top {COMPARED} as the network on {len(images)} images")
                yield engine
            self._tell(f"engine: not {name}: {shown(why)}")


def _difference(engine: Engine, images: np.ndarray, logits: np.ndarray) -> str:
    differing = np.flatnonzero((ranking(engine.run(images)) != ranking(logits)).any(axis=1))
    return f"it ranks {len(differing)} of {len(images)} images otherwise than the network" if len(differing) else ""


def ranking(logits: np.ndarray) -> np.ndarray:
    """(B, K) -> the ``COMPARED`` likeliest classes of each row, the likeliest first."""
    return np.argsort(-logits, axis=1, kind="stable")[:, :COMPARED]
