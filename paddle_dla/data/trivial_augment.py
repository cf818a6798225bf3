"""TrivialAugment (arXiv:2103.10158) as torchvision 0.28 has it: ``TrivialAugmentWide``; timm has none.

A deviation: torch counts the 31 strengths in float32, and how it rounds depends on the processor. Where the 16th of
TranslateX comes out as 15.999999 (AVX2), its images move by 15 pixels, elsewhere by 16. Here strengths are exact.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from paddle_dla.data import image_ops
from paddle_dla.data.augment_op import check_warp_filter

LAST_BIN = 30  # strengths are numbered 0 (nothing) to 30 (all)

# An argument is made of the bin and the drawn sign.


def _shear_angle(bin_: int, sign: int) -> float:
    """By way of degrees and, below, of tangent or sine, as torchvision: the last bit of a shear can turn a byte."""
    return math.radians(math.degrees(math.atan(sign * 0.99 * bin_ / LAST_BIN)))


def _shear_x(bin_: int, sign: int) -> float:
    return math.tan(_shear_angle(bin_, sign))


def _shear_y(bin_: int, sign: int) -> float:
    angle = _shear_angle(bin_, sign)
    return math.sin(angle) / math.cos(angle)


def _translation(bin_: int, sign: int) -> int:
    """Whole pixels; torchvision moves to the right and down, ``image_ops`` to the left and up."""
    return -sign * (32 * bin_ // LAST_BIN)


def _rotation(bin_: int, sign: int) -> float:
    return sign * 135.0 * bin_ / LAST_BIN


def _enhancement(bin_: int, sign: int) -> float:
    return 1.0 + sign * 0.99 * bin_ / LAST_BIN


def _bits(bin_: int, _: int) -> int:
    return 8 - round(6 * bin_ / LAST_BIN)


def _threshold(bin_: int, _: int) -> float:
    return 255.0 - 255.0 * bin_ / LAST_BIN


@dataclass(frozen=True)
class _Row:
    """``apply(image, [argument], [filter, fill])``; the bin is drawn where there is an argument."""

    apply: Callable[..., Image.Image]
    argument: Callable[[int, int], float] | None = None
    signed: bool = True
    warps: bool = False


# the order counts: operations are drawn by their place
OPERATIONS: dict[str, _Row] = {
    "Identity": _Row(image_ops.identity, signed=False),
    "ShearX": _Row(image_ops.shear_x, _shear_x, warps=True),
    "ShearY": _Row(image_ops.shear_y, _shear_y, warps=True),
    "TranslateX": _Row(image_ops.translate_x, _translation, warps=True),
    "TranslateY": _Row(image_ops.translate_y, _translation, warps=True),
    "Rotate": _Row(image_ops.rotate, _rotation, warps=True),
    "Brightness": _Row(image_ops.brightness, _enhancement),
    "Color": _Row(image_ops.color, _enhancement),
    "Contrast": _Row(image_ops.contrast, _enhancement),
    "Sharpness": _Row(image_ops.sharpness, _enhancement),
    "Posterize": _Row(image_ops.posterize, _bits, signed=False),
    "Solarize": _Row(image_ops.solarize, _threshold, signed=False),
    "AutoContrast": _Row(image_ops.auto_contrast, signed=False),
    "Equalize": _Row(image_ops.equalize, signed=False),
}


@dataclass(frozen=True)
class TrivialAugment:
    """One operation of fourteen at one of 31 strengths and, where it has two directions, either: all drawn uniformly.

    ``interpolation`` and ``fill`` (black where ``None``) are for operations that move pixels.
    """

    interpolation: Image.Resampling = Image.Resampling.NEAREST
    fill: tuple[int, ...] | None = None

    def __post_init__(self):
        check_warp_filter(self.interpolation)

    def draw(self, rng: random.Random) -> tuple[str, int, int]:
        """The operation's name, bin and sign (1 or -1); what an operation has not is 0 and 1, undrawn."""
        name = list(OPERATIONS)[rng.randrange(len(OPERATIONS))]
        row = OPERATIONS[name]
        bin_ = 0 if row.argument is None else rng.randrange(LAST_BIN + 1)
        return name, bin_, -1 if row.signed and rng.randrange(2) else 1

    def apply(self, image: Image.Image, name: str, bin_: int, sign: int) -> Image.Image:
        row = OPERATIONS[name]
        arguments: tuple[Any, ...] = () if row.argument is None else (row.argument(bin_, sign),)
        if row.warps:
            black = (0,) * len(image.getbands())
            arguments += (self.interpolation, black if self.fill is None else self.fill)
        return row.apply(image, *arguments)

    def __call__(self, image: Image.Image, rng: random.Random) -> Image.Image:
        return self.apply(image, *self.draw(rng))
