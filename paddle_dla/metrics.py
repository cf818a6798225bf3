"""Compute accuracies from logits: the record of each sample, and the scores derived from it. numpy only.

Definitions are timm's (1.0.31, ``timm/utils/metrics.py``, ``timm/data/real_labels.py``, ``validate.py``). All scores
are derived from one record per sample. Any number of ranks, batches or passes therefore gives the same scores, and a
sample that was counted twice or missed is detected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from paddle_dla.errors import WrongValue


@dataclass(frozen=True)
class Predictions:
    """Predictions for N samples. K is the number of ranked classes kept for each (5, or all if there are fewer).

    ``indices``: (N,) index in the source. ``labels``: (N,), -1 for no label. ``classes``: (N, K) labels, the likeliest
    first, equal logits in the order of the labels. ``probabilities``: (N, K) float32. ``losses``: (N,) float64 cross
    entropy, NaN without a label.
    """

    indices: np.ndarray
    labels: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray
    losses: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)


def predictions_of(
    logits: np.ndarray, labels: np.ndarray, indices: np.ndarray, ranked: int = 5, subset: Sequence[int] | None = None
) -> Predictions:
    """Return the records of one batch, as copies. ``logits``: (B, classes).

    ``subset``: the classes of the model that occur in the data, in the order of the data's labels (ImageNet-A and -R
    have 200 of the 1,000). All other logits are dropped first, and classes are numbered within the subset.
    """
    logits = logits.astype(np.float64)
    if subset is not None:
        logits = logits[:, list(subset)]
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    classes = np.argsort(-logits, axis=1, kind="stable")[:, :ranked]
    known = labels >= 0
    losses = -log_probabilities[np.arange(len(logits)), np.where(known, labels, 0)]
    probabilities = np.exp(np.take_along_axis(log_probabilities, classes, axis=1)).astype(np.float32)
    return Predictions(indices.copy(), labels.copy(), classes, probabilities, np.where(known, losses, np.nan))


def no_predictions(num_classes: int, ranked: int = 5) -> Predictions:
    """Return the predictions of no samples, for a rank without any."""
    nothing = np.zeros(0, np.int64)
    return predictions_of(np.zeros((0, num_classes)), nothing, nothing, ranked)


def merge(parts: Sequence[Predictions], expected: int | None = None) -> Predictions:
    """Merge all parts into one, in the order of the source.

    Raises ``ValueError`` if a sample occurs twice, or if the number of samples is not ``expected``.
    """
    joined = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Predictions)
    }
    order = np.argsort(joined["indices"], kind="stable")
    result = Predictions(**{name: array[order] for name, array in joined.items()})
    twice = result.indices[1:][np.diff(result.indices) == 0]
    if len(twice):
        raise WrongValue(f"{len(twice)} samples were counted twice, the first with index {twice[0]}")
    if expected is not None and len(result) != expected:
        raise WrongValue(f"{len(result)} samples were evaluated where the source has {expected}")
    return result


def refuse_one_class(num_classes: int) -> None:
    """Raise ``ValueError`` if there is only one class."""
    if num_classes < 2:
        raise WrongValue("there is one class: any model gives it a probability of 1, whatever the image")


def certain(num_classes: int, ks: Sequence[int]) -> list[str]:
    """Return a warning for each accuracy that is trivially 100 %: top-k with k of at least the number of classes."""
    return [
        f"top-{k} says nothing: it is 100 % of any model with {num_classes} classes" for k in ks if k >= num_classes
    ]


def refuse_none(predictions: Predictions) -> Predictions:
    """Return ``predictions``. Raises ``ValueError`` if there are none."""
    if not len(predictions):
        raise WrongValue("no sample is left to evaluate: the source has none, or all of its images were skipped")
    return predictions


def top_k(predictions: Predictions, k: int) -> float:
    """Return the percentage of samples whose label is among the ``k`` likeliest classes."""
    return 100 * float(_hits(predictions, k).mean())


def mean_loss(predictions: Predictions) -> float:
    """Return the cross entropy averaged over the samples."""
    return float(predictions.losses.mean())


def _hits(predictions: Predictions, k: int) -> np.ndarray:
    return (predictions.classes[:, :k] == predictions.labels[:, np.newaxis]).any(axis=1)


def per_class(predictions: Predictions, num_classes: int) -> dict[str, np.ndarray]:
    """Return ``samples``, ``top1`` and ``top5`` of each class. Percentages are NaN for a class without samples."""
    samples = np.bincount(predictions.labels, minlength=num_classes)
    columns = {"samples": samples}
    for k in (1, 5):
        hits = np.bincount(predictions.labels, weights=_hits(predictions, k), minlength=num_classes)
        columns[f"top{k}"] = np.divide(100 * hits, samples, out=np.full(num_classes, np.nan), where=samples > 0)
    return columns


def confusion(predictions: Predictions, num_classes: int) -> np.ndarray:
    """Return the confusion matrix: (classes, classes) counts, row the label, column the prediction."""
    cells = predictions.labels * num_classes + predictions.classes[:, 0]
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def worst_confusions(matrix: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """Return the ``count`` largest off-diagonal cells as (label, prediction, samples), the largest first."""
    mistakes = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-mistakes, axis=None, kind="stable")[:count]
    cells = (np.unravel_index(cell, matrix.shape) for cell in order)
    return [(int(row), int(column), int(mistakes[row, column])) for row, column in cells if mistakes[row, column]]


def real_accuracy(
    predictions: Predictions, names: Mapping[int, str], real: Mapping[str, Sequence[int]], k: int
) -> tuple[float, int]:
    """Return the percentage of hits under reassessed labels, and the number of samples that it covers.

    ``real`` maps a file name to all labels that are correct for it. A sample without any is left out. Source: Beyer et
    al., "Are we done with ImageNet?", https://arxiv.org/abs/2006.07159.
    """
    hits = [
        any(label in classes[:k] for label in labels)
        for index, classes in zip(predictions.indices.tolist(), predictions.classes.tolist())
        if (labels := real[names[index]])
    ]
    return (100 * sum(hits) / len(hits) if hits else float("nan")), len(hits)
