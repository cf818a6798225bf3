"""Test whether a port starts training from the reference's distribution: draws of both give one result. No framework.

Tensors that are equal under every seed must be equal on both sides, value for value. Random tensors are tested by
``distribution``. The number of tests is corrected for (Bonferroni), so that all tensors of a model together raise a
false alarm at most once in 10,000 runs. In addition, a port must draw the same numbers again under the same seed, and
must not draw two tensors from the same random numbers where the reference uses different ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alignment.engine.distributions.distribution import (
    Drawn,
    Measured,
    can_fail,
    count_tests,
    ks_critical,
    ks_distance,
    measure,
    shared,
)
from alignment.engine.distributions.distribution_causes import cause, describe
from alignment.engine.judging.error import Difference, compare
from alignment.engine.judging.rows import tensor_row
from alignment.engine.result import INIT, WEIGHTS, Culprit, Result, Row, Skipped

Draw = Callable[[int], Mapping[str, np.ndarray]]
"""A function from a seed to every parameter and buffer of a new model, by the reference's names, in order."""

FALSE_ALARM = 1e-4
"""The allowed probability of a false alarm."""

SPENT = 0.5
"""The share of it that the tests get.

Their probabilities are limits for many values; with the fewest values that are judged by them, the true ones are up to
1.3 times as large (``MOMENTS_FROM``).
"""


@dataclass(frozen=True)
class Draws:
    """The draws of one side by tensor, and the tensors that differ when the first seed is set again."""

    tensors: dict[str, Drawn]
    unrepeated: frozenset[str]


def collect(draw: Draw, seeds: Sequence[int], progress: Callable[[int], None] = lambda seed: None) -> Draws:
    """Draw under each of ``seeds``, and once more under the first."""
    tensors: dict[str, Drawn] = {}
    first: dict[str, bytes] = {}
    for number, seed in enumerate(seeds):
        progress(seed)
        state = draw(seed)
        first = first or {name: _digest(array) for name, array in state.items()}
        for name, array in state.items():
            tensors.setdefault(name, Drawn(len(seeds))).add(array)
        if number and state.keys() != tensors.keys():
            raise ValueError(f"seed {seed} draws other tensors than seed {seeds[0]}")
    again = draw(seeds[0])
    return Draws(tensors, frozenset(name for name in tensors if _digest(again[name]) != first[name]))


def compare_draws(
    title: str, reference: Draws, port: Draws, twins: Mapping[str, str], skipped: Iterable[Skipped] = ()
) -> Result:
    """Compare the ``port``'s draws with the ``reference``'s.

    ``twins`` are the port's own names for the reference's, where they differ; ``skipped`` are tensors that are left out
    on both sides, with the reason.
    """
    result = Result(title, "float32", skipped=list(skipped))
    names = list(dict.fromkeys([*reference.tensors, *port.tensors]))
    judged = [name for name in names if _is_random_on_both(reference.tensors.get(name), port.tensors.get(name))]
    made = sum(count_tests(reference.tensors[name], port.tensors[name]) for name in judged)
    alarm = FALSE_ALARM * SPENT / max(made, 1)
    copies = _copies(reference, port)
    for depth, name in enumerate(names):
        found = _judge(name, reference, port, alarm, copies.get(name))
        if found.skip:
            result.skipped.append(Skipped(name, "Tensor", "both", found.skip))
            continue
        twin = twins.get(name, name)
        result.rows.append(_row(name, twin, depth, found, reference.tensors.get(name) or port.tensors[name]))
        if found.cause:
            result.culprits.append(Culprit(name, twin, WEIGHTS, found.cause, found.evidence))
    result.facts = {
        "tests": f"{made} on {len(judged)} random tensors; an alarm is p < {alarm:.1e}, so that a correct port is "
        f"called wrong at most once in {1 / FALSE_ALARM:,.0f} runs (Bonferroni)",
    }
    return result


@dataclass(frozen=True)
class _Found:
    """The finding at one tensor: numbers for its row, and a cause if it is at fault."""

    difference: Difference
    floor: float = 0.0
    allowed: float = 0.0
    cause: str = ""
    evidence: tuple[str, ...] = ()
    skip: str = ""


_NOTHING = Difference(np.inf, np.inf, (), 0)


def _judge(name: str, reference: Draws, port: Draws, alarm: float, copy: str | None) -> _Found:
    expected, actual = reference.tensors.get(name), port.tensors.get(name)
    if expected is None or actual is None:
        return _Found(_NOTHING, cause=f"not in {'the reference' if expected is None else 'the port'}")
    if expected.shape != actual.shape:
        return _Found(_NOTHING, cause=f"shape {list(actual.shape)} instead of {list(expected.shape)}")
    if expected.dtype != actual.dtype:
        return _Found(_NOTHING, cause=f"type {actual.dtype} instead of {expected.dtype}")
    if name in port.unrepeated - reference.unrepeated:
        return _Found(_NOTHING, cause="other numbers when the same seed is set again: the seed does not reach it")
    if copy:
        return _Found(_NOTHING, cause=copy)
    if expected.fixed is not None and actual.fixed is not None:
        found = compare(expected.fixed, actual.fixed)
        return _Found(found, cause=cause(expected, actual) if found.max_abs else "")
    if not (expected.finite and actual.finite):
        return _Found(_NOTHING, cause=f"NaN or infinite values in the {'reference' if actual.finite else 'port'}")
    if expected.fixed is not None or actual.fixed is not None:
        return _Found(_NOTHING, cause=cause(expected, actual))
    return _judge_random(expected, actual, alarm)


def _judge_random(expected: Drawn, actual: Drawn, alarm: float) -> _Found:
    if not can_fail(expected, actual, alarm):
        return _Found(_NOTHING, skip=f"{expected.count} values over all seeds are too few to judge; take more seeds")
    made = measure(expected, actual)
    failed = [test for test in made if test.probability < alarm]
    sizes = expected.values.size, actual.values.size
    moments = max(abs(expected.mean - actual.mean), abs(expected.std - actual.std))
    difference = Difference(moments, ks_distance(expected.values, actual.values), (), expected.count)
    # the floor is the distance that chance reaches every second time
    floor, allowed = ks_critical(0.5, *sizes), ks_critical(alarm, *sizes)
    if not failed:
        return _Found(difference, floor, allowed)
    return _Found(difference, floor, allowed, cause(expected, actual), _evidence(expected, actual, made, failed))


def _evidence(expected: Drawn, actual: Drawn, made: Sequence[Measured], failed: Sequence[Measured]) -> tuple[str, ...]:
    return (
        f"the reference: {describe(expected)}",
        f"the port: {describe(actual)}",
        *(f"{test.name}{'' if test in failed else ' (no alarm)'}: {test.evidence}" for test in made),
    )


def _row(name: str, twin: str, depth: int, found: _Found, drawn: Drawn) -> Row:
    limits = found.floor, found.allowed
    return tensor_row(
        name, twin, "Tensor", depth, drawn.shape, found.difference, limits, direction=INIT, note=found.cause
    )


def _copies(reference: Draws, port: Draws) -> dict[str, str]:
    """Return the port's tensors that begin with the random numbers of an earlier one, with a description."""
    known = shared(reference.tensors)
    causes: dict[str, str] = {}
    for (earlier, later), correlation in shared(port.tensors).items():
        if (earlier, later) not in known:
            words = f"the same random numbers as {earlier} (correlation {correlation:.3f}), unlike the reference"
            causes.setdefault(later, words)
    return causes


def _is_random_on_both(expected: Drawn | None, actual: Drawn | None) -> bool:
    both = (expected, actual)
    return all(drawn is not None and drawn.fixed is None and drawn.finite for drawn in both)


def _digest(array: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, digest_size=16).digest()
