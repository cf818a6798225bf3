"""Describe Paddle's layers in the vocabulary of ``settings``. Paddle only.

Paddle keeps most settings in private attributes; no other file reads them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from paddle import nn

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

SELU = dict(scale=1.0507009873554805, alpha=1.6732632423543772)
"""The constants of SELU's authors (arXiv 1706.02515); a Paddle layer may have others."""

ACTIVATIONS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "ReLU": lambda m: {"kind": "relu"},
    "ReLU6": lambda m: {"kind": "relu6"},
    "LeakyReLU": lambda m: {"kind": "leaky_relu", "slope": m._negative_slope},
    "RReLU": lambda m: {"kind": "rrelu", "lower": m._lower, "upper": m._upper, "training": m.training},
    "ELU": lambda m: {"kind": "elu", "alpha": m._alpha},
    "CELU": lambda m: {"kind": "celu", "alpha": m._alpha},
    "SELU": lambda m: {"kind": "selu" if dict(scale=m._scale, alpha=m._alpha) == SELU else "selu of other constants"},
    "GELU": lambda m: {"kind": "gelu", "approximate": bool(m._approximate)},
    "Silu": lambda m: {"kind": "silu"},
    "SiLU": lambda m: {"kind": "silu"},
    "Swish": lambda m: {"kind": "silu"},
    "Sigmoid": lambda m: {"kind": "sigmoid"},
    "LogSigmoid": lambda m: {"kind": "log_sigmoid"},
    "Tanh": lambda m: {"kind": "tanh"},
    "Hardtanh": lambda m: {"kind": "hardtanh", "min": m._min, "max": m._max},
    "Hardswish": lambda m: {"kind": "hardswish"},
    "Hardsigmoid": lambda m: {"kind": "hardsigmoid", "slope": 0.1666667},  # the default of paddle.nn.functional
    "Hardshrink": lambda m: {"kind": "hardshrink", "threshold": m._threshold},
    "Softshrink": lambda m: {"kind": "softshrink", "threshold": m._threshold},
    "Tanhshrink": lambda m: {"kind": "tanhshrink"},
    "Softsign": lambda m: {"kind": "softsign"},
    "Softplus": lambda m: {"kind": "softplus", "beta": m._beta, "threshold": m._threshold},
    "ThresholdedReLU": lambda m: {"kind": "threshold", "threshold": m._threshold, "value": getattr(m, "_value", 0.0)},
    "Mish": lambda m: {"kind": "mish"},
    "Maxout": lambda m: {"kind": "maxout", "groups": m._groups, "dim": m._axis},
    "Softmax": lambda m: {"kind": "softmax", "dim": m._axis},
    "Softmax2D": lambda m: {"kind": "softmax", "dim": -3},
    "LogSoftmax": lambda m: {"kind": "log_softmax", "dim": m._axis},
    "GLU": lambda m: {"kind": "glu", "dim": m._axis},
}

ROLES = {"_mean": "running_mean", "_variance": "running_var", "_weight": "weight"}
"""Names of a layer's own tensors in Paddle that differ from torch's; InstanceNorm's ``scale`` is one more."""


def describe(layer: nn.Layer) -> Settings:
    """Return the settings of ``layer``. An unknown kind of layer is ``other``, one with sublayers a ``container``."""
    shapes = own_shapes(layer)
    for known, read in _READERS:
        if isinstance(layer, known):
            category, fields = read(layer)
            return Settings(category, {**fields, "training": layer.training}, shapes)
    if type(layer).__name__ in ACTIVATIONS and type(layer).__module__.startswith("paddle."):
        return Settings("activation", ACTIVATIONS[type(layer).__name__](layer), shapes)
    composite = next(iter(layer.children()), None) is not None
    return Settings(CONTAINER if composite else OTHER, {"training": layer.training}, shapes)


def role_of(layer: nn.Layer, name: str) -> str:
    """Return torch's name of the tensor that ``layer`` calls ``name``."""
    if name == "scale" and isinstance(layer, nn.layer.norm._InstanceNormBase):
        return "weight"
    return ROLES.get(name, name)


def own_shapes(layer: nn.Layer) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the layer's own parameters, trained or frozen, in torch's layout.

    A linear weight is transposed.
    """
    shapes = {}
    for name, value in layer._parameters.items():
        if value is not None and name not in ("_mean", "_variance"):
            shape = tuple(value.shape)
            transposed = isinstance(layer, nn.Linear) and name == "weight"
            shapes[role_of(layer, name)] = shape[::-1] if transposed else shape
    return shapes


def is_channels_last(layer: nn.Layer) -> bool:
    """Return whether ``layer`` takes channels behind the dimensions of space."""
    names = ("_data_format", "data_format", "_data_layout")
    layout = next((value for value in (getattr(layer, name, None) for name in names) if value), "NCHW")
    return len(layout) > 2 and layout.endswith("C")


def is_linear(layer: nn.Layer) -> bool:
    """Return whether ``layer`` holds its weight transposed relative to torch's."""
    return isinstance(layer, nn.Linear)


def lacks_backward_in_evaluation(layer: nn.Layer) -> bool:
    """Return whether Paddle has no backward pass of ``layer`` in evaluation, as of LSTM and GRU."""
    return isinstance(layer, nn.layer.rnn.RNNBase)


def _dims(layer: nn.Layer) -> int:
    """Return the dimensions of space, from the name of the class or of a base class."""
    found = (re.search(r"([123])[Dd]", kind.__name__) for kind in type(layer).__mro__)
    return next((int(match[1]) for match in found if match), 2)


def _conv(m: Any) -> tuple[str, dict[str, Any]]:
    dims = len(m._kernel_size)
    transposed = isinstance(m, (nn.Conv1DTranspose, nn.Conv2DTranspose, nn.Conv3DTranspose))
    stride, dilation = pairs_of(m._stride, dims), pairs_of(m._dilation, dims)
    padding = _conv_padding(m, dims)
    if padding == "same" and not transposed:
        # the kernel ignores the layer's dilation here
        dilation = (1,) * dims
        padding = keeping_size(m._kernel_size, dilation) if stride == (1,) * dims else padding
    fields = dict(
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=m._groups,
        bias=m.bias is not None,
        padding_mode=getattr(m, "_padding_mode", "zeros"),
    )
    if transposed:
        fields["output_padding"] = pairs_of(m.output_padding, dims)
    return "conv_transpose" if transposed else "conv", fields


def _conv_padding(m: Any, dims: int) -> Any:
    """Return the padding passed to the kernel; ``_padding`` is only read in the constructor and may differ."""
    algorithm = getattr(m, "_padding_algorithm", "EXPLICIT")
    if getattr(m, "_padding_mode", "zeros") != "zeros" or not hasattr(m, "_updated_padding"):
        return both_sides(m._padding, dims, is_channels_last(m))
    return both_sides(m._updated_padding if algorithm == "EXPLICIT" else algorithm, dims)


def _linear(m: Any) -> tuple[str, dict[str, Any]]:
    return "linear", {"bias": m.bias is not None}


def _batch_norm(m: Any) -> tuple[str, dict[str, Any]]:
    fields = dict(
        epsilon=float(m._epsilon),
        momentum=1 - float(m._momentum),
        affine=m.weight is not None and m.bias is not None,
        use_batch=_uses_batch(m),
        global_stats=bool(m._use_global_stats),
    )
    if getattr(m, "_act", None):
        fields["activation"] = m._act
    return "batch_norm", fields


def _uses_batch(m: Any) -> bool:
    """Return whether a normalisation uses the batch's statistics: ``use_global_stats`` decides if it is given.

    In the older ``nn.BatchNorm`` False means not given.
    """
    chosen = m._use_global_stats
    if isinstance(m, nn.BatchNorm) or chosen is None:
        return m.training and not chosen
    return not chosen


def _instance_norm(m: Any) -> tuple[str, dict[str, Any]]:
    return "instance_norm", dict(epsilon=float(m._epsilon), affine=m.scale is not None, use_batch=True)


def _layer_norm(m: Any) -> tuple[str, dict[str, Any]]:
    shape = tuple(m._normalized_shape)
    return "layer_norm", dict(
        epsilon=float(m._epsilon), normalized_shape=shape, weight=m.weight is not None, bias=m.bias is not None
    )


def _group_norm(m: Any) -> tuple[str, dict[str, Any]]:
    affine = m.weight is not None and m.bias is not None
    return "group_norm", dict(epsilon=float(m._epsilon), groups=m._num_groups, affine=affine)


def _response_norm(m: Any) -> tuple[str, dict[str, Any]]:
    return "local_response_norm", dict(size_of_window=m.size, alpha=m.alpha, beta=m.beta, k=m.k)


def _pool(m: Any) -> tuple[str, dict[str, Any]]:
    dims = _dims(m)
    kernel = pairs_of(getattr(m, "ksize", None) or m.kernel_size, dims)
    stride = kernel if m.stride is None else pairs_of(m.stride, dims)
    padding = both_sides(m.padding, dims, is_channels_last(m))
    if padding == "same" and stride == (1,) * dims:
        padding = keeping_size(kernel, stride)
    fields = dict(kernel_size=kernel, stride=stride, padding=padding, ceil_mode=bool(m.ceil_mode))
    name = type(m).__name__
    if "LP" in name:
        return "pool", fields | dict(kind="lp", power=float(m.norm_type))
    if "Max" in name:
        return "pool", fields | dict(kind="max", dilation=(1,) * dims, indices=bool(m.return_mask))
    divisor = getattr(m, "divisor", None)
    return "pool", fields | dict(kind="avg", count_include_pad=not m.exclusive, divisor=divisor)


def _unpool(m: Any) -> tuple[str, dict[str, Any]]:
    dims = _dims(m)
    kernel = pairs_of(m.ksize, dims)
    stride = kernel if m.stride is None else pairs_of(m.stride, dims)
    return "unpool", dict(kernel_size=kernel, stride=stride, padding=both_sides(m.padding, dims))


def _adaptive(m: Any) -> tuple[str, dict[str, Any]]:
    size = m.output_size if hasattr(m, "output_size") else m._output_size
    fields = dict(output_size=pairs_of(size, _dims(m)))
    if "Max" not in type(m).__name__:
        return "adaptive_pool", fields | dict(kind="avg")
    indices = m.return_mask if hasattr(m, "return_mask") else m._return_mask
    return "adaptive_pool", fields | dict(kind="max", indices=bool(indices))


def _dropout(m: Any) -> tuple[str, dict[str, Any]]:
    name = type(m).__name__.lower()
    whole = "channels" if re.search(r"[23]d$|^feature", name) or _by_channel(m) else "elements"
    fields = dict(rate=float(m.p), drops=whole, alpha="alpha" in name)
    # the other mode, downscale_in_infer, changes values in evaluation
    return DROPOUT, fields | ({} if "alpha" in name else dict(mode=getattr(m, "mode", "upscale_in_train")))


def _by_channel(m: Any) -> bool:
    """Return whether one draw counts for a whole channel: ``axis`` names the axes along which draws differ."""
    axis = getattr(m, "axis", None)
    return axis is not None and sorted(pairs_of(axis, 1)) == [0, 1]


def _upsample(m: Any) -> tuple[str, dict[str, Any]]:
    mode = {nn.UpsamplingBilinear2D: "bilinear", nn.UpsamplingNearest2D: "nearest"}.get(type(m)) or m.mode.lower()
    corners = isinstance(m, nn.UpsamplingBilinear2D) or bool(getattr(m, "align_corners", False))
    linear = mode.endswith("linear") and not corners
    return "upsample", dict(
        mode=mode,
        align_corners=corners,
        align_mode=int(getattr(m, "align_mode", 0)) if linear else 0,  # of no effect elsewhere
        size=_whole(m.size),
        scale_factor=numbers(_whole(m.scale_factor)),
    )


def _whole(value: Any) -> Any:
    """Return a size or factor, which may be a tensor."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(value) if isinstance(value, (list, tuple)) else value


def _pad(m: Any) -> tuple[str, dict[str, Any]]:
    padding = m.padding.tolist() if hasattr(m.padding, "tolist") else m.padding
    padding = padding if isinstance(padding, (list, tuple)) else [padding] * 2 * _dims(m)
    return "pad", dict(padding=from_the_last_axis(padding), mode=m._mode, value=float(getattr(m, "value", 0.0)))


def _patches(m: Any) -> dict[str, Any]:
    names = dict(kernel_size=m.kernel_sizes, dilation=m.dilations, stride=m.strides)
    padding = pairs_of(m.paddings, 2)
    # four numbers are top, left, bottom, right
    sides = ((padding[0], padding[2]), (padding[1], padding[3])) if len(padding) == 4 else both_sides(padding, 2)
    return {name: pairs_of(value, 2) for name, value in names.items()} | dict(padding=sides)


def _embedding(m: Any) -> tuple[str, dict[str, Any]]:
    return "embedding", dict(
        padding_idx=_padding_row(m),
        max_norm=getattr(m, "_max_norm", None),
        norm_type=getattr(m, "_norm_type", 2.0),
        by_frequency=bool(getattr(m, "_scale_grad_by_freq", False)),
    )


def _padding_row(m: Any) -> int | None:
    """Return the padding row. Paddle 3 keeps the given number; 2.6 counts it from the front, and -1 means none."""
    index = m._padding_idx
    if index is None or index >= 0:
        return index
    return m.weight.shape[0] + index if hasattr(type(m), "padding_idx") else None


def _recurrent(m: Any) -> tuple[str, dict[str, Any]]:
    return "recurrent", dict(
        kind=m.mode.lower(), hidden_size=m.hidden_size, layers=m.num_layers, bidirectional=m.num_directions == 2,
        batch_first=not m.time_major, rate=float(m.dropout), bias=m._parameters.get("bias_ih_l0") is not None,
        projection=getattr(m, "proj_size", 0) or 0,
    )  # fmt: skip


def _recurrent_cell(m: Any) -> tuple[str, dict[str, Any]]:
    kind = {nn.LSTMCell: "lstm", nn.GRUCell: "gru"}.get(type(m)) or f"rnn_{m.activation}"
    return "recurrent", dict(kind=kind, hidden_size=m.hidden_size, bias=m.bias_ih is not None)


def _attention(m: Any) -> tuple[str, dict[str, Any]]:
    return CONTAINER, dict(
        kind="attention", heads=m.num_heads, rate=float(m.dropout), bias=m.q_proj.bias is not None,
        zero_attention=False, key_bias=False,
    )  # fmt: skip


def _spectral_norm(m: Any) -> tuple[str, dict[str, Any]]:
    return "spectral_norm", dict(steps=m._power_iters, epsilon=float(m._eps), dim=m._dim)


def _known(*names: str) -> tuple[type[nn.Layer], ...]:
    """Return the classes of these names that this version of Paddle has."""
    return tuple(getattr(nn, name) for name in names if hasattr(nn, name))


def _each(name: str, dims: str = "123") -> tuple[str, ...]:
    return tuple(f"{name}{number}D" for number in dims)


_READERS: list[tuple[Any, Reader]] = [
    (nn.layer.conv._ConvNd, _conv),
    (nn.Linear, _linear),
    (nn.Bilinear, lambda m: ("bilinear", dict(bias=m.bias is not None))),
    ((nn.layer.norm._BatchNormBase, nn.BatchNorm), _batch_norm),
    (nn.LayerNorm, _layer_norm),
    (nn.GroupNorm, _group_norm),
    (nn.layer.norm._InstanceNormBase, _instance_norm),
    (nn.LocalResponseNorm, _response_norm),
    (nn.SpectralNorm, _spectral_norm),
    (_known(*_each("MaxPool"), *_each("AvgPool"), *_each("LPPool", "12")), _pool),
    (_known(*_each("MaxUnPool")), _unpool),
    (_known(*_each("AdaptiveAvgPool"), *_each("AdaptiveMaxPool")), _adaptive),
    (_known("Dropout", "Dropout2D", "Dropout3D", "AlphaDropout", "FeatureAlphaDropout"), _dropout),
    (nn.Flatten, lambda m: ("flatten", dict(start=m.start_axis, stop=m.stop_axis))),
    (_known("Unflatten"), lambda m: ("unflatten", dict(dim=m.axis, sizes=_whole(m.shape)))),
    ((nn.Upsample, nn.UpsamplingBilinear2D, nn.UpsamplingNearest2D), _upsample),
    (_known(*_each("Pad"), *_each("ZeroPad")), _pad),
    (nn.Unfold, lambda m: ("unfold", _patches(m))),
    (nn.Fold, lambda m: ("fold", _patches(m) | dict(output_size=pairs_of(m.output_sizes, 2)))),
    (nn.Embedding, _embedding),
    (nn.PReLU, lambda m: ("activation", dict(kind="prelu"))),
    (nn.Identity, lambda m: (IDENTITY, {})),
    (nn.PixelShuffle, lambda m: ("pixel_shuffle", dict(factor=m._upscale_factor))),
    (nn.PixelUnshuffle, lambda m: ("pixel_unshuffle", dict(factor=m._downscale_factor))),
    (nn.ChannelShuffle, lambda m: ("channel_shuffle", dict(groups=m._groups))),
    ((nn.LSTM, nn.GRU, nn.SimpleRNN), _recurrent),
    ((nn.LSTMCell, nn.GRUCell, nn.SimpleRNNCell), _recurrent_cell),
    (nn.MultiHeadAttention, _attention),
    (nn.CosineSimilarity, lambda m: ("cosine_similarity", dict(dim=m._axis, epsilon=m._eps))),
    (nn.PairwiseDistance, lambda m: ("distance", dict(power=float(m.p), epsilon=m.epsilon, keepdim=m.keepdim))),
]
