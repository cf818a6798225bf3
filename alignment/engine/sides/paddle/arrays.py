"""Paddle's tensors as arrays. Paddle only."""

from __future__ import annotations

import numpy as np
import paddle


def array_of(tensor: paddle.Tensor) -> np.ndarray:
    """A copy; complex numbers as pairs of real ones, bfloat16 as float32."""
    if tensor.is_selected_rows():
        return _dense(tensor)
    tensor = paddle.as_real(tensor) if tensor.is_complex() else tensor
    return (tensor.astype("float32") if tensor.dtype == paddle.bfloat16 else tensor).numpy().copy()


def _dense(tensor: paddle.Tensor) -> np.ndarray:
    """The gradient of a sparse embedding, which holds only the rows that were looked up, some of them twice."""
    rows = tensor.value().get_selected_rows()
    found = np.array(rows.get_tensor())
    dense = np.zeros((rows.height(), *found.shape[1:]), found.dtype)
    np.add.at(dense, rows.rows(), found)
    return dense
