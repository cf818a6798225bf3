"""torch's functions with the constants that Paddle's kernels keep in float32, forward and backward. torch only.

Each is an ``Entry``: it returns the deviation of a call's constants, and a function that makes the call with Paddle's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch._C._nn
import torch.nn.functional as F

from alignment.engine.sides.resizing import is_mixed, mixing

Compute = Callable[[], torch.Tensor]
Entry = Callable[..., tuple[float, Compute]]
"""``(original, *args, **kwargs)`` of a call -> the deviation of its constants, and the call with Paddle's constants."""


def in_float32(value: float) -> float:
    """Round ``value`` to float32."""
    return float(np.float32(value))


def deviation(value: Any) -> float:
    """Return the relative error of ``value`` in float32; 0 for anything but a finite float."""
    if not isinstance(value, float) or not math.isfinite(value) or value == 0:
        return 0.0
    return abs(in_float32(value) / value - 1)


# --- arguments ------------------------------------------------------------------------------------------------------


def rounded(**positions: int) -> Entry:
    """Round arguments to float32, given by name with their positions."""

    def entry(original: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> tuple[float, Compute]:
        given: dict[int | str, Any] = {**dict(enumerate(args)), **kwargs}
        size = 0.0
        for name, position in positions.items():
            key = position if position in given else name
            if key in given and (apart := deviation(given[key])):
                size = max(size, apart)
                given[key] = in_float32(given[key])
        placed, named = [given[position] for position in range(len(args))], {name: given[name] for name in kwargs}
        return size, lambda: original(*placed, **named)

    return entry


def default_epsilon(position: int) -> Entry:
    """Round ``eps`` of a normalisation, 1e-5 if it is not given."""
    of_given = rounded(eps=position)

    def entry(original: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> tuple[float, Compute]:
        named = kwargs if position < len(args) or "eps" in kwargs else {**kwargs, "eps": 1e-5}
        return of_given(original, *args, **named)

    return entry


# --- activations ----------------------------------------------------------------------------------------------------

# of arXiv 1706.02515
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def selu(original: Any, input: torch.Tensor, inplace: bool = False) -> tuple[float, Compute]:
    """Use both constants of SELU in float32."""
    return deviation(SELU_SCALE), lambda: _Selu.apply(input)


class _Selu(torch.autograd.Function):
    """SELU with constants, and their product in the gradient, in float32; the gradient is computed from the output."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor) -> torch.Tensor:
        """Return the scale times ELU."""
        output = torch._C._nn.elu(input, in_float32(SELU_ALPHA), in_float32(SELU_SCALE))
        ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        """Multiply the gradient by the scale, or by the output minus its limit."""
        output = ctx.saved_tensors[0]
        both = float(np.float32(SELU_ALPHA) * np.float32(SELU_SCALE))
        return grad * torch.where(output > 0, in_float32(SELU_SCALE), output + both)


def hardsigmoid(original: Any, input: torch.Tensor, inplace: bool = False) -> tuple[float, Compute]:
    """Round the slope 1/6 of a port to float32; torch's own kernel has a float32 slope in the gradient."""
    slope = in_float32(1 / 6)
    return deviation(1 / 6), lambda: _Valued.apply(
        original(input), (input.detach() * slope + 0.5).clamp(0, 1)
    )  # fmt: skip


def exact_hardsigmoid(original: Any, input: torch.Tensor, inplace: bool = False) -> tuple[float, Compute]:
    """Use the exact slope, as a port that divides by 6; torch's own backward kernel has it in float32."""
    return deviation(1 / 6), lambda: torch.nn.functional.relu6(input + 3) / 6


class _Valued(torch.autograd.Function):
    """Another value with the gradient of the first."""

    @staticmethod
    def forward(ctx: Any, output: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Return the value."""
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the gradient unchanged."""
        return grad, None


# --- average pools, whose gradient is multiplied by 1/n in float32 --------------------------------------------------


class _GradientScaled(torch.autograd.Function):
    """The identity with a gradient multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, output: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """Return a copy, which the caller may change in place."""
        ctx.save_for_backward(factor)
        return output.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Multiply the gradient by the factor."""
        return grad * ctx.saved_tensors[0], None


def _averaged(compute: Compute, counts: Sequence[Sequence[int]]) -> tuple[float, Compute]:
    """Average over windows; ``counts`` are the elements of each window along each axis of space."""
    number = np.ones(())
    for along in counts:
        number = np.multiply.outer(number, np.array(along, np.float64))
    factor = number * (1 / number).astype(np.float32).astype(np.float64)
    return float(abs(factor - 1).max(initial=0.0)), lambda: _GradientScaled.apply(compute(), torch.from_numpy(factor))


def _per_axis(value: Any, dims: int) -> tuple[Any, ...]:
    return tuple(value) * (dims if len(value) == 1 else 1) if isinstance(value, (tuple, list)) else (value,) * dims


def avg_pool(dims: int) -> Entry:
    """Return the entry of an average pool with ``dims`` dimensions of space."""

    def entry(
        original: Any, input: torch.Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0,
        ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: Any = None,
    ) -> tuple[float, Compute]:  # fmt: skip
        more = {} if divisor_override is None else {"divisor_override": divisor_override}
        stride = kernel_size if stride is None or stride == () else stride

        def compute() -> torch.Tensor:
            return original(input, kernel_size, stride, padding, ceil_mode, count_include_pad, **more)

        sizes = input.shape[-dims:]
        how = zip(sizes, _per_axis(kernel_size, dims), _per_axis(stride, dims), _per_axis(padding, dims))
        counts = [_windows(*axis, ceil_mode, count_include_pad) for axis in how]
        return _averaged(compute, counts)

    return entry


def _windows(size: int, kernel: int, stride: int, padding: int, ceil_mode: bool, with_padding: bool) -> list[int]:
    """Return the number of elements that each window along one axis counts."""
    room = size + 2 * padding - kernel
    number = (-(-room // stride) if ceil_mode else room // stride) + 1
    if ceil_mode and (number - 1) * stride >= size + padding:
        number -= 1  # a window that begins behind the padding does not exist
    counts = []
    for start in (index * stride - padding for index in range(number)):
        end = min(start + kernel, size + padding)
        counts.append(end - start if with_padding else min(end, size) - max(start, 0))
    return counts


def adaptive_avg_pool(dims: int) -> Entry:
    """Return the entry of an adaptive average pool with ``dims`` dimensions of space."""

    def entry(original: Any, input: torch.Tensor, output_size: Any) -> tuple[float, Compute]:
        sizes = input.shape[-dims:]
        wanted = [size if out is None else out for out, size in zip(_per_axis(output_size, dims), sizes)]
        counts = [
            [-(-(index + 1) * size // out) - index * size // out for index in range(out)]
            for size, out in zip(sizes, wanted)
        ]
        return _averaged(lambda: original(input, output_size), counts)

    return entry


def mean_of_each(original: Any, input: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[float, Compute]:
    """Compute a mean within each element of the batch as an average pool, whose 1/n is float32.

    Any axes are accepted: channels may be last, and the port may transpose before it pools.
    """
    dim = args[0] if args else kwargs.get("dim")
    axes = {axis % input.dim() for axis in _per_axis(dim, 1)} if dim is not None and input.dim() > 2 else {0}
    if 0 in axes:
        return 0.0, lambda: original(input, *args, **kwargs)
    counts = [[math.prod(input.shape[axis] for axis in axes)]]
    return _averaged(lambda: original(input, *args, **kwargs), counts)


ADAPTIVE = {dims: adaptive_avg_pool(dims) for dims in (1, 2, 3)}
_ADAPTIVE_POOLS = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def local_response_norm(
    original: Any, input: torch.Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> tuple[float, Compute]:
    """Compute local response norm with its mean as an average pool over channels; only the power is kept in float32."""
    factor = size * in_float32(1 / size)

    def compute() -> torch.Tensor:
        square = F.pad((input * input).flatten(2).transpose(1, 2), (size // 2, (size - 1) // 2))
        mean = F.avg_pool1d(square, size, stride=1).transpose(1, 2).reshape(input.shape)
        mean = _GradientScaled.apply(mean, torch.tensor(factor, dtype=input.dtype))
        return input / (mean * alpha + k).pow(in_float32(beta))

    return max(abs(factor - 1) * abs(alpha), deviation(beta)), compute


# --- resizing -------------------------------------------------------------------------------------------------------


def interpolate(
    original: Any, input: torch.Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: bool | None = None, recompute_scale_factor: bool | None = None, antialias: bool = False,
) -> tuple[float, Compute]:  # fmt: skip
    """Compute every mode that mixes pixels; ``area`` is an adaptive average pool."""
    strict = dict(
        size=size, scale_factor=scale_factor, mode=mode, align_corners=align_corners,
        recompute_scale_factor=recompute_scale_factor, antialias=antialias,
    )  # fmt: skip
    dims = input.dim() - 2
    sizes = [*input.shape[2:]]
    factors = [] if scale_factor is None else [float(scale) for scale in _per_axis(scale_factor, dims)]
    scales = factors or [None] * dims
    if size is None:
        wanted = [math.floor(old * factor) for old, factor in zip(sizes, factors, strict=True)]
    else:
        wanted = [int(each) for each in _per_axis(size, dims)]
    if mode == "area":
        return ADAPTIVE[dims](_ADAPTIVE_POOLS[dims], input, wanted)
    corners = bool(align_corners)
    if not is_mixed(mode, corners) or antialias or (mode in ("bilinear", "bicubic") and 1 in wanted and not corners):
        # nearest neighbours are equal; for size 1 Paddle's kernel takes another pixel, which is not a constant
        return 0.0, lambda: original(input, **strict)
    if recompute_scale_factor:
        scales = [None] * dims
    weights = mixing(mode, corners, sizes, wanted, scales)
    return weights.size, lambda: _Mixed.apply(input, weights.ahead, weights.back)


class _Mixed(torch.autograd.Function):
    """Mixes pixels along each axis of space by the weights (new, old) ``ahead``, their gradients by ``back``."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, ahead: Sequence[np.ndarray], back: Sequence[np.ndarray]) -> torch.Tensor:
        """Mix (B, C, *old) to (B, C, *new)."""
        ctx.back = back
        return _mixed(input, ahead)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Mix the gradients (B, C, *new) to (B, C, *old)."""
        return _mixed(grad, [weights.T for weights in ctx.back]), None, None


def _mixed(tensor: torch.Tensor, weights: Sequence[np.ndarray]) -> torch.Tensor:
    for axis, along in enumerate(weights, start=2):
        tensor = torch.movedim(torch.movedim(tensor, axis, -1) @ torch.from_numpy(along.T.copy()), -1, axis)
    return tensor.contiguous()


# --- norms and losses -----------------------------------------------------------------------------------------------

NORM_EPSILON = in_float32(1e-12)
"""The number that Paddle adds to a norm before dividing by it in the backward pass."""


def norm(original: Any, input: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[float, Compute]:
    """Compute the gradient x / |x| of the Euclidean norm as x / (|x| + 1e-12)."""
    order = args[0] if args else kwargs.get("p", kwargs.get("ord", 2))
    if order not in (None, "fro", 2):
        return 0.0, lambda: original(input, *args, **kwargs)
    value = original(input, *args, **kwargs)
    factor = value.detach() / (value.detach() + NORM_EPSILON)
    size = float((1 - factor).max()) if factor.numel() else 0.0
    return size, lambda: _GradientScaled.apply(value, factor)


def normalize(
    original: Any, input: torch.Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Any = None
) -> tuple[float, Compute]:
    """Use Paddle's gradient of the norm; a norm below ``eps`` counts as ``eps`` in both frameworks."""
    size, compute = norm(torch.Tensor.norm, input, p, dim, keepdim=True)
    return size, lambda: input / compute().clamp_min(eps)


def smooth_l1_loss(
    original: Any, input: torch.Tensor, target: torch.Tensor, size_average: Any = None, reduce: Any = None,
    reduction: str = "mean", beta: float = 1.0,
) -> tuple[float, Compute]:  # fmt: skip
    """Compute Huber's loss, the only one of Paddle, which a port divides by beta."""
    return deviation(beta), lambda: F.huber_loss(input, target, reduction=reduction, delta=in_float32(beta)) / beta


def cross_entropy(
    original: Any, input: torch.Tensor, target: torch.Tensor, weight: Any = None, size_average: Any = None,
    ignore_index: int = -100, reduce: Any = None, reduction: str = "mean", label_smoothing: float = 0.0,
) -> tuple[float, Compute]:  # fmt: skip
    """Smooth labels in float32, so that they only nearly add up to 1; the gradient is still softmax - label."""
    size = deviation(label_smoothing)
    if not size or weight is not None or target.is_floating_point():
        return 0.0, lambda: original(
            input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing
        )  # fmt: skip

    def compute() -> torch.Tensor:
        epsilon = np.float32(label_smoothing)
        share = epsilon / np.float32(input.shape[1])
        counted = target != ignore_index
        given = target.where(counted, 0).unsqueeze(1)
        smoothed = torch.full_like(input, float(share)).scatter(1, given, float(np.float32(1) - epsilon + share))
        value = -(smoothed * F.log_softmax(input, 1)).sum(1)
        losses = _Valued.apply(torch.logsumexp(input, 1) - (smoothed * input).sum(1), value.detach()) * counted
        return losses if reduction == "none" else losses.sum() / (counted.sum() if reduction == "mean" else 1)

    return size, compute
