"""The same numbers in another shape. No framework."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def laid_out(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """``array`` in ``shape`` where one of the two is the other flattened behind the batch, else as it is.

    So a convolution over its whole input, (B, C, 1, 1), compares with a linear layer, (B, C), and a pool that keeps
    its axes with one that drops them. Anything else in another shape stays so, and is a difference.
    """
    same = array.shape[:1] == tuple(shape[:1]) and array.size == math.prod(shape)
    return array.reshape(tuple(shape)) if same and 2 in (array.ndim, len(shape)) else array
