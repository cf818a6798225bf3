"""Convert measurements to rows of the result, for every direction. No framework."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from alignment.engine.judging.error import Difference
from alignment.engine.records.losses import LOSS
from alignment.engine.records.tape import ROOT, Record
from alignment.engine.result import FORWARD, INPUT, PARAMETER, Row

UNMEASURED = Difference(math.inf, math.inf, (), 0)
"""The difference of tensors that could not be compared at all; the row's note gives the reason."""


def tensor_row(
    name: str,
    twin: str,
    kind: str,
    depth: int,
    shape: tuple[int, ...],
    found: Difference,
    limits: tuple[float, float],
    *,
    direction: str = FORWARD,
    note: str = "",
    call: int = 0,
    leaf: bool = True,
) -> Row:
    """Return the row of a tensor called ``name``; ``limits`` are its floor and its limit."""
    floor, allowed = limits
    return Row(
        layer=name,
        twin=twin,
        kind=kind,
        call=call,
        depth=depth,
        leaf=leaf,
        shape=shape,
        max_abs=found.max_abs,
        relative=found.relative,
        floor=floor,
        allowed=allowed,
        worst=found.worst,
        note=note,
        direction=direction,
    )


def measured(
    record: Record,
    twin: str,
    depth: int,
    found: Difference,
    shape: tuple[int, ...],
    limits: tuple[float, float],
    direction: str = FORWARD,
    note: str = "",
    layer: str = "",
) -> Row:
    """Return the row of a tensor of ``record``; ``layer`` is the reference's name if it differs."""
    return tensor_row(
        layer or record.path,
        twin,
        record.kind,
        depth,
        shape,
        found,
        limits,
        direction=direction,
        note=note,
        call=record.call,
        leaf=record.leaf,
    )


def is_decisive(row: Row) -> bool:
    """Return whether the verdict requires this row: the model's outputs, gradients of inputs and parameters."""
    return (row.layer in (ROOT, LOSS) and row.direction == FORWARD) or row.direction in (INPUT, PARAMETER)


def undecided_behind(rows: Sequence[Row]) -> list[Row]:
    """Mark rows that differ behind the first undecided one, in the order of computation, as undecided too."""
    first = next((number for number, row in enumerate(rows) if row.undecided), len(rows))
    behind = f"it is made of {rows[first].layer}, which cannot be judged" if first < len(rows) else ""
    return [replace(row, undecided=behind) if row.differs and number > first else row
            for number, row in enumerate(rows)]  # fmt: skip


def unmeasured(record: Record, twin: str, depth: int, note: str, layer: str = "") -> Row:
    """Return the row of a call that could not be compared, with the reason; ``layer`` as in ``measured``."""
    refs = record.output_refs()
    shape = refs[0].shape if refs else ()
    return measured(record, twin, depth, UNMEASURED, shape, (0.0, 0.0), note=note, layer=layer)
