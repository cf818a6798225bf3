"""Explain how a learning rate schedule differs from the reference's, from the rates of all steps. numpy only.

A schedule is split into phases, each the longest that one formula fits: constant, linear, geometric, a power of a
linear one (polynomial and inverse decay), or a cosine. Phases that are all constant are steps. If both schedules have
the same phases, the cause is the number that differs, else both are described.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from alignment.engine.explaining.solving import SAME

# Rates are computed in float64 by a few operations, recursively in some schedules.
FITS = 2.0**-33
POWERS = (2.0, 0.5, 3.0, 4.0, 0.9, -1.0, -0.5)
"""The exponents of polynomial schedules that are tried, -1 and -0.5 for inverse decays (Noam's)."""
LONG = 5
"""The fewest rates of a phase with four numbers; a straight line has two."""
MANY = 4
"""A schedule with more phases is not described."""
FIRST = 200
"""The number of steps analysed; every formula on every part of more steps takes seconds."""


@dataclass(frozen=True)
class Phase:
    """The rates from step ``start`` on, ``length`` intervals, by one formula with its numbers."""

    kind: str
    start: int
    length: int
    numbers: dict[str, float]
    ends: bool
    """Whether another phase follows, so that the length is the schedule's own."""

    def words(self) -> str:
        """Describe the phase."""
        shown = ", ".join(f"{name} {value:.6g}" for name, value in self.numbers.items())
        return f"{self.kind} ({shown})"


def rate_cause(a: np.ndarray, b: np.ndarray) -> str:
    """Describe how the port's rates ``b`` differ from the reference's ``a``, for all steps."""

    def same(x: np.ndarray, y: np.ndarray) -> bool:
        return len(x) > 1 and bool(np.all(np.abs(x - y) <= SAME * np.abs(x)))

    if np.ptp(a) and same(a[1:], b[:-1]):
        return "the learning rate of step k is that of step k + 1 (one step ahead)"
    if np.ptp(a) and same(a[:-1], b[1:]):
        return "the learning rate of step k is that of step k - 1 (one step behind)"
    if np.ptp(a) and not np.ptp(b):
        return f"the learning rate stays {b[0]:.9g}: the schedule is never stepped"
    if np.all(a) and np.ptp(b / a) <= SAME * abs(b[0] / a[0]):
        return f"the learning rate is {b[0] / a[0]:.6g} times the reference's"
    return _other_numbers(phases(a[:FIRST]), phases(b[:FIRST])) or "another schedule of the learning rate"


def _other_numbers(ours: list[Phase], theirs: list[Phase]) -> str:
    jumps = [phase for found in (ours, theirs) for phase in found[:-1] if not phase.length]
    if not ours or not theirs or jumps or max(len(ours), len(theirs)) > MANY:
        return ""
    kinds = [phase.kind for phase in ours]
    # one schedule may end within the recorded steps, so that the other has a phase less
    if [phase.kind for phase in theirs[: len(kinds)]] == kinds[: len(theirs)]:
        words = [text for mine, yours in zip(ours, theirs) for text in _differences(mine, yours)]
        if words:
            return f"another schedule of the learning rate: {'; '.join(words)}"
    described = [", then ".join(phase.words() for phase in found) for found in (theirs, ours)]
    return f"another schedule of the learning rate: {described[0]}, instead of {described[1]}"


def _differences(ours: Phase, theirs: Phase) -> list[str]:
    names = [name for name in ours.numbers if name in theirs.numbers]
    wrong = [n for n in names if abs(ours.numbers[n] - theirs.numbers[n]) > 1e-6 * max(abs(ours.numbers[n]), 1e-12)]
    return [f"{ours.kind}: {name} {theirs.numbers[name]:.6g} instead of {ours.numbers[name]:.6g}" for name in wrong]


def phases(rates: np.ndarray) -> list[Phase]:
    """Return the phases of a schedule in order; incomplete if there are too many to describe."""
    found: list[Phase] = []
    start, last = 0, len(rates) - 1
    while start < last and (len(found) <= MANY or all(phase.kind == "constant" for phase in found)):
        phase = _longest(rates, start)
        if phase.length < 2 and found and found[-1].start + found[-1].length == start:
            start += 1  # a jump: the next phase does not start where the last one ends
            if start == last:
                found.append(Phase("constant", start, 0, {"rate": float(rates[start])}, False))
            continue
        found.append(phase)
        start += max(phase.length, 1)
    return _as_steps(found, rates) or found


def _longest(rates: np.ndarray, start: int) -> Phase:
    """Return the longest phase from ``start`` on; of equally long ones the simplest."""
    best = Phase("constant", start, 0, {"rate": float(rates[start])}, True)
    for kind, fewest, fit in FORMULAS:
        for end in range(len(rates), start + max(fewest, best.length + 1), -1):
            numbers = fit(rates[start:end])
            if numbers is not None:
                best = Phase(kind, start, end - 1 - start, numbers, end < len(rates))
                break
    return _with_length(best)


def _with_length(phase: Phase) -> Phase:
    """Give a line that ends a length of its own, else a slope."""
    if phase.kind == "linear" and phase.ends:
        numbers = {"steps": float(phase.length), "from": phase.numbers["from"], "to": phase.numbers["to"]}
        return Phase(phase.kind, phase.start, phase.length, numbers, True)
    if phase.kind == "linear":
        numbers = {"from": phase.numbers["from"], "change per step": phase.numbers["change per step"]}
        return Phase(phase.kind, phase.start, phase.length, numbers, False)
    if phase.kind == "constant" and phase.ends:
        return Phase(phase.kind, phase.start, phase.length, {"steps": phase.length + 1.0, **phase.numbers}, True)
    return phase


def _as_steps(found: list[Phase], rates: np.ndarray) -> list[Phase]:
    """Combine constant phases into one schedule of steps: the factor of each, and its position."""
    jumps = np.flatnonzero(np.abs(np.diff(rates)) > FITS * np.abs(rates).max())
    if not len(jumps) or len(jumps) > len(rates) // 2 or not all(phase.kind == "constant" for phase in found):
        return []
    factors = rates[jumps + 1] / np.where(rates[jumps], rates[jumps], np.nan)
    if not np.ptp(factors) <= FITS * abs(factors[0]):
        return []
    numbers = {"gamma": float(factors[0])}
    numbers |= {f"milestone {number}": float(jump + 1) for number, jump in enumerate(jumps, 1)}
    return [Phase("steps", 0, len(rates) - 1, numbers, False)]


# --- formulas -------------------------------------------------------------------------------------------------------


def _close(x: np.ndarray, y: np.ndarray) -> bool:
    return bool(np.all(np.isfinite(y)) and np.abs(x - y).max() <= FITS * max(float(np.abs(x).max()), 1e-300))


def _constant(x: np.ndarray) -> dict[str, float] | None:
    return {"rate": float(x[0])} if _close(x, np.full_like(x, x[0])) else None


def _linear(x: np.ndarray) -> dict[str, float] | None:
    step = (x[-1] - x[0]) / (len(x) - 1)
    fits = _close(x, x[0] + step * np.arange(len(x)))
    return {"from": float(x[0]), "to": float(x[-1]), "change per step": float(step)} if fits else None


def _geometric(x: np.ndarray) -> dict[str, float] | None:
    if not (x > 0).all():
        return None
    gamma = (x[-1] / x[0]) ** (1 / (len(x) - 1))
    return {"from": float(x[0]), "gamma": float(gamma)} if _close(x, x[0] * gamma ** np.arange(len(x))) else None


def _power(exponent: float) -> Callable[[np.ndarray], dict[str, float] | None]:
    def fit(x: np.ndarray) -> dict[str, float] | None:
        if not (x[:-1] > 0).all() or x[-1] < 0 or (exponent < 0 and not x[-1]):
            return None
        line = _linear(x ** (1 / exponent))
        if line is None or not line["change per step"]:
            return None
        zero = -line["from"] / line["change per step"]
        where = {"reaches 0 at step": zero} if exponent > 0 else {"from step": -zero}
        return {"from": float(x[0]), "power": exponent, **where}

    return fit


def _cosine(x: np.ndarray) -> dict[str, float] | None:
    """``c + d * cos(w * k + phase)``: differences of such a sequence follow ``y[k+1] + y[k-1] = 2 cos(w) y[k]``."""
    y = np.diff(x)
    square = float(np.vdot(y[1:-1], y[1:-1]))
    if not square:
        return None
    turn = float(np.vdot(y[2:] + y[:-2], y[1:-1])) / square / 2
    if not -1 < turn < 1:
        return None
    k, w = np.arange(len(x)), float(np.arccos(turn))
    columns = np.stack([np.ones(len(x)), np.cos(w * k), np.sin(w * k)], axis=1)
    found = np.linalg.lstsq(columns, x, rcond=None)[0]
    # a cosine of a very long period fits any smooth curve
    if not _close(x, columns @ found) or np.pi / w > 100 * len(x):
        return None
    size = float(np.hypot(found[1], found[2]))
    low, high = float(found[0]) - size, float(found[0]) + size
    ends = (low, high) if y[0] > 0 else (high, low)
    return {"steps": round(float(np.pi / w), 6), "from": _plain(ends[0], high), "to": _plain(ends[1], high)}


def _plain(value: float, scale: float) -> float:
    return 0.0 if abs(value) <= 1e-9 * abs(scale) else value


FORMULAS: list[tuple[str, int, Callable[[np.ndarray], dict[str, float] | None]]] = [
    ("constant", 1, _constant),
    ("linear", 2, _linear),
    ("geometric", 2, _geometric),
    *((f"polynomial of power {power:g}" if power > 0 else f"inverse decay of power {-power:g}", 3, _power(power))
      for power in POWERS),
    ("cosine", LONG - 1, _cosine),
]  # fmt: skip
"""The kinds of phases, the simplest first, with their fewest intervals and the fitted numbers."""
