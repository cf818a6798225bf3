"""Borrow a Paddle layer: run it in other dtypes and modes, and return it exactly as it was. Paddle only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import paddle

from alignment.engine.sides.kept import attributes_kept, in_other_type
from alignment.engine.sides.model import Half, Owned, Tensors, refuse_unknown_mode
from alignment.engine.sides.paddle.arrays import clear_gradients, is_tensor
from alignment.engine.sides.paddle.settings import describe


@contextmanager
def borrow(model: paddle.nn.Layer, mode: str) -> Iterator[Half]:
    """Borrow ``model`` in ``mode``, as ``Half.of`` does; restore it at exit.

    Raises ``ValueError`` for an unknown ``mode``.
    """
    refuse_unknown_mode(mode)
    with settings_kept(), _restored(model):
        yield Half.of("Paddle", model, model.named_sublayers(include_self=True), mode, describe)


@contextmanager
def settings_kept() -> Iterator[None]:
    """Restore what a model's code may change of Paddle: its mode, default dtype, gradients and generator."""
    dtype, grad, generator = paddle.get_default_dtype(), paddle.is_grad_enabled(), paddle.get_rng_state()
    try:
        yield
    finally:
        if not paddle.in_dynamic_mode():
            paddle.disable_static()
        paddle.set_default_dtype(dtype)
        paddle.set_grad_enabled(grad)
        paddle.set_rng_state(generator)


@contextmanager
def in_type(model: paddle.nn.Layer, dtype: str) -> Iterator[None]:
    """Replace the weights, buffers and tensors in plain attributes of ``model`` by copies in ``dtype`` in this context.

    Caches are empty at the start. Integers and booleans keep their dtype (``Layer.to`` would cast them, too), and a
    layer that shares tensors with its cells (LSTM, GRU) still shares them.
    """
    layers = model.sublayers(include_self=True)
    tensors = every_tensor(layers)
    kept = [(tensor, _alias(tensor)) for tensor in tensors if tensor._is_initialized()]
    with attributes_kept(layers), _made_in(dtype):
        in_other_type(layers, is_tensor, tensors, lambda tensor: tensor.detach().astype(dtype))
        try:
            for tensor, original in kept:
                _point(tensor, _copy(original, dtype if original.is_floating_point() else None))
            yield
        finally:
            for tensor, original in kept:
                _point(tensor, original)


@contextmanager
def _made_in(dtype: str) -> Iterator[None]:
    """Create new tensors of a model (``paddle.zeros``, first states of a cell) in ``dtype`` inside the context."""
    kept = paddle.get_default_dtype()
    paddle.set_default_dtype(dtype)  # pyright: ignore[reportArgumentType] - the stub asks for literal names
    try:
        yield
    finally:
        paddle.set_default_dtype(kept)


def every_tensor(layers: list[paddle.nn.Layer]) -> list[paddle.Tensor]:
    """Return the parameters and buffers of ``layers``, each once, under any name."""
    found = {
        id(tensor): tensor
        for sub in layers
        for own in (sub._parameters, sub._buffers)
        for tensor in own.values()
        if tensor is not None
    }
    return [*found.values()]


def _alias(tensor: paddle.Tensor) -> paddle.Tensor:
    """Return another tensor over the same memory; that of ``detach`` would follow when ``tensor`` is redirected."""
    alias = paddle.empty([1], tensor.dtype)
    _point(alias, tensor)
    return alias


def _copy(tensor: paddle.Tensor, dtype: str | None) -> paddle.Tensor:
    copy = tensor.clone()
    return copy if dtype is None else copy.astype(dtype)  # pyright: ignore[reportArgumentType] - as above


def _point(tensor: paddle.Tensor, to: paddle.Tensor) -> None:
    """Give ``tensor`` the memory and dtype of ``to``; it remains the model's object."""
    tensor.value().get_tensor()._share_data_with(to.value().get_tensor())


@contextmanager
def _restored(layer: paddle.nn.Layer) -> Iterator[None]:
    """Restore modes, attributes and trained flags at exit; gradients are cleared."""
    layers = layer.sublayers(include_self=True)
    stopped = [(tensor, tensor.stop_gradient) for tensor in every_tensor(layers)]
    with attributes_kept(layers):
        try:
            yield
        finally:
            for tensor, stop in stopped:
                tensor.stop_gradient = stop
            clear_gradients(layer)


def own_tensors(layer: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    """Return the parameters and buffers that ``layer`` itself holds, by their own names."""
    own = {**layer._parameters, **layer._buffers}
    # tensors with a gradient that are no parameters come from the forward pass: the weight of weight_norm,
    # spectral_norm
    made = [name for name, v in own.items() if v is None or not (v.stop_gradient or hasattr(v, "trainable"))]
    return {name: value for name, value in own.items() if name not in made}


def own_arrays(model: paddle.nn.Layer) -> Tensors:
    """Return all tensors by full name. BatchNorm's statistics, which Paddle counts as parameters, are buffers here."""
    return Tensors.of(_owned(model), lambda tensor: tensor.numpy().copy())


def _owned(model: paddle.nn.Layer) -> Iterator[Owned]:
    for path, sub in _all_sublayers(model):
        for own, counted in ((sub._parameters, True), (sub._buffers, False)):
            for role, value in own.items():
                if value is not None and value._is_initialized():
                    is_parameter = counted and role not in ("_mean", "_variance")
                    name = f"{path}.{role}" if path else role
                    yield Owned(name, value, is_parameter, is_parameter and not value.stop_gradient)


def _all_sublayers(layer: paddle.nn.Layer, path: str = "") -> Iterator[tuple[str, paddle.nn.Layer]]:
    """Yield every layer by all of its names."""
    yield path, layer
    for name, sub in layer._sub_layers.items():
        if sub is not None:
            yield from _all_sublayers(sub, f"{path}.{name}" if path else name)
