"""The limits: how far a tensor of a correct port may be from the reference's, by the noise floor. No framework.

Two correct implementations add up their terms in another order and so differ by a small multiple of the noise floor
(see ``noise``). The multiple was measured over the twelve DLA networks, with fresh and with trained-like weights, two
seeds each, 17,000 tensors: at most 3.1 times in float32, 4.2 times in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from alignment.engine.judging.error import Difference
from alignment.engine.judging.noise import NOTHING, VANISHING, Noise, gradients_of
from alignment.engine.records.store import Ref
from alignment.engine.records.tape import Tape

BITS = {"float32": 24, "float64": 53}
"""Bits of significand."""

MARGIN = {
    # twice the largest measured ratio, rounded up to a power of two
    "float32": 8.0,
    # The smallest known mistake of a port in float64 is a constant kept in float32: 6e-8 relative, 10**8 times the
    # floor. The margin lies between that and the measured 4.2, near the middle of the logarithmic scale.
    "float64": 2.0**13,
}
"""The factor by which a tensor may exceed its floor."""

# The allowed difference of an isolated layer in float64, over the largest magnitude. Isolated layers inherit nothing,
# so the floor is that of one sum: 2**-53 times the root of its length (2**18 terms at most in practice), a few times.
FORWARD_LIMIT = 2.0**-53 * 2**9 * 8
# Paddle's kernels keep some constants of their backward pass in float32 also in float64 (1/49 of an average pool, 2e-8
# relative, measured); a real mistake changes a gradient far more.
BACKWARD_LIMIT = 2.0**-23

LEAKS = 4.0
"""The factor by which the port's change through float32 constants may exceed the sum of the reference's changes.

A port may have an average pool in one place and an exact one in another, and the change at one place may cancel the
change at another. In MixNet, GhostNet and PoolFormer, where pools and means differ, the ratio is 1.0 (measured).
"""
MOST_LEAKED = 2.0**-12
"""The upper bound of this allowance: a hundred times the largest measured change (2e-6, ResNet-50 in training)."""

# A vanishing tensor is small relative to the tensors recorded with it: float32 produced at most 5e-7 of the largest
# gradient (11 tensors of mobilenetv3_small_050 in training mode, with errors of up to 1e9); a thousandth is allowed.
# Where ReLUs flip, float32 loses as many digits of tensors that do not vanish: up to 0.64 of them, 1.4e-3 of the
# largest (dla169).
CANCELLED = 2.0**-10

# The remainder that float32 leaves of a cancelling sum of many terms, over the largest of them: 8 units in the last
# place (2**-24 each). It only sets the scale on which a vanishing tensor is shown; floor and error are divided by it
# alike.
TERMS = 2.0**-21

SHARE = 2.0**-7
"""The largest limit, over a tensor's own size, with which it is still judged; above it the tensor is undecided.

Of 40 faults of trainings that were injected into a small network, 38 leave an error of 2.7e-2 or more in the row where
they are largest: this is a third of it. The two others (1e-6 in a clip, a biased variance) leave 2.0e-6 and 3.6e-5, in
rows whose limit is 1e-12. In float64 no limit of GhostNet, ResNet, RegNet, DeiT or DLA was above 6e-6.
"""


@dataclass(frozen=True)
class NoiseFloor:
    """The relative error that rounding explains in ``dtype``; ``noise`` is the reference's own in float32.

    ``leaks`` is the change that constants kept in float32 by Paddle cause in the reference's gradients, ``own`` the
    change that rounding in ``dtype`` itself causes in its tensors, where these were measured. All are keyed by the
    index of the stored tensor.
    """

    dtype: str
    noise: Mapping[int, Noise]
    leaks: Mapping[int, Noise] = field(default_factory=dict)
    own: Mapping[int, Noise] = field(default_factory=dict)

    def of(self, ref: Ref) -> float:
        """Return the floor of a tensor; at least the unit roundoff, even if the reference happens to be exact."""
        scale = 2.0 ** (BITS["float32"] - BITS[self.dtype])
        error = TERMS if self.vanishes(ref) else self._of(ref).relative
        return max(error * scale, 2.0 ** -BITS[self.dtype])

    def allowed(self, ref: Ref) -> float:
        """Return the limit of a tensor: the largest relative error that rounding explains."""
        return MARGIN[self.dtype] * self.of(ref) + self._own(ref)

    def undecided(self, ref: Ref) -> str:
        """Return why a tensor cannot be judged; empty if it can."""
        share = self._own(ref)
        return f"rounding in {self.dtype} may reach {share:.0e} of its size" if share > SHARE else ""

    def _own(self, ref: Ref) -> float:
        # measured in the same dtype, so the margin is the one of float32 over its own floor
        own, scale = self.own.get(ref.index, NOTHING).error, self._scale(ref)
        return MARGIN["float32"] * own / scale if own and scale else 0.0

    def _scale(self, ref: Ref) -> float:
        return self._of(ref).error / TERMS if self.vanishes(ref) else self._of(ref).scale

    def allowed_backward(self, ref: Ref) -> float:
        """Return the limit of a gradient, including the change by Paddle's constants."""
        leak, scale = self.leaks.get(ref.index, NOTHING).error, self._scale(ref)
        return self.allowed(ref) + (min(LEAKS * leak / scale, MOST_LEAKED) if leak and scale else 0.0)

    def limits(self, ref: Ref) -> tuple[float, float]:
        """Return the floor and the limit of a tensor."""
        return self.of(ref), self.allowed(ref)

    def scaled(self, found: Difference, ref: Ref) -> Difference:
        """Return ``found`` relative to the scale by which this tensor is judged.

        The scale of a vanishing tensor is the size of the terms that it is the sum of. Rounding reveals that size: in
        float32 the sum is off by a few units in the last place of the terms (``TERMS``), however small the sum is. So a
        gradient that is zero in theory, as of a bias in front of a normalisation, is judged by its terms, and no limit
        comes near 1.
        """
        return replace(found, relative=found.max_abs / self._scale(ref)) if self.vanishes(ref) else found

    def vanishes(self, ref: Ref) -> bool:
        """Return whether the tensor is nothing but rounding."""
        return self._of(ref).relative > VANISHING

    def _of(self, ref: Ref) -> Noise:
        noise = self.noise.get(ref.index, NOTHING)
        # float32 overflowed here, so nothing was measured: use the largest error elsewhere
        return noise if np.isfinite(noise.error) else Noise(self._largest * noise.scale, noise.scale)

    @cached_property
    def _largest(self) -> float:
        """The largest relative error of tensors that do not vanish; that of a vanishing one shows only its size."""
        return max((noise.relative for noise in self.noise.values() if noise.relative <= VANISHING), default=0.0)


def credible(tape: Tape, noise: Mapping[int, Noise]) -> dict[int, Noise]:
    """Return ``noise`` in which only small tensors vanish; for others the error is reduced to a lost third bit.

    A vanishing tensor is small relative to what was recorded with it: outputs relative to outputs, gradients to
    gradients. Otherwise an edited error, or one of a chaotic float32 run, would explain any difference in float64. A
    port in float32 may be equally chaotic.
    """
    result = dict(noise)
    values = [ref for record in tape for ref in record.output_refs()]
    for refs in (values, gradients_of(tape)):
        known = {ref.index: noise[ref.index] for ref in refs if ref.index in noise}
        largest = max((found.scale for found in known.values()), default=0.0)
        for index, found in known.items():
            if found.relative > VANISHING and CANCELLED * largest < found.error < np.inf:
                result[index] = Noise(VANISHING * found.scale, found.scale)
    return result
