"""The fastest engine that is installed and agrees with the network itself, chosen on the data's own first batch."""

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
"""Images that are sooner evaluated than another engine is opened, which takes some seconds."""
COMPARED = 5
"""Classes of the ranking that must be the same, in the same order."""

Open = Callable[[str], Engine]


class AutoEngine:
    """The network itself for the first batch, and from the second on the first of ``CANDIDATES`` that ranks it equally.

    ``expected`` is how many images are to come, if that is known: for few the network itself is the fastest.
    ``open`` makes the engine of a name; ``tell`` gets a line on what was chosen, or refused and why.
    """

    def __init__(self, layer: nn.Layer, threads: int | None, open_named: Open, tell: Callable[[str], None]):
        self._eager, self._open, self._tell = EagerEngine(layer, threads), open_named, tell
        self._chosen: Engine | None = None
        self._first: tuple[np.ndarray, np.ndarray] | None = None
        self.expected: int | None = None

    @property
    def name(self) -> str:
        """Of the engine that was chosen; until then the network itself runs."""
        return (self._chosen or self._eager).name

    @property
    def num_classes(self) -> int:
        """Of the network."""
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
        """The engines that can be opened and rank ``images`` as ``logits`` do, opened one after the other."""
        for name, packages in CANDIDATES.items():
            why = missing(*packages)
            if not why:
                try:
                    engine = self._open(name)
                    why = _difference(engine, images, logits)
                except UserError as error:
                    why = str(error).splitlines()[0]
            if not why:
                self._tell(f"engine: {name}, whose top {COMPARED} are the network's on {len(images)} images")
                yield engine
            self._tell(f"engine: not {name}: {shown(why)}")


def _difference(engine: Engine, images: np.ndarray, logits: np.ndarray) -> str:
    differing = np.flatnonzero((ranking(engine.run(images)) != ranking(logits)).any(axis=1))
    return f"it ranks {len(differing)} of {len(images)} images otherwise than the network" if len(differing) else ""


def ranking(logits: np.ndarray) -> np.ndarray:
    """(B, K) -> the ``COMPARED`` likeliest classes of each row, the likeliest first."""
    return np.argsort(-logits, axis=1, kind="stable")[:, :COMPARED]
