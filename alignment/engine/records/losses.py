"""One loss, on either side, as plain values. No framework."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LOSS = "(loss)"
"""How the loss is called in a path of layers."""


@dataclass(frozen=True)
class LossCase:
    """A loss that differs: the model's ``output`` and ``labels``, each side's value and its gradient by the output.

    A gradient is ``None`` where none was recorded. Labels are what the loss was given, in their own types.
    """

    output: np.ndarray
    labels: tuple[np.ndarray, ...]
    expected: float
    actual: float
    expected_gradient: np.ndarray | None = None
    actual_gradient: np.ndarray | None = None
