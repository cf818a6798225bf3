"""From an image to a training sample: crop, flips, colours, augmentation, in timm's order.

Definitions are those of timm 1.0.31 (``timm/data/transforms.py``, ``transforms_factory.py``:
``transforms_imagenet_train``) and of torchvision 0.28 for flips, colour jitter and greyscale
(``torchvision/transforms/transforms.py``, on PIL images). A transform takes a PIL image (RGB or grey) and a
``random.Random`` and returns a PIL image; equal generators give equal images. Normalisation and erasing come later, on
the batch. Not included: timm's other crops (``rkrc``, ``rkrr``) and Gaussian blur except that of 3-Augment.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from paddle_dla.data import image_ops
from paddle_dla.data.augment_op import RANDOM_FILTERS, ImageTransform, OpSettings
from paddle_dla.data.auto_augment import auto_augment as build_auto_augment
from paddle_dla.data.crop import resize_crop
from paddle_dla.data.erasing import RandomErasing
from paddle_dla.errors import WrongValue
from paddle_dla.preprocessing import INTERPOLATIONS, Preprocessing

Range = tuple[float, float]

CROP_ATTEMPTS = 10


@dataclass(frozen=True)
class RandomResizedCrop:
    """Crop a random part and resize it to ``size`` (height, width) in pixels.

    ``scale``: range of the part's area as a fraction of the image's. ``ratio``: range of its width / height, uniform in
    the logarithm. After ten parts that do not fit, the largest centred one within ``ratio`` is used. ``interpolation``:
    the name of a PIL filter, or ``random`` for bilinear or bicubic. Deviation from timm: a part is at least one pixel
    wide and high; timm may crop nothing and return black for an image of up to four pixels.
    """

    size: tuple[int, int]
    scale: Range = (0.08, 1.0)
    ratio: Range = (3 / 4, 4 / 3)
    interpolation: str = "bilinear"

    def __post_init__(self):
        for name in ("size", "scale", "ratio"):
            value = tuple(getattr(self, name))
            object.__setattr__(self, name, value)
            if len(value) != 2 or not min(value) > 0:
                raise WrongValue(f"{name} is two numbers above 0, not {value}")
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if not low <= high:
                raise WrongValue(f"{name} is (lowest, highest), not {(low, high)}")
        if self.interpolation not in (*INTERPOLATIONS, "random"):
            raise WrongValue(f"interpolation is one of {', '.join(INTERPOLATIONS)}, random; not {self.interpolation!r}")

    def draw(self, width: int, height: int, rng: random.Random) -> tuple[int, int, int, int]:
        """Draw the part as (left, top, width, height) in pixels of an image of that size."""
        for _ in range(CROP_ATTEMPTS):
            area = rng.uniform(*self.scale) * (width * height)
            ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            part_width = max(1, round(math.sqrt(area * ratio)))
            part_height = max(1, round(math.sqrt(area / ratio)))
            if part_width <= width and part_height <= height:
                top = rng.randint(0, height - part_height)
                left = rng.randint(0, width - part_width)
                return left, top, part_width, part_height
        return self._largest_centred(width, height)

    def _largest_centred(self, width: int, height: int) -> tuple[int, int, int, int]:
        part_width, part_height = width, height
        if width / height < self.ratio[0]:
            part_height = max(1, round(width / self.ratio[0]))
        elif width / height > self.ratio[1]:
            part_width = max(1, round(height * self.ratio[1]))
        return (width - part_width) // 2, (height - part_height) // 2, part_width, part_height

    def __call__(self, image: Image.Image, rng: random.Random) -> Image.Image:
        left, top, width, height = self.draw(*image.size, rng)
        # cropped first: resizing with a box would let the filter see pixels outside of it
        part = image.crop((left, top, left + width, top + height))
        return part.resize((self.size[1], self.size[0]), self._draw_filter(rng))

    def of_pixels(self, pixels: np.ndarray, rng: random.Random) -> np.ndarray:
        """Do the same for (H, W, 3) uint8 pixels; only the cropped part is converted to a PIL image."""
        rows, columns, _ = pixels.shape
        left, top, width, height = self.draw(columns, rows, rng)
        interpolation = self._draw_filter(rng).name.lower()
        return resize_crop(pixels, self.size, (0, 0, *self.size), interpolation, (top, left, height, width))

    def _draw_filter(self, rng: random.Random) -> Image.Resampling:
        if self.interpolation == "random":
            return rng.choice(RANDOM_FILTERS)
        return Image.Resampling[self.interpolation.upper()]


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise WrongValue(f"{name} is a probability within [0, 1], not {value}")


@dataclass(frozen=True)
class RandomHorizontalFlip:
    """Flip left and right with probability ``p``."""

    p: float = 0.5

    def __post_init__(self):
        _check_probability("hflip", self.p)

    def __call__(self, image: Image.Image, rng: random.Random) -> Image.Image:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < self.p else image


@dataclass(frozen=True)
class RandomVerticalFlip:
    """Flip top and bottom with probability ``p``."""

    p: float = 0.5

    def __post_init__(self):
        _check_probability("vflip", self.p)

    def __call__(self, image: Image.Image, rng: random.Random) -> Image.Image:
        return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if rng.random() < self.p else image


@dataclass(frozen=True)
class RandomGrayscale:
    """Convert to greyscale with probability ``p``."""

    p: float = 0.1

    def __post_init__(self):
        _check_probability("grayscale_prob", self.p)

    def __call__(self, image: Image.Image, rng: random.Random) -> Image.Image:
        return image_ops.grayscale(image) if rng.random() < self.p else image


_JITTERS = (image_ops.brightness, image_ops.contrast, image_ops.color, image_ops.adjust_hue)


def _factors(name: str, amount: float | Range | None, neutral: float, bounds: Range) -> Range | None:
    """Return the range of factors for an amount; ``None`` if it changes nothing."""
    if amount is None:
        return None
    if isinstance(amount, Sequence):
        if len(amount) != 2:
            raise WrongValue(f"{name} is an amount or a range (lowest, highest), not {amount}")
        low, high = amount
    else:
        low, high = neutral - amount, neutral + amount
        low = max(low, 0.0) if neutral else low
    if not bounds[0] <= low <= high <= bounds[1]:
        raise WrongValue(f"{name} {amount} gives factors from {low} to {high}, which are not within {bounds}")
    return None if low == high == neutral else (float(low), float(high))


@dataclass(frozen=True)
class ColorJitter:
    """Change brightness, contrast, saturation and hue, in a random order, by factors drawn uniformly.

    Each of the four is given as an amount a (factors from max(0, 1 - a) to 1 + a; hue: from -a to a of a full turn, at
    most 0.5) or as a range (lowest, highest) of the factor, and stored as a range; 0 or ``None`` changes nothing. The
    transform is applied with probability ``p``; ``None``: always, and no random number is drawn for it.
    """

    brightness: float | Range | None = 0
    contrast: float | Range | None = 0
    saturation: float | Range | None = 0
    hue: float | Range | None = 0
    p: float | None = None

    def __post_init__(self):
        for name in ("brightness", "contrast", "saturation"):
            object.__setattr__(self, name, _factors(name, getattr(self, name), 1.0, (0.0, math.inf)))
        object.__setattr__(self, "hue", _factors("hue", self.hue, 0.0, (-0.5, 0.5)))
        if self.p is not None:
            _check_probability("color_jitter_prob", self.p)

    def draw(self, rng: random.Random) -> list[tuple[int, float]]:
        """Draw the changes, in order: indices into (brightness, contrast, saturation, hue), and factors."""
        if self.p is not None and self.p < rng.random():
            return []
        order = rng.sample(range(4), 4)
        ranges = (self.brightness, self.contrast, self.saturation, self.hue)
        # __post_init__ leaves only ranges and None
        factors = {place: rng.uniform(*limits) for place, limits in enumerate(ranges) if isinstance(limits, tuple)}
        return [(place, factors[place]) for place in order if place in factors]

    def __call__(self, image: Image.Image, rng: random.Random) -> Image.Image:
        for place, factor in self.draw(rng):
            image = _JITTERS[place](image, factor)
        return image


@dataclass(frozen=True)
class Compose:
    """Apply transforms one after the other."""

    transforms: tuple[ImageTransform, ...]

    def __call__(self, image: Image.Image, rng: random.Random) -> Image.Image:
        for transform in self.transforms:
            image = transform(image, rng)
        return image


@dataclass(frozen=True)
class TrainingTransform:
    """``sample`` transforms each image; ``erase``, if anything is to be erased, the normalised batch.

    ``training.py`` turns them into the transforms of a loader.
    """

    sample: Compose
    erase: RandomErasing | None = None


def training_transform(
    preprocessing: Preprocessing,
    *,
    scale: Range | None = None,
    ratio: Range | None = None,
    hflip: float = 0.5,
    vflip: float = 0.0,
    color_jitter: float | Sequence[float] | None = 0.4,
    color_jitter_prob: float | None = None,
    force_color_jitter: bool = False,
    grayscale_prob: float = 0.0,
    auto_augment: str | None = None,
    interpolation: str = "random",
    re_prob: float = 0.0,
    re_mode: str = "const",
    re_count: int = 1,
) -> TrainingTransform:
    """Create timm's training transforms, with timm's names and defaults (``transforms_imagenet_train``).

    ``preprocessing`` gives the size of the result and the mean, which fills pixels that augmentation moves into view.
    Its interpolation is for evaluation; ``interpolation`` is used here. ``color_jitter``: an amount for brightness,
    contrast and saturation, or three or four values with hue. ``auto_augment`` (see ``auto_augment``) replaces colour
    jitter, except for 3-Augment, of which it is a part, and if ``force_color_jitter`` is set. ``re_prob``, ``re_mode``,
    ``re_count``: see ``RandomErasing``. Raises ``ValueError`` for an invalid option.
    """
    size = preprocessing.input_size[1:]
    steps: list[ImageTransform] = [
        RandomResizedCrop(size, scale or (0.08, 1.0), ratio or (3 / 4, 4 / 3), interpolation)
    ]
    if hflip:
        steps.append(RandomHorizontalFlip(hflip))
    if vflip:
        steps.append(RandomVerticalFlip(vflip))
    if auto_augment:
        steps.append(_build_auto_augment(auto_augment, preprocessing, interpolation))
    if color_jitter is not None and (not auto_augment or force_color_jitter or "3a" in auto_augment):
        steps.append(ColorJitter(*_jitter_amounts(color_jitter), p=color_jitter_prob))
    if grayscale_prob:
        steps.append(RandomGrayscale(grayscale_prob))
    erase = RandomErasing(re_prob, mode=re_mode, max_count=re_count) if re_prob else None
    return TrainingTransform(Compose(tuple(steps)), erase)


def _build_auto_augment(config: str, preprocessing: Preprocessing, interpolation: str) -> ImageTransform:
    settings = OpSettings(
        translate_const=int(min(preprocessing.input_size[1:]) * 0.45),
        # timm limits AugMix's translations here, and only here
        translate_pct=0.3 if config.startswith("augmix") else 0.45,
        fill=tuple(min(255, round(255 * mean)) for mean in preprocessing.mean),
        interpolation=None if interpolation == "random" else Image.Resampling[interpolation.upper()],
    )
    return build_auto_augment(config, settings)


def _jitter_amounts(amounts: float | Sequence[float]) -> tuple[float, ...]:
    if not isinstance(amounts, Sequence):
        return (float(amounts),) * 3
    if len(amounts) not in (3, 4):
        raise WrongValue(f"color_jitter is one amount, three, or four with hue; not {amounts}")
    return tuple(amounts)
