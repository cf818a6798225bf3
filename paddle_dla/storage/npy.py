"""Arrays as ``.npy``, written such that what the system refuses is said as it says it."""

from __future__ import annotations

import os

import numpy as np


def write_npy(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Write ``array`` to ``path``. Raises ``OSError`` with its number, which ``numpy.save`` leaves out."""
    contiguous = np.asarray(array, order="C")
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(contiguous))
        file.write(contiguous.reshape(-1).view(np.uint8).data)
