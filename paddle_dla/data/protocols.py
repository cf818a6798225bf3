"""The two kinds of transform. Both can be pickled, and draw from the generator they are given alone."""

from __future__ import annotations

import random
from typing import Protocol

import numpy as np
from PIL import Image

from paddle_dla.data.batch import Batch


class SampleTransform(Protocol):
    """What becomes of one image before it joins a batch."""

    def __call__(self, image: Image.Image, rng: random.Random) -> Image.Image: ...


class BatchTransform(Protocol):
    """What becomes of a normalised batch in an epoch counted from 0; the batch that goes in is never changed."""

    def __call__(self, batch: Batch, rng: np.random.Generator, epoch: int) -> Batch: ...
