"""Classification losses. Each matches a definition in torch, timm or PaddleClas that its docstring names.

Legend: B batch, K classes. Logits are (B, K). Targets are (B,) int64 class indices, or (B, K) probabilities. A loss is
a scalar tensor, in the type of the logits, but at least float32.

They use ``log_softmax`` and ``softplus`` of this file, for three reasons. On CPU, Paddle (2.6 and 3.3) clips logits
more than 64 below the largest one in ``softmax``, ``log_softmax`` and ``cross_entropy``. It smooths labels in float32
whatever their type. And in 3.3.1 the gradient of ``binary_cross_entropy_with_logits`` is -0.5 - t instead of 0.5 - t at
a logit of exactly 0, which is where a head initialised with zeros starts.
Parameters of a loss (smoothing, threshold) are never rounded below the type of the logits.
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
    """Logarithm of the softmax over the last axis, without clipping far below the largest logit."""
    logits = _at_least_float32(logits)
    # subtract the largest first: the logarithm of a near-certain class is then exact, not a difference of large numbers
    shifted = logits - logits.max(axis=-1, keepdim=True).detach()
    return shifted - paddle.logsumexp(shifted, axis=-1, keepdim=True)


def softplus(x: Tensor) -> Tensor:
    """``log(1 + exp(x))``, without a threshold."""
    return _Softplus.apply(_at_least_float32(x))


class _Softplus(paddle.autograd.PyLayer):
    """Softplus whose derivative is the sigmoid everywhere; differentiating the two terms would give 0 at 0, not 0.5."""

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
    """``torch.nn.CrossEntropyLoss`` for class indices, averaged over the batch."""

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Raises ``ValueError`` for a target that is not a class, if the target is on the CPU."""
        return -_of_target(log_softmax(logits), target).mean()


@dataclass(frozen=True)
class LabelSmoothingCrossEntropy:
    """Cross entropy with label smoothing, as timm 1.0.31 ``timm/loss/cross_entropy.py``.

    ``smoothing`` of the target is spread evenly over all classes.
    """

    smoothing: float = 0.1

    def __post_init__(self):
        _refuse_smoothing(self.smoothing)

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Raises ``ValueError`` for a target that is not a class, if the target is on the CPU."""
        logs = log_softmax(logits)
        loss = -(1.0 - self.smoothing) * _of_target(logs, target) - self.smoothing * logs.mean(axis=-1)
        return loss.mean()


@dataclass(frozen=True)
class SoftTargetCrossEntropy:
    """Cross entropy for targets (B, K), as mixup makes them; as timm 1.0.31 ``timm/loss/cross_entropy.py``."""

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Raises ``ValueError`` for a target whose shape is not that of the logits."""
        logs = log_softmax(logits)
        _refuse_shape(target, logs)
        return -(target.astype(logs.dtype) * logs).sum(axis=-1).mean()


# --- binary cross entropy ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """Binary cross entropy of each class, as timm 1.0.31 ``timm/loss/binary_cross_entropy.py``.

    Class indices become rows of ``smoothing / K``, with ``1 - smoothing + smoothing / K`` at the class. Probabilities
    are kept as mixup made them, unless ``smooth_dense`` moves them towards 0.5. ``target_threshold`` then sets targets
    above it to 1 and the others to 0. The loss is the mean over all elements; with ``sum_classes`` it is the sum over
    the classes of each sample, averaged over the batch. timm's ``weight`` and ``pos_weight`` are left out.
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
        """Raises ``ValueError`` for a target that is not a class (if it is on the CPU) or has another batch size."""
        logits = _at_least_float32(logits)
        dense = self._dense(logits, target)
        # -t log(sigmoid(x)) - (1 - t) log(1 - sigmoid(x)), without taking the logarithm of a sigmoid that is 0
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
        # paddle 2.6 rounds a scalar added to a tensor to float32; a tensor filled with it keeps all digits
        row, on = paddle.full_like(logits, off), paddle.full_like(logits, 1.0 - self.smoothing + off)
        return paddle.where(F.one_hot(target, classes) > 0, on, row).detach()


# --- distillation ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Distillation:
    """``task_weight * hard(student, target) + distill_weight * T**2 * KL(teacher || student)``, both softened by T.

    timm 1.0.31 ``timm/task/distillation.py`` (``LogitDistillationTask``), after https://arxiv.org/abs/1503.02531. The
    divergence is summed over the classes and averaged over the batch. ``distill_weight`` defaults to ``1 -
    task_weight``.
    """

    task_weight: float = 0.5
    distill_weight: float | None = None
    temperature: float = 1.0
    hard: Loss = field(default_factory=CrossEntropy)

    def __post_init__(self):
        if not self.temperature > 0:
            raise WrongValue(f"the temperature is above 0, not {self.temperature}")

    def __call__(self, logits: Tensor, target: Tensor, teacher_logits: Tensor) -> Tensor:
        """Raises ``ValueError`` if teacher and student differ in the number of classes or the batch size."""
        _refuse_shape(teacher_logits, logits)
        weight = 1.0 - self.task_weight if self.distill_weight is None else self.distill_weight
        student = log_softmax(_at_least_float32(logits) / self.temperature)
        teacher = log_softmax(_at_least_float32(teacher_logits.detach()) / self.temperature).astype(student.dtype)
        soft = kl_divergence(teacher, student).mean() * self.temperature**2
        return self.task_weight * self.hard(logits, target) + weight * soft


@dataclass(frozen=True)
class SSLD:
    """The distillation of PaddleClas's recipes (SSLD), which learns from the teacher only.

    ``form="js"``: ``JSDivLoss`` of the 1.x recipes, switched on by ``use_distillation`` (``ppcls/modeling/loss.py``):
    half of KL(teacher || student) + KL(student || teacher), summed over the classes, averaged over the batch. Despite
    its name it is not the Jensen-Shannon divergence but half of Jeffreys' divergence. ``form="ce"``: cross entropy with
    the teacher's softmax as the target (``CELoss`` of two tensors of logits, 2.x, ``ppcls/loss/celoss.py``), which has
    the gradient of KL(teacher || student).
    """

    form: str = "js"

    def __post_init__(self):
        if self.form not in ("js", "ce"):
            raise WrongValue(f"SSLD's form is 'js' or 'ce', not {self.form!r}")

    def __call__(self, logits: Tensor, target: Tensor | None, teacher_logits: Tensor) -> Tensor:
        """``target`` is not used. Raises ``ValueError`` if the teacher has another number of classes or batch size."""
        _refuse_shape(teacher_logits, logits)
        student = log_softmax(logits)
        teacher = log_softmax(teacher_logits.detach()).astype(student.dtype)
        if self.form == "ce":
            return -(teacher.exp() * student).sum(axis=-1).mean()
        return 0.5 * (kl_divergence(teacher, student) + kl_divergence(student, teacher)).mean()


def kl_divergence(logs: Tensor, other_logs: Tensor) -> Tensor:
    """Return KL(p || q) of each row, (B,), from the logarithms of p and of q, (B, K) each."""
    return (logs.exp() * (logs - other_logs)).sum(axis=-1)


# --- shared ----------------------------------------------------------------------------------------------------------


def _at_least_float32(x: Tensor) -> Tensor:
    return x.astype(paddle.float32) if x.dtype in (paddle.float16, paddle.bfloat16) else x


def _of_target(logs: Tensor, target: Tensor) -> Tensor:
    """Return the entry of each row at its target, (B,)."""
    _refuse_labels(target, logs)
    return paddle.take_along_axis(logs, target.astype(paddle.int64).unsqueeze(1), axis=1).squeeze(1)


def _refuse_labels(target: Tensor, logits: Tensor) -> None:
    """Raise ``ValueError`` for labels of the wrong shape or out of range.

    Paddle would take -1 for the last class, or read before the tensor. The range is checked on the CPU only: a check on
    a GPU would wait for it.
    """
    batch, classes = logits.shape
    if target.ndim != 1 or target.shape[0] != batch:
        raise WrongValue(
            f"class indices for logits {list(logits.shape)} must have the shape {[batch]}, not {list(target.shape)}"
        )
    if target.place.is_cpu_place() and batch and not (int(target.min()) >= 0 and int(target.max()) < classes):
        raise WrongValue(
            f"labels from {int(target.min())} to {int(target.max())} for {classes} classes: they go from 0 to "
            f"{classes - 1}; a sample without a label cannot be trained on"
        )


def _refuse_shape(target: Tensor, logits: Tensor) -> None:
    if list(target.shape) != list(logits.shape):
        raise WrongValue(f"a target for logits {list(logits.shape)} must have their shape, not {list(target.shape)}")


def _refuse_smoothing(smoothing: float) -> None:
    if not 0 <= smoothing < 1:
        raise WrongValue(f"smoothing is from 0 on and below 1, not {smoothing}")
