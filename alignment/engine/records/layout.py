"""Match arrays with the same numbers in another layout: flattened, permuted or regrouped axes. No framework."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

AXES = 5
"""Arrays with more axes, not counting those of length 1, are compared only in their own order."""


def laid_out(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Reshape ``array`` to ``shape`` if one is the other flattened behind the batch, else return it unchanged.

    So a convolution over its whole input, (B, C, 1, 1), compares with a linear layer, (B, C), and a pool that keeps its
    axes with one that drops them. Any other shape stays, and is a difference.
    """
    same = array.shape[:1] == tuple(shape[:1]) and array.size == math.prod(shape)
    return array.reshape(tuple(shape)) if same and 2 in (array.ndim, len(shape)) else array


@dataclass(frozen=True)
class Layout:
    """A port's layout of a reference tensor: axes in the order of ``axes``, then reshaped to ``shape``.

    ``apply`` converts from the reference's layout to the port's, ``back`` the other way.
    """

    source: tuple[int, ...]
    axes: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def plain(self) -> bool:
        """Whether the layout changes nothing."""
        return self.source == self.shape and self.axes == tuple(range(len(self.source)))

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Convert an array from the reference's layout to the port's."""
        return array if self.plain else array.transpose(self.axes).reshape(self.shape)

    def back(self, array: np.ndarray) -> np.ndarray:
        """Convert an array from the port's layout to the reference's."""
        if self.plain:
            return array
        moved = [self.source[axis] for axis in self.axes]
        return array.reshape(moved).transpose(np.argsort(self.axes))


def plain(shape: Sequence[int]) -> Layout:
    """Return the layout that changes nothing."""
    return Layout(tuple(shape), tuple(range(len(shape))), tuple(shape))


def layouts(source: Sequence[int], shape: Sequence[int]) -> Iterator[Layout]:
    """Yield every layout from shape ``source`` to ``shape``, the plainest first.

    For equal shapes only the identity is returned: swapped axes of equal length are a difference.
    """
    source, shape = tuple(source), tuple(shape)
    if source == shape:
        yield plain(source)
        return
    if math.prod(source) != math.prod(shape):
        return
    yield Layout(source, tuple(range(len(source))), shape)
    long = [axis for axis, size in enumerate(source) if size > 1]
    if len(long) > AXES:
        return
    for order in permutations(long):
        if list(order) != long:
            short = [axis for axis in range(len(source)) if source[axis] <= 1]
            yield Layout(source, (*short, *order), shape)
