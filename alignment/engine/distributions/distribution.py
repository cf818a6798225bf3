"""Test whether two sets of random numbers have the same distribution. No framework, no verdict.

Three tests are made, since each misses what another detects. Kolmogorov-Smirnov detects another shape (uniform for
normal), the mean a shift that is small relative to the spread, the standard deviation another scale (fan_in for
fan_out) in tensors with too few values for Kolmogorov-Smirnov.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from alignment.engine.judging.error import PIECE

KEPT = 2**17
"""The number of values of one tensor, over all seeds, kept for Kolmogorov-Smirnov: 512 KiB in float32.

A normal distribution cut at two standard deviations lies 0.0167 from an uncut one of the same standard deviation, a
uniform one 0.057. With this many values a distance of 0.0115 is an alarm even among a thousand tests.
"""

MOMENTS_FROM = 1000
"""The number of values on either side from which mean and standard deviation are judged.

With fewer values their errors are not normally distributed in the tails, where it matters: of 200 normal values the
standard deviations lie beyond 4 standard errors twice as often as they should, of 1,440 1.3 times (measured). Below,
only the Kolmogorov-Smirnov test judges, which is conservative with few values.
"""

START = 64
"""The number of values at the beginning of a tensor that identify shared random numbers."""


@dataclass
class Drawn:
    """Statistics of one tensor that was drawn under ``seeds`` seeds, after one ``add`` for each of them.

    ``fixed`` is the array if every seed gave the same, else ``None``. ``values`` are evenly spaced elements, at most
    ``KEPT`` over all seeds; mean and standard deviation are those of every element. ``start`` holds the first ``START``
    values under the first seed.
    """

    seeds: int
    shape: tuple[int, ...] = ()
    dtype: str = ""
    fixed: np.ndarray | None = None
    finite: bool = True
    start: np.ndarray = field(default_factory=lambda: np.zeros(0))
    count: int = 0
    _kept: list[np.ndarray] = field(default_factory=list)
    _shift: float = 0.0
    _powers: np.ndarray = field(default_factory=lambda: np.zeros(4))

    def add(self, array: np.ndarray) -> None:
        """Add the draw of the next seed."""
        if not self._kept:
            self.shape, self.dtype, self.fixed = array.shape, array.dtype.name, array
            self.start = array.reshape(-1)[:START].astype(np.float64)
            self._shift = float(array.mean(dtype=np.float64)) if array.size else 0.0
        elif self.fixed is not None and not np.array_equal(self.fixed, array, equal_nan=True):
            self.fixed = None
        flat = array.reshape(-1)
        step = max(1, flat.size * self.seeds // KEPT)
        self._kept.append(flat[::step][: KEPT // self.seeds].copy())
        self.finite = self.finite and bool(np.isfinite(flat).all())
        self.count += flat.size
        self._powers += _power_sums(flat, self._shift)

    @property
    def values(self) -> np.ndarray:
        """The kept elements of all seeds."""
        return np.concatenate(self._kept)

    @property
    def constant(self) -> float | None:
        """The single value of every element under every seed, if there is one."""
        if self.fixed is None or not self.fixed.size or np.ptp(self.fixed) != 0:
            return None
        return float(self.fixed.reshape(-1)[0])

    @property
    def mean(self) -> float:
        """The mean over every element of every seed."""
        return self._shift + self._powers[0] / self.count

    @property
    def std(self) -> float:
        """The standard deviation over every element of every seed."""
        return math.sqrt(max(self._central()[0], 0.0))

    @property
    def mean_error(self) -> float:
        """The standard error of ``mean``."""
        return self.std / math.sqrt(self.count)

    @property
    def log_std_error(self) -> float:
        """The standard error of ``log(std)``: ``sqrt((kurtosis - 1) / count) / 2``.

        From Var(s**2) = (mu4 - sigma**4) / n (Kendall and Stuart, The Advanced Theory of Statistics 1, 10.9).
        """
        variance, fourth = self._central()
        return math.sqrt(max(fourth / variance**2 - 1, 0.0) / self.count) / 2 if variance > 0 else math.inf

    def _central(self) -> tuple[float, float]:
        """The second and fourth central moments."""
        m1, m2, m3, m4 = self._powers / self.count
        return m2 - m1**2, m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4


def _power_sums(flat: np.ndarray, shift: float) -> np.ndarray:
    """Return the sums of ``(x - shift) ** k`` for k = 1 to 4, in float64, in pieces that fit the cache."""
    sums = np.zeros(4)
    for begin in range(0, flat.size, PIECE):
        x = flat[begin : begin + PIECE].astype(np.float64) - shift
        sums[0] += x.sum()
        square = x * x
        x *= square
        sums[1] += square.sum()
        sums[2] += x.sum()
        square *= square
        sums[3] += square.sum()
    return sums


@dataclass(frozen=True)
class Measured:
    """One test: its ``name``, the probability that chance alone reaches this value, and the measurement as text."""

    name: str
    probability: float
    evidence: str


def measure(reference: Drawn, candidate: Drawn) -> list[Measured]:
    """Run every applicable test of ``candidate`` against ``reference``; both are finite and not fixed."""
    found = [_shape_test(reference, candidate)]
    if min(reference.count, candidate.count) >= MOMENTS_FROM:
        found += [_mean_test(reference, candidate), _std_test(reference, candidate)]
    return found


def count_tests(reference: Drawn, candidate: Drawn) -> int:
    """Return the number of tests that ``measure`` makes."""
    return 3 if min(reference.count, candidate.count) >= MOMENTS_FROM else 1


def ks_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Kolmogorov-Smirnov statistic: the largest distance of the two empirical distribution functions."""
    a, b = np.sort(a), np.sort(b)
    at = np.concatenate([a, b])
    below_a = np.searchsorted(a, at, side="right") / a.size
    below_b = np.searchsorted(b, at, side="right") / b.size
    return float(np.abs(below_a - below_b).max())


def ks_probability(distance: float, count_a: int, count_b: int) -> float:
    """Return the probability that two samples of one distribution lie at least ``distance`` apart.

    The limit for many values, ``2 sum (-1)**(k-1) exp(-2 k**2 x**2)`` with ``x = distance sqrt(ab / (a + b))``
    (Smirnov, Ann. Math. Statist. 19, 1948, 279); with few values it is too large, so it causes no alarm.
    """
    x = distance * math.sqrt(count_a * count_b / (count_a + count_b))
    if x < 0.2:  # the sum converges slowly there, to 1 within 1e-12
        return 1.0
    terms = ((-1) ** (k - 1) * math.exp(-2 * k**2 * x**2) for k in range(1, 101))
    return min(1.0, max(0.0, 2 * sum(terms)))


def ks_critical(probability: float, count_a: int, count_b: int) -> float:
    """Return the distance that chance reaches with ``probability``: the first term of ``ks_probability`` solved."""
    return math.sqrt(-math.log(probability / 2) / 2 * (count_a + count_b) / (count_a * count_b))


def can_fail(reference: Drawn, candidate: Drawn, alarm: float) -> bool:
    """Return whether there are enough values for any distance, at most 1, to be less likely than ``alarm``."""
    return ks_critical(alarm, reference.values.size, candidate.values.size) < 1


def normal_probability(deviations: float) -> float:
    """Return the probability that a standard normal variable is at least ``deviations`` from 0, on either side."""
    return math.erfc(abs(deviations) / math.sqrt(2))


def _shape_test(reference: Drawn, candidate: Drawn) -> Measured:
    a, b = reference.values, candidate.values
    distance = ks_distance(a, b)
    probability = ks_probability(distance, a.size, b.size)
    return Measured(
        "shape",
        probability,
        f"Kolmogorov-Smirnov distance {distance:.4f} of {a.size:,} and {b.size:,} values: p = {probability:.1e}",
    )


def _mean_test(reference: Drawn, candidate: Drawn) -> Measured:
    error = math.hypot(reference.mean_error, candidate.mean_error)
    deviations = (candidate.mean - reference.mean) / error if error else math.inf
    probability = normal_probability(deviations)
    return Measured(
        "mean",
        probability,
        f"mean {candidate.mean:.4g} instead of {reference.mean:.4g}, {abs(deviations):.1f} standard errors away: "
        f"p = {probability:.1e}",
    )


def _std_test(reference: Drawn, candidate: Drawn) -> Measured:
    error = math.hypot(reference.log_std_error, candidate.log_std_error)
    both = reference.std > 0 and candidate.std > 0
    deviations = math.log(candidate.std / reference.std) / error if both and error else math.inf
    probability = normal_probability(deviations)
    return Measured(
        "standard deviation",
        probability,
        f"standard deviation {candidate.std:.4g} instead of {reference.std:.4g}, {abs(deviations):.1f} standard "
        f"errors away: p = {probability:.1e}",
    )


SAME = 0.9
"""The correlation from which the beginnings of two tensors are the same random numbers, scaled.

64 independent values reach it once in 10**23 times (Student's t of 16 with 62 degrees of freedom); equal values,
scaled, shifted or rounded, have 1.
"""


def shared(draws: dict[str, Drawn]) -> dict[tuple[str, str], float]:
    """Return pairs of tensors, the earlier first, that begin with the same random numbers, with their correlation."""
    random = {name: drawn for name, drawn in draws.items() if drawn.fixed is None and drawn.finite}
    names = [name for name, drawn in random.items() if drawn.start.size == START]
    if not names:
        return {}
    starts = np.stack([draws[name].start for name in names])
    starts -= starts.mean(1, keepdims=True)
    lengths = np.linalg.norm(starts, axis=1, keepdims=True)
    starts /= np.where(lengths > 0, lengths, 1.0)
    correlation = starts @ starts.T
    earlier, later = np.nonzero(np.triu(np.abs(correlation) > SAME, 1))
    return {(names[i], names[j]): float(correlation[i, j]) for i, j in zip(earlier, later)}
