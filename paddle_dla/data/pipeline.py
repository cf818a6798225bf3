"""The loader that each task needs, put together from a source and a model's preprocessing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from paddle_dla.cpu import usable_threads
from paddle_dla.data.batch import Batch
from paddle_dla.data.crop import EvalTransform
from paddle_dla.data.loader import Loader
from paddle_dla.data.normalise import Normalise
from paddle_dla.data.source import Source
from paddle_dla.options import natural, positive, seconds, workers
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.ranks import Ranks


class NormaliseBatch:
    """A loader's batch transform: pixels to the floats of the model."""

    def __init__(self, preprocessing: Preprocessing):
        self._normalise = Normalise(preprocessing)

    def __call__(self, batch: Batch, rng: np.random.Generator, epoch: int, out: np.ndarray | None = None) -> Batch:
        """(B, H, W, C) uint8 -> (B, C, H, W) float32."""
        return replace(batch, images=self._normalise(batch.images, out))


@dataclass(frozen=True)
class Loading:
    """How a command loads: see ``Loader``."""

    batch_size: int = 64
    workers: int = 0
    max_skipped: int = 0
    timeout: float = 120.0


def add_loading(to: argparse.ArgumentParser, data_required: bool = True) -> None:
    """Which data, and how it is read; see ``chosen_loading``."""
    group = to.add_argument_group("data")
    group.add_argument(
        "--data", required=data_required, metavar="DIR|LIST|TAR", help="class folders, a list file, or shards"
    )
    group.add_argument("--data-root", metavar="DIR", help="where the files of a list lie, if not beside it")
    group.add_argument("--batch-size", type=positive, default=64, metavar="N", help="images a step and rank (64)")
    group.add_argument(
        "--workers", type=workers, default=usable_threads(), metavar="N", help="processes that read images"
    )
    group.add_argument("--max-skipped", type=natural, default=0, metavar="N", help="damaged images to leave out (0)")
    group.add_argument("--log-interval", type=positive, default=10, metavar="N", help="steps between two lines (10)")
    group.add_argument("--timeout", type=seconds, default=120.0, metavar="S", help="seconds for one image (120)")


def chosen_loading(args: argparse.Namespace) -> Loading:
    """What ``add_loading`` put on the command line."""
    return Loading(args.batch_size, args.workers, args.max_skipped, args.timeout)


def evaluation_loader(
    source: Source,
    preprocessing: Preprocessing,
    loading: Loading,
    ranks: Ranks,
    order: Sequence[int] | np.ndarray | None = None,
) -> Loader:
    """Every sample of this rank once, in order, as the model was evaluated: timm's transform, to the bit.

    With ``order`` those samples instead, on this rank.
    """
    return Loader(
        source,
        EvalTransform(preprocessing),
        loading.batch_size,
        output_shape=preprocessing.input_size,
        batch_transform=NormaliseBatch(preprocessing),
        order=order,
        rank=ranks.rank,
        ranks=ranks.count,
        workers=loading.workers,
        max_skipped=loading.max_skipped,
        timeout=loading.timeout,
    )
