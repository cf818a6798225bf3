"""Create the loader for each task from a source and a model's preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from paddle_dla.data.batch import Batch
from paddle_dla.data.crop import EvalTransform
from paddle_dla.data.loader import Loader
from paddle_dla.data.normalise import Normalise
from paddle_dla.data.source import Source
from paddle_dla.options import Loading
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.ranks import Ranks


class NormaliseBatch:
    """A loader's batch transform: convert pixels to the floats of the model."""

    def __init__(self, preprocessing: Preprocessing):
        self._normalise = Normalise(preprocessing)

    def __call__(self, batch: Batch, rng: np.random.Generator, epoch: int, out: np.ndarray | None = None) -> Batch:
        """(B, H, W, C) uint8 -> (B, C, H, W) float32."""
        return replace(batch, images=self._normalise(batch.images, out))


def evaluation_loader(
    source: Source,
    preprocessing: Preprocessing,
    loading: Loading,
    ranks: Ranks,
    order: Sequence[int] | np.ndarray | None = None,
) -> Loader:
    """Create a loader of every sample of this rank once, in order, with timm's evaluation transform, bit for bit.

    With ``order``, it loads those samples on this rank instead.
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
