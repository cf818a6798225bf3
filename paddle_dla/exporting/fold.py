"""Fold batch normalisation into the preceding convolution.

In evaluation BN is an affine map of each channel, so ``BN(conv(x))`` is one convolution::

    scale = weight / sqrt(variance + epsilon)
    w'    = w * scale          b' = (b - mean) * scale + bias

(Jacob et al., https://arxiv.org/abs/1712.05877, section 3.2, without the quantisation.)
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeGuard

import numpy as np
import paddle
from paddle import Tensor, nn

SAME = 1e-4
"""Relative tolerance. A few roundings of float32 are 4e-7; cancellation in the affine map multiplies that, by 100 if
the mean is 100 deviations away. A missed activation is an error of the order of 1.
"""


def fold_batch_norms(layer: nn.Layer, images: np.ndarray) -> tuple[nn.Layer, list[str]]:
    """Return a copy of ``layer`` in evaluation mode with its BN folded, and the names of the folded BN.

    ``images`` (B, C, H, W), of the type of the weights, are run once to find which convolution feeds which BN. A pair
    is folded only if the two always follow each other and nothing else reads the value between them; every other BN is
    kept. The arithmetic is done in float64 and rounded once. ``layer`` itself is not changed.
    """
    folded = copy.deepcopy(layer)
    folded.eval()
    pairs = _foldable(folded, paddle.to_tensor(images))
    for norm_name, (conv, norm) in pairs.items():  # the part of a norm subclass that is not affine remains
        _absorb(conv, norm)
        rest = rest_of(norm)
        assert rest is not None  # _is_fixed_norm has checked it
        _replace(folded, norm_name, rest)
    return folded, list(pairs)


def _foldable(model: nn.Layer, images: Tensor) -> dict[str, tuple[nn.Conv2D, nn.BatchNorm2D]]:
    """Return ``{name of the BN: (convolution, BN)}`` of the pairs that can be folded."""
    layers = dict(model.named_sublayers())
    convs = {name: layer for name, layer in layers.items() if _is_plain_convolution(layer)}
    norms = {name: layer for name, layer in layers.items() if _is_fixed_norm(layer)}
    feeds, leaking = _trace(model, images, convs, norms)
    return {
        norm: (convs[conv], norms[norm])
        for norm, conv in _one_to_one(feeds)
        if conv not in leaking and convs[conv]._data_format == norms[norm]._data_format
    }


def _is_plain_convolution(layer: nn.Layer) -> TypeGuard[nn.Conv2D]:
    """Return whether the layer is a plain convolution: no overridden method, no hook (weight norm is one)."""
    hooked = layer._forward_pre_hooks or layer._forward_post_hooks
    return isinstance(layer, nn.Conv2D) and type(layer).forward is nn.Conv2D.forward and not hooked


def _is_fixed_norm(layer: nn.Layer) -> TypeGuard[nn.BatchNorm2D]:
    """Return whether BN applies its running statistics in evaluation; ``use_global_stats=False`` uses the batch's."""
    return isinstance(layer, nn.BatchNorm2D) and layer._use_global_stats is not False and rest_of(layer) is not None


@paddle.no_grad()
def rest_of(norm: nn.BatchNorm2D) -> nn.Layer | None:
    """Return what ``norm`` (evaluation mode) applies after its affine map: nothing, or its activation; else ``None``.

    timm's BatchNormAct2d combines both in one layer. The activation ``act`` is verified by running the layer on values
    of both signs.
    """
    dtype = norm._mean.numpy().dtype
    scale, shift = (values[None, :, None, None] for values in _affine(norm))
    wanted = np.linspace(-8, 8, 8 * shift.size).reshape(1, -1, 2, 4)  # inputs of the activation; beyond the 6 of ReLU6
    x = np.divide(wanted - shift, scale, out=np.zeros_like(wanted), where=scale != 0).astype(dtype)
    affine = paddle.to_tensor((x * scale + shift).astype(dtype))
    found = norm(paddle.to_tensor(x))
    rests = [nn.Identity(), *(rest for rest in (getattr(norm, "act", None),) if isinstance(rest, nn.Layer))]
    return next((rest for rest in rests if _same(rest(affine.clone()), found)), None)


def _same(ours: Tensor, found: Tensor) -> bool:
    """Return whether two results are equal up to a few roundings; an activation changes them by their own size."""
    return bool((ours - found).abs().max() <= SAME * max(float(found.abs().max()), 1.0))


def _affine(norm: nn.BatchNorm2D) -> tuple[np.ndarray, np.ndarray]:
    """Return ``scale`` and ``shift`` of each channel, (C,) float64."""
    # Paddle's kernels use epsilon as float32, whatever type they compute in
    scale = 1 / np.sqrt(_float64(norm._variance) + np.float64(np.float32(norm._epsilon)))
    scale = scale if norm.weight is None else scale * _float64(norm.weight)
    shift = 0.0 if norm.bias is None else _float64(norm.bias)
    return scale, shift - _float64(norm._mean) * scale


def _trace(
    model: nn.Layer, images: Tensor, convs: Mapping[str, nn.Layer], norms: Mapping[str, nn.Layer]
) -> tuple[list[tuple[str, str | None]], set[str]]:
    """Run ``model`` once; return (BN, convolution that it read or None) of each call, and the convolutions that leak.

    The gradient graph is cut after each convolution, and again after a BN that reads one. If the result, or the next
    cut, still depends on a convolution's output, something besides that BN reads it, possibly only a ``+``, which no
    hook would see.
    """
    outputs: list[tuple[str, Tensor]] = []
    ends: list[Tensor] = []
    feeds: list[tuple[str, str | None]] = []

    def cut(name: str) -> Callable[..., Tensor]:
        def hook(_layer: nn.Layer, _inputs: object, output: Tensor) -> Tensor:
            leaf = output.detach()
            leaf.stop_gradient = False
            outputs.append((name, leaf))
            ends.append(output)
            return leaf

        return hook

    def note(name: str) -> Callable[..., Tensor]:
        def hook(_layer: nn.Layer, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            source = next((conv for conv, leaf in outputs if leaf is inputs[0]), None)
            feeds.append((name, source))
            return output if source is None else output.detach()

        return hook

    hooks = {convs[name]: cut(name) for name in convs} | {norms[name]: note(name) for name in norms}
    with paddle.enable_grad(), _hooked(hooks):
        ends += _tensors(model(images))
    return feeds, _reached([end for end in ends if not end.stop_gradient], outputs)


def _reached(ends: list[Tensor], outputs: list[tuple[str, Tensor]]) -> set[str]:
    """Return the names of the ``outputs`` that the ``ends`` depend on."""
    if not ends or not outputs:
        return set()
    gradients = paddle.grad(ends, [leaf for _, leaf in outputs], allow_unused=True)
    return {name for (name, _), gradient in zip(outputs, gradients) if gradient is not None}


@contextmanager
def _hooked(hooks: dict[nn.Layer, Callable[..., Tensor]]) -> Iterator[None]:
    handles = [layer.register_forward_post_hook(hook) for layer, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(value: object) -> list[Tensor]:
    """Return all tensors in the result of a layer."""
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for item in items for tensor in _tensors(item)]


def _one_to_one(feeds: list[tuple[str, str | None]]) -> Iterator[tuple[str, str]]:
    """Yield (BN, convolution) if every call of the BN reads that convolution, and no other BN reads it."""
    sources, readers = defaultdict(set), defaultdict(set)
    for norm, conv in feeds:
        sources[norm].add(conv)
        readers[conv].add(norm)
    for norm, (conv, *others) in sources.items():
        if conv is not None and not others and readers[conv] == {norm}:
            yield norm, conv


def _absorb(conv: nn.Conv2D, norm: nn.BatchNorm2D) -> None:
    """Give ``conv`` the weights of ``norm(conv(x))``, as its own parameters."""
    weight = _float64(conv.weight)
    bias = 0.0 if conv.bias is None else _float64(conv.bias)
    scale, shift = _affine(norm)
    bias = bias * scale + shift
    dtype = conv.weight.numpy().dtype
    conv.weight = _parameter(conv, (weight * scale[:, None, None, None]).astype(dtype))
    conv.bias = _parameter(conv, bias.astype(dtype))


def _float64(tensor: Tensor) -> np.ndarray:
    return tensor.numpy().astype(np.float64)


def _parameter(layer: nn.Layer, value: np.ndarray) -> Tensor:
    parameter = layer.create_parameter(
        list(value.shape), dtype=value.dtype.type, default_initializer=nn.initializer.Assign(value)
    )
    parameter.stop_gradient = True
    return parameter


def _replace(model: nn.Layer, name: str, layer: nn.Layer) -> None:
    """Replace the sublayer ``name`` (dotted) by ``layer``."""
    parent, _, key = name.rpartition(".")
    owner = dict(model.named_sublayers(include_self=True))[parent]
    owner.add_sublayer(key, layer)
