"""What is done to a layer to make a porting mistake: to its settings, its weights, its code. Paddle only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from alignment.faults.targets import NotApplicable, Target

Change = Callable[[Target], Sequence[str] | None]
"""Makes the fault; returns the paths to be reported where that is not the target's alone."""


# --- settings -------------------------------------------------------------------------------------------------------


def set_to(**attributes: Any) -> Change:
    """Give private attributes other values."""

    def change(target: Target) -> None:
        for name, value in attributes.items():
            if getattr(target.layer, name) == value:
                raise NotApplicable("it is set so already")
            setattr(target.layer, name, value)

    return change


def rebuilt(**options: Any) -> Change:
    """The same convolution with the same weights and other settings."""

    def change(target: Target) -> None:
        target.replace(_like(target.layer, **options))

    return change


def _like(conv: nn.Conv2D, **options: Any) -> nn.Conv2D:
    out_channels, in_channels, *kernel = conv.weight.shape
    settings = dict(
        stride=conv._stride, padding=conv._padding, dilation=conv._dilation, groups=conv._groups,
        bias_attr=False if conv.bias is None else None,
    )  # fmt: skip
    settings |= options
    made = nn.Conv2D(in_channels * conv._groups, out_channels, kernel, **settings)
    if made.weight.shape == conv.weight.shape:
        made.weight.set_value(conv.weight)
    else:
        # other groups: the weights that fit, and their continuation
        made.weight.set_value(np.resize(conv.weight.numpy(), made.weight.shape))
    if made.bias is not None:
        made.bias.set_value(conv.bias)
    return made


def move_stride(target: Target) -> list[str]:
    """The stride of a block goes to its other convolution, as between two versions of ResNet."""
    name = target.path.rpartition(".")[2]
    other = {"conv1": "conv2", "conv2": "conv1"}[name]
    neighbour = Target(target.model, target.sibling(other), getattr(target.parent, other))
    stride = target.layer._stride
    target.replace(_like(target.layer, stride=neighbour.layer._stride))
    neighbour.replace(_like(neighbour.layer, stride=stride))
    return [target.path, neighbour.path]


def more_groups(target: Target) -> None:
    """Half as many groups, or two instead of one."""
    groups = target.layer._groups
    target.replace(_like(target.layer, groups=groups // 2 if groups > 1 else 2))


def another(make: Callable[[Any], nn.Layer]) -> Change:
    """Another layer in its place."""

    def change(target: Target) -> None:
        target.replace(make(target.layer))

    return change


def plain_batch_norm(bn: nn.BatchNorm2D) -> nn.BatchNorm2D:
    """Paddle's own layer with the same weights."""
    plain = nn.BatchNorm2D(bn._num_features, bn._momentum, bn._epsilon)
    for name in ("weight", "bias", "_mean", "_variance"):
        getattr(plain, name).set_value(getattr(bn, name))
    return plain


# --- weights --------------------------------------------------------------------------------------------------------


def weights(function: Callable[[np.ndarray], np.ndarray], name: str = "weight") -> Change:
    """Another value for one tensor."""

    def change(target: Target) -> None:
        tensor = getattr(target.layer, name)
        before = tensor.numpy()
        after = np.ascontiguousarray(function(before.copy()), before.dtype)
        if np.array_equal(before, after):
            raise NotApplicable("it would change nothing")
        tensor.set_value(after)

    return change


def shuffled(array: np.ndarray, axis: int) -> np.ndarray:
    """Slices along an axis in another order, always the same one."""
    order = np.random.RandomState(0).permutation(array.shape[axis])
    return np.take(array, order, axis)


def exchange(one: str, other: str) -> Change:
    """Two tensors of one layer swapped."""

    def change(target: Target) -> None:
        a, b = getattr(target.layer, one), getattr(target.layer, other)
        first, second = a.numpy().copy(), b.numpy().copy()
        a.set_value(second)
        b.set_value(first)

    return change


def default_statistics(target: Target) -> None:
    """Running statistics as a fresh layer has them."""
    mean, variance = target.layer._mean, target.layer._variance
    if not mean.numpy().any():
        raise NotApplicable("the statistics are the defaults")
    mean.set_value(np.zeros_like(mean.numpy()))
    variance.set_value(np.ones_like(variance.numpy()))


def swap_layers(target: Target) -> list[str]:
    """The weights of this layer and of the next one of the same shape."""
    same = [
        (path, layer)
        for path, layer in target.model.named_sublayers()
        if isinstance(layer, nn.Conv2D) and layer.weight.shape == target.layer.weight.shape and path != target.path
    ]
    if not same:
        raise NotApplicable("no other layer has weights of this shape")
    path, other = same[0]
    a, b = target.layer.weight.numpy().copy(), other.weight.numpy().copy()
    target.layer.weight.set_value(b)
    other.weight.set_value(a)
    return [target.path, path]


def to_train(target: Target) -> None:
    """Into training mode."""
    target.layer.train()


def to_eval(target: Target) -> None:
    """Into evaluation mode."""
    target.layer.eval()


def frozen(target: Target) -> None:
    """A weight that is not trained."""
    target.layer.weight.stop_gradient = True


# --- what a layer computes ------------------------------------------------------------------------------------------


def computes(make: Callable[[Any, Callable[..., Any]], Callable[..., Any]]) -> Change:
    """Another ``forward``; ``make`` gets the layer and its right ``forward``."""

    def change(target: Target) -> None:
        target.layer.forward = make(target.layer, target.layer.forward)

    return change


def of_input(function: Callable[[Tensor], Tensor]) -> Change:
    """Another function of the input."""
    return computes(lambda layer, right: function)


def before(function: Callable[[Tensor], Tensor]) -> Change:
    """Something done to the input first."""
    return computes(lambda layer, right: lambda x: right(function(x)))


def after(function: Callable[[Tensor], Tensor]) -> Change:
    """Something done to the output."""
    return computes(lambda layer, right: lambda *args: function(right(*args)))


def convolved(**options: Any) -> Change:
    """The convolution, called with other settings than the layer has."""

    def make(conv: nn.Conv2D, right: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
        settings = dict(stride=conv._stride, padding=conv._padding, dilation=conv._dilation, groups=conv._groups)
        return lambda x: F.conv2d(x, conv.weight, conv.bias, **(settings | options))

    return computes(make)


def padded_by_border(target: Target) -> None:
    """Padding repeats the border; in the code alone."""
    conv = target.layer
    settings = dict(stride=conv._stride, dilation=conv._dilation, groups=conv._groups)
    conv.forward = lambda x: F.conv2d(F.pad(x, [1] * 4, "replicate"), conv.weight, conv.bias, padding=0, **settings)


def normalised(bn: nn.BatchNorm2D, right: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
    """By the batch's statistics, in evaluation too."""
    return lambda x: F.batch_norm(x, bn._mean, bn._variance, bn.weight, bn.bias, True, bn._momentum, bn._epsilon)


def normalised_otherwise(bn: nn.BatchNorm2D, right: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
    """With an epsilon of 1e-3."""
    return lambda x: F.batch_norm(x, bn._mean, bn._variance, bn.weight, bn.bias, False, bn._momentum, 1e-3)


def keeping(share: Callable[[float], float]) -> Callable[[Any, Callable[..., Any]], Callable[[Tensor], Tensor]]:
    """Running statistics that keep another share of what they were than the layer's momentum says."""

    def make(bn: nn.BatchNorm2D, right: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            before = [buffer.clone() for buffer in (bn._mean, bn._variance)]
            out = right(x)
            with paddle.no_grad():
                for old, buffer in zip(before, (bn._mean, bn._variance)):
                    batch = (buffer - old * bn._momentum) / (1 - bn._momentum)
                    keep = share(bn._momentum)
                    paddle.assign(old * keep + batch * (1 - keep), buffer)
            return out

        return forward

    return make


def in_float32(layer: Any, right: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
    """Input and output rounded to float32."""
    return lambda x: right(x.astype("float32").astype(x.dtype)).astype("float32").astype(x.dtype)


class Doubled(paddle.autograd.PyLayer):
    """The identity, with twice the gradient: a backward pass of one's own that is wrong."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """As it is."""
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Twice what it should be."""
        return grad * 2
