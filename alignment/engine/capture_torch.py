"""Run a torch module and record every layer. torch only.

Outputs are copied inside the hook: models overwrite them in place later (timm's DLA does, by ``ReLU(inplace=True)``
and ``out += shortcut``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from alignment.engine.tape import ROOT, Tape, leaves


@torch.no_grad()
def capture(module: torch.nn.Module, inputs: Sequence[np.ndarray]) -> Tape:
    """The tape of ``module(*inputs)``, in the mode and type that the module is in; hooks are removed again.

    Floating-point inputs are cast to the type of the module's parameters.
    """
    names = dict(module.named_modules())
    tape = Tape({path or ROOT: type(layer).__name__ for path, layer in names.items()})
    handles = [layer.register_forward_hook(_recorder(tape, path or ROOT)) for path, layer in names.items()]
    try:
        module(*(_tensor(array, module) for array in inputs))
    finally:
        for handle in handles:
            handle.remove()
    return tape


def _tensor(array: np.ndarray, module: torch.nn.Module) -> torch.Tensor:
    tensor = torch.from_numpy(np.array(array))
    dtype = next((p.dtype for p in module.parameters()), tensor.dtype)
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _recorder(tape: Tape, path: str) -> Callable[..., None]:
    def hook(layer: torch.nn.Module, inputs: object, output: object) -> None:
        arrays = [tensor.detach().cpu().numpy().copy() for tensor in leaves(output, torch.Tensor)]
        leaf = next(layer.children(), None) is None
        tape.add(path, type(layer).__name__, leaf, arrays)

    return hook
