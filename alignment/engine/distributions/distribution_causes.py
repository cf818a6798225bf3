"""Explain the difference of two distributions: scale, shape, a constant, the same numbers. No framework.

The names follow the initialisers of both frameworks: He et al., https://arxiv.org/abs/1502.01852; Glorot and Bengio,
https://proceedings.mlr.press/v9/glorot10a.html; and torch's default for linear and convolutional layers,
``kaiming_uniform_(a=sqrt(5))``, which is uniform with a variance of 1 / (3 fan_in).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from statistics import NormalDist

import numpy as np

from alignment.engine.distributions.distribution import Drawn, ks_probability
from alignment.engine.judging.error import compare

SAMPLE = 2**15
"""The number of values that identify a family: the nearest two lie 0.0167 apart, a chance of one in 10**7."""

FITS, FAILS = 1e-3, 1e-4
"""A family is named only if chance explains the sample's distance from it and from no other."""

NEAR = 4.0
"""A rule is named within this number of standard errors; the true one lies outside once in 16,000 times."""

CUT = 2.0  # standard deviations at which both frameworks' truncated normals end
_NORMAL = NormalDist()


def cause(reference: Drawn, candidate: Drawn) -> str:
    """Describe how ``candidate`` differs from ``reference``."""
    if candidate.fixed is not None and reference.fixed is not None:
        if candidate.constant is not None and reference.constant is not None:
            return f"constant {candidate.constant:g} instead of constant {reference.constant:g}"
        found = compare(reference.fixed, candidate.fixed)
        return f"other fixed values: relative error {found.relative:.1e} at {list(found.worst)}"
    if candidate.fixed is not None and candidate.constant is None:
        return f"the same numbers under every seed instead of {describe(reference)}"
    if candidate.fixed is not None or reference.fixed is not None:
        return f"{describe(candidate)} instead of {describe(reference)}"
    return _other_distribution(reference, candidate)


def describe(drawn: Drawn) -> str:
    """Describe the distribution of one tensor: ``constant 1``, ``normal (mean 0, standard deviation 0.0417)``."""
    if drawn.constant is not None:
        return f"constant {drawn.constant:g}"
    if drawn.fixed is not None:
        return "fixed values"
    return f"random ({_named(family(drawn))}mean {_mean(drawn)}, standard deviation {drawn.std:.4g}{_rule(drawn)})"


def family(drawn: Drawn) -> str:
    """Return ``normal``, ``uniform`` or ``truncated normal`` if the values decide, else nothing."""
    values = drawn.values.astype(np.float64)
    if values.size > SAMPLE:
        values = values[np.linspace(0, values.size - 1, SAMPLE).astype(np.int64)]
    if not drawn.std > 0:
        return ""
    standard = np.sort((values - drawn.mean) / drawn.std)
    fits = {name: _probability(standard, name) for name in _FAMILIES}
    best, *others = sorted(fits, key=fits.__getitem__, reverse=True)
    return best if fits[best] > FITS and all(fits[other] < FAILS for other in others) else ""


def rules(shape: tuple[int, ...]) -> Iterator[tuple[str, float]]:
    """Yield names and values of standard deviations that initialisers use for a weight (out, in, *kernel)."""
    if len(shape) > 1:
        area = math.prod(shape[2:])
        fan_in, fan_out = shape[1] * area, shape[0] * area
        yield "sqrt(2 / fan_out), He's by fan_out", math.sqrt(2 / fan_out)
        yield "sqrt(2 / fan_in), He's by fan_in", math.sqrt(2 / fan_in)
        yield "sqrt(2 / (fan_in + fan_out)), Xavier's", math.sqrt(2 / (fan_in + fan_out))
        yield "sqrt(1 / (3 fan_in)), torch's default", math.sqrt(1 / (3 * fan_in))
        yield "sqrt(1 / fan_in), LeCun's", math.sqrt(1 / fan_in)
        yield "sqrt(1 / fan_out)", math.sqrt(1 / fan_out)
    for number in (0.001, 0.01, 0.02, 0.1, 1.0):
        yield f"the number {number:g}", number


def _other_distribution(reference: Drawn, candidate: Drawn) -> str:
    parts = []
    families = family(candidate), family(reference)
    if all(families) and families[0] != families[1]:
        parts.append(f"{families[0]} instead of {families[1]}")
    if _apart(candidate.mean - reference.mean, reference.mean_error, candidate.mean_error):
        parts.append(f"mean {candidate.mean:.4g} instead of {reference.mean:.4g}")
    if _scale_differs(reference, candidate):
        parts.append(
            f"standard deviation {candidate.std:.4g}{_rule(candidate)} instead of {reference.std:.4g}{_rule(reference)}"
            f": {candidate.std / reference.std:.4g} times as large"
        )
    return "; ".join(parts) or "another shape of distribution, with about the same mean and standard deviation"


def _scale_differs(reference: Drawn, candidate: Drawn) -> bool:
    if not (reference.std > 0 and candidate.std > 0):
        return reference.std != candidate.std
    return _apart(math.log(candidate.std / reference.std), reference.log_std_error, candidate.log_std_error)


def _apart(difference: float, *errors: float) -> bool:
    return abs(difference) > NEAR * math.hypot(*errors)


def _rule(drawn: Drawn) -> str:
    """Return `` (name, or name)`` of the initialisers with this standard deviation."""
    if not drawn.std > 0:
        return ""
    near = [n for n, value in rules(drawn.shape) if not _apart(math.log(drawn.std / value), drawn.log_std_error)]
    return f" ({', or '.join(near)})" if near else ""


def _named(name: str) -> str:
    return f"{name}, " if name else ""


def _mean(drawn: Drawn) -> str:
    return "0" if not _apart(drawn.mean, drawn.mean_error) else f"{drawn.mean:.4g}"


def _probability(standard: np.ndarray, name: str) -> float:
    """Return the probability that a sorted sample lies so far from the distribution ``name`` (a one-sample test)."""
    expected = np.interp(standard, *_table(name))
    steps = np.arange(standard.size + 1) / standard.size
    distance = max((steps[1:] - expected).max(), (expected - steps[:-1]).max())
    # compared with an infinite sample: ab / (a + b) is then the sample's own size
    return ks_probability(float(distance), standard.size, 10**9 * standard.size)


@functools.cache
def _table(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Tabulate a distribution function from -6 to 6, so that values between its points are right within 1e-6."""
    points = np.linspace(-6, 6, 6001)
    return points, np.array([_FAMILIES[name](value) for value in points.tolist()])


def _uniform(value: float) -> float:
    """Return the uniform distribution function of variance 1: from -sqrt(3) to sqrt(3)."""
    return min(max((value / math.sqrt(3) + 1) / 2, 0.0), 1.0)


def _truncated(value: float) -> float:
    """Return the function of a normal distribution cut at ``CUT`` standard deviations, scaled to variance 1."""
    inside = 2 * _NORMAL.cdf(CUT) - 1
    spread = math.sqrt(1 - 2 * CUT * _NORMAL.pdf(CUT) / inside)  # what the cut leaves of the standard deviation
    cut = min(max(value * spread, -CUT), CUT)
    return (_NORMAL.cdf(cut) - _NORMAL.cdf(-CUT)) / inside


_FAMILIES: dict[str, Callable[[float], float]] = {
    "normal": _NORMAL.cdf,
    "uniform": _uniform,
    "truncated normal": _truncated,
}
