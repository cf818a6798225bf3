"""The same numbers in another layout: flattened, with axes in another order, grouped otherwise. No framework."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

AXES = 5
"""Arrays with more axes than that, those of length 1 not counted, are only looked at in their own order."""


def laid_out(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """``array`` in ``shape`` where one of the two is the other flattened behind the batch, else as it is.

    So a convolution over its whole input, (B, C, 1, 1), compares with a linear layer, (B, C), and a pool that keeps
    its axes with one that drops them. Anything else in another shape stays so, and is a difference.
    """
    same = array.shape[:1] == tuple(shape[:1]) and array.size == math.prod(shape)
    return array.reshape(tuple(shape)) if same and 2 in (array.ndim, len(shape)) else array


@dataclass(frozen=True)
class Layout:
    """How a port lays out a tensor of the reference: axes in the order of ``axes``, then in ``shape``.

    ``apply`` goes from the reference's layout to the port's, ``back`` the other way.
    """

    source: tuple[int, ...]
    axes: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def plain(self) -> bool:
        """Whether nothing changes."""
        return self.source == self.shape and self.axes == tuple(range(len(self.source)))

    def apply(self, array: np.ndarray) -> np.ndarray:
        """An array of the reference as the port has it."""
        return array if self.plain else array.transpose(self.axes).reshape(self.shape)

    def back(self, array: np.ndarray) -> np.ndarray:
        """An array of the port as the reference has it."""
        if self.plain:
            return array
        moved = [self.source[axis] for axis in self.axes]
        return array.reshape(moved).transpose(np.argsort(self.axes))


def plain(shape: Sequence[int]) -> Layout:
    """The layout that changes nothing."""
    return Layout(tuple(shape), tuple(range(len(shape))), tuple(shape))


def layouts(source: Sequence[int], shape: Sequence[int]) -> Iterator[Layout]:
    """Every way in which a tensor of shape ``source`` can be one of ``shape``, the plainest first.

    Of equal shapes it is that itself and no other: axes of equal length that are exchanged are a difference.
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
