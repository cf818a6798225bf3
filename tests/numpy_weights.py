"""Weights and inputs that any environment can make again, without a framework, bit for bit.

``numpy.random.RandomState`` is frozen: every numpy gives the same stream (https://numpy.org/neps/nep-0019.html).
"""

from __future__ import annotations

import zlib

import numpy as np

from convert.layout import state_layout


def seeded(name: str, seed: int = 0) -> np.random.RandomState:
    """A generator of its own for each name, so that one tensor does not depend on the others."""
    return np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)


def timm_weights(model: str, num_classes: int = 1000, in_chans: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    """A full timm state dict: convolutions as timm initialises them, BatchNorm as training leaves it. float32."""
    layout = state_layout(model, num_classes, in_chans)
    return {name: _tensor(name, shape, seeded(name, seed)) for name, shape in layout.items()}


def images(batch: int = 1, in_chans: int = 3, size: int = 64, seed: int = 0) -> np.ndarray:
    """A batch of noise, (B, C, H, W) float64."""
    return np.random.RandomState(seed).standard_normal((batch, in_chans, size, size))


def _tensor(name: str, shape: tuple[int, ...], rng: np.random.RandomState) -> np.ndarray:
    last = name.rpartition(".")[2]
    if last == "num_batches_tracked":
        return np.asarray(rng.randint(1, 10_000), np.int64)
    if len(shape) == 4:
        value = rng.standard_normal(shape) * np.sqrt(2.0 / (shape[0] * shape[2] * shape[3]))
    elif last == "weight":
        value = rng.uniform(0.5, 1.5, shape)
    elif last == "running_var":
        value = rng.uniform(0.5, 2.0, shape)
    else:
        value = 0.3 * rng.standard_normal(shape)
    return value.astype(np.float32)
