"""What runs a network: one interface, whatever computes behind it. No framework.

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


class EngineError(UserError):
    """An engine that cannot be opened: a package or a file is missing, or the file is not one of its own."""


class NetworkError(EngineError, ValueError):
    """A network that raises, or returns no logits. A ``ValueError`` too: it may not take the images that it gets."""


class Engine(Protocol):
    """A network that is ready to run."""

    @property
    def name(self) -> str: ...

    @property
    def num_classes(self) -> int: ...

    def run(self, images: np.ndarray) -> np.ndarray:
        """Normalised images (B, C, H, W) float32 -> logits (B, K) float32.

        Raises ``ValueError`` for images that the network does not take.
        """
        ...


def require(package: str, extra: str) -> None:
    """Raises ``EngineError`` that names the extra of this project which brings ``package``, where it is missing."""
    if find_spec(package) is None:
        raise EngineError(f'{package} is not installed; it comes with: pip install -e ".[{extra}]"')


def check_images(images: np.ndarray, expected: tuple[int, ...]) -> np.ndarray:
    """``images`` as a contiguous float32 array; ``expected`` is (C, H, W), -1 for a side that may vary.

    Raises ``ValueError`` for another shape, an empty batch or another type.
    """
    fits = images.ndim == 4 and all(want in (-1, got) for want, got in zip(expected, images.shape[1:]))
    if not fits or not len(images) or images.dtype != np.float32:
        shape = ", ".join("any" if side == -1 else str(side) for side in expected)
        raise WrongValue(f"expected float32 images (B, {shape}), got {images.dtype} {list(images.shape)}")
    return np.ascontiguousarray(images)


def check_outputs(outputs: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """``outputs`` (B, ...) of the samples ``indices`` (B,), if all are numbers; raises ``EngineError`` that names one.

    A NaN has a place in every ranking, and an infinity a probability: nothing later on would notice.
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
    """What native libraries print to stdout meanwhile goes to stderr: stdout belongs to the results of a command."""
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
