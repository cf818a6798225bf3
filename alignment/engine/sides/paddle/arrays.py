"""Paddle's tensors as arrays. Paddle only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

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
    rows = cast(Any, tensor.value().get_selected_rows())  # Paddle's stub says None
    found = np.array(rows.get_tensor())
    dense = np.zeros((rows.height(), *found.shape[1:]), found.dtype)
    np.add.at(dense, rows.rows(), found)
    return dense


def run_backward(
    roots: Sequence[paddle.Tensor], gradients: Sequence[paddle.Tensor], retain_graph: bool = False
) -> None:
    """Propagate ``gradients`` from ``roots``; of copies, since Paddle 2.6 fails where one root is made from another."""
    apart = [paddle.assign(root) for root in roots] if len(roots) > 1 else [*roots]
    paddle.autograd.backward(apart, [*gradients], retain_graph=retain_graph)


def clear_gradients(layer: paddle.nn.Layer) -> None:
    """Let no parameter have a gradient; ``Layer.clear_gradients`` of Paddle 2.6 sets them to 0, which is one."""
    for parameter in layer.parameters():
        parameter.clear_gradient(False)  # set_to_zero, which is ignored as a keyword
