"""Explain a loss that differs from its value and its gradient on both sides. torch only.

A loss is one number, which many mistakes could produce; its gradient with respect to the model's output has as many
numbers as the output. A cause must reproduce both, on the port's side, to rounding. Cross entropy is solved from the
two sides (``explaining.cross_entropy``). For other losses the reference's own loss is evaluated on probabilities or
clipped logits, and a few named losses on the port's output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F

from alignment.engine.explaining.cross_entropy import SOLVED, cross_entropy_cause, near
from alignment.engine.judging.limits import FORWARD_LIMIT
from alignment.engine.records.losses import LossCase
from alignment.engine.sides.torch.borrow import in_type

SOFTMAX_REACH = 64
"""Paddle's softmax on CPU, and with it cross entropy, clips logits that are further below the largest."""
# Factors this close to 1 come from a constant rounded to float32.
ROUNDED = 2.0**-24

Made = Callable[[torch.Tensor], torch.Tensor]
"""A function from the model's output to a loss."""


def loss_cause(loss: Callable[..., torch.Tensor], case: LossCase) -> str:
    """Return why the port's loss or gradient differs from ``loss``, the reference's; ``""`` if nothing explains it.

    A module, also as the ``function`` of ``loss``, is evaluated in float64, as it ran.
    """
    if case.output.dtype.kind != "f" or not np.isfinite([case.expected, case.actual]).all():
        return ""
    labels = [torch.from_numpy(np.array(label)) for label in case.labels]
    module = getattr(loss, "function", loss)
    in_float64 = in_type(module, "float64") if isinstance(module, torch.nn.Module) else nullcontext()
    with in_float64, np.errstate(all="ignore"):
        words = _taken_otherwise(loss, case, labels)
        if not words and len(labels) == 1 and case.output.ndim >= 2 and case.output.size:
            words = cross_entropy_cause(case) or _another_loss(case, labels[0])
        return words or _factor(case)


def _made(function: Made, output: np.ndarray) -> tuple[float, np.ndarray] | None:
    """Return a loss and its gradient; ``None`` if there is none."""
    leaf = torch.from_numpy(np.array(output, np.float64)).requires_grad_()
    try:
        with torch.enable_grad():
            value = function(leaf)
            (gradient,) = torch.autograd.grad(value, leaf, allow_unused=True) if value.numel() == 1 else (None,)
    # a user's loss may fail in any way on other inputs
    except Exception:  # noqa: BLE001
        return None
    return None if gradient is None else (float(value.detach()), gradient.numpy())


def _is_actual(case: LossCase, made: tuple[float, np.ndarray] | None, scale: float = 1.0) -> bool:
    """Return whether a loss, times ``scale``, is the port's in value and in gradient, if one was recorded."""
    if made is None:
        return False
    value, gradient = made
    same = abs(scale * value - case.actual) <= 4 * FORWARD_LIMIT * abs(case.actual)
    return same and (case.actual_gradient is None or near(scale * gradient, case.actual_gradient))


# --- the reference's loss, of something else ------------------------------------------------------------------------


def _taken_otherwise(loss: Callable[..., torch.Tensor], case: LossCase, labels: Sequence[torch.Tensor]) -> str:
    """Find a change of the output or the labels in front of a loss like the reference's."""
    for words, change in _changes(case.output):
        if _is_actual(case, _made(lambda output, c=change: loss(c(output), *labels), case.output)):
            return words
    for words, others in _other_labels(labels):
        if _is_actual(case, _made(lambda output, o=others: loss(output, *o), case.output)):
            return words
    return ""


def _changes(output: np.ndarray) -> Iterator[tuple[str, Made]]:
    far = f"logits more than {SOFTMAX_REACH} below the largest count as {SOFTMAX_REACH} below it"
    for axis in dict.fromkeys((1, output.ndim - 1)) if output.ndim >= 2 else ():
        yield "softmax is applied before a loss that applies its own", lambda x, a=axis: x.softmax(a)
    yield "sigmoid is applied before a loss that applies its own", torch.sigmoid
    if output.ndim >= 2:
        yield f"{far}, as in Paddle's softmax on CPU", _within_reach
        yield "log-softmax is applied before the loss", lambda x: x.log_softmax(1)
        yield "classes in the reverse order", lambda x: x.flip(1)
    if output.ndim >= 3:
        yield "height and width of the output exchanged", lambda x: x.transpose(-1, -2)


def _within_reach(x: torch.Tensor) -> torch.Tensor:
    """Clip logits as Paddle's softmax does; clipped ones also have the gradient of the softmax."""
    return x + (torch.maximum(x, x.amax(1, keepdim=True) - SOFTMAX_REACH) - x).detach()


def _other_labels(labels: Sequence[torch.Tensor]) -> Iterator[tuple[str, list[torch.Tensor]]]:
    for number, label in enumerate(labels):
        others = {}
        if label.is_floating_point():
            others["labels are rounded"] = label.round()
            others["labels are 1 minus the reference's"] = 1 - label
        elif label.numel():
            shift = {step: torch.where(label < 0, label, label + step) for step in (1, -1)}
            others |= {f"labels are shifted by {step:+d}" + ": counted from another number": other
                       for step, other in shift.items()}  # fmt: skip
        if len(label) > 1:
            others["labels of the batch in the reverse order"] = label.flip(0)
        yield from ((words, [*labels[:number], other, *labels[number + 1 :]]) for words, other in others.items())


# --- other losses by name -------------------------------------------------------------------------------------------


def _another_loss(case: LossCase, label: torch.Tensor) -> str:
    """Find a known loss that the port computes, up to a factor from its reduction."""
    wrong = _name(case.output, label, case.actual, case.actual_gradient)
    right = _name(case.output, label, case.expected, case.expected_gradient) if wrong else ""
    if not wrong or wrong == right:
        return ""
    return wrong + (f" instead of {right}" if right else "")


def _name(output: np.ndarray, label: torch.Tensor, value: float, gradient: np.ndarray | None) -> str:
    size = label.numel() if label.is_floating_point() else label.numel() * output.shape[1]
    if gradient is None or size != output.size:
        return ""
    return next((words for words, made in _named(label) if _is_multiple(output, made, value, gradient)), "")


def _is_multiple(output: np.ndarray, function: Made, value: float, gradient: np.ndarray) -> bool:
    made = _made(function, output)
    if made is None or not made[0] or gradient.shape != output.shape:
        return False
    return near(made[1] * (value / made[0]), gradient)


def _named(label: torch.Tensor) -> Iterator[tuple[str, Made]]:
    """Yield losses as sums, by name."""
    yield from (_of_numbers(label.double()) if label.is_floating_point() else _of_class_numbers(label.long()))


def _of_class_numbers(label: torch.Tensor) -> Iterator[tuple[str, Made]]:
    def hot(x: torch.Tensor) -> torch.Tensor:
        return F.one_hot(label, x.shape[1]).movedim(-1, 1).to(x.dtype)

    def likelihood(x: torch.Tensor) -> torch.Tensor:
        return F.nll_loss(x, label, reduction="sum")

    yield "cross entropy", lambda x: likelihood(x.log_softmax(1))
    yield "negative log-likelihood of the output as it is: log-softmax is missing", likelihood
    yield "cross entropy of the output taken for probabilities: softmax is missing", lambda x: likelihood(x.log())
    yield "negative likelihood of softmax: the logarithm is missing", lambda x: likelihood(x.softmax(1))
    yield "cross entropy of softmax: softmax twice", lambda x: likelihood(x.softmax(1).log_softmax(1))
    yield (
        "binary cross entropy of each class",
        (lambda x: F.binary_cross_entropy_with_logits(x, hot(x), reduction="sum")),
    )
    yield "squared error to one-hot labels", lambda x: F.mse_loss(x, hot(x), reduction="sum")
    yield "multi-margin loss", lambda x: F.multi_margin_loss(x, label, reduction="sum")


def _of_numbers(target: torch.Tensor) -> Iterator[tuple[str, Made]]:
    for words, function in (
        ("mse_loss", F.mse_loss),
        ("l1_loss", F.l1_loss),
        ("binary cross entropy with logits", F.binary_cross_entropy_with_logits),
        ("binary cross entropy of the output taken for probabilities: sigmoid is missing", F.binary_cross_entropy),
        ("kl_div of the output taken for log-probabilities", F.kl_div),
    ):
        yield words, lambda x, f=function: f(x, target, reduction="sum")
    for beta in (1.0, 0.1, 0.5, 2.0, 1 / 9):
        words = f"smooth_l1_loss (beta {beta:.3g})"
        yield words, lambda x, b=beta: F.smooth_l1_loss(x, target, reduction="sum", beta=b)
    yield "cross entropy", lambda x: -(target * x.log_softmax(1)).sum()
    yield "cross entropy of softmax: softmax twice", lambda x: -(target * x.softmax(1).log_softmax(1)).sum()
    yield "the output taken for log-probabilities: log-softmax is missing", lambda x: -(target * x).sum()


# --- a factor -------------------------------------------------------------------------------------------------------


def _factor(case: LossCase) -> str:
    """Explain a value and a gradient that are a multiple of the reference's, if possible by the tensors' sizes."""
    if not case.expected or not case.actual:
        return ""
    number = case.actual / case.expected
    right, wrong = case.expected_gradient, case.actual_gradient
    if right is None or wrong is None or not near(number * right, wrong):
        return ""
    if 0 < abs(number - 1) <= ROUNDED:
        return f"scaled by 1{number - 1:+.3g}, as by a constant that is kept in float32"
    return _named_factor(case.output, number) or f"scaled by {number:.10g}"


def _named_factor(output: np.ndarray, number: float) -> str:
    """Name a factor that is a count of something, or one over it."""
    size, batch = output.size, len(output) if output.ndim else 1
    counts = {size: "all elements of the output", batch: "the batch"}
    if output.ndim >= 2:
        counts[output.shape[1]] = "the classes"
        counts[size // output.shape[1]] = "the labels"
    for count, words in counts.items():
        if count > 1 and abs(number - count) <= SOLVED * count:
            return f"scaled by {count}: sum over {words} instead of the mean"
        if count > 1 and abs(number * count - 1) <= SOLVED:
            return f"scaled by 1 / {count}: mean over {words} instead of the sum"
    return ""
