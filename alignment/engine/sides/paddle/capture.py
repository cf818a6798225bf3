"""Run a Paddle layer and record every layer in it, forward and backward. Paddle only.

Paddle has no hook on a layer's backward pass; hooks on the tensors that layers return tell the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat, zip_longest
from typing import Any

import numpy as np
import paddle

from alignment.engine.records.store import Ref, Store
from alignment.engine.records.tape import ROOT, Key, Record, Slot, Tape
from alignment.engine.records.tree import as_call, is_array, leaves, mapped
from alignment.engine.sides.directions import random_directions

LATEST = 8
"""How many tensors are remembered; layers nest less deeply than that where one returns what another did."""


def capture(
    layer: paddle.nn.Layer,
    inputs: Any,
    store: Store | None = None,
    backward: Callable[[Any], tuple[list[paddle.Tensor], list[paddle.Tensor]]] | None = None,
    failed: Callable[[Exception], None] | None = None,
    beside: Mapping[str, paddle.nn.Layer] | None = None,
    guide: Tape | None = None,
) -> Tape:
    """The tape of ``layer(*inputs)``, in the mode and type that the layer is in; hooks are removed again.

    ``inputs``, ``backward`` and ``beside`` as in ``capture_torch``; the records hold no gradients of inputs. An
    exception in the layer goes to ``failed``, where there is one, and the tape holds what had returned by then.
    ``guide`` is the reference's tape: the store learns which of its tensors, by path and call, might be the same.
    """
    recorder = _Recorder(layer, store or Store(), backward is not None, beside or {}, guide)
    handles = recorder.attach()
    try:
        with paddle.set_grad_enabled(backward is not None):
            args, kwargs = mapped(as_call(inputs), is_array, lambda a: to_tensor(a, layer, backward is not None))
            output = layer(*args, **kwargs)
        if backward is not None:
            layer.clear_gradients(set_to_zero=False)
            roots, grads = backward(output)
            paddle.autograd.backward(roots, grads)
            recorder.keep_param_grads()
        recorder.keep_buffers()
    except Exception as error:
        if failed is None:
            raise
        failed(error)
    finally:
        for handle in handles:
            handle.remove()
        recorder.forget()
        if backward is not None:
            layer.clear_gradients(set_to_zero=False)
    return recorder.tape


def in_random_directions(output: Any, seed: int) -> tuple[list[paddle.Tensor], list[paddle.Tensor]]:
    """A start of the backward pass: every output that has a gradient, and a random direction for each."""
    roots = [tensor for tensor in leaves(output, is_tensor) if not tensor.stop_gradient]
    arrays = random_directions([tuple(root.shape) for root in roots], seed)
    return roots, [paddle.to_tensor(array).astype(root.dtype) for root, array in zip(roots, arrays)]


def to_tensor(array: np.ndarray, layer: paddle.nn.Layer, differentiable: bool) -> paddle.Tensor:
    """``array`` as an input of ``layer``, cast to the type of its parameters where it is floating point."""
    tensor = paddle.to_tensor(array)
    if not tensor.is_floating_point():
        return tensor
    dtype = next((p.dtype for p in layer.parameters() if p.is_floating_point()), tensor.dtype)
    tensor = tensor.astype(dtype)
    tensor.stop_gradient = not differentiable
    return tensor


def is_tensor(value: object) -> bool:
    """Whether ``value`` is a Paddle tensor."""
    return isinstance(value, paddle.Tensor)


def state_tensors(layer: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    """What a forward pass may change: buffers, and BatchNorm's statistics, which Paddle counts as parameters."""
    return {name: value for name, value in layer.state_dict().items() if value.stop_gradient}


class _Recorder:
    """The hooks of one run and what they share."""

    def __init__(
        self, layer: paddle.nn.Layer, store: Store, differentiate: bool, beside: Mapping[str, paddle.nn.Layer],
        guide: Tape | None,
    ):  # fmt: skip
        self.layer = layer
        self.names = {**dict(layer.named_sublayers(include_self=True)), **beside}
        self.tape = Tape({path or ROOT: type(sub).__name__ for path, sub in self.names.items()}, store)
        self.differentiate = differentiate
        self._guide = guide.by_key() if guide else {}
        self._guide_grads = guide.param_grads if guide else {}
        self._open: list[Record] = []
        # the latest tensors: a container mostly returns what its last layer returned, and one copy serves both
        self._latest: deque[tuple[paddle.Tensor, int, Ref, Slot | None]] = deque(maxlen=LATEST)

    def attach(self) -> list[Any]:
        handles = []
        for path, sub in self.names.items():
            handles.append(sub.register_forward_pre_hook(self._before(path or ROOT)))
            handles.append(sub.register_forward_post_hook(self._after))
        return handles

    def forget(self) -> None:
        """Let the tensors go: their hooks hold the recorder, a cycle through C++ that no collector sees."""
        self._latest.clear()

    def keep_param_grads(self) -> None:
        for name, parameter in self.layer.named_parameters():
            if not parameter.stop_gradient and parameter.grad is not None:
                owner = self.names[name.rpartition(".")[0]]
                grad = parameter.grad.numpy()
                # as torch lays it out
                turned = isinstance(owner, paddle.nn.Linear) and name.endswith("weight")
                self.tape.param_grads[name] = self.tape.store.put(
                    grad.T if turned else grad, self._guide_grads.get(name)
                )

    def keep_buffers(self) -> None:
        for name, value in state_tensors(self.layer).items():
            self.tape.buffers[name] = self.tape.store.put(value.numpy())

    def _before(self, path: str) -> Callable[..., None]:
        def hook(sub: paddle.nn.Layer, args: tuple[Any, ...]) -> None:
            parent = self._open[-1].key if self._open else None
            leaf = next(sub.children(), None) is None
            self._open.append(Record(path, type(sub).__name__, self.tape.next_call(path), leaf, parent))

        return hook

    def _after(self, sub: paddle.nn.Layer, args: Any, output: Any) -> None:
        record = self._open.pop()
        tensors = [*leaves(output, is_tensor)]
        kept = [self._keep(tensor, *like) for tensor, like in zip(tensors, self._likes(record.key))]
        refs = iter([ref for ref, _ in kept])
        record.outputs = mapped(output, is_tensor, lambda _: next(refs))
        record.output_grads = [slot for _, slot in kept]
        self.tape.records.append(record)

    def _likes(self, key: Key) -> Iterator[tuple[Ref | None, Slot | None]]:
        """For each output of a call what the guide's call of that name returned, and where its gradient is."""
        twin = self._guide.get(key)
        if twin is not None:
            yield from zip_longest(twin.output_refs(), twin.output_grads)
        yield from repeat((None, None))

    def _keep(self, tensor: paddle.Tensor, like: Ref | None, like_grad: Slot | None) -> tuple[Ref, Slot | None]:
        for known, version, ref, slot in self._latest:
            if known is tensor and version == tensor.inplace_version:
                return ref, slot
        ref, slot = self.tape.store.put(tensor.numpy(), like), None
        if self.differentiate and not tensor.stop_gradient:
            slot = Slot()
            tensor.register_hook(self._filler(slot, like_grad))
        self._latest.append((tensor, tensor.inplace_version, ref, slot))
        return ref, slot

    def _filler(self, slot: Slot, like: Slot | None) -> Callable[[paddle.Tensor], None]:
        def fill(grad: paddle.Tensor) -> None:
            slot.ref = self.tape.store.put(grad.numpy(), like and like.ref)

        return fill
