"""Losses of classification, each the twin of a definition in torch, timm or PaddleClas that it names.

Legend: B batch, K classes. Logits are (B, K). Targets are (B,) int64 class indices, or (B, K) probabilities. A loss is
a scalar tensor, in the type of the logits, but at least float32.

They are built on ``log_softmax`` and ``softplus`` of this file: on CPU Paddle (2.6 and 3.3) clips what lies more than
64 below the largest logit in ``softmax``, ``log_softmax`` and ``cross_entropy``, and smooths labels in float32 whatever
their type; and in 3.3.1 the gradient of ``binary_cross_entropy_with_logits`` is -0.5 - t instead of 0.5 - t at a logit
of exactly 0, where a new head begins that is initialised with zeros.
Numbers of their own (smoothing, threshold) are never rounded below the type of the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from paddle_dla.errors import WrongValue

Loss = Callable[[Tensor, Tensor], Tensor]
"""``loss(logits, target)``."""


def log_softmax(logits: Tensor) -> Tensor:
    """Logarithms of the softmax over the last axis, at any distance from the largest logit."""
    logits = _at_least_float32(logits)
    # less the largest first: the logarithm of a sure class is then exact instead of a difference of large numbers
    shifted = logits - logits.max(axis=-1, keepdim=True).detach()
    return shifted - paddle.logsumexp(shifted, axis=-1, keepdim=True)


def softplus(x: Tensor) -> Tensor:
    """``log(1 + exp(x))``, without a threshold."""
    return _Softplus.apply(_at_least_float32(x))


class _Softplus(paddle.autograd.PyLayer):
    """Its derivative is the sigmoid everywhere; differentiating the two terms would give 0 at 0 instead of 0.5."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.relu(x) + paddle.log1p(paddle.exp(-x.abs()))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensor()
        return gradient * F.sigmoid(x)


# --- cross entropy ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CrossEntropy:
    """``torch.nn.CrossEntropyLoss`` of class indices, averaged over the batch."""

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Raises ``ValueError`` for a target that is no class, where the target is on the CPU."""
        return -_of_target(log_softmax(logits), target).mean()


@dataclass(frozen=True)
class LabelSmoothingCrossEntropy:
    """timm's (1.0.31 ``timm/loss/cross_entropy.py``): ``smoothing`` of the target is spread evenly over all classes."""

    smoothing: float = 0.1

    def __post_init__(self):
        _refuse_smoothing(self.smoothing)

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Raises ``ValueError`` for a target that is no class, where the target is on the CPU."""
        logs = log_softmax(logits)
        loss = -(1.0 - self.smoothing) * _of_target(logs, target) - self.smoothing * logs.mean(axis=-1)
        return loss.mean()


@dataclass(frozen=True)
class SoftTargetCrossEntropy:
    """timm's (1.0.31 ``timm/loss/cross_entropy.py``), for targets (B, K) as mixup makes them."""

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Raises ``ValueError`` for a target that is not as large as the logits."""
        logs = log_softmax(logits)
        _refuse_shape(target, logs)
        return -(target.astype(logs.dtype) * logs).sum(axis=-1).mean()


# --- one yes or no for each class ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """timm's (1.0.31 ``timm/loss/binary_cross_entropy.py``): each class is a question of its own.

    Class indices become rows of ``smoothing / K``, and ``1 - smoothing + smoothing / K`` at the class; probabilities
    stay as mixup made them, unless ``smooth_dense`` moves them towards 0.5. ``target_threshold`` then makes 1 of what
    is above it, and 0 of the rest. The mean over all elements; with ``sum_classes`` the sum over the classes of each
    sample, averaged over the batch. timm's ``weight`` and ``pos_weight`` are left out.
    """

    smoothing: float = 0.1
    target_threshold: float | None = None
    sum_classes: bool = False
    smooth_dense: bool = False

    def __post_init__(self):
        _refuse_smoothing(self.smoothing)
        if self.target_threshold is not None and not 0 <= self.target_threshold < 1:
            raise WrongValue(f"target_threshold is from 0 on and below 1, not {self.target_threshold}")

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Raises ``ValueError`` for a target that is no class (where it is on the CPU) or of another batch."""
        logits = _at_least_float32(logits)
        dense = self._dense(logits, target)
        # -t log(sigmoid(x)) - (1 - t) log(1 - sigmoid(x)), without the logarithm of a sigmoid that is 0
        losses = softplus(-logits) + (paddle.ones_like(dense) - dense) * logits
        return losses.sum(axis=-1).mean() if self.sum_classes else losses.mean()

    def _dense(self, logits: Tensor, target: Tensor) -> Tensor:
        if target.ndim == 1:
            dense = self._one_hot(logits, target)
        else:
            _refuse_shape(target, logits)
            dense = target.astype(logits.dtype)
            if self.smooth_dense:
                dense = dense * (1.0 - self.smoothing) + paddle.full_like(dense, 0.5 * self.smoothing)
        if self.target_threshold is None:
            return dense
        return (dense > paddle.full_like(dense, self.target_threshold)).astype(dense.dtype)

    def _one_hot(self, logits: Tensor, target: Tensor) -> Tensor:
        classes = logits.shape[-1]
        _refuse_labels(target, logits)
        off = self.smoothing / classes
        # paddle 2.6 rounds a number that is added to a tensor to float32; one that fills a tensor it keeps
        row, on = paddle.full_like(logits, off), paddle.full_like(logits, 1.0 - self.smoothing + off)
        return paddle.where(F.one_hot(target, classes) > 0, on, row).detach()


# --- distillation ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Distillation:
    """``task_weight * hard(student, target) + distill_weight * T**2 * KL(teacher || student)``, both softened by T.

    timm 1.0.31 ``timm/task/distillation.py`` (``LogitDistillationTask``), after https://arxiv.org/abs/1503.02531. The
    divergence is summed over the classes and averaged over the batch. With ``distill_weight`` left out it is
    ``1 - task_weight``.
    """

    task_weight: float = 0.5
    distill_weight: float | None = None
    temperature: float = 1.0
    hard: Loss = field(default_factory=CrossEntropy)

    def __post_init__(self):
        if not self.temperature > 0:
            raise WrongValue(f"the temperature is above 0, not {self.temperature}")

    def __call__(self, logits: Tensor, target: Tensor, teacher_logits: Tensor) -> Tensor:
        """Raises ``ValueError`` where the teacher has other classes than the student, or another batch."""
        _refuse_shape(teacher_logits, logits)
        weight = 1.0 - self.task_weight if self.distill_weight is None else self.distill_weight
        student = log_softmax(_at_least_float32(logits) / self.temperature)
        teacher = log_softmax(_at_least_float32(teacher_logits.detach()) / self.temperature).astype(student.dtype)
        soft = kl_divergence(teacher, student).mean() * self.temperature**2
        return self.task_weight * self.hard(logits, target) + weight * soft


@dataclass(frozen=True)
class SSLD:
    """The distillation of PaddleClas's recipes, which learns from the teacher alone (SSLD).

    ``form="js"``: ``JSDivLoss`` of the 1.x recipes that ``use_distillation`` switched on (``ppcls/modeling/loss.py``):
    half of KL(teacher || student) + KL(student || teacher), summed over the classes, averaged over the batch. Its name
    says Jensen-Shannon; what it computes is half of Jeffreys' divergence. ``form="ce"``: cross entropy with the
    teacher's softmax as the target (``CELoss`` of two tensors of logits, 2.x, ``ppcls/loss/celoss.py``), which has the
    gradient of KL(teacher || student).
    """

    form: str = "js"

    def __post_init__(self):
        if self.form not in ("js", "ce"):
            raise WrongValue(f"SSLD's form is 'js' or 'ce', not {self.form!r}")

    def __call__(self, logits: Tensor, target: Tensor | None, teacher_logits: Tensor) -> Tensor:
        """``target`` is not used. Raises ``ValueError`` where the teacher has other classes, or another batch."""
        _refuse_shape(teacher_logits, logits)
        student = log_softmax(logits)
        teacher = log_softmax(teacher_logits.detach()).astype(student.dtype)
        if self.form == "ce":
            return -(teacher.exp() * student).sum(axis=-1).mean()
        return 0.5 * (kl_divergence(teacher, student) + kl_divergence(student, teacher)).mean()


def kl_divergence(logs: Tensor, other_logs: Tensor) -> Tensor:
    """KL(p || q) of each row, (B,), from the logarithms of p and of q, (B, K) each."""
    return (logs.exp() * (logs - other_logs)).sum(axis=-1)


# --- shared ----------------------------------------------------------------------------------------------------------


def _at_least_float32(x: Tensor) -> Tensor:
    return x.astype(paddle.float32) if x.dtype in (paddle.float16, paddle.bfloat16) else x


def _of_target(logs: Tensor, target: Tensor) -> Tensor:
    """The entry of each row that its target names, (B,)."""
    _refuse_labels(target, logs)
    return paddle.take_along_axis(logs, target.astype(paddle.int64).unsqueeze(1), axis=1).squeeze(1)


def _refuse_labels(target: Tensor, logits: Tensor) -> None:
    """Paddle takes -1 for the last class, or reads what lies before the tensor. A GPU is not made to wait for this."""
    batch, classes = logits.shape
    if target.ndim != 1 or target.shape[0] != batch:
        raise WrongValue(f"class indices for logits {list(logits.shape)} are {[batch]}, not {list(target.shape)}")
    if target.place.is_cpu_place() and batch and not (int(target.min()) >= 0 and int(target.max()) < classes):
        raise WrongValue(
            f"labels from {int(target.min())} to {int(target.max())} for {classes} classes: they go from 0 to "
            f"{classes - 1}; a sample without a label cannot be trained on"
        )


def _refuse_shape(target: Tensor, logits: Tensor) -> None:
    if list(target.shape) != list(logits.shape):
        raise WrongValue(f"a target for logits {list(logits.shape)} is as large, not {list(target.shape)}")


def _refuse_smoothing(smoothing: float) -> None:
    if not 0 <= smoothing < 1:
        raise WrongValue(f"smoothing is from 0 on and below 1, not {smoothing}")
