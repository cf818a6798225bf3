"""Hypotheses on numbers that are not finite, or computed in a narrower dtype. numpy only."""

from __future__ import annotations

import numpy as np

from alignment.engine.explaining.case import Case
from alignment.engine.judging.error import compare

NARROWER = (("bfloat16", 8), ("float16", 11), ("float32", 24))
"""Dtypes with their bits of significand, the narrowest first."""


def not_finite(case: Case) -> str:
    """Test for NaN or infinity on one side only."""
    wrong = ~np.isfinite(case.actual)
    return f"{int(wrong.sum())} elements are not finite" if wrong.any() and np.isfinite(case.expected).all() else ""


def rounded(case: Case) -> str:
    """Test whether every value is exact in a narrower dtype and close to the right one, which is not."""
    if not case.same_shape or not case.actual.any():
        return ""
    few = case.actual.reshape(-1)[:1024]
    for name, bits in NARROWER:
        # a few roundings wide; the values themselves must be exact in the narrower dtype
        if not np.array_equal(few, narrowed(few, name)) or not np.array_equal(case.actual, narrowed(case.actual, name)):
            continue
        near = compare(case.expected, case.actual).relative <= 2.0 ** (6 - bits)
        if near and not np.array_equal(case.expected, narrowed(case.expected, name)):
            return f"computed in {name} (rounded)"
    return ""


def narrowed(array: np.ndarray, dtype: str) -> np.ndarray:
    """Round ``array`` to ``dtype`` and return it in its own dtype.

    bfloat16 rounds to nearest even, as in both frameworks.
    """
    if dtype != "bfloat16":
        return array.astype(dtype).astype(array.dtype)
    bits = array.astype(np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(array.dtype)
