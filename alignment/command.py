"""What the ``check_*`` scripts share: arguments, the loop over models, reports, exit codes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from alignment.engine.records.files import INDEX, TENSORS
from alignment.engine.reporting.page import write_html
from alignment.engine.reporting.text import text, write_json
from alignment.engine.result import Result
from convert.conversion import converted
from convert.outcome import Conversion
from convert.readers import Source, read_source
from paddle_dla import checkpoint
from paddle_dla.command_parser import CommandParser
from paddle_dla.cpu import use_vector_kernels
from paddle_dla.errors import UserError, WrongValue
from paddle_dla.models.registry import find_model
from paddle_dla.models.variants import VARIANTS
from paddle_dla.options import natural, options_of
from paddle_dla.storage.apart import check_apart
from paddle_dla.storage.atomic import check_writable
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.folders import check_folder

SIDE_MULTIPLE = 32  # of an image that every variant takes
SIZE = 64

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Where a comparison is written to, and whether every row of its table is printed."""

    json: str | None = None
    html: str | None = None
    full: bool = False


def add_reports(to: argparse.ArgumentParser) -> None:
    """The arguments of ``ReportOptions``."""
    to.add_argument("--json", metavar="FILE", help="write the report as JSON")
    to.add_argument("--html", metavar="FILE", help="write the report as an HTML page")
    to.add_argument("--full", action="store_true", help="print every row of the table")


@dataclass(frozen=True, kw_only=True)
class CheckOptions(ReportOptions):
    """What every check of a model is told: which model, and the seed of everything that is random."""

    model: str
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class WeightOptions(CheckOptions):
    """Which weights the models get: a timm checkpoint (``None``: seeded), and what Paddle loads instead of it."""

    checkpoint: str | None = None
    use_ema: bool = False
    converted: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelOptions(WeightOptions):
    """What the models run on: images, or so many random ones of a side in pixels."""

    image: tuple[str, ...] | None = None
    batch_size: int = 2
    input_size: int | None = None


Options = TypeVar("Options", bound=CheckOptions)
Check = Callable[[Options, Progress], Result]
"""Makes one comparison of one model."""


def parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """The arguments of ``CheckOptions``; ``doc`` as for ``CommandParser``."""
    result = CommandParser(name, doc)
    result.add_argument("--model", required=True, help="DLA name, port folder, or 'all'")
    result.add_argument("--seed", type=natural, default=0, help="random seed (default: 0)")
    add_reports(result)
    return result


def at_least_one(text: str) -> int:
    """An argument that counts something which has to be there."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def add_weights(to: argparse.ArgumentParser) -> None:
    """The arguments that ``WeightOptions`` adds."""
    to.add_argument("--checkpoint", help="timm checkpoint (default: seeded initialisation)")
    to.add_argument("--use-ema", action="store_true", help="use the averaged (EMA) weights of a training checkpoint")
    to.add_argument("--converted", help="converted weights to load into Paddle (default: convert in memory)")


def add_inputs(to: argparse.ArgumentParser) -> None:
    """The arguments that ``ModelOptions`` adds."""
    to.add_argument("--image", nargs="+", metavar="PATH", help="input images; timm's evaluation transform is applied")
    to.add_argument(
        "--batch-size",
        type=int,
        default=ModelOptions.batch_size,
        help="number of random inputs, without --image (default: 2)",
    )
    to.add_argument(
        "--input-size", type=int, help="side of random inputs in pixels (default: 64, or the size in the port's card)"
    )


def chosen_source(options: WeightOptions, progress: Progress) -> Source:
    """The weights that ``options`` name, or seeded ones. Raises ``CheckpointError`` where they are unreadable."""
    if options.checkpoint:
        return read_source(options.checkpoint, options.use_ema)
    # imports both frameworks, for which usage errors need not wait
    model, entry = options.model, find_model(options.model)
    if entry.folder is not None:
        from alignment.ported import own_source

        progress(f"{model}: no checkpoint given, the port's own weights")
        return own_source(entry)
    from alignment.pairs import seeded_source

    progress(f"{model}: no checkpoint given, weights seeded with {options.seed}")
    return seeded_source(model, options.seed, randomise_batch_norm=True)


def chosen_weights(
    options: WeightOptions, progress: Progress
) -> tuple[Source, Conversion, dict[str, np.ndarray] | None]:
    """The source, its conversion, and the arrays of ``converted`` where it is given.

    Raises ``CheckpointError`` where a file is unreadable or does not fit the model.
    """
    source = chosen_source(options, progress)
    conversion = converted(source, options.model)
    return source, conversion, checkpoint.read(options.converted)[0] if options.converted else None


def chosen_inputs(options: ModelOptions, conversion: Conversion) -> np.ndarray | list[str]:
    """The paths of the images that are named, or random inputs (B, C, H, W)."""
    if options.image:
        return list(options.image)
    shape = (options.batch_size, conversion.in_chans, *sides(options.input_size, options.model))
    return np.random.RandomState(options.seed).standard_normal(shape)


def sides(size: int | None, model: str) -> tuple[int, int]:
    """Height and width of random inputs: ``size`` where it was asked for, else 64, or what a port's card says."""
    if size is not None:
        return size, size
    entry = find_model(model)
    return (SIZE, SIZE) if entry.folder is None else entry.card.preprocessing.input_size[1:]


def run(usage: argparse.ArgumentParser, argv: Sequence[str] | None, kind: type[Options], check: Check[Options]) -> int:
    """Check every model that the command line names, print and write the reports; returns the exit code.

    0: all aligned; 1: not, or the weights do not fit, or the data cannot be read; ends the program with 2 for
    arguments that make no sense.
    """
    options = options_of(kind, usage.parse_args(argv))
    models = chosen_models(options, usage)
    use_vector_kernels()
    results: list[Result] = []
    try:
        refuse_reports(options)
        for number, model in enumerate(models, 1):
            results.append(check(replace(options, model=model), announcer(f"[{number}/{len(models)}] ")))
            print(text(results[-1], fold=not options.full), end="\n\n", flush=True)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        write_reports(results, options)
        return 1
    if not write_reports(results, options):
        return 1
    if len(results) > 1:
        print("\n".join(f"{result.title.split(':')[0]:16}{result.verdict()}" for result in results))
    return 0 if all(result.passed for result in results) else 1


def write_reports(results: Sequence[Result], options: ReportOptions) -> bool:
    """Write what ``options`` name, where there is anything to write; whether it could be written.

    What could not is printed: what was measured is worth more than where it goes.
    """
    written = True
    for write, path in ((write_json, options.json), (write_html, options.html)):
        try:
            if results and path:
                write(results, path)
        except CheckpointError as error:
            print(f"error: {error}", file=sys.stderr)
            written = False
    return written


def refuse_reports(options: ReportOptions) -> None:
    """Raises ``CheckpointError`` for a report that could not be written, before any work is done for it."""
    for path in filter(None, (options.json, options.html)):
        folder = os.path.dirname(path) or "."
        check_writable(path) if os.path.isdir(folder) else check_folder(folder, parents=True)
    names = ("checkpoint", "converted", "config", "data", "predictions", "torch_folder", "paddle_folder")
    read = [getattr(options, name, None) for name in names]
    folders = [folder for folder in read if isinstance(folder, str) and os.path.isdir(folder)]
    records = [os.path.join(folder, name) for folder in folders for name in (TENSORS, INDEX, "inputs.npy")]
    images = getattr(options, "image", None) or ()
    check_apart({"--json": options.json, "--html": options.html}, [*read, *records, *images])


def announcer(prefix: str) -> Progress:
    """Prints what a check does next, on the standard error."""
    return lambda line: print(prefix + line, file=sys.stderr, flush=True)


def chosen_models(options: CheckOptions, usage: argparse.ArgumentParser) -> list[str]:
    """The models that ``options`` name; ends the program with 2 where the arguments make no sense."""
    try:
        models = list(VARIANTS) if options.model == "all" else [_named(options.model)]
    except UserError as error:
        usage.error(str(error))
    if isinstance(options, WeightOptions):
        _refuse_weights(options, usage, len(models))
    if isinstance(options, ModelOptions):
        size = options.input_size
        if options.batch_size < 1 or (size is not None and (size < 1 or size % _multiple(models[0]))):
            usage.error(f"--batch-size must be at least 1 and --input-size a multiple of {SIDE_MULTIPLE}")
    return models


def _named(model: str) -> str:
    """What opens ``model``. Raises ``ValueError`` for one without a reference to compare it with."""
    entry = find_model(model)
    if entry.published is None and entry.folder is None:
        raise WrongValue(f"{model} has no reference here; compare it with alignment.align")
    return entry.place


def _multiple(model: str) -> int:
    return SIDE_MULTIPLE if find_model(model).folder is None else 1


def _refuse_weights(options: WeightOptions, usage: argparse.ArgumentParser, models: int) -> None:
    if models > 1 and (options.checkpoint or options.converted):
        usage.error("--checkpoint and --converted belong to one model; name it instead of 'all'")
    if options.use_ema and not options.checkpoint:
        usage.error("--use-ema needs --checkpoint")
