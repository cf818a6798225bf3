"""Draw a batch as the model sees it, with its labels.

Usage::

    paddle-dla look-at-data --data imagenet/val --model dla60 --output batch.png
    python -m paddle_dla.look_at_data --data val_list.txt --checkpoint dla60.pdparams --shuffle 0 --images 64

    python -m paddle_dla.look_at_data --data imagenet/train --train --auto-augment rand-m9-mstd0.5 --cutmix 1
    python -m paddle_dla.look_at_data --config configs/dla60.yaml -o data.train=imagenet/train

The picture shows the model's input itself, converted back to pixels: decoded, resized, cropped and normalised as in
evaluation or, with ``--train``, augmented, erased and mixed as in training. With ``--config`` it is the first batch of
the training that ``train`` would start with that config, bit for bit. Each image has its label and its name in the
source below it. Exit codes: 0 written, 1 refused or failed, 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paddle_dla.command_parser import CommandParser
from paddle_dla.config import load_config
from paddle_dla.data.batch import Batch
from paddle_dla.data.class_names import NamedBy, imagenet_class_names, read_class_names, recorded_class_names
from paddle_dla.data.errors import DataError
from paddle_dla.data.labelling import open_labelled
from paddle_dla.data.mixing import Mixup
from paddle_dla.data.normalise import Normalise
from paddle_dla.data.opening import open_source
from paddle_dla.data.source import FileSource, Source
from paddle_dla.data.walk import refuse_picture_in
from paddle_dla.errors import UserError, WrongValue
from paddle_dla.models.registry import find_model
from paddle_dla.options import (
    ConfigOptions,
    Loading,
    PreprocessingOptions,
    add_preprocessing,
    chosen_preprocessing,
    finite,
    natural,
    options_of,
    positive,
)
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.ranks import Ranks
from paddle_dla.storage.apart import check_apart
from paddle_dla.storage.atomic import atomic_path, check_writable
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.manifest import manifest_path, read_manifest
from paddle_dla.terminal import run_command
from paddle_dla.weight_files import recorded_preprocessing, weight_file

if TYPE_CHECKING:
    from PIL import Image

    from paddle_dla.data.loader import Loader

DEFAULT_MODEL = "dla60"  # all variants were published with the same preprocessing
MIXED_SHOWN = 2  # classes named in the caption of a mixed label
BESIDE_CONFIG = {"config", "override", "train", "images", "columns", "output"}  # options allowed with a config


@dataclass(frozen=True, kw_only=True)
class LookOptions(ConfigOptions, PreprocessingOptions):
    """Options of ``look-at-data``: a config, or data, model and augmentation; the number of images, and the output."""

    data: str | None = None
    data_root: str | None = None
    classes: str | None = None
    model: str | None = None
    checkpoint: str | None = None
    images: int = 36
    columns: int | None = None
    shuffle: int | None = None
    output: str = "batch.png"
    train: bool = False
    auto_augment: str | None = None
    re_prob: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Feed:
    """The input of a model: batches of ``source``, prepared by ``preprocessing``."""

    loader: Loader
    source: Source
    preprocessing: Preprocessing
    class_file: str | None


@dataclass(frozen=True)
class View:
    """A batch to draw, and its images converted back to pixels."""

    batch: Batch
    pixels: np.ndarray


def look(feed: Feed, count: int) -> View:
    """Return up to ``count`` images of the first batch. Raises ``DataError`` if there is none, or one is corrupt."""
    with closing(iter(feed.loader)) as batches:
        first = next(batches, None)
        if first is None:
            raise DataError("there is nothing to look at: no image of the first batch can be read")
        # copied: the arrays of a worker are freed with it
        batch = Batch(*(array[:count].copy() for array in (first.images, first.labels, first.indices)))
    return View(batch, Normalise(feed.preprocessing).undo(batch.images))


def fed_in_training(config_file: str, overrides: Sequence[str]) -> Feed:
    """Return the input of ``train`` for this config, in one process, from the start.

    Raises ``ConfigError``, ``TrainingError`` and ``DataError`` as ``train`` does.
    """
    from paddle_dla.training.datasets import open_datasets, train_loader, train_preprocessing

    config = load_config(config_file, overrides)
    datasets = open_datasets(config)
    loader = train_loader(config, datasets, Ranks())
    return Feed(loader, datasets.train, train_preprocessing(config), config.data.class_map)


def fed_as_told(options: LookOptions) -> Feed:
    """Return the input described by the options, without a config, as one batch."""
    from paddle_dla.data.loader import Loader
    from paddle_dla.data.pipeline import evaluation_loader

    preprocessing = chosen_preprocessing(options, model_preprocessing(options.model, options.checkpoint))
    source = _source(options)
    # shuffled, as in training: the first images of a folder all belong to one class
    drawn = options.seed if options.train and options.shuffle is None else options.shuffle
    order = chosen_samples(source.num_samples, options.images, drawn)
    if options.train:
        num_classes = count_classes(source) if options.mixup or options.cutmix else 0
        prepared = training_options(options, preprocessing, num_classes)
        loader = Loader(source, batch_size=len(order), output_shape=preprocessing.input_size, order=order, **prepared)
    else:
        loader = evaluation_loader(source, preprocessing, Loading(len(order)), Ranks(), order)
    return Feed(loader, source, preprocessing, options.classes)


def _source(options: LookOptions) -> Source:
    """Open the data, numbered by the class names that the checkpoint records, if any."""
    assert options.data is not None  # the command requires it if there is no config
    checkpoint = options.checkpoint
    manifest = None if checkpoint is None else read_manifest(weight_file(checkpoint))
    if options.classes is not None or checkpoint is None or manifest is None or manifest.get("classes") is None:
        return open_source(options.data, options.data_root, options.classes)
    try:
        count = len(manifest["classes"])
        names = recorded_class_names(manifest["classes"], count)
    except WrongValue as error:
        raise CheckpointError(f"{manifest_path(checkpoint)}: {error}") from error
    return open_labelled(options.data, options.data_root, names, NamedBy.WEIGHTS, count)


def training_options(options: LookOptions, preprocessing: Preprocessing, num_classes: int) -> dict[str, Any]:
    """Return the arguments of a loader for training with the augmentation given by the options."""
    from paddle_dla.data.training import FromPixels, TrainingBatch
    from paddle_dla.data.transforms import training_transform

    transform = training_transform(
        preprocessing, auto_augment=options.auto_augment, re_prob=options.re_prob, re_mode="pixel"
    )
    mix = None
    if options.mixup or options.cutmix:
        # no smoothing: the caption shows the mixing only
        mix = Mixup(options.mixup, options.cutmix, mode="elem", label_smoothing=0, num_classes=num_classes)
    return {
        "transform": FromPixels(transform.sample, preprocessing.input_size[0]),
        "batch_transform": TrainingBatch(Normalise(preprocessing), transform.erase, mix),
        "soft_labels": num_classes if mix else 0,
        "seed": options.seed,
    }


def count_classes(source: Source) -> int:
    """Return the number of classes for mixing. Raises ``ValueError`` if it is unknown."""
    if source.classes:
        return len(source.classes)
    if isinstance(source, FileSource):
        return int(source.labels.max()) + 1
    raise WrongValue("--classes is required: these shards do not name their classes")


def chosen_samples(num_samples: int, count: int, shuffle: int | None) -> np.ndarray:
    """Return up to ``count`` indices: the first ones, or a random sample with the seed ``shuffle``."""
    if shuffle is None:
        return np.arange(min(count, num_samples))
    return np.random.default_rng(shuffle).permutation(num_samples)[:count]


def names_of_classes(source: Source, class_file: str | None) -> list[str] | None:
    """Return the display names of the classes: from the file, from ImageNet's list, or from the source."""
    if class_file is not None:
        return list(read_class_names(class_file).names)
    imagenet = imagenet_class_names()
    names = dict(zip(imagenet.ids, imagenet.names))
    return source.classes and [names.get(name, name) for name in source.classes]


def caption(label: np.ndarray, classes: list[str] | None) -> str:
    """Return a class name, or the shares of the largest classes of a mixed label, (K,)."""
    if label.ndim:
        largest = [
            index for index in np.argsort(-label, kind="stable")[:MIXED_SHOWN] if label[index] >= 0.005
        ]  # smaller shares would show as 0.00
        return ", ".join(f"{label[index]:.2f} {_name(index, classes)}" for index in largest)
    return "no label" if label < 0 else f"{label}: {_name(int(label), classes)}".removesuffix(": ")


def _name(label: int, classes: list[str] | None) -> str:
    return classes[label].split(",")[0] if classes and label < len(classes) else ""


def draw(view: View, source: Source, classes: list[str] | None, columns: int | None = None) -> Image.Image:
    """Draw a view."""
    from paddle_dla.data.picture import grid

    captions = [
        (caption(label, classes), source.name(index)) for label, index in zip(view.batch.labels, view.batch.indices)
    ]
    return grid(view.pixels, captions, columns)


def model_preprocessing(model: str | None, checkpoint: str | None) -> Preprocessing:
    """Return the preprocessing in a checkpoint's manifest, or that with which the variant was published.

    Raises ``CheckpointError`` for a missing checkpoint, or one whose model is unknown.
    """
    if checkpoint is not None:
        checkpoint = weight_file(checkpoint)
        if not Path(checkpoint).is_file():
            raise CheckpointError(f"{checkpoint}: there is no such file")
        manifest = read_manifest(checkpoint) or {}
        recorded = recorded_preprocessing(manifest, checkpoint)
        if recorded is not None:
            return recorded
        model = model or manifest.get("model")
        if model is None:
            raise CheckpointError(f"{checkpoint} has no manifest beside it that names its model; name the --model")
    return find_model(model or DEFAULT_MODEL).card.preprocessing


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = CommandParser("look-at-data", __doc__)
    result.add_argument("--config", metavar="FILE", help="recipe of a training; draws its first batch")
    result.add_argument("-o", "--override", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    result.add_argument("--data", metavar="DIR|LIST|TAR", help="class folders, list file, or tar shards")
    result.add_argument(
        "--data-root", metavar="DIR", help="folder of the files in a list file (default: the list's own)"
    )
    result.add_argument(
        "--classes", metavar="FILE", help="file with one class name per line, in the order of the labels"
    )
    result.add_argument("--model", metavar="NAME", help=f"model name (default: {DEFAULT_MODEL})")
    result.add_argument("--checkpoint", metavar="FILE", help="converted weights; their recorded preprocessing is used")
    result.add_argument(
        "--images", type=positive, default=36, metavar="N", help="largest number of images (default: 36)"
    )
    result.add_argument("--columns", type=positive, metavar="N", help="images per row")
    result.add_argument(
        "--shuffle", type=natural, metavar="SEED", help="choose images at random with this seed (default: the first)"
    )
    result.add_argument("--output", default="batch.png", metavar="FILE.png", help="file to write (default: batch.png)")
    add_preprocessing(result)
    training = result.add_argument_group("training", "with --train")
    training.add_argument("--train", action="store_true", help="augment as in training")
    training.add_argument("--auto-augment", metavar="POLICY", help="timm policy, such as rand-m9-mstd0.5-inc1")
    training.add_argument(
        "--re-prob", type=finite, default=0.0, metavar="P", help="probability of random erasing (default: 0)"
    )
    training.add_argument("--mixup", type=finite, default=0.0, metavar="ALPHA", help="alpha of mixup (default: 0, off)")
    training.add_argument(
        "--cutmix", type=finite, default=0.0, metavar="ALPHA", help="alpha of CutMix (default: 0, off)"
    )
    training.add_argument("--seed", type=natural, default=0, help="random seed of the augmentation (default: 0)")
    return result


def parsed(argv: Sequence[str] | None) -> LookOptions:
    """Parse the command line. Raises ``WrongValue`` for options that contradict each other."""
    command = parser()
    args = command.parse_args(argv)
    if args.config:
        _refuse_beside_config(command, args)
    elif args.override:
        command.error("-o changes a config; name one with --config")
    elif args.data is None:
        command.error("which images? name them with --data, or a training with --config")
    elif not args.train and (args.auto_augment or args.re_prob or args.mixup or args.cutmix):
        raise WrongValue("--auto-augment, --re-prob, --mixup and --cutmix are seen with --train only")
    return options_of(LookOptions, args)


def _refuse_beside_config(command: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    given = [name for name, value in vars(args).items() if value != command.get_default(name)]
    beside = [f"--{name.replace('_', '-')}" for name in given if name not in BESIDE_CONFIG]
    if beside:
        raise WrongValue(f"the config defines the input: leave out {', '.join(beside)}, or change the config with -o")


def run(options: LookOptions) -> None:
    """Write the picture. Raises ``UserError``."""
    check_writable(Path(options.output))
    check_apart({"--output": options.output}, [options.checkpoint, options.data, options.classes, options.config])
    refuse_picture_in(options.data, options.output)
    feed = fed_in_training(options.config, options.override) if options.config else fed_as_told(options)
    for note in feed.source.notes:
        print(note)
    view = look(feed, options.images)
    picture = draw(view, feed.source, names_of_classes(feed.source, feed.class_file), options.columns)
    with atomic_path(options.output) as part:
        picture.save(part, "PNG")
    print(f"{options.output}: {len(view.batch)} of {feed.source.num_samples} images, {feed.preprocessing}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        run(parsed(argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
