"""Two trainings -> rows in the order of the steps, and in each as one quantity makes the next. No framework."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from alignment.engine.judging.error import compare
from alignment.engine.judging.growth import Judge
from alignment.engine.judging.rows import tensor_row
from alignment.engine.records.layout import laid_out
from alignment.engine.records.run import (
    AVERAGE,
    GIVEN,
    GRADIENT,
    KINDS,
    MOMENTS,
    PARAMETER,
    RATE,
    STATE,
    WHOLE,
    Key,
    Run,
    Step,
)
from alignment.engine.result import Row, Skipped


def compare_steps(reference: Run, port: Run, judge: Judge, twins: Mapping[str, str]) -> Iterator[Row]:
    """A row for each tensor of each step, in the order of the steps and of ``KINDS``; ``twins``: names in Paddle."""
    for row in _rows(reference, port, judge):
        yield replace(row, twin=twins.get(row.layer, row.layer))


def _rows(reference: Run, port: Run, judge: Judge) -> Iterator[Row]:
    for number, (step, other) in enumerate(zip(reference.steps, port.steps)):
        shared = [name for name in step.rates if name in other.rates]
        for kind in KINDS:
            if kind == RATE and shared:
                yield _rates(number, shared, step, other, judge)
            for key in step.arrays:
                if key[0] == kind and number < judge.horizon and not _left_out(key, judge.noisy, other):
                    yield _row(number, key, step, other, judge)


def _left_out(key: Key, noisy: set[str], other: Step) -> str:
    """Why a tensor of the reference is not compared, if it is not."""
    kind, name, role = key
    if kind in (STATE, PARAMETER, AVERAGE) and name in noisy:
        return "its gradient is rounding alone, of which the optimizer makes whole steps"
    if kind == STATE and role not in MOMENTS and key not in other.arrays:
        return "Paddle's optimizer keeps nothing of this name"
    return ""


def _rates(number: int, names: Sequence[str], step: Step, other: Step, judge: Judge) -> Row:
    ours, theirs = (np.array([of.rates[name] for name in names]) for of in (step, other))
    return _measured(number, (RATE, WHOLE[RATE], ""), ours, theirs, judge)


def _row(number: int, key: Key, step: Step, other: Step, judge: Judge) -> Row:
    array, theirs, note = step.arrays[key], other.arrays.get(key), ""
    if theirs is None and key[0] == GIVEN:
        theirs = other.get(GRADIENT, key[1])  # not clipped
    if theirs is None:
        gradient = key[0] in (GRADIENT, GIVEN)
        note = ("no gradient arrived" if np.any(array) else "") if gradient else "missing in Paddle"
        theirs = np.zeros_like(array)
    return _measured(number, key, array, laid_out(theirs, array.shape), judge, note)


def _measured(number: int, key: Key, array: np.ndarray, theirs: np.ndarray, judge: Judge, note: str = "") -> Row:
    found = compare(array, theirs)
    kind, name, role = key
    limits = judge.floor(number, key), judge.allowed(number, key)
    direction = f"step {number} {kind}" + (f", {role}" if role else "")
    return tensor_row(name, name, kind, number, array.shape, found, limits, direction=direction, note=note)


def left_out(reference: Run, port: Run, judge: Judge) -> Iterator[Skipped]:
    """What was not compared, each once, and why."""
    if judge.horizon <= len(reference):
        reason = "the training is chaotic, and two correct ones separate; its parts are judged"
        yield Skipped(f"steps {judge.horizon} to {len(reference)}", "training", "both", reason)
    seen: set[Key] = set()
    for side, here, there in (("torch", reference, port), ("Paddle", port, reference)):
        for step, other in zip(here.steps, there.steps):
            for key in step.arrays:
                if key in seen:
                    continue
                reason = _left_out(key, judge.noisy, other) if side == "torch" else ""
                if side == "Paddle" and key not in other.arrays and key[0] not in (GRADIENT, GIVEN):
                    reason = "torch has none"
                if not reason:
                    continue
                seen.add(key)
                yield Skipped(key[1], " ".join(filter(None, (key[0], key[2]))), side, reason)
