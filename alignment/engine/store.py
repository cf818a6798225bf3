"""Arrays by handle: in memory up to a limit, beyond it in a temporary file that has no name. No framework."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Ref:
    """A handle of one stored array; ``Store.get`` returns it."""

    index: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Size of the array."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


class Store:
    """Keeps arrays. ``max_memory`` bytes stay in memory, what comes later goes to the file."""

    def __init__(self, max_memory: int = 256 * 2**20):
        self._room = max_memory
        self._arrays: dict[int, np.ndarray] = {}
        self._offsets: dict[int, int] = {}
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the store
        self._end = 0
        self._count = 0

    def put(self, array: np.ndarray, shared: bool = False) -> Ref:
        """Store ``array``; it is copied unless it goes to the file or the caller gives it away (``shared`` false)."""
        ref = Ref(self._count, array.shape, array.dtype.str)
        self._count += 1
        if array.nbytes <= self._room:
            self._room -= array.nbytes
            self._arrays[ref.index] = array.copy() if shared else array
        else:
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            written = 0
            while written < array.nbytes:
                written += os.pwrite(self._file.fileno(), data[written:], self._end + written)
            self._offsets[ref.index] = self._end
            self._end += array.nbytes
        return ref

    def get(self, ref: Ref) -> np.ndarray:
        """The array, to be read only."""
        if ref.index in self._arrays:
            return self._arrays[ref.index]
        array = np.empty(ref.shape, ref.dtype)
        view, done = memoryview(array.reshape(-1).view(np.uint8)), 0
        while done < array.nbytes:
            done += os.preadv(self._file.fileno(), [view[done:]], self._offsets[ref.index] + done)
        return array

    def close(self) -> None:
        """Give everything back."""
        self._arrays.clear()
        self._file.close()
