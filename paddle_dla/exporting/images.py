"""Images that the user points at, for calibration and for the check: prepared as evaluation prepares them."""

from __future__ import annotations

import numpy as np

from paddle_dla.data.image_files import holds_images, open_images
from paddle_dla.data.opening import open_source
from paddle_dla.data.pipeline import Loading, evaluation_loader
from paddle_dla.data.source import Source
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.ranks import Ranks

BATCH = 32


def read_images(data: str, preprocessing: Preprocessing, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """At most ``limit`` images, evenly spread over ``data``: (N, C, H, W) float32, normalised, and labels (N,).

    ``data`` is what evaluation takes (class folders, a list file, tar shards), or a folder of images, whose labels
    are -1. Raises ``DataError`` where there are none, or one cannot be read.
    """
    source = _open(data)
    # classes lie one after the other: the first samples alone would tell of few of them
    count = min(limit, source.num_samples)
    order = np.linspace(0, source.num_samples - 1, count).astype(np.int64)
    batches = list(evaluation_loader(source, preprocessing, Loading(BATCH), Ranks(), order))
    return np.concatenate([batch.images for batch in batches]), np.concatenate([batch.labels for batch in batches])


def _open(data: str) -> Source:
    return open_images([data]) if holds_images(data) else open_source(data)
