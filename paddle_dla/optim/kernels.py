"""Paddle's fused updates of one parameter, which have no public name: the same call for Paddle 2.6 and 3.x."""

from __future__ import annotations

import inspect
from importlib import import_module

import numpy as np
import paddle
from paddle import Tensor

_C_ops = import_module("paddle._C_ops")  # generated: its stub covers one version only
_HAS_AMSGRAD = "amsgrad" in inspect.signature(paddle.optimizer.Adam.__init__).parameters
"""Whether Adam's kernel takes a largest second moment, as in Paddle 3.0 and later."""


def rate(value: float, parameter: Tensor) -> Tensor:
    """Return a learning rate as the kernels take it: in the type and on the device of the parameter."""
    return paddle.full([1], value, parameter.dtype)


def taken(value: float, parameter: Tensor) -> float:
    """Return a hyperparameter as Adam's kernel takes it: rounded to the type of the parameter."""
    return float(np.float32(value)) if parameter.dtype == paddle.float32 else value


def momentum_(
    parameter: Tensor,
    gradient: Tensor,
    velocity: Tensor,
    lr: Tensor,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
) -> None:
    """SGD with momentum in place. The kernel takes ``momentum`` and ``weight_decay`` as float32."""
    method = "l2_decay" if weight_decay else ""
    _C_ops.momentum_(parameter, gradient, velocity, lr, None, momentum, nesterov, method, weight_decay, False, 1.0)


def adam_(
    parameter: Tensor,
    gradient: Tensor,
    lr: Tensor,
    moments: tuple[Tensor, Tensor],
    betas: tuple[float, float],
    eps: float,
) -> None:
    """Adam without bias correction, in place; the hyperparameters are rounded to the type of the parameter."""
    # with powers of the betas of 0, the bias correction is 1 - 0
    no_power = paddle.zeros([1], parameter.dtype)
    largest, amsgrad = ((None,), (False,)) if _HAS_AMSGRAD else ((), ())
    _C_ops.adam_(
        parameter,
        gradient,
        lr,
        *moments,
        *largest,
        no_power,
        no_power.clone(),
        None,  # no copy in higher precision
        None,  # no condition for skipping the update
        *betas,
        eps,
        False,  # all rows
        1000,
        False,  # no copy in higher precision
        True,  # the powers stay 0
        *amsgrad,
    )
