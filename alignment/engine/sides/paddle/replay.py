"""Run single Paddle layers on what the reference recorded, forward and backward. Paddle only.

A leaf gets the reference's own inputs and the gradient of its outputs: what it then does differently is its own
doing. A container runs its own code only, each of its layers answered from the record: what a layer is handed, what
comes out at the end and how gradients flow between them is then the container's own doing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle

from alignment.engine.judging.error import compare
from alignment.engine.judging.noise import FORWARD_LIMIT
from alignment.engine.records.layout import laid_out
from alignment.engine.records.tape import Key, Record, Slot, Tape, is_ref
from alignment.engine.records.tree import leaves, mapped
from alignment.engine.sides.paddle.capture import is_tensor

HOOKS = ("_forward_pre_hooks", "_forward_post_hooks")


@dataclass
class Handed:
    """What a container handed to one of its layers, beside what the reference handed to the twin."""

    record: Record
    tensors: list[np.ndarray]


@dataclass
class Replay:
    """What one layer did with the reference's inputs.

    ``grads`` belong to the tensors among the inputs in order (``None``: none arrived), ``param_grads`` are those of
    all parameters that the layer's own code used, by the parameter's unique name, a linear layer's weight as torch
    lays it out. ``handed`` and ``answered`` are of containers: what each call of an inner layer received, and the
    gradient that came back to its answer. ``error`` is the exception that ended the replay.
    """

    outputs: list[np.ndarray] = field(default_factory=list)
    grads: list[np.ndarray | None] = field(default_factory=list)
    param_grads: dict[str, np.ndarray] = field(default_factory=dict)
    handed: list[Handed] = field(default_factory=list)
    answered: list[tuple[Record, list[np.ndarray | None]]] = field(default_factory=list)
    error: str = ""


def replay_leaf(
    layer: paddle.nn.Layer, tape: Tape, record: Record, output_grads: Sequence[Slot | None], backward: bool
) -> Replay:
    """``layer`` on the inputs of ``record``; backward from the gradients of its outputs where they were recorded.

    Its buffers are left as the call leaves them, so that after all calls they can be compared with the reference's.
    """
    replay = Replay()
    try:
        args, kwargs, inputs = _inputs(tape, record, backward)
        with paddle.set_grad_enabled(backward):
            output = layer(*args, **kwargs)
        outputs = [*leaves(output, is_tensor)]
        replay.outputs = [tensor.numpy() for tensor in outputs]
        if backward:
            layer.clear_gradients(set_to_zero=False)
            _run_backward(outputs, _gradients(tape, output_grads))
            replay.grads = [_grad(tensor) for tensor in inputs]
            replay.param_grads = _param_grads(layer)
    # a port may fail in any way, and the report has to say how
    except Exception as error:  # noqa: BLE001
        replay.error = _in_one_line(error)
    finally:
        layer.clear_gradients(set_to_zero=False)
    return replay


def replay_container(
    container: paddle.nn.Layer,
    tape: Tape,
    record: Record,
    calls: Sequence[Record],
    inner: Mapping[Key, paddle.nn.Layer],
    backward: bool,
    returns: Mapping[Key, Sequence[tuple[int, ...]]] | None = None,
) -> Replay:
    """The code of ``container`` alone, on the inputs of ``record``.

    ``calls`` are the reference's calls within it, ``inner`` the twins of the layers called, by the reference's calls;
    ``returns`` the shapes in which these twins return their tensors, where they flatten what the reference does not.
    """
    answers = _Answers(tape, calls, inner, returns or {}, backward)
    replay = Replay(handed=answers.handed)
    try:
        args, kwargs, inputs = _inputs(tape, record, backward)
        with answers.in_place(), paddle.set_grad_enabled(backward):
            output = container(*args, **kwargs)
        outputs = [*leaves(output, is_tensor)]
        replay.outputs = [tensor.numpy() for tensor in outputs]
        if backward:
            container.clear_gradients(set_to_zero=False)
            # from the container's outputs and from what its layers were handed, with the reference's gradients
            roots, grads = [paddle.assign(tensor) for tensor in outputs], _gradients(tape, record.seeds())
            for handed, tensors in zip(answers.handed, answers.handed_tensors):
                roots += tensors
                grads += _gradients(tape, handed.record.input_grads)
            _run_backward(roots, grads)
            replay.grads = [_grad(tensor) for tensor in inputs]
            replay.answered = [(call, [_grad(tensor) for tensor in given]) for call, given in answers.given]
            replay.param_grads = _param_grads(container)
    except Exception as error:  # noqa: BLE001 - as above
        replay.error = _in_one_line(error)
    finally:
        container.clear_gradients(set_to_zero=False)
    return replay


def _in_one_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip() if lines else ''}"


def _param_grads(layer: paddle.nn.Layer) -> dict[str, np.ndarray]:
    """Gradients by the parameter's unique name; the layers of a container answer from the record and so add none."""
    transposed = {id(sub.weight) for sub in layer.sublayers(include_self=True) if isinstance(sub, paddle.nn.Linear)}
    return {
        p.name: p.grad.numpy().T if id(p) in transposed else p.grad.numpy()
        for p in layer.parameters()
        if p.grad is not None
    }


class _Answers:
    """Stands in for the layers inside a container: notes what each is handed, answers from the record."""

    def __init__(
        self, tape: Tape, calls: Sequence[Record], inner: Mapping[Key, paddle.nn.Layer],
        returns: Mapping[Key, Sequence[tuple[int, ...]]], backward: bool,
    ):  # fmt: skip
        self.tape = tape
        self.backward = backward
        self.returns = returns
        # by layer of the port: one may stand for several of the reference
        self.layers = {id(layer): layer for layer in inner.values()}
        self.waiting: dict[int, list[Record]] = defaultdict(list)
        for call in calls:
            if call.key in inner:
                self.waiting[id(inner[call.key])].append(call)
        self.handed: list[Handed] = []
        self.handed_tensors: list[list[paddle.Tensor]] = []
        self.given: list[tuple[Record, list[paddle.Tensor]]] = []

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the inner layers answer from the record.

        Their hooks and a ``forward`` of their own are part of what they do themselves, and come back afterwards.
        """
        replaced = [(layer, dict(layer.__dict__)) for key, layer in self.layers.items() if self.waiting[key]]
        for layer, _ in replaced:
            no_hooks = {name: type(layer.__dict__[name])() for name in HOOKS}
            answer = self._answer(id(layer), self.waiting[id(layer)][0].path)
            layer.__dict__.update(no_hooks, forward=answer)
        try:
            yield
        finally:
            for layer, own in replaced:
                del layer.__dict__["forward"]
                layer.__dict__.update({name: own[name] for name in (*HOOKS, "forward") if name in own})

    def _answer(self, key: int, path: str) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if not self.waiting[key]:
                raise RuntimeError(f"{path} is called more often than in the reference")
            tensors = [*leaves((args, kwargs), is_tensor)]
            arrays = [tensor.numpy() for tensor in tensors]
            call = self._take(key, arrays)
            shapes = iter(self.returns.get(call.key, ()))
            self.handed.append(Handed(call, arrays))
            # copies: backward cannot start from a leaf, which a tensor handed on untouched is
            self.handed_tensors.append([paddle.assign(tensor) for tensor in tensors])
            given: list[paddle.Tensor] = []

            def restore(ref: Any) -> paddle.Tensor:
                given.append(_restored(self.tape, ref, self.backward, next(shapes, ref.shape)))
                return given[-1]

            output = mapped(call.outputs, is_ref, restore)
            self.given.append((call, given))
            return output

        return forward

    def _take(self, key: int, arrays: Sequence[np.ndarray]) -> Record:
        """Which of the reference's calls this one is: the one that took the same, else the next in order.

        So a call that the port leaves out does not shift all later ones.
        """
        waiting = self.waiting[key]
        same = (number for number, call in enumerate(waiting) if self._took(call, arrays))
        return waiting.pop(next(same, 0))

    def _took(self, call: Record, arrays: Sequence[np.ndarray]) -> bool:
        refs = call.input_refs()
        return len(refs) == len(arrays) and all(
            compare(self.tape.get(ref), laid_out(array, ref.shape)).relative <= FORWARD_LIMIT
            for ref, array in zip(refs, arrays)
        )


def _inputs(tape: Tape, record: Record, differentiable: bool) -> tuple[Any, Any, list[paddle.Tensor]]:
    made: list[paddle.Tensor] = []

    def restore(ref: Any) -> paddle.Tensor:
        made.append(_restored(tape, ref, differentiable))
        return made[-1]

    args, kwargs = mapped((record.args, dict(record.kwargs)), is_ref, restore)
    return args, kwargs, made


def _restored(tape: Tape, ref: Any, differentiable: bool, shape: Sequence[int] | None = None) -> paddle.Tensor:
    tensor = paddle.to_tensor(laid_out(tape.get(ref), ref.shape if shape is None else shape))
    if tensor.is_floating_point():
        tensor.stop_gradient = not differentiable
    return tensor


def _gradients(tape: Tape, slots: Sequence[Slot | None]) -> list[np.ndarray | None]:
    return [None if slot is None or slot.ref is None else tape.get(slot.ref) for slot in slots]


def _run_backward(roots: Sequence[paddle.Tensor], grads: Sequence[np.ndarray | None]) -> None:
    """Backward from the roots that have a gradient and a graph behind them."""
    fitting = [(root, grad if grad is None else laid_out(grad, root.shape)) for root, grad in zip(roots, grads)]
    chosen = [
        (root, paddle.to_tensor(grad))
        for root, grad in fitting
        if grad is not None and not root.stop_gradient and tuple(root.shape) == grad.shape
    ]
    if chosen:
        paddle.autograd.backward([root for root, _ in chosen], [grad for _, grad in chosen])


def _grad(tensor: paddle.Tensor) -> np.ndarray | None:
    return None if tensor.grad is None else tensor.grad.numpy()
