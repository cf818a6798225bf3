"""Scores of an evaluation: computed from the predictions, printed, written to files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from paddle_dla.data.errors import DataError
from paddle_dla.data.source import Source
from paddle_dla.data.walk import refuse_picture_in
from paddle_dla.engines.base import require
from paddle_dla.exporting.folder import export_files
from paddle_dla.metrics import Predictions, confusion, mean_loss, real_accuracy, top_k
from paddle_dla.models.registry import find_model
from paddle_dla.options import ConfigOptions, DataOptions
from paddle_dla.reports import (
    check_table_suffix,
    class_table,
    confusion_table,
    draw_confusion,
    sample_table,
    write_csv,
    write_table,
)
from paddle_dla.storage.apart import check_apart
from paddle_dla.storage.atomic import atomic_path, check_writable
from paddle_dla.storage.json_text import to_json
from paddle_dla.storage.shown import shown
from paddle_dla.subject import Subject, SubjectOptions

IMAGENET_VAL = 50_000


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(SubjectOptions, DataOptions, ConfigOptions):
    """Options of ``evaluate``: model, data and output files; the command line describes each."""

    real_labels: str | None = None
    valid_labels: str | None = None
    flip: bool = False
    compare_published: bool = False
    predictions: str | None = None
    per_class: str | None = None
    confusion: str | None = None
    json: str | None = None


@dataclass(frozen=True)
class Scores:
    """Scores in percent, except ``loss`` (mean cross entropy) and ``seconds``.

    ``real_*`` are set if reassessed labels are given.
    """

    images: int
    top1: float
    top5: float
    loss: float
    seconds: float
    skipped: tuple[tuple[str, str], ...] = ()
    real_top1: float | None = None
    real_top5: float | None = None
    real_images: int | None = None


def score(
    predictions: Predictions,
    source: Source,
    skipped: Sequence[tuple[str, str]],
    real: Mapping[str, Sequence[int]] | None,
    seconds: float,
) -> Scores:
    """Compute the scores. Raises ``DataError`` for samples without a label, or without a reassessed one."""
    refuse_unlabelled(predictions, source)
    reassessed = {}
    if real is not None:
        names = {index: Path(source.name(index)).name for index in predictions.indices.tolist()}
        refuse_unknown(names.values(), real)
        for k in (1, 5):
            reassessed[f"real_top{k}"], reassessed["real_images"] = real_accuracy(predictions, names, real, k)
        if not reassessed["real_images"]:
            raise DataError("none of these images has a reassessed label: there is nothing to average")
    return Scores(
        images=len(predictions),
        top1=top_k(predictions, 1),
        top5=top_k(predictions, 5),
        loss=mean_loss(predictions),
        seconds=seconds,
        skipped=tuple(skipped),
        **reassessed,
    )


def refuse_unlabelled(predictions: Predictions, source: Source) -> None:
    """Raise ``DataError`` with the name of the first sample without a label."""
    unlabelled = predictions.indices[predictions.labels < 0]
    if len(unlabelled):
        raise DataError(
            f"{len(unlabelled)} samples have no label, the first is {source.name(int(unlabelled[0]))}; without labels "
            "there is nothing to score (paddle-dla predict needs none)"
        )


def refuse_unknown(names: Iterable[str], real: Mapping[str, Sequence[int]]) -> None:
    """Raise ``DataError`` with the name of the first file that was not reassessed."""
    missing = [name for name in names if name not in real]
    if missing:
        raise DataError(
            f"{missing[0]} and {len(missing) - 1} other files are not among the reassessed labels, which are for the "
            "50,000 validation images of ImageNet under their own names"
        )


def lines(scores: Scores, subject: Subject, compare_published: bool) -> list[str]:
    """Return the lines that are printed at the end."""
    speed = scores.images / scores.seconds if scores.seconds else 0.0
    result = [
        f"END epoch:0 valid top1: {scores.top1:.3f} %, top5: {scores.top5:.3f} %, loss: {scores.loss:.5f}, "
        f"{speed:.1f} images/sec.",
        f"{subject.model} ({subject.source}): {scores.images:,} images, top-1 {scores.top1:.3f} %, "
        f"top-5 {scores.top5:.3f} %, loss {scores.loss:.4f}; engine {subject.engine.name}",
    ]
    if scores.real_top1 is not None:
        result.append(
            f"reassessed labels: top-1 {scores.real_top1:.3f} %, top-5 {scores.real_top5:.3f} % of "
            f"{scores.real_images:,} images that have any"
        )
    if scores.skipped:
        result.append(f"left out: {len(scores.skipped)} damaged images")
        result += [f"  {shown(name)}: {reason}" for name, reason in scores.skipped]
    if compare_published:
        result.append(against_published(scores, subject))
    return result


def against_published(scores: Scores, subject: Subject) -> str:
    """Compare with timm's numbers for these weights on ImageNet's 50,000 validation images."""
    published = find_model(subject.model).published if subject.published else None
    if published is None:
        return f"not compared with published figures: none is published for these weights of {subject.model}"
    others = f" (over {scores.images:,} images, not ImageNet's {IMAGENET_VAL:,})"
    return (
        f"published by timm for {published.hub_id}: top-1 {published.top1:.3f} %, top-5 {published.top5:.3f} %; "
        f"difference {scores.top1 - published.top1:+.3f}, {scores.top5 - published.top5:+.3f}"
        f"{'' if scores.images == IMAGENET_VAL else others}"
    )


def check_outputs(options: EvaluateOptions) -> None:
    """Raise for an output file that could not be written at the end, or would replace an input.

    Raises ``CheckpointError``, ``ValueError``, ``DataError`` or ``EngineError``.
    """
    written = {
        "--predictions": options.predictions,
        "--per-class": options.per_class,
        "--confusion": options.confusion,
        "the picture of --confusion": options.confusion and confusion_picture(options.confusion),
        "--json": options.json,
    }
    for path in filter(None, written.values()):
        check_writable(Path(path))
    for path in filter(None, (options.predictions, options.per_class)):
        check_table_suffix(path)
    labels = (options.classes, options.real_labels, options.valid_labels)
    check_apart(written, [options.checkpoint, options.config, options.data, *labels, *export_files(options.export)])
    if options.confusion:
        refuse_picture_in(options.data, confusion_picture(options.confusion))
        require("matplotlib", "plots")


def confusion_picture(path: str) -> Path:
    """Return the path of the picture for the confusion matrix in ``path``."""
    return Path(path).with_suffix(".png")


def write_outputs(
    options: EvaluateOptions,
    scores: Scores,
    predictions: Predictions,
    source: Source,
    subject: Subject,
    subset: Sequence[int] | None,
) -> None:
    """Write the files requested on the command line. ``subset`` is that of ``predictions_of``."""
    names = label_names(source, subject, subset)
    if options.predictions:
        write_table(options.predictions, sample_table(predictions, source.name))
    if options.per_class:
        write_table(options.per_class, class_table(predictions, names))
    if options.confusion:
        matrix = confusion(predictions, len(names))
        write_csv(options.confusion, confusion_table(matrix, names))
        title = f"{subject.model}: top-1 {scores.top1:.2f} % of {scores.images:,} images"
        draw_confusion(confusion_picture(options.confusion), matrix, names, title)
    if options.json:
        with atomic_path(options.json) as part:
            found = {**results(scores, subject, options), "notes": list(source.notes)}
            part.write_text(to_json(found, indent=1) + "\n", encoding="utf-8")


def label_names(source: Source, subject: Subject, subset: Sequence[int] | None) -> list[str]:
    """Return the names of the data's labels: those of the model, else those of the data, else their numbers."""
    labels = range(subject.num_classes) if subset is None else subset
    if subject.class_names is not None and len(source.classes or labels) == len(labels):
        return [subject.class_names.short(label) for label in labels]
    return list(source.classes) if source.classes else [str(label) for label in labels]


def results(scores: Scores, subject: Subject, options: EvaluateOptions) -> dict:
    """Return the scores and the settings that produced them."""
    return {
        **asdict(scores),
        "model": subject.model,
        "source": subject.source,
        "data": options.data,
        "engine": subject.engine.name,
        "flip": options.flip,
        "preprocessing": subject.preprocessing.as_dict(),
    }
