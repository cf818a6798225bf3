"""Describe torch's layers in the vocabulary of ``settings``. torch only."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from alignment.engine.sides.settings import (
    CONTAINER,
    DROPOUT,
    IDENTITY,
    OTHER,
    Settings,
    both_sides,
    from_the_last_axis,
    keeping_size,
    numbers,
    pairs_of,
)

Reader = Callable[[Any], tuple[str, dict[str, Any]]]
Kinds = type[nn.Module] | tuple[type[nn.Module], ...]

ACTIVATIONS: dict[type[nn.Module], Callable[[Any], dict[str, Any]]] = {
    nn.ReLU: lambda m: {"kind": "relu"},
    nn.ReLU6: lambda m: {"kind": "relu6"},
    nn.LeakyReLU: lambda m: {"kind": "leaky_relu", "slope": m.negative_slope},
    nn.RReLU: lambda m: {"kind": "rrelu", "lower": m.lower, "upper": m.upper, "training": m.training},
    nn.ELU: lambda m: {"kind": "elu", "alpha": m.alpha},
    nn.CELU: lambda m: {"kind": "celu", "alpha": m.alpha},
    nn.SELU: lambda m: {"kind": "selu"},
    nn.GELU: lambda m: {"kind": "gelu", "approximate": m.approximate == "tanh"},
    nn.SiLU: lambda m: {"kind": "silu"},
    nn.Sigmoid: lambda m: {"kind": "sigmoid"},
    nn.LogSigmoid: lambda m: {"kind": "log_sigmoid"},
    nn.Tanh: lambda m: {"kind": "tanh"},
    nn.Hardtanh: lambda m: {"kind": "hardtanh", "min": m.min_val, "max": m.max_val},
    nn.Hardswish: lambda m: {"kind": "hardswish"},
    nn.Hardsigmoid: lambda m: {"kind": "hardsigmoid", "slope": 1 / 6},
    nn.Hardshrink: lambda m: {"kind": "hardshrink", "threshold": m.lambd},
    nn.Softshrink: lambda m: {"kind": "softshrink", "threshold": m.lambd},
    nn.Tanhshrink: lambda m: {"kind": "tanhshrink"},
    nn.Softsign: lambda m: {"kind": "softsign"},
    nn.Softplus: lambda m: {"kind": "softplus", "beta": m.beta, "threshold": m.threshold},
    nn.Threshold: lambda m: {"kind": "threshold", "threshold": m.threshold, "value": m.value},
    nn.Mish: lambda m: {"kind": "mish"},
    nn.Softmax: lambda m: {"kind": "softmax", "dim": m.dim},
    nn.Softmax2d: lambda m: {"kind": "softmax", "dim": -3},
    nn.LogSoftmax: lambda m: {"kind": "log_softmax", "dim": m.dim},
    nn.GLU: lambda m: {"kind": "glu", "dim": m.dim},
}


def describe(layer: nn.Module) -> Settings:
    """Return the settings of ``layer``. An unknown kind of layer is ``other``, one with sublayers a ``container``."""
    shapes = {name: tuple(value.shape) for name, value in layer.named_parameters(recurse=False)}
    for known, read in _READERS:
        if isinstance(layer, known):
            category, fields = read(layer)
            return Settings(category, {**fields, "training": layer.training}, shapes)
    for known, read_activation in ACTIVATIONS.items():
        if type(layer) is known:
            return Settings("activation", read_activation(layer), shapes)
    composite = next(layer.children(), None) is not None
    return Settings(CONTAINER if composite else OTHER, {"training": layer.training}, shapes)


def _dims(module: nn.Module) -> int:
    """Return the dimensions of space, from the name of the class or of a base class (timm's ``AvgPool2dSame``)."""
    found = (re.search(r"([123])d", kind.__name__) for kind in type(module).__mro__)
    return next((int(match[1]) for match in found if match), 2)


def _conv(m: Any) -> tuple[str, dict[str, Any]]:
    dims = len(m.kernel_size)
    padding = both_sides(m.padding, dims)
    fields = dict(
        stride=tuple(m.stride),
        padding=keeping_size(m.kernel_size, m.dilation) if padding == "same" else padding,  # its stride is 1
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
    fields = dict(epsilon=m.eps, affine=m.affine, use_batch=_uses_batch(m), global_stats=False)
    # without running statistics there is no momentum
    return "batch_norm", fields | ({"momentum": m.momentum} if m.track_running_stats else {})


def _uses_batch(m: Any) -> bool:
    """Return whether a normalisation uses the batch's statistics: always if it has no others."""
    return m.training or m.running_mean is None


def _instance_norm(m: Any) -> tuple[str, dict[str, Any]]:
    return "instance_norm", dict(epsilon=m.eps, affine=m.affine, use_batch=_uses_batch(m))


def _layer_norm(m: Any) -> tuple[str, dict[str, Any]]:
    bias = m.bias is not None
    return "layer_norm", dict(
        epsilon=m.eps, normalized_shape=tuple(m.normalized_shape), weight=m.weight is not None, bias=bias
    )


def _rms_norm(m: Any) -> tuple[str, dict[str, Any]]:
    return "rms_norm", dict(epsilon=m.eps, normalized_shape=tuple(m.normalized_shape), weight=m.weight is not None)


def _group_norm(m: Any) -> tuple[str, dict[str, Any]]:
    return "group_norm", dict(epsilon=m.eps, groups=m.num_groups, affine=m.affine)


def _response_norm(m: Any) -> tuple[str, dict[str, Any]]:
    return "local_response_norm", dict(size_of_window=m.size, alpha=m.alpha, beta=m.beta, k=m.k)


def _windows(m: Any, kind: str) -> dict[str, Any]:
    """Return the settings common to all pools."""
    dims = _dims(m)
    stride = m.kernel_size if m.stride is None else m.stride
    return dict(
        kind=kind, kernel_size=pairs_of(m.kernel_size, dims), stride=pairs_of(stride, dims), ceil_mode=m.ceil_mode
    )


def _max_pool(m: Any) -> tuple[str, dict[str, Any]]:
    dims = _dims(m)
    more = dict(padding=both_sides(m.padding, dims), dilation=pairs_of(m.dilation, dims), indices=m.return_indices)
    return "pool", _windows(m, "max") | more


def _avg_pool(m: Any) -> tuple[str, dict[str, Any]]:
    more = dict(padding=both_sides(m.padding, _dims(m)), count_include_pad=m.count_include_pad)
    return "pool", _windows(m, "avg") | more | dict(divisor=getattr(m, "divisor_override", None))


def _lp_pool(m: Any) -> tuple[str, dict[str, Any]]:
    return "pool", _windows(m, "lp") | dict(power=float(m.norm_type), padding=((0, 0),) * _dims(m))


def _unpool(m: Any) -> tuple[str, dict[str, Any]]:
    dims = _dims(m)
    sizes = dict(kernel_size=pairs_of(m.kernel_size, dims), stride=pairs_of(m.stride, dims))
    return "unpool", sizes | dict(padding=both_sides(m.padding, dims))


def _adaptive(kind: str) -> Reader:
    def read(m: Any) -> tuple[str, dict[str, Any]]:
        fields = dict(kind=kind, output_size=pairs_of(m.output_size, _dims(m)))
        return "adaptive_pool", fields | (dict(indices=m.return_indices) if kind == "max" else {})

    return read


def _dropout(m: Any) -> tuple[str, dict[str, Any]]:
    kind = type(m).__name__.lower()
    whole = "channels" if re.search(r"[123]d$|^feature", kind) else "elements"
    fields = dict(rate=float(m.p), drops=whole, alpha="alpha" in kind)
    return DROPOUT, fields | ({} if "alpha" in kind else dict(mode="upscale_in_train"))


def _upsample(m: Any) -> tuple[str, dict[str, Any]]:
    size = tuple(m.size) if isinstance(m.size, (list, tuple)) else m.size
    return "upsample", dict(
        mode=m.mode, align_corners=bool(m.align_corners), align_mode=0, size=size, scale_factor=numbers(m.scale_factor)
    )


def _pad(mode: str) -> Reader:
    def read(m: Any) -> tuple[str, dict[str, Any]]:
        return "pad", dict(padding=from_the_last_axis(m.padding), mode=mode, value=float(getattr(m, "value", 0.0)))

    return read


def _patches(m: Any) -> dict[str, Any]:
    names = ("kernel_size", "dilation", "stride")
    return {name: pairs_of(getattr(m, name), 2) for name in names} | dict(padding=both_sides(m.padding, 2))


def _embedding(m: Any) -> tuple[str, dict[str, Any]]:
    return "embedding", dict(
        padding_idx=m.padding_idx, max_norm=m.max_norm, norm_type=m.norm_type, by_frequency=m.scale_grad_by_freq
    )


def _recurrent(m: Any) -> tuple[str, dict[str, Any]]:
    return "recurrent", dict(
        kind=m.mode.lower(), hidden_size=m.hidden_size, layers=m.num_layers, bidirectional=m.bidirectional,
        batch_first=m.batch_first, rate=float(m.dropout), bias=m.bias, projection=m.proj_size,
    )  # fmt: skip


def _recurrent_cell(m: Any) -> tuple[str, dict[str, Any]]:
    kind = type(m).__name__.removesuffix("Cell").lower()
    return "recurrent", dict(
        kind=f"rnn_{m.nonlinearity}" if kind == "rnn" else kind, hidden_size=m.hidden_size, bias=m.bias
    )


def _attention(m: Any) -> tuple[str, dict[str, Any]]:
    return CONTAINER, dict(
        kind="attention", heads=m.num_heads, rate=float(m.dropout), bias=m.in_proj_bias is not None,
        zero_attention=m.add_zero_attn, key_bias=m.bias_k is not None,
    )  # fmt: skip


_READERS: list[tuple[Kinds, Reader]] = [
    (nn.modules.conv._ConvNd, _conv),
    (nn.Linear, _linear),
    (nn.Bilinear, lambda m: ("bilinear", dict(bias=m.bias is not None))),
    (nn.modules.instancenorm._InstanceNorm, _instance_norm),
    (nn.modules.batchnorm._BatchNorm, _batch_norm),
    (nn.LayerNorm, _layer_norm),
    (nn.RMSNorm, _rms_norm),
    (nn.GroupNorm, _group_norm),
    (nn.LocalResponseNorm, _response_norm),
    (nn.modules.pooling._MaxPoolNd, _max_pool),
    (nn.modules.pooling._AvgPoolNd, _avg_pool),
    (nn.modules.pooling._LPPoolNd, _lp_pool),
    (nn.modules.pooling._MaxUnpoolNd, _unpool),
    (nn.modules.pooling._AdaptiveAvgPoolNd, _adaptive("avg")),
    (nn.modules.pooling._AdaptiveMaxPoolNd, _adaptive("max")),
    (nn.modules.dropout._DropoutNd, _dropout),
    (nn.Flatten, lambda m: ("flatten", dict(start=m.start_dim, stop=m.end_dim))),
    (nn.Unflatten, lambda m: ("unflatten", dict(dim=m.dim, sizes=tuple(m.unflattened_size)))),
    (nn.Upsample, _upsample),
    (nn.modules.padding._ConstantPadNd, _pad("constant")),
    (nn.modules.padding._ReflectionPadNd, _pad("reflect")),
    (nn.modules.padding._ReplicationPadNd, _pad("replicate")),
    (nn.modules.padding._CircularPadNd, _pad("circular")),
    (nn.Unfold, lambda m: ("unfold", _patches(m))),
    (nn.Fold, lambda m: ("fold", _patches(m) | dict(output_size=pairs_of(m.output_size, 2)))),
    (nn.Embedding, _embedding),
    (nn.PReLU, lambda m: ("activation", dict(kind="prelu"))),
    (nn.Identity, lambda m: (IDENTITY, {})),
    (nn.PixelShuffle, lambda m: ("pixel_shuffle", dict(factor=m.upscale_factor))),
    (nn.PixelUnshuffle, lambda m: ("pixel_unshuffle", dict(factor=m.downscale_factor))),
    (nn.ChannelShuffle, lambda m: ("channel_shuffle", dict(groups=m.groups))),
    (nn.RNNBase, _recurrent),
    (nn.RNNCellBase, _recurrent_cell),
    (nn.MultiheadAttention, _attention),
    (nn.CosineSimilarity, lambda m: ("cosine_similarity", dict(dim=m.dim, epsilon=m.eps))),
    (nn.PairwiseDistance, lambda m: ("distance", dict(power=float(m.norm), epsilon=m.eps, keepdim=m.keepdim))),
]


EPSILON_IN_FLOAT32 = (nn.modules.batchnorm._NormBase, nn.LayerNorm)
"""Normalisations whose epsilon Paddle's kernels keep in float32. GroupNorm's is float64, as is a hand-written one's."""


def round_epsilons(module: nn.Module) -> dict[str, float]:
    """Round ``eps`` to float32 in layers whose twins keep it in float32; return the values by layer path.

    1e-5 in float64 and in float32 differ by 2.5e-8 relative, which alone would separate DLA60's logits by 5e-12.
    """
    rounded = {}
    for path, layer in module.named_modules():
        if isinstance(layer, EPSILON_IN_FLOAT32) and isinstance(layer.eps, float):
            layer.eps = rounded[path] = torch.tensor(layer.eps, dtype=torch.float32).item()
    return rounded
