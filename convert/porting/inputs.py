"""Example inputs of a module from a file: token ids, masks, several arguments. numpy only; nothing is unpickled."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from tokenize import TokenError

import numpy as np

from paddle_dla.storage.errors import UNPICKLING_ERRORS, CheckpointError
from paddle_dla.storage.regular import open_regular
from paddle_dla.storage.shown import shown
from paddle_dla.storage.values import listed

MOST = 2**30
"""Bytes of all arrays: inputs of a comparison in float64, beside which both models have to fit."""
KINDS = "fiub"
"""Floating point, integers, unsigned integers, booleans."""
POSITION = re.compile(r"arr_\d+")
"""What ``numpy.savez`` calls arguments without a name."""


Arrays = list[np.ndarray] | dict[str, np.ndarray]
"""Arguments in order, or by name."""


def read_inputs(path: str | Path) -> Arrays:
    """The arrays of a ``.npy``, or of a ``.npz`` by the names of the arguments; a list where they have none.

    Raises ``CheckpointError`` for anything else, for NaN, and for more than ``MOST`` bytes.

        numpy.savez("inputs.npz", input_ids=ids, attention_mask=mask)
        read_inputs("inputs.npz")                 # {"input_ids": ..., "attention_mask": ...}
    """
    try:
        open_regular(path).close()
        arrays = _arrays(path)
    except (OSError, TokenError, zipfile.BadZipFile, *UNPICKLING_ERRORS) as error:
        raise CheckpointError(f"cannot read {path}: {shown(error)}") from error
    faults = [f"{name or 'the array'}: {fault}" for name, array in arrays.items() if (fault := _fault(array))]
    if faults or not arrays:
        raise CheckpointError(listed(f"{path} holds no inputs:", faults or ["it is empty"]))
    return [*arrays.values()] if all(not name or POSITION.fullmatch(name) for name in arrays) else arrays


def _arrays(path: str | Path) -> dict[str, np.ndarray]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size > MOST:
            raise ValueError(f"it holds {size} bytes, more than {MOST}")
        with np.load(path, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    # mapped, so that a header that promises more than the file holds takes no memory
    return {"": np.array(np.load(path, mmap_mode="r", allow_pickle=False))}


def _fault(array: np.ndarray) -> str:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in KINDS:
        return f"{getattr(array, 'dtype', type(array).__name__)} is no type of an input"
    if not array.size:
        return "it has no elements"
    return "it holds NaN" if np.isnan(array).any() else ""  # a mask may hold infinity
