"""Start gradients without a loss: a random direction at every output, the same in both frameworks. numpy only."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np


def random_directions(outputs: Mapping[str, tuple[tuple[int, ...], bool]], seed: int) -> dict[str, np.ndarray]:
    """Draw a standard normal array (float64, or complex128) for each output from ``seed`` and the output's place.

    ``outputs``: ``{place: (shape, whether it is complex)}``. The draw of a place does not depend on the others, so a
    port with an extra or a missing output starts the same way at the common ones.
    """
    return {place: _direction(place, shape, is_complex, seed) for place, (shape, is_complex) in outputs.items()}


def _direction(place: str, shape: tuple[int, ...], is_complex: bool, seed: int) -> np.ndarray:
    rng = np.random.RandomState([seed % 2**32, zlib.crc32(place.encode())])
    direction: Any = rng.standard_normal(shape)
    return np.asarray(direction + 1j * rng.standard_normal(shape) if is_complex else direction)
