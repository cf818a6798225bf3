"""Rules for layer classes: the Paddle layer of each, and its names of the tensors. No framework.

A rule is a template whose names are the layer's settings, with optional settings that are omitted if they have Paddle's
default. Classes of ``parts`` are copied into the port.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from convert.translate.operators import outside, square
from convert.translate.plain import Module

NN = "torch.nn.modules"
TIMM = "timm.layers"


@dataclass(frozen=True)
class Layer:
    """The rule of a layer class.

    ``template`` is the constructor; ``optional`` is ``{keyword: (setting, Paddle's default)}``. ``names`` is
    ``{torch's tensor: Paddle's}`` of the names that differ; ``None`` drops a tensor. ``transposed`` lists tensors that
    Paddle stores transposed. ``silent`` marks a layer that may do nothing in evaluation and is called nevertheless.
    ``fits`` returns whether the rule applies to a module of the class. ``prepare`` returns settings in Paddle's form.
    ``same`` returns whether a module pads so that its output has ceil(side / stride) positions for every side; the
    trace then uses this size and does not trace the inside. ``inner`` lists settings that are modules inside.
    ``refused`` is the reason why a class has no rule, if translating its operators would be wrong.
    """

    template: str
    optional: Mapping[str, tuple[str, Any]] = field(default_factory=dict)
    names: Mapping[str, str | None] = field(default_factory=dict)
    transposed: tuple[str, ...] = ()
    silent: bool = False
    fits: Callable[[Module], bool] = lambda module: True
    prepare: Callable[[Module], dict[str, Any]] = lambda module: {}
    same: Callable[[Module], bool] = lambda module: False
    inner: tuple[str, ...] = ()
    refused: str = ""


def has(module: Module, name: str) -> bool:
    """Return whether ``module`` has a parameter or buffer of that name."""
    return any(held.name == name for held in module.held)


def _bias(module: Module) -> dict[str, Any]:
    return {"bias_attr": None if has(module, "bias") else False}


def _plain_padding(module: Module) -> bool:
    padding = module.settings.get("padding")
    return _own_weight(module) and module.settings.get("padding_mode", "zeros") == "zeros" and (
        not isinstance(padding, str) or padding == "valid" or _odd_kernel(module)
    )


def _own_weight(module: Module) -> bool:
    """Return whether the layer owns its weight; a hook may compute it from others (``torch.nn.utils.weight_norm``)."""
    return has(module, "weight")


def _odd_kernel(module: Module) -> bool:
    """Return whether Paddle's "same" equals torch's. Paddle ignores dilation and puts an odd rest on the other side."""
    sizes = module.settings["kernel_size"]
    return square(module.settings["dilation"]) == 1 and all(size % 2 for size in sizes)


def _conv(name: str, transpose: bool = False) -> Layer:
    optional = {"stride": ("stride", 1), "padding": ("padding", 0), "dilation": ("dilation", 1),
                "groups": ("groups", 1), "bias_attr": ("bias_attr", None)}  # fmt: skip
    if transpose:
        optional = {"stride": ("stride", 1), "padding": ("padding", 0), "output_padding": ("output_padding", 0),
                    "groups": ("groups", 1), "dilation": ("dilation", 1), "bias_attr": ("bias_attr", None)}  # fmt: skip
    return Layer(f"nn.{name}(in_channels, out_channels, kernel_size)", optional, prepare=_bias, fits=_plain_padding)


def _same_conv(name: str, scaled: bool = False, **more: tuple[str, Any]) -> Layer:
    """Return the rule of a timm convolution that may pad as TensorFlow does."""
    extra = ", scale=scale" if scaled else ""
    optional = {"stride": ("stride", 1), "padding": ("padding", 0), "dilation": ("dilation", 1),
                "groups": ("groups", 1),
                "bias_attr": ("bias_attr", None), **more}  # fmt: skip
    template = f"{name}(in_channels, out_channels, kernel_size{extra})"
    return Layer(template, optional, prepare=_same_settings, same=_pads_same)


def _pads_same(module: Module) -> bool:
    return module.settings.get("same_pad", module.name == "Conv2dSame")


def _same_settings(module: Module) -> dict[str, Any]:
    return _bias(module) | {"same": module.settings.get("same_pad", False)}


STATISTICS = {"running_mean": "_mean", "running_var": "_variance", "num_batches_tracked": None}


def _norm_settings(module: Module) -> dict[str, Any]:
    settings = {"epsilon": module.settings["eps"]}
    if module.settings.get("momentum") is not None:
        settings["momentum"] = 1 - module.settings["momentum"]
    if not has(module, "weight"):
        settings["weight_attr"] = False
    if not has(module, "bias"):
        settings["bias_attr"] = False
    return settings


def _tracked(module: Module) -> bool:
    return has(module, "running_mean") and module.settings.get("momentum") is not None


AFFINE = {"weight_attr": ("weight_attr", None), "bias_attr": ("bias_attr", None)}
BATCH_NORM = {"momentum": ("momentum", 0.9), "epsilon": ("epsilon", 1e-5), **AFFINE}


def _batch_norm(name: str) -> Layer:
    return Layer(f"{name}(num_features)", BATCH_NORM, STATISTICS, prepare=_norm_settings, fits=_tracked)


def _last_dimension(module: Module) -> bool:
    # Paddle's layer requires both or neither
    return has(module, "weight") == has(module, "bias")


def _layer_norm(module: Module) -> dict[str, Any]:
    shape = module.settings["normalized_shape"]
    return _norm_settings(module) | {"normalized_shape": shape[0] if len(shape) == 1 else list(shape)}


def _pool(name: str, average: bool = False) -> Layer:
    optional = {"stride": ("stride", None), "padding": ("padding", 0), "ceil_mode": ("ceil_mode", False)}
    if average:
        optional["exclusive"] = ("exclusive", True)

    def settings(module: Module) -> dict[str, Any]:
        kernel, stride = square(module.settings["kernel_size"]), square(module.settings["stride"])
        found = {"kernel_size": kernel, "stride": None if stride == kernel else stride}
        if average and square(module.settings["padding"]) != 0:
            found["exclusive"] = not module.settings["count_include_pad"]
        return found

    def fits(module: Module) -> bool:
        found = module.settings
        plain = square(found.get("dilation", 1)) == 1 and found.get("divisor_override") is None
        return plain and not found.get("return_indices") and not outside(found)

    return Layer(f"nn.{name}(kernel_size)", optional, prepare=settings, fits=fits)


def _same_pool(name: str) -> Layer:
    return Layer(
        f"{name}(kernel, step)",
        prepare=lambda module: {
            "kernel": _pair(module.settings["kernel_size"]),
            "step": _pair(module.settings["stride"]),
        },
        fits=lambda module: (
            square(module.settings.get("dilation", 1)) == 1
            and not module.settings["ceil_mode"]
            and module.settings.get("divisor_override") is None
        ),
        same=lambda module: True,
    )


def _pair(size: Any) -> list[int]:
    return list(size) if isinstance(size, (list, tuple)) else [size, size]


ACTIVATION = f"{NN}.activation"
SYNCHRONISED = (
    "its statistics are those of all processes: port the model as it is before it is converted, and convert the port "
    "with paddle.nn.SyncBatchNorm.convert_sync_batchnorm"
)

def drop_path(rate: str) -> Layer:
    """Return the rule of a class of stochastic depth whose setting ``rate`` is the share of dropped samples."""
    return Layer(
        "DropPath(drop_prob)",
        {"scale_by_keep": ("scale_by_keep", True)},
        silent=True,
        prepare=lambda module: {"drop_prob": module.settings[rate] or 0.0},
    )


LINEAR = Layer(
    "nn.Linear(in_features, out_features)",
    {"bias_attr": ("bias_attr", None)},
    transposed=("weight",),
    prepare=_bias,
    fits=_own_weight,
)

LAYERS: dict[str, Layer] = {
    f"{NN}.conv.Conv1d": _conv("Conv1D"),
    f"{NN}.conv.Conv2d": _conv("Conv2D"),
    f"{NN}.conv.Conv3d": _conv("Conv3D"),
    f"{NN}.conv.ConvTranspose1d": _conv("Conv1DTranspose", transpose=True),
    f"{NN}.conv.ConvTranspose2d": _conv("Conv2DTranspose", transpose=True),
    f"{NN}.conv.ConvTranspose3d": _conv("Conv3DTranspose", transpose=True),
    f"{TIMM}.conv2d_same.Conv2dSame": _same_conv("Conv2DSame"),
    f"{TIMM}.std_conv.StdConv2d": _same_conv("StdConv2D", epsilon=("eps", 1e-6)),
    f"{TIMM}.std_conv.StdConv2dSame": _same_conv("StdConv2D", epsilon=("eps", 1e-6), same=("same", False)),
    f"{TIMM}.std_conv.ScaledStdConv2d": _same_conv("ScaledStdConv2D", scaled=True, epsilon=("eps", 1e-6)),
    f"{TIMM}.std_conv.ScaledStdConv2dSame": _same_conv(
        "ScaledStdConv2D", scaled=True, epsilon=("eps", 1e-6), same=("same", False)
    ),
    f"{NN}.linear.Linear": LINEAR,
    f"{TIMM}.linear.Linear": LINEAR,  # outside torchscript it is torch's
    f"{NN}.sparse.Embedding": Layer(
        "nn.Embedding(num_embeddings, embedding_dim)",
        fits=lambda module: module.settings.get("max_norm") is None and module.settings.get("padding_idx") is None,
    ),
    f"{NN}.batchnorm.BatchNorm1d": _batch_norm("BatchNorm1D"),
    f"{NN}.batchnorm.BatchNorm2d": _batch_norm("BatchNorm2D"),
    f"{NN}.batchnorm.BatchNorm3d": _batch_norm("BatchNorm3D"),
    f"{NN}.batchnorm.SyncBatchNorm": Layer("", refused=SYNCHRONISED),
    f"{TIMM}.norm_act.SyncBatchNormAct": Layer("", refused=SYNCHRONISED),
    f"{TIMM}.norm_act.BatchNormAct2d": Layer(
        "BatchNormAct2D(num_features, act)",
        BATCH_NORM,
        STATISTICS,
        prepare=_norm_settings,
        fits=_tracked,
        inner=("act",),
    ),
    f"{NN}.normalization.LayerNorm": Layer(
        "nn.LayerNorm(normalized_shape)",
        {"epsilon": ("epsilon", 1e-5), **AFFINE},
        prepare=_layer_norm,
        fits=_last_dimension,
    ),
    f"{TIMM}.norm.LayerNorm": Layer(
        "nn.LayerNorm(normalized_shape)",
        {"epsilon": ("epsilon", 1e-5), **AFFINE},
        prepare=_layer_norm,
        fits=_last_dimension,
    ),
    f"{NN}.normalization.GroupNorm": Layer(
        "nn.GroupNorm(num_groups, num_channels)",
        {"epsilon": ("epsilon", 1e-5)},
        prepare=_norm_settings,
        fits=lambda module: has(module, "weight"),
    ),
    **{
        f"{NN}.instancenorm.InstanceNorm{rank}d": Layer(
            "InstanceNorm(num_features)",
            {"epsilon": ("eps", 1e-5), "momentum": ("momentum", 0.1), "affine": ("affine", False)},
            {"num_batches_tracked": None},
            fits=_tracked,
        )
        for rank in (1, 2, 3)
    },
    f"{NN}.pooling.MaxPool2d": _pool("MaxPool2D"),
    f"{NN}.pooling.AvgPool2d": _pool("AvgPool2D", average=True),
    f"{NN}.pooling.MaxPool1d": _pool("MaxPool1D"),
    f"{NN}.pooling.MaxPool3d": _pool("MaxPool3D"),
    f"{NN}.pooling.AvgPool1d": _pool("AvgPool1D", average=True),
    f"{NN}.pooling.AvgPool3d": _pool("AvgPool3D", average=True),
    f"{TIMM}.pool2d_same.MaxPool2dSame": _same_pool("MaxPool2DSame"),
    f"{TIMM}.pool2d_same.AvgPool2dSame": _same_pool("AvgPool2DSame"),
    f"{NN}.dropout.Dropout": Layer("nn.Dropout(p)", silent=True),
    f"{NN}.dropout.Dropout1d": Layer("Dropout1D(p)", silent=True),
    f"{NN}.dropout.Dropout2d": Layer("nn.Dropout2D(p)", silent=True),
    f"{NN}.dropout.Dropout3d": Layer("nn.Dropout3D(p)", silent=True),
    f"{NN}.dropout.AlphaDropout": Layer("nn.AlphaDropout(p)", silent=True),
    f"{NN}.dropout.FeatureAlphaDropout": Layer("nn.FeatureAlphaDropout(p)", silent=True),
    "torchvision.ops.stochastic_depth.StochasticDepth": Layer(
        "StochasticDepth(p)", {"mode": ("mode", "row")}, silent=True
    ),
    f"{TIMM}.drop.DropPath": drop_path("drop_prob"),
    f"{TIMM}.drop.DropBlock2d": Layer(
        "DropBlock2D(drop_prob)",
        {"block_size": ("block_size", 7), "gamma_scale": ("gamma_scale", 1.0), "with_noise": ("with_noise", False),
         "couple_channels": ("couple_channels", True), "scale_by_keep": ("scale_by_keep", True)},
        silent=True,
    ),
    f"{TIMM}.patch_dropout.PatchDropout": Layer(
        "PatchDropout(prob)",
        {"num_prefix_tokens": ("num_prefix_tokens", 1), "ordered": ("ordered", False)},
        silent=True,
    ),
    f"{ACTIVATION}.ReLU": Layer("nn.ReLU()"),
    f"{ACTIVATION}.ReLU6": Layer("nn.ReLU6()"),
    f"{ACTIVATION}.SiLU": Layer("SiLU()"),
    f"{ACTIVATION}.Sigmoid": Layer("nn.Sigmoid()"),
    f"{ACTIVATION}.Tanh": Layer("nn.Tanh()"),
    f"{ACTIVATION}.Hardswish": Layer("nn.Hardswish()"),
    f"{ACTIVATION}.Softsign": Layer("nn.Softsign()"),
    f"{ACTIVATION}.Tanhshrink": Layer("nn.Tanhshrink()"),
    f"{ACTIVATION}.LogSigmoid": Layer("nn.LogSigmoid()"),
    f"{ACTIVATION}.RReLU": Layer("nn.RReLU(lower, upper)"),
    f"{ACTIVATION}.Mish": Layer("nn.Mish()"),
    f"{ACTIVATION}.GELU": Layer(
        "nn.GELU()",
        {"approximate": ("approximate_", False)},
        prepare=lambda module: {"approximate_": module.settings["approximate"] == "tanh"},
    ),
    f"{TIMM}.activations.GELU": Layer("nn.GELU()"),
    f"{TIMM}.activations.GELUTanh": Layer("nn.GELU(approximate=True)"),
    f"{ACTIVATION}.Softmax": Layer("nn.Softmax(dim)", fits=lambda module: module.settings["dim"] is not None),
    f"{NN}.container.ParameterList": Layer(
        "ParameterList(shapes)", prepare=lambda module: {"shapes": [list(held.shape) for held in module.held]}
    ),
    f"{NN}.flatten.Flatten": Layer("nn.Flatten()", {"start_axis": ("start_dim", 1), "stop_axis": ("end_dim", -1)}),
    f"{NN}.pixelshuffle.PixelShuffle": Layer("nn.PixelShuffle(upscale_factor)"),
    f"{NN}.pixelshuffle.PixelUnshuffle": Layer("nn.PixelUnshuffle(downscale_factor)"),
}
"""Qualified name of a torch class -> its rule."""


def settings_of(module: Module, layer: Layer) -> dict[str, Any]:
    """Return the values of the template's names for ``module``."""
    return {**{name: square(value) for name, value in module.settings.items()}, **layer.prepare(module)}


def layer_of(module: Module, layers: Mapping[str, Layer]) -> Layer | None:
    """Return the rule for ``module``, by its exact class: a subclass may compute something else."""
    layer = layers.get(module.kind)
    return layer if layer is not None and layer.fits(module) else None
