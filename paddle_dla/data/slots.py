"""The shared memory that workers write batches to and the main process reads them from.

It is an anonymous file, shared by descriptor. It has no name that could be left behind when a process dies, and does
not count against the size of ``/dev/shm``, which containers limit to 64 MB.
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
# states of a worker that is not at a sample (whose index is 0 or more)
STARTING, WAITING, MIXING = -1, -2, -3


def anonymous_file(size: int) -> int:
    """Return a descriptor of a new file of ``size`` zero bytes, which is deleted when the last process closes it."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("paddle_dla_batches", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size)
    return descriptor


@dataclass(frozen=True)
class Layout:
    """Layout of the shared memory: for each worker its state and ``slots`` batches.

    ``image_shape`` and ``image_dtype`` are those of one image in a finished batch. ``soft_labels`` is K for labels of
    (B, K) float32, 0 for (B,) int64.
    """

    workers: int
    slots: int
    batch_size: int
    image_shape: tuple[int, ...]
    image_dtype: str
    soft_labels: int = 0

    def fields(self) -> list[tuple[tuple[int, ...], np.dtype]]:
        """Return shape and type of a batch's images, labels and indices."""
        images = ((self.batch_size, *self.image_shape), np.dtype(self.image_dtype))
        labels = ((self.batch_size,), np.dtype(np.int64))
        if self.soft_labels:
            labels = ((self.batch_size, self.soft_labels), np.dtype(np.float32))
        return [images, labels, ((self.batch_size,), np.dtype(np.int64))]

    def _sizes(self) -> list[int]:
        """Return the bytes of each field, padded so that the next one starts on a page boundary."""
        raw = (math.prod(shape) * dtype.itemsize for shape, dtype in self.fields())
        return [-(-size // _ALIGNMENT) * _ALIGNMENT for size in raw]

    @property
    def _start(self) -> int:
        return -(-self.workers * 16 // _ALIGNMENT) * _ALIGNMENT

    @property
    def size(self) -> int:
        """Total size in bytes."""
        return self._start + self.workers * self.slots * sum(self._sizes())


class State(NamedTuple):
    """State of a worker (a sample's index, or one of the states), and how many times it was set."""

    doing: int
    count: int


Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


class Slots:
    """Arrays in shared memory; they stay valid as long as anything references them."""

    def __init__(self, layout: Layout, descriptor: int):
        self._layout = layout
        self._memory = mmap.mmap(descriptor, layout.size)
        self._states = np.frombuffer(self._memory, np.int64, layout.workers * 2).reshape(layout.workers, 2)

    def arrays(self, worker: int, slot: int) -> Arrays:
        """Return images, labels and indices of one slot, each of length ``batch_size``."""
        sizes = self._layout._sizes()
        offset = self._layout._start + (worker * self._layout.slots + slot) * sum(sizes)
        found = []
        for (shape, dtype), size in zip(self._layout.fields(), sizes):
            found.append(np.frombuffer(self._memory, dtype, math.prod(shape), offset).reshape(shape))
            offset += size
        return tuple(found)

    def note(self, worker: int, doing: int) -> None:
        """Set the state of a worker: a sample's index, or one of the states."""
        self._states[worker] = doing, self._states[worker, 1] + 1

    def state(self, worker: int) -> State:
        """Return the state of a worker."""
        return State(*self._states[worker].tolist())
