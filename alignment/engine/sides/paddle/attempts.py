"""Run the port with the reference's weights to find which of its layers receives which values. Paddle only.

The layer is borrowed and in float64.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import paddle

from alignment.engine.pairing.prints import Print, Recorded, prints, same
from alignment.engine.records.tree import as_call, is_array, leaves, mapped
from alignment.engine.sides.paddle.arrays import as_tensor, is_tensor, to_numpy
from alignment.engine.sides.paddle.capture import to_tensor
from convert.matching.derive import Proposal
from convert.matching.items import PARAMETER, Item
from convert.matching.key_map import KeyMap, Line
from convert.matching.layers import tensors_of
from convert.matching.settle import OUTPUT, Outcome, Seen


class Failure:
    """Stores the port's exception as ``error``: the port still gets its weights, and a comparison reports it."""

    error: Exception | None = None

    def __enter__(self) -> Failure:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        self.error = error if isinstance(error, Exception) else None
        return self.error is not None


def port_order(layer: paddle.nn.Layer, inputs: Any) -> list[str] | None:
    """Return the paths of the port's layers in the order of first calls; ``None`` if the port raises."""
    order: dict[str, None] = {}

    def noting(path: str) -> Callable[..., Any]:
        return lambda sub, args: order.setdefault(path)

    handles = [sub.register_forward_pre_hook(noting(path)) for path, sub in layer.named_sublayers(include_self=True)]
    failure = Failure()
    try:
        with failure:
            _call(layer, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return None if failure.error else [*order]


def _call(layer: paddle.nn.Layer, inputs: Any) -> list[np.ndarray]:
    with paddle.no_grad():
        args, kwargs = mapped(as_call(inputs), is_array, lambda a: to_tensor(a, layer, False))
        return [to_numpy(tensor) for tensor in leaves(layer(*args, **kwargs), is_tensor)]


class Port:
    """The port, run with the reference's weights by pairs of items. ``Port.run`` is the ``Run`` of ``settle``."""

    def __init__(
        self, layer: paddle.nn.Layer, inputs: Any, proposal: Proposal, arrays: Mapping[str, np.ndarray],
        reference: Recorded, again: Callable[[], Recorded],
    ):  # fmt: skip
        """Create the port.

        ``again`` records the reference with its outputs; it takes memory and is called only if something differs.
        """
        self.layer, self.inputs, self.proposal, self.arrays = layer, inputs, proposal, arrays
        self.reference, self.again = reference, again
        self.layers = dict(layer.named_sublayers(include_self=True))
        self.tensors = tensors_of(layer)
        self.loaded: dict[str, tuple[Line, ...]] = {}

    def run(self, twins: Mapping[str, str], fixed: frozenset[str]) -> Outcome:
        """Load, run, and change the pairs of items that receive another item's inputs."""
        outcome = self._attempt(twins, fixed)
        if outcome.seams and not self.reference.outputs:
            self.reference = self.again()
            outcome = self._attempt(twins, fixed)
        return outcome

    def _attempt(self, twins: Mapping[str, str], fixed: frozenset[str]) -> Outcome:
        self.load(twins)
        return _Attempt(self, dict(twins), fixed).outcome()

    def load(self, twins: Mapping[str, str]) -> None:
        """Set every tensor of the port to its twin's value."""
        by_target: dict[str, list[Line]] = defaultdict(list)
        for line in self.proposal.with_twins(twins, {}).key_map():
            if line.torch and line.paddle:
                by_target[line.paddle].append(line)
        for name, lines in by_target.items():
            if self.loaded.get(name) != tuple(lines):
                array = KeyMap(tuple(lines)).apply(self.arrays, partial=True)[name]
                target = self.tensors[name]
                target.set_value(as_tensor(array, target))
                self.loaded[name] = tuple(lines)


class _Attempt:
    """One run of the port and the notes of its hooks."""

    def __init__(self, port: Port, twins: dict[str, str], fixed: frozenset[str]):
        self.port, self.twins, self.fixed = port, twins, fixed
        self.seen: list[Seen] = []
        self.calls: dict[str, int] = defaultdict(int)
        self.settled: set[str] = set()
        self.agreed: dict[str, bool] = {}

    def outcome(self) -> Outcome:
        handles = []
        for key, item in self.port.proposal.paddle.items():
            layer = self.port.layers.get(item.path)  # an alias is called under the layer's first name
            if layer is not None and item.kind != PARAMETER and item.parts and not item.packed:
                handles.append(layer.register_forward_pre_hook(self._before(key)))
                handles.append(layer.register_forward_post_hook(self._after(key)))
        result: list[np.ndarray] = []
        try:
            with Failure():
                result = _call(self.port.layer, self.port.inputs)
        finally:
            for handle in handles:
                handle.remove()
        mine, yours = ([Print.of(array) for array in arrays] for arrays in (self.port.reference.result, result))
        self.seen.append(Seen(OUTPUT, same(mine, yours), tuple(yours)))
        return Outcome(self.twins, self.seen)

    def _twin(self, key: str) -> str | None:
        return next((mine for mine, twin in self.twins.items() if twin == key), None)

    def _before(self, key: str) -> Callable[..., Any]:
        def hook(layer: paddle.nn.Layer, args: Any) -> None:
            number = self.calls[key]
            self.calls[key] += 1
            twin = self._twin(key)
            if twin is None or not self.port.reference.inputs.get(self._path(twin)):
                return
            values = prints(args, is_tensor, to_numpy)
            if not values:  # passed by name, which a hook does not receive
                return
            if number == 0 and twin not in self.fixed and not self._agrees(twin, 0, values):
                twin = self._exchanged(key, twin, values)
            agrees = self._agrees(twin, number, values)
            self.settled.add(twin)
            self.agreed[key] = agrees
            self.seen.append(Seen(key, agrees, tuple(values)))

        return hook

    def _path(self, twin: str) -> str:
        return self.port.proposal.torch[twin].path

    def _agrees(self, twin: str, number: int, values: Sequence[Print]) -> bool:
        calls = self.port.reference.inputs[self._path(twin)]
        if number >= len(calls):
            return False
        # an attention takes the parts of q, k and v one after the other
        packed = self.port.proposal.torch[twin].packed
        first = "qkv".find(packed) if packed and len(calls[number]) > 1 else 0
        wanted = calls[number][first:]
        # one side may pass more: a state, a mask
        return same(wanted[: len(values)], values[: len(wanted)])

    def _exchanged(self, key: str, twin: str, values: Sequence[Print]) -> str:
        """Find another torch item that is called with these values, swap it with ``twin`` and load it."""
        items = self.port.proposal.torch
        free = [
            other
            for other, item in items.items()
            if other in self.twins and other != twin and other not in self.fixed and other not in self.settled
            and item.kind != PARAMETER
            and self.port.reference.inputs.get(item.path)
            and item.signature == items[twin].signature
            and self._agrees(other, 0, values)
        ]  # fmt: skip
        if not free:
            return twin
        self.twins[twin], self.twins[free[0]] = self.twins[free[0]], key
        self.port.load(self.twins)
        return free[0]

    def _after(self, key: str) -> Callable[..., Any]:
        def hook(layer: paddle.nn.Layer, args: Any, output: Any) -> Any:
            twin = self._twin(key)
            if twin is None:
                return None
            calls = self.port.reference.outputs.get(self._path(twin), [])
            number = self.calls[key] - 1
            # an activation inside the layer follows the output of the reference's layer
            if number >= len(calls) or getattr(layer, "_act", None):
                return None
            item = self.port.proposal.torch[twin]
            wanted = iter(_rows(array, item) for array in calls[number])
            return mapped(output, is_tensor, lambda tensor: _instead(tensor, next(wanted, None)))

        return hook


def _rows(array: np.ndarray, item: Item) -> np.ndarray:
    """Return the output of a part of a packed layer."""
    rows = next(iter(item.parts.values())).rows
    if rows is None:
        return array
    return array[..., slice(*rows)] if item.kind == "linear" else array[:, slice(*rows)]


def _instead(tensor: paddle.Tensor, wanted: np.ndarray | None) -> paddle.Tensor:
    """Return the reference's value in the port's layout, if it is known, so that deviations do not accumulate."""
    own = tensor.numpy()
    if wanted is None or own.size != wanted.size or not np.issubdtype(own.dtype, np.floating):
        return tensor
    layouts = [array.reshape(own.shape) for array in (wanted, *_moved(wanted))]
    nearest = min(layouts, key=lambda array: float(np.abs(array - own).sum()))
    return as_tensor(nearest, tensor)


def _moved(array: np.ndarray) -> list[np.ndarray]:
    """Return the array with channels last, and with channels first."""
    return [np.moveaxis(array, 1, -1), np.moveaxis(array, -1, 1)] if array.ndim > 2 else []
