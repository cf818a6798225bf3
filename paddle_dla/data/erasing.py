"""Random erasing (arXiv:1708.04896) as in timm 1.0.31 (``timm/data/random_erasing.py``), on a normalised batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from paddle_dla.data.batch import Batch
from paddle_dla.errors import WrongValue

MODES = ("const", "rand", "pixel")
ATTEMPTS = 10


@dataclass(frozen=True)
class RandomErasing:
    """Overwrite rectangles of each image with probability ``probability``.

    ``mode``: ``const`` writes 0 (the mean colour, once normalised), ``rand`` one normal variate for each channel of a
    rectangle, ``pixel`` one for each value. An image gets ``min_count`` to ``max_count`` (``None``: as many)
    rectangles, which share an area of ``min_area`` to ``max_area`` of the image. height / width is drawn from
    ``min_aspect`` to ``max_aspect`` (``None``: 1 / ``min_aspect``), uniform in the logarithm. A rectangle that does not
    fit in ten attempts is left out. Raises ``ValueError`` for invalid values.
    """

    probability: float = 0.5
    min_area: float = 0.02
    max_area: float = 1 / 3
    min_aspect: float = 0.3
    max_aspect: float | None = None
    mode: str = "const"
    min_count: int = 1
    max_count: int | None = None

    def __post_init__(self):
        if self.mode not in MODES:
            raise WrongValue(f"random erasing's mode is one of {', '.join(MODES)}, not {self.mode!r}")
        if not 0 <= self.probability <= 1:
            raise WrongValue(f"random erasing's probability is within [0, 1], not {self.probability}")
        if self.max_count is None:
            object.__setattr__(self, "max_count", self.min_count)
        if self.max_aspect is None and self.min_aspect > 0:
            object.__setattr__(self, "max_aspect", 1 / self.min_aspect)
        for what in ("area", "aspect", "count"):
            low, high = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if not 0 < low <= high:
                raise WrongValue(f"random erasing's min_{what} and max_{what} are above 0 and rise, not {low}, {high}")

    def __call__(self, batch: Batch, rng: np.random.Generator, epoch: int) -> Batch:
        """Erase rectangles of the batch in place; ``images`` are (B, C, H, W) float32 and normalised."""
        if batch.images.ndim != 4 or batch.images.dtype != np.float32:
            found = f"{batch.images.dtype} of shape {batch.images.shape}"
            raise WrongValue(f"random erasing takes normalised float32 images (B, C, H, W), not {found}")
        for image in batch.images:
            self._erase(image, rng)
        return batch

    def _erase(self, image: np.ndarray, rng: np.random.Generator) -> None:
        """Overwrite rectangles of ``image`` (C, H, W) in place."""
        if rng.random() > self.probability:
            return
        assert self.max_count is not None  # __post_init__ has set it
        count = self.min_count
        if self.max_count > count:
            count = int(rng.integers(count, self.max_count, endpoint=True))
        _, height, width = image.shape
        for _ in range(count):
            box = self._draw_box(height, width, count, rng)
            if box is not None:
                patch = image[(slice(None), *box)]
                patch[...] = self._draw_colour(patch.shape, rng)

    def _draw_box(self, height: int, width: int, count: int, rng: np.random.Generator) -> tuple[slice, slice] | None:
        """Return rows and columns of one of ``count`` rectangles, or ``None`` if none of the attempts fits."""
        assert self.max_aspect is not None  # __post_init__ has set it
        aspects = math.log(self.min_aspect), math.log(self.max_aspect)
        for _ in range(ATTEMPTS):
            area = rng.uniform(self.min_area, self.max_area) * (height * width) / count
            aspect = math.exp(rng.uniform(*aspects))
            rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if rows < height and columns < width:
                top = int(rng.integers(0, height - rows, endpoint=True))
                left = int(rng.integers(0, width - columns, endpoint=True))
                return slice(top, top + rows), slice(left, left + columns)
        return None

    def _draw_colour(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Return the content of a patch of ``shape`` (C, h, w): an array that broadcasts to it."""
        if self.mode == "const":
            return np.zeros((), np.float32)
        return rng.standard_normal(shape if self.mode == "pixel" else (shape[0], 1, 1), dtype=np.float32)
