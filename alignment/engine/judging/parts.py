"""Judge one quantity of a part of a training (a loss, an optimizer, a schedule). No framework."""

from __future__ import annotations

import numpy as np

from alignment.engine.judging.error import compare
from alignment.engine.judging.limits import BITS, MARGIN
from alignment.engine.judging.rows import UNMEASURED, tensor_row
from alignment.engine.records.layout import laid_out
from alignment.engine.result import Row


def part_row(
    name: str,
    kind: str,
    depth: int,
    exact: np.ndarray,
    rounded: np.ndarray,
    port: np.ndarray | None,
    direction: str,
    twin: str = "",
) -> Row:
    """Compare the ``port``'s float64 array with the reference's.

    ``rounded`` is the reference's float32 result: the floor is its error x 2**-29, at least one rounding. ``port`` is
    ``None`` where the port lacks the quantity.
    """
    spread = compare(exact, rounded).relative
    unit = 2.0 ** -BITS["float64"]
    floor = max(unit, spread * 2.0 ** (BITS["float32"] - BITS["float64"])) if np.isfinite(spread) else unit
    found = UNMEASURED if port is None else compare(exact, laid_out(port, exact.shape))
    limits = floor, MARGIN["float64"] * floor
    note = "missing in Paddle" if port is None else found.mismatch
    return tensor_row(name, twin or name, kind, depth, exact.shape, found, limits, direction=direction, note=note)
