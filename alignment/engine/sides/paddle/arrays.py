"""Convert Paddle tensors to arrays. Paddle only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
import paddle


def is_tensor(value: object) -> bool:
    """Return whether ``value`` is a Paddle tensor."""
    return isinstance(value, paddle.Tensor)


def is_trained(tensor: paddle.Tensor) -> bool:
    """Return whether a parameter is trained."""
    return not tensor.stop_gradient


def to_numpy(tensor: paddle.Tensor) -> np.ndarray:
    """Return the tensor's values; bfloat16, which numpy lacks, exactly as float32."""
    return (tensor.astype("float32") if tensor.dtype == paddle.bfloat16 else tensor).numpy()


def as_tensor(array: np.ndarray, like: paddle.Tensor) -> paddle.Tensor:
    """Convert ``array`` to a tensor in the dtype of ``like``."""
    return paddle.to_tensor(np.ascontiguousarray(array)).astype(like.dtype)


def set_values(values: Iterable[tuple[paddle.Tensor, paddle.Tensor]]) -> None:
    """Set each first tensor to the values of the second."""
    with paddle.no_grad():
        for tensor, value in values:
            tensor.set_value(value)


def array_of(tensor: paddle.Tensor) -> np.ndarray:
    """Return a copy; complex numbers as pairs of real ones, bfloat16 as float32."""
    if tensor.is_selected_rows():
        return _dense(tensor)
    tensor = paddle.as_real(tensor) if tensor.is_complex() else tensor
    return (tensor.astype("float32") if tensor.dtype == paddle.bfloat16 else tensor).numpy().copy()


def _dense(tensor: paddle.Tensor) -> np.ndarray:
    """Convert a sparse embedding's gradient, which holds only the looked-up rows, some of them twice, to dense."""
    rows = cast(Any, tensor.value().get_selected_rows())  # Paddle's stub says None
    found = np.array(rows.get_tensor())
    dense = np.zeros((rows.height(), *found.shape[1:]), found.dtype)
    np.add.at(dense, rows.rows(), found)
    return dense


def run_backward(
    roots: Sequence[paddle.Tensor], gradients: Sequence[paddle.Tensor], retain_graph: bool = False
) -> None:
    """Propagate ``gradients`` from copies of ``roots``, since Paddle 2.6 fails if one root is computed from another."""
    apart = [paddle.assign(root) for root in roots] if len(roots) > 1 else [*roots]
    paddle.autograd.backward(apart, [*gradients], retain_graph=retain_graph)


def clear_gradients(layer: paddle.nn.Layer) -> None:
    """Remove all gradients; ``Layer.clear_gradients`` of Paddle 2.6 sets them to 0 instead."""
    for parameter in layer.parameters():
        parameter.clear_gradient(False)  # set_to_zero, which is ignored as a keyword
