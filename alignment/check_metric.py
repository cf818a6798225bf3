"""Compare accuracies and losses, also with ties, few classes, several ranks and short batches.

Usage::

    python alignment/check_metric.py --model dla60

Logits are random and seeded: for ImageNet's 1,000 classes, large ones, for few classes, and some with many equal ones.
torch does not define which of several equal logits comes first. Accuracies with ties are therefore compared with timm
on the samples that no tie decides, and on all samples with this package's definition: equal logits are ordered by their
labels.

Exit codes: 0 aligned, 1 not aligned, 2 usage.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alignment.command import CheckOptions, Progress, parser, run
from alignment.engine.judging.error import compare
from alignment.engine.judging.rows import tensor_row
from alignment.engine.result import Result, Row
from paddle_dla import metrics
from paddle_dla.data.plan import Plan, share
from paddle_dla.metrics import Predictions, predictions_of
from paddle_dla.terminal import run_command

SAMPLES = 1003  # 17 x 59: neither the ranks nor the batches below divide it
CLASSES = 1000
FEW = 3  # classes: too few for a top-5
BATCH = 64
RANKS = (1, 2, 3, 8)
TIED = ("ties", "all equal")
SCALE = 3.0  # standard deviation of the logits
LIKELY = 2.0 * SCALE  # added to the label's logit, so that accuracies are far from 0 and 100

EXACT = 1e-13
"""Relative; a float64 sum of 1,000 numbers rounds to 1e-13 at worst, and counts differ by 1e-3 or more."""
TIMMS = 1e-6
"""timm's accuracy is a float32 of up to 100: its rounding is 6e-8, and one sample more changes it by 1e-3."""
REAL = 50_000  # ImageNet's validation images; timm contains their reassessed labels
REAL_CLASSES = 40  # logits of the first classes only: 1,000 times 50,000 would take 400 MB


Measured = float | np.ndarray


@dataclass(frozen=True)
class Logits:
    """(B, K) float32 logits and (B,) labels."""

    logits: np.ndarray
    labels: np.ndarray

    @property
    def classes(self) -> int:
        """The number of classes, K."""
        return self.logits.shape[1]


def check_metric(options: CheckOptions, progress: Progress) -> Result:
    """Compare every metric on logits with the classes of one model."""
    from alignment.pairs import versions

    model, seed = options.model, options.seed
    progress(f"{model}: accuracies and losses of {SAMPLES} samples")
    result = Result(f"{model}: metrics, timm and torch against Paddle", "float64")
    for name, drawn in draw_cases(seed).items():
        result.rows += metric_rows(name, drawn)
    result.rows += rank_rows(draw_cases(seed)["logits"])
    progress(f"{model}: reassessed labels of {REAL:,} images")
    result.rows += real_rows(seed)
    result.facts = {
        "samples": f"{SAMPLES}, {CLASSES} classes ('few': {FEW}), seed {seed}",
        "ranks": ", ".join(map(str, RANKS)) + f", batches of {BATCH}, the last of them short",
        "versions": versions(),
    }
    return result


def draw_cases(seed: int) -> dict[str, Logits]:
    """Draw logits of every kind, by name."""
    rng = np.random.default_rng(seed)
    return {
        "logits": _drawn(rng, CLASSES),
        "large logits": _drawn(rng, CLASSES, 100.0),
        "few classes": _drawn(rng, FEW),
        "ties": _tied(_drawn(rng, CLASSES)),
        "all equal": _tied(_drawn(rng, CLASSES), steps=0.0),
    }


def _drawn(rng: np.random.Generator, classes: int, times: float = 1.0) -> Logits:
    logits = rng.normal(0, SCALE, (SAMPLES, classes)).astype(np.float32)
    labels = rng.integers(0, classes, SAMPLES)
    logits[np.arange(SAMPLES), labels] += np.float32(LIKELY)
    return Logits(logits * np.float32(times), labels)


def _tied(drawn: Logits, steps: float = 2.0) -> Logits:
    """Round logits to so few values that several classes share each; with 0 steps all are equal."""
    rounded = np.round(drawn.logits / SCALE * steps)
    return Logits(rounded.astype(np.float32), drawn.labels)


def metric_rows(case: str, drawn: Logits) -> Iterator[Row]:
    """Yield the rows of top-1, top-5, the loss, and the accuracy of each class."""
    record = recorded(drawn)
    for k in (1, 5):
        clear = without_ties(drawn, k)
        if len(clear.labels):
            aside = " of samples without ties" if case in TIED else ""
            ours = metrics.top_k(recorded(clear), k)
            yield _row(f"top-{k}{aside}", case, timm_accuracy(clear, k), ours, TIMMS)
        if case in TIED:
            yield _row(
                f"top-{k}, equal ones by label", case, counted_accuracy(drawn, k), metrics.top_k(record, k), EXACT
            )
    yield _row("loss", case, torch_loss(drawn), metrics.mean_loss(record), EXACT)
    yield _row("losses, sample by sample", case, torch_losses(drawn), record.losses, EXACT)
    if case not in TIED:
        ours = metrics.per_class(record, drawn.classes)
        for k in (1, 5):
            exact = torch_per_class(drawn, k)
            yield _row(f"top-{k} of each class", case, exact, ours[f"top{k}"], EXACT)
            mean, our_mean = (float(np.nanmean(values)) for values in (exact, ours[f"top{k}"]))
            yield _row(f"mean of classes' top-{k}", case, mean, our_mean, EXACT)


def rank_rows(drawn: Logits) -> Iterator[Row]:
    """Yield the rows of metrics merged over ranks with batches of their own, against timm's over all samples."""
    exact = {"top-1": timm_accuracy(drawn, 1), "top-5": timm_accuracy(drawn, 5), "loss": torch_loss(drawn)}
    for ranks in RANKS:
        case = f"{ranks} ranks"
        parts = evaluated_by_ranks(drawn, ranks)
        seen = np.sort(np.concatenate([part.indices for part in parts]))
        yield _row("each sample once", case, np.arange(SAMPLES), seen, 0.0)
        if len(seen) != SAMPLES or len(np.unique(seen)) != SAMPLES:
            continue
        merged = metrics.merge(parts, SAMPLES)
        ours = {"top-1": metrics.top_k(merged, 1), "top-5": metrics.top_k(merged, 5), "loss": metrics.mean_loss(merged)}
        for name, value in exact.items():
            yield _row(name, case, value, ours[name], EXACT if name == "loss" else TIMMS)


def evaluated_by_ranks(drawn: Logits, ranks: int) -> list[Predictions]:
    """Return the records of all batches of all ranks, with samples shared out as in an evaluation."""
    parts = []
    for rank in range(ranks):
        plan = Plan(share(SAMPLES, rank, ranks), None, BATCH)
        for number in range(plan.num_batches):
            rows = np.array([index for index, _ in plan.batch(number)])
            parts.append(predictions_of(drawn.logits[rows], drawn.labels[rows], rows))
    return parts


def real_rows(seed: int) -> Iterator[Row]:
    """Yield the rows of accuracies under ImageNet's reassessed labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(REAL, REAL_CLASSES)).astype(np.float32)
    names = {index: f"ILSVRC2012_val_{index + 1:08d}.JPEG" for index in range(REAL)}
    exact, real = timm_real(logits, list(names.values()))
    record = predictions_of(logits, np.zeros(REAL, int), np.arange(REAL))
    for k in (1, 5):
        yield _row(f"ReaL top-{k}", "reassessed", exact[k], metrics.real_accuracy(record, names, real, k)[0], EXACT)


def recorded(drawn: Logits) -> Predictions:
    """Return all samples in one record."""
    return predictions_of(drawn.logits, drawn.labels, np.arange(len(drawn.labels)))


def without_ties(drawn: Logits, k: int) -> Logits:
    """Return the samples for which no tie decides whether the label is among the k largest logits."""
    own = np.take_along_axis(drawn.logits, drawn.labels[:, np.newaxis], axis=1)
    higher, equal = (drawn.logits > own).sum(1), (drawn.logits == own).sum(1)
    clear = (higher >= k) | (higher + equal <= k)
    return Logits(drawn.logits[clear], drawn.labels[clear])


def counted_accuracy(drawn: Logits, k: int) -> float:
    """Return the percentage of samples with fewer than k classes before the label; ties are ordered by class number."""
    own = np.take_along_axis(drawn.logits, drawn.labels[:, np.newaxis], axis=1)
    lower_number = np.arange(drawn.classes) < drawn.labels[:, np.newaxis]
    before = ((drawn.logits > own) | ((drawn.logits == own) & lower_number)).sum(1)
    return 100 * float((before < k).mean())


def timm_accuracy(drawn: Logits, k: int) -> float:
    """Return ``timm.utils.accuracy`` in percent; with fewer than k classes all of them count."""
    import torch

    from torch_ref.model import import_timm

    import_timm()
    from timm.utils import accuracy

    return float(accuracy(torch.from_numpy(drawn.logits), torch.from_numpy(drawn.labels), topk=(k,))[0])


def torch_losses(drawn: Logits) -> np.ndarray:
    """Return torch's cross entropy of each sample in float64."""
    import torch

    logits = torch.from_numpy(drawn.logits).double()
    return torch.nn.functional.cross_entropy(logits, torch.from_numpy(drawn.labels), reduction="none").numpy()


def torch_loss(drawn: Logits) -> float:
    """Return torch's cross entropy in float64, averaged over samples."""
    import torch

    logits = torch.from_numpy(drawn.logits).double()
    return float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(drawn.labels)))


def torch_per_class(drawn: Logits, k: int) -> np.ndarray:
    """Return the percentage of hits of each class, by torch's ``topk``; NaN where a class has no samples."""
    import torch

    best = torch.from_numpy(drawn.logits).topk(min(k, drawn.classes), 1).indices.numpy()
    hits = (best == drawn.labels[:, np.newaxis]).any(1)
    classes = range(drawn.classes)
    members = [drawn.labels == label for label in classes]
    return np.array([100 * hits[rows].mean() if rows.any() else np.nan for rows in members])


def timm_real(logits: np.ndarray, names: Sequence[str]) -> tuple[dict[int, float], Mapping[str, Sequence[int]]]:
    """Return the accuracies of timm's ``RealLabelsImagenet`` by k, in percent, and the labels that it contains."""
    import torch

    from torch_ref.model import import_timm

    import_timm()
    from timm.data import RealLabelsImagenet

    theirs = RealLabelsImagenet(names)
    theirs.add_result(torch.from_numpy(logits))
    accuracies = theirs.get_accuracy()
    assert isinstance(accuracies, dict)  # it is one number for a single k
    return accuracies, theirs.real_labels


def _row(name: str, case: str, exact: Measured, port: Measured, allowed: float) -> Row:
    """Return a row; ``allowed`` is relative to the largest value."""
    exact, port = np.asarray(exact, np.float64), np.asarray(port, np.float64)
    found = compare(exact, port)
    limits = allowed, allowed
    return tensor_row(name, name, "metric", 0, exact.shape, found, limits, direction=case, note=found.mismatch)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(parser("check-metric", __doc__), argv, CheckOptions, check_metric)


if __name__ == "__main__":
    sys.exit(run_command(main))
