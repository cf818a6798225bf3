"""The two models, borrowed: run in other types and modes, and given back exactly as they were.

They are not copied, since a port may hold references to its own layers (a ``forward`` that was replaced, a hook), and
these would lead from the copy back to the original.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import paddle
import torch

from alignment.engine import settings_paddle, settings_torch
from alignment.engine.capture_paddle import state_tensors
from alignment.engine.settings import Settings
from alignment.engine.tape import ROOT
from convert.key_map import DROPPED, RENAMED


@dataclass
class Borrowed:
    """Both models, their layers by path and what each was set to do when they came."""

    torch_module: torch.nn.Module
    paddle_layer: paddle.nn.Layer
    reference: dict[str, torch.nn.Module]
    port: dict[str, paddle.nn.Layer]
    reference_settings: dict[str, Settings]
    port_settings: dict[str, Settings]
    notes: dict[str, str]

    def add(self, path: str, torch_module: torch.nn.Module, paddle_layer: paddle.nn.Layer, category: str) -> None:
        """Count two layers beside the models among theirs, as ``path``, of a kind that is a ``category`` of its own."""
        self.reference[path], self.port[path] = torch_module, paddle_layer
        self.reference_settings[path] = self.port_settings[path] = Settings(category)

    def reference_leaves(self) -> frozenset[str]:
        """Paths of the reference's layers without sublayers."""
        return frozenset(path for path, layer in self.reference.items() if next(layer.children(), None) is None)

    def port_leaves(self) -> frozenset[str]:
        """Paths of the port's layers without sublayers."""
        return frozenset(path for path, layer in self.port.items() if next(layer.children(), None) is None)


@contextmanager
def borrow(
    torch_module: torch.nn.Module, paddle_layer: paddle.nn.Layer, mode: str, trained: bool = False
) -> Iterator[Borrowed]:
    """Both models in ``mode``, with their settings read; everything is put back at the end, whatever happens.

    ``trained`` says that the parameters of the Paddle model will change, too.

    A model whose layers are all in one mode is put into ``mode``. One whose layers are in several keeps them: that is
    either meant (a frozen BatchNorm) or the fault to be found. Dropout is read, then switched off.

    Raises ``ValueError`` for a model with weights of several floating-point types.
    """
    with ExitStack() as stack:
        stack.enter_context(_random_states_restored())
        stack.enter_context(_torch_restored(torch_module))
        stack.enter_context(_paddle_restored(paddle_layer, trained))
        reference = {path or ROOT: layer for path, layer in torch_module.named_modules()}
        port = {path or ROOT: layer for path, layer in paddle_layer.named_sublayers(include_self=True)}
        notes = {}
        for name, model, layers in (("torch", torch_module, reference), ("Paddle", paddle_layer, port)):
            if len({layer.training for layer in layers.values()}) == 1:
                model.train() if mode == "train" else model.eval()
            else:
                notes[f"mode of {name}"] = "its layers are in different modes and were left so"
        epsilons = settings_torch.round_epsilons(torch_module)
        if epsilons:
            values = ", ".join(map(repr, sorted(set(epsilons.values()))))
            notes["epsilon"] = f"of normalisation, in torch: {values}, as Paddle keeps it (float32)"
        found = Borrowed(
            torch_module,
            paddle_layer,
            reference,
            port,
            {path: settings_torch.describe(layer) for path, layer in reference.items()},
            {path: settings_paddle.describe(layer) for path, layer in port.items()},
            notes,
        )
        for settings, layers in ((found.reference_settings, reference), (found.port_settings, port)):
            for path, layer in layers.items():
                if settings[path].category == "dropout":
                    layer.training = False
        yield found


@contextmanager
def torch_in(module: torch.nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Within it the weights and buffers of ``module`` are copies in ``dtype``."""
    tensors = [*module.parameters(), *module.buffers()]
    kept = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype, copy=True)
            else:
                tensor.data = tensor.data.clone()
        yield
    finally:
        for tensor, data in zip(tensors, kept):
            tensor.data = data


@contextmanager
def _torch_restored(module: torch.nn.Module) -> Iterator[None]:
    layers = [*module.modules()]
    modes = [layer.training for layer in layers]
    epsilons = [getattr(layer, "eps", None) for layer in layers]
    grads = [(parameter, parameter.grad) for parameter in module.parameters()]
    try:
        yield
    finally:
        for layer, training, epsilon in zip(layers, modes, epsilons):
            layer.training = training
            if epsilon is not None:
                layer.eps = epsilon
        for parameter, grad in grads:
            parameter.grad = grad


@contextmanager
def _paddle_restored(layer: paddle.nn.Layer, trained: bool) -> Iterator[None]:
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


def torch_tensors(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """A layer's own parameters and buffers by name: what the module holds now, not a copy."""
    own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    return {name: value.detach().numpy() for name, value in own.items() if name not in DROPPED}


def paddle_tensors(layer: paddle.nn.Layer) -> dict[str, np.ndarray]:
    """A layer's own parameters and buffers by name, a linear layer's weight as torch lays it out."""
    own = {**layer._parameters, **layer._buffers}
    arrays = {name: value.numpy().copy() for name, value in own.items() if value is not None}
    if isinstance(layer, paddle.nn.Linear):
        arrays["weight"] = arrays["weight"].T.copy()
    return arrays


def twin_name(name: str) -> str:
    """What Paddle calls a layer's own tensor that torch calls ``name``."""
    return RENAMED.get(name, name)


def parameter_pairs(models: Borrowed, twins: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """``{name of a parameter in torch: (its layer, its name in Paddle)}`` for all layers that have a twin."""
    pairs = {}
    for path, twin in twins.items():
        for name, _ in models.reference[path].named_parameters(recurse=False):
            pairs[join(path, name)] = (path, join(twin, name))
    return pairs


def join(path: str, name: str) -> str:
    """The full name of a layer's own tensor."""
    return name if path == ROOT else f"{path}.{name}"


@contextmanager
def _random_states_restored() -> Iterator[None]:
    """Leave the random states of numpy, torch and Paddle as they were."""
    kept = np.random.get_state(), paddle.get_rng_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        np.random.set_state(kept[0])
        paddle.set_rng_state(kept[1])


@contextmanager
def state_restored(layer: paddle.nn.Layer) -> Iterator[None]:
    """Leave the buffers of ``layer`` as they were."""
    kept = [(value, value.numpy().copy()) for value in state_tensors(layer).values()]
    try:
        yield
    finally:
        for value, array in kept:
            value.set_value(array)
