"""Read example inputs of a module from a file: token ids, masks, several arguments. numpy only, without pickle."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from convert.porting.arguments import Arguments
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.npy import read_arrays
from paddle_dla.storage.values import listed

TYPES = {"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"}
"""Types that both frameworks support."""
POSITION = re.compile(r"(?:arr_(?:0|[1-9][0-9]{0,8}))?")
"""Names that ``numpy.savez`` gives to unnamed arguments, and ``read_arrays`` to the array of a ``.npy``."""


def read_inputs(path: str | Path) -> Arguments:
    """Read the arrays of a ``.npy``, or of a ``.npz`` by argument name. Returns a list if the arrays have no names.

    The arrays are in native byte order. Raises ``CheckpointError`` like ``read_arrays``, and for unsupported types,
    empty arrays and NaN.

        numpy.savez("inputs.npz", input_ids=ids, attention_mask=mask)
        read_inputs("inputs.npz")                 # {"input_ids": ..., "attention_mask": ...}
    """
    found = read_arrays(path)
    arrays = {name: array.astype(array.dtype.newbyteorder("="), copy=False) for name, array in found.items()}
    faults = [f"{name or 'the array'}: {fault}" for name, array in arrays.items() if (fault := _fault(array))]
    if faults or not arrays:
        raise CheckpointError(listed(f"{path} has no valid inputs:", faults or ["it is empty"]))
    return arrays if not all(map(POSITION.fullmatch, arrays)) else _in_order(arrays, path)


def _in_order(arrays: Mapping[str, np.ndarray], path: str | Path) -> list[np.ndarray]:
    """Return unnamed arrays in the order of their numbers. Raises ``CheckpointError`` if one is missing."""
    numbers = {int(name.removeprefix("arr_") or 0): array for name, array in arrays.items()}
    if missing := [f"arr_{number}: missing" for number in range(len(arrays)) if number not in numbers]:
        raise CheckpointError(listed(f"{path} does not hold all inputs:", missing))
    return [numbers[number] for number in range(len(arrays))]


def _fault(array: np.ndarray) -> str:
    if array.dtype.name not in TYPES:
        return f"{array.dtype} is no type of an input"
    if not array.size:
        return "it has no elements"
    return "it holds NaN" if np.isnan(array).any() else ""  # a mask may hold infinity
