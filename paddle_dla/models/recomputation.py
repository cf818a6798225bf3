"""Recomputation: layers store no activations in training and run again in the backward pass. Paddle only.

Paddle's own ``recompute`` runs a function twice. It accepts only flat tensors, updates BatchNorm's statistics twice,
and restores the random generator on GPUs only. Here the second run draws the same random numbers as the first, and has
no lasting side effects.
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
    """Mixed in before a block's class: its ``forward`` is recomputed in the backward pass."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the result of the block's own ``forward``."""
        return _run_twice(self, super().forward, args, kwargs)


def recompute_blocks(network: nn.Layer, enable: bool = True, visible: Iterable[str] = ()) -> list[str]:
    """Switch recomputation of the repeated blocks of ``network`` on or off. Returns their names, see ``blocks_of``.

    A block that contains one of the ``visible`` layers is left out: outputs inside a recomputed block have no gradient.
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
    """Return the repeated blocks of ``network``, none inside another; empty if nothing repeats.

    A block is a child of a container and has at least two weights of two or more dimensions. Several blocks of its
    class are in its container or in a neighbouring one, so a stage of one block counts. Of nested candidates the inner
    ones are taken: the blocks, not their stage. If there are none, siblings of one class under any layer are taken,
    then those with a single weight.

    Class names that differ only in a trailing number count as one: a port writes ``Block2`` for a ``Block`` of
    different structure.
    """
    for weights in (2, 1):
        for repeated in (_in_containers, _siblings):
            if found := _innermost(repeated(network, weights)):
                return found
    return {}


def _in_containers(network: nn.Layer, weights: int) -> dict[str, nn.Layer]:
    """Return children of containers whose class occurs several times in containers, and their neighbours."""
    held = [each for each in _children(network, weights) if isinstance(each[0], CONTAINERS)]
    count = Counter(_kind(child) for *_, child in held)
    beside = {_above(_above(name)) for _, name, child in held if count[_kind(child)] > 1}
    return {name: child for _, name, child in held if _above(_above(name)) in beside}


def _siblings(network: nn.Layer, weights: int) -> dict[str, nn.Layer]:
    """Return the children of one layer that have the same class."""
    held = [*_children(network, weights)]
    count = Counter((_above(name), _kind(child)) for _, name, child in held)
    return {name: child for _, name, child in held if count[_above(name), _kind(child)] > 1}


def _children(network: nn.Layer, weights: int) -> Iterator[tuple[nn.Layer, str, nn.Layer]]:
    """Yield ``(parent, name, child)`` of each layer that has sublayers and at least ``weights`` weights of its own."""
    for path, parent in network.named_sublayers(include_self=True):
        for name, child in parent.named_children():
            if _may_be_block(child, weights):
                yield parent, f"{path}.{name}" if path else name, child


def _kind(layer: nn.Layer) -> str:
    return type(layer).__name__.rstrip("0123456789")


def _above(name: str) -> str:
    """Return the name of the layer that holds the layer ``name``; ``""`` is the network itself."""
    return name.rpartition(".")[0]


def _may_be_block(layer: nn.Layer, weights: int) -> bool:
    if isinstance(layer, CONTAINERS) or not layer.sublayers():
        return False
    return sum(parameter.ndim > 1 for parameter in layer.parameters()) >= weights


def _innermost(layers: dict[str, nn.Layer]) -> dict[str, nn.Layer]:
    around = _all_above(layers)
    return {name: layer for name, layer in layers.items() if name not in around}


def _all_above(names: Iterable[str]) -> set[str]:
    """Return the names of all layers that hold one of the layers ``names``."""
    return {name[:end] for name in names for end, letter in enumerate(name) if letter == "."}


def recomputed(layer: nn.Layer, *args: Any, **kwargs: Any) -> Any:
    """Return the output of ``layer``; in training, store only its arguments and run it again in the backward pass.

    Arguments and outputs may be tensors, or sequences and mappings of tensors; other values are passed on. In
    evaluation, and for a layer without trainable parameters, nothing changes.
    """
    return _run_twice(layer, layer, args, kwargs)


def _run_twice(layer: nn.Layer, run: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    given: list[Tensor] = []
    places = _taken_out((args, kwargs), given, _has_gradient)
    trained = given or not all(parameter.stop_gradient for parameter in layer.parameters())
    if not (layer.training and trained and paddle.in_dynamic_mode() and paddle.is_grad_enabled()):
        return run(*args, **kwargs)
    if not given:
        # Paddle computes no gradients of the weights unless an input requires one
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
        # tensors that existed before must get no gradient node of this run: return a copy
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
    """Placeholder for the tensor of this index."""


def _taken_out(value: Any, found: list[Tensor], wanted: Callable[[Tensor], bool]) -> Any:
    """Return ``value`` with a ``_Place`` for each ``wanted`` tensor; these tensors are appended to ``found``."""
    if isinstance(value, Tensor):
        if not wanted(value):
            return value
        found.append(value)
        return _Place(len(found) - 1)
    return _each(value, lambda item: _taken_out(item, found, wanted))


def _put_back(value: Any, tensors: Sequence[Tensor]) -> Any:
    """Return ``value`` with ``tensors`` in place of their placeholders."""
    return tensors[value] if isinstance(value, _Place) else _each(value, lambda item: _put_back(item, tensors))


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return ``value`` with ``change`` applied to each of its items, if it is a sequence or a mapping."""
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
        """Drop the copy if the tensor has not changed."""
        if self.table[self.name] is self.tensor and self.tensor.inplace_version == self.version:
            self.copied = None


class _Before:
    """State that a run of ``layer`` may read and change, from before the first run: generator, statistics, buffers."""

    def __init__(self, layer: nn.Layer):
        self._generator = paddle.get_rng_state()
        self._held = [
            _Held(table, name, tensor, tensor.inplace_version, tensor.detach().clone())
            for table, name, tensor in _changeable(layer)
        ]

    def forget_unchanged(self) -> None:
        """After the first run, keep only copies of tensors that it changed in place, not of constant masks."""
        for held in self._held:
            held.forget_unchanged()

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Within the block, restore the state from before the first run; afterwards restore the current state."""
        now, tensors = paddle.get_rng_state(), [held.table[held.name] for held in self._held]
        for held, tensor in zip(self._held, tensors, strict=True):
            # a kernel of BatchNorm changes its statistics without a new version; any copy serves, as they are only
            # written
            held.table[held.name] = (tensor if held.copied is None else held.copied).detach().clone()
        paddle.set_rng_state(self._generator)
        try:
            yield
        finally:
            paddle.set_rng_state(now)
            for held, tensor in zip(self._held, tensors, strict=True):
                held.table[held.name] = tensor


def _changeable(layer: nn.Layer) -> Iterator[tuple[dict[str, Tensor], str, Tensor]]:
    """Yield ``(table, name, tensor)`` of each buffer; Paddle's BatchNorm stores its statistics as parameters."""
    for owner in layer.sublayers(include_self=True):
        for table in (owner._buffers, owner._parameters):
            for name, tensor in table.items():
                if tensor is not None and tensor.stop_gradient and (table is owner._buffers or name in STATISTICS):
                    yield table, name, tensor
