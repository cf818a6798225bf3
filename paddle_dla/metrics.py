"""From logits to accuracies: what is recorded of every sample, and what follows from it. numpy alone.

Definitions are timm's (1.0.31, ``timm/utils/metrics.py``, ``timm/data/real_labels.py``, ``validate.py``). Everything is
derived from one record a sample, so that any number of ranks, batches or passes gives the same figures, and a sample
that was counted twice, or not at all, is noticed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from paddle_dla.errors import WrongValue


@dataclass(frozen=True)
class Predictions:
    """N samples, K the number of ranked classes kept for each (5, or all where there are fewer).

    ``indices``: (N,) place in the source. ``labels``: (N,), -1 where there is none. ``classes``: (N, K) labels, the
    likeliest first, equal logits in the order of the labels. ``probabilities``: (N, K) float32. ``losses``: (N,)
    float64 cross entropy, NaN where there is no label.
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
    """The record of one batch, sharing no memory with it. ``logits``: (B, classes).

    ``subset``: the classes of the model that the data knows, in the order of the data's labels (ImageNet-A and -R have
    200 of the 1,000); other logits are left out before anything is computed, and classes are numbered within it.
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
    """Of no samples: what a rank has that is left without any."""
    nothing = np.zeros(0, np.int64)
    return predictions_of(np.zeros((0, num_classes)), nothing, nothing, ranked)


def merge(parts: Sequence[Predictions], expected: int | None = None) -> Predictions:
    """All parts in one, in the order of the source.

    Raises ``ValueError`` where a sample is there twice, or where they are not ``expected`` samples.
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
    """Raises ``ValueError`` where there is nothing to tell apart."""
    if num_classes < 2:
        raise WrongValue("there is one class: any model gives it a probability of 1, whatever the image")


def certain(num_classes: int, ks: Sequence[int]) -> list[str]:
    """What a user should hear of accuracies that say nothing: those of as many places as there are classes."""
    return [
        f"top-{k} says nothing: it is 100 % of any model with {num_classes} classes" for k in ks if k >= num_classes
    ]


def refuse_none(predictions: Predictions) -> Predictions:
    """``predictions``, if there are any; raises ``ValueError`` where there is nothing to average."""
    if not len(predictions):
        raise WrongValue("no sample is left to evaluate: the source has none, or all of its images were skipped")
    return predictions


def top_k(predictions: Predictions, k: int) -> float:
    """Percentage of samples whose label is among the ``k`` likeliest classes."""
    return 100 * float(_hits(predictions, k).mean())


def mean_loss(predictions: Predictions) -> float:
    """Cross entropy, averaged over samples."""
    return float(predictions.losses.mean())


def _hits(predictions: Predictions, k: int) -> np.ndarray:
    return (predictions.classes[:, :k] == predictions.labels[:, np.newaxis]).any(axis=1)


def per_class(predictions: Predictions, num_classes: int) -> dict[str, np.ndarray]:
    """``samples``, ``top1`` and ``top5`` of each class; percentages are NaN where a class has no samples."""
    samples = np.bincount(predictions.labels, minlength=num_classes)
    columns = {"samples": samples}
    for k in (1, 5):
        hits = np.bincount(predictions.labels, weights=_hits(predictions, k), minlength=num_classes)
        columns[f"top{k}"] = np.divide(100 * hits, samples, out=np.full(num_classes, np.nan), where=samples > 0)
    return columns


def confusion(predictions: Predictions, num_classes: int) -> np.ndarray:
    """(classes, classes) counts: row the label, column the prediction."""
    cells = predictions.labels * num_classes + predictions.classes[:, 0]
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def worst_confusions(matrix: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """The ``count`` largest cells off the diagonal, as (label, prediction, samples), the largest first."""
    mistakes = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-mistakes, axis=None, kind="stable")[:count]
    cells = (np.unravel_index(cell, matrix.shape) for cell in order)
    return [(int(row), int(column), int(mistakes[row, column])) for row, column in cells if mistakes[row, column]]


def real_accuracy(
    predictions: Predictions, names: Mapping[int, str], real: Mapping[str, Sequence[int]], k: int
) -> tuple[float, int]:
    """Percentage of hits under reassessed labels, and over how many samples.

    ``real`` maps a file name to all labels that hold for it; a sample with none is left out. Source: Beyer et al.,
    "Are we done with ImageNet?", https://arxiv.org/abs/2006.07159.
    """
    hits = [
        any(label in classes[:k] for label in labels)
        for index, classes in zip(predictions.indices.tolist(), predictions.classes.tolist())
        if (labels := real[names[index]])
    ]
    return (100 * sum(hits) / len(hits) if hits else float("nan")), len(hits)
