"""A Paddle layer, borrowed: run in other types and modes, and given back exactly as it was. Paddle only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import paddle

from alignment.engine.records.tape import ROOT
from alignment.engine.sides.model import Half, mixed_modes, refuse_unknown_mode
from alignment.engine.sides.paddle import settings as settings_paddle
from alignment.engine.sides.paddle.capture import state_tensors


@contextmanager
def borrow_paddle(layer: paddle.nn.Layer, mode: str, trained: bool = False) -> Iterator[Half]:
    """``layer`` in ``mode``, as ``borrow_torch`` has it; ``trained`` says that its parameters will change, too.

    Raises ``ValueError`` for an unknown ``mode``, and for a model with weights of several floating-point types.
    """
    refuse_unknown_mode(mode)
    kept = paddle.get_rng_state()
    try:
        with _restored(layer, trained):
            layers = {path or ROOT: sub for path, sub in layer.named_sublayers(include_self=True)}
            notes = mixed_modes("Paddle", layers.values())
            if not notes:
                layer.train() if mode == "train" else layer.eval()
            half = Half(layers, {path: settings_paddle.describe(sub) for path, sub in layers.items()}, notes)
            half.switch_dropout_off()
            yield half
    finally:
        paddle.set_rng_state(kept)


@contextmanager
def _restored(layer: paddle.nn.Layer, trained: bool) -> Iterator[None]:
    layers = layer.sublayers(include_self=True)
    modes = [sub.training for sub in layers]
    state = layer.state_dict()
    types = {value.dtype for value in state.values() if value.is_floating_point()}
    if len(types) > 1:
        raise ValueError(f"the Paddle model has weights of several types: {', '.join(sorted(map(str, types)))}")
    # parameters come back from float64 as they were; buffers change, and float64 itself may have been narrowed
    narrowed = paddle.float64 in types
    kept = {name: value.numpy().copy() for name, value in state.items() if value.stop_gradient or narrowed or trained}
    try:
        yield
    finally:
        for sub, training in zip(layers, modes):
            sub.training = training
        if types:
            layer.to(dtype=types.pop())
        for name, value in layer.state_dict().items():
            if name in kept:
                value.set_value(kept[name])
        layer.clear_gradients(set_to_zero=False)


@contextmanager
def state_restored(layer: paddle.nn.Layer) -> Iterator[None]:
    """Leave the buffers of ``layer`` as they were."""
    kept = [(value, value.numpy().copy()) for value in state_tensors(layer).values()]
    try:
        yield
    finally:
        for value, array in kept:
            value.set_value(array)


def paddle_tensors(layer: paddle.nn.Layer) -> dict[str, np.ndarray]:
    """A layer's own parameters and buffers by name, a linear layer's weight as torch lays it out."""
    own = {**layer._parameters, **layer._buffers}
    arrays = {name: value.numpy().copy() for name, value in own.items() if value is not None}
    if isinstance(layer, paddle.nn.Linear):
        arrays["weight"] = arrays["weight"].T.copy()
    return arrays
