"""The interface of all engines that run a network. No framework.

Legend: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Protocol

import numpy as np

from paddle_dla.errors import UserError, WrongValue
from paddle_dla.extras import install_command


class EngineError(UserError):
    """An engine cannot be opened: a package or a file is missing, or the file is in another format."""


class NetworkError(EngineError, ValueError):
    """A network raises, or returns no logits. Also a ``ValueError``, because the network may not accept the images."""


class Engine(Protocol):
    """A network that is ready to run."""

    @property
    def name(self) -> str: ...

    @property
    def num_classes(self) -> int: ...

    def run(self, images: np.ndarray) -> np.ndarray:
        """Normalised images (B, C, H, W) float32 -> logits (B, K) float32.

        Raises ``ValueError`` for images that the network does not accept.
        """
        ...


def require(package: str, extra: str) -> None:
    """Raise ``EngineError`` with the extra of this project that installs ``package``, if it is missing."""
    if find_spec(package) is None:
        raise EngineError(f"{package} is not installed: {install_command(extra)}")


def check_images(images: np.ndarray, expected: tuple[int, ...]) -> np.ndarray:
    """Return ``images`` as a contiguous float32 array; ``expected`` is (C, H, W), -1 for a side that may vary.

    Raises ``ValueError`` for another shape, an empty batch or another type.
    """
    fits = images.ndim == 4 and all(want in (-1, got) for want, got in zip(expected, images.shape[1:]))
    if not fits or not len(images) or images.dtype != np.float32:
        shape = ", ".join("any" if side == -1 else str(side) for side in expected)
        raise WrongValue(f"expected float32 images (B, {shape}), got {images.dtype} {list(images.shape)}")
    return np.ascontiguousarray(images)


def check_outputs(outputs: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Return ``outputs`` (B, ...) of the samples ``indices`` (B,). Raises ``EngineError`` if one is not finite.

    Without this check nothing later would fail: a NaN can be ranked, and an infinity has a probability.
    """
    finite = np.isfinite(outputs).reshape(len(outputs), -1).all(axis=1)
    if not finite.all():
        raise EngineError(
            f"the network's output is not finite for {int((~finite).sum())} of {len(outputs)} samples of a batch, the "
            f"first is sample {int(indices[~finite][0])}: weights, preprocessing or engine are broken"
        )
    return outputs


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Redirect what native libraries print to stdout within the block to stderr; stdout is for a command's results."""
    flush = ctypes.CDLL(None).fflush
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        flush(None)
        os.dup2(saved, 1)
        os.close(saved)
