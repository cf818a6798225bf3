"""How large a difference rounding alone explains, measured on the reference itself. No framework.

The reference runs in float64 and in float32. What separates the two at a tensor is the rounding that float32 does on
the way there; rounding is proportional to the unit roundoff, so the same way in float64 costs 2**-29 of it (24
against 53 bits of significand). Two correct implementations add up their terms in another order and so differ by a
small multiple of this floor. How small was measured over the twelve DLA networks, with fresh and with trained-like
weights, two seeds each, 17,000 tensors: at most 3.1 times in float32, 4.2 times in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from alignment.engine.compare import compare
from alignment.engine.tape import Tape

BITS = {"float32": 24, "float64": 53}
"""Bits of significand."""

MARGIN = {
    # twice the largest ratio that was measured, rounded up to a power of two
    "float32": 8.0,
    # The smallest mistake a port is known to make in float64 is a constant kept in float32: 6e-8 relative, 10**8
    # times the floor. The margin lies between that and the measured 4.2, near the middle of the logarithmic scale.
    "float64": 2.0**13,
}
"""By how much a tensor may exceed its floor."""


@dataclass(frozen=True)
class NoiseFloor:
    """Relative error, by record and output, that rounding alone explains in ``dtype``."""

    dtype: str
    floors: Mapping[tuple[str, int], tuple[float, ...]]

    def of(self, key: tuple[str, int], output: int) -> float:
        """The floor of one output; at least the unit roundoff, where the reference happens to be exact."""
        return max(self.floors[key][output], 2.0 ** -BITS[self.dtype])

    def allowed(self, key: tuple[str, int], output: int) -> float:
        """The largest relative error that is still taken for rounding."""
        return MARGIN[self.dtype] * self.of(key, output)


def measure_floor(exact: Tape, rounded: Tape, dtype: str) -> NoiseFloor:
    """The floor in ``dtype``, from the reference's runs in float64 (``exact``) and in float32 (``rounded``)."""
    scale = 2.0 ** (BITS["float32"] - BITS[dtype])
    runs = rounded.by_key()
    floors = {
        record.key: tuple(
            _finite(compare(a, b).relative) * scale
            for a, b in zip(exact.outputs(record), rounded.outputs(runs[record.key]))
        )
        for record in exact
    }
    return NoiseFloor(dtype, floors)


def _finite(value: float) -> float:
    return value if np.isfinite(value) else 0.0
