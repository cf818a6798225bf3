"""Run one torch layer alone, on generated inputs and tensors. torch only.

The layer uses the constants that Paddle's kernels keep in float32, which no setting of a port can change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch

from alignment.engine.records.tree import leaves
from alignment.engine.sides.kept import attributes_kept
from alignment.engine.sides.probed import CannotProbe, Probe, Probed, directions
from alignment.engine.sides.torch.borrow import in_type, own_tensors
from alignment.engine.sides.torch.constants import constants_of_paddle
from alignment.engine.sides.torch.settings import round_epsilons


def prober(layer: torch.nn.Module) -> Probe:
    """Return ``probe`` of this layer."""
    return partial(probe, layer)


def probe(
    layer: torch.nn.Module, inputs: Sequence[np.ndarray], mode: str, tensors: Mapping[str, np.ndarray], backward: bool
) -> Probed:
    """Run ``layer`` as ``Probe`` describes."""
    parameters = [*layer.parameters()]
    kept = [(parameter, parameter.grad) for parameter in parameters]
    with torch.random.fork_rng(), in_type(layer, "float64"), attributes_kept(layer.modules()):
        round_epsilons(layer)
        layer.train(mode == "train")
        _put(layer, tensors)
        try:
            return _called(layer, inputs, backward)
        finally:
            for parameter, grad in kept:
                parameter.grad = grad


def roles(layer: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the floating-point tensors that ``layer`` itself holds."""
    return {name: tuple(tensor.shape) for name, tensor in _own(layer).items()}


def _own(layer: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in own_tensors(layer).items() if tensor.is_floating_point()}


def _put(layer: torch.nn.Module, tensors: Mapping[str, np.ndarray]) -> None:
    own = _own(layer)
    if own.keys() != tensors.keys():
        raise CannotProbe(f"it has {sorted(own)} and not {sorted(tensors)}")
    for name, array in tensors.items():
        own[name].data.copy_(torch.from_numpy(array))


def _called(layer: torch.nn.Module, inputs: Sequence[np.ndarray], backward: bool) -> Probed:
    given = [torch.from_numpy(array.copy()) for array in inputs]
    with torch.set_grad_enabled(backward), constants_of_paddle():
        for tensor in given:
            tensor.requires_grad_(backward and tensor.is_floating_point())
        for parameter in layer.parameters():
            parameter.grad = None
        # an alias: a layer may work in place, which a leaf forbids
        outputs = [*leaves(layer(*(tensor.view_as(tensor) for tensor in given)), lambda v: isinstance(v, torch.Tensor))]
    arrays, own = [output.detach().numpy().copy() for output in outputs], _own(layer)
    state = {name: own[name].numpy().copy() for name in dict(layer.named_buffers(recurse=False)) if name in own}
    if not backward:
        return Probed(arrays, state=state)
    starts = [(out, torch.from_numpy(start)) for out, start in zip(outputs, directions(arrays)) if out.requires_grad]
    torch.autograd.backward([out for out, _ in starts], [start for _, start in starts])
    grads = [_grad(tensor) for tensor in given if tensor.is_floating_point()]
    return Probed(arrays, grads, {name: _grad(p) for name, p in layer.named_parameters(recurse=False)}, state)


def _grad(tensor: torch.Tensor) -> np.ndarray:
    return np.zeros(tuple(tensor.shape)) if tensor.grad is None else tensor.grad.numpy().copy()
