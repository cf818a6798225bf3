"""Small classifiers in Paddle with BatchNorm as training leaves it, and what engines are asked about them."""

from __future__ import annotations

from functools import cache

import numpy as np
import paddle
from paddle import nn

from paddle_dla import create_model, weight_files
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.storage.manifest import FORMAT, describe

SIZE = (3, 32, 32)
CLASSES = 10


def small_model(name: str, seed: int = 0, **options) -> nn.Layer:
    """One of the twelve for 10 classes, seeded, in evaluation mode."""
    paddle.seed(seed)
    model = create_model(name, num_classes=CLASSES, **options)
    rng = np.random.RandomState(seed)
    for layer in model.sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            train_norm(layer, rng)
    model.eval()
    return model


def train_norm(norm: nn.BatchNorm2D, rng: np.random.RandomState) -> None:
    """Statistics and affine parameters far from their initial 0 and 1."""
    (channels,) = norm._mean.shape
    norm._mean.set_value((0.3 * rng.standard_normal(channels)).astype(np.float32))
    norm._variance.set_value(rng.uniform(0.5, 2.0, channels).astype(np.float32))
    if norm.weight is not None:
        norm.weight.set_value(rng.uniform(0.5, 1.5, channels).astype(np.float32))
        norm.bias.set_value((0.3 * rng.standard_normal(channels)).astype(np.float32))


def noise(count: int = 5, size: tuple[int, int, int] = SIZE, seed: int = 0) -> np.ndarray:
    """(count, C, H, W) float32."""
    return np.random.RandomState(seed).standard_normal((count, *size)).astype(np.float32)


@cache
def _small_arrays(name: str, **options) -> tuple[dict[str, np.ndarray], dict[str, dict]]:
    """The weights of a ``small_model``, and what a manifest says of them."""
    arrays = {key: tensor.numpy() for key, tensor in small_model(name, **options).state_dict().items()}
    return arrays, {key: describe(array) for key, array in arrays.items()}


def save_small(path, name: str = "dla46x_c", preprocessing: Preprocessing | None = None, **options) -> str:
    """``small_model`` as a converted checkpoint with its manifest; returns the path as text."""
    arrays, described = _small_arrays(name, **options)
    manifest = {
        "format": FORMAT,
        "model": name,
        "num_classes": CLASSES,
        "source": {"file": "seeded"},
        "preprocessing": (preprocessing or Preprocessing(SIZE, 1.0)).as_dict(),
        "tensors": dict(described),
    }
    weight_files.save(path, arrays, manifest)
    return str(path)
