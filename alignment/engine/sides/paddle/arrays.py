"""Paddle's tensors as arrays. Paddle only."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import paddle


def is_tensor(value: object) -> bool:
    """Whether ``value`` is a Paddle tensor."""
    return isinstance(value, paddle.Tensor)


def is_trained(tensor: paddle.Tensor) -> bool:
    """Whether a parameter is trained."""
    return not tensor.stop_gradient


def to_numpy(tensor: paddle.Tensor) -> np.ndarray:
    """The tensor's numbers; bfloat16, which numpy lacks, exactly as float32."""
    return (tensor.astype("float32") if tensor.dtype == paddle.bfloat16 else tensor).numpy()


def as_tensor(array: np.ndarray, like: paddle.Tensor) -> paddle.Tensor:
    """``array`` in the type of ``like``."""
    return paddle.to_tensor(np.ascontiguousarray(array)).astype(like.dtype)


def set_values(values: Iterable[tuple[paddle.Tensor, paddle.Tensor]]) -> None:
    """Give each first tensor the numbers of the second."""
    with paddle.no_grad():
        for tensor, value in values:
            tensor.set_value(value)


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
