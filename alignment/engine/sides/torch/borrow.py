"""A torch module, borrowed: run in other types and modes, and given back exactly as it was. torch only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from alignment.engine.records.tape import ROOT
from alignment.engine.sides.kept import attributes_kept, emptied_caches, plain_tensors
from alignment.engine.sides.model import Half, mixed_modes, refuse_unknown_mode
from alignment.engine.sides.torch.settings import describe, round_epsilons
from convert.key_map import DROPPED


@contextmanager
def borrow_torch(module: torch.nn.Module, mode: str) -> Iterator[Half]:
    """``module`` in ``mode`` with its epsilons as Paddle keeps them; put back at the end, whatever happens.

    A module whose layers are all in one mode is put into ``mode``. One whose layers are in several keeps them: that is
    either meant (a frozen BatchNorm) or the fault to be found. Dropout is read, then switched off.

    Raises ``ValueError`` for an unknown ``mode``.
    """
    refuse_unknown_mode(mode)
    with torch.random.fork_rng(), _restored(module):
        layers = {path or ROOT: layer for path, layer in module.named_modules()}
        notes = mixed_modes("torch", layers.values())
        if not notes:
            module.train(mode == "train")
        epsilons = round_epsilons(module)
        if epsilons:
            values = ", ".join(map(repr, sorted(set(epsilons.values()))))
            notes["epsilon"] = f"of normalisation, in torch: {values}, as Paddle keeps it (float32)"
        half = Half(layers, {path: describe(layer) for path, layer in layers.items()}, notes)
        half.switch_dropout_off()
        yield half


@contextmanager
def torch_in(module: torch.nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Within it the weights and buffers of ``module`` are copies in ``dtype``, and so are tensors in plain attributes.

    Caches are empty at the start. Integers and booleans stay what they are.
    """
    tensors = [*module.parameters(), *module.buffers()]
    kept = [tensor.data for tensor in tensors]
    with attributes_kept(module.modules()), _made_in(dtype):
        emptied_caches(module.modules())
        for holder, key, tensor in [*plain_tensors(module.modules(), _is_tensor, tensors)]:
            if tensor.is_floating_point():
                holder[key] = tensor.detach().to(dtype, copy=True)
        try:
            for tensor in tensors:
                if tensor.is_floating_point():
                    tensor.data = tensor.data.to(dtype, copy=True)
                else:
                    tensor.data = tensor.data.clone()
            yield
        finally:
            for tensor, data in zip(tensors, kept):
                tensor.data = data


@contextmanager
def _made_in(dtype: torch.dtype) -> Iterator[None]:
    """Within it tensors that a module makes on the way (``torch.zeros``) are of ``dtype``."""
    kept = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(kept)


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


@contextmanager
def _restored(module: torch.nn.Module) -> Iterator[None]:
    """Modes, epsilons, attributes, gradients and what is trained."""
    parameters = [*module.parameters()]
    grads = [(parameter, parameter.grad, parameter.requires_grad) for parameter in parameters]
    with attributes_kept(module.modules()):
        try:
            yield
        finally:
            for parameter, grad, trained in grads:
                parameter.grad = grad
                parameter.requires_grad_(trained)


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's numbers; bfloat16, which numpy lacks, exactly as float32."""
    tensor = tensor.detach().resolve_conj().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def own_arrays(
    module: torch.nn.Module,
) -> tuple[dict[str, np.ndarray], frozenset[str], frozenset[str], dict[str, str]]:
    """All tensors by full name, the names of trained ones, of parameters, and other names of the same tensors."""
    first: dict[int, str] = {}
    arrays, trained, parameters, alias = {}, set(), set(), {}
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    for name, value in named:
        if name.rpartition(".")[2] in DROPPED:
            continue
        if first.setdefault(id(value), name) != name:
            alias[name] = first[id(value)]
        arrays[name] = to_numpy(value)
        if isinstance(value, torch.nn.Parameter):
            parameters.add(name)
            if value.requires_grad:
                trained.add(name)
    return arrays, frozenset(trained), frozenset(parameters), alias
