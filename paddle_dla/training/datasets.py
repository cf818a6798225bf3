"""The data of a run: sources for training and validation, and the loader of each epoch. Never imports Paddle."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from paddle_dla.config import Config
from paddle_dla.data.errors import DataError
from paddle_dla.data.labelling import check_folders
from paddle_dla.data.loader import Loader
from paddle_dla.data.mixing import Mixup
from paddle_dla.data.normalise import Normalise
from paddle_dla.data.opening import open_source
from paddle_dla.data.pipeline import evaluation_loader
from paddle_dla.data.sampling import epoch_order, repeat_augmented, split_evenly
from paddle_dla.data.shards import ShardSource
from paddle_dla.data.source import FileSource, Source
from paddle_dla.data.training import FromPixels, TrainingBatch
from paddle_dla.data.transforms import TrainingTransform, training_transform
from paddle_dla.errors import WrongValue
from paddle_dla.metrics import certain, refuse_one_class
from paddle_dla.options import Loading
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.ranks import Ranks
from paddle_dla.training.errors import TrainingError


@dataclass(frozen=True)
class Datasets:
    """Sources of a run. ``val`` is ``None`` without validation, ``classes`` if the class names are unknown."""

    train: FileSource | ShardSource
    val: FileSource | ShardSource | None
    num_classes: int
    classes: tuple[str, ...] | None

    @property
    def validation(self) -> FileSource | ShardSource:
        """Return ``val``. Raises ``TrainingError`` if there is none."""
        if self.val is None:
            raise TrainingError("there is nothing to validate on: set data.val")
        return self.val


def open_datasets(config: Config) -> Datasets:
    """Open the sources named in ``config.data``, and determine the number of classes.

    Raises ``TrainingError`` if no training data is named, if the number of classes is unknown, and if training and
    validation data number their classes differently; ``DataError`` for data that cannot be used.
    """
    data, classes = config.data, config.model.num_classes
    if data.train is None:
        raise TrainingError("there is nothing to train on: set data.train to class folders, a list file or tar shards")
    train = open_source(data.train, data.train_root, data.class_map, classes)
    classes = classes or count_classes(train)
    val = None
    if data.val is not None:
        val = open_source(data.val, data.val_root, data.class_map, classes)
        _refuse_other_classes(train, val, data.train, data.val)
    if train.classes and len(train.classes) > classes:
        raise DataError(f"{data.train} has {len(train.classes)} classes, model.num_classes is {classes}")
    return Datasets(train, val, classes, tuple(train.classes) if train.classes else None)


def certain_scores(config: Config, datasets: Datasets) -> list[str]:
    """Return one line for each validation score that is trivially 100 %.

    Raises ``TrainingError`` if such a score selects the best checkpoint, and if there is only one class.
    """
    try:
        refuse_one_class(datasets.num_classes)
    except WrongValue as error:
        raise TrainingError(f"{error}; bring images of other classes, too") from error
    notes = certain(datasets.num_classes, config.evaluate.topk if datasets.val else ())
    if notes and config.train.eval_metric == "top5" and datasets.num_classes <= 5:
        raise TrainingError(f"train.eval_metric is top5, but {notes[-1]}; set it to top1 or loss")
    return notes


def count_classes(source: Source) -> int:
    """Return the number of classes of a source. Raises ``TrainingError`` if it is unknown."""
    if source.classes:
        return len(source.classes)
    if isinstance(source, FileSource) and source.num_samples:
        return int(source.labels.max()) + 1
    raise TrainingError("how many classes are there? set model.num_classes or data.class_map; the data do not tell")


def _refuse_other_classes(train: Source, val: Source, train_path: str, val_path: str) -> None:
    """Raise if two trees of class folders differ: one missing class would shift the label of every later class."""
    if not train.classes:
        return
    if val.classes is None and isinstance(val, FileSource):
        check_folders(val, val_path, train.classes, train_path)
    if not val.classes or list(train.classes) == list(val.classes):
        return
    only = sorted(set(train.classes) ^ set(val.classes))[:5]
    raise DataError(
        f"{train_path} and {val_path} have different classes, so equal labels mean different "
        f"things: {', '.join(only)}; mend the folders, or number both by one file with data.class_map"
    )


def train_preprocessing(config: Config) -> Preprocessing:
    """Return the model's preprocessing with the crop size of training."""
    return replace(config.preprocessing(), input_size=config.train_input_size())


def sample_transform(config: Config) -> TrainingTransform:
    """Return the transform of each image. Raises ``ValueError`` for an unknown policy, before anything is started."""
    train = config.transform.train
    return training_transform(
        train_preprocessing(config),
        scale=train.scale,
        ratio=train.ratio,
        hflip=train.hflip,
        vflip=train.vflip,
        color_jitter=train.color_jitter or None,
        auto_augment=train.auto_augment,
        interpolation=train.interpolation,
        re_prob=train.re_prob,
        re_mode=train.re_mode,
        re_count=train.re_count,
    )


def mixup(config: Config, num_classes: int) -> Mixup | None:
    """Return the batch mixing with label smoothing, or ``None`` if both are off."""
    mixing = config.mixing
    if not mixing.enabled:
        return None
    return Mixup(
        mixing.mixup_alpha,
        mixing.cutmix_alpha,
        mixing.cutmix_minmax,
        mixing.prob,
        mixing.switch_prob,
        mixing.mode,
        label_smoothing=config.loss.smoothing,
        num_classes=num_classes,
        off_epoch=mixing.off_epoch,
    )


def train_loader(config: Config, datasets: Datasets, ranks: Ranks, epoch: int = 0, start_batch: int = 0) -> Loader:
    """Return the batches of ``epoch`` on this rank from ``start_batch`` on; all ranks get equally many of equal size.

    Raises ``TrainingError`` if there is less data than one batch, and for a batch that BatchNorm cannot learn from.
    """
    least = least_batch(config, ranks)
    if config.data.batch_size < least:
        raise TrainingError(
            f"data.batch_size is {config.data.batch_size}: BatchNorm learns from differences between images, so a "
            f"batch has {least} or more; to save memory raise train.grad_accum_steps in place of it"
        )
    transform, mix = sample_transform(config), mixup(config, datasets.num_classes)
    preprocessing = train_preprocessing(config)
    order, turns = _order(config, datasets.train, ranks, epoch)
    if len(order) < config.data.batch_size:
        raise TrainingError(
            f"{config.data.train} gives a process {len(order)} images an epoch, fewer than data.batch_size "
            f"({config.data.batch_size}): make the batch smaller, or bring more images"
        )
    return Loader(
        datasets.train,
        FromPixels(transform.sample, preprocessing.input_size[0]),
        config.data.batch_size,
        output_shape=preprocessing.input_size,
        batch_transform=TrainingBatch(Normalise(preprocessing), transform.erase, mix),
        soft_labels=datasets.num_classes if mix else 0,
        order=order,
        turns=turns,
        epoch=epoch,
        rank=ranks.rank,
        ranks=ranks.count,
        workers=config.data.workers,
        drop_last=True,
        start_batch=start_batch,
        max_skipped=config.data.max_skipped,
        timeout=config.data.timeout,
        seed=config.train.seed,
    )


def least_batch(config: Config, ranks: Ranks) -> int:
    """Return the smallest number of images per process in a batch.

    With one image, BatchNorm has only the variance within that image. That is 0 for a map of one position, and Paddle
    continues with it. One image is enough if no statistics are learnt, or if all processes share them.
    """
    shared = config.train.sync_bn and ranks.count > 1
    return 1 if shared or config.train.linear_probe else 2


def _order(
    config: Config, source: FileSource | ShardSource, ranks: Ranks, epoch: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return this rank's samples of an epoch, and the number of the repeat for each of them."""
    seed, repeats = config.train.seed, config.transform.train.aug_repeats
    if isinstance(source, ShardSource):
        order = source.shuffled(seed, epoch)
    else:
        order = epoch_order(source.num_samples, seed, epoch)
    if repeats:
        return repeat_augmented(order, ranks.rank, ranks.count, repeats)
    return split_evenly(order, ranks.rank, ranks.count), None


def val_loader(config: Config, datasets: Datasets, ranks: Ranks) -> Loader:
    """Return a loader of this rank's validation samples, each once."""
    batch_size = config.evaluate.batch_size or config.data.batch_size
    loading = Loading(batch_size, config.data.workers, config.data.max_skipped, config.data.timeout)
    return evaluation_loader(datasets.validation, config.preprocessing(), loading, ranks)
