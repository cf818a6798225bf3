"""Run one Paddle layer alone, on generated inputs and tensors. Paddle only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import paddle

from alignment.engine.records.tree import leaves
from alignment.engine.sides.kept import attributes_kept
from alignment.engine.sides.paddle.arrays import clear_gradients, is_tensor, run_backward
from alignment.engine.sides.paddle.borrow import every_tensor, in_type
from alignment.engine.sides.paddle.settings import is_channels_last, role_of
from alignment.engine.sides.probed import CannotProbe, Probe, Probed, directions


def prober(layer: paddle.nn.Layer) -> Probe:
    """Return ``probe`` of this layer."""
    return partial(probe, layer)


def probe(
    layer: paddle.nn.Layer, inputs: Sequence[np.ndarray], mode: str, tensors: Mapping[str, np.ndarray], backward: bool
) -> Probed:
    """Run ``layer`` as ``Probe`` describes."""
    layers = layer.sublayers(include_self=True)
    stopped = [(tensor, tensor.stop_gradient) for tensor in every_tensor(layers)]
    random, default = paddle.get_rng_state(), paddle.get_default_dtype()
    with in_type(layer, "float64"), attributes_kept(layers):
        try:
            paddle.set_default_dtype("float64")  # the dtype of the states that a recurrent cell makes
            layer.train() if mode == "train" else layer.eval()
            _put(layer, tensors)
            probed = _called(layer, inputs, backward)
            grads = {role: _like(grad, tensors[role].shape) for role, grad in probed.param_grads.items()}
            return replace(probed, param_grads=grads)
        finally:
            clear_gradients(layer)
            for tensor, stop in stopped:
                tensor.stop_gradient = stop
            paddle.set_rng_state(random)
            paddle.set_default_dtype(default)


def _own(layer: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    """Return the floating-point tensors that ``layer`` itself holds, by role."""
    own = {**layer._parameters, **layer._buffers}
    return {role_of(layer, name): t for name, t in own.items() if t is not None and t.is_floating_point()}


def _put(layer: paddle.nn.Layer, tensors: Mapping[str, np.ndarray]) -> None:
    own = _own(layer)
    if own.keys() != tensors.keys():
        raise CannotProbe(f"it has {sorted(own)} and not {sorted(tensors)}")
    for role, array in tensors.items():
        array = array.T if _is_turned(layer, role) else array
        if tuple(own[role].shape) == (1, *array.shape):
            array = array[None]  # Bilinear's bias has this shape
        if tuple(own[role].shape) != array.shape:
            raise CannotProbe(f"its {role} has shape {own[role].shape} and not {list(array.shape)}")
        paddle.assign(paddle.to_tensor(np.ascontiguousarray(array)), own[role])


def _like(grad: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return grad[0] if grad.shape == (1, *shape) else grad


def _is_state(layer: paddle.nn.Layer, role: str) -> bool:
    """Return whether a run may change the tensor; Paddle counts BatchNorm's statistics as parameters."""
    return role.startswith("running_") or role in layer._buffers


def _is_turned(layer: paddle.nn.Layer, role: str) -> bool:
    return isinstance(layer, paddle.nn.Linear) and role == "weight"


def _called(layer: paddle.nn.Layer, inputs: Sequence[np.ndarray], backward: bool) -> Probed:
    last = is_channels_last(layer)
    given = [paddle.to_tensor(_channels_behind(array) if last else array) for array in inputs]
    with paddle.set_grad_enabled(backward):
        for tensor in given:
            tensor.stop_gradient = not (backward and tensor.is_floating_point())
        # a copy: a layer may not change a leaf in place
        outputs = [*leaves(layer(*map(paddle.assign, given) if backward else given), is_tensor)]

    def turned(array: np.ndarray) -> np.ndarray:
        return _channels_first(array) if last else array

    arrays = [turned(output.numpy()) for output in outputs]
    state = {role: tensor.numpy() for role, tensor in _own(layer).items() if _is_state(layer, role)}
    if not backward:
        return Probed(arrays, state=state)
    starts = [
        (output, paddle.to_tensor(_channels_behind(start) if last else start))
        for output, start in zip(outputs, directions(arrays))
        if not output.stop_gradient
    ]
    run_backward([output for output, _ in starts], [start for _, start in starts])
    grads = [turned(_grad(tensor)) for tensor in given if tensor.is_floating_point()]
    trained = {role_of(layer, n): t for n, t in layer._parameters.items() if t is not None and not t.stop_gradient}
    by_role = {role: _grad(t).T if _is_turned(layer, role) else _grad(t) for role, t in trained.items()}
    return Probed(arrays, grads, by_role, state)


def _grad(tensor: paddle.Tensor) -> np.ndarray:
    return np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy()


def _channels_behind(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(array, 1, -1)) if array.ndim > 2 else array


def _channels_first(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(array, -1, 1)) if array.ndim > 2 else array
