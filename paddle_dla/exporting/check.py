"""Check that an engine computes what the network computes, up to the network's own rounding in float32.

The network runs in float64 and in float32. The difference is the cost of float32; the same sums in another correct
order cost about as much. The limit for an engine is ``MARGIN`` times that difference, not a constant.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from paddle_dla.engines.base import Engine
from paddle_dla.exporting.errors import ExportError

if TYPE_CHECKING:
    from paddle import nn

BATCHES = (1, 2, 5)
"""Batch sizes that are tested: one, the smallest other, and one that leaves a remainder."""
MARGIN = 8.0
"""Twice the largest measured error, in floors, rounded up to a power of two.

Measured: 2.6, over the twelve networks, fresh and with BN statistics as training leaves them, Paddle Inference (Paddle
2.6.2 and 3.3.1) and ONNX Runtime, 7 images of 64x64.
"""
ROUNDOFF = 2.0**-24
"""Roundoff of float32: the floor if the network happens to be exact."""
TOP = 5


@dataclass(frozen=True)
class Reference:
    """Outputs of the eager network for some images.

    ``logits`` (N, K) float64; ``scale`` is their largest magnitude, ``floor`` the largest error of the float32 run
    relative to ``scale``.
    """

    images: np.ndarray
    logits: np.ndarray
    scale: float
    floor: float

    @property
    def limit(self) -> float:
        """The largest error, relative to ``scale``, that counts as rounding."""
        return MARGIN * max(self.floor, ROUNDOFF)


@dataclass(frozen=True)
class Agreement:
    """Agreement of an engine with the network: relative errors, and the number of images with the same top-5."""

    engine: str
    images: int
    error: float
    floor: float
    limit: float
    same_top5: int

    def __str__(self) -> str:
        return (
            f"{self.engine}: {self.images} images, batches of {', '.join(map(str, BATCHES))}: largest error "
            f"{self.error:.1e} of the logits, rounding alone explains {self.floor:.1e} (limit {self.limit:.1e}); the "
            f"same top-5 on {self.same_top5}"
        )


def random_images(input_size: tuple[int, int, int], count: int = 8) -> np.ndarray:
    """Return normal noise, (count, C, H, W) float32, always the same, for a check without images."""
    return np.random.RandomState(0).standard_normal((count, *input_size)).astype(np.float32)


def measure(layer: nn.Layer, images: np.ndarray) -> Reference:
    """Run ``layer`` (evaluation mode; not changed) on ``images`` (N, C, H, W) float32, in both precisions.

    Raises ``ExportError`` if its logits are not finite.
    """
    exact = copy.deepcopy(layer)
    _to_float64(exact)
    logits = _run(exact, images.astype(np.float64))
    del exact
    rounded = _run(layer, images)
    scale = float(np.abs(logits).max())
    if not np.isfinite(scale) or not np.isfinite(rounded).all():
        raise ExportError("the network's own logits are not finite; its weights are broken")
    floor = float(np.abs(rounded - logits).max()) / (scale or 1.0)
    return Reference(images, logits, scale or 1.0, floor)


def _to_float64(layer: nn.Layer) -> None:
    """Cast weights and buffers. ``Layer.to`` also casts index tables; they are restored."""
    owners = layer.sublayers(include_self=True)
    tables = [(owner, name, value) for owner in owners for name, value in owner._buffers.items()
              if value is not None and not value.is_floating_point()]  # fmt: skip
    kept = [(owner, name, value.clone()) for owner, name, value in tables]
    layer.to(dtype="float64")
    for owner, name, value in kept:
        owner._buffers[name] = value


def _run(layer: nn.Layer, images: np.ndarray) -> np.ndarray:
    import paddle

    with paddle.no_grad():
        return np.concatenate([layer(paddle.to_tensor(image[None])).numpy() for image in images]).astype(np.float64)


def compare(engine: Engine, reference: Reference) -> Agreement:
    """Compare ``engine`` with ``reference`` in each of ``BATCHES``.

    Raises ``ExportError`` if the difference is larger than rounding explains. Within that limit, two classes can swap
    in the top-5 only if they tie to twice the limit, so no difference in the top-5 has another cause.
    """
    same, worst, worst_size = len(reference.images), 0.0, BATCHES[0]
    for size in BATCHES:
        logits = run_in_batches(engine, reference.images, size)
        if logits.shape != reference.logits.shape:
            raise ExportError(
                f"{engine.name} returns logits {list(logits.shape)} in batches of {size}, the network "
                f"{list(reference.logits.shape)}"
            )
        error = float(np.abs(logits - reference.logits).max()) / reference.scale
        # not "error > worst": a NaN must not pass
        worst, worst_size = (worst, worst_size) if error <= worst else (error, size)
        same = min(same, int((top(logits) == top(reference.logits)).all(1).sum()))
    agreement = Agreement(engine.name, len(reference.images), worst, reference.floor, reference.limit, same)
    if not worst <= reference.limit:
        raise ExportError(f"the export does not compute what the network does, in batches of {worst_size}; {agreement}")
    return agreement


def run_in_batches(engine: Engine, images: np.ndarray, size: int) -> np.ndarray:
    """Return the logits (N, K) float64 of ``images`` (N, C, H, W) float32, run ``size`` at a time."""
    starts = range(0, len(images), size)
    return np.concatenate([engine.run(images[start : start + size]) for start in starts]).astype(np.float64)


def top(logits: np.ndarray, count: int = TOP) -> np.ndarray:
    """(N, K) -> the ``count`` best classes, best first, (N, count); the lower index first if two are equal."""
    return np.argsort(-logits, axis=1, kind="stable")[:, :count]
