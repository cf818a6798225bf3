"""The memory that workers write batches to and the main process reads them from.

It is an anonymous file, shared by descriptor: it has no name that could be left behind, whoever dies, and does not
count against the size of ``/dev/shm``, which containers keep at 64 MB.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

_ALIGNMENT = 4096
# what a worker is doing, if not at a sample (whose index is 0 or more)
STARTING, WAITING, MIXING = -1, -2, -3


def anonymous_file(size: int) -> int:
    """Descriptor of a new file of ``size`` zero bytes that is gone when the last process closes it."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("paddle_dla_batches", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size)
    return descriptor


@dataclass(frozen=True)
class Layout:
    """What the shared memory holds: of each worker its state and ``slots`` batches.

    ``image_shape`` and ``image_dtype`` are of one image as handed on; ``soft_labels`` is K for labels of (B, K)
    float32, 0 for (B,) int64.
    """

    workers: int
    slots: int
    batch_size: int
    image_shape: tuple[int, ...]
    image_dtype: str
    soft_labels: int = 0

    def fields(self) -> list[tuple[tuple[int, ...], np.dtype]]:
        """Shape and type of a batch's images, labels and indices."""
        images = ((self.batch_size, *self.image_shape), np.dtype(self.image_dtype))
        labels = ((self.batch_size,), np.dtype(np.int64))
        if self.soft_labels:
            labels = ((self.batch_size, self.soft_labels), np.dtype(np.float32))
        return [images, labels, ((self.batch_size,), np.dtype(np.int64))]

    def _sizes(self) -> list[int]:
        """Bytes of each field, with what keeps the next one at a page's start."""
        raw = (math.prod(shape) * dtype.itemsize for shape, dtype in self.fields())
        return [-(-size // _ALIGNMENT) * _ALIGNMENT for size in raw]

    @property
    def _start(self) -> int:
        return -(-self.workers * 16 // _ALIGNMENT) * _ALIGNMENT

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self._start + self.workers * self.slots * sum(self._sizes())


class State(NamedTuple):
    """What a worker is at (a sample's index, or one of the states), and how often it has said so."""

    doing: int
    count: int


Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


class Slots:
    """The arrays that lie in shared memory; they stay valid as long as anyone holds them."""

    def __init__(self, layout: Layout, descriptor: int):
        self._layout = layout
        self._memory = mmap.mmap(descriptor, layout.size)
        self._states = np.frombuffer(self._memory, np.int64, layout.workers * 2).reshape(layout.workers, 2)

    def arrays(self, worker: int, slot: int) -> Arrays:
        """Images, labels and indices of one slot, each of ``batch_size``."""
        sizes = self._layout._sizes()
        offset = self._layout._start + (worker * self._layout.slots + slot) * sum(sizes)
        found = []
        for (shape, dtype), size in zip(self._layout.fields(), sizes):
            found.append(np.frombuffer(self._memory, dtype, math.prod(shape), offset).reshape(shape))
            offset += size
        return tuple(found)

    def note(self, worker: int, doing: int) -> None:
        """Say what a worker is at from now on: a sample's index, or one of the states."""
        self._states[worker] = doing, self._states[worker, 1] + 1

    def state(self, worker: int) -> State:
        """What a worker is at."""
        return State(*self._states[worker].tolist())
