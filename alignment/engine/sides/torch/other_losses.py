"""What a loss did otherwise, in words, from its value and its gradient on either side. torch only.

A loss is one number, which many mistakes could make; its gradient by the model's output has as many numbers as the
output. A cause must make both, on the port's side, to rounding. Most losses of classes are a sum over samples of
``weight * cross entropy(logits, smoothed label)``: that is read off the two sides, the weights and the smoothing solved
from the gradient, and the difference is the cause. For others the reference's own loss is asked what it would make of
probabilities or of clipped logits, and a few named losses what they make of the port's output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from alignment.engine.judging.noise import BACKWARD_LIMIT, FORWARD_LIMIT
from alignment.engine.records.losses import LossCase
from alignment.engine.sides.torch.borrow import torch_in

SOFTMAX_REACH = 64
"""Paddle's softmax on CPU clips what is further below the largest logit, and with it cross entropy."""
# Paddle's label_smooth keeps epsilon / classes in float32, which moves value and gradient by up to 2**-24 each.
SMOOTHED_LIMIT = 2.0**-22
# What is solved from gradients, with BACKWARD_LIMIT, has as many digits.
SOLVED = 1e-6
# Factors that stand next to 1, as float32 rounds a constant.
ROUNDED = 2.0**-24

Made = Callable[[torch.Tensor], torch.Tensor]
"""The model's output -> a loss."""


def loss_cause(loss: Callable[..., torch.Tensor], case: LossCase) -> str:
    """Why the port's loss, or its gradient, is not the one of ``loss``, the reference's; ``""`` where nothing tells.

    A module, also one that is the ``function`` of ``loss``, is asked in float64, as it ran.
    """
    if case.output.dtype.kind != "f" or not np.isfinite([case.expected, case.actual]).all():
        return ""
    labels = [torch.from_numpy(np.array(label)) for label in case.labels]
    module = getattr(loss, "function", loss)
    in_float64 = torch_in(module, torch.float64) if isinstance(module, torch.nn.Module) else nullcontext()
    with in_float64, np.errstate(all="ignore"):
        words = _taken_otherwise(loss, case, labels)
        if not words and len(labels) == 1 and case.output.ndim >= 2 and case.output.size:
            words = _of_classes(case) or _another_loss(case, labels[0])
        return words or _factor(case)


def _made(function: Made, output: np.ndarray) -> tuple[float, np.ndarray] | None:
    """A loss and its gradient; ``None`` where there is none."""
    leaf = torch.from_numpy(np.array(output, np.float64)).requires_grad_()
    try:
        with torch.enable_grad():
            value = function(leaf)
            (gradient,) = torch.autograd.grad(value, leaf, allow_unused=True) if value.numel() == 1 else (None,)
    # the loss is the user's, and may fail in any way on what it was not written for
    except Exception:  # noqa: BLE001
        return None
    return None if gradient is None else (float(value.detach()), gradient.numpy())


def _is_actual(case: LossCase, made: tuple[float, np.ndarray] | None, scale: float = 1.0) -> bool:
    """Whether a loss, times ``scale``, is the port's, in its value and in its gradient where one was recorded."""
    if made is None:
        return False
    value, gradient = made
    same = abs(scale * value - case.actual) <= 4 * FORWARD_LIMIT * abs(case.actual)
    return same and (case.actual_gradient is None or _near(scale * gradient, case.actual_gradient))


def _near(array: np.ndarray, other: np.ndarray, limit: float = 4 * BACKWARD_LIMIT) -> bool:
    if array.shape != other.shape:
        return False
    return bool(np.abs(array - other).max(initial=0.0) <= limit * np.abs(other).max(initial=0.0))


# --- the reference's loss, of something else ------------------------------------------------------------------------


def _taken_otherwise(loss: Callable[..., torch.Tensor], case: LossCase, labels: Sequence[torch.Tensor]) -> str:
    """What the port did to the output or the labels before a loss like the reference's."""
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
    """Logits as Paddle's softmax takes them; its gradient is that of the softmax, for those that it clipped, too."""
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


# --- cross entropy, read off either side ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """``sum(rows * cross entropy)`` of logits over ``temperature``, labels smoothed by ``smoothing``."""

    rows: np.ndarray
    smoothing: float
    temperature: float = 1.0


@dataclass(frozen=True)
class Samples:
    """Logits and targets (n, classes), one row a label; ``labels`` are class numbers, ``None`` of soft labels."""

    logits: np.ndarray
    targets: np.ndarray
    labels: np.ndarray | None
    batch: int

    @property
    def counted(self) -> np.ndarray:
        """Rows whose label is a class at all."""
        return self.targets.any(1)


def _of_classes(case: LossCase) -> str:
    samples = _samples(case.output, case.labels[0])
    if samples is None or case.expected_gradient is None or case.actual_gradient is None:
        return ""
    right = _read(samples, case.expected, case.expected_gradient)
    wrong = _read(samples, case.actual, case.actual_gradient) if right else None
    return "; ".join(_differences(samples, right, wrong)) if wrong else ""


def _samples(output: np.ndarray, label: np.ndarray) -> Samples | None:
    classes = output.shape[1]
    logits = np.moveaxis(output, 1, -1).reshape(-1, classes)
    if label.dtype.kind == "f":
        if label.shape != output.shape:
            return None
        return Samples(logits, np.moveaxis(label, 1, -1).reshape(-1, classes), None, len(output))
    if label.size != len(logits) or label.dtype.kind not in "iu":
        return None
    flat = label.reshape(-1).astype(np.int64)
    return Samples(logits, (flat[:, None] == np.arange(classes)).astype(np.float64), flat, len(output))


def _read(samples: Samples, value: float, gradient: np.ndarray) -> Reading | None:
    """How a side may have computed its loss, where its value and its gradient say so."""
    if gradient.size != samples.logits.size:
        return None
    classes = samples.logits.shape[1]
    rows = np.moveaxis(gradient, 1, -1).reshape(-1, classes) if gradient.ndim > 2 else gradient.reshape(-1, classes)
    plain = _weighted(samples, value, rows, 1.0)
    if plain is None:
        temperature = _temperature(samples, rows)
        plain = _weighted(samples, value, rows, temperature) if temperature else None
    return plain


def _weighted(samples: Samples, value: float, gradient: np.ndarray, temperature: float) -> Reading | None:
    """Weights of the rows and smoothing for one temperature; ``None`` where they do not make the gradient and value."""
    logits, classes = samples.logits / temperature, samples.logits.shape[1]
    lowered = logits - logits.max(1, keepdims=True)
    log_p = lowered - np.log(np.exp(lowered).sum(1, keepdims=True))
    smoothing = _smoothing(np.exp(log_p) - samples.targets, samples, gradient * temperature)
    targets = (1 - smoothing) * samples.targets + smoothing / classes
    slopes = (np.exp(log_p) - targets) * samples.counted[:, None]
    square = (slopes * slopes).sum(1)
    rows = (slopes * gradient * temperature).sum(1) / np.where(square > 0, square, 1)
    limit = SMOOTHED_LIMIT if smoothing else 4 * BACKWARD_LIMIT
    if not _near(rows[:, None] * slopes / temperature, gradient, limit):
        return None
    made = float(-(rows[:, None] * targets * log_p).sum())
    return Reading(rows, smoothing, temperature) if abs(made - value) <= limit * abs(value) else None


def _smoothing(slopes: np.ndarray, samples: Samples, gradient: np.ndarray) -> float:
    """The share by which labels are smoothed: ``gradient = row * (slopes + share * (target - 1 / classes))``."""
    counted = samples.counted & gradient.any(1)
    if not counted.any() or slopes.shape[1] < 3:  # of two classes, either term is a multiple of the other
        return 0.0
    a, b, g = slopes[counted], samples.targets[counted] - 1 / slopes.shape[1], gradient[counted]
    aa, ab, bb, ag, bg = ((x * y).sum(1) for x, y in ((a, a), (a, b), (b, b), (a, g), (b, g)))
    row, share = ag * bb - bg * ab, bg * aa - ag * ab
    known = np.abs(aa * bb - ab * ab) > 1e-6 * aa * bb
    if not known.any():
        return 0.0
    found = float(np.median(share[known] / row[known]))
    return round(found, 6) if SOLVED < found < 1 else 0.0


def _temperature(samples: Samples, gradient: np.ndarray) -> float:
    """By what logits are divided: two classes that are not the label's have gradients in the ratio of their shares."""
    others = (samples.targets == 0) & (gradient > 0)
    places = np.flatnonzero(others.sum(1) >= 2)
    found = []
    for row in places[:64]:
        x, g = samples.logits[row, others[row]], np.log(gradient[row, others[row]])
        if g.max() - g.min() > SOLVED:
            found.append((x[g.argmax()] - x[g.argmin()]) / (g.max() - g.min()))
    temperature = float(np.median(found)) if found else 0.0
    return temperature if np.isfinite(temperature) and temperature > 0 else 0.0


def _differences(samples: Samples, right: Reading, wrong: Reading) -> list[str]:
    words = []
    if abs(right.temperature - wrong.temperature) > SOLVED * right.temperature:
        words.append(f"logits are divided by {wrong.temperature:.6g} instead of {right.temperature:.6g} (temperature)")
    if abs(right.smoothing - wrong.smoothing) > SOLVED:
        words.append(_smoothed(right.smoothing, wrong.smoothing))
    return words + _weighted_otherwise(samples, right.rows, wrong.rows)


def _smoothed(right: float, wrong: float) -> str:
    if not wrong:
        return f"label smoothing of {right:.6g} is left out"
    return f"label smoothing of {wrong:.6g} " + (f"instead of {right:.6g}" if right else "where the reference has none")


def _weighted_otherwise(samples: Samples, right: np.ndarray, wrong: np.ndarray) -> list[str]:
    """How the samples are weighted, where that differs."""
    if _near(wrong, right):
        return []
    ignored, missed = (_labels_without(samples, rows) for rows in (right, wrong))
    words = [f"labels of {label} count, which the reference ignores" for label in sorted(ignored - missed)]
    words += [f"labels of {label} are ignored, which the reference counts" for label in sorted(missed - ignored)]
    if words:
        return words
    one, other = _divisor(samples, right), _divisor(samples, wrong)
    if one and other:
        return [_reduced_otherwise(samples, one, other)]
    if _by_class(samples, right) and other:
        return ["class weights are left out"]
    if _by_class(samples, wrong) and one:
        return ["class weights are applied, which the reference does not have"]
    counted = right != 0
    ratio = wrong[counted] / right[counted]
    if _near(ratio, np.full_like(ratio, ratio.mean())):
        return [f"weighted the same way, and scaled by {ratio.mean():.6g}: divided by another number"]
    if _by_class(samples, right) and _by_class(samples, wrong):
        return ["other class weights"]
    by_itself = ": each element of the batch is averaged by itself" if _parts(samples, wrong) else ""
    return [f"labels are weighted otherwise{by_itself}"]


def _labels_without(samples: Samples, rows: np.ndarray) -> set[int]:
    """Classes whose every sample has no weight."""
    if samples.labels is None:
        return set()
    classes = samples.labels[samples.counted]
    weights = np.abs(rows[samples.counted])
    return {int(label) for label in np.unique(classes) if not weights[classes == label].any()}


def _divisor(samples: Samples, rows: np.ndarray) -> float:
    """By what the sum over all samples that have a weight is divided; 0 where they have different weights."""
    used = rows[rows != 0]
    return 1 / float(used.mean()) if len(used) and _near(used, np.full_like(used, used.mean())) else 0.0


def _reduced_otherwise(samples: Samples, right: float, wrong: float) -> str:
    """Two sums of the same terms, divided by different numbers."""
    every, counted = len(samples.targets), int(samples.counted.sum())
    without = np.unique(samples.labels[~samples.counted]).tolist() if samples.labels is not None else []
    labels = ", ".join(map(str, without))

    def by(number: float) -> str:
        return next((words for n, words in names.items() if abs(number - n) <= SOLVED * n), f"divided by {number:.6g}")

    names = {samples.batch: "sum over each sample, mean over the batch", 1: "sum", every: "mean", counted: "mean"}
    if counted < every and {by(right), by(wrong)} == {"mean"}:
        if wrong > right:
            which = f"labels of {labels}, which do not count"
            return f"{which}, are in the mean: it divides by {every} instead of {counted}"
        return f"labels of {labels} are left out of the mean: it divides by {counted} instead of {every}"
    if by(right) != by(wrong):
        return f"{by(wrong)} instead of {by(right)} (scaled by {right / wrong:.6g})"
    return f"scaled by {right / wrong:.10g}"


def _by_class(samples: Samples, rows: np.ndarray) -> bool:
    """Whether every class has one weight, and not all the same; a class that occurs twice shows it."""
    if samples.labels is None:
        return False
    classes, places, counts = np.unique(samples.labels[samples.counted], return_inverse=True, return_counts=True)
    used = rows[samples.counted]
    means = np.bincount(places, used) / counts
    return counts.max(initial=0) > 1 and len(classes) > 1 and _near(means[places], used) and not _divisor(samples, rows)


def _parts(samples: Samples, rows: np.ndarray) -> bool:
    """Whether the weights are one number for all labels of one element of the batch."""
    parts = rows.reshape(samples.batch, -1)
    used = np.where(parts != 0, parts, np.nan)
    if parts.shape[1] < 2 or np.isnan(used).all(1).any():
        return False
    return bool((np.nanmax(used, 1) - np.nanmin(used, 1) <= SOLVED * np.abs(rows).max()).all())


# --- other losses by name -------------------------------------------------------------------------------------------


def _another_loss(case: LossCase, label: torch.Tensor) -> str:
    """Which loss of a known name the port computes; up to a factor, which its reduction makes."""
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
    return _near(made[1] * (value / made[0]), gradient)


def _named(label: torch.Tensor) -> Iterator[tuple[str, Made]]:
    """Losses as sums, by name."""
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
    """Value and gradient are the reference's, times one number, which the sizes of the tensors may explain."""
    if not case.expected or not case.actual:
        return ""
    number = case.actual / case.expected
    right, wrong = case.expected_gradient, case.actual_gradient
    if right is None or wrong is None or not _near(number * right, wrong):
        return ""
    if 0 < abs(number - 1) <= ROUNDED:
        return f"scaled by 1{number - 1:+.3g}, as by a constant that is kept in float32"
    return _named_factor(case.output, number) or f"scaled by {number:.10g}"


def _named_factor(output: np.ndarray, number: float) -> str:
    """A factor that is the number of something, or one over it."""
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
