"""Equivalence test of two ways of training, from runs in pairs. No framework.

A test for a significant difference passes anything that is too noisy. This test must show that the mean difference lies
within a margin: two one-sided t tests at 5 %, which means that the 90 % interval of the mean lies inside the margin.
Source: D. J. Schuirmann, "A comparison of the two one-sided tests procedure and the power approach for assessing the
equivalence of average bioavailability", 1987, https://doi.org/10.1007/BF01068419.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alignment.engine.result import ALIGNED, DIFFERS, UNDECIDED
from paddle_dla.errors import WrongValue

CONFIDENCE = 0.9
"""The confidence of the interval; each of the two tests is wrong in one of 20 cases."""

FEWEST = 3
"""The fewest pairs: with two, the interval is 4.5 times as wide as the distance of the two differences."""


@dataclass(frozen=True)
class Equivalence:
    """The mean of ``pairs`` differences, its interval from ``low`` to ``high``, and the ``margin``, in one unit."""

    pairs: int
    mean: float
    low: float
    high: float
    margin: float

    @property
    def verdict(self) -> str:
        """``aligned`` if the interval is inside the margin, ``differs`` if it is outside, else ``undecided``."""
        if -self.margin < self.low and self.high < self.margin:
            return ALIGNED
        return DIFFERS if self.low >= self.margin or self.high <= -self.margin else UNDECIDED


def equivalence(differences: Sequence[float], margin: float) -> Equivalence:
    """Test whether ``differences`` of pairs have a mean within ``margin`` of 0. Raises ``WrongValue`` for too few.

    >>> equivalence([0.1, -0.2, 0.15, 0.0], margin=0.5).verdict
    'aligned'
    """
    from scipy.special import stdtrit  # quantiles of Student's distribution

    if len(differences) < FEWEST:
        raise WrongValue(f"an interval needs {FEWEST} pairs or more, not {len(differences)}")
    if not margin > 0:
        raise WrongValue(f"the margin must be above 0, got {margin}")
    pairs, mean = len(differences), float(np.mean(differences))
    reach = stdtrit(pairs - 1, (1 + CONFIDENCE) / 2) * float(np.std(differences, ddof=1)) / pairs**0.5
    return Equivalence(pairs, mean, mean - reach, mean + reach, margin)
