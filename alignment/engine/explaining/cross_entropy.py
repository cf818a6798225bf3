"""Explain a port's cross entropy that differs from the value and the gradient of both sides. numpy only.

Most losses of classes are a sum over samples of ``weight * cross entropy(logits, smoothed label)``. The weights, the
smoothing and the temperature are solved from the gradient; they must also give the value. Their difference is the
cause.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alignment.engine.judging.limits import BACKWARD_LIMIT
from alignment.engine.records.losses import LossCase

# Paddle's label_smooth stores epsilon / classes in float32, which changes value and gradient by up to 2**-24 each.
SMOOTHED_LIMIT = 2.0**-22
# The precision of numbers solved from gradients, with BACKWARD_LIMIT.
SOLVED = 1e-6


def near(array: np.ndarray, other: np.ndarray, limit: float = 4 * BACKWARD_LIMIT) -> bool:
    """Return whether two arrays are equal to ``limit``, relative to the largest number of the second."""
    if array.shape != other.shape:
        return False
    return bool(np.abs(array - other).max(initial=0.0) <= limit * np.abs(other).max(initial=0.0))


@dataclass(frozen=True)
class Reading:
    """The solved form ``sum(rows * cross entropy)``: logits over ``temperature``, labels smoothed by ``smoothing``."""

    rows: np.ndarray
    smoothing: float
    temperature: float = 1.0


@dataclass(frozen=True)
class Samples:
    """Logits and targets (n, classes), one row per label; ``labels`` are class numbers, ``None`` for soft labels."""

    logits: np.ndarray
    targets: np.ndarray
    labels: np.ndarray | None
    batch: int

    @property
    def counted(self) -> np.ndarray:
        """Rows whose label is a class."""
        return np.any(self.targets, axis=1)


def cross_entropy_cause(case: LossCase) -> str:
    """Describe how two cross entropies differ; ``""`` if either side computes something else."""
    samples = _samples(case.output, case.labels[0])
    if samples is None or case.expected_gradient is None or case.actual_gradient is None:
        return ""
    right = _read(samples, case.expected, case.expected_gradient)
    wrong = _read(samples, case.actual, case.actual_gradient) if right else None
    return "; ".join(_differences(samples, right, wrong)) if right and wrong else ""


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
    """Solve how a side computes its loss from its value and gradient, if possible."""
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
    """Solve row weights and smoothing for one temperature; ``None`` if they do not give the gradient and value."""
    logits, classes = samples.logits / temperature, samples.logits.shape[1]
    lowered = logits - logits.max(1, keepdims=True)
    log_p = lowered - np.log(np.exp(lowered).sum(1, keepdims=True))
    smoothing = _smoothing(np.exp(log_p) - samples.targets, samples, gradient * temperature)
    targets = (1 - smoothing) * samples.targets + smoothing / classes
    slopes = (np.exp(log_p) - targets) * samples.counted[:, None]
    square = (slopes * slopes).sum(1)
    rows = (slopes * gradient * temperature).sum(1) / np.where(square > 0, square, 1)
    limit = SMOOTHED_LIMIT if smoothing else 4 * BACKWARD_LIMIT
    if not near(rows[:, None] * slopes / temperature, gradient, limit):
        return None
    made = float(-(rows[:, None] * targets * log_p).sum())
    return Reading(rows, smoothing, temperature) if abs(made - value) <= limit * abs(value) else None


def _smoothing(slopes: np.ndarray, samples: Samples, gradient: np.ndarray) -> float:
    """Solve the label smoothing: ``gradient = row * (slopes + share * (target - 1 / classes))``."""
    counted = samples.counted & gradient.any(1)
    if not counted.any() or slopes.shape[1] < 3:  # with two classes, each term is a multiple of the other
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
    """Solve the temperature: two classes other than the label have gradients in the ratio of their shares."""
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
    """Describe how the weights of the samples differ."""
    if near(wrong, right):
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
    if near(ratio, np.full_like(ratio, ratio.mean())):
        return [f"weighted the same way, and scaled by {ratio.mean():.6g}: divided by another number"]
    if _by_class(samples, right) and _by_class(samples, wrong):
        return ["other class weights"]
    by_itself = ": each element of the batch is averaged by itself" if _parts(samples, wrong) else ""
    return [f"labels are weighted otherwise{by_itself}"]


def _labels_without(samples: Samples, rows: np.ndarray) -> set[int]:
    """Return the classes all of whose samples have no weight."""
    if samples.labels is None:
        return set()
    classes = samples.labels[samples.counted]
    weights = np.abs(rows[samples.counted])
    return {int(label) for label in np.unique(classes) if not weights[classes == label].any()}


def _divisor(samples: Samples, rows: np.ndarray) -> float:
    """Return the divisor of the sum over all samples with a weight; 0 if their weights differ."""
    used = rows[rows != 0]
    return 1 / float(used.mean()) if len(used) and near(used, np.full_like(used, used.mean())) else 0.0


def _reduced_otherwise(samples: Samples, right: float, wrong: float) -> str:
    """Explain two sums of the same terms with different divisors."""
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
    """Return whether every class has one weight, not all equal; this requires a class that occurs twice."""
    if samples.labels is None:
        return False
    classes, places, counts = np.unique(samples.labels[samples.counted], return_inverse=True, return_counts=True)
    used = rows[samples.counted]
    means = np.bincount(places, used) / counts
    return counts.max(initial=0) > 1 and len(classes) > 1 and near(means[places], used) and not _divisor(samples, rows)


def _parts(samples: Samples, rows: np.ndarray) -> bool:
    """Return whether all labels of one element of the batch have the same weight."""
    parts = rows.reshape(samples.batch, -1)
    used = np.where(parts != 0, parts, np.nan)
    if parts.shape[1] < 2 or np.isnan(used).all(1).any():
        return False
    return bool((np.nanmax(used, 1) - np.nanmin(used, 1) <= SOLVED * np.abs(rows).max()).all())
