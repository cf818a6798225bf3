"""``transfer``: load the weights of a torch module into a Paddle layer and return the key map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from alignment.engine.borrowed import (
    PORT,
    REFERENCE,
    PaddleLayer,
    TorchModule,
    borrow,
    is_tensor,
    refuse_swapped,
    side_of,
)
from alignment.engine.pairing.prints import together
from alignment.engine.records.tree import mapped
from alignment.engine.sides.paddle.arrays import as_tensor, set_values
from alignment.engine.sides.paddle.attempts import Port, port_order
from alignment.engine.sides.torch.borrow import threads_as_torch
from alignment.engine.sides.torch.shaken import record, shake
from convert.matching.derive import Proposal, excused, propose, settled_by_names
from convert.matching.differences import ambiguity, differences
from convert.matching.key_map import AmbiguousMatch, KeyMap, KeyMapError
from convert.matching.layers import Layer, ordered, read_all_layers, tensors_of
from convert.matching.settle import settle

Inputs = Any


def transfer(
    torch_module: TorchModule,
    paddle_layer: PaddleLayer,
    inputs: Inputs = None,
    key_map: KeyMap | Mapping[str, str] | None = None,
) -> KeyMap:
    """Find which tensor of ``torch_module`` is which of ``paddle_layer``, load them all, and return the key map.

    ``inputs``: the arguments of both models, as ``align`` takes them, arrays or tensors of either framework. With
    inputs, both models run: layers are ordered by their calls, and if several pairings are possible, the float64 run
    decides, which the lines then note. Without inputs, layers are in the order of definition.

    ``key_map``: a ``KeyMap``, which is used unchanged, or pairs ``{layer or tensor in torch: in Paddle}`` for what
    cannot be told apart.

    Raises ``KeyMapError`` where the models are not of one architecture or a layer has several possible twins; its first
    line states what differs, ``faults`` lists everything. Nothing is loaded then. Raises ``TypeError`` where an
    argument is of the other framework.
    """
    refuse_swapped(torch_module, paddle_layer)
    if key_map is not None and not isinstance(key_map, (KeyMap, Mapping)):
        raise TypeError(f"key_map must be a mapping or a KeyMap, got {key_map!r}")
    found = key_map if isinstance(key_map, KeyMap) else find(torch_module, paddle_layer, inputs, key_map or {})
    load(found, torch_module, paddle_layer)
    return found


def find(torch_module: TorchModule, paddle_layer: PaddleLayer, inputs: Inputs, given: Mapping[str, str]) -> KeyMap:
    """Find the key map of both models. Raises ``KeyMapError``."""
    ours, theirs = read_all_layers(torch_module), read_all_layers(paddle_layer)
    proposal = propose(ours, theirs, given)
    if inputs is None or settled_by_names(proposal):
        _refuse_different(proposal)
        _refuse_doubts(proposal)
    else:
        arrays = mapped(inputs, is_tensor, lambda tensor: side_of(tensor).to_numpy(tensor))
        proposal = _found_by_running(torch_module, paddle_layer, arrays, ours, theirs, given)
    return excused(proposal.key_map())


def _refuse_different(proposal: Proposal) -> None:
    faults = differences(proposal)
    if faults:
        raise KeyMapError(faults[0], faults[1:])


def _refuse_doubts(proposal: Proposal) -> None:
    doubts = ambiguity(proposal)
    if doubts:
        raise AmbiguousMatch(
            "layers have several possible twins; pass inputs to decide by a run, or name the right ones in key_map:",
            doubts,
        )


def _found_by_running(
    torch_module: TorchModule, paddle_layer: PaddleLayer, inputs: Inputs, ours: Sequence[Layer],
    theirs: Sequence[Layer], given: Mapping[str, str],
) -> Proposal:  # fmt: skip
    """Pair layers in the order of calls, and by running both models where the order does not prove a pair."""
    with (
        borrow(torch_module, paddle_layer, "eval"),
        threads_as_torch(),
        REFERENCE.in_type(torch_module, "float64"),
        PORT.in_type(paddle_layer, "float64"),
    ):
        shake(torch_module)
        run = partial(record, torch_module, inputs, frozenset(layer.path for layer in ours if layer.shapes))
        reference = run()
        order = port_order(paddle_layer, inputs)
        if order is not None:
            ours, theirs = ordered(ours, reference.order), ordered(theirs, order)
        proposal = propose(ours, theirs, given)
        _refuse_different(proposal)
        arrays = {name: REFERENCE.to_numpy(value) for name, value in tensors_of(torch_module).items()}
        port = Port(paddle_layer, inputs, proposal, arrays, reference, partial(run, outputs=True))
        return settle(proposal, port.run, together(reference, proposal))


def load(key_map: KeyMap, torch_module: TorchModule, paddle_layer: PaddleLayer) -> None:
    """Load torch's tensors through the key map, all or none. The port's dtypes are kept.

    Raises ``KeyMapError``, which lists everything that does not fit.
    """
    arrays = {name: REFERENCE.to_numpy(value) for name, value in tensors_of(torch_module).items()}
    targets = tensors_of(paddle_layer)
    made = key_map.apply(arrays, {name: tuple(value.shape) for name, value in targets.items()})
    faults = [fault for name, array in made.items() for fault in _of_another_kind(name, array, targets[name])]
    faults += _two_values(made, targets)
    if faults:
        raise KeyMapError("the tensors cannot be loaded (nothing was):", faults)
    set_values([(targets[name], as_tensor(array, targets[name])) for name, array in made.items()])


def _of_another_kind(name: str, array: np.ndarray, target: Any) -> Sequence[str]:
    """Describe what the target cannot hold: another kind of number (integer, real, complex), or values out of range."""
    kinds = np.issubdtype(array.dtype, np.floating), np.iscomplexobj(array)
    if kinds != (target.is_floating_point(), target.is_complex()):
        return [f"{name}: {array.dtype} in torch, {target.dtype} in Paddle"]
    lost = np.isfinite(array) & ~np.isfinite(PORT.to_numpy(as_tensor(array, target))) if any(kinds) else np.False_
    return [f"{name}: {lost.sum()} values are too large for {target.dtype}"] if lost.any() else []


def _two_values(made: Mapping[str, np.ndarray], targets: Mapping[str, Any]) -> Iterator[str]:
    """Yield tensors that are one tensor with two names in the port, and differ in torch."""
    first: dict[int, str] = {}
    for name, array in made.items():
        known = first.setdefault(id(targets[name]), name)
        if not np.array_equal(array, made[known], equal_nan=array.dtype.kind == "f"):
            yield f"{known} and {name} are one tensor in Paddle, and two of different values in torch"
