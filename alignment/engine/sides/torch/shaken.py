"""Run the reference with perturbed weights and record the inputs of each layer. torch only.

With initial weights (a scale of 1, a shift of 0, a layer scale of 1e-6) layers could be swapped without any effect.
With perturbed weights no two layers are equal by chance. The module is borrowed and in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from alignment.engine.pairing.prints import AGREE, Recorded, prints
from alignment.engine.records.tree import as_call, is_array, leaves, mapped
from alignment.engine.sides.torch.arrays import is_tensor, to_numpy
from alignment.engine.sides.torch.capture import to_tensor
from convert.matching.layers import tensors_of

SHAKEN = 0.3
"""The spread added to a tensor of equal values; a third of it is the relative change of other tensors."""


def shake(module: torch.nn.Module, seed: int = 0) -> None:
    """Change every parameter and running statistic: afterwards no tensor is constant or equal to another."""
    generator = np.random.RandomState(seed)
    done: set[int] = set()
    for name, tensor in tensors_of(module).items():
        state = name.endswith(("running_mean", "running_var"))
        if id(tensor) not in done and tensor.is_floating_point() and (state or isinstance(tensor, torch.nn.Parameter)):
            done.add(id(tensor))
            tensor.data.copy_(torch.from_numpy(_shaken(to_numpy(tensor.data), generator)))


def _shaken(values: np.ndarray, generator: np.random.RandomState) -> np.ndarray:
    """Perturb values; positive ones stay positive, as a variance or a scale."""
    noise = SHAKEN * generator.standard_normal(values.shape)
    positive = bool((values > 0).all())
    if values.std() > AGREE * np.abs(values).max():
        return values * np.exp(noise / 3) if positive else values + noise / 3 * values.std()
    if positive:
        return values * np.exp(noise) if values.max() >= SHAKEN else values + np.abs(noise)
    return values + noise


def record(module: torch.nn.Module, inputs: Any, paths: frozenset[str], outputs: bool = False) -> Recorded:
    """Run the reference and record the calls of the layers ``paths``, with their ``outputs`` if requested."""
    found = Recorded()

    def before(path: str) -> Callable[..., None]:
        def hook(layer: torch.nn.Module, args: Any, kwargs: Any) -> None:
            if path not in found.order:
                found.order.append(path)
            if path in paths:
                found.inputs[path].append(prints((args, kwargs), is_tensor, to_numpy))

        return hook

    def after(path: str) -> Callable[..., None]:
        def hook(layer: torch.nn.Module, args: Any, output: Any) -> None:
            found.outputs[path].append([to_numpy(tensor).copy() for tensor in leaves(output, is_tensor)])

        return hook

    handles = []
    for path, layer in module.named_modules():
        handles.append(layer.register_forward_pre_hook(before(path), with_kwargs=True))
        if outputs and path in paths and next(layer.children(), None) is None:
            handles.append(layer.register_forward_hook(after(path)))
    try:
        with torch.no_grad(), _without_fast_path():
            args, kwargs = mapped(as_call(inputs), is_array, lambda a: to_tensor(a, module, False))
            found.result = [to_numpy(tensor).copy() for tensor in leaves(module(*args, **kwargs), is_tensor)]
    finally:
        for handle in handles:
            handle.remove()
    return found


@contextmanager
def _without_fast_path() -> Iterator[None]:
    """Disable the fused kernel of torch's TransformerEncoderLayer in evaluation, which calls none of its layers."""
    kept = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(kept)
