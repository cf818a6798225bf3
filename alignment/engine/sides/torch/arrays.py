"""Convert torch tensors to arrays. torch only."""

from __future__ import annotations

import numpy as np
import torch


def is_tensor(value: object) -> bool:
    """Return whether ``value`` is a torch tensor."""
    return isinstance(value, torch.Tensor)


def is_trained(tensor: torch.Tensor) -> bool:
    """Return whether a parameter is trained."""
    return tensor.requires_grad


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Return the tensor's values; bfloat16, which numpy lacks, exactly as float32."""
    tensor = tensor.detach().resolve_conj().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def array_of(tensor: torch.Tensor) -> np.ndarray:
    """Return a copy; complex numbers as pairs of real ones, bfloat16 as float32."""
    tensor = tensor.detach().cpu()
    tensor = tensor.to_dense() if tensor.layout != torch.strided else tensor  # the gradient of a sparse embedding
    tensor = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy().copy()
