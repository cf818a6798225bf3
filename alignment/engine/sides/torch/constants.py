"""torch with the constants that Paddle's kernels keep in float32, also where everything else is float64. torch only.

A port cannot set them: the ratio by which an image is resized, the 1/49 of an average pool's gradient, the alpha of
ELU. In float64 they separate a correct port from its reference by 1e-9 to 1e-6. Within ``constants_of_paddle`` torch's
functions compute with just these numbers, forward and backward, so that what is left between the two is rounding.

Measured with paddlepaddle 3.3.1 on CPU; ``tests/test_constants.py`` holds every entry against Paddle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

_SINGLE, _DOUBLE = np.float32, np.float64

Compute = Callable[[], torch.Tensor]
Entry = Callable[..., tuple[float, Compute]]
"""``(original, *args, **kwargs)`` of a call -> how large the deviation of its constants is, and the call with them."""


@dataclass
class Constant:
    """A function whose constants Paddle keeps in float32: its name, the largest deviation of one, and where it ran.

    ``size`` is relative, or absolute for the weights with which pixels are mixed, which add up to 1.
    """

    name: str
    size: float = 0.0
    calls: int = 0
    places: list[str] = field(default_factory=list)


class constants_of_paddle(TorchFunctionMode):
    """Within it torch's functions of float64 compute with Paddle's constants; other types are left alone.

    ``used`` holds, by name, the functions whose constants differ from torch's; ``where`` names the place of a call.
    With ``apply=False`` they are noted and not changed; with ``places`` only the calls there are: a port may use
    Paddle's pool in one place and a mean, which is exact, in another. With ``means`` a mean over space is taken for the
    average pool that it may be in the port.

    >>> with constants_of_paddle() as constants:
    ...     _ = F.interpolate(torch.zeros(1, 1, 7, 7, dtype=torch.float64), (13, 14), mode="bilinear")
    >>> [*constants.used]
    ['interpolate']
    """

    def __init__(
        self, where: Callable[[], str] = lambda: "", *, apply: bool = True, places: Collection[str] | None = None,
        means: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.used: dict[str, Constant] = {}
        self.where = where
        self.apply = apply
        self.places = places
        self.entries = ENTRIES | MEANS if means else ENTRIES

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        entry = self.entries.get(func)
        if entry is None or not _in_float64(args, kwargs):
            return func(*args, **kwargs)
        name, deviating = entry
        size, compute = deviating(func, *args, **kwargs)
        if not size:
            return func(*args, **kwargs)
        place = self.where()
        self._note(name, size, place)
        taken = self.apply and (self.places is None or place in self.places)
        return compute() if taken else func(*args, **kwargs)

    def _note(self, name: str, size: float, place: str) -> None:
        constant = self.used.setdefault(name, Constant(name))
        constant.size = max(constant.size, size)
        constant.calls += 1
        if place and place not in constant.places:
            constant.places.append(place)


def _in_float64(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    given = (value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
    return (tensor := next(given, None)) is not None and tensor.dtype == torch.float64


def in_float32(value: float) -> float:
    """The number that is left of ``value`` in float32."""
    return float(np.float32(value))


def deviation(value: Any) -> float:
    """By how much float32 misses ``value``, relatively; 0 for what is no finite float."""
    if not isinstance(value, float) or not math.isfinite(value) or value == 0:
        return 0.0
    return abs(in_float32(value) / value - 1)


# --- arguments ------------------------------------------------------------------------------------------------------


def rounded(**positions: int) -> Entry:
    """Arguments that are kept in float32, by name, with their positions."""

    def entry(original: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> tuple[float, Compute]:
        given, named, size = list(args), dict(kwargs), 0.0
        for name, position in positions.items():
            holder, key = (given, position) if position < len(given) else (named, name)
            if isinstance(holder, dict) and key not in holder:
                continue
            size = max(size, deviation(holder[key]))
            if deviation(holder[key]):
                holder[key] = in_float32(holder[key])
        return size, lambda: original(*given, **named)

    return entry


def _default_epsilon(position: int) -> Entry:
    """``eps`` of a normalisation, 1e-5 where it is not given."""
    of_given = rounded(eps=position)

    def entry(original: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> tuple[float, Compute]:
        named = kwargs if position < len(args) or "eps" in kwargs else {**kwargs, "eps": 1e-5}
        return of_given(original, *args, **named)

    return entry


# --- activations ----------------------------------------------------------------------------------------------------

# of arXiv 1706.02515
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def _selu(original: Any, input: torch.Tensor, inplace: bool = False) -> tuple[float, Compute]:
    return deviation(SELU_SCALE), lambda: _Selu.apply(input)


class _Selu(torch.autograd.Function):
    """SELU whose constants are float32, and so is their product in its gradient, which is taken from the output."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor) -> torch.Tensor:
        """The scale times ELU."""
        output = torch._C._nn.elu(input, in_float32(SELU_ALPHA), in_float32(SELU_SCALE))
        ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        """The scale, or the output and what it tends to."""
        output = ctx.saved_tensors[0]
        both = float(np.float32(SELU_ALPHA) * np.float32(SELU_SCALE))
        return grad * torch.where(output > 0, in_float32(SELU_SCALE), output + both)


def _hardsigmoid(original: Any, input: torch.Tensor, inplace: bool = False) -> tuple[float, Compute]:
    """A port that gives the slope as 1/6 gets it in float32; in the gradient torch's own kernel has it so."""
    slope = in_float32(1 / 6)
    return deviation(1 / 6), lambda: _Valued.apply(
        original(input), (input.detach() * slope + 0.5).clamp(0, 1)
    )  # fmt: skip


class _Valued(torch.autograd.Function):
    """Another value with the gradient of the first."""

    @staticmethod
    def forward(ctx: Any, output: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """The value."""
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        """As it comes."""
        return grad, None


# --- average pools, whose gradient is multiplied by 1/n in float32 --------------------------------------------------


class _GradientScaled(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, output: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """A copy, which the caller may change in place."""
        ctx.save_for_backward(factor)
        return output.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        """By the factor."""
        return grad * ctx.saved_tensors[0], None


def _averaged(compute: Compute, counts: Sequence[Sequence[int]]) -> tuple[float, Compute]:
    """An average over windows; ``counts`` are the elements of each window along each axis of space."""
    number = np.ones(())
    for along in counts:
        number = np.multiply.outer(number, np.array(along, np.float64))
    factor = number * (1 / number).astype(np.float32).astype(np.float64)
    return float(abs(factor - 1).max(initial=0.0)), lambda: _GradientScaled.apply(compute(), torch.from_numpy(factor))


def _per_axis(value: Any, dims: int) -> tuple[Any, ...]:
    return tuple(value) * (dims if len(value) == 1 else 1) if isinstance(value, (tuple, list)) else (value,) * dims


def _avg_pool(dims: int) -> Entry:
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
    """How many elements each window along one axis counts."""
    room = size + 2 * padding - kernel
    number = (-(-room // stride) if ceil_mode else room // stride) + 1
    if ceil_mode and (number - 1) * stride >= size + padding:
        number -= 1  # a window that begins behind the padding is none
    counts = []
    for start in (index * stride - padding for index in range(number)):
        end = min(start + kernel, size + padding)
        counts.append(end - start if with_padding else min(end, size) - max(start, 0))
    return counts


def _adaptive_avg_pool(dims: int) -> Entry:
    def entry(original: Any, input: torch.Tensor, output_size: Any) -> tuple[float, Compute]:
        sizes = input.shape[-dims:]
        wanted = [size if out is None else out for out, size in zip(_per_axis(output_size, dims), sizes)]
        counts = [
            [-(-(index + 1) * size // out) - index * size // out for index in range(out)]
            for size, out in zip(sizes, wanted)
        ]
        return _averaged(lambda: original(input, output_size), counts)

    return entry


def _mean_over_space(original: Any, input: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[float, Compute]:
    """A mean over all axes behind the channels, which a port may have as an average pool, whose 1/n is float32."""
    dim = args[0] if args else kwargs.get("dim")
    axes = {axis % input.dim() for axis in _per_axis(dim, 1)} if dim is not None and input.dim() > 2 else set()
    if axes != {*range(2, input.dim())} or not axes:
        return 0.0, lambda: original(input, *args, **kwargs)
    counts = [[math.prod(input.shape[2:])]]
    return _averaged(lambda: original(input, *args, **kwargs), counts)


_ADAPTIVE = {dims: _adaptive_avg_pool(dims) for dims in (1, 2, 3)}
_ADAPTIVE_POOLS = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def _local_response_norm(
    original: Any, input: torch.Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> tuple[float, Compute]:
    """Its mean is an average pool over channels; the power is kept in float32, the rest is not."""
    factor = size * in_float32(1 / size)

    def compute() -> torch.Tensor:
        square = F.pad((input * input).flatten(2).transpose(1, 2), (size // 2, (size - 1) // 2))
        mean = F.avg_pool1d(square, size, stride=1).transpose(1, 2).reshape(input.shape)
        mean = _GradientScaled.apply(mean, torch.tensor(factor, dtype=input.dtype))
        return input / (mean * alpha + k).pow(in_float32(beta))

    return max(abs(factor - 1) * abs(alpha), deviation(beta)), compute


# --- resizing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Resizing:
    """In which types a kernel computes along one axis.

    ``position`` of an output pixel between input pixels, the ``share`` of the later of its neighbours, and that of the
    earlier one, ``rest``. The ratio of the sizes is float32 everywhere.
    """

    position: type = _SINGLE
    share: type = _SINGLE
    rest: type = _SINGLE


# the kernels are not of one hand: what they round where was found by trying all combinations
BACKWARD = Resizing()
FORWARD: dict[tuple[str, bool], Sequence[Resizing]] = {
    # mode, align_corners -> by axis of space
    ("linear", False): [Resizing(_DOUBLE, _DOUBLE, _DOUBLE)],
    ("linear", True): [Resizing(rest=_DOUBLE)],
    ("bilinear", False): [Resizing(position=_DOUBLE), Resizing()],
    ("bilinear", True): [Resizing()] * 2,
    ("trilinear", False): [Resizing()] * 3,
    ("trilinear", True): [Resizing()] * 3,
    ("bicubic", False): [Resizing(position=_DOUBLE)] * 2,
    ("bicubic", True): [Resizing()] * 2,
}
EXACT = Resizing(_DOUBLE, _DOUBLE, _DOUBLE)
CUBIC = -0.75
"""The parameter of the cubic kernel, in both frameworks."""


def _interpolate(
    original: Any, input: torch.Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: bool | None = None, recompute_scale_factor: bool | None = None, antialias: bool = False,
) -> tuple[float, Compute]:  # fmt: skip
    strict = dict(
        size=size, scale_factor=scale_factor, mode=mode, align_corners=align_corners,
        recompute_scale_factor=recompute_scale_factor, antialias=antialias,
    )  # fmt: skip
    dims = input.dim() - 2
    sizes = [*input.shape[2:]]
    scales = [None] * dims if scale_factor is None else [float(scale) for scale in _per_axis(scale_factor, dims)]
    if size is None:
        wanted = [math.floor(old * scale) for old, scale in zip(sizes, scales)]
    else:
        wanted = [int(each) for each in _per_axis(size, dims)]
    if mode == "area":
        return _ADAPTIVE[dims](_ADAPTIVE_POOLS[dims], input, wanted)
    corners = bool(align_corners)
    if (
        (mode, corners) not in FORWARD
        or antialias
        or (mode in ("bilinear", "bicubic") and 1 in wanted and not align_corners)
    ):
        # nearest neighbours are the same; for a size of 1 Paddle's kernel takes another pixel, which is no constant
        return 0.0, lambda: original(input, **strict)
    if recompute_scale_factor:
        scales = [None] * dims
    mixed = mix_cubic if mode == "bicubic" else mix_linear
    how = [(old, new, corners, scale) for old, new, scale in zip(sizes, wanted, scales)]
    exact = [mixed(*axis, EXACT, _DOUBLE) for axis in how]
    ahead = [mixed(*axis, types, _SINGLE) for axis, types in zip(how, FORWARD[mode, corners])]
    back = [mixed(*axis, BACKWARD, _SINGLE) for axis in how]
    largest = max(abs(made - right).max() for made, right in zip((*ahead, *back), (*exact, *exact)))
    return float(largest), lambda: _Mixed.apply(input, ahead, back)


class _Mixed(torch.autograd.Function):
    """Pixels mixed along each axis of space by the weights (new, old) ``ahead``, their gradients by those ``back``."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, ahead: Sequence[np.ndarray], back: Sequence[np.ndarray]) -> torch.Tensor:
        """(B, C, *old) -> (B, C, *new)."""
        ctx.back = back
        return _mixed(input, ahead)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """(B, C, *new) -> (B, C, *old)."""
        return _mixed(grad, [weights.T for weights in ctx.back]), None, None


def _mixed(tensor: torch.Tensor, weights: Sequence[np.ndarray]) -> torch.Tensor:
    for axis, along in enumerate(weights, start=2):
        tensor = torch.movedim(torch.movedim(tensor, axis, -1) @ torch.from_numpy(along.T.copy()), -1, axis)
    return tensor.contiguous()


def _ratio(old: int, new: int, corners: bool, scale: float | None, of: type) -> Any:
    if corners:
        return of(old - 1) / of(new - 1) if new > 1 else of(0)
    return of(1 / scale) if scale else of(old) / of(new)


def _position(index: int, ratio: Any, corners: bool, of: type) -> float:
    if corners:
        return float(of(of(ratio) * of(index)))
    return float(of(of(of(ratio) * of(index + 0.5)) - of(0.5)))


def mix_linear(old: int, new: int, corners: bool, scale: float | None, types: Resizing, of: type) -> np.ndarray:
    """(new, old): the shares of the input pixels in each output pixel along one axis."""
    ratio, made = _ratio(old, new, corners, scale, of), np.zeros((new, old))
    for index in range(new):
        position = max(_position(index, ratio, corners, types.position), 0.0)
        first = min(int(position), old - 1)
        share = types.share(types.share(position) - types.share(first))
        made[index, first] += float(types.rest(1) - types.rest(share))
        made[index, min(first + 1, old - 1)] += float(share)
    return made


def mix_cubic(old: int, new: int, corners: bool, scale: float | None, types: Resizing, of: type) -> np.ndarray:
    """The same for the cubic kernel, over four pixels of which those beyond the border are the last one."""
    ratio, made = _ratio(old, new, corners, scale, of), np.zeros((new, old))
    for index in range(new):
        position = _position(index, ratio, corners, types.position)
        first = math.floor(_SINGLE(position) if of is _SINGLE else position)
        t = position - first
        for shift, share in enumerate((_far(t + 1), _near(t), _near(1 - t), _far(2 - t)), start=-1):
            made[index, min(max(first + shift, 0), old - 1)] += share
    return made


def _near(x: float) -> float:
    return ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1


def _far(x: float) -> float:
    return ((CUBIC * x - 5 * CUBIC) * x + 8 * CUBIC) * x - 4 * CUBIC


# --- norms and losses -----------------------------------------------------------------------------------------------

NORM_EPSILON = in_float32(1e-12)
"""What Paddle adds to a norm when it divides by it in the backward pass."""


def _norm(original: Any, input: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[float, Compute]:
    """The gradient x / |x| of the Euclidean norm, which is x / (|x| + 1e-12)."""
    order = args[0] if args else kwargs.get("p", kwargs.get("ord", 2))
    if order not in (None, "fro", 2):
        return 0.0, lambda: original(input, *args, **kwargs)
    value = original(input, *args, **kwargs)
    factor = value.detach() / (value.detach() + NORM_EPSILON)
    size = float((1 - factor).max()) if factor.numel() else 0.0
    return size, lambda: _GradientScaled.apply(value, factor)


def _normalize(
    original: Any, input: torch.Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Any = None
) -> tuple[float, Compute]:
    size, norm = _norm(torch.Tensor.norm, input, p, dim, keepdim=True)
    return size, lambda: input / norm().clamp_min(eps)


def _smooth_l1_loss(
    original: Any, input: torch.Tensor, target: torch.Tensor, size_average: Any = None, reduce: Any = None,
    reduction: str = "mean", beta: float = 1.0,
) -> tuple[float, Compute]:  # fmt: skip
    """Paddle has Huber's loss alone, which a port divides by beta."""
    return deviation(beta), lambda: F.huber_loss(input, target, reduction=reduction, delta=in_float32(beta)) / beta


def _cross_entropy(
    original: Any, input: torch.Tensor, target: torch.Tensor, weight: Any = None, size_average: Any = None,
    ignore_index: int = -100, reduce: Any = None, reduction: str = "mean", label_smoothing: float = 0.0,
) -> tuple[float, Compute]:  # fmt: skip
    """Smoothed labels, which are float32 and add up to 1 only nearly; the gradient is softmax - label all the same."""
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


# --- the table ------------------------------------------------------------------------------------------------------

_EXPONENT = rounded(exponent=1)
_FACTORS = rounded(alpha=10, beta=10)  # by name only

ENTRIES: dict[Callable[..., Any], tuple[str, Entry]] = {
    F.interpolate: ("interpolate", _interpolate),
    F.avg_pool1d: ("avg_pool1d", _avg_pool(1)),
    F.avg_pool2d: ("avg_pool2d", _avg_pool(2)),
    F.avg_pool3d: ("avg_pool3d", _avg_pool(3)),
    F.adaptive_avg_pool1d: ("adaptive_avg_pool1d", _ADAPTIVE[1]),
    F.adaptive_avg_pool2d: ("adaptive_avg_pool2d", _ADAPTIVE[2]),
    F.adaptive_avg_pool3d: ("adaptive_avg_pool3d", _ADAPTIVE[3]),
    torch._C._nn.adaptive_avg_pool2d: ("adaptive_avg_pool2d", _ADAPTIVE[2]),
    torch._C._nn.adaptive_avg_pool3d: ("adaptive_avg_pool3d", _ADAPTIVE[3]),
    F.local_response_norm: ("local_response_norm", _local_response_norm),
    F.elu: ("elu", rounded(alpha=1)),
    F.celu: ("celu", rounded(alpha=1)),
    F.selu: ("selu", _selu),
    F.hardsigmoid: ("hardsigmoid", _hardsigmoid),
    F.hardtanh: ("hardtanh", rounded(min_val=1, max_val=2)),
    F.softshrink: ("softshrink", rounded(lambd=1)),
    F.threshold: ("threshold", rounded(threshold=1, value=2)),
    torch.celu: ("celu", rounded(alpha=1)),
    torch.selu: ("selu", _selu),
    torch.threshold: ("threshold", rounded(threshold=1, value=2)),
    torch.pow: ("pow", _EXPONENT),
    torch.Tensor.pow: ("pow", _EXPONENT),
    torch.Tensor.__pow__: ("pow", _EXPONENT),
    torch.Tensor.pow_: ("pow", _EXPONENT),
    torch.Tensor.__ipow__: ("pow", _EXPONENT),
    torch.addmm: ("addmm", _FACTORS),
    torch.Tensor.addmm: ("addmm", _FACTORS),
    torch.baddbmm: ("baddbmm", _FACTORS),
    torch.Tensor.baddbmm: ("baddbmm", _FACTORS),
    F.batch_norm: ("batch_norm", _default_epsilon(7)),
    F.instance_norm: ("instance_norm", _default_epsilon(7)),
    F.layer_norm: ("layer_norm", _default_epsilon(4)),
    torch.batch_norm: ("batch_norm", _default_epsilon(7)),
    torch.instance_norm: ("instance_norm", _default_epsilon(7)),
    torch.layer_norm: ("layer_norm", _default_epsilon(4)),
    torch.norm: ("norm", _norm),
    torch.Tensor.norm: ("norm", _norm),
    torch.linalg.vector_norm: ("norm", _norm),
    F.normalize: ("normalize", _normalize),
    F.huber_loss: ("huber_loss", rounded(delta=3)),
    F.smooth_l1_loss: ("smooth_l1_loss", _smooth_l1_loss),
    F.cross_entropy: ("cross_entropy with label_smoothing", _cross_entropy),
}

MEANS: dict[Callable[..., Any], tuple[str, Entry]] = {
    torch.mean: ("mean, an average pool in the port", _mean_over_space),
    torch.Tensor.mean: ("mean, an average pool in the port", _mean_over_space),
}
