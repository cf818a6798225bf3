"""Both models run side by side, to tell which layer of the port is called with whose values.

The models are borrowed and in float64. The reference has other weights than its own meanwhile, so that no two of its
layers are alike by chance: at their first values (a scale of 1, a shift of 0, a layer scale of 1e-6) layers could be
exchanged and nothing would show it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import paddle
import torch

from alignment.engine.records.tree import as_call, is_array, leaves, mapped
from alignment.engine.sides.paddle import capture as capture_paddle
from alignment.engine.sides.torch import capture as capture_torch
from convert.matching.derive import Proposal
from convert.matching.items import PARAMETER, Item
from convert.matching.key_map import KeyMap, Line
from convert.matching.layers import tensors_of
from convert.matching.settle import OUTPUT, Outcome, Seen

AGREE = 2.0**-20
"""Values agree up to this, relative to their size: constants that Paddle keeps in float32 make 3e-7 (its resizing with
aligned corners), layers exchanged among those with weights of their own make more than 1e-3."""

SHAKEN = 0.3
"""Spread of what is added to a tensor of equal values, and a third of it the share that is added to any other."""


# --- values -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Print:
    """What tells tensors apart and does not depend on their layout: size and moments of their elements.

    ``order`` is a sum in which each element counts by its place; it compares tensors of one ``shape``.
    """

    shape: tuple[int, ...]
    moments: tuple[float, ...]
    order: float

    @classmethod
    def of(cls, array: np.ndarray) -> Print:
        """Of a tensor with elements of any kind; complex ones count as two."""
        values = np.ascontiguousarray(array)
        values = (values.view(np.float64) if np.iscomplexobj(values) else values.astype(np.float64)).ravel()
        if not values.size:
            return cls(array.shape, (0.0, 0.0, 0.0), 0.0)
        square = values * values
        size = float(np.sqrt(square.mean()))
        moments = (size, float(values.mean()) / (size or 1), float((square * values).mean()) / (size**3 or 1))
        return cls(array.shape, moments, float((_weights(values.size) * values).sum()) / (size or 1))

    def agrees(self, other: Print) -> bool:
        """Whether both are of the same values, each to ``AGREE``; NaN agrees with nothing."""
        if np.prod(self.shape) != np.prod(other.shape):
            return False
        size, mean, cube = zip(self.moments, other.moments)
        near = abs(size[0] - size[1]) <= AGREE * max(size)
        # a relative error e of each element moves the mean by up to e, the mean cube by three times the mean |cube|
        near = near and abs(mean[0] - mean[1]) <= 2 * AGREE
        near = near and abs(cube[0] - cube[1]) <= 8 * AGREE * max(1, *map(abs, cube))
        if near and self.shape == other.shape:
            near = abs(self.order - other.order) <= AGREE * np.sqrt(np.prod(self.shape)) * 4
        return bool(near)


def _weights(size: int) -> np.ndarray:
    """A number for each place: no two are equal, and none is near 0 for long."""
    return _many_weights(1 << (size - 1).bit_length())[:size]


@lru_cache(maxsize=4)
def _many_weights(size: int) -> np.ndarray:
    return np.cos(np.arange(size) * np.sqrt(2.0))  # an irrational step


def prints(value: Any, is_tensor: Callable[[Any], bool]) -> list[Print]:
    """Of every tensor in arguments or outputs of a call."""
    return [Print.of(to_array(tensor)) for tensor in leaves(value, is_tensor)]


def to_array(tensor: Any) -> np.ndarray:
    """The numbers of a tensor of either framework."""
    return tensor.detach().resolve_conj().cpu().numpy() if isinstance(tensor, torch.Tensor) else tensor.numpy()


def same(mine: Sequence[Print], yours: Sequence[Print]) -> bool:
    """Whether both calls have the same values, one by one."""
    return len(mine) == len(yours) and all(a.agrees(b) for a, b in zip(mine, yours))


def _is_torch(value: object) -> bool:
    return isinstance(value, torch.Tensor)


# --- the reference ----------------------------------------------------------------------------------------------------


@dataclass
class Recorded:
    """The reference's run: by path, what each call got and returned; the order of first calls."""

    order: list[str] = field(default_factory=list)
    inputs: dict[str, list[list[Print]]] = field(default_factory=lambda: defaultdict(list))
    outputs: dict[str, list[list[np.ndarray]]] = field(default_factory=lambda: defaultdict(list))
    result: list[np.ndarray] = field(default_factory=list)


def together(reference: Recorded, proposal: Proposal) -> list[list[str]]:
    """Keys of the reference's layers that are called with the same values, or that one tensor packs."""
    groups: dict[Any, list[str]] = defaultdict(list)
    for key, item in proposal.torch.items():
        calls = reference.inputs.get(item.path)
        if item.packed:
            groups[item.path].append(key)
        if calls and item.kind != PARAMETER:
            groups[tuple(calls[0])].append(key)
    return [*groups.values()]


def shake(module: torch.nn.Module, seed: int = 0) -> None:
    """Change every parameter and running statistic: no tensor is constant or equal to another afterwards."""
    generator = np.random.RandomState(seed)
    done: set[int] = set()
    for name, tensor in tensors_of(module).items():
        state = name.endswith(("running_mean", "running_var"))
        if id(tensor) not in done and tensor.is_floating_point() and (state or isinstance(tensor, torch.nn.Parameter)):
            done.add(id(tensor))
            tensor.data.copy_(torch.from_numpy(_shaken(to_array(tensor.data), generator)))


def _shaken(values: np.ndarray, generator: np.random.RandomState) -> np.ndarray:
    """What is positive stays positive: a variance, a scale."""
    noise = SHAKEN * generator.standard_normal(values.shape)
    positive = bool((values > 0).all())
    if values.std() > AGREE * np.abs(values).max():
        return values * np.exp(noise / 3) if positive else values + noise / 3 * values.std()
    if positive:
        return values * np.exp(noise) if values.max() >= SHAKEN else values + np.abs(noise)
    return values + noise


def record(module: torch.nn.Module, inputs: Any, paths: frozenset[str], outputs: bool = False) -> Recorded:
    """Run the reference; ``paths`` are the layers whose calls are wanted, with their ``outputs`` where asked for."""
    found = Recorded()

    def before(path: str) -> Callable[..., None]:
        def hook(layer: torch.nn.Module, args: Any, kwargs: Any) -> None:
            if path not in found.order:
                found.order.append(path)
            if path in paths:
                found.inputs[path].append(prints((args, kwargs), _is_torch))

        return hook

    def after(path: str) -> Callable[..., None]:
        def hook(layer: torch.nn.Module, args: Any, output: Any) -> None:
            found.outputs[path].append([to_array(tensor).copy() for tensor in leaves(output, _is_torch)])

        return hook

    handles = []
    for path, layer in module.named_modules():
        handles.append(layer.register_forward_pre_hook(before(path), with_kwargs=True))
        if outputs and path in paths and next(layer.children(), None) is None:
            handles.append(layer.register_forward_hook(after(path)))
    try:
        with torch.no_grad(), _without_fast_path():
            args, kwargs = mapped(as_call(inputs), is_array, lambda a: capture_torch.to_tensor(a, module, False))
            found.result = [to_array(tensor).copy() for tensor in leaves(module(*args, **kwargs), _is_torch)]
    finally:
        for handle in handles:
            handle.remove()
    return found


@contextmanager
def _without_fast_path() -> Iterator[None]:
    """torch's TransformerEncoderLayer computes in one kernel in evaluation and calls none of its layers."""
    kept = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(kept)


# --- the port ---------------------------------------------------------------------------------------------------------


class Failure:
    """Keeps an exception of the port as ``error``: a port that raises gets its weights, and a comparison reports it."""

    error: Exception | None = None

    def __enter__(self) -> Failure:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        self.error = error if isinstance(error, Exception) else None
        return self.error is not None


def port_order(layer: paddle.nn.Layer, inputs: Any) -> list[str] | None:
    """Paths of the port's layers in the order of first calls; ``None`` where the port raises."""
    order: dict[str, None] = {}

    def noting(path: str) -> Callable[..., None]:
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
        args, kwargs = mapped(as_call(inputs), is_array, lambda a: capture_paddle.to_tensor(a, layer, False))
        return [to_array(tensor) for tensor in leaves(layer(*args, **kwargs), capture_paddle.is_tensor)]


class Port:
    """The port, run with the reference's weights as pairs of items say. ``Port.run`` is the ``Run`` of ``settle``."""

    def __init__(
        self, layer: paddle.nn.Layer, inputs: Any, proposal: Proposal, arrays: Mapping[str, np.ndarray],
        reference: Recorded, again: Callable[[], Recorded],
    ):  # fmt: skip
        """``again`` records the reference with its outputs, which takes memory and is done where something differs."""
        self.layer, self.inputs, self.proposal, self.arrays = layer, inputs, proposal, arrays
        self.reference, self.again = reference, again
        self.layers = dict(layer.named_sublayers(include_self=True))
        self.tensors = tensors_of(layer)
        self.loaded: dict[str, tuple[Line, ...]] = {}

    def run(self, twins: Mapping[str, str], fixed: frozenset[str]) -> Outcome:
        """Load, run, and pair otherwise what has another one's inputs."""
        outcome = self._attempt(twins, fixed)
        if outcome.seams and not self.reference.outputs:
            self.reference = self.again()
            outcome = self._attempt(twins, fixed)
        return outcome

    def _attempt(self, twins: Mapping[str, str], fixed: frozenset[str]) -> Outcome:
        self.load(twins)
        return _Attempt(self, dict(twins), fixed).outcome()

    def load(self, twins: Mapping[str, str]) -> None:
        """Give every tensor of the port what its twin has."""
        by_target: dict[str, list[Line]] = defaultdict(list)
        for line in self.proposal.with_twins(twins, {}).key_map():
            if line.torch and line.paddle:
                by_target[line.paddle].append(line)
        for name, lines in by_target.items():
            if self.loaded.get(name) != tuple(lines):
                array = KeyMap(tuple(lines)).apply(self.arrays, partial=True)[name]
                target = self.tensors[name]
                target.set_value(paddle.to_tensor(np.ascontiguousarray(array)).astype(target.dtype))
                self.loaded[name] = tuple(lines)


class _Attempt:
    """One run of the port and what its hooks note."""

    def __init__(self, port: Port, twins: dict[str, str], fixed: frozenset[str]):
        self.port, self.twins, self.fixed = port, twins, fixed
        self.seen: list[Seen] = []
        self.calls: dict[str, int] = defaultdict(int)
        self.settled: set[str] = set()
        self.agreed: dict[str, bool] = {}

    def outcome(self) -> Outcome:
        handles = []
        for key, item in self.port.proposal.paddle.items():
            layer = self.port.layers.get(item.path)  # by its second name a layer is called under its first
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

    def _before(self, key: str) -> Callable[..., None]:
        def hook(layer: paddle.nn.Layer, args: Any) -> None:
            number = self.calls[key]
            self.calls[key] += 1
            twin = self._twin(key)
            if twin is None or not self.port.reference.inputs.get(self._path(twin)):
                return
            values = prints(args, capture_paddle.is_tensor)
            if not values:  # given by name, which a hook does not see
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
        # an attention takes what q, k and v are made of one after the other
        packed = self.port.proposal.torch[twin].packed
        first = "qkv".find(packed) if packed and len(calls[number]) > 1 else 0
        wanted = calls[number][first:]
        # one side may pass more on: a state, a mask
        return same(wanted[: len(values)], values[: len(wanted)])

    def _exchanged(self, key: str, twin: str, values: Sequence[Print]) -> str:
        """Another item of torch's that is called with these values, exchanged with ``twin`` and loaded."""
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
            calls = self.port.reference.outputs.get(self._path(twin), []) if twin is not None else []
            number = self.calls[key] - 1
            # an activation that is part of the layer comes after what the reference's layer returns
            if number >= len(calls) or getattr(layer, "_act", None):
                return None
            item = self.port.proposal.torch[twin]
            wanted = iter(_rows(array, item) for array in calls[number])
            return mapped(output, capture_paddle.is_tensor, lambda tensor: _instead(tensor, next(wanted, None)))

        return hook


def _rows(array: np.ndarray, item: Item) -> np.ndarray:
    """What a part of a packed layer returns."""
    rows = next(iter(item.parts.values())).rows
    if rows is None:
        return array
    return array[..., slice(*rows)] if item.kind == "linear" else array[:, slice(*rows)]


def _instead(tensor: paddle.Tensor, wanted: np.ndarray | None) -> paddle.Tensor:
    """The reference's value in the layout of the port's, unless it cannot be told; deviations do not add up so."""
    own = tensor.numpy()
    if wanted is None or own.size != wanted.size or not np.issubdtype(own.dtype, np.floating):
        return tensor
    layouts = [array.reshape(own.shape) for array in (wanted, *_moved(wanted))]
    nearest = min(layouts, key=lambda array: float(np.abs(array - own).sum()))
    return paddle.to_tensor(np.ascontiguousarray(nearest)).astype(tensor.dtype)


def _moved(array: np.ndarray) -> list[np.ndarray]:
    """Channels last, and channels first."""
    return [np.moveaxis(array, 1, -1), np.moveaxis(array, -1, 1)] if array.ndim > 2 else []
