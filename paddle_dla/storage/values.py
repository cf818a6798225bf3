"""Check that arrays can be weights: float32, finite, no negative variance. numpy only.

A network does not show such defects: on a CPU, Paddle's ReLU turns NaN into 0, so the logits after a NaN are finite and
wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from paddle_dla.storage.errors import CheckpointError

VARIANCE = "_variance"
"""Suffix of the names of BatchNorm's running variances."""
SHOWN = 20
"""Faults that a message lists; files have hundreds of tensors, and a wrong one often has a fault in each."""


def widened(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return ``arrays`` as float32 if that represents every value: float16 always, float64 if nothing is rounded.

    Arrays that would change are returned as they are; ``refuse_unusable`` reports them.
    """
    return {name: _widened(array) for name, array in arrays.items()}


def _widened(array: np.ndarray) -> np.ndarray:
    native = array.dtype.newbyteorder("=")
    if native not in (np.float16, np.float32, np.float64):
        return array
    with np.errstate(over="ignore", under="ignore"):
        found = array.astype(np.float32, copy=False)
    return found if native != np.float64 or np.array_equal(found, array, equal_nan=True) else array


def refuse_unusable(arrays: Mapping[str, np.ndarray], source: str, tables: Mapping[str, str] | None = None) -> None:
    """Raise ``CheckpointError`` with every array that cannot be a weight, and the reason; ``source`` is their file.

    ``tables`` is ``{name: type}`` of arrays that are not weights, such as indices, and therefore have another type.
    """
    found = ((name, _fault(name, array, (tables or {}).get(name))) for name, array in arrays.items())
    faults = [f"{name}: {fault}" for name, fault in found if fault]
    if faults:
        raise CheckpointError(listed(f"{source} holds what no weight can be; convert or train again:", faults))


def refuse_non_finite(arrays: Mapping[str, np.ndarray], source: str) -> None:
    """Raise ``CheckpointError`` with every array that contains NaN or infinity, of any type."""
    faults = [f"{name}: {fault}" for name, array in arrays.items() if (fault := non_finite(array))]
    if faults:
        raise CheckpointError(listed(f"{source} is not finite; take an older checkpoint:", faults))


def _fault(name: str, array: np.ndarray, table: str | None = None) -> str:
    if table is not None:
        if array.dtype.name != table:
            return f"of type {array.dtype.name}, the model's is {table}"
        return f"{count} NaN" if (count := np.isnan(array).sum()) else ""  # a mask may contain infinity
    if array.dtype == np.float64:
        return "float64 that float32 does not hold exactly; save it as float32"
    if array.dtype != np.float32:
        return f"of type {array.dtype.name}, a weight is float32"
    if fault := non_finite(array):
        return fault
    negative = int((array < 0).sum()) if name.endswith(VARIANCE) else 0
    return f"{negative} of {array.size} variances are negative" if negative else ""


def below_normal(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Return the weights whose values are all 0 or below float32's smallest normal number, and not all 0.

    Some engines compute with such numbers, others treat them as 0. Single ones beside larger ones do not matter; weight
    decay produces many.
    """
    least = np.finfo(np.float32).tiny
    largest = {name: np.abs(array).max() for name, array in arrays.items() if array.dtype.kind == "f" and array.size}
    return [name for name, value in largest.items() if 0 < value < least]


def non_finite(array: np.ndarray) -> str:
    """Describe the number of NaN and infinities; empty if there are none."""
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return ""
    return f"{int(np.isnan(array).sum())} NaN and {int(np.isinf(array).sum())} infinite of {array.size} values"


def listed(head: str, faults: list[str]) -> str:
    """Return a message with one line for each fault, limited to the first ``SHOWN``."""
    rest = [f"... and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
    return "\n  ".join([head, *faults[:SHOWN], *rest])
