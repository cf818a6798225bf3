"""Fingerprints of values: find the layer of the port that is called with the same values. No framework."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from alignment.engine.records.tree import leaves
from convert.matching.derive import Proposal
from convert.matching.items import PARAMETER

AGREE = 2.0**-20
"""The relative difference up to which values agree.

Constants that Paddle keeps in float32 cause 3e-7 (its resizing with aligned corners); layers with weights that are
exchanged for one another cause more than 1e-3.
"""


@dataclass(frozen=True)
class Print:
    """A fingerprint of a tensor that does not depend on its layout: size and moments of its elements.

    ``order`` is a sum in which each element is weighted by its position; it compares tensors of one ``shape``.
    """

    shape: tuple[int, ...]
    moments: tuple[float, ...]
    order: float

    @classmethod
    def of(cls, array: np.ndarray) -> Print:
        """Return the fingerprint of a tensor of any dtype; complex elements count as two."""
        values = np.ascontiguousarray(array)
        values = (values.view(np.float64) if np.iscomplexobj(values) else values.astype(np.float64)).ravel()
        if not values.size:
            return cls(array.shape, (0.0, 0.0, 0.0), 0.0)
        square = values * values
        size = float(np.sqrt(square.mean()))
        moments = (size, float(values.mean()) / (size or 1), float((square * values).mean()) / (size**3 or 1))
        return cls(array.shape, moments, float((_weights(values.size) * values).sum()) / (size or 1))

    def agrees(self, other: Print) -> bool:
        """Return whether both are of the same values, each to ``AGREE``; NaN agrees with nothing."""
        if np.prod(self.shape) != np.prod(other.shape):
            return False
        size, mean, cube = zip(self.moments, other.moments)
        near = abs(size[0] - size[1]) <= AGREE * max(size)
        # a relative error e of each element moves the mean by up to e, the mean cube by three times the mean |cube|
        near = near and abs(mean[0] - mean[1]) <= 2 * AGREE
        near = near and abs(cube[0] - cube[1]) <= 8 * AGREE * max(1, *map(abs, cube))
        if near and self.shape == other.shape:
            near = abs(self.order - other.order) <= AGREE * np.sqrt(np.prod(self.shape)) * 4
        return bool(near)


def _weights(size: int) -> np.ndarray:
    """Return a weight for each position: no two are equal, and none is near 0 for long."""
    return _many_weights(1 << (size - 1).bit_length())[:size]


@lru_cache(maxsize=4)
def _many_weights(size: int) -> np.ndarray:
    return np.cos(np.arange(size) * np.sqrt(2.0))  # an irrational step


def prints(value: Any, is_tensor: Callable[[Any], bool], to_numpy: Callable[[Any], np.ndarray]) -> list[Print]:
    """Return the fingerprints of all tensors in arguments or outputs of a call."""
    return [Print.of(to_numpy(tensor)) for tensor in leaves(value, is_tensor)]


def same(mine: Sequence[Print], yours: Sequence[Print]) -> bool:
    """Return whether both calls have the same values, one by one."""
    return len(mine) == len(yours) and all(a.agrees(b) for a, b in zip(mine, yours))


@dataclass
class Recorded:
    """The reference's run: the inputs and outputs of each call by path, and the order of first calls."""

    order: list[str] = field(default_factory=list)
    inputs: dict[str, list[list[Print]]] = field(default_factory=lambda: defaultdict(list))
    outputs: dict[str, list[list[np.ndarray]]] = field(default_factory=lambda: defaultdict(list))
    result: list[np.ndarray] = field(default_factory=list)


def together(reference: Recorded, proposal: Proposal) -> list[list[str]]:
    """Group the reference's layers that are called with the same values, or that one tensor packs."""
    groups: dict[Any, list[str]] = defaultdict(list)
    for key, item in proposal.torch.items():
        calls = reference.inputs.get(item.path)
        if item.packed:
            groups[item.path].append(key)
        if calls and item.kind != PARAMETER:
            groups[tuple(calls[0])].append(key)
    return [*groups.values()]
