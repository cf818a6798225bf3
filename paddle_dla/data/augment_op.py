"""One operation of an augmentation policy: name, probability, strength; and the meaning of a strength for each name.

Names, meanings and the order of random draws are those of timm 1.0.31 (``timm/data/auto_augment.py``: ``LEVEL_TO_ARG``,
``NAME_TO_OP``, ``AugmentOp``). Strengths ("magnitudes") run from 0 to 10. Some names exist in two versions: those
ending in ``Increasing`` change the image more for a higher magnitude; the others follow older sources, in which it is
the reverse.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from paddle_dla.data import image_ops
from paddle_dla.errors import WrongValue

FULL_MAGNITUDE = 10.0
RANDOM_FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
WARP_FILTERS = (Image.Resampling.NEAREST, *RANDOM_FILTERS)


def check_warp_filter(interpolation: Image.Resampling) -> None:
    """Raise ``ValueError`` for a filter with which PIL can resize but not warp."""
    if interpolation not in WARP_FILTERS:
        names = ", ".join(known.name.lower() for known in WARP_FILTERS)
        raise WrongValue(f"an image is sheared, moved and rotated with {names}, not with {interpolation.name.lower()}")


class ImageTransform(Protocol):
    """Interface of all augmentation: picklable, and drawing only from the generator that it is given."""

    def __call__(self, image: Image.Image, rng: random.Random) -> Image.Image: ...


@dataclass(frozen=True)
class OpSettings:
    """Settings shared by all operations of one policy.

    ``translate_const``: pixels that ``TranslateX`` and ``TranslateY`` move at full magnitude. ``translate_pct``: the
    fraction of the side for ``TranslateXRel`` and ``TranslateYRel``. ``fill``: the colour of pixels that come into
    view. ``interpolation``: one filter of PIL, or ``None`` to draw bilinear or bicubic each time. ``magnitude_std``:
    the magnitude is drawn from a normal distribution of that width around the policy's; infinity: uniformly from 0 up
    to it. ``magnitude_max``: the limit of the magnitude instead of 10.
    """

    translate_const: float = 250
    translate_pct: float = 0.45
    fill: tuple[int, ...] = (128, 128, 128)
    interpolation: Image.Resampling | None = None
    magnitude_std: float = 0.0
    magnitude_max: float | None = None

    def __post_init__(self):
        if self.interpolation is not None:
            check_warp_filter(self.interpolation)
        if not self.magnitude_std >= 0:
            raise WrongValue(f"magnitude_std is a standard deviation, 0 or above, not {self.magnitude_std}")


def _negated_half_the_time(value: float, rng: random.Random) -> float:
    return -value if rng.random() > 0.5 else value


# A level converts a fraction (magnitude / 10) to the operation's argument; only those that negate draw anything.


def _rotation(share: float, rng: random.Random, _: OpSettings) -> float:
    return _negated_half_the_time(share * 30.0, rng)


def _shear(share: float, rng: random.Random, _: OpSettings) -> float:
    return _negated_half_the_time(share * 0.3, rng)


def _translation(share: float, rng: random.Random, settings: OpSettings) -> float:
    return _negated_half_the_time(share * float(settings.translate_const), rng)


def _relative_translation(share: float, rng: random.Random, settings: OpSettings) -> float:
    return _negated_half_the_time(share * settings.translate_pct, rng)


def _enhancement(share: float, *_: object) -> float:
    return share * 1.8 + 0.1


def _increasing_enhancement(share: float, rng: random.Random, _: OpSettings) -> float:
    return max(0.1, 1.0 + _negated_half_the_time(share * 0.9, rng))


def _bits(share: float, *_: object) -> int:
    return int(share * 4)


def _increasing_bits(share: float, *_: object) -> int:
    return 4 - int(share * 4)


def _original_bits(share: float, *_: object) -> int:
    return int(share * 4) + 4


def _threshold(share: float, *_: object) -> int:
    return min(256, int(share * 256))


def _increasing_threshold(share: float, *_: object) -> int:
    return 256 - min(256, int(share * 256))


def _addend(share: float, *_: object) -> int:
    return min(128, int(share * 110))


def _between(share: float, low: float, high: float) -> float:
    return max(low, min(high, low + (high - low) * share))


def _desaturation(share: float, *_: object) -> float:
    return _between(share, 0.5, 1.0)


def _radius(share: float, *_: object) -> float:
    return _between(share, 0.1, 2.0)


def _random_radius(share: float, rng: random.Random, _: OpSettings) -> float:
    return rng.uniform(0.1, 2.0 * _between(share, 0.0, 1.0))


@dataclass(frozen=True)
class _Row:
    """``apply(image, [argument], [filter, fill])``: an argument if there is a level, the rest if it warps."""

    apply: Callable[..., Image.Image]
    level: Callable[[float, random.Random, OpSettings], float] | None = None
    warps: bool = False


OPERATIONS: dict[str, _Row] = {
    "AutoContrast": _Row(image_ops.auto_contrast),
    "Equalize": _Row(image_ops.equalize),
    "Invert": _Row(image_ops.invert),
    "Rotate": _Row(image_ops.rotate, _rotation, warps=True),
    "Posterize": _Row(image_ops.posterize, _bits),
    "PosterizeIncreasing": _Row(image_ops.posterize, _increasing_bits),
    "PosterizeOriginal": _Row(image_ops.posterize, _original_bits),
    "Solarize": _Row(image_ops.solarize, _threshold),
    "SolarizeIncreasing": _Row(image_ops.solarize, _increasing_threshold),
    "SolarizeAdd": _Row(image_ops.solarize_add, _addend),
    "Color": _Row(image_ops.color, _enhancement),
    "ColorIncreasing": _Row(image_ops.color, _increasing_enhancement),
    "Contrast": _Row(image_ops.contrast, _enhancement),
    "ContrastIncreasing": _Row(image_ops.contrast, _increasing_enhancement),
    "Brightness": _Row(image_ops.brightness, _enhancement),
    "BrightnessIncreasing": _Row(image_ops.brightness, _increasing_enhancement),
    "Sharpness": _Row(image_ops.sharpness, _enhancement),
    "SharpnessIncreasing": _Row(image_ops.sharpness, _increasing_enhancement),
    "ShearX": _Row(image_ops.shear_x, _shear, warps=True),
    "ShearY": _Row(image_ops.shear_y, _shear, warps=True),
    "TranslateX": _Row(image_ops.translate_x, _translation, warps=True),
    "TranslateY": _Row(image_ops.translate_y, _translation, warps=True),
    "TranslateXRel": _Row(image_ops.translate_x_relative, _relative_translation, warps=True),
    "TranslateYRel": _Row(image_ops.translate_y_relative, _relative_translation, warps=True),
    "Desaturate": _Row(image_ops.desaturate, _desaturation),
    "GaussianBlur": _Row(image_ops.gaussian_blur, _radius),
    "GaussianBlurRand": _Row(image_ops.gaussian_blur, _random_radius),
}


@dataclass(frozen=True)
class AugmentOp:
    """Apply the operation ``name`` with probability ``prob`` at ``magnitude``. Raises ``ValueError`` if unknown."""

    name: str
    prob: float = 0.5
    magnitude: float = FULL_MAGNITUDE
    settings: OpSettings = OpSettings()

    def __post_init__(self):
        if self.name not in OPERATIONS:
            raise WrongValue(f"unknown operation {self.name!r}; known are {', '.join(OPERATIONS)}")
        if not 0 <= self.prob <= 1:
            raise WrongValue(f"the probability of {self.name} is within [0, 1], not {self.prob}")

    def draw(self, rng: random.Random) -> tuple[Any, ...] | None:
        """Draw the operation's arguments besides the image; ``None`` if it is skipped this time."""
        if self.prob < 1.0 and rng.random() > self.prob:
            return None
        row = OPERATIONS[self.name]
        magnitude = self._draw_magnitude(rng)
        arguments: tuple[Any, ...] = ()
        if row.level is not None:
            arguments += (row.level(magnitude / FULL_MAGNITUDE, rng, self.settings),)
        if row.warps:
            arguments += (self._draw_filter(rng), self.settings.fill)
        return arguments

    def __call__(self, image: Image.Image, rng: random.Random) -> Image.Image:
        arguments = self.draw(rng)
        return image if arguments is None else OPERATIONS[self.name].apply(image, *arguments)

    def _draw_magnitude(self, rng: random.Random) -> float:
        magnitude, std = self.magnitude, self.settings.magnitude_std
        if math.isinf(std):
            magnitude = rng.uniform(0, magnitude)
        elif std > 0:
            magnitude = rng.gauss(magnitude, std)
        return max(0.0, min(magnitude, self.settings.magnitude_max or FULL_MAGNITUDE))

    def _draw_filter(self, rng: random.Random) -> Image.Resampling:
        return rng.choice(RANDOM_FILTERS) if self.settings.interpolation is None else self.settings.interpolation
