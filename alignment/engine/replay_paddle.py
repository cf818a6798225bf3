"""Run single Paddle layers on what the reference recorded, forward and backward. Paddle only.

A leaf gets the reference's own inputs and the gradient of its outputs: what it then does differently is its own
doing. A container runs its own code only, each of its layers answered from the record: what a layer is handed, what
comes out at the end and how gradients flow between them is then the container's own doing.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle

from alignment.engine.capture_paddle import is_tensor, state_tensors
from alignment.engine.tape import Record, Slot, Tape, is_ref
from alignment.engine.tree import leaves, mapped


@dataclass
class Handed:
    """What a container handed to one of its layers, beside what the reference handed to the twin."""

    record: Record
    tensors: list[np.ndarray]


@dataclass
class Replay:
    """What one layer did with the reference's inputs.

    ``grads`` belong to the tensors among the inputs in order (``None``: none arrived), ``param_grads`` and
    ``buffers`` are the layer's own by name. ``handed`` and ``answered`` are of containers: what each call of an inner
    layer received, and the gradient that came back to its answer. ``error`` is the exception that ended the replay.
    """

    outputs: list[np.ndarray] = field(default_factory=list)
    grads: list[np.ndarray | None] = field(default_factory=list)
    param_grads: dict[str, np.ndarray] = field(default_factory=dict)
    buffers: dict[str, np.ndarray] = field(default_factory=dict)
    handed: list[Handed] = field(default_factory=list)
    answered: list[tuple[Record, list[np.ndarray | None]]] = field(default_factory=list)
    error: str = ""


def replay_leaf(
    layer: paddle.nn.Layer, tape: Tape, record: Record, output_grads: Sequence[Slot | None], backward: bool
) -> Replay:
    """``layer`` on the inputs of ``record``; backward from the gradients of its outputs where they were recorded."""
    replay = Replay()
    with _buffers_restored(layer):
        try:
            args, kwargs, inputs = _inputs(tape, record, backward)
            with paddle.set_grad_enabled(backward):
                output = layer(*args, **kwargs)
            outputs = [*leaves(output, is_tensor)]
            replay.outputs = [tensor.numpy() for tensor in outputs]
            replay.buffers = {name: value.numpy().copy() for name, value in state_tensors(layer).items()}
            if backward:
                layer.clear_gradients()
                _run_backward(outputs, _gradients(tape, output_grads))
                replay.grads = [_grad(tensor) for tensor in inputs]
                replay.param_grads = {
                    name: p.grad.numpy() for name, p in layer.named_parameters() if p.grad is not None
                }
        # a port may fail in any way, and the report has to say how
        except Exception as error:  # noqa: BLE001
            replay.error = f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error) else ''}"
        finally:
            layer.clear_gradients()
    return replay


def replay_container(
    container: paddle.nn.Layer,
    tape: Tape,
    record: Record,
    calls: Sequence[Record],
    inner: Mapping[str, paddle.nn.Layer],
    backward: bool,
) -> Replay:
    """The code of ``container`` alone, on the inputs of ``record``.

    ``calls`` are the reference's calls within it, ``inner`` the twins of the layers called, by the reference's path.
    """
    answers = _Answers(tape, calls, inner, backward)
    replay = Replay(handed=answers.handed)
    try:
        args, kwargs, inputs = _inputs(tape, record, backward)
        with answers.in_place(), paddle.set_grad_enabled(backward):
            output = container(*args, **kwargs)
        outputs = [*leaves(output, is_tensor)]
        replay.outputs = [tensor.numpy() for tensor in outputs]
        if backward:
            # from the container's outputs and from what its layers were handed, with the reference's gradients
            roots, grads = [paddle.assign(tensor) for tensor in outputs], _gradients(tape, record.output_grads)
            for handed, tensors in zip(answers.handed, answers.handed_tensors):
                roots += tensors
                grads += _gradients(tape, handed.record.input_grads)
            _run_backward(roots, grads)
            replay.grads = [_grad(tensor) for tensor in inputs]
            replay.answered = [(call, [_grad(tensor) for tensor in given]) for call, given in answers.given]
    except Exception as error:  # noqa: BLE001 - as above
        replay.error = f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error) else ''}"
    finally:
        container.clear_gradients()
    return replay


class _Answers:
    """Stands in for the layers inside a container: notes what each is handed, answers from the record."""

    def __init__(self, tape: Tape, calls: Sequence[Record], inner: Mapping[str, paddle.nn.Layer], backward: bool):
        self.tape = tape
        self.inner = inner
        self.backward = backward
        self.waiting: dict[str, deque[Record]] = defaultdict(deque)
        for call in calls:
            self.waiting[call.path].append(call)
        self.handed: list[Handed] = []
        self.handed_tensors: list[list[paddle.Tensor]] = []
        self.given: list[tuple[Record, list[paddle.Tensor]]] = []

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the inner layers answer from the record."""
        replaced = [(layer, self._answer(path)) for path, layer in self.inner.items() if self.waiting[path]]
        for layer, answer in replaced:
            layer.__dict__["forward"] = answer
        try:
            yield
        finally:
            for layer, _ in replaced:
                layer.__dict__.pop("forward", None)

    def _answer(self, path: str) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if not self.waiting[path]:
                raise RuntimeError(f"{path} is called more often than in the reference")
            call = self.waiting[path].popleft()
            tensors = [*leaves((args, kwargs), is_tensor)]
            self.handed.append(Handed(call, [tensor.numpy() for tensor in tensors]))
            # copies: backward cannot start from a leaf, which a tensor handed on untouched is
            self.handed_tensors.append([paddle.assign(tensor) for tensor in tensors])
            given: list[paddle.Tensor] = []

            def restore(ref: Any) -> paddle.Tensor:
                given.append(_restored(self.tape, ref, self.backward))
                return given[-1]

            output = mapped(call.outputs, is_ref, restore)
            self.given.append((call, given))
            return output

        return forward


def _inputs(tape: Tape, record: Record, differentiable: bool) -> tuple[Any, Any, list[paddle.Tensor]]:
    made: list[paddle.Tensor] = []

    def restore(ref: Any) -> paddle.Tensor:
        made.append(_restored(tape, ref, differentiable))
        return made[-1]

    args, kwargs = mapped((record.args, dict(record.kwargs)), is_ref, restore)
    return args, kwargs, made


def _restored(tape: Tape, ref: Any, differentiable: bool) -> paddle.Tensor:
    tensor = paddle.to_tensor(tape.get(ref))
    if tensor.is_floating_point():
        tensor.stop_gradient = not differentiable
    return tensor


def _gradients(tape: Tape, slots: Sequence[Slot | None]) -> list[np.ndarray | None]:
    return [None if slot is None or slot.ref is None else tape.get(slot.ref) for slot in slots]


def _run_backward(roots: Sequence[paddle.Tensor], grads: Sequence[np.ndarray | None]) -> None:
    """Backward from the roots that have a gradient and a graph behind them."""
    chosen = [
        (root, paddle.to_tensor(grad))
        for root, grad in zip(roots, grads)
        if grad is not None and not root.stop_gradient and tuple(root.shape) == grad.shape
    ]
    if chosen:
        paddle.autograd.backward([root for root, _ in chosen], [grad for _, grad in chosen])


def _grad(tensor: paddle.Tensor) -> np.ndarray | None:
    return None if tensor.grad is None else tensor.grad.numpy()


@contextmanager
def _buffers_restored(layer: paddle.nn.Layer) -> Iterator[None]:
    kept = [(value, value.numpy().copy()) for value in state_tensors(layer).values()]
    try:
        yield
    finally:
        for value, array in kept:
            value.set_value(array)
