"""Give a torch module the accepted settings of its port. torch only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from alignment.engine.sides.kept import attributes_kept
from alignment.engine.sides.torch.kernels import in_float32
from alignment.engine.sides.torch.settings import EPSILON_IN_FLOAT32


class CannotSet(ValueError):
    """torch has no such setting: ``layer``, ``field`` and the port's ``value``."""

    def __init__(self, layer: str, field: str, value: Any):
        super().__init__(f"{field} {value} of {layer} cannot be accepted: torch's layer has no such setting")
        self.layer, self.field, self.value = layer, field, value


def _symmetric(padding: Any) -> Any:
    """Return symmetric padding: torch's layers pad equally before and after."""
    if isinstance(padding, str) or any(before != after for before, after in padding):
        raise ValueError(padding)
    return tuple(before for before, _ in padding)


def _as_given(value: Any) -> Any:
    return value


Attribute = tuple[str, Callable[[Any], Any]]

POOLS = (nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd)
SIZES: dict[str, Attribute] = {
    "kernel_size": ("kernel_size", _as_given), "stride": ("stride", _as_given), "padding": ("padding", _symmetric),
    "dilation": ("dilation", _as_given), "ceil_mode": ("ceil_mode", _as_given),
    "count_include_pad": ("count_include_pad", _as_given), "divisor": ("divisor_override", _as_given),
}  # fmt: skip

ATTRIBUTES: list[tuple[Any, dict[str, Attribute]]] = [
    (EPSILON_IN_FLOAT32, {"epsilon": ("eps", in_float32), "momentum": ("momentum", _as_given)}),
    (nn.GroupNorm, {"epsilon": ("eps", _as_given)}),
    (nn.modules.conv._ConvNd, {name: SIZES[name] for name in ("stride", "padding", "dilation")}),
    (POOLS, SIZES),
    ((nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd),
     {"output_size": ("output_size", _as_given)}),
    (nn.Upsample, {name: (name, _as_given) for name in ("mode", "align_corners", "size", "scale_factor")}),
    (nn.Flatten, {"start": ("start_dim", _as_given), "stop": ("end_dim", _as_given)}),
    ((nn.Softmax, nn.LogSoftmax, nn.GLU), {"dim": ("dim", _as_given)}),
    (nn.LeakyReLU, {"slope": ("negative_slope", _as_given)}),
    ((nn.ELU, nn.CELU), {"alpha": ("alpha", _as_given)}),
    (nn.GELU, {"approximate": ("approximate", lambda value: "tanh" if value else "none")}),
    (nn.Softplus, {"beta": ("beta", _as_given), "threshold": ("threshold", _as_given)}),
    (nn.Hardtanh, {"min": ("min_val", _as_given), "max": ("max_val", _as_given)}),
    ((nn.Hardshrink, nn.Softshrink), {"threshold": ("lambd", _as_given)}),
    (nn.modules.dropout._DropoutNd, {"rate": ("p", _as_given)}),
]  # fmt: skip
"""For a class of layers: the torch attribute of each field, and the conversion of its value."""


@contextmanager
def set_as_port(layers: Mapping[str, nn.Module], wanted: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """Give ``layers`` the settings ``wanted``, ``{path: {field: value of the port}}``, inside the context.

    Raises ``CannotSet`` where torch's layer has no such setting: then nothing proves that it is the only difference.
    """
    with attributes_kept([layers[path] for path in wanted]):
        for path, fields in wanted.items():
            for field, value in fields.items():
                _set(path, layers[path], field, value)
        yield


def _set(path: str, layer: nn.Module, field: str, value: Any) -> None:
    if isinstance(layer, nn.Hardsigmoid) and field == "slope":
        layer.forward = lambda input: _Hardsigmoid.apply(input, in_float32(value))
        return
    known = next((attributes for kinds, attributes in ATTRIBUTES if isinstance(layer, kinds)), {})
    try:
        name, convert = known[field]
        setattr(layer, name, convert(value))
    except (KeyError, ValueError) as error:
        raise CannotSet(path, field, value) from error


class _Hardsigmoid(torch.autograd.Function):
    """``clip(slope * x + 1/2, 0, 1)``; torch's own has only a slope of 1/6."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, slope: float) -> torch.Tensor:
        """Return the clipped line."""
        output = (input * slope + 0.5).clamp(0, 1)
        ctx.save_for_backward(output)
        ctx.slope = slope
        return output

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the slope between the two ends."""
        output = ctx.saved_tensors[0]
        return grad * ctx.slope * ((output > 0) & (output < 1)), None
