"""TrivialAugment (arXiv:2103.10158) as in torchvision 0.28: ``TrivialAugmentWide``; timm has none.

Deviation: torch computes the 31 strengths in float32, and their rounding depends on the processor. If the 16th of
TranslateX becomes 15.999999 (AVX2), its images move by 15 pixels, elsewhere by 16. Here strengths are exact.
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

FULL_STRENGTH = 30  # strengths are 0 (no change), 1, ... 30

# The argument is computed from the strength and the drawn sign.


def _shear_angle(strength: int, sign: int) -> float:
    """Convert by way of degrees and tangent or sine, as torchvision: the last bit of a shear can change a byte."""
    return math.radians(math.degrees(math.atan(sign * 0.99 * strength / FULL_STRENGTH)))


def _shear_x(strength: int, sign: int) -> float:
    return math.tan(_shear_angle(strength, sign))


def _shear_y(strength: int, sign: int) -> float:
    angle = _shear_angle(strength, sign)
    return math.sin(angle) / math.cos(angle)


def _translation(strength: int, sign: int) -> int:
    """Return whole pixels; torchvision moves right and down, ``image_ops`` left and up."""
    return -sign * (32 * strength // FULL_STRENGTH)


def _rotation(strength: int, sign: int) -> float:
    return sign * 135.0 * strength / FULL_STRENGTH


def _enhancement(strength: int, sign: int) -> float:
    return 1.0 + sign * 0.99 * strength / FULL_STRENGTH


def _bits(strength: int, _: int) -> int:
    return 8 - round(6 * strength / FULL_STRENGTH)


def _threshold(strength: int, _: int) -> float:
    return 255.0 - 255.0 * strength / FULL_STRENGTH


@dataclass(frozen=True)
class _Row:
    """``apply(image, [argument], [filter, fill])``; the strength is drawn if there is an argument."""

    apply: Callable[..., Image.Image]
    argument: Callable[[int, int], float] | None = None
    signed: bool = True
    warps: bool = False


# the order matters: operations are drawn by index
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
    """One of fourteen operations at one of 31 strengths and, if it has two directions, either: all drawn uniformly.

    ``interpolation`` and ``fill`` (black if ``None``) apply to operations that move pixels.
    """

    interpolation: Image.Resampling = Image.Resampling.NEAREST
    fill: tuple[int, ...] | None = None

    def __post_init__(self):
        check_warp_filter(self.interpolation)

    def draw(self, rng: random.Random) -> tuple[str, int, int]:
        """Draw the operation's name, strength and sign (1 or -1); if it has none, they are 0 and 1 without a draw."""
        name = list(OPERATIONS)[rng.randrange(len(OPERATIONS))]
        row = OPERATIONS[name]
        strength = 0 if row.argument is None else rng.randrange(FULL_STRENGTH + 1)
        return name, strength, -1 if row.signed and rng.randrange(2) else 1

    def apply(self, image: Image.Image, name: str, strength: int, sign: int) -> Image.Image:
        """Apply the operation ``name`` with what ``draw`` returned."""
        row = OPERATIONS[name]
        arguments: tuple[Any, ...] = () if row.argument is None else (row.argument(strength, sign),)
        if row.warps:
            black = (0,) * len(image.getbands())
            arguments += (self.interpolation, black if self.fill is None else self.fill)
        return row.apply(image, *arguments)

    def __call__(self, image: Image.Image, rng: random.Random) -> Image.Image:
        return self.apply(image, *self.draw(rng))
