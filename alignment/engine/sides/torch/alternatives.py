"""Compute a layer of the reference with another value of one of its settings. torch only.

The variants are common porting mistakes: one-sided or other padding, moved strides, transposed or flipped kernels,
other pooling rules, the batch's statistics instead of the running ones, aligned corners, Paddle's own grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from alignment.engine.sides.settings import Settings

Found = Iterator[tuple[str, torch.Tensor]]
Weights = Mapping[str, torch.Tensor]
SIZES = (1, 2, 3, 4)
"""The strides, dilations and kernels that are tried."""
LINEAR = ("linear", "bilinear", "trilinear")


def alternatives(
    settings: Settings, weights: Mapping[str, np.ndarray], inputs: Sequence[np.ndarray], shape: tuple[int, ...]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield ``(words, output)`` for every possible setting; outputs of another shape than ``shape`` are left out.

    Yields nothing for an unknown kind of layer.
    """
    make = _KINDS.get(settings.category)
    if make is None or len(inputs) != 1 or not np.issubdtype(inputs[0].dtype, np.floating):
        return
    tensors = {name: torch.from_numpy(np.array(array, np.float64)) for name, array in weights.items()}
    with torch.no_grad():
        for words, output in make(settings.fields, tensors, torch.from_numpy(np.array(inputs[0], np.float64))):
            if tuple(output.shape) == tuple(shape):
                yield words, output.numpy()


def _attempt(words: str, compute: Callable[[], torch.Tensor]) -> Found:
    """Try one alternative; settings that torch refuses yield nothing."""
    try:
        yield words, compute()
    except (RuntimeError, ValueError):
        return


def _other_inputs(x: torch.Tensor) -> Found:
    yield "channels reversed", x.flip(1)
    yield "rows mirrored", x.flip(2)
    yield "columns mirrored", x.flip(3)
    yield "height and width exchanged", x.transpose(2, 3)
    for axis in (2, 3):
        for step in (1, -1):
            yield f"a shift by {step} along axis {axis}", x.roll(step, axis)


def _conv(fields: Mapping[str, Any], weights: Weights, x: torch.Tensor) -> Found:
    if len(fields["stride"]) != 2 or isinstance(fields["padding"], str):
        return
    bias = weights.get("bias")
    usual = partial(_convolve, x=x, fields=fields, weight=weights["weight"], bias=bias)
    stride, dilation, padding = fields["stride"], fields["dilation"], fields["padding"]
    for words, other in _other_inputs(x):
        yield from _attempt(f"the input with {words}", lambda other=other: usual(x=other))
    if bias is not None:
        yield from _attempt("bias missing", lambda: usual(bias=None))
    for words, weight in _kernels(weights["weight"]):
        yield from _attempt(f"weight {words}", lambda w=weight: usual(weight=w))
    for s in SIZES:
        if (s, s) != tuple(stride):
            yield from _attempt(f"stride {s} instead of {stride}", lambda s=s: usual(stride=(s, s)))
    for d in SIZES:
        if (d, d) != tuple(dilation):
            words = f"dilation {d} instead of {dilation}"
            yield from _attempt(words, lambda d=d: usual(dilation=(d, d)))
            wider = tuple((a * d, b * d) for a, b in padding)
            words += " with padding to match"
            yield from _attempt(words, lambda d=d, p=wider: usual(dilation=(d, d), padding=p))
    for mode in ("reflect", "replicate", "circular"):
        yield from _attempt(f"padding mode {mode} instead of zeros", lambda m=mode: usual(mode=m))
    for other in _paddings(padding):
        words = f"padding {other} instead of {padding}"
        yield from _attempt(words, lambda p=other: usual(padding=p))


def _convolve(
    x: torch.Tensor,
    fields: Mapping[str, Any],
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Any = None,
    dilation: Any = None,
    padding: Any = None,
    mode: str = "constant",
) -> torch.Tensor:
    (top, bottom), (left, right) = padding or fields["padding"]
    padded = F.pad(x, (left, right, top, bottom), mode=mode)
    return F.conv2d(
        padded, weight, bias, stride or fields["stride"], 0, dilation or fields["dilation"], fields["groups"]
    )


def _kernels(weight: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    yield "flipped in space", weight.flip(2, 3)
    yield "transposed in space", weight.transpose(2, 3)
    if weight.shape[0] == weight.shape[1]:
        yield "transposed", weight.transpose(0, 1)
        yield "transposed and flipped in space", weight.transpose(0, 1).flip(2, 3)


def _paddings(padding: Any) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield every padding up to twice the reference's total, for both dimensions, swapped, or for one of them."""
    (top, bottom), (left, right) = padding
    widths = range(max(top + bottom, left + right, 1) + 2)
    for before, after in product(widths, widths):
        for other in (
            ((before, after), (before, after)),
            ((before, after), (after, before)),
            ((before, after), (left, right)),
            ((top, bottom), (before, after)),
        ):
            if other != ((top, bottom), (left, right)):
                yield other


def _linear(fields: Mapping[str, Any], weights: Weights, x: torch.Tensor) -> Found:
    if weights["weight"].shape[0] == weights["weight"].shape[1]:
        yield from _attempt("weight transposed", lambda: F.linear(x, weights["weight"].T, weights.get("bias")))
    if "bias" in weights:
        yield from _attempt("bias missing", lambda: F.linear(x, weights["weight"]))


def _batch_norm(fields: Mapping[str, Any], weights: Weights, x: torch.Tensor) -> Found:
    if "running_mean" not in weights:
        return
    mean, variance = weights["running_mean"], weights["running_var"]
    scale, shift, epsilon = weights.get("weight"), weights.get("bias"), fields["epsilon"]

    def normalise(m: Any, v: Any, w: Any, b: Any, e: float = epsilon) -> torch.Tensor:
        return F.batch_norm(x, m, v, w, b, m is None, 0.0, e)

    if fields.get("use_batch"):
        words = "running statistics are used instead of the batch's"
        yield from _attempt(words, lambda: normalise(mean, variance, scale, shift))
        mean = variance = None
    else:
        words = "batch statistics are used instead of the running ones"
        yield from _attempt(words, lambda: normalise(None, None, scale, shift))
        yield from _attempt("mean and variance swapped", lambda: normalise(variance, mean, scale, shift))
        words = "divides by variance + epsilon, without the root"
        root = (variance + epsilon) ** 2 - epsilon
        yield from _attempt(words, lambda: normalise(mean, root, scale, shift))
        outside = (variance.sqrt() + epsilon) ** 2 - epsilon
        yield from _attempt("epsilon is added after the root", lambda: normalise(mean, outside, scale, shift))
    yield from _attempt("weight missing", lambda: normalise(mean, variance, None, shift))
    yield from _attempt("bias missing", lambda: normalise(mean, variance, scale, None))
    yield from _attempt("weight and bias swapped", lambda: normalise(mean, variance, shift, scale))


def _pool(fields: Mapping[str, Any], weights: Weights, x: torch.Tensor) -> Found:
    if x.ndim != 4 or any(a != b for a, b in fields["padding"]):
        return
    right = tuple(fields["kernel_size"]), tuple(fields["stride"]), tuple(a for a, _ in fields["padding"])
    square = [((k, k), (s, s), (p, p)) for k, s, p in product(SIZES, SIZES, range(3)) if 2 * p <= k]
    for kernel, stride, padding in [right, *square]:
        sizes = f"kernel {kernel}, stride {stride}, padding {padding}"
        for ceil in (False, True):
            how = sizes + (", ceil_mode" if ceil else "")
            words = f"max pool, {how}" if fields["kind"] == "avg" else f"pool with {how}"
            yield from _attempt(words, lambda k=kernel, s=stride, p=padding, c=ceil: F.max_pool2d(x, k, s, p, 1, c))
            for counted in (False, True):
                rule = "padding counted (count_include_pad)" if counted else "padding not counted (exclusive)"
                yield from _attempt(
                    f"average pool, {how}, {rule}",
                    lambda k=kernel, s=stride, p=padding, c=ceil, i=counted: F.avg_pool2d(x, k, s, p, c, i),
                )


def _adaptive_pool(fields: Mapping[str, Any], weights: Weights, x: torch.Tensor) -> Found:
    size = fields["output_size"]
    if x.ndim == 4:
        yield from _attempt("max pool instead of average", lambda: F.adaptive_max_pool2d(x, size))
        yield from _attempt("average pool instead of max", lambda: F.adaptive_avg_pool2d(x, size))


def _upsample(fields: Mapping[str, Any], weights: Weights, x: torch.Tensor) -> Found:
    size, scale = fields["size"], fields["scale_factor"]
    for mode in ("nearest", "bilinear", "bicubic", "nearest-exact"):
        for aligned in (False, True) if mode.startswith("bi") else (None,):
            words = f"mode {mode}, align_corners {aligned} instead of {fields['mode']}, {fields['align_corners']}"
            yield from _attempt(words, lambda m=mode, a=aligned: F.interpolate(x, size, scale, m, align_corners=a))
    if fields["mode"] in LINEAR and x.ndim >= 3:
        words = "align_mode 1 instead of 0: pixels are taken at their corners, as torch cannot"
        yield from _attempt(words, lambda: _from_corners(x, F.interpolate(x, size, scale).shape, scale))


def _from_corners(x: torch.Tensor, shape: Sequence[int], scale: Any) -> torch.Tensor:
    """Resize linearly to ``shape`` as Paddle's align_mode=1 does: pixel i of the output lies at i * (input / output).

    If ``scale`` is given, its inverse is that ratio; Paddle keeps it, and so the positions, in float32.
    """
    scales = scale if isinstance(scale, (list, tuple)) else (scale,) * (x.ndim - 2)
    for axis, factor in enumerate(scales, 2):
        length = x.shape[axis]
        ratio = 1 / factor if factor else length / shape[axis]
        at = torch.arange(shape[axis], dtype=torch.float32) * torch.tensor(ratio, dtype=torch.float32)
        before = at.floor().long().clamp(max=length - 1)
        after = (before + 1).clamp(max=length - 1)
        share = (at - before).double().view([-1 if n == axis else 1 for n in range(x.ndim)])
        x = x.index_select(axis, before) * (1 - share) + x.index_select(axis, after) * share
    return x


_KINDS: dict[str, Callable[[Mapping[str, Any], Weights, torch.Tensor], Found]] = {
    "conv": _conv,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "pool": _pool,
    "adaptive_pool": _adaptive_pool,
    "upsample": _upsample,
}
