"""Example inputs of a module from a file: token ids, masks, several arguments. numpy only; nothing is unpickled."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from convert.porting.arguments import Arguments
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.npy import read_arrays
from paddle_dla.storage.values import listed

KINDS = "fiub"
"""Floating point, integers, unsigned integers, booleans."""
POSITION = re.compile(r"arr_\d+")
"""What ``numpy.savez`` calls arguments without a name."""


def read_inputs(path: str | Path) -> Arguments:
    """The arrays of a ``.npy``, or of a ``.npz`` by the names of the arguments; a list where they have none.

    Raises ``CheckpointError`` as ``read_arrays``, for arrays of other types, and for NaN.

        numpy.savez("inputs.npz", input_ids=ids, attention_mask=mask)
        read_inputs("inputs.npz")                 # {"input_ids": ..., "attention_mask": ...}
    """
    arrays = read_arrays(path)
    faults = [f"{name or 'the array'}: {fault}" for name, array in arrays.items() if (fault := _fault(array))]
    if faults or not arrays:
        raise CheckpointError(listed(f"{path} holds no inputs:", faults or ["it is empty"]))
    return [*arrays.values()] if all(not name or POSITION.fullmatch(name) for name in arrays) else arrays


def _fault(array: np.ndarray) -> str:
    if array.dtype.kind not in KINDS:
        return f"{array.dtype} is no type of an input"
    if not array.size:
        return "it has no elements"
    return "it holds NaN" if np.isnan(array).any() else ""  # a mask may hold infinity
