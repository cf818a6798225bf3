"""Shared parts of the ``check_*`` scripts: arguments, the loop over models, reports, exit codes."""

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
from paddle_dla import weight_files
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

SIDE_MULTIPLE = 32  # every variant takes images whose sides are multiples of this
SIZE = 64

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Where to write a comparison, and whether to print every row of its table."""

    json: str | None = None
    html: str | None = None
    full: bool = False


def add_reports(to: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ReportOptions``."""
    to.add_argument("--json", metavar="FILE", help="write the report as JSON")
    to.add_argument("--html", metavar="FILE", help="write the report as an HTML page")
    to.add_argument("--full", action="store_true", help="print every row of the table")


@dataclass(frozen=True, kw_only=True)
class CheckOptions(ReportOptions):
    """The options of every check: the model and the random seed."""

    model: str
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class WeightOptions(CheckOptions):
    """The weights: a timm checkpoint (``None``: seeded), and the file that Paddle loads instead of converting it."""

    checkpoint: str | None = None
    use_ema: bool = False
    converted: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelOptions(WeightOptions):
    """The inputs: images, or a number of random ones of a side in pixels."""

    image: tuple[str, ...] | None = None
    batch_size: int = 2
    input_size: int | None = None


Options = TypeVar("Options", bound=CheckOptions)
Check = Callable[[Options, Progress], Result]
"""Runs one comparison of one model."""


def parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the arguments of ``CheckOptions``; ``doc`` as for ``CommandParser``."""
    result = CommandParser(name, doc)
    result.add_argument("--model", required=True, help="DLA name, port folder, or 'all'")
    result.add_argument("--seed", type=natural, default=0, help="random seed (default: 0)")
    add_reports(result)
    return result


def at_least_one(text: str) -> int:
    """Parse an integer argument of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least 1")
    return int(text)


def add_weights(to: argparse.ArgumentParser) -> None:
    """Add the arguments that ``WeightOptions`` adds."""
    to.add_argument("--checkpoint", help="timm checkpoint (default: seeded initialisation)")
    to.add_argument("--use-ema", action="store_true", help="use the averaged (EMA) weights of a training checkpoint")
    to.add_argument("--converted", help="converted weights to load into Paddle (default: convert in memory)")


def add_inputs(to: argparse.ArgumentParser) -> None:
    """Add the arguments that ``ModelOptions`` adds."""
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
    """Return the weights that ``options`` name, or seeded ones. Raises ``CheckpointError`` for an unreadable file."""
    if options.checkpoint:
        return read_source(options.checkpoint, options.use_ema)
    # this imports both frameworks, which usage errors do not need
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
    """Return the source, its conversion, and the arrays of ``converted`` if it is given.

    Raises ``CheckpointError`` where a file is unreadable or does not fit the model.
    """
    source = chosen_source(options, progress)
    conversion = converted(source, options.model)
    return source, conversion, weight_files.read(options.converted)[0] if options.converted else None


def chosen_inputs(options: ModelOptions, conversion: Conversion) -> np.ndarray | list[str]:
    """Return the paths of the given images, or random inputs (B, C, H, W)."""
    if options.image:
        return list(options.image)
    shape = (options.batch_size, conversion.in_chans, *sides(options.input_size, options.model))
    return np.random.RandomState(options.seed).standard_normal(shape)


def sides(size: int | None, model: str) -> tuple[int, int]:
    """Return height and width of random inputs: ``size`` if given, else that of a port's card, else 64."""
    if size is not None:
        return size, size
    entry = find_model(model)
    return (SIZE, SIZE) if entry.folder is None else entry.card.preprocessing.input_size[1:]


def run(usage: argparse.ArgumentParser, argv: Sequence[str] | None, kind: type[Options], check: Check[Options]) -> int:
    """Check every model on the command line, print and write the reports, and return the exit code.

    0: all aligned. 1: not aligned, or the weights do not fit, or the data cannot be read. Arguments that make no sense
    end the program with 2.
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
    """Write the reports that ``options`` name, if there is anything to write; return whether that succeeded.

    A failure is printed and does not discard the measurements.
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
    """Raise ``CheckpointError`` for a report that could not be written, before any work is done."""
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
    """Return a function that prints the progress of a check to the standard error."""
    return lambda line: print(prefix + line, file=sys.stderr, flush=True)


def chosen_models(options: CheckOptions, usage: argparse.ArgumentParser) -> list[str]:
    """Return the models that ``options`` name; end the program with 2 where the arguments make no sense."""
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
    """Return the name that opens ``model``. Raises ``ValueError`` for a model without a reference."""
    entry = find_model(model)
    if entry.published is None and entry.folder is None:
        raise WrongValue(f"{model} has no reference here; use alignment.align")
    return entry.place


def _multiple(model: str) -> int:
    return SIDE_MULTIPLE if find_model(model).folder is None else 1


def _refuse_weights(options: WeightOptions, usage: argparse.ArgumentParser, models: int) -> None:
    if models > 1 and (options.checkpoint or options.converted):
        usage.error("--checkpoint and --converted belong to one model; name it instead of 'all'")
    if options.use_ema and not options.checkpoint:
        usage.error("--use-ema needs --checkpoint")
