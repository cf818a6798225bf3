"""Classify images: the likeliest classes with their probabilities.

Usage::

    paddle-dla predict cat.jpg --checkpoint dla60.pdparams
    python -m paddle_dla.predict photos/ 'more/*.png' --model dla60 --checkpoint model.safetensors --format csv
    python -m paddle_dla.predict photos/ --export exported/ --montage out.png

Images are prepared exactly as timm does it. Those that cannot be read are named at the end.

Exit codes: 0 done, 1 refused, or some images could not be read, 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from paddle_dla.command_parser import CommandParser
from paddle_dla.cpu import usable_threads
from paddle_dla.data.image_files import open_images
from paddle_dla.data.source import FileSource
from paddle_dla.data.walk import refuse_picture_in
from paddle_dla.engines.base import require
from paddle_dla.errors import UserError
from paddle_dla.evaluation import evaluate
from paddle_dla.exporting.folder import export_files
from paddle_dla.metrics import Predictions, refuse_one_class
from paddle_dla.options import Loading, options_of, positive
from paddle_dla.progress import Progress
from paddle_dla.ranks import Ranks
from paddle_dla.storage.apart import check_apart
from paddle_dla.storage.atomic import atomic_path, check_writable
from paddle_dla.storage.csv_text import write_rows
from paddle_dla.storage.json_text import to_json
from paddle_dla.storage.shown import shown
from paddle_dla.subject import Subject, SubjectOptions, add_subject, open_subject
from paddle_dla.terminal import run_command

MANY = 64  # number of images from which workers are worth their start-up time


@dataclass(frozen=True, kw_only=True)
class PredictOptions(SubjectOptions):
    """Options of ``predict``: images, classes per image, and output; ``None`` prints and draws no picture."""

    images: tuple[str, ...]
    topk: int = 5
    format: str = "table"
    output: str | None = None
    montage: str | None = None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = CommandParser("predict", __doc__)
    result.add_argument("images", nargs="+", metavar="IMAGE|DIR|GLOB")
    add_subject(result)
    output = result.add_argument_group("output")
    output.add_argument(
        "--topk", type=positive, default=5, metavar="N", help="number of classes per image (default: 5)"
    )
    output.add_argument("--format", choices=WRITERS, default="table")
    output.add_argument("--output", metavar="FILE", help="file to write (default: print)")
    output.add_argument("--montage", metavar="FILE.png", help="write a montage of the images and their classes")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = options_of(PredictOptions, parser().parse_args(argv))
    try:
        for target in filter(None, (options.output, options.montage)):
            check_writable(Path(target))
        if options.montage:
            require("matplotlib", "plots")
        return run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def run(options: PredictOptions) -> int:
    """Predict, print and write; returns the exit code. Raises ``UserError``."""
    source = open_images(options.images)
    images = map(source.path, range(source.num_samples))
    check_apart(
        {"--output": options.output, "--montage": options.montage},
        [*images, options.checkpoint, options.classes, *export_files(options.export)],
    )
    if options.montage:
        for folder in options.images:
            refuse_picture_in(folder, options.montage)
    for note in source.notes:
        print(note, file=sys.stderr)
    subject = open_subject(options, lambda line: print(line, file=sys.stderr))
    refuse_one_class(subject.num_classes)
    subject.expect(source.num_samples)
    predictions, skipped = predict(subject, source, options.topk)
    write = WRITERS[options.format]
    if options.output:
        with atomic_path(options.output) as part, _opened(part) as file:
            write(file, records(predictions, source, subject))
    else:
        write(sys.stdout, records(predictions, source, subject))
    if options.montage:
        from paddle_dla.montage import draw_montage

        pictures = draw_montage(options.montage, predictions, source, subject)
        print(f"{options.montage}: {pictures} of {len(predictions)} images", file=sys.stderr)
    for name, reason in skipped:
        print(f"cannot be read: {shown(name)}: {reason}", file=sys.stderr)
    return 1 if skipped else 0


def _opened(path: Path) -> TextIO:
    # bytes of a name that are not UTF-8 are written as Python escapes
    return open(path, "w", encoding="utf-8", newline="", errors="backslashreplace")


def predict(subject: Subject, source: FileSource, topk: int) -> tuple[Predictions, list[tuple[str, str]]]:
    """Return the ``topk`` classes of every image of ``source``, and (name, reason) of each unreadable one."""
    from paddle_dla.data.pipeline import evaluation_loader

    workers = usable_threads() if source.num_samples >= MANY else 0
    loading = Loading(batch_size=min(32, source.num_samples), workers=workers, max_skipped=source.num_samples)
    loader = evaluation_loader(source, subject.preprocessing, loading, Ranks())
    progress = Progress(source.num_samples, quiet=source.num_samples < MANY)
    try:
        predictions = evaluate(subject.engine, loader, subject.num_classes, ranked=topk, progress=progress)
    finally:
        progress.close()
    return predictions, loader.skipped


def records(predictions: Predictions, source: FileSource, subject: Subject) -> Iterator[dict]:
    """Yield one record per image: its name and its classes, the likeliest first."""
    ranked = zip(predictions.indices.tolist(), predictions.classes.tolist(), predictions.probabilities.tolist())
    for index, classes, probabilities in ranked:
        yield {
            "image": source.name(index),
            "classes": [
                {"label": label, "name": subject.class_name(label), "probability": round(probability, 6)}
                for label, probability in zip(classes, probabilities)
            ],
        }


def write_table(file: TextIO, found: Iterator[dict]) -> None:
    """Write a readable text: one line per image, then one line per class."""
    for record in found:
        print(shown(record["image"]), file=file)
        for entry in record["classes"]:
            print(f"  {100 * entry['probability']:6.2f} %  {entry['label']:>4}  {shown(entry['name'])}", file=file)


def write_csv(file: TextIO, found: Iterator[dict]) -> None:
    """Write one row for each class of each image."""
    write_rows(file, [["image", "rank", "label", "name", "probability"]])
    for record in found:
        ranked = enumerate(record["classes"], start=1)
        write_rows(
            file,
            ([record["image"], rank, entry["label"], entry["name"], entry["probability"]] for rank, entry in ranked),
        )


def write_json(file: TextIO, found: Iterator[dict]) -> None:
    """Write a list of records."""
    file.write(to_json(list(found), indent=1, ensure_ascii=False) + "\n")


WRITERS = {"table": write_table, "csv": write_csv, "json": write_json}


if __name__ == "__main__":
    sys.exit(run_command(main))
