"""Read images given by the user, for calibration and for the check; prepared as in evaluation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from paddle_dla.data.class_names import ClassNames, NamedBy
from paddle_dla.data.image_files import holds_images, open_images
from paddle_dla.data.labelling import open_labelled
from paddle_dla.data.pipeline import evaluation_loader
from paddle_dla.options import Loading
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.ranks import Ranks

BATCH = 32


def read_images(
    data: str,
    preprocessing: Preprocessing,
    limit: int,
    names: ClassNames | None,
    named_by: NamedBy,
    num_classes: int,
    tell: Callable[[str], None],
) -> tuple[np.ndarray, np.ndarray]:
    """Read at most ``limit`` images, evenly spread over ``data``: (N, C, H, W) float32, normalised, and labels (N,).

    ``data`` is what evaluation takes (class folders, a list file, tar shards), or a folder of images, whose labels are
    -1. ``names``, ``named_by`` and ``num_classes`` are the model's: see ``open_labelled``. ``tell`` receives messages
    for the user. Raises ``DataError`` if there are none, or one cannot be read.
    """
    labelled = not holds_images(data)
    source = open_labelled(data, None, names, named_by, num_classes) if labelled else open_images([data])
    for note in source.notes:
        tell(note)
    # samples are sorted by class: the first ones would cover only few classes
    count = min(limit, source.num_samples)
    order = np.linspace(0, source.num_samples - 1, count).astype(np.int64)
    batches = list(evaluation_loader(source, preprocessing, Loading(BATCH), Ranks(), order))
    return np.concatenate([batch.images for batch in batches]), np.concatenate([batch.labels for batch in batches])
