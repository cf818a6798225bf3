"""The changes that make a porting mistake in a layer: to its settings, its weights, its code. Paddle only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from alignment.faults.operations import Right, handled
from alignment.faults.targets import (
    HEADS,
    SCALES,
    NotApplicable,
    Shape,
    Target,
    epsilon_name,
    index_name,
    linears,
    own_parameter,
    setting,
)

Change = Callable[[Target], Sequence[str] | None]
"""A function that makes the fault; returns the paths to be reported if these are not the target's alone."""


# --- settings -------------------------------------------------------------------------------------------------------


def set_to(**attributes: Any) -> Change:
    """Set private attributes to other values."""

    def change(target: Target) -> None:
        for name, value in attributes.items():
            if getattr(target.layer, name) == value:
                raise NotApplicable("it already has this setting")
            setattr(target.layer, name, value)

    return change


def rebuilt(**options: Any) -> Change:
    """Rebuild the convolution with the same weights and other settings."""

    def change(target: Target) -> None:
        target.replace(_like(target.layer, **options))

    return change


def without_bias(target: Target) -> None:
    """Replace the convolution or linear layer by one without its bias."""
    layer = target.layer
    if not isinstance(layer, nn.Linear):
        target.replace(_like(layer, bias_attr=False))
        return
    made = nn.Linear(*layer.weight.shape, bias_attr=False)
    made.weight.set_value(layer.weight)
    target.replace(made)


def _like(conv: nn.Conv2D, **options: Any) -> nn.Conv2D:
    out_channels, in_channels, *kernel = conv.weight.shape
    settings: dict[str, Any] = dict(
        stride=conv._stride, padding=conv._padding, dilation=conv._dilation, groups=conv._groups,
        bias_attr=False if conv.bias is None else None,
    )  # fmt: skip
    settings |= options
    made = nn.Conv2D(in_channels * conv._groups, out_channels, kernel, **settings)
    if made.weight.shape == conv.weight.shape:
        made.weight.set_value(conv.weight)
    else:
        # other groups: the weights that fit, repeated
        made.weight.set_value(np.resize(conv.weight.numpy(), made.weight.shape))
    if made.bias is not None:
        made.bias.set_value(conv.bias)
    return made


def move_stride(target: Target) -> list[str]:
    """Move the stride of a block to its other convolution, as between two versions of ResNet."""
    name = target.path.rpartition(".")[2]
    other = {"conv1": "conv2", "conv2": "conv1"}[name]
    neighbour = Target(target.model, target.sibling(other), getattr(target.parent, other))
    stride = target.layer._stride
    target.replace(_like(target.layer, stride=neighbour.layer._stride))
    neighbour.replace(_like(neighbour.layer, stride=stride))
    return [target.path, neighbour.path]


def more_groups(target: Target) -> None:
    """Halve the number of groups, or use two instead of one."""
    groups = target.layer._groups
    target.replace(_like(target.layer, groups=groups // 2 if groups > 1 else 2))


def another(make: Callable[[Any], nn.Layer]) -> Change:
    """Replace the layer by another one."""

    def change(target: Target) -> None:
        target.replace(make(target.layer))

    return change


def other_pool(pool: nn.MaxPool2D) -> nn.MaxPool2D:
    """Return ResNet's pool of 3x3 instead of one of 2x2, and vice versa."""
    return nn.MaxPool2D(3, 2, 1) if pool.ksize == 2 else nn.MaxPool2D(2, 2)


def plain_batch_norm(bn: nn.BatchNorm2D) -> nn.BatchNorm2D:
    """Return Paddle's own BatchNorm with the same weights."""
    if type(bn) in (nn.BatchNorm, nn.BatchNorm2D):
        raise NotApplicable("it is Paddle's own layer")
    plain = nn.BatchNorm2D(bn._num_features, bn._momentum, bn._epsilon)
    for name in ("weight", "bias", "_mean", "_variance"):
        getattr(plain, name).set_value(getattr(bn, name))
    return plain


# --- weights --------------------------------------------------------------------------------------------------------


def weights(function: Callable[[np.ndarray], np.ndarray], name: str = "weight") -> Change:
    """Change the value of one tensor."""

    def change(target: Target) -> None:
        tensor = getattr(target.layer, name)
        before = tensor.numpy()
        after = np.ascontiguousarray(function(before.copy()), before.dtype)
        if np.array_equal(before, after):
            raise NotApplicable("it would change nothing")
        tensor.set_value(after)

    return change


def shuffled(array: np.ndarray, axis: int) -> np.ndarray:
    """Permute the slices along an axis, always in the same order."""
    order = np.random.RandomState(0).permutation(array.shape[axis])
    return np.take(array, order, axis)


def features_shuffled(target: Target) -> None:
    """Permute the output features."""
    weights(lambda w: shuffled(w, 1 if isinstance(target.layer, nn.Linear) else 0))(target)


def exchange(one: str, other: str) -> Change:
    """Swap two tensors of one layer."""

    def change(target: Target) -> None:
        a, b = getattr(target.layer, one), getattr(target.layer, other)
        first, second = a.numpy().copy(), b.numpy().copy()
        a.set_value(second)
        b.set_value(first)

    return change


def default_statistics(target: Target) -> None:
    """Reset the running statistics to those of a new layer."""
    mean, variance = target.layer._mean, target.layer._variance
    if not mean.numpy().any():
        raise NotApplicable("the statistics are the defaults")
    mean.set_value(np.zeros_like(mean.numpy()))
    variance.set_value(np.ones_like(variance.numpy()))


def swap_layers(target: Target) -> list[str]:
    """Swap the weights of this layer and of the next one of the same shape."""
    same = [
        (path, layer)
        for path, layer in target.model.named_sublayers()
        if type(layer) is type(target.layer) and layer.weight.shape == target.layer.weight.shape and path != target.path
        if target.seen is None or target.seen.calls[id(layer)]
    ]
    if not same:
        raise NotApplicable("no other layer has weights of this shape")
    path, other = same[0]
    a, b = target.layer.weight.numpy().copy(), other.weight.numpy().copy()
    target.layer.weight.set_value(b)
    other.weight.set_value(a)
    return [target.path, path]


def to_train(target: Target) -> None:
    """Put the layer into training mode."""
    target.layer.train()


def to_eval(target: Target) -> None:
    """Put the layer into evaluation mode."""
    target.layer.eval()


def frozen(target: Target) -> None:
    """Freeze the weight."""
    target.layer.weight.stop_gradient = True


# --- what a layer computes ------------------------------------------------------------------------------------------


def computes(make: Callable[[Any, Callable[..., Any]], Callable[..., Any]]) -> Change:
    """Replace ``forward``; ``make`` gets the layer and its right ``forward``."""

    def change(target: Target) -> None:
        target.layer.forward = make(target.layer, target.layer.forward)

    return change


def of_input(function: Callable[[Tensor], Tensor]) -> Change:
    """Replace ``forward`` by another function of the input."""
    return computes(lambda layer, right: function)


def before(function: Callable[[Tensor], Tensor]) -> Change:
    """Apply a function to the input first."""
    return computes(lambda layer, right: lambda x, *args, **kwargs: right(function(x), *args, **kwargs))


def after(function: Callable[[Tensor], Tensor]) -> Change:
    """Apply a function to the output."""
    return computes(lambda layer, right: lambda *args, **kwargs: function(right(*args, **kwargs)))


def convolved(**options: Any) -> Change:
    """Call the convolution with other settings than the layer has."""

    def make(conv: nn.Conv2D, right: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
        own = dict(stride=conv._stride, padding=conv._padding, dilation=conv._dilation, groups=conv._groups)
        settings: dict[str, Any] = own | options
        return lambda x: F.conv2d(x, conv.weight, conv.bias, **settings)

    return computes(make)


def padded_by_border(target: Target) -> None:
    """Pad by repeating the border, in the code only."""
    conv = target.layer
    settings = dict(stride=conv._stride, dilation=conv._dilation, groups=conv._groups)
    conv.forward = lambda x: F.conv2d(F.pad(x, [1] * 4, "replicate"), conv.weight, conv.bias, padding=0, **settings)


def called_with(**attributes: Any) -> Change:
    """Call the layer with other settings than the right ones that it has."""

    def make(layer: Any, right: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            kept = {name: getattr(layer, name) for name in attributes}
            layer.__dict__.update(attributes)
            try:
                return right(*args, **kwargs)
            finally:
                layer.__dict__.update(kept)

        return forward

    return computes(make)


def without_its_bias(layer: Any, right: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
    """Leave out the bias of a convolution or linear layer in the code."""
    if isinstance(layer, nn.Linear):
        return lambda x: right(x) - layer.bias
    return lambda x: right(x) - layer.bias.reshape([1, -1] + [1] * (x.ndim - 2))


def keeping(share: Callable[[float], float]) -> Callable[[Any, Callable[..., Any]], Callable[[Tensor], Tensor]]:
    """Update running statistics with another kept share than the layer's momentum gives."""

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
    """Round input and output to float32."""
    return lambda x: right(x.astype("float32").astype(x.dtype)).astype("float32").astype(x.dtype)


class Doubled(paddle.autograd.PyLayer):
    """The identity with twice the gradient: a wrong custom backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return the input unchanged."""
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return twice the right gradient."""
        return grad * 2


# --- normalisation, linear layers, attention ------------------------------------------------------------------------


def other_epsilon(target: Target) -> None:
    """Use 1e-5 instead of 1e-6, and vice versa."""
    name = epsilon_name(target.layer)
    now = getattr(target.layer, name)
    setattr(target.layer, name, 1e-6 if np.isclose(now, 1e-5, rtol=1e-3, atol=0) else 1e-5)


def calls_other_epsilon(target: Target) -> None:
    """Use an epsilon of 1e-3, in the code only."""
    called_with(**{epsilon_name(target.layer): 1e-3})(target)


def as_made(target: Target) -> None:
    """Reset weight and bias to those of a new normalisation."""
    weights(np.ones_like)(target)
    weights(np.zeros_like, "bias")(target)


def unbiased(layer: Any, right: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
    """Divide by the standard deviation that ``Tensor.std`` returns by default."""
    share = (1 - 1 / layer.weight.size) ** 0.5

    def forward(x: Tensor) -> Tensor:
        bias = layer.bias if x.shape[-1] == layer.bias.size else layer.bias.reshape([-1, 1, 1])
        return (right(x) - bias) * share + bias

    return forward


def query_and_key_exchanged(array: np.ndarray) -> np.ndarray:
    """Swap the first and the second third of the last axis."""
    query, key, value = np.split(array, 3, -1)
    return np.concatenate([key, query, value], -1)


def packed_otherwise(parts: Callable[[np.ndarray, int], np.ndarray]) -> Change:
    """Reorder weight and bias of a layer that computes query, key and value; ``parts`` gets the heads."""

    def change(target: Target) -> None:
        heads = setting(target.parent, HEADS, int)
        number = getattr(target.parent, heads) if heads else 1
        for name in ("weight", "bias"):
            if getattr(target.layer, name) is not None:
                weights(lambda array: parts(array, number), name)(target)

    return change


def heads_first(array: np.ndarray, heads: int) -> np.ndarray:
    """Reorder (..., three, heads, width) to (..., heads, three, width)."""
    apart = array.reshape(*array.shape[:-1], 3, heads, -1)
    return apart.swapaxes(-3, -2).reshape(array.shape)


def exchanged_in_code(y: Tensor) -> Tensor:
    """Swap query and key in the output."""
    query, key, value = paddle.split(y, 3, -1)
    return paddle.concat([key, query, value], -1)


def scaled_by_width(target: Target) -> None:
    """Scale scores by the width of all heads instead of one."""
    name = setting(target.layer, SCALES, float)
    width = linears(target.layer)[0].weight.shape[0]
    if np.isclose(getattr(target.layer, name), width**-0.5):
        raise NotApplicable("it has one head")
    setattr(target.layer, name, width**-0.5)


def other_heads(target: Target) -> None:
    """Use twice as many heads, or half as many."""
    name = setting(target.layer, HEADS, int)
    heads, width = getattr(target.layer, name), linears(target.layer)[0].weight.shape[0]
    setattr(target.layer, name, 2 * heads if width % (2 * heads) == 0 else 1)


def setting_to(names: tuple[str, ...], kind: type, value: Any) -> Change:
    """Change the first of these settings that the layer has."""
    return lambda target: setattr(target.layer, setting(target.layer, names, kind), value)


# --- parameters and buffers that a layer holds itself ---------------------------------------------------------------


def own(shape: Shape, function: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Change a parameter of this shape."""
    return lambda target: weights(function, own_parameter(target.layer, shape))(target)


def own_in_code(shape: Shape, function: Callable[[Tensor], Tensor]) -> Change:
    """Use another value than the parameter's in the code."""

    def make(layer: Any, right: Callable[..., Any]) -> Callable[..., Any]:
        name = own_parameter(layer, shape)

        def forward(*args: Any, **kwargs: Any) -> Any:
            kept = layer._parameters[name]
            layer._parameters[name] = function(kept)
            try:
                return right(*args, **kwargs)
            finally:
                layer._parameters[name] = kept

        return forward

    return computes(make)


def own_frozen(target: Target) -> None:
    """Freeze a parameter."""
    target.layer._parameters[own_parameter(target.layer, lambda parameter: True)].stop_gradient = True


def index_transposed(target: Target) -> None:
    """Transpose an index."""
    weights(np.transpose, index_name(target.layer))(target)


# --- operations -----------------------------------------------------------------------------------------------------


def operation(name: str, wrong: Callable[..., Any], call: int | None = None) -> Change:
    """Replace an operation that the code calls by ``wrong``, which gets the right operation and its arguments.

    ``call`` is the number of the operation in a call of the layer, from the end if it is negative; all if it is
    ``None``.
    """

    def change(target: Target) -> None:
        layer, right = target.layer, target.layer.forward
        chosen = None
        if call is not None:
            if target.seen is None:
                raise NotApplicable("the layer's calls are unknown")
            chosen = call % target.seen.number(layer, name)
        made = 0

        def handle(caller: nn.Layer, operate: Right, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            nonlocal made
            made += caller is layer
            if caller is not layer or chosen not in (None, made - 1):
                return operate(*args, **kwargs)
            return wrong(operate, *args, **kwargs)

        def forward(*args: Any, **kwargs: Any) -> Any:
            nonlocal made
            made = 0
            with handled(name, handle):
                return right(*args, **kwargs)

        layer.forward = forward

    return change
