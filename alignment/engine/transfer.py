"""``transfer``: the weights of a torch module in a Paddle layer, and the key map by which they came there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle
import torch

from alignment.engine.sides.torch.borrow import to_numpy
from convert.matching.derive import excused, propose
from convert.matching.differences import differences
from convert.matching.key_map import KeyMap, KeyMapError
from convert.matching.layers import read_all_layers, tensors_of

Inputs = Any


def transfer(
    torch_module: torch.nn.Module,
    paddle_layer: paddle.nn.Layer,
    inputs: Inputs = None,
    key_map: KeyMap | Mapping[str, str] | None = None,
) -> KeyMap:
    """Find which tensor of ``torch_module`` is which of ``paddle_layer``, load them all, and return the key map.

    ``inputs``: the arguments of both models, as ``align`` takes them. With them, both models run: layers come in the
    order of calls, and where several could be one another, the run in float64 decides, which the lines then note.
    Without inputs, layers come in the order of definition.

    ``key_map``: a ``KeyMap``, which is taken as it is, or pairs ``{layer or tensor in torch: in Paddle}`` for what
    cannot be told apart.

    Raises ``KeyMapError`` where the models are not of one architecture or a layer has several possible twins; its first
    line says what differs, ``faults`` lists everything. Nothing is loaded then. Raises ``TypeError`` where an argument
    is of the other framework.
    """
    _refuse_swapped(torch_module, paddle_layer)
    found = key_map if isinstance(key_map, KeyMap) else find(torch_module, paddle_layer, inputs, key_map or {})
    load(found, torch_module, paddle_layer)
    return found


def _refuse_swapped(torch_module: Any, paddle_layer: Any) -> None:
    for name, value, wanted in (
        ("torch_module", torch_module, torch.nn.Module),
        ("paddle_layer", paddle_layer, paddle.nn.Layer),
    ):
        if not isinstance(value, wanted):
            swapped = isinstance(value, (torch.nn.Module, paddle.nn.Layer))
            hint = "; are both models swapped?" if swapped else ""
            kind = f"{type(value).__module__}.{type(value).__name__}"
            raise TypeError(f"{name} must be a {wanted.__module__}.{wanted.__name__}, got {kind}{hint}")


def find(
    torch_module: torch.nn.Module, paddle_layer: paddle.nn.Layer, inputs: Inputs, given: Mapping[str, str]
) -> KeyMap:
    """The key map of both models. Raises ``KeyMapError``."""
    ours, theirs = read_all_layers(torch_module), read_all_layers(paddle_layer)
    proposal = propose(ours, theirs, given)
    faults = differences(proposal)
    if faults:
        raise KeyMapError(faults[0], faults[1:])
    return excused(proposal.key_map())


def load(key_map: KeyMap, torch_module: torch.nn.Module, paddle_layer: paddle.nn.Layer) -> None:
    """Load what the key map makes of torch's tensors, all or nothing. The port's types are kept.

    Raises ``KeyMapError``, which lists everything that does not fit.
    """
    arrays = {name: to_numpy(value) for name, value in tensors_of(torch_module).items()}
    targets = tensors_of(paddle_layer)
    made = key_map.apply(arrays, {name: tuple(value.shape) for name, value in targets.items()})
    faults = [fault for name, array in made.items() for fault in _of_another_kind(name, array, targets[name])]
    if faults:
        raise KeyMapError("tensors are of another kind (nothing was loaded):", faults)
    values = {
        name: paddle.to_tensor(np.ascontiguousarray(array)).astype(targets[name].dtype) for name, array in made.items()
    }
    with paddle.no_grad():
        for name, value in values.items():
            targets[name].set_value(value)


def _of_another_kind(name: str, array: np.ndarray, target: paddle.Tensor) -> Sequence[str]:
    """Numbers for integers, or the other way round."""
    if np.issubdtype(array.dtype, np.floating) == target.is_floating_point() or np.iscomplexobj(array):
        return []
    return [f"{name}: {array.dtype} in torch, {target.dtype} in Paddle"]
