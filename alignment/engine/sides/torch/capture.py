"""Run a torch module and record every layer, forward and backward. torch only.

Outputs are copied inside the hook, because models overwrite them in place later (timm's DLA does, by
``ReLU(inplace=True)`` and ``out += shortcut``). Each layer receives aliases of its inputs, so that the gradient of an
alias is this layer's share only. ``register_full_backward_hook`` would give the same gradient, but raises before an
in-place operation.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import numpy as np
import torch
from torch.utils.weak import WeakTensorKeyDictionary

from alignment.engine.records.store import Ref, Store
from alignment.engine.records.structure import places
from alignment.engine.records.tape import ROOT, Key, Record, Slot, Tape
from alignment.engine.records.tree import as_call, in_order, is_array, leaves, mapped
from alignment.engine.sides.directions import random_directions
from alignment.engine.sides.model import ModelRaised, hooks_attached, refuse_vector
from alignment.engine.sides.torch.arrays import is_tensor, to_numpy

LATEST = 4
"""The number of tensors remembered by their memory: neighbouring operations and layers use the same ones."""
SMALL = 2**14
"""Smaller tensors, in bytes, stay in the graph."""


def capture(
    model: torch.nn.Module,
    inputs: Any,
    store: Store | None = None,
    backward: Callable[[Any], tuple[list[torch.Tensor], list[torch.Tensor]]] | None = None,
    beside: Mapping[str, torch.nn.Module] | None = None,
    failed: Callable[[ModelRaised], None] | None = None,
    guide: Mapping[Key, Record] | None = None,
) -> Tape:
    """Record the tape of ``model(*inputs)``, as ``Side.capture`` does, with the gradients of every layer's inputs."""
    recorder = _Recorder(model, store or Store(), backward is not None, beside or {}, guide or {})
    try:
        with hooks_attached(recorder, "torch", failed):
            with torch.set_grad_enabled(backward is not None), recorder.graph_in_store():
                args, kwargs = mapped(as_call(inputs), is_array, lambda a: to_tensor(a, model, backward is not None))
                output = model(*args, **kwargs)
            if backward is not None:
                model.zero_grad(set_to_none=True)
                with torch.enable_grad():
                    roots, grads = backward(output)
                if roots:
                    torch.autograd.backward(roots, grads)
                recorder.fill_bypassed()
                recorder.keep_param_grads()
            recorder.keep_buffers()
    finally:
        if backward is not None:
            model.zero_grad(set_to_none=True)
    return recorder.tape


def at_loss(output: Any, loss: torch.nn.Module, labels: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Start the backward pass at the loss. Raises ``LossError`` if it is not one number."""
    like = next(leaves(output, is_tensor))
    value = loss(output, *mapped(labels, is_array, lambda array: _label(array, like)))
    refuse_vector(value.shape, "torch")
    return [value], [torch.ones_like(value)]


def _label(array: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """Convert real labels to the dtype of the output; class indices stay unchanged."""
    label = torch.from_numpy(np.array(array))
    return label.to(like.dtype) if label.is_floating_point() else label


def loss_layer(function: Callable[..., torch.Tensor]) -> torch.nn.Module:
    """Wrap a loss as a module without children."""
    return _TorchLoss(function)


class _TorchLoss(torch.nn.Module):
    """A module that calls its ``function``."""

    function: Callable[..., torch.Tensor]

    def __init__(self, function: Callable[..., torch.Tensor]):
        super().__init__()
        object.__setattr__(self, "function", function)  # bypass nn.Module, which would register a module as a child

    def forward(self, output: Any, *labels: torch.Tensor) -> torch.Tensor:
        """Return the loss."""
        return self.function(output, *labels)


def in_random_directions(output: Any, seed: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Start the backward pass at every output that has a gradient, in a random direction for each."""
    roots = {place: tensor for place, tensor in places(output, is_tensor) if tensor.requires_grad}
    arrays = random_directions({place: (tuple(r.shape), r.is_complex()) for place, r in roots.items()}, seed)
    return [*roots.values()], [torch.from_numpy(arrays[place]).to(root.dtype) for place, root in roots.items()]


def to_tensor(array: np.ndarray, module: torch.nn.Module, differentiable: bool) -> torch.Tensor:
    """Convert ``array`` to an input of ``module``; floating-point values get the dtype of its parameters.

    Without parameters the run's default dtype is used.
    """
    tensor = torch.from_numpy(np.array(array))
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.get_default_dtype())
    if not tensor.is_floating_point():
        return tensor
    return tensor.to(dtype).requires_grad_(differentiable)


@dataclass
class _Call:
    """A call that has begun: its record, copied lists, and the tensors behind the aliases that it received."""

    record: Record
    lists: list[tuple[list[Any], list[Any]]] = field(default_factory=list)
    inputs: list[tuple[int, torch.Tensor, int, Slot | None]] = field(default_factory=list)


def _same_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype


class _Latest:
    """The latest stored tensors by memory; they are held, so that their memory is not reused meanwhile."""

    def __init__(self):
        self._tensors: deque[tuple[torch.Tensor, int, Ref]] = deque(maxlen=LATEST)

    def keep(self, tensor: torch.Tensor, store: Store, like: Ref | None = None) -> Ref:
        """Return the tensor's handle; store it if it is not among the latest."""
        for known, version, ref in self._tensors:
            if version == tensor._version and _same_memory(known, tensor):
                return ref
        ref = store.put(to_numpy(tensor), like)
        self._tensors.append((tensor.detach(), tensor._version, ref))
        return ref


class _Recorder:
    """The hooks of one run and their shared state."""

    def __init__(
        self, module: torch.nn.Module, store: Store, differentiate: bool, beside: Mapping[str, torch.nn.Module],
        guide: Mapping[Key, Record],
    ):  # fmt: skip
        self.module = module
        self.names = {**dict(module.named_modules()), **beside}
        self.tape = Tape({path or ROOT: type(layer).__name__ for path, layer in self.names.items()}, store)
        self.differentiate = differentiate
        self._guide = guide
        self._open: list[_Call] = []
        self._refs = WeakTensorKeyDictionary()  # tensor -> (version, Ref): one copy of what many layers see
        self._slots = WeakTensorKeyDictionary()  # tensor -> (version, Slot)
        self._origins = WeakTensorKeyDictionary()  # alias -> (tensor, Slot of the layer that got the alias)
        # alias of an output -> the output
        self._returned: MutableMapping[torch.Tensor, torch.Tensor] = WeakTensorKeyDictionary()
        self._bypassed: list[tuple[Slot, Slot]] = []
        self._latest = _Latest()
        self._latest_grads = _Latest()

    def attach(self) -> list[Any]:
        handles = []
        for path, layer in self.names.items():
            handles.append(layer.register_forward_pre_hook(self._before(path or ROOT), with_kwargs=True))
            handles.append(layer.register_forward_hook(self._after, with_kwargs=True))
        return handles

    def graph_in_store(self) -> AbstractContextManager[None]:
        """Store handles in the graph instead of saved tensors, since the record already holds them."""

        def pack(tensor: torch.Tensor) -> Any:
            if tensor.nbytes < SMALL or (tensor.is_leaf and tensor.requires_grad) or not tensor.is_floating_point():
                return tensor
            ref = self._latest.keep(tensor, self.tape.store)
            return ref if self.tape.store.keeps else tensor

        def unpack(packed: Any) -> torch.Tensor:
            return torch.from_numpy(self.tape.store.copy(packed)) if isinstance(packed, Ref) else packed

        return torch.autograd.graph.saved_tensors_hooks(pack, unpack)

    def place(self) -> str:
        """Return the innermost layer that is running."""
        return self._open[-1].record.path if self._open else ROOT

    def keep_param_grads(self) -> None:
        for name, parameter in self.module.named_parameters():
            if parameter.grad is not None:
                self.tape.param_grads[name] = self.tape.store.put(to_numpy(parameter.grad))

    def keep_buffers(self) -> None:
        for name, buffer in self.module.named_buffers():
            self.tape.buffers[name] = self.tape.store.put(to_numpy(buffer))

    def _before(self, path: str) -> Callable[..., Any]:
        def hook(layer: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            parent = self._open[-1].record.key if self._open else None
            leaf = next(layer.children(), None) is None
            record = Record(path, type(layer).__name__, self.tape.next_call(path), leaf, parent)
            record.args, record.kwargs = mapped((args, kwargs), is_tensor, self._keep)
            call = _Call(record)
            self._open.append(call)
            if not self.differentiate:
                return None
            return self._alias(call, args), self._alias(call, kwargs)

        return hook

    def _alias(self, call: _Call, value: Any) -> Any:
        """Return ``value`` with an alias of each tensor, in the order of ``tree.leaves``."""
        if isinstance(value, torch.Tensor):
            return self._watched_alias(call, value)
        if isinstance(value, dict):
            made = {key: self._alias(call, value[key]) for key in in_order(value)}
            return {key: made[key] for key in value}
        if isinstance(value, tuple):
            return tuple(self._alias(call, item) for item in value)
        if isinstance(value, list):
            copy = [self._alias(call, item) for item in value]
            call.lists.append((value, copy))
            return copy
        return value

    def _watched_alias(self, call: _Call, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.requires_grad:
            call.record.input_grads.append(None)
            return tensor
        alias = tensor.view_as(tensor)
        slot = Slot()
        alias.register_hook(self._filler(slot))
        call.inputs.append((len(call.record.input_grads), tensor, tensor._version, self._watch(self._base(tensor))))
        self._origins[alias] = (tensor, slot)
        call.record.input_grads.append(slot)
        self._refs[alias] = (alias._version, self._keep(tensor))
        return alias

    def _after(self, layer: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        call = self._open.pop()
        record = call.record
        for original, copy in call.lists:
            original.extend(copy[len(original) :])  # items that the layer appended to its input list
        for index, tensor, version, slot in call.inputs:
            if tensor._version != version:
                # Overwritten by the layer: gradients then bypass the alias, and all later users see the overwritten
                # tensor, so its own gradient is this layer's share.
                record.input_grads[index] = slot
                self._note_bypassed(tensor, slot)
        likes = self._likes(record.key)
        record.outputs = mapped(output, is_tensor, lambda tensor: self._keep(tensor, next(likes)))
        self.tape.records.append(record)
        if not self.differentiate:
            return None
        tensors = [*leaves(output, is_tensor)]
        record.output_grads = [self._watch(self._returned.get(tensor, tensor)) for tensor in tensors]
        if len(tensors) > 1:
            output = self._outside(output)
        record.outer_grads = [self._watch(tensor) for tensor in leaves(output, is_tensor)]
        return output

    def _outside(self, value: Any) -> Any:
        """Return an alias of one of several outputs, since the layer may compute another output from it."""
        if type(value) in (dict, OrderedDict):
            return type(value)((key, self._outside(item)) for key, item in value.items())
        if type(value) in (list, tuple):
            return type(value)(self._outside(item) for item in value)
        if not isinstance(value, torch.Tensor) or not value.requires_grad:
            return value
        alias = value.view_as(value)
        self._returned[alias] = self._returned.get(value, value)
        self._refs[alias] = (alias._version, self._keep(value))
        return alias

    def _base(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensor behind an alias that a layer returned unchanged (``nn.Identity``)."""
        while tensor in self._origins:
            tensor = self._origins[tensor][0]
        return tensor

    def _note_bypassed(self, tensor: torch.Tensor, slot: Slot | None) -> None:
        """Mark the aliases behind an overwritten one as bypassed: they share the gradient of the tensor behind them."""
        while tensor in self._origins:
            known = self._slots.get(tensor)
            tensor, share = self._origins[tensor]
            self._bypassed += [(lost, slot) for lost in (share, known and known[1]) if lost and slot]

    def fill_bypassed(self) -> None:
        """Fill in, after the backward pass, the gradients that no hook receives."""
        for lost, slot in self._bypassed:
            lost.ref = lost.ref or slot.ref

    def _watch(self, tensor: torch.Tensor) -> Slot | None:
        if not tensor.requires_grad:
            return None
        known = self._slots.get(tensor)
        if known is None or known[0] != tensor._version:
            slot = Slot()
            tensor.register_hook(self._filler(slot))
            known = self._slots[tensor] = (tensor._version, slot)
        return known[1]

    def _filler(self, slot: Slot) -> Callable[[torch.Tensor], None]:
        def fill(grad: torch.Tensor) -> None:
            slot.ref = self._latest_grads.keep(grad, self.tape.store)

        return fill

    def _likes(self, key: Key) -> Iterator[Ref | None]:
        """Yield for each output of a call the output of the guide's call of that name."""
        twin = self._guide.get(key)
        yield from twin.output_refs() if twin is not None else ()
        yield from repeat(None)

    def _keep(self, tensor: torch.Tensor, like: Ref | None = None) -> Ref:
        known = self._refs.get(tensor)
        if known is None or known[0] != tensor._version:
            known = self._refs[tensor] = (tensor._version, self._latest.keep(tensor, self.tape.store, like))
        return known[1]
