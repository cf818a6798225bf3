"""What a layer did alone with inputs that were made for it. No framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Probed:
    """What came of one call of a layer.

    ``outputs`` are its tensors in order, ``input_grads`` belong to its floating-point inputs, in order, and
    ``param_grads`` to its parameters by role; gradients start from ``directions``. ``state`` are the buffers that the
    call left, by role. Everything that is laid out otherwise in Paddle is laid out as in torch.
    """

    outputs: Sequence[np.ndarray]
    input_grads: Sequence[np.ndarray] = ()
    param_grads: Mapping[str, np.ndarray] = field(default_factory=dict)
    state: Mapping[str, np.ndarray] = field(default_factory=dict)


Probe = Callable[[Sequence[np.ndarray], str, Mapping[str, np.ndarray], bool], Probed]
"""``(inputs, mode, tensors by role, backward)``: one layer run in float64, and given back as it came.

Raises what the layer raises, and ``CannotProbe`` where it has no such tensors.
"""


class CannotProbe(ValueError):
    """The layer does not take the tensors that it was to be run with."""


def directions(outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Where gradients start: the same numbers for outputs of the same shapes."""
    rng = np.random.RandomState(len(outputs))
    return [rng.standard_normal(output.shape) for output in outputs]
