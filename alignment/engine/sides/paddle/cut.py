"""Run a Paddle layer with its graph cut at every paired call, to isolate each piece. Paddle only.

The model runs once, through its own code. A *cut* call receives the reference's inputs and returns the reference's
outputs, whatever it computes, so that no difference travels further than to the next cut. A *watched* call continues
with its own values. Backward, the graph is cut at both, and every piece starts from the reference's gradients. A
difference at a cut is then made by the piece in front of it (forward) or behind it (backward).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import paddle

from alignment.engine.judging.echo import Echo, EchoStore
from alignment.engine.pairing.points import Point
from alignment.engine.records.layout import Layout
from alignment.engine.records.store import Budget, Ref, Store
from alignment.engine.records.tape import ROOT, Record, Slot, Tape
from alignment.engine.records.tree import as_call, is_array, leaves, mapped
from alignment.engine.sides.model import ModelRaised, hooks_attached
from alignment.engine.sides.paddle.arrays import clear_gradients, is_tensor, run_backward
from alignment.engine.sides.paddle.capture import hooked, to_tensor

Met = Sequence["tuple[int, Layout] | None"]
"""For each tensor of a call in the port: which of the reference's it is, and its layout; ``None``: left unchanged."""


HELD = 2**26
"""The bytes of gradients kept in memory until they are compared; the others are in a file meanwhile.

Gradients equal to the reference's are not kept.
"""


class Judge(Protocol):
    """Compares the values during the run and identifies the tensors."""

    def began(self, point: Point | None, path: str) -> None:
        """Record that a call of the port's layer at ``path`` begins."""
        ...

    def taken(self, point: Point, arrays: Sequence[np.ndarray]) -> Met:
        """Compare the inputs of a call."""
        ...

    def returned(self, point: Point | None, arrays: Sequence[np.ndarray]) -> Met:
        """Compare the outputs of a call and end it."""
        ...

    def replaces(self, point: Point) -> bool:
        """Return whether a call continues with the reference's values; else only the graph is cut."""
        ...

    def took(self, record: Record, arrays: Sequence[np.ndarray]) -> bool:
        """Return whether ``arrays`` are the inputs of the reference's call ``record``."""
        ...

    def gradient(self, point: Point, where: str, index: int, slot: Slot | None, array: np.ndarray | None) -> None:
        """Compare a gradient, in the reference's layout."""
        ...


@dataclass
class CutRun:
    """The result of a cut run: ``param_grads`` by the port's names, ``buffers`` after it, and the exception, if any.

    ``called`` are the points that were reached, ``further`` the port's layers that were called more often.
    """

    param_grads: dict[str, np.ndarray] = field(default_factory=dict)
    buffers: dict[str, np.ndarray] = field(default_factory=dict)
    raised: ModelRaised | None = None
    called: list[Point] = field(default_factory=list)
    further: set[str] = field(default_factory=set)

    def end(self, raised: ModelRaised) -> None:
        """Record the exception that ended the run."""
        self.raised = raised


@dataclass
class _Watch:
    """A tensor whose gradient is compared after the run; contributions of several pieces are added."""

    point: Point
    where: str
    index: int
    slot: Slot | None
    layout: Layout
    store: Store
    arrived: Ref | None = None

    def arrive(self, grad: paddle.Tensor) -> None:
        """Add a gradient; the hook of the tensor, which only its graph keeps alive."""
        array = self.layout.back(grad.numpy())
        array = array if self.arrived is None else self.store.get(self.arrived) + array
        self.arrived = self.store.put(array, self.slot and self.slot.ref)


def run_cut(
    layer: paddle.nn.Layer,
    inputs: Any,
    tape: Tape,
    points: Mapping[str, Sequence[Point]],
    judge: Judge,
    backward: Callable[[Any], Any] | None,
    beside: Mapping[str, paddle.nn.Layer],
) -> CutRun:
    """Run ``layer(*inputs)`` cut at ``points``, in the order of their calls, by the path of the port's layer.

    ``tape`` holds the reference's values. The pieces are differentiated if ``backward`` is given, which is called with
    the output to run the layers ``beside`` the model.
    """
    named = {**dict(layer.named_sublayers(include_self=True)), **beside}
    pieces, run = _Pieces(named, tape, points, judge, backward is not None, bool(beside)), CutRun()
    clear_gradients(layer)
    try:
        # a port may fail in any way, which the report describes
        with hooks_attached(pieces, "Paddle", run.end):
            with paddle.set_grad_enabled(backward is not None):
                args, kwargs = mapped(as_call(inputs), is_array, lambda a: to_tensor(a, layer, backward is not None))
                output = layer(*args, **kwargs)
                if backward is not None and beside:
                    backward(output)
            if backward is not None:
                pieces.look()
                grads = {name: value.grad for name, value in layer.named_parameters()}
                run.param_grads = {name: grad.numpy() for name, grad in grads.items() if grad is not None}
            held = {**dict(layer.named_buffers()), **dict(layer.named_parameters())}.items()
            run.buffers = {n: v.numpy() for n, v in held if v.stop_gradient and v._is_initialized()}
    finally:
        clear_gradients(layer)
    run.called, run.further = pieces.called, pieces.further
    return run


class _Pieces:
    """The hooks of a cut run, which differentiate its pieces, and the tensors to compare."""

    def __init__(
        self, layers: Mapping[str, paddle.nn.Layer], tape: Tape, points: Mapping[str, Sequence[Point]], judge: Judge,
        differentiate: bool, has_loss: bool,
    ):  # fmt: skip
        self.layers, self.tape, self.judge = layers, tape, judge
        self.differentiate, self.has_loss = differentiate, has_loss
        self.waiting = defaultdict(list, {path: list(some) for path, some in points.items()})
        self.known, self.further = frozenset(points), set()
        self.called: list[Point] = []
        self._open: list[tuple[str, Point | None]] = []
        self._lists: dict[int, list[tuple[list[Any], list[Any]]]] = {}
        self._watched: list[_Watch] = []
        self._store = EchoStore(tape.store, Budget(HELD))

    def attach(self) -> list[Any]:
        """Attach hooks to every layer."""
        layers = self.layers.items()
        return [handle for path, sub in layers for handle in hooked(sub, self.before(path or ROOT), self.after)]

    def place(self) -> str:
        """The innermost layer that is running."""
        return self._open[-1][0] if self._open else ROOT

    def before(self, path: str) -> Callable[..., Any]:
        def hook(sub: paddle.nn.Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            tensors = [*leaves((args, kwargs), is_tensor)]
            arrays = [tensor.numpy() for tensor in tensors] if self.waiting[path] else []
            point = self._take(path, arrays)
            self._open.append((path, point))
            self.judge.began(point, path)
            if point is None:
                return None
            self.called.append(point)
            met, slots = self.judge.taken(point, arrays), point.record.input_grads
            new = self._cut(point, "input gradient", tensors, point.record.input_refs(), slots, met)
            fresh = iter(new)
            changed = mapped((args, kwargs), is_tensor, lambda _: next(fresh))
            self._lists[len(self._open)] = [*_lists((args, kwargs), changed)]
            return changed

        return hook

    def after(self, sub: paddle.nn.Layer, output: Any) -> Any:
        for given, copy in self._lists.pop(len(self._open), ()):
            given.extend(copy[len(given) :])  # items that the layer appended to its input list
        _, point = self._open.pop()
        tensors = [*leaves(output, is_tensor)] if point else []
        met = self.judge.returned(point, [tensor.numpy() for tensor in tensors])
        if point is None:
            return None
        if point.record.path == ROOT:
            if not self.has_loss:  # else the output is differentiated from the loss's input
                self._root(tensors, point.seeds, met)
            return None
        new = self._cut(point, "returned gradient", tensors, point.outputs, point.seeds, met)
        fresh = iter(new)
        return mapped(output, is_tensor, lambda _: next(fresh))

    def _take(self, path: str, arrays: Sequence[np.ndarray]) -> Point | None:
        """Return the reference's call for this one: the one with the same inputs, else the next in order.

        So a call that the port leaves out does not shift all later ones.
        """
        waiting = self.waiting[path]
        if len(waiting) > 1:
            same = (number for number, point in enumerate(waiting) if self.judge.took(point.record, arrays))
            return waiting.pop(next(same, 0))
        if not waiting and path in self.known:
            self.further.add(path)
        return waiting.pop() if waiting else None

    def _cut(
        self, point: Point, where: str, tensors: Sequence[paddle.Tensor], refs: Sequence[Ref],
        slots: Sequence[Slot | None], met: Met,
    ) -> list[paddle.Tensor]:  # fmt: skip
        """Return new tensors in place of ``tensors``, at which the graph is cut.

        If the call is cut they hold the reference's values, else their own. ``slots`` are the reference's gradients
        there: the piece in front starts from them, and the piece behind must return them.
        """
        self._root(tensors, slots, met)
        new = []
        for tensor, known in zip(tensors, met):
            if known is None:
                new.append(tensor)
                continue
            number, layout = known
            if self.judge.replaces(point):
                leaf = _tensor(layout.apply(self.tape.get(refs[number])), tensor.dtype)
            elif not self.differentiate or tensor.stop_gradient:
                new.append(tensor)
                continue
            else:
                leaf = tensor.detach()
            leaf.stop_gradient = not (self.differentiate and _differentiable(leaf))
            if not leaf.stop_gradient:
                slot = slots[number] if number < len(slots) else None
                watch = _Watch(point, where, number, slot, layout, self._store)
                self._watched.append(watch)
                leaf.register_hook(watch.arrive)
                # pass a copy: the model may write into its input, which a leaf forbids
                leaf = paddle.assign(leaf)
            new.append(leaf)
        return new

    def _root(self, tensors: Sequence[paddle.Tensor], slots: Sequence[Slot | None], met: Met) -> None:
        """Differentiate the piece in front of ``tensors`` from the reference's gradients.

        This is done at once, to free what the piece keeps for it before the end of the run.
        """
        roots, grads = [], []
        for tensor, known in zip(tensors, met):
            if known is None or tensor.stop_gradient or not self.differentiate:
                continue
            number, layout = known
            slot = slots[number] if number < len(slots) else None
            if slot is None or slot.ref is None:
                continue
            grad = layout.apply(self.tape.get(slot.ref))
            if tuple(tensor.shape) == grad.shape:
                # backward cannot start from a leaf, e.g. a tensor passed on unchanged, nor twice from one tensor
                taken = tensor.is_leaf or any(tensor is root for root in roots)
                roots.append(paddle.assign(tensor) if taken else tensor)
                grads.append(_tensor(grad, tensor.dtype))
        if roots:
            # the graph is needed again if a tensor of the piece goes on to another cut
            run_backward(roots, grads, retain_graph=True)

    def look(self) -> None:
        """Compare the gradients that arrived; those equal to the reference's were compared on arrival."""
        for watch in self._watched:
            arrived = watch.arrived
            if not isinstance(arrived, Echo):
                array = None if arrived is None else self._store.get(arrived)
                self.judge.gradient(watch.point, watch.where, watch.index, watch.slot, array)


def _lists(given: Any, copy: Any) -> Iterator[tuple[list[Any], list[Any]]]:
    """Yield the lists in a call's arguments, each with its copy."""
    if isinstance(given, list):
        yield given, copy
    pairs = zip(given, copy) if isinstance(given, (list, tuple)) else ()
    if isinstance(given, Mapping):
        pairs = ((given[key], copy[key]) for key in given)
    for one, other in pairs:
        yield from _lists(one, other)


def _tensor(array: np.ndarray, dtype: paddle.dtype) -> paddle.Tensor:
    tensor = paddle.to_tensor(np.ascontiguousarray(array))
    return tensor if tensor.dtype == dtype else tensor.astype(dtype)


def _differentiable(tensor: paddle.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.dtype in (paddle.complex64, paddle.complex128)
