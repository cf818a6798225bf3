"""Compute embeddings of images: the input of the network's classifier.

Usage::

    paddle-dla features --data photos/ --checkpoint dla60.pdparams --output features.npy
    python -m paddle_dla.features --data imagenet/val --model dla60 --checkpoint model.safetensors --output out.parquet

Each row is the pooled last feature map (timm's ``forward_head(..., pre_logits=True)``), float32. ``.npy`` contains only
the matrix, and gets ``NAME.csv`` beside it, which describes each row; ``.parquet`` contains both (extra ``parquet``).
``--data`` takes the same sources as evaluation, or a folder of images without labels.

Exit codes: 0 done, 1 refused or failed, 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paddle_dla.command_parser import CommandParser
from paddle_dla.data.batch import Batch
from paddle_dla.data.errors import DataError
from paddle_dla.data.image_files import holds_images, open_images
from paddle_dla.data.labelling import open_labelled
from paddle_dla.data.source import Source
from paddle_dla.engines.base import check_outputs
from paddle_dla.errors import UserError, WrongValue
from paddle_dla.extras import how_to_install
from paddle_dla.options import (
    DataOptions,
    PreprocessingOptions,
    add_data,
    add_preprocessing,
    chosen_preprocessing,
    options_of,
    threads,
)
from paddle_dla.progress import Progress, StepClock
from paddle_dla.ranks import Ranks
from paddle_dla.reports import fill_csv
from paddle_dla.storage.apart import check_apart
from paddle_dla.storage.atomic import atomic_path, atomic_paths, check_writable
from paddle_dla.storage.npy import write_npy as write_array
from paddle_dla.subject import CHECKPOINT, MODEL
from paddle_dla.terminal import run_command

if TYPE_CHECKING:
    from paddle_dla.loading import LoadedModel

Embed = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Rows:
    """``features``: (N, C) float32. ``indices``, ``labels``: (N,), as in ``Batch``."""

    features: np.ndarray
    indices: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, kw_only=True)
class FeaturesOptions(DataOptions, PreprocessingOptions):
    """Options of ``features``: model, data, number of threads (``None``: all), and output file."""

    output: str
    model: str | None = None
    checkpoint: str | None = None
    threads: int | None = None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = CommandParser("features", __doc__)
    result.add_argument("--model", metavar="NAME|PORT", help=f"{MODEL} (default: from the checkpoint's manifest)")
    result.add_argument("--checkpoint", metavar="FILE", help=CHECKPOINT)
    result.add_argument("--output", required=True, metavar="FILE", help="file to write: .npy or .parquet")
    result.add_argument("--threads", type=threads, metavar="N", help="number of threads (default: all usable cores)")
    add_data(result)
    add_preprocessing(result)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = options_of(FeaturesOptions, parser().parse_args(argv))
    try:
        run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run(options: FeaturesOptions) -> None:
    """Compute and write the embeddings. Raises ``UserError``."""
    write = _writer(options.output)
    check_writable(options.output)
    if Path(options.output).suffix == ".npy":
        check_writable(_listing(options.output))
    check_apart({"--output": options.output, "its table": _listing(options.output)}, [options.checkpoint, options.data])
    # imports Paddle; errors in the options are reported before that
    from paddle_dla.data.pipeline import evaluation_loader
    from paddle_dla.engines.eager import EagerEngine
    from paddle_dla.loading import load_model

    loaded = load_model(options.model, options.checkpoint)
    source = _source(options, loaded)
    for note in source.notes:
        print(note)
    preprocessing = chosen_preprocessing(options, loaded.preprocessing)
    loader = evaluation_loader(source, preprocessing, options.loading(), Ranks())
    # without a classifier the network returns its pooled features
    loaded.layer.reset_classifier(0)
    engine = EagerEngine(loaded.layer, options.threads)
    rows = embed(engine.run, loader, Progress(source.num_samples, options.log_interval))
    write(options.output, rows, [source.name(index) for index in rows.indices.tolist()])
    print(f"{options.output}: {rows.features.shape[0]:,} images x {rows.features.shape[1]:,} features")


def _source(options: FeaturesOptions, loaded: LoadedModel) -> Source:
    """Open labelled data with any classes, as for evaluation, or a folder that directly contains images."""
    assert options.data is not None  # the command line requires it
    if holds_images(options.data):
        return open_images([options.data])
    names, named_by = loaded.class_names, loaded.named_by
    return open_labelled(options.data, options.data_root, names, named_by, loaded.num_classes, strict=False)


def embed(run_batch: Embed, batches: Iterable[Batch], progress: Progress) -> Rows:
    """Return the features of all ``batches``.

    Raises ``DataError`` if there are no batches, ``EngineError`` for features that are not finite.
    """
    clock, parts = StepClock(), []
    for batch in clock.over(batches):
        # a loader may reuse the memory of a batch
        parts.append((check_outputs(run_batch(batch.images), batch.indices), batch.indices.copy(), batch.labels.copy()))
        if progress.step(len(batch), "", f"step:{len(parts)}, {clock.costs()}"):
            clock.reset()
    progress.close()
    if not parts:
        raise DataError("there is nothing to embed: no image could be read")
    return Rows(*(np.concatenate(column) for column in zip(*parts)))


def _writer(path: str) -> Callable[[str, Rows, Sequence[str]], None]:
    """Return the writer for the suffix of ``path``.

    Raises ``ValueError`` if the suffix is unknown or if the package for it is missing.
    """
    suffix = Path(path).suffix
    if suffix not in WRITERS:
        raise WrongValue(f"{path}: features are written as {' or '.join(WRITERS)}")
    if suffix == ".parquet" and find_spec("pyarrow") is None:
        raise WrongValue(how_to_install(["pyarrow"]))
    return WRITERS[suffix]


def _listing(path: str) -> str:
    """Return the path of the table that describes the rows of the matrix ``path``."""
    return f"{path}.csv"


def write_npy(path: str, rows: Rows, names: Sequence[str]) -> None:
    """Write the matrix, and a table of its rows beside it."""
    table = ["row", "name", "label"], zip(range(len(names)), names, rows.labels.tolist())
    with atomic_paths(_listing(path), path) as (listing, matrix):
        fill_csv(listing, table)
        write_array(matrix, rows.features)


def write_parquet(path: str, rows: Rows, names: Sequence[str]) -> None:
    """Write the columns ``name``, ``label`` and ``features``, the last a list of fixed length."""
    import pyarrow
    from pyarrow import parquet

    width = rows.features.shape[1]
    features = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.features.reshape(-1)), width)
    utf8 = [name.encode("utf-8", "backslashreplace").decode("utf-8") for name in names]
    table = pyarrow.table({"name": utf8, "label": rows.labels, "features": features})
    with atomic_path(path) as part:
        parquet.write_table(table, part)


WRITERS = {".npy": write_npy, ".parquet": write_parquet}


if __name__ == "__main__":
    sys.exit(run_command(main))
