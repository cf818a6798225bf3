"""A Paddle layer, borrowed: run in other types and modes, and given back exactly as it was. Paddle only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import paddle

from alignment.engine.records.tape import ROOT
from alignment.engine.sides.kept import attributes_kept, emptied_caches, plain_tensors
from alignment.engine.sides.model import Half, mixed_modes, refuse_unknown_mode
from alignment.engine.sides.paddle.capture import is_tensor
from alignment.engine.sides.paddle.settings import describe


@contextmanager
def borrow_paddle(layer: paddle.nn.Layer, mode: str) -> Iterator[Half]:
    """``layer`` in ``mode``, as ``borrow_torch`` has it.

    Raises ``ValueError`` for an unknown ``mode``.
    """
    refuse_unknown_mode(mode)
    kept = paddle.get_rng_state()
    try:
        with _restored(layer):
            layers = {path or ROOT: sub for path, sub in layer.named_sublayers(include_self=True)}
            notes = mixed_modes("Paddle", layers.values())
            if not notes:
                layer.train() if mode == "train" else layer.eval()
            half = Half(layers, {path: describe(sub) for path, sub in layers.items()}, notes)
            half.switch_dropout_off()
            yield half
    finally:
        paddle.set_rng_state(kept)


@contextmanager
def paddle_in(layer: paddle.nn.Layer, dtype: str) -> Iterator[None]:
    """Within it the weights and buffers of ``layer`` are copies in ``dtype``, and so are tensors in plain attributes.

    Caches are empty at the start. Integers and booleans stay what they are, which ``Layer.to`` does not grant (it
    casts them, too), and a layer that shares tensors with its cells (LSTM, GRU) goes on sharing them.
    """
    layers = layer.sublayers(include_self=True)
    tensors = own_tensors(layers)
    kept = [(tensor, _alias(tensor)) for tensor in tensors if tensor._is_initialized()]
    with attributes_kept(layers), _made_in(dtype):
        emptied_caches(layers)
        for holder, key, tensor in [*plain_tensors(layers, is_tensor, tensors)]:
            if tensor.is_floating_point():
                holder[key] = tensor.detach().astype(dtype)
        try:
            for tensor, original in kept:
                _point(tensor, _copy(original, dtype if original.is_floating_point() else None))
            yield
        finally:
            for tensor, original in kept:
                _point(tensor, original)


@contextmanager
def _made_in(dtype: str) -> Iterator[None]:
    """Within it tensors that a model makes on the way (``paddle.zeros``, first states of a cell) are of ``dtype``."""
    kept = paddle.get_default_dtype()
    paddle.set_default_dtype(dtype)
    try:
        yield
    finally:
        paddle.set_default_dtype(kept)


def own_tensors(layers: list[paddle.nn.Layer]) -> list[paddle.Tensor]:
    """Parameters and buffers of ``layers``, each once, whatever names it goes by."""
    found = {
        id(tensor): tensor
        for sub in layers
        for own in (sub._parameters, sub._buffers)
        for tensor in own.values()
        if tensor is not None
    }
    return [*found.values()]


def _alias(tensor: paddle.Tensor) -> paddle.Tensor:
    """Another tensor over the same memory; what ``detach`` returns would follow ``tensor`` when it is pointed away."""
    alias = paddle.empty([1], tensor.dtype)
    _point(alias, tensor)
    return alias


def _copy(tensor: paddle.Tensor, dtype: str | None) -> paddle.Tensor:
    copy = tensor.clone()
    return copy if dtype is None else copy.astype(dtype)


def _point(tensor: paddle.Tensor, to: paddle.Tensor) -> None:
    """Let ``tensor`` hold the memory and type of ``to``; it stays the object that the model knows."""
    tensor.value().get_tensor()._share_data_with(to.value().get_tensor())


@contextmanager
def _restored(layer: paddle.nn.Layer) -> Iterator[None]:
    """Modes, attributes and what is trained; gradients are cleared."""
    layers = layer.sublayers(include_self=True)
    stopped = [(tensor, tensor.stop_gradient) for tensor in own_tensors(layers)]
    with attributes_kept(layers):
        try:
            yield
        finally:
            for tensor, stop in stopped:
                tensor.stop_gradient = stop
            layer.clear_gradients(set_to_zero=False)


def own_arrays(
    layer: paddle.nn.Layer,
) -> tuple[dict[str, np.ndarray], frozenset[str], frozenset[str], dict[str, str]]:
    """All tensors by full name, the names of trained ones, of parameters, and other names of the same tensors.

    BatchNorm's statistics, which Paddle counts as parameters, are buffers here.
    """
    first: dict[int, str] = {}
    arrays, trained, parameters, alias = {}, set(), set(), {}
    for path, sub in _all_sublayers(layer):
        for own, is_parameter in ((sub._parameters, True), (sub._buffers, False)):
            for role, value in own.items():
                if value is None or not value._is_initialized():
                    continue
                name = f"{path}.{role}" if path else role
                if first.setdefault(id(value), name) != name:
                    alias[name] = first[id(value)]
                arrays[name] = value.numpy().copy()
                if is_parameter and role not in ("_mean", "_variance"):
                    parameters.add(name)
                    if not value.stop_gradient:
                        trained.add(name)
    return arrays, frozenset(trained), frozenset(parameters), alias


def _all_sublayers(layer: paddle.nn.Layer, path: str = "") -> Iterator[tuple[str, paddle.nn.Layer]]:
    """Every layer by every name that it goes by."""
    yield path, layer
    for name, sub in layer._sub_layers.items():
        if sub is not None:
            yield from _all_sublayers(sub, f"{path}.{name}" if path else name)
