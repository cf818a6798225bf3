"""Compare the images that reach a model with those that timm feeds its own: the work of ``check_data``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from alignment.drawn_images import write_drawn
from alignment.engine.pixels.images import Case, Tally, align_data, culprit
from alignment.engine.pixels.recipe import CROP, DECODE, NORMALISE, Recipe
from alignment.engine.pixels.sample_lists import LIST, compare_lists
from alignment.engine.result import Culprit, Result, Row, Skipped
from alignment.training_transforms import batch_of, compare_batches, compare_samples
from paddle_dla.data.crop import EvalTransform
from paddle_dla.data.decoding import decode
from paddle_dla.data.errors import ImageError
from paddle_dla.data.image_files import open_images
from paddle_dla.data.normalise import Normalise
from paddle_dla.data.opening import open_source
from paddle_dla.data.pipeline import evaluation_loader
from paddle_dla.data.source import FileSource, Source
from paddle_dla.models.cards import read_card
from paddle_dla.models.registry import find_model
from paddle_dla.options import Loading
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.ranks import Ranks
from paddle_dla.storage.errors import CheckpointError

TRAINED = 6  # of the samples, on which every training recipe runs
BATCH = 4  # the loader's batch size: several batches, the last one short
LOADER = "batches of the loader"

Judged = tuple[Row, Culprit | None]


def compare_data(
    model: str,
    seed: int,
    data: str | None,
    images: Sequence[str],
    samples: int,
    progress: Callable[[str], None] = lambda line: None,
) -> Result:
    """Compare at most ``samples`` of ``data``, else of ``images``, else generated ones, as ``model`` takes them.

    Raises ``DataError`` for data that cannot be read.
    """
    from torch_ref.data import eval_config, eval_stages

    preprocessing = find_model(model).card.preprocessing
    config = eval_config(reference_name(model))
    with chosen_data(data, images) as source:
        indices = spread_over(source.num_samples, samples)
        files = read_files(source, indices)
        progress(f"{model}: {len(files)} images through decoding, crop and normalisation")
        stages = eval_stages(config)
        result = align_data(stages, port_stages(preprocessing), files, recipe=recipe_of(config))
        result.title = f"{model}: data, timm against Paddle"
        listed = compare_sources(source, result)
        loaded = compare_loader(stages, source, preprocessing, indices)
    progress(f"{model}: training transforms")
    few = dict(list(files.items())[:TRAINED])
    batches = batch_of([stages(data)[NORMALISE] for data in few.values()])
    trained = [*compare_samples(config, preprocessing, few, seed), *compare_batches(*batches, seed)]
    _gather(result, listed, [loaded, *trained])
    used = f"{len(files)} of {source.num_samples} of {_described(data, images)}"
    result.facts = {"samples": used, "versions": versions()}
    return result


def reference_name(model: str) -> str:
    """Return timm's name of ``model``. Raises ``CheckpointError`` for a port of another library's model."""
    entry = find_model(model)
    name = entry.name if entry.folder is None else read_card(entry.folder)["reference"]["model"]
    if not name:
        raise CheckpointError(f"{model} is not a timm model: there is no timm transform to compare with")
    return name


def _gather(result: Result, before: Sequence[Judged], after: Sequence[Judged]) -> None:
    """Add rows before and after the existing ones; keep only the first culprit, as others may follow from it."""
    found = [*before, *((row, None) for row in result.rows), *after]
    blamed = [*(each for _, each in before), *result.culprits, *(each for _, each in after)]
    result.culprits = [each for each in blamed if each is not None][:1]
    result.rows = [replace(row, depth=depth) for depth, (row, _) in enumerate(found)]


@contextmanager
def chosen_data(data: str | None, images: Sequence[str]) -> Iterator[Source]:
    """Yield the given samples, or generated ones, which are removed afterwards."""
    if data:
        yield open_source(data)
    elif images:
        yield open_images(images)
    else:
        with tempfile.TemporaryDirectory() as folder:
            write_drawn(Path(folder))
            yield open_source(folder)


def spread_over(samples: int, wanted: int) -> list[int]:
    """Return at most ``wanted`` indices of ``samples``, evenly spaced, since a data set begins with a single class."""
    return np.unique(np.linspace(0, samples - 1, min(wanted, samples)).round().astype(int)).tolist()


def read_files(source: Source, indices: Sequence[int]) -> dict[str, bytes]:
    """Read the bytes of samples by name. Raises ``ImageError`` that names the first file that is no image."""
    reader = source.reader(rising=True)
    files = {}
    try:
        for index in indices:
            sample = reader.sample(index)
            files[sample.name] = sample.data
            _refuse_damaged(sample.name, sample.data)
    finally:
        reader.close()
    return files


def _refuse_damaged(name: str, data: bytes) -> None:
    try:
        decode(data)
    except ImageError as error:
        raise ImageError(f"{name}: {error}; timm cannot read it either: leave it out") from error


def port_stages(preprocessing: Preprocessing) -> Any:
    """Return the Paddle pipeline by stage, like ``torch_ref.data.eval_stages``."""
    transform, normalise = EvalTransform(preprocessing), Normalise(preprocessing)

    def stages(data: bytes) -> dict[str, np.ndarray]:
        decoded = decode(data)
        cropped = transform(decoded)
        return {DECODE: decoded, CROP: cropped, NORMALISE: normalise(cropped[np.newaxis])[0]}

    return stages


def recipe_of(config: Mapping[str, Any]) -> Recipe:
    """Convert timm's configuration to the recipe that the search for causes takes."""
    channels, *size = config["input_size"]
    return Recipe(
        tuple(size), channels, config["crop_pct"], config["interpolation"], tuple(config["mean"]), tuple(config["std"])
    )


def compare_sources(source: Source, result: Result) -> list[Judged]:
    """Compare the samples and labels of class folders with timm's; for other sources record why they are skipped."""
    if not isinstance(source, FileSource) or source.classes is None or not os.path.isdir(source.root):
        result.skipped.append(Skipped(LIST, "Source", "both", "timm reads class folders only"))
        return []
    from torch_ref.data import folder_samples

    ours = [(source.name(index), int(source.labels[index])) for index in range(source.num_samples)]
    return [compare_lists(folder_samples(source.root), ours)]


def compare_loader(stages: Any, source: Source, preprocessing: Preprocessing, indices: Sequence[int]) -> Judged:
    """Compare the batches of the evaluation's loader with timm's result for the samples that it reports."""
    loader = evaluation_loader(source, preprocessing, Loading(BATCH), Ranks(), indices)
    tally, first, seen = Tally(LOADER), [], []
    with closing(source.reader()) as reader:
        for batch in loader:
            for image, label, index in zip(batch.images, batch.labels.tolist(), batch.indices.tolist()):
                seen.append(index)
                sample = reader.sample(index)
                expected = stages(sample.data)[NORMALISE]
                remark = "" if label == sample.label else f"label {label} instead of {sample.label}"
                if remark:
                    tally.fail(sample.name, remark)
                if (not tally.add(sample.name, expected, image) or remark) and not first:
                    first.append(Case(sample.name, b"", LOADER, expected, image.copy(), remark))
    if seen != list(indices):
        tally.fail("all of them", f"{len(seen)} samples where {len(indices)} were asked for, or in another order")
    return tally.row(0), culprit(tally, first, None) if first else None


def _described(data: str | None, images: Sequence[str]) -> str:
    return data or ("the images named" if images else "drawn images")


def versions() -> str:
    """Return the versions of the libraries that decode and resize on either side."""
    import PIL

    from torch_ref.model import import_timm

    timm = import_timm()
    import torch
    import torchvision

    packages = {"timm": timm, "torch": torch, "torchvision": torchvision, "Pillow": PIL}
    return ", ".join(f"{name} {package.__version__}" for name, package in packages.items())
