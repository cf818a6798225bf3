"""Run a Paddle layer and record every layer in it. Paddle only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import paddle

from alignment.engine.tape import ROOT, Tape, leaves


@paddle.no_grad()
def capture(layer: paddle.nn.Layer, inputs: Sequence[np.ndarray]) -> Tape:
    """The tape of ``layer(*inputs)``, in the mode and type that the layer is in; hooks are removed again.

    Floating-point inputs are cast to the type of the layer's parameters.
    """
    names = dict(layer.named_sublayers(include_self=True))
    tape = Tape({path or ROOT: type(sub).__name__ for path, sub in names.items()})
    handles = [sub.register_forward_post_hook(_recorder(tape, path or ROOT)) for path, sub in names.items()]
    try:
        layer(*(_tensor(array, layer) for array in inputs))
    finally:
        for handle in handles:
            handle.remove()
    return tape


def _tensor(array: np.ndarray, layer: paddle.nn.Layer) -> paddle.Tensor:
    dtype = next((p.dtype for p in layer.parameters()), None)
    tensor = paddle.to_tensor(array)
    return tensor.astype(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _recorder(tape: Tape, path: str) -> Callable[..., None]:
    def hook(layer: paddle.nn.Layer, inputs: object, output: object) -> None:
        arrays = [tensor.numpy().copy() for tensor in leaves(output, paddle.Tensor)]
        leaf = next(layer.children(), None) is None
        tape.add(path, type(layer).__name__, leaf, arrays)

    return hook
