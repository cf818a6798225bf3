"""Solve numbers from an optimizer's inputs and outputs by least squares. numpy only.

Each rule is linear in its numbers, which follow by least squares over all steps and elements, with a bound on their
error. A rule that does not fit to rounding is rejected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alignment.engine.records.run import GIVEN, GRADIENT, PARAMETER, STATE, Run

SAMPLES = 512
"""The number of elements used of each tensor and step: a few numbers are solved from thousands of equations."""
# An update has some ten roundings. A wrong rule leaves a thousandth of the update at least, a billion times the
# rounding of float64.
FIT = 2.0**10
# columns that agree to half of the digits of float64 do not determine their numbers
RANK = 2.0**-26
# a hyperparameter that one framework keeps in float32 is the same setting (see ``settings``)
SAME = 2.0**-23


@dataclass(frozen=True)
class Number:
    """A solved number and the bound of its rounding error."""

    value: float
    bound: float = 0.0

    def same(self, other: Number) -> bool:
        """Return whether both may be the same setting: they are equal within the known digits."""
        near = abs(self.value - other.value) <= 2 * (self.bound + other.bound) + SAME * abs(self.value)
        return near or str(self) == str(other)

    @property
    def is_zero(self) -> bool:
        """Return whether the number is zero within rounding (as 1 - a of an a near 1, some units of 2**-53)."""
        return abs(self.value) <= 2 * self.bound + 2.0**-48

    def __str__(self) -> str:
        if self.is_zero:
            return "0"
        known = math.log10(abs(self.value) / self.bound) - 1 if self.bound else 6
        return f"{self.value:.{min(6, max(1, int(known)))}g}"


Rule = dict[str, Number]


@dataclass(frozen=True)
class Update:
    """One step of one parameter, flat: rate, gradient, weights before and after, state before and after."""

    number: int
    rate: float
    gradient: np.ndarray
    before: np.ndarray
    after: np.ndarray
    old: Mapping[str, np.ndarray]
    new: Mapping[str, np.ndarray]


def solve(columns: Sequence[np.ndarray], target: np.ndarray, roundoff: float) -> list[Number] | None:
    """Solve the numbers by which ``columns`` sum to ``target``; ``None`` if there is no or no unique solution.

    ``roundoff`` is the largest rounding of an element of ``target``. A column of zeros has the number 0.
    """
    scales = [float(np.abs(column).max(initial=0.0)) for column in columns]
    used = [i for i, scale in enumerate(scales) if scale]
    numbers = [Number(0.0)] * len(columns)
    if not used or not target.size:
        return None
    matrix = np.stack([columns[i] / scales[i] for i in used], axis=1)
    found, _, rank, _ = np.linalg.lstsq(matrix, target, rcond=RANK)
    residual = float(np.abs(matrix @ found - target).max())
    if rank < len(used) or not residual <= FIT * roundoff:
        return None
    bounds = np.abs(np.linalg.pinv(matrix, rcond=RANK)).sum(axis=1) * max(residual, roundoff)
    for position, i in enumerate(used):
        numbers[i] = Number(float(found[position]) / scales[i], float(bounds[position]) / scales[i])
    return numbers


def updates_of(run: Run, port: Run, name: str) -> list[Update]:
    """Return ``run``'s steps of one parameter from the port's weights and gradient before each step.

    A large parameter is sampled evenly. A step of which a part was not recorded is left out.
    """
    updates = []
    for number in range(1, len(run) + 1):
        other = port.steps[number]
        gradient = other.get(GIVEN, name)
        gradient = other.get(GRADIENT, name) if gradient is None else gradient
        weights = port.steps[number - 1].get(PARAMETER, name), run.steps[number].get(PARAMETER, name)
        if gradient is None or name not in other.rates or weights[0] is None or weights[1] is None:
            continue
        chosen = np.unique(np.linspace(0, gradient.size - 1, min(SAMPLES, gradient.size)).astype(int))

        def flat(array: np.ndarray, chosen: np.ndarray = chosen) -> np.ndarray:
            return array.reshape(-1)[chosen].astype(np.float64)

        def state(of: int, size: int = gradient.size) -> dict[str, np.ndarray]:
            found = {role: run.steps[of].arrays[STATE, name, role] for role in run.steps[of].roles(name)}
            return {role: flat(array) for role, array in found.items() if array.size == size}

        updates.append(
            Update(
                number, other.rates[name], flat(gradient), flat(weights[0]), flat(weights[1]), state(number - 1),
                state(number),
            )
        )  # fmt: skip
    return updates


def joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate the arrays; empty if there are none."""
    return np.concatenate(arrays) if arrays else np.zeros(0)


def largest(*arrays: np.ndarray) -> float:
    """Return the largest absolute value in any of ``arrays``."""
    return max(float(np.abs(array).max(initial=0.0)) for array in arrays)


def moves_of(updates: Sequence[Update], unit: float) -> tuple[list[Update], np.ndarray, float]:
    """Return the steps with a rate, their updates divided by the rate, and the rounding of these quotients."""
    moving = [u for u in updates if u.rate]
    moves = joined([(u.before - u.after) / u.rate for u in moving])
    roundoff = max((unit * largest(u.before, u.after) / u.rate for u in moving), default=0.0) + unit * largest(moves)
    return moving, moves, roundoff


def over(a: Number, b: Number) -> Number:
    """Return ``a`` / ``b`` with the propagated bounds of both; 0 where ``b`` is 0."""
    if not b.value:
        return Number(0.0)
    ratio = a.value / b.value
    return Number(ratio, (a.bound + abs(ratio) * b.bound) / abs(b.value))


def gradient(update: Update) -> np.ndarray:
    """Return the gradient that the optimizer received."""
    return update.gradient


def before(update: Update) -> np.ndarray:
    """Return the weights before the step."""
    return update.before


def old(role: str) -> Callable[[Update], np.ndarray]:
    """Return a function that picks the state before a step; zeros if there was none."""
    return lambda update: update.old.get(role, np.zeros_like(update.gradient))


def new(role: str) -> Callable[[Update], np.ndarray]:
    """Return a function that picks the state after a step."""
    return lambda update: update.new[role]
