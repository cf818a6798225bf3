"""One pass over a data set: run batches through an engine and record each sample. No command line, no files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from paddle_dla.data.batch import Batch
from paddle_dla.data.errors import DataError
from paddle_dla.engines.base import check_outputs
from paddle_dla.metrics import Predictions, mean_loss, merge, no_predictions, predictions_of, top_k
from paddle_dla.progress import Progress, StepClock


class RunsBatches(Protocol):
    """All that an evaluation needs of an engine."""

    def run(self, images: np.ndarray) -> np.ndarray:
        """(B, C, H, W) float32, normalised -> (B, classes) float32 logits."""
        ...


def evaluate(
    engine: RunsBatches,
    batches: Iterable[Batch],
    num_classes: int,
    *,
    subset: Sequence[int] | None = None,
    flip: bool = False,
    ranked: int = 5,
    progress: Progress | None = None,
    epoch: int = 0,
) -> Predictions:
    """Return the predictions for all ``batches``, in their order.

    ``num_classes`` is the number of classes of the data: that of ``subset``, if given. ``flip`` averages the logits of
    each image and its mirror image. ``ranked`` is the number of classes kept for each sample.

    Raises ``DataError`` for a label that the model does not have, ``EngineError`` for logits that are not finite.
    """
    clock, parts = StepClock(), []
    tally = Tally()
    for batch in clock.over(batches):
        refuse_labels(batch.labels, batch.indices, num_classes)
        logits = engine.run(batch.images)
        if flip:
            logits = (logits + engine.run(np.ascontiguousarray(batch.images[..., ::-1]))) / 2
        check_outputs(logits, batch.indices)
        part = predictions_of(logits, batch.labels, batch.indices, ranked, subset)
        parts.append(part)
        tally.add(part)
        if progress is not None:
            line = ", ".join(filter(None, (f"epoch:{epoch}, valid step:{len(parts)}", str(tally), clock.costs())))
            if progress.step(len(batch), str(tally), line):
                clock.reset()
    return merge(parts) if parts else no_predictions(num_classes, ranked)


def refuse_labels(labels: np.ndarray, indices: np.ndarray, num_classes: int) -> None:
    """Raise ``DataError`` with the name of the first sample whose label is out of range."""
    wrong = np.flatnonzero(labels >= num_classes)
    if len(wrong):
        raise DataError(
            f"sample {indices[wrong[0]]} has label {labels[wrong[0]]}, but there are {num_classes} classes "
            f"(0 to {num_classes - 1}); is this the data set that the weights were trained on?"
        )


class Tally:
    """Running averages for the progress line. The final result is computed from all records.

    Samples without labels do not contribute.
    """

    def __init__(self):
        self._sums, self._count = np.zeros(3), 0

    def add(self, part: Predictions) -> None:
        """Add one batch."""
        if (part.labels >= 0).all():
            self._sums += len(part) * np.array([top_k(part, 1), top_k(part, 5), mean_loss(part)])
            self._count += len(part)

    def __str__(self) -> str:
        if not self._count:
            return ""
        top1, top5, loss = self._sums / self._count
        return f"top1: {top1:.3f} %, top5: {top5:.3f} %, loss: {loss:.5f}"
