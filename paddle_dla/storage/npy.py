"""Read and write ``.npy`` and ``.npz``: errors of the system are kept, and nothing is unpickled."""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from tokenize import TokenError

import numpy as np

from paddle_dla.storage.errors import UNPICKLING_ERRORS, CheckpointError
from paddle_dla.storage.regular import open_regular
from paddle_dla.storage.shown import shown

MOST = 2**30
"""Bytes of the arrays in a ``.npz``, which are not mapped: a file of a megabyte may contain a terabyte of zeros."""


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the arrays of a ``.npz`` by name; that of a ``.npy`` has the name ``""``.

    Raises ``CheckpointError`` for anything else, for Python objects, and for a ``.npz`` of more than ``MOST`` bytes.
    """
    try:
        open_regular(path).close()
        if not _is_archive(path):
            # mapped: a header that claims more than the file holds allocates no memory
            return {"": np.array(np.load(path, mmap_mode="r", allow_pickle=False))}
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size > MOST:
            raise ValueError(f"it holds {size} bytes, more than {MOST}")
        with np.load(path, allow_pickle=False) as found:
            if twice := [name for name, count in Counter(found.files).items() if count > 1]:
                raise ValueError(f"it holds {shown(twice[0])} twice")
            arrays = {name: found[name] for name in found.files}
        if others := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"{shown(others[0])} in it is no array")
        return arrays
    except (OSError, TokenError, zipfile.BadZipFile, *UNPICKLING_ERRORS) as error:
        raise CheckpointError(f"cannot read {os.fspath(path)}: {shown(error)}") from error


def _is_archive(path: str | os.PathLike[str]) -> bool:
    """Return whether ``numpy.load`` would open the file as a ``.npz``: it looks only at the first bytes."""
    with open_regular(path) as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def write_npy(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Write ``array`` to ``path``. Raises ``OSError`` with its error number, which ``numpy.save`` omits."""
    contiguous = np.asarray(array, order="C")
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(contiguous))
        file.write(contiguous.reshape(-1).view(np.uint8).data)
