"""Compare two trainings: rows by step, and within a step in the order of computation. No framework."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from alignment.engine.judging.error import Difference, compare
from alignment.engine.judging.rows import UNMEASURED, tensor_row
from alignment.engine.judging.step_limits import Limit, StepLimits
from alignment.engine.records.layout import laid_out
from alignment.engine.records.run import (
    GIVEN,
    GRADIENT,
    KINDS,
    MOMENTS,
    OUTPUT,
    PARAMETER,
    RATE,
    STATE,
    WHOLE,
    Key,
    Run,
    Step,
)
from alignment.engine.result import Row, Skipped

NOT_A_NUMBER = "NaN or infinite in the reference"


def compare_steps(reference: Run, port: Run, limits: StepLimits, twins: Mapping[str, str]) -> Iterator[Row]:
    """Yield a row for each tensor of each step, in the order of the steps and of ``KINDS``.

    ``twins``: names in Paddle; a tensor that has none is accounted for elsewhere.
    """
    for row in _rows(reference, port, limits, twins):
        yield replace(row, twin=twins.get(row.layer, row.layer))


def _rows(reference: Run, port: Run, limits: StepLimits, twins: Mapping[str, str]) -> Iterator[Row]:
    for number, (step, other) in enumerate(zip(reference.steps, port.steps)):
        shared = [name for name in step.rates if name in other.rates]
        for kind in KINDS:
            if kind == RATE and shared:
                yield _rates(number, shared, step, other, limits)
            before = port.steps[number - 1] if number and kind == PARAMETER and limits.inexact else None
            keys = (key for key in _keys(kind, step, other) if key[1] in twins or kind in WHOLE)
            yield from (_row(number, key, step, other, limits, before) for key in keys)


def _keys(kind: str, step: Step, other: Step) -> Iterator[Key]:
    """Return the compared keys of a kind: all of the reference's; of outputs and gradients also the port's."""
    for key in step.arrays:
        if key[0] == kind and not _left_out(key, other):
            yield key
    if kind in (OUTPUT, GRADIENT):
        yield from (key for key in other.arrays if key[0] == kind and key not in step.arrays)


def _left_out(key: Key, other: Step) -> str:
    """Return why a tensor of the reference is not compared; empty if it is."""
    kind, _, role = key
    if kind == STATE and role not in MOMENTS and key not in other.arrays:
        return "Paddle's optimizer keeps nothing of this name"
    return ""


def _rates(number: int, names: Sequence[str], step: Step, other: Step, limits: StepLimits) -> Row:
    ours, theirs = (np.array([of.rates[name] for name in names]) for of in (step, other))
    return _measured(number, (RATE, WHOLE[RATE], ""), ours, theirs, limits)


def _row(number: int, key: Key, step: Step, other: Step, limits: StepLimits, before: Step | None) -> Row:
    array, theirs, note = step.get(*key), other.get(*key), ""
    if theirs is None and key[0] == GIVEN:
        theirs = other.get(GRADIENT, key[1])  # not clipped
    if array is None:
        assert theirs is not None, "a key is one of either step's"
        note = "only in Paddle" if key[0] == OUTPUT or np.any(theirs) else ""
        array = np.zeros_like(theirs)
    elif theirs is None:
        gradient = key[0] in (GRADIENT, GIVEN)
        note = ("no gradient arrived" if np.any(array) else "") if gradient else "missing in Paddle"
        theirs = np.zeros_like(array)
    last = before.get(*key) if before else None
    step_size = compare(array, laid_out(last, array.shape)).relative if last is not None else 0.0
    return _measured(number, key, array, laid_out(theirs, array.shape), limits, note, step_size)


def _measured(
    number: int, key: Key, array: np.ndarray, theirs: np.ndarray, limits: StepLimits, note: str = "", step: float = 0.0
) -> Row:
    kind, name, role = key
    found, limit = compare(array, theirs), limits.of(number, key, step)
    if limit.scale:
        found = _over(found, limit.scale)
    if kind == OUTPUT and array.dtype.kind in "biu" and theirs.dtype.kind in "biu":
        limit = Limit(0.0, 0.0)
    undecided = limit.undecided
    if not np.isfinite(array).all():
        undecided, found = NOT_A_NUMBER, found if np.isfinite(found.max_abs) else UNMEASURED
    direction = f"step {number} {kind}" + (f", {role}" if role else "")
    row = tensor_row(
        name, name, kind, number, array.shape, found, (limit.floor, limit.allowed), direction=direction,
        note=note or found.mismatch,
    )  # fmt: skip
    return replace(row, undecided=undecided if row.note == "" else "")


def _over(found: Difference, scale: float) -> Difference:
    return replace(found, relative=found.max_abs / scale)


def left_out(reference: Run, port: Run) -> Iterator[Skipped]:
    """Yield what was not compared, each once, with the reason."""
    seen: set[Key] = set()
    for side, here, there in (("torch", reference, port), ("Paddle", port, reference)):
        for step, other in zip(here.steps, there.steps):
            for key in step.arrays:
                if key in seen:
                    continue
                reason = _left_out(key, other) if side == "torch" else ""
                if side == "Paddle" and key not in other.arrays and key[0] not in (OUTPUT, GRADIENT, GIVEN):
                    reason = "torch has none"
                if not reason:
                    continue
                seen.add(key)
                yield Skipped(key[1], " ".join(filter(None, (key[0], key[2]))), side, reason)
