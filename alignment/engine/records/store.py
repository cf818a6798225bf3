"""Store arrays by handle: in memory up to a limit, beyond it in an unnamed temporary file. No framework."""

from __future__ import annotations

import mmap
import os
import tempfile
from dataclasses import dataclass

import numpy as np

from paddle_dla.storage.atomic import write_error
from paddle_dla.storage.errors import CheckpointError

MEMORY = 64 * 2**20
"""The default number of bytes that the stores of one comparison keep in memory."""
ALIGNMENT = 64  # bytes of a cache line
STEP = 128 * 2**20  # bytes by which the file grows
RECENT = 64 * 2**20
"""The size of the cache of arrays read from the file.

A layer takes what the one before returned: two thirds of all that a comparison reads were read just before (measured on
dla60).
"""


class StoreError(CheckpointError):
    """There is no room on the disk for an array."""


@dataclass(frozen=True, eq=False)
class Ref:
    """A handle of one stored array, numbered in the order of storing; ``Store.get`` returns the array."""

    index: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """The size of the array in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


class Budget:
    """A memory budget that several stores share, with an arena of its own.

    Long-lived arrays between short-lived ones would keep the allocator from returning memory.
    """

    def __init__(self, max_memory: int = MEMORY):
        self._arena = mmap.mmap(-1, max(max_memory, 1))  # memory is used only as far as it is touched
        self._used = 0

    def keep(self, array: np.ndarray) -> np.ndarray | None:
        """Return a copy of ``array``, or ``None`` if there is no room."""
        if self._used + array.nbytes > len(self._arena):
            return None
        kept = np.frombuffer(self._arena, array.dtype, array.size, self._used).reshape(array.shape)
        np.copyto(kept, array)
        self._used += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        return kept


class Store:
    """Stores arrays in memory while the ``budget`` lasts, then in the file."""

    keeps = True
    """Whether ``get`` returns what was put."""

    def __init__(self, budget: Budget | None = None):
        self.refs: list[Ref] = []
        self._budget = budget or Budget()
        self._arrays: dict[int, np.ndarray] = {}
        self._offsets: dict[int, int] = {}
        self._recent: dict[int, np.ndarray] = {}
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the store
        self._end = self._reserved = 0

    def put(self, array: np.ndarray, like: Ref | None = None) -> Ref:
        """Store a copy of ``array``; ``like`` is used by stores that compare with another run.

        Raises ``StoreError`` where the disk has no room for it.
        """
        ref = Ref(len(self.refs), array.shape, array.dtype.str)
        self.refs.append(ref)
        kept = self._budget.keep(array)
        if kept is not None:
            self._arrays[ref.index] = kept
            return ref
        try:
            self._write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        except OSError as error:
            raise StoreError(str(write_error(f"a temporary file in {tempfile.gettempdir()}", error))) from error
        self._offsets[ref.index] = self._end
        self._end += array.nbytes
        return ref

    def _write(self, data: memoryview) -> None:
        self._reserve(self._end + data.nbytes)
        written = 0
        while written < data.nbytes:
            written += os.pwrite(self._file.fileno(), data[written:], self._end + written)

    def _reserve(self, size: int) -> None:
        """Grow the file in large steps: allocating single blocks makes writing three times as slow."""
        if size > self._reserved:
            more = max(size - self._reserved, STEP)
            os.posix_fallocate(self._file.fileno(), self._reserved, more)
            self._reserved += more

    def get(self, ref: Ref) -> np.ndarray:
        """Return the array, read-only."""
        if ref.index in self._arrays:
            return self._arrays[ref.index]
        array = self._recent.pop(ref.index, None)
        if array is None:
            array = self._read(ref)
            array.flags.writeable = False
        self._recent[ref.index] = array
        while sum(one.nbytes for one in self._recent.values()) > RECENT:
            del self._recent[next(iter(self._recent))]
        return array

    def copy(self, ref: Ref) -> np.ndarray:
        """Return a copy of the array that the caller owns."""
        return self._arrays[ref.index].copy() if ref.index in self._arrays else self._read(ref)

    def _read(self, ref: Ref) -> np.ndarray:
        array = np.empty(ref.shape, ref.dtype)
        view, done = array.reshape(-1).view(np.uint8).data, 0
        while done < array.nbytes:
            done += os.preadv(self._file.fileno(), [view[done:]], self._offsets[ref.index] + done)
        return array
