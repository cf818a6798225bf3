"""Differences of a single layer that receives the reference's own values. No framework."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from alignment.engine.judging.error import Difference


@dataclass(frozen=True)
class Finding:
    """One tensor of one layer that differs from the reference's, although the layer's inputs do not.

    ``where`` is ``output``, ``input gradient``, ``parameter gradient``, ``handed`` (to the inner layer ``inner``),
    ``returned gradient`` (to it) or ``call``. ``index`` counts tensors; for a parameter gradient ``inner`` is the
    parameter's name. ``call`` is the layer's call, ``inner_call`` that of ``inner``. ``leaf`` tells a single layer from
    one that calls others. ``note`` describes what is not a number.
    """

    layer: str
    twin: str
    leaf: bool
    where: str
    index: int
    difference: Difference
    inner: str = ""
    note: str = ""
    expected: np.ndarray | None = field(default=None, repr=False, compare=False)
    actual: np.ndarray | None = field(default=None, repr=False, compare=False)
    call: int = 0
    inner_call: int = 0
