"""Run a Paddle layer and record every layer in it, forward and backward. Paddle only.

Paddle has no hooks on a layer's backward pass; hooks on the tensors that layers return replace them.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat, zip_longest
from typing import Any

import numpy as np
import paddle

from alignment.engine.records.store import Ref, Store
from alignment.engine.records.structure import places
from alignment.engine.records.tape import ROOT, Key, Record, Slot, Tape
from alignment.engine.records.tree import as_call, is_array, leaves, mapped
from alignment.engine.sides.directions import random_directions
from alignment.engine.sides.model import ModelRaised, hooks_attached, refuse_vector
from alignment.engine.sides.paddle.arrays import clear_gradients, is_tensor, run_backward

Start = Callable[[Any], tuple[list[paddle.Tensor], list[paddle.Tensor]]]
WITH_KWARGS = "with_kwargs" in inspect.signature(paddle.nn.Layer.register_forward_pre_hook).parameters
"""Whether hooks can receive keyword arguments; Paddle 2.6 has no such option."""


def capture(
    model: paddle.nn.Layer,
    inputs: Any,
    store: Store | None = None,
    backward: Start | None = None,
    beside: Mapping[str, paddle.nn.Layer] | None = None,
    failed: Callable[[ModelRaised], None] | None = None,
    guide: Mapping[Key, Record] | None = None,
) -> Tape:
    """Record the tape of ``model(*inputs)``, as ``Side.capture`` does.

    The records contain input gradients of the model only, and of arguments only those that a layer returned.
    """
    recorder = _Recorder(model, store or Store(), backward is not None, beside or {}, guide or {})
    try:
        with hooks_attached(recorder, "Paddle", failed):
            with paddle.set_grad_enabled(backward is not None):
                args, kwargs = mapped(as_call(inputs), is_array, lambda a: to_tensor(a, model, backward is not None))
                recorder.inputs = [*leaves((args, kwargs), is_tensor)]
                output = model(*args, **kwargs)
            if backward is not None:
                clear_gradients(model)
                with paddle.enable_grad():
                    roots, grads = backward(output)
                if roots:
                    run_backward(roots, grads)
                recorder.keep_param_grads()
                recorder.keep_input_grads()
            recorder.keep_buffers()
    finally:
        recorder.forget()
        if backward is not None:
            clear_gradients(model)
    return recorder.tape


def at_loss(output: Any, loss: paddle.nn.Layer, labels: Any) -> tuple[list[paddle.Tensor], list[paddle.Tensor]]:
    """Start the backward pass at the loss. Raises ``LossError`` if it is not one number."""
    like = next(leaves(output, is_tensor))
    value = loss(output, *mapped(labels, is_array, lambda array: _label(array, like)))
    refuse_vector(value.shape, "Paddle")
    return [value], [paddle.ones_like(value)]


def _label(array: np.ndarray, like: paddle.Tensor) -> paddle.Tensor:
    """Convert real labels to the dtype of the output; class indices stay unchanged."""
    label = paddle.to_tensor(array)
    return label.to(like.dtype) if label.is_floating_point() else label


def loss_layer(function: Callable[..., paddle.Tensor]) -> paddle.nn.Layer:
    """Wrap a loss as a layer without sublayers."""
    return _PaddleLoss(function)


class _PaddleLoss(paddle.nn.Layer):
    """A layer that calls its ``function``."""

    def __init__(self, function: Callable[..., paddle.Tensor]):
        super().__init__()
        self.__dict__["function"] = function

    def forward(self, output: Any, *labels: paddle.Tensor) -> paddle.Tensor:
        """Return the loss."""
        return self.function(output, *labels)


def in_random_directions(output: Any, seed: int) -> tuple[list[paddle.Tensor], list[paddle.Tensor]]:
    """Start the backward pass at every output that has a gradient, in a random direction for each."""
    roots = {place: tensor for place, tensor in places(output, is_tensor) if not tensor.stop_gradient}
    wanted = {place: (tuple(root.shape), is_complex(root)) for place, root in roots.items()}
    arrays = random_directions(wanted, seed)
    return [*roots.values()], [paddle.to_tensor(arrays[place]).astype(root.dtype) for place, root in roots.items()]


def is_complex(tensor: paddle.Tensor) -> bool:
    """Return whether the tensor holds complex numbers."""
    return tensor.dtype in (paddle.complex64, paddle.complex128)


def to_tensor(array: np.ndarray, layer: paddle.nn.Layer, differentiable: bool) -> paddle.Tensor:
    """Convert ``array`` to an input of ``layer``; floating-point values get the dtype of its parameters.

    Without parameters the run's default dtype is used.
    """
    tensor = paddle.to_tensor(array)
    if not tensor.is_floating_point():
        return tensor
    dtype = next((p.dtype for p in layer.parameters() if p.is_floating_point()), paddle.get_default_dtype())
    tensor = tensor.astype(dtype)  # pyright: ignore[reportArgumentType] - the stub refuses get_default_dtype's str
    tensor.stop_gradient = not differentiable
    return tensor


def state_tensors(layer: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    """Return what a forward pass may change: buffers, and BatchNorm's statistics, which Paddle counts as parameters."""
    return {name: value for name, value in layer.state_dict().items() if value.stop_gradient}


def hooked(
    layer: paddle.nn.Layer,
    before: Callable[[paddle.nn.Layer, Any, dict[str, Any]], Any],
    after: Callable[[paddle.nn.Layer, Any], Any],
) -> list[Any]:
    """Attach hooks before and after every call of ``layer``; ``before`` returns new ``(args, kwargs)`` or None."""

    def positional(sub: paddle.nn.Layer, args: Any) -> Any:
        changed = before(sub, args, {})
        return None if changed is None else changed[0]

    pre = (
        layer.register_forward_pre_hook(before, with_kwargs=True)
        if WITH_KWARGS
        else layer.register_forward_pre_hook(positional)
    )
    return [pre, layer.register_forward_post_hook(lambda sub, args, output: after(sub, output))]


class _Known:
    """The stored handles of tensors that are still alive."""

    def __init__(self):
        self._entries: dict[int, tuple[Any, int, Ref, Slot | None]] = {}

    def get(self, tensor: paddle.Tensor) -> tuple[Ref, Slot | None] | None:
        entry = self._entries.get(id(tensor))
        if entry is None or entry[0]() is not tensor or entry[1] != tensor.inplace_version:
            return None
        return entry[2], entry[3]

    def put(self, tensor: paddle.Tensor, ref: Ref, slot: Slot | None) -> None:
        self._entries[id(tensor)] = weakref.ref(tensor), tensor.inplace_version, ref, slot

    def clear(self) -> None:
        self._entries.clear()


class _Recorder:
    """The hooks of one run and their shared state."""

    def __init__(
        self, layer: paddle.nn.Layer, store: Store, differentiate: bool, beside: Mapping[str, paddle.nn.Layer],
        guide: Mapping[Key, Record],
    ):  # fmt: skip
        self.layer = layer
        self.names = {**dict(layer.named_sublayers(include_self=True)), **beside}
        self.tape = Tape({path or ROOT: type(sub).__name__ for path, sub in self.names.items()}, store)
        self.differentiate = differentiate
        self.inputs: list[paddle.Tensor] = []
        self._guide = guide
        self._open: list[Record] = []
        self._known = _Known()

    def attach(self) -> list[Any]:
        return [
            handle
            for path, sub in self.names.items()
            for handle in hooked(sub, self._before(path or ROOT), self._after)
        ]

    def forget(self) -> None:
        """Release the tensors: their hooks hold the recorder, a cycle through C++ that no collector finds."""
        self._known.clear()
        self.inputs = []

    def place(self) -> str:
        """Return the innermost layer that is running."""
        return self._open[-1].path if self._open else ROOT

    def keep_param_grads(self) -> None:
        for name, parameter in self.layer.named_parameters():
            if not parameter.stop_gradient and parameter.grad is not None:
                self.tape.param_grads[name] = self.tape.store.put(parameter.grad.numpy())

    def keep_input_grads(self) -> None:
        root = next((record for record in self.tape if record.path == ROOT), None)
        if root is not None:
            grads = [None if tensor.grad is None else tensor.grad.numpy() for tensor in self.inputs]
            root.input_grads = [None if grad is None else Slot(self.tape.store.put(grad)) for grad in grads]

    def keep_buffers(self) -> None:
        for name, value in state_tensors(self.layer).items():
            if value._is_initialized():
                self.tape.buffers[name] = self.tape.store.put(value.numpy())

    def _before(self, path: str) -> Callable[..., None]:
        def hook(sub: paddle.nn.Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            parent = self._open[-1].key if self._open else None
            leaf = next(iter(sub.children()), None) is None
            record = Record(path, type(sub).__name__, self.tape.next_call(path), leaf, parent)
            record.args, record.kwargs = mapped((args, kwargs), is_tensor, self._ref_of)
            self._open.append(record)

        return hook

    def _ref_of(self, tensor: paddle.Tensor) -> Ref | None:
        found = self._known.get(tensor)
        return found and found[0]

    def _after(self, sub: paddle.nn.Layer, output: Any) -> None:
        record = self._open.pop()
        tensors = [*leaves(output, is_tensor)]
        kept = [self._keep(tensor, *like) for tensor, like in zip(tensors, self._likes(record.key))]
        refs = iter([ref for ref, _ in kept])
        record.outputs = mapped(output, is_tensor, lambda _: next(refs))
        record.output_grads = [slot for _, slot in kept]
        self.tape.records.append(record)

    def _likes(self, key: Key) -> Iterator[tuple[Ref | None, Slot | None]]:
        """Yield for each output of a call that of the guide's call of the same name, and the place of its gradient."""
        twin = self._guide.get(key)
        if twin is not None:
            yield from zip_longest(twin.output_refs(), twin.output_grads)
        yield from repeat((None, None))

    def _keep(self, tensor: paddle.Tensor, like: Ref | None, like_grad: Slot | None) -> tuple[Ref, Slot | None]:
        known = self._known.get(tensor)
        if known is not None:
            return known
        ref, slot = self.tape.store.put(tensor.numpy(), like), None
        if self.differentiate and not tensor.stop_gradient:
            slot = Slot()
            tensor.register_hook(self._filler(slot, like_grad))
        self._known.put(tensor, ref, slot)
        return ref, slot

    def _filler(self, slot: Slot, like: Slot | None) -> Callable[[paddle.Tensor], None]:
        def fill(grad: paddle.Tensor) -> None:
            slot.ref = self.tape.store.put(grad.numpy(), like and like.ref)

        return fill
