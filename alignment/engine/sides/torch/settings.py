"""torch's layers in the vocabulary of ``settings``. torch only."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from alignment.engine.sides.settings import CONTAINER, OTHER, Settings, both_sides, is_padded, pairs_of

ACTIVATIONS: dict[type[nn.Module], Callable[[Any], dict[str, Any]]] = {
    nn.ReLU: lambda m: {"kind": "relu"},
    nn.ReLU6: lambda m: {"kind": "relu6"},
    nn.LeakyReLU: lambda m: {"kind": "leaky_relu", "slope": m.negative_slope},
    nn.ELU: lambda m: {"kind": "elu", "alpha": m.alpha},
    nn.GELU: lambda m: {"kind": "gelu", "approximate": m.approximate == "tanh"},
    nn.SiLU: lambda m: {"kind": "silu"},
    nn.Sigmoid: lambda m: {"kind": "sigmoid"},
    nn.Tanh: lambda m: {"kind": "tanh"},
    nn.Hardswish: lambda m: {"kind": "hardswish"},
    nn.Hardsigmoid: lambda m: {"kind": "hardsigmoid", "slope": 1 / 6},
    nn.Softplus: lambda m: {"kind": "softplus", "beta": m.beta},
    nn.Mish: lambda m: {"kind": "mish"},
    nn.Softmax: lambda m: {"kind": "softmax", "dim": m.dim},
}


def describe(module: nn.Module) -> Settings:
    """What ``module`` is set to do. An unknown kind of layer is ``other``, one with sublayers a ``container``."""
    shapes = {name: tuple(value.shape) for name, value in module.named_parameters(recurse=False)}
    for known, read in _READERS:
        if isinstance(module, known):
            category, fields = read(module)
            return Settings(category, {**fields, "training": module.training}, shapes)
    for known, read_activation in ACTIVATIONS.items():
        if type(module) is known:
            return Settings("activation", read_activation(module), shapes)
    composite = next(module.children(), None) is not None
    return Settings(CONTAINER if composite else OTHER, {"training": module.training}, shapes)


def _dims(module: nn.Module) -> int:
    found = re.search(r"([123])d", type(module).__name__)
    return int(found[1]) if found else 2


def _conv(m: Any) -> tuple[str, dict[str, Any]]:
    dims = len(m.kernel_size)
    fields = dict(
        stride=tuple(m.stride),
        padding=both_sides(m.padding, dims),
        dilation=tuple(m.dilation),
        groups=m.groups,
        bias=m.bias is not None,
        padding_mode=m.padding_mode,
    )
    if m.transposed:
        fields["output_padding"] = tuple(m.output_padding)
    return "conv_transpose" if m.transposed else "conv", fields


def _linear(m: Any) -> tuple[str, dict[str, Any]]:
    return "linear", {"bias": m.bias is not None}


def _batch_norm(m: Any) -> tuple[str, dict[str, Any]]:
    return "batch_norm", dict(epsilon=m.eps, momentum=m.momentum, affine=m.affine, use_batch=m.training)


def _layer_norm(m: Any) -> tuple[str, dict[str, Any]]:
    return "layer_norm", dict(epsilon=m.eps, normalized_shape=tuple(m.normalized_shape))


def _group_norm(m: Any) -> tuple[str, dict[str, Any]]:
    return "group_norm", dict(epsilon=m.eps, groups=m.num_groups)


def _instance_norm(m: Any) -> tuple[str, dict[str, Any]]:
    return "instance_norm", dict(epsilon=m.eps)


def _max_pool(m: Any) -> tuple[str, dict[str, Any]]:
    dims = _dims(m)
    return "pool", dict(
        kind="max",
        kernel_size=pairs_of(m.kernel_size, dims),
        stride=pairs_of(m.stride or m.kernel_size, dims),
        padding=both_sides(m.padding, dims),
        ceil_mode=m.ceil_mode,
        dilation=pairs_of(m.dilation, dims),
    )


def _avg_pool(m: Any) -> tuple[str, dict[str, Any]]:
    dims = _dims(m)
    fields = dict(
        kind="avg",
        kernel_size=pairs_of(m.kernel_size, dims),
        stride=pairs_of(m.stride or m.kernel_size, dims),
        padding=both_sides(m.padding, dims),
        ceil_mode=m.ceil_mode,
    )
    if is_padded(fields["padding"]):
        fields["count_include_pad"] = m.count_include_pad
    return "pool", fields


def _adaptive(kind: str) -> Callable[[Any], tuple[str, dict[str, Any]]]:
    def read(m: Any) -> tuple[str, dict[str, Any]]:
        return "adaptive_pool", dict(kind=kind, output_size=pairs_of(m.output_size, _dims(m)))

    return read


def _dropout(m: Any) -> tuple[str, dict[str, Any]]:
    return "dropout", dict(rate=float(m.p), mode="upscale_in_train")


def _flatten(m: Any) -> tuple[str, dict[str, Any]]:
    return "flatten", dict(start=m.start_dim, stop=m.end_dim)


def _upsample(m: Any) -> tuple[str, dict[str, Any]]:
    return "upsample", dict(
        mode=m.mode, align_corners=bool(m.align_corners), size=m.size, scale_factor=_numbers(m.scale_factor)
    )


def _numbers(value: Any) -> Any:
    return tuple(map(float, value)) if isinstance(value, (list, tuple)) else None if value is None else float(value)


def _embedding(m: Any) -> tuple[str, dict[str, Any]]:
    return "embedding", dict(padding_idx=m.padding_idx)


def _prelu(m: Any) -> tuple[str, dict[str, Any]]:
    return "activation", dict(kind="prelu")


_READERS: list[tuple[type[nn.Module] | tuple[type[nn.Module], ...], Callable[[Any], tuple[str, dict[str, Any]]]]] = [
    (nn.modules.conv._ConvNd, _conv),
    (nn.Linear, _linear),
    (nn.modules.batchnorm._BatchNorm, _batch_norm),
    (nn.LayerNorm, _layer_norm),
    (nn.GroupNorm, _group_norm),
    (nn.modules.instancenorm._InstanceNorm, _instance_norm),
    (nn.modules.pooling._MaxPoolNd, _max_pool),
    (nn.modules.pooling._AvgPoolNd, _avg_pool),
    (nn.modules.pooling._AdaptiveAvgPoolNd, _adaptive("avg")),
    (nn.modules.pooling._AdaptiveMaxPoolNd, _adaptive("max")),
    (nn.modules.dropout._DropoutNd, _dropout),
    (nn.Flatten, _flatten),
    (nn.Upsample, _upsample),
    (nn.Embedding, _embedding),
    (nn.PReLU, _prelu),
    (nn.Identity, lambda m: ("identity", {})),
    (nn.PixelShuffle, lambda m: ("pixel_shuffle", dict(factor=m.upscale_factor))),
]


def round_epsilons(module: nn.Module) -> dict[str, float]:
    """Round every normalisation's ``eps`` to float32, in which Paddle keeps it; returns the values by layer path.

    1e-5 in float64 and in float32 differ by 2.5e-8 relative, which alone would separate DLA60's logits by 5e-12.
    """
    rounded = {}
    for path, layer in module.named_modules():
        if isinstance(getattr(layer, "eps", None), float):
            layer.eps = rounded[path] = torch.tensor(layer.eps, dtype=torch.float32).item()
    return rounded
