"""The optimizers: the update of one parameter.

In float32 Paddle's fused kernels compute the same as torch, and on a GPU one kernel per parameter is much cheaper than
ten operations. They are used wherever they round no constant below the parameter's type.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor

from paddle_dla.errors import WrongValue
from paddle_dla.optim import kernels
from paddle_dla.optim.base import NamedOptimizer
from paddle_dla.optim.clip import global_norm
from paddle_dla.optim.groups import ParamGroup


class SGD(NamedOptimizer):
    """``torch.optim.SGD``: weight decay is added to the gradient, before the momentum; no dampening.

    ``velocity = momentum * velocity + g`` and ``p -= lr * velocity``; with ``nesterov`` ``p -= lr * (g + momentum *
    velocity)``. timm's ``sgd`` is the version with ``nesterov``, its ``momentum`` the one without.
    """

    slots = ("velocity",)

    def __init__(self, groups: Sequence[ParamGroup], lr: float, momentum: float = 0.9, nesterov: bool = False):
        """Raises ``ValueError`` for a momentum outside [0, 1), and for Nesterov without momentum (as torch)."""
        if not 0 <= momentum < 1:
            raise WrongValue(f"momentum is from 0 on and below 1, not {momentum}")
        if nesterov and not momentum:
            raise WrongValue("Nesterov momentum needs a momentum above 0")
        super().__init__(groups, lr)
        self.momentum, self.nesterov = momentum, nesterov

    def update(self, name: str, parameter: Tensor, gradient: Tensor, lr: float, weight_decay: float) -> None:
        """Update ``parameter`` by one step."""
        velocity = self.state[name]["velocity"]
        if parameter.dtype == paddle.float32:
            rate = kernels.rate(lr, parameter)
            kernels.momentum_(parameter, gradient, velocity, rate, self.momentum, self.nesterov, weight_decay)
            return
        if weight_decay:
            gradient = gradient + parameter * weight_decay
        velocity.scale_(self.momentum).add_(gradient)
        move = gradient + velocity * self.momentum if self.nesterov else velocity
        parameter.subtract_(move * lr)


class AdamW(NamedOptimizer):
    """``torch.optim.AdamW``: weight decay is ``p *= 1 - lr * weight_decay``, separate from the gradient.

    Then ``p -= lr * m / (sqrt(v) + eps)`` with m and v divided by ``1 - beta ** step``. Steps are counted for each
    parameter, so that one that is unfrozen later starts with its own first step.
    """

    slots = ("moment1", "moment2")

    def __init__(
        self, groups: Sequence[ParamGroup], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ):
        """Raises ``ValueError`` for betas outside [0, 1) and a negative epsilon."""
        _refuse_adam(betas, eps)
        super().__init__(groups, lr)
        self.betas, self.eps = betas, eps
        self.counts = {f"{name}.step": 0 for name, _ in self.named_parameters()}

    def update(self, name: str, parameter: Tensor, gradient: Tensor, lr: float, weight_decay: float) -> None:
        """Update ``parameter`` by one step."""
        self.counts[f"{name}.step"] += 1
        count = self.counts[f"{name}.step"]
        # 1 - 0.999 in float32 is 1.3e-5 too small: dividing by the same power of the same number cancels that
        first, second = (1 - kernels.taken(beta, parameter) ** count for beta in self.betas)
        if weight_decay:
            parameter.scale_(1 - lr * weight_decay)
        # the bias corrections of both moments, computed in double precision; the kernel applies none
        rate = kernels.rate(lr * second**0.5 / first, parameter)
        moments = (self.state[name]["moment1"], self.state[name]["moment2"])
        kernels.adam_(parameter, gradient, rate, moments, self.betas, self.eps * second**0.5)


class Lamb(NamedOptimizer):
    """timm's ``Lamb`` (1.0.31 ``timm/optim/lamb.py``): Adam's step plus decay, rescaled to the norm of the weights.

    All gradients are first divided by ``max(1, global norm / max_grad_norm)``, without an epsilon (``None``: no
    clipping). Weight decay is added to Adam's step, and the sum is multiplied by ``norm(p) / norm(step)`` if both are
    above 0, at most 1 with ``trust_clip`` (timm's ``lambc``). Parameters without weight decay are not rescaled unless
    ``always_adapt``. Steps are counted for all parameters together. Paddle's own ``Lamb`` differs in all of this except
    the formula of Adam. timm's options ``decoupled_decay``, ``caution`` and ``grad_averaging=False`` are left out.
    """

    slots = ("moment1", "moment2")

    def __init__(
        self,
        groups: Sequence[ParamGroup],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        max_grad_norm: float | None = 1.0,
        trust_clip: bool = False,
        always_adapt: bool = False,
    ):
        """Raises ``ValueError`` for betas outside [0, 1), a negative epsilon and a norm that is not above 0."""
        _refuse_adam(betas, eps)
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise WrongValue(f"max_grad_norm is above 0, or None, not {max_grad_norm}")
        super().__init__(groups, lr)
        self.betas, self.eps, self.max_grad_norm = betas, eps, max_grad_norm
        self.trust_clip, self.always_adapt = trust_clip, always_adapt
        self.counts = {"step": 0}
        self._divisor: Tensor | None = None

    def begin(self) -> None:
        """Count the step, and measure the gradients."""
        self.counts["step"] += 1
        self._divisor = None
        gradients = [parameter.grad for _, parameter in self.named_parameters() if parameter.grad is not None]
        if self.max_grad_norm is not None and gradients:
            norm = global_norm(gradients)
            self._divisor = paddle.maximum(norm / self.max_grad_norm, self.constant(1.0, norm))

    def update(self, name: str, parameter: Tensor, gradient: Tensor, lr: float, weight_decay: float) -> None:
        """Update ``parameter`` by one step."""
        step = self._adam_step(name, gradient if self._divisor is None else gradient / self._divisor)
        if weight_decay:
            step = step + parameter * weight_decay
        if weight_decay or self.always_adapt:
            step = step * self._trust_ratio(parameter, step)
        parameter.subtract_(step * lr)

    def _adam_step(self, name: str, gradient: Tensor) -> Tensor:
        first, second = (1 - beta ** self.counts["step"] for beta in self.betas)
        moment1, moment2 = self.state[name]["moment1"], self.state[name]["moment2"]
        moment1.scale_(self.betas[0]).add_(gradient * (1 - self.betas[0]))
        moment2.scale_(self.betas[1]).add_(gradient * gradient * (1 - self.betas[1]))
        return moment1 / first / (moment2.sqrt() / second**0.5 + self.constant(self.eps, moment2))

    def _trust_ratio(self, parameter: Tensor, step: Tensor) -> Tensor:
        of_parameter, of_step = global_norm([parameter]), global_norm([step])
        one = self.constant(1.0, of_step)
        usable = paddle.logical_and(of_parameter > 0, of_step > 0)
        ratio = paddle.where(usable, of_parameter / paddle.where(usable, of_step, one), one)
        return paddle.minimum(ratio, one) if self.trust_clip else ratio


def _refuse_adam(betas: tuple[float, float], eps: float) -> None:
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise WrongValue(f"betas are two numbers from 0 on and below 1, not {betas}")
    if not eps >= 0:
        raise WrongValue(f"eps is not negative, unlike {eps}")
