"""A loss on both sides, as plain values. No framework."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LOSS = "(loss)"
"""The path of the loss among the layers."""


@dataclass(frozen=True)
class LossCase:
    """A loss that differs: the model's ``output``, the ``labels``, and each side's value and gradient by the output.

    A gradient is ``None`` where none was recorded. Labels are the loss's arguments, in their own dtypes.
    """

    output: np.ndarray
    labels: tuple[np.ndarray, ...]
    expected: float
    actual: float
    expected_gradient: np.ndarray | None = None
    actual_gradient: np.ndarray | None = None
