"""Recomputation: layers keep no activations in training and run again in backward. Paddle only.

Paddle's own ``recompute`` runs a function twice; it takes flat tensors, updates BatchNorm's statistics twice, and
restores the random generator on GPUs alone. Here the second run draws what the first one drew, and changes nothing
that outlives it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import Tensor, nn
from paddle.distributed.fleet.utils import recompute

from paddle_dla.models.grouping import STATISTICS

CONTAINERS = (nn.Sequential, nn.LayerList, nn.LayerDict)


class Recomputed(nn.Layer):
    """Mixed in before a block's class: its ``forward`` is recomputed in backward."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the block's own ``forward`` returns."""
        return _run_twice(self, super().forward, args, kwargs)


def recompute_blocks(network: nn.Layer, enable: bool = True, visible: Iterable[str] = ()) -> list[str]:
    """Let the repeated blocks of ``network`` be recomputed, or no longer; returns their names, see ``blocks_of``.

    A block is left out where one of the ``visible`` layers is inside: there no output has a gradient.
    """
    around = _all_above(visible)
    blocks = {name: block for name, block in blocks_of(network).items() if name not in around}
    for block in blocks.values():
        own = type(block)
        if enable and not issubclass(own, Recomputed):
            block.__class__ = type(own.__name__, (Recomputed, own), {"__module__": own.__module__})
        elif not enable and issubclass(own, Recomputed):
            block.__class__ = own.__bases__[1]
    return [*blocks]


def blocks_of(network: nn.Layer) -> dict[str, nn.Layer]:
    """The repeated blocks of ``network``, none inside another; empty where nothing repeats.

    A block stands in a container and has at least two weights of two or more dimensions. Several are of its class, in
    its container or in one beside it: a stage of one block counts. Of nested ones the inner are taken, so a stage is
    left out for its blocks. Where there are none, siblings of one class under any layer are taken, then those with a
    single weight.

    Classes that differ in a number at the end are one: a port writes ``Block2`` for a ``Block`` of other structure.
    """
    for weights in (2, 1):
        for repeated in (_in_containers, _siblings):
            if found := _innermost(repeated(network, weights)):
                return found
    return {}


def _in_containers(network: nn.Layer, weights: int) -> dict[str, nn.Layer]:
    """What stands in a container, or in one beside it, with layers of which the network has several in containers."""
    held = [each for each in _children(network, weights) if isinstance(each[0], CONTAINERS)]
    count = Counter(_kind(child) for *_, child in held)
    beside = {_above(_above(name)) for _, name, child in held if count[_kind(child)] > 1}
    return {name: child for _, name, child in held if _above(_above(name)) in beside}


def _siblings(network: nn.Layer, weights: int) -> dict[str, nn.Layer]:
    """Children of one layer that are of one class."""
    held = [*_children(network, weights)]
    count = Counter((_above(name), _kind(child)) for _, name, child in held)
    return {name: child for _, name, child in held if count[_above(name), _kind(child)] > 1}


def _children(network: nn.Layer, weights: int) -> Iterator[tuple[nn.Layer, str, nn.Layer]]:
    """``(parent, name, child)`` of each layer that has layers and at least ``weights`` weights of its own."""
    for path, parent in network.named_sublayers(include_self=True):
        for name, child in parent.named_children():
            if _may_be_block(child, weights):
                yield parent, f"{path}.{name}" if path else name, child


def _kind(layer: nn.Layer) -> str:
    return type(layer).__name__.rstrip("0123456789")


def _above(name: str) -> str:
    """The name of the layer that holds the layer ``name``; a container at the top stands in the network, ``""``."""
    return name.rpartition(".")[0]


def _may_be_block(layer: nn.Layer, weights: int) -> bool:
    if isinstance(layer, CONTAINERS) or not layer.sublayers():
        return False
    return sum(parameter.ndim > 1 for parameter in layer.parameters()) >= weights


def _innermost(layers: dict[str, nn.Layer]) -> dict[str, nn.Layer]:
    around = _all_above(layers)
    return {name: layer for name, layer in layers.items() if name not in around}


def _all_above(names: Iterable[str]) -> set[str]:
    """The names of all layers that hold one of the layers ``names``."""
    return {name[:end] for name in names for end, letter in enumerate(name) if letter == "."}


def recomputed(layer: nn.Layer, *args: Any, **kwargs: Any) -> Any:
    """What ``layer`` returns; in training it keeps its arguments alone, and runs again in backward.

    Arguments and outputs may be tensors, or sequences and mappings of them; what is no tensor is passed on. Evaluation,
    and a layer of which nothing is trained, are as ever.
    """
    return _run_twice(layer, layer, args, kwargs)


def _run_twice(layer: nn.Layer, run: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    given: list[Tensor] = []
    places = _taken_out((args, kwargs), given, _has_gradient)
    trained = given or not all(parameter.stop_gradient for parameter in layer.parameters())
    if not (layer.training and trained and paddle.in_dynamic_mode() and paddle.is_grad_enabled()):
        return run(*args, **kwargs)
    if not given:
        # Paddle gives the weights no gradients unless an input has one
        given.append(paddle.zeros([1]))
        given[0].stop_gradient = False
    before: _Before | None = None
    returned: Any = None

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        nonlocal before, returned
        given_args, given_kwargs = _put_back(places, tensors)
        if before is None:
            before = _Before(layer)
            outputs = run(*given_args, **given_kwargs)
            before.forget_unchanged()
        else:
            with before.restored():
                outputs = run(*given_args, **given_kwargs)
        found: list[Tensor] = []
        structure = _taken_out(outputs, found, _may_have_gradient)
        returned = structure if returned is None else returned
        # what was there before gets no gradient node of this run: a copy does
        old = {id(tensor) for tensor in (*_tensors(given_args, given_kwargs), *layer.parameters(), *layer.buffers())}
        return tuple(paddle.assign(tensor) if id(tensor) in old else tensor for tensor in found)

    outputs = recompute(flat, *given, preserve_rng_state=False)
    return _put_back(returned, outputs)


def _has_gradient(tensor: Tensor) -> bool:
    return not tensor.stop_gradient


def _may_have_gradient(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _tensors(*values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    _taken_out(values, found, lambda tensor: True)
    return found


class _Place(int):
    """Stands for the tensor of this index."""


def _taken_out(value: Any, found: list[Tensor], wanted: Callable[[Tensor], bool]) -> Any:
    """``value`` with a ``_Place`` for each tensor that is ``wanted``; these are added to ``found``."""
    if isinstance(value, Tensor):
        if not wanted(value):
            return value
        found.append(value)
        return _Place(len(found) - 1)
    return _each(value, lambda item: _taken_out(item, found, wanted))


def _put_back(value: Any, tensors: Sequence[Tensor]) -> Any:
    """``value`` with ``tensors`` in their places."""
    return tensors[value] if isinstance(value, _Place) else _each(value, lambda item: _put_back(item, tensors))


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """``value`` with each of its items changed, if it is a sequence or a mapping."""
    if isinstance(value, dict):
        return type(value)((key, change(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        items = [change(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


@dataclass
class _Held:
    """The tensor ``name`` of ``table`` before the first run, its version, and a copy of it while one is needed."""

    table: dict[str, Tensor]
    name: str
    tensor: Tensor
    version: int
    copied: Tensor | None

    def forget_unchanged(self) -> None:
        """Drop the copy where the tensor is still what it was."""
        if self.table[self.name] is self.tensor and self.tensor.inplace_version == self.version:
            self.copied = None


class _Before:
    """What a run of ``layer`` may read and change, as it is before the first one: generator, statistics, buffers."""

    def __init__(self, layer: nn.Layer):
        self._generator = paddle.get_rng_state()
        self._held = [
            _Held(table, name, tensor, tensor.inplace_version, tensor.detach().clone())
            for table, name, tensor in _changeable(layer)
        ]

    def forget_unchanged(self) -> None:
        """After the first run: keep copies of what it changed in place, not of constant masks."""
        for held in self._held:
            held.forget_unchanged()

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Within it everything is as before the first run; afterwards as it was found."""
        now, tensors = paddle.get_rng_state(), [held.table[held.name] for held in self._held]
        for held, tensor in zip(self._held, tensors, strict=True):
            # a kernel of BatchNorm changes its statistics unseen; of these any copy will do, for it only writes them
            held.table[held.name] = (tensor if held.copied is None else held.copied).detach().clone()
        paddle.set_rng_state(self._generator)
        try:
            yield
        finally:
            paddle.set_rng_state(now)
            for held, tensor in zip(self._held, tensors, strict=True):
                held.table[held.name] = tensor


def _changeable(layer: nn.Layer) -> Iterator[tuple[dict[str, Tensor], str, Tensor]]:
    """``(table, name, tensor)`` of each buffer; Paddle's BatchNorm has its statistics among the parameters."""
    for owner in layer.sublayers(include_self=True):
        for table in (owner._buffers, owner._parameters):
            for name, tensor in table.items():
                if tensor is not None and tensor.stop_gradient and (table is owner._buffers or name in STATISTICS):
                    yield table, name, tensor
