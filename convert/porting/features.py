"""Find the layer of a port that returns the output of the reference's ``forward_features``. Uses both frameworks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from convert.porting.arguments import Arguments, called, each
from convert.porting.watching import run_watched

LIMIT = 1e-9
"""Largest difference, relative to the largest value, in float64.

BatchNorm's float32 epsilon causes 5e-12; the output of another layer differs by 1.
"""


def features_layer(reference: Any, port: Any, inputs: Arguments) -> str | None:
    """Return the layer of ``port`` whose output equals that of ``reference.forward_features``.

    Both models have the same weights and run in float64 and evaluation mode; ``inputs`` are arrays. If nested layers
    return the same output, the outermost is chosen. Returns ``None`` if the reference has no such method, or if no
    layer returns its output: the method may end between two layers.
    """
    from alignment.engine.borrowed import PORT, REFERENCE, borrow

    method = getattr(reference, "forward_features", None)
    if not callable(method):
        return None
    with borrow(reference, port, "eval"), REFERENCE.in_type(reference, "float64"), PORT.in_type(port, "float64"):
        wanted = _wanted(method, inputs)
        found = [] if wanted is None else _that_return(wanted, port, inputs)
    if not found:
        return None
    # in the order in which they finish: later layers, such as dropout, may pass the output on unchanged
    first = found[0]
    return min((name for name in found if name == first or first.startswith(f"{name}.")), key=len)


def _wanted(method: Callable[..., Any], inputs: Arguments) -> np.ndarray | None:
    import torch

    def tensor(array: np.ndarray) -> Any:
        return torch.from_numpy(array.astype(np.float64) if array.dtype.kind == "f" else array.copy())

    with torch.no_grad():
        try:
            features = called(method, each(inputs, tensor))
        except Exception:  # noqa: BLE001 - a method of the same name with another meaning
            return None
    return features.numpy() if isinstance(features, torch.Tensor) and features.is_floating_point() else None


def _that_return(wanted: np.ndarray, port: Any, inputs: Arguments) -> list[str]:
    """Return the layers of ``port`` that are called once and return ``wanted``, in the order in which they finish."""
    import paddle

    calls: dict[str, list[bool]] = {}
    limit = LIMIT * np.abs(wanted).max(initial=0.0)

    def see(name: str, _given: Any, output: Any) -> None:
        alike = isinstance(output, paddle.Tensor) and tuple(output.shape) == wanted.shape
        same = alike and bool(np.abs(output.numpy() - wanted).max(initial=0.0) <= limit)
        calls.setdefault(name, []).append(same)

    run_watched(port, each(inputs, lambda array: array.astype("float64") if array.dtype.kind == "f" else array), see)
    return [name for name, same in calls.items() if same == [True]]
