"""Score a model on labelled images: top-1, top-5, loss, and where its mistakes lie.

Usage::

    paddle-dla evaluate --checkpoint dla60.pdparams --data imagenet/val
    python -m paddle_dla.evaluate --config configs/dla60.yaml -o data.val=imagenet/val
    python -m paddle_dla.evaluate --model dla60 --checkpoint model.safetensors --data val_list.txt --compare-published
    python -m paddle_dla.evaluate --export exported/ --engine onnxruntime --data 'val-{000000..000049}.tar'
    paddle-dla launch --nproc 2 evaluate --checkpoint dla60.pdparams --data imagenet/val

``--data`` is a tree of class folders, a list file with ``path label`` lines, or tar shards. Images are prepared exactly
as timm does it. On any number of ranks, and with any batch size, each sample counts once.

Exit codes: 0 done, 1 refused or failed, 2 usage.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from paddle_dla.command_parser import CommandParser
from paddle_dla.config import Config, load_config
from paddle_dla.data.batch import Batch
from paddle_dla.data.labelling import open_labelled
from paddle_dla.data.labels import read_real_labels, read_subset
from paddle_dla.data.source import Source
from paddle_dla.errors import UserError, WrongValue
from paddle_dla.evaluation import evaluate
from paddle_dla.metrics import Predictions, certain, merge, refuse_none, refuse_one_class
from paddle_dla.options import add_config, add_data, options_of
from paddle_dla.progress import Progress
from paddle_dla.ranks import Ranks, gather, joined
from paddle_dla.scores import EvaluateOptions, Scores, check_outputs, lines, score, write_outputs
from paddle_dla.subject import Subject, add_subject, open_subject
from paddle_dla.terminal import run_command


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = CommandParser("evaluate", __doc__)
    add_config(result, what="a YAML file that sets what the command line does not")
    add_subject(result)
    add_data(result, required=False)
    labels = result.add_argument_group("labels")
    labels.add_argument("--real-labels", metavar="real.json", help="ReaL labels for the ImageNet validation set")
    labels.add_argument(
        "--valid-labels",
        metavar="FILE",
        help="file with the classes that occur in the data, one per line (for ImageNet-A, -R)",
    )
    output = result.add_argument_group("output")
    output.add_argument(
        "--compare-published", action="store_true", help="print the difference to the accuracy published by timm"
    )
    output.add_argument("--predictions", metavar="FILE", help="write one row per sample: .csv or .jsonl")
    output.add_argument("--per-class", metavar="FILE", help="write one row per class: .csv or .jsonl")
    output.add_argument("--confusion", metavar="FILE.csv", help="write the confusion matrix, and a .png beside it")
    output.add_argument("--json", metavar="FILE.json", help="write the results and the settings")
    result.add_argument(
        "--flip", action="store_true", help="average the predictions of each image and its mirror image"
    )
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        run(parsed(argv), print_now)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def print_now(line: str) -> None:
    """Print a line and flush the stream, so that a waiting reader sees it at once."""
    print(line, flush=True)


def parsed(argv: Sequence[str] | None) -> EvaluateOptions:
    """Parse the command line; a config that it names supplies defaults. Raises ``ConfigError``."""
    command = parser()
    args = command.parse_args(argv)
    if args.config:
        command.set_defaults(**evaluation_defaults(load_config(args.config, args.override)))
        args = command.parse_args(argv)
    elif args.override:
        command.error("-o changes a config; name one with --config")
    return options_of(EvaluateOptions, args)


def evaluation_defaults(config: Config) -> dict[str, object]:
    """Return the values of a config under the names of this command's options.

    Values that the config leaves open are absent.
    """
    model, data, chosen, images = config.model, config.data, config.evaluate, config.transform
    output = Path(config.train.output)
    values = {
        "model": model.name,
        "checkpoint": model.pretrained if isinstance(model.pretrained, str) else None,
        "num_classes": model.num_classes,
        "data": data.val,
        "data_root": data.val_root,
        "classes": data.class_map,
        "batch_size": chosen.batch_size or data.batch_size,
        "workers": data.workers,
        "max_skipped": data.max_skipped,
        "timeout": data.timeout,
        "engine": chosen.engine,
        "flip": chosen.tta == "hflip",
        "per_class": str(output / "per_class.csv") if chosen.per_class else None,
        "confusion": str(output / "confusion.csv") if chosen.confusion else None,
        "input_size": list(images.eval.input_size[1:]) if images.eval.input_size else None,
        "crop_pct": images.eval.crop_pct,
        "interpolation": images.eval.interpolation,
        "mean": images.mean,
        "std": images.std,
    }
    return {name: value for name, value in values.items() if value is not None}


def run(options: EvaluateOptions, tell: Callable[[str], None] = lambda line: None) -> Scores:
    """Run the evaluation. The first rank reports through ``tell`` and writes the files. Raises ``UserError``."""
    if options.data is None:
        raise WrongValue("which images? --data names a folder of class folders, a list file, or tar shards")
    check_outputs(options)
    with joined() as ranks:
        told = tell if ranks.first else lambda line: None
        subject = open_subject(options, told)
        subset = _subset(options, subject)
        num_classes = len(subset) if subset else subject.num_classes
        names = subject.class_names.of(subset) if subject.class_names and subset else subject.class_names
        source = open_labelled(options.data, options.data_root, names, subject.named_by, num_classes)
        refuse_one_class(num_classes)
        source.notes = (*source.notes, *certain(num_classes, (1, 5)))
        told("\n".join([*subject.heading(), *source.notes]))
        subject.expect(source.num_samples // ranks.count)
        began = time.perf_counter()
        predictions, skipped, engines = predict_all(options, subject, source, ranks, num_classes, subset)
    if len({*engines}) > 1:
        source.notes = (*source.notes, differing(engines))
        told(source.notes[-1])
    real = read_real_labels(options.real_labels) if options.real_labels else None
    scores = score(predictions, source, skipped, real, time.perf_counter() - began)
    told("\n".join(lines(scores, subject, options.compare_published)))
    if ranks.first:
        write_outputs(options, scores, predictions, source, subject, subset)
    return scores


def _subset(options: EvaluateOptions, subject: Subject) -> list[int] | None:
    if not options.valid_labels:
        return None
    ids = subject.class_names.ids if subject.class_names else ()
    return read_subset(options.valid_labels, ids, subject.num_classes)


def _with_signs_of_life(batches: Iterable[Batch], ranks: Ranks) -> Iterator[Batch]:
    """Yield ``batches`` and send a heartbeat for each: a rank without heartbeats counts as hanging."""
    ranks.heart.beat("evaluation")
    for number, batch in enumerate(batches, 1):
        ranks.heart.beat("evaluation", number)
        yield batch


def predict_all(
    options: EvaluateOptions,
    subject: Subject,
    source: Source,
    ranks: Ranks,
    num_classes: int,
    subset: Sequence[int] | None,
) -> tuple[Predictions, list[tuple[str, str]], list[str]]:
    """Return the predictions of all ranks, the (name, reason) of each skipped sample, and each rank's engine.

    Raises ``ValueError`` if a sample was not counted exactly once, or if no sample is left.
    """
    from paddle_dla.data.pipeline import evaluation_loader

    loader = evaluation_loader(source, subject.preprocessing, options.loading(), ranks)
    progress = Progress(source.num_samples // ranks.count, options.log_interval, quiet=not ranks.first)
    batches = _with_signs_of_life(loader, ranks)
    try:
        own = evaluate(subject.engine, batches, num_classes, subset=subset, flip=options.flip, progress=progress)
    finally:
        progress.close()
    parts, skipped, engines = zip(*gather((own, loader.skipped, subject.engine.name), ranks))
    everything = [item for part in skipped for item in part]
    return refuse_none(merge(parts, source.num_samples - len(everything))), everything, list(engines)


def differing(engines: Sequence[str]) -> str:
    """Return a line on ranks that run different engines: each chooses the fastest one that agrees on its own images."""
    return "engines: " + ", ".join(f"rank {rank} {name}" for rank, name in enumerate(engines))


if __name__ == "__main__":
    sys.exit(run_command(main))
