"""Mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899) as in timm 1.0.31 (``timm/data/mixup.py``).

Sample i of a batch of B is mixed with sample B - 1 - i. The arithmetic is timm's: random numbers per sample are
float32, random numbers per batch float64, images and targets float32. With the same random numbers the results are
equal. Deviation: timm refuses odd batches; here the middle sample, its own partner, is unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from paddle_dla.data.batch import Batch
from paddle_dla.data.errors import DataError
from paddle_dla.errors import WrongValue

MODES = ("batch", "pair", "elem")


class Box(NamedTuple):
    """A rectangle in pixels; ``bottom`` and ``right`` are exclusive."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def place(self) -> tuple[slice, slice]:
        """Return slices of rows and columns."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


def check_labels(labels: np.ndarray, num_classes: int) -> None:
    """Raise ``DataError`` unless ``labels`` are whole numbers (B,) within [0, num_classes)."""
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"mixing takes class indices (B,), not {labels.dtype} of shape {labels.shape}")
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if wrong.size:
        where = f"sample {wrong[0]} of the batch has label {labels[wrong[0]]}"
        raise DataError(f"{where}, which is not within [0, {num_classes}): mixing needs the class of each")


def soft_targets(
    labels: np.ndarray, num_classes: int, lam: float | np.ndarray = 1.0, smoothing: float = 0.0
) -> np.ndarray:
    """Return (B, K) float32 probabilities of ``labels`` (B,), smoothed, then mixed with those of the reversed batch.

    A label keeps ``1 - smoothing``, and ``smoothing`` is spread evenly over all K classes. ``lam`` is the weight of a
    sample's own label, a scalar or (B, 1). Raises ``DataError`` for a label that is not a class.
    """
    check_labels(labels, num_classes)
    off = smoothing / num_classes
    targets = np.full((len(labels), num_classes), off, np.float32)
    targets[np.arange(len(labels)), labels] = 1.0 - smoothing + off
    own, other = np.float32(lam), np.float32(1.0 - lam)
    return targets * own + targets[::-1] * other


@dataclass(frozen=True)
class Mixup:
    """Mix the samples of a batch, and their labels accordingly.

    ``mixup_alpha`` and ``cutmix_alpha``: the weight lam of a sample's own image is drawn from Beta(alpha, alpha); 0
    switches that kind off. If both are on, ``switch_prob`` is the probability of CutMix. ``cutmix_minmax``: the sides
    of the box, as fractions of the image's, are drawn from that range instead of derived from lam. ``prob``: the
    probability of mixing at all. ``mode``: all of this is drawn once for the ``batch``, for each ``pair`` of partners,
    or for each ``elem``ent. ``correct_lam``: lam becomes the fraction of the image that the box, cut off at the edge,
    actually leaves. ``off_epoch``: from this epoch on nothing is mixed, labels are still smoothed; 0: never.

    Raises ``ValueError`` for an invalid option.
    """

    mixup_alpha: float = 1.0
    cutmix_alpha: float = 0.0
    cutmix_minmax: tuple[float, float] | None = None
    prob: float = 1.0
    switch_prob: float = 0.5
    mode: str = "batch"
    correct_lam: bool = True
    label_smoothing: float = 0.1
    num_classes: int = 1000
    off_epoch: int = 0

    def __post_init__(self):
        if self.mode not in MODES:
            raise WrongValue(f"mixup's mode is one of {', '.join(MODES)}, not {self.mode!r}")
        for name in ("prob", "switch_prob", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise WrongValue(f"mixup's {name} is within [0, 1], not {getattr(self, name)}")
        if self.num_classes < 1:
            raise WrongValue(f"mixup's num_classes is 1 or above, not {self.num_classes}")
        if self.cutmix_minmax is not None:
            self._check_minmax(self.cutmix_minmax)
            object.__setattr__(self, "cutmix_alpha", 1.0)
        if min(self.mixup_alpha, self.cutmix_alpha) < 0 or not (self.mixup_alpha or self.cutmix_alpha):
            raise WrongValue(
                "mixup_alpha and cutmix_alpha are 0 or above, and one of them above 0 or cutmix_minmax given; not "
                f"{self.mixup_alpha} and {self.cutmix_alpha}"
            )

    def _check_minmax(self, given: Sequence[float]) -> None:
        minmax = tuple(given)
        if len(minmax) != 2 or not 0 <= minmax[0] < minmax[1] <= 1:
            raise WrongValue(f"cutmix_minmax is (lowest, highest) share of a side, within [0, 1]; not {minmax}")
        object.__setattr__(self, "cutmix_minmax", minmax)

    def __call__(self, batch: Batch, rng: np.random.Generator, epoch: int) -> Batch:
        """Mix the batch: its (B, C, H, W) float32 images in place, its (B,) labels to (B, K) float32 probabilities.

        Raises ``ValueError`` for images of another kind, ``DataError`` for labels that are not classes.
        """
        images = batch.images
        if images.ndim != 4 or images.dtype != np.float32:
            raise WrongValue(f"mixing takes float32 images (B, C, H, W), not {images.dtype} of shape {images.shape}")
        check_labels(batch.labels, self.num_classes)
        lam: float | np.ndarray = 1.0
        if not self.off_epoch or epoch < self.off_epoch:
            lam = self._mix_batch(images, rng) if self.mode == "batch" else self._mix_each(images, rng)
        return replace(batch, labels=soft_targets(batch.labels, self.num_classes, lam, self.label_smoothing))

    def _mix_batch(self, images: np.ndarray, rng: np.random.Generator) -> float:
        """Mix ``images`` in place and return the single lam."""
        lam, cut = self._draw_one(rng)
        if lam == 1.0:
            return lam
        if not cut:
            partners = images[::-1] * np.float32(1.0 - lam)
            images *= np.float32(lam)
            images += partners
            return lam
        height, width = images.shape[-2:]
        box, lam = self._draw_box(height, width, np.float64(lam), rng)
        region = images[(..., *box.place)]
        region[...] = region[::-1].copy()
        return float(lam)

    def _mix_each(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Mix ``images`` in place and return (B, 1) float32 lam, by pair or by element."""
        pairs = self.mode == "pair"
        lams, cut = self._draw_each(len(images) // 2 if pairs else len(images), rng)
        before, (height, width) = images.copy(), images.shape[-2:]
        for first, lam in enumerate(lams):
            if lam == 1.0:
                continue
            second = len(images) - 1 - first
            sides = ((first, second), (second, first)) if pairs else ((first, second),)
            if cut[first]:
                box, lams[first] = self._draw_box(height, width, lam, rng)
                for own, other in sides:
                    images[(own, slice(None), *box.place)] = before[(other, slice(None), *box.place)]
            else:
                for own, other in sides:
                    images[own] = before[own] * lam + before[other] * (np.float32(1) - lam)
        if pairs:
            middle = np.ones(len(images) % 2, np.float32)
            lams = np.concatenate((lams, middle, lams[::-1]))
        return lams[:, np.newaxis]

    def _draw_one(self, rng: np.random.Generator) -> tuple[float, bool]:
        """Return lam, and whether it is for CutMix."""
        if rng.random() >= self.prob:
            return 1.0, False
        cut = self.cutmix_alpha > 0
        if cut and self.mixup_alpha > 0:
            cut = rng.random() < self.switch_prob
        alpha = self.cutmix_alpha if cut else self.mixup_alpha
        return rng.beta(alpha, alpha), cut

    def _draw_each(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return (count,) float32 lam, and (count,) whether it is for CutMix."""
        cut = np.full(count, self.cutmix_alpha > 0)
        if self.mixup_alpha > 0 and self.cutmix_alpha > 0:
            cut = rng.random(count) < self.switch_prob
            # as in timm: both kinds are drawn for all samples, in this order
            lams = np.where(cut, *(rng.beta(alpha, alpha, count) for alpha in (self.cutmix_alpha, self.mixup_alpha)))
        else:
            alpha = self.cutmix_alpha or self.mixup_alpha
            lams = rng.beta(alpha, alpha, count)
        mixed = rng.random(count) < self.prob
        return np.where(mixed, lams, 1.0).astype(np.float32), cut

    def _draw_box(self, height: int, width: int, lam: np.floating, rng: np.random.Generator) -> tuple[Box, np.floating]:
        """Return the box to cut out of the partner, and the corresponding lam."""
        if self.cutmix_minmax is not None:
            box = draw_box_minmax(height, width, self.cutmix_minmax, rng)
        else:
            box = draw_box(height, width, lam, rng)
        if self.correct_lam or self.cutmix_minmax is not None:
            area = (box.bottom - box.top) * (box.right - box.left)
            lam = np.float64(1.0 - area / (height * width))
        return box, lam


def draw_box(height: int, width: int, lam: np.floating, rng: np.random.Generator) -> Box:
    """Draw a box with the image's proportions and ``1 - lam`` of its area, cut off at the edge of the image.

    Its centre is uniform over the image. Computed in lam's own precision.
    """
    number = type(lam)
    share = np.sqrt(number(1) - lam)
    rows, columns = int(number(height) * share), int(number(width) * share)
    y, x = int(rng.integers(0, height)), int(rng.integers(0, width))
    return Box(
        max(y - rows // 2, 0),
        min(y + (rows + 1) // 2, height),
        max(x - columns // 2, 0),
        min(x + (columns + 1) // 2, width),
    )


def draw_box_minmax(height: int, width: int, minmax: tuple[float, float], rng: np.random.Generator) -> Box:
    """Draw a box whose sides are each within ``minmax`` of the image's, anywhere inside it.

    Raises ``ValueError`` if no whole number of pixels is within that range.
    """
    ranges = [[int(side * share) for share in minmax] for side in (height, width)]
    if any(low >= high for low, high in ranges):
        raise WrongValue(f"cutmix_minmax {minmax} leaves no box in images of {height} x {width} pixels: widen it")
    rows, columns = (int(rng.integers(low, high)) for low, high in ranges)
    top = int(rng.integers(0, height - rows + 1))
    left = int(rng.integers(0, width - columns + 1))
    return Box(top, top + rows, left, left + columns)
