"""Gradient clipping in place, as in torch and timm; Paddle's own clips each parameter group by a separate norm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import paddle
from paddle import Tensor

from paddle_dla.errors import WrongValue

MODES = ("norm", "value", "agc")


def clip_grad_(parameters: Iterable[Tensor], value: float, mode: str = "norm") -> Tensor | None:
    """Clip gradients like timm 1.0.31 ``dispatch_clip_grad``. Returns the norm before clipping if ``mode`` is ``norm``.

    Raises ``ValueError`` for an unknown mode and for a value that is not above 0.
    """
    if mode not in MODES:
        raise WrongValue(f"clipping mode must be one of {', '.join(MODES)}, not {mode!r}")
    if not value > 0:
        raise WrongValue(f"the limit of clipping is above 0, not {value}; to clip nothing, leave it out")
    if mode == "norm":
        return clip_grad_norm_(parameters, value)
    return clip_grad_value_(parameters, value) if mode == "value" else adaptive_clip_grad_(parameters, value)


@paddle.no_grad()
def clip_grad_norm_(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """``torch.nn.utils.clip_grad_norm_``: scale all gradients by one factor, ``max_norm / (norm + 1e-6)`` at most 1.

    Returns the norm over all gradients before clipping; 0 if there is no gradient.
    """
    gradients = _gradients(parameters)
    if not gradients:
        return paddle.zeros([])
    norm = global_norm(gradients)
    small, one = paddle.full([], 1e-6, norm.dtype), paddle.full([], 1.0, norm.dtype)
    factor = paddle.minimum(paddle.full([], max_norm, norm.dtype) / (norm + small), one)
    for gradient in gradients:
        gradient.multiply_(factor)
    return norm


@paddle.no_grad()
def clip_grad_value_(parameters: Iterable[Tensor], limit: float) -> None:
    """``torch.nn.utils.clip_grad_value_``: limit each element to [-limit, limit]."""
    for gradient in _gradients(parameters):
        most = paddle.full([], limit, gradient.dtype)
        paddle.assign(paddle.maximum(paddle.minimum(gradient, most), -most), gradient)


@paddle.no_grad()
def adaptive_clip_grad_(parameters: Iterable[Tensor], clip_factor: float = 0.01, eps: float = 1e-3) -> None:
    """timm's ``adaptive_clip_grad`` (https://arxiv.org/abs/2102.06171): clip by the norm of the weights of each unit.

    A unit is an output channel of a convolution, or a whole tensor of one dimension. timm leaves out the classifier
    (its two last parameters), and so should the caller. The weights of a linear layer would have to be transposed; DLA
    has none.
    """
    for parameter in parameters:
        if parameter.grad is None:
            continue
        gradient = parameter.grad
        floor, tiny = (paddle.full([], value, gradient.dtype) for value in (eps, 1e-6))
        limit = paddle.maximum(_unitwise_norm(parameter), floor) * clip_factor
        norm = _unitwise_norm(gradient)
        clipped = gradient * (limit / paddle.maximum(norm, tiny))
        paddle.assign(paddle.where((norm < limit).expand_as(gradient), gradient, clipped), gradient)


def global_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm over all elements of all tensors, as a zero-dimensional tensor."""
    squares = [(tensor * tensor).sum() for tensor in tensors]
    return paddle.stack(squares).sum().sqrt()


def _unitwise_norm(x: Tensor) -> Tensor:
    if x.ndim <= 1:
        return (x * x).sum().sqrt()
    return (x * x).sum(axis=[*range(1, x.ndim)], keepdim=True).sqrt()


def _gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
