"""Transforms of a loader for training: a sample transform and a batch transform, as declared in ``batching.py``."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from paddle_dla.data.batch import Batch
from paddle_dla.data.crop import grey
from paddle_dla.data.erasing import RandomErasing
from paddle_dla.data.mixing import Mixup
from paddle_dla.data.normalise import Normalise
from paddle_dla.data.transforms import Compose, RandomResizedCrop


@dataclass(frozen=True)
class FromPixels:
    """Run transforms of PIL images on decoded pixels; for one of ``channels`` these are made grey first.

    A crop at the start works on the pixels themselves: only the cropped part becomes a PIL image.
    """

    transform: Compose
    channels: int = 3

    def __call__(self, image: np.ndarray, rng: random.Random) -> np.ndarray:
        """(H, W, 3) uint8 RGB -> (h, w, channels) uint8."""
        if self.channels == 1:
            image = grey(image)
        first, *others = self.transform.transforms
        if isinstance(first, RandomResizedCrop):
            image = first.of_pixels(image, rng)
        else:
            others = [first, *others]
        picture = Image.fromarray(image if self.channels == 3 else image[..., 0])
        result = np.asarray(Compose(tuple(others))(picture, rng))
        return result.reshape(*result.shape[:2], self.channels)


@dataclass(frozen=True)
class TrainingBatch:
    """Normalise a batch, erase, then mix: timm's order without its prefetcher.

    With the prefetcher, timm mixes first and rounds the result to 8 bits.
    """

    normalise: Normalise
    erase: RandomErasing | None = None
    mix: Mixup | None = None

    def __call__(self, batch: Batch, rng: np.random.Generator, epoch: int, out: np.ndarray | None = None) -> Batch:
        """(B, H, W, C) uint8 -> (B, C, H, W) float32, in ``out`` if given; see ``Mixup`` for labels."""
        batch = replace(batch, images=self.normalise(batch.images, out))
        for transform in (self.erase, self.mix):
            if transform is not None:
                batch = transform(batch, rng, epoch)
        return batch
