"""One measurement -> one row of the result, the same for every direction. No framework."""

from __future__ import annotations

import math
from dataclasses import replace

from alignment.engine.compare import Difference
from alignment.engine.result import FORWARD, Row
from alignment.engine.tape import Record


def measured(
    record: Record,
    twin: str,
    depth: int,
    found: Difference,
    shape: tuple[int, ...],
    limits: tuple[float, float],
    direction: str = FORWARD,
    note: str = "",
) -> Row:
    """What was ``found`` at a tensor of ``record``; ``limits`` are its floor and what is allowed."""
    floor, allowed = limits
    return Row(
        layer=record.path,
        twin=twin,
        kind=record.kind,
        call=record.call,
        depth=depth,
        leaf=record.leaf,
        shape=shape,
        max_abs=found.max_abs,
        relative=found.relative,
        floor=floor,
        allowed=allowed,
        worst=found.worst,
        note=note,
        direction=direction,
    )


def unmeasured(record: Record, twin: str, depth: int, note: str, layer: str = "") -> Row:
    """A call that could not be compared, and why; ``layer`` where the reference calls it otherwise."""
    refs = record.output_refs()
    nothing = Difference(math.inf, math.inf, (), 0)
    row = measured(record, twin, depth, nothing, refs[0].shape if refs else (), (0.0, 0.0), note=note)
    return row if not layer else replace(row, layer=layer)
