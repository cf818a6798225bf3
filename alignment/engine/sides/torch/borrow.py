"""Borrow a torch module: run it in other dtypes and modes, and return it exactly as it was. torch only."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

from alignment.engine.sides.kept import attributes_kept, in_other_type
from alignment.engine.sides.model import Half, Owned, Tensors, refuse_unknown_mode
from alignment.engine.sides.torch.arrays import is_tensor, to_numpy
from alignment.engine.sides.torch.settings import describe, round_epsilons
from convert.key_map import DROPPED


@contextmanager
def borrow(model: torch.nn.Module, mode: str) -> Iterator[Half]:
    """Borrow ``model`` in ``mode``, as ``Half.of`` does, with its epsilons rounded as in Paddle; restore it at exit.

    Raises ``ValueError`` for an unknown ``mode``.
    """
    refuse_unknown_mode(mode)
    with settings_kept(), _restored(model):
        epsilons = round_epsilons(model)
        half = Half.of("torch", model, model.named_modules(), mode, describe)
        if epsilons:
            values = ", ".join(map(repr, sorted(set(epsilons.values()))))
            half.notes["epsilon"] = f"of normalisation, in torch: {values}, as Paddle keeps it (float32)"
        yield half


@contextmanager
def settings_kept() -> Iterator[None]:
    """Restore what a model's code may change of torch: gradients, default dtype, threads, autocast, generator, ...

    A run under another setting is another computation, and so would be all later ones.
    """
    dtype, grad, threads = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
    exact, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    autocast, halved = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(exact, warn_only=warn)
        torch.set_autocast_enabled("cpu", autocast)
        torch.set_autocast_dtype("cpu", halved)


@contextmanager
def in_type(model: torch.nn.Module, dtype: str, nudge: int = 0) -> Iterator[None]:
    """Replace the weights, buffers and tensors in plain attributes of ``model`` by copies in ``dtype`` in this context.

    Caches are empty at the start. Integers and booleans keep their dtype. Parameters are larger by ``nudge`` units in
    the last place, so that everything is rounded differently.
    """
    tensors, wanted = [*model.parameters(), *model.buffers()], getattr(torch, dtype)
    kept = [tensor.data for tensor in tensors]
    with attributes_kept(model.modules()), made_in(dtype):
        in_other_type([*model.modules()], is_tensor, tensors, lambda tensor: tensor.detach().to(wanted, copy=True))
        try:
            for tensor in tensors:
                if tensor.is_floating_point():
                    tensor.data = tensor.data.to(wanted, copy=True)
                    if nudge and isinstance(tensor, torch.nn.Parameter):
                        tensor.data *= 1 + nudge * torch.finfo(wanted).eps
                else:
                    tensor.data = tensor.data.clone()
            yield
        finally:
            for tensor, data in zip(tensors, kept):
                tensor.data = data


@contextmanager
def made_in(dtype: str) -> Iterator[None]:
    """Create new tensors (``torch.zeros``) in ``dtype`` inside the context."""
    kept = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        yield
    finally:
        torch.set_default_dtype(kept)


def copied(model: torch.nn.Module, dtype: str) -> torch.nn.Module:
    """Return a copy of ``model`` in ``dtype``."""
    return copy.deepcopy(model).to(getattr(torch, dtype))


@contextmanager
def threads_as_torch() -> Iterator[None]:
    """Let Paddle use as many threads as torch inside the context; its default is one."""
    with threadpool_limits(torch.get_num_threads(), user_api="openmp"):
        yield


@contextmanager
def _restored(module: torch.nn.Module) -> Iterator[None]:
    """Restore modes, epsilons, attributes, gradients and trained flags at exit."""
    parameters = [*module.parameters()]
    grads = [(parameter, parameter.grad, parameter.requires_grad) for parameter in parameters]
    with attributes_kept(module.modules()):
        try:
            yield
        finally:
            for parameter, grad, trained in grads:
                parameter.grad = grad
                parameter.requires_grad_(trained)


def own_tensors(layer: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers that ``layer`` itself holds, except counters, by their own names."""
    own = {**dict(layer.named_parameters(recurse=False)), **dict(layer.named_buffers(recurse=False))}
    return {name: value for name, value in own.items() if name not in DROPPED}


def own_arrays(model: torch.nn.Module) -> Tensors:
    """Return all tensors by full name."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    owned = (_owned(name, value) for name, value in named if name.rpartition(".")[2] not in DROPPED)
    return Tensors.of(owned, to_numpy)


def _owned(name: str, tensor: torch.Tensor) -> Owned:
    is_parameter = isinstance(tensor, torch.nn.Parameter)
    return Owned(name, tensor, is_parameter, is_parameter and tensor.requires_grad)
