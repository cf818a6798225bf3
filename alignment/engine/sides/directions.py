"""Where gradients start without a loss: a random direction at every output, the same in both frameworks. numpy only."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def random_directions(shapes: Iterable[tuple[int, ...]], seed: int) -> list[np.ndarray]:
    """A standard normal array (float64) of each of ``shapes``, drawn with ``seed``."""
    rng = np.random.RandomState(seed)
    return [rng.standard_normal(shape) for shape in shapes]
