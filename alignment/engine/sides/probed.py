"""The result of an isolated layer on generated inputs. No framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Probed:
    """The result of one call of a layer.

    ``outputs`` are its tensors in order, ``input_grads`` belong to its floating-point inputs, in order, and
    ``param_grads`` to its parameters by role; gradients start from ``directions``. ``state`` are the buffers after the
    call, by role. Everything is in torch's layout.
    """

    outputs: Sequence[np.ndarray]
    input_grads: Sequence[np.ndarray] = ()
    param_grads: Mapping[str, np.ndarray] = field(default_factory=dict)
    state: Mapping[str, np.ndarray] = field(default_factory=dict)


Probe = Callable[[Sequence[np.ndarray], str, Mapping[str, np.ndarray], bool], Probed]
"""``(inputs, mode, tensors by role, backward)``: runs one layer in float64 and returns it as it came.

Raises the layer's exceptions, and ``CannotProbe`` if the layer has no such tensors.
"""


class CannotProbe(ValueError):
    """The layer cannot run with the given tensors."""


def directions(outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the starts of gradients: the same numbers for outputs of the same shapes."""
    rng = np.random.RandomState(len(outputs))
    return [rng.standard_normal(output.shape) for output in outputs]
