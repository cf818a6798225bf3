"""Paddle's layers in the vocabulary of ``settings``. Paddle only.

Paddle keeps most settings in private attributes; this file is the only one that reads them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from paddle import nn

from alignment.engine.sides.settings import CONTAINER, OTHER, Settings, both_sides, is_padded, pairs_of

ACTIVATIONS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "ReLU": lambda m: {"kind": "relu"},
    "ReLU6": lambda m: {"kind": "relu6"},
    "LeakyReLU": lambda m: {"kind": "leaky_relu", "slope": m._negative_slope},
    "ELU": lambda m: {"kind": "elu", "alpha": m._alpha},
    "GELU": lambda m: {"kind": "gelu", "approximate": bool(m._approximate)},
    "Silu": lambda m: {"kind": "silu"},
    "Swish": lambda m: {"kind": "silu"},
    "Sigmoid": lambda m: {"kind": "sigmoid"},
    "Tanh": lambda m: {"kind": "tanh"},
    "Hardswish": lambda m: {"kind": "hardswish"},
    "Hardsigmoid": lambda m: {"kind": "hardsigmoid", "slope": 0.1666667},  # the default of paddle.nn.functional
    "Softplus": lambda m: {"kind": "softplus", "beta": m._beta},
    "Mish": lambda m: {"kind": "mish"},
    "Softmax": lambda m: {"kind": "softmax", "dim": m._axis},
}


def describe(layer: nn.Layer) -> Settings:
    """What ``layer`` is set to do. An unknown kind of layer is ``other``, one with sublayers a ``container``."""
    shapes = own_shapes(layer)
    for known, read in _READERS:
        if isinstance(layer, known):
            category, fields = read(layer)
            return Settings(category, {**fields, "training": layer.training}, shapes)
    if type(layer).__name__ in ACTIVATIONS and type(layer).__module__.startswith("paddle."):
        return Settings("activation", ACTIVATIONS[type(layer).__name__](layer), shapes)
    composite = next(layer.children(), None) is not None
    return Settings(CONTAINER if composite else OTHER, {"training": layer.training}, shapes)


def own_shapes(layer: nn.Layer) -> dict[str, tuple[int, ...]]:
    """Shapes of the layer's own trainable or frozen parameters, in torch's layout (a linear weight is transposed)."""
    shapes = {}
    for name, value in layer._parameters.items():
        if value is not None and name not in ("_mean", "_variance"):
            shape = tuple(value.shape)
            shapes[name] = shape[::-1] if isinstance(layer, nn.Linear) and name == "weight" else shape
    return shapes


def _dims(layer: nn.Layer) -> int:
    found = re.search(r"([123])D", type(layer).__name__)
    return int(found[1]) if found else 2


def _conv(m: Any) -> tuple[str, dict[str, Any]]:
    dims = len(m._kernel_size)
    transposed = isinstance(m, (nn.Conv1DTranspose, nn.Conv2DTranspose, nn.Conv3DTranspose))
    fields = dict(
        stride=pairs_of(m._stride, dims),
        padding=_conv_padding(m, dims),
        dilation=pairs_of(m._dilation, dims),
        groups=m._groups,
        bias=m.bias is not None,
        padding_mode=getattr(m, "_padding_mode", "zeros"),
    )
    if transposed:
        fields["output_padding"] = pairs_of(m.output_padding, dims)
    return "conv_transpose" if transposed else "conv", fields


def _conv_padding(m: Any, dims: int) -> Any:
    return both_sides(m._padding, dims)


def _linear(m: Any) -> tuple[str, dict[str, Any]]:
    return "linear", {"bias": m.bias is not None}


def _batch_norm(m: Any) -> tuple[str, dict[str, Any]]:
    fields = dict(
        epsilon=float(m._epsilon),
        momentum=1 - float(m._momentum),
        affine=m.weight is not None and m.bias is not None,
        use_batch=_uses_batch(m),
    )
    if getattr(m, "_act", None):
        fields["activation"] = m._act
    return "batch_norm", fields


def _uses_batch(m: Any) -> bool:
    """Whether a normalisation uses the batch's statistics: ``use_global_stats`` decides where it is given.

    The older ``nn.BatchNorm`` has False for not given.
    """
    chosen = m._use_global_stats
    if isinstance(m, nn.BatchNorm) or chosen is None:
        return m.training and not chosen
    return not chosen


def _layer_norm(m: Any) -> tuple[str, dict[str, Any]]:
    return "layer_norm", dict(epsilon=float(m._epsilon), normalized_shape=tuple(m._normalized_shape))


def _group_norm(m: Any) -> tuple[str, dict[str, Any]]:
    return "group_norm", dict(epsilon=float(m._epsilon), groups=m._num_groups)


def _instance_norm(m: Any) -> tuple[str, dict[str, Any]]:
    return "instance_norm", dict(epsilon=float(m._epsilon))


def _pool(m: Any) -> tuple[str, dict[str, Any]]:
    dims = _dims(m)
    kernel = getattr(m, "ksize", None) or m.kernel_size
    fields = dict(
        kind="max" if "Max" in type(m).__name__ else "avg",
        kernel_size=pairs_of(kernel, dims),
        stride=pairs_of(m.stride or kernel, dims),
        padding=both_sides(m.padding, dims),
        ceil_mode=bool(m.ceil_mode),
    )
    if fields["kind"] == "avg":
        if is_padded(fields["padding"]):
            fields["count_include_pad"] = not m.exclusive
    else:
        fields["dilation"] = (1,) * dims
    return "pool", fields


def _adaptive(m: Any) -> tuple[str, dict[str, Any]]:
    kind = "max" if "Max" in type(m).__name__ else "avg"
    return "adaptive_pool", dict(kind=kind, output_size=pairs_of(m._output_size, _dims(m)))


def _dropout(m: Any) -> tuple[str, dict[str, Any]]:
    # the other mode, downscale_in_infer, changes values in evaluation
    return "dropout", dict(rate=float(m.p), mode=getattr(m, "mode", "upscale_in_train"))


def _flatten(m: Any) -> tuple[str, dict[str, Any]]:
    return "flatten", dict(start=m.start_axis, stop=m.stop_axis)


def _upsample(m: Any) -> tuple[str, dict[str, Any]]:
    scale = m.scale_factor
    scale = tuple(map(float, scale)) if isinstance(scale, (list, tuple)) else None if scale is None else float(scale)
    return "upsample", dict(mode=m.mode.lower(), align_corners=bool(m.align_corners), size=m.size, scale_factor=scale)


_READERS: list[tuple[Any, Callable[[Any], tuple[str, dict[str, Any]]]]] = [
    (nn.layer.conv._ConvNd, _conv),
    (nn.Linear, _linear),
    ((nn.layer.norm._BatchNormBase, nn.BatchNorm), _batch_norm),
    (nn.LayerNorm, _layer_norm),
    (nn.GroupNorm, _group_norm),
    (nn.layer.norm._InstanceNormBase, _instance_norm),
    ((nn.MaxPool1D, nn.MaxPool2D, nn.MaxPool3D, nn.AvgPool1D, nn.AvgPool2D, nn.AvgPool3D), _pool),
    (
        (
            nn.AdaptiveAvgPool1D,
            nn.AdaptiveAvgPool2D,
            nn.AdaptiveAvgPool3D,
            nn.AdaptiveMaxPool1D,
            nn.AdaptiveMaxPool2D,
            nn.AdaptiveMaxPool3D,
        ),
        _adaptive,
    ),
    ((nn.Dropout, nn.Dropout2D, nn.Dropout3D), _dropout),
    (nn.Flatten, _flatten),
    (nn.Upsample, _upsample),
    (nn.Embedding, lambda m: ("embedding", dict(padding_idx=None if m._padding_idx == -1 else m._padding_idx))),
    (nn.PReLU, lambda m: ("activation", dict(kind="prelu"))),
    (nn.Identity, lambda m: ("identity", {})),
    (nn.PixelShuffle, lambda m: ("pixel_shuffle", dict(factor=m._upscale_factor))),
]
