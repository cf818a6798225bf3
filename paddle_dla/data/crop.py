"""Resize and crop: from pixels of any size to the model's input size, byte for byte as timm does it.

Sources: timm 1.0.31 ``transforms_imagenet_eval`` (crop mode ``center``) and, underneath, torchvision's ``resize`` and
``center_crop`` on PIL images. ``resize_crop`` returns what the installed Pillow returns, computed by the compiled
``_pixels`` if it was built.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL import __version__ as pillow_version

from paddle_dla.data.decoding import MAX_PIXELS
from paddle_dla.data.errors import DataError, ImageError
from paddle_dla.preprocessing import Preprocessing

try:
    from paddle_dla.data import _pixels
except ImportError:
    _pixels = None

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}
COMPILED = ("box", "bilinear", "bicubic")  # by their number in _pixels.c
LONGEST = 16  # largest ratio of the sides of an image that is resized to more pixels than ``MAX_PIXELS``
PILLOW = int(pillow_version.split(".")[0])

Box = tuple[int, int, int, int]


def resize_crop(
    image: np.ndarray, size: tuple[int, int], crop: Box, interpolation: str, region: Box | None = None
) -> np.ndarray:
    """Return ``crop`` of ``image`` resized to ``size``: (h, w, 3) uint8.

    ``image``: (H, W, 3) uint8. ``size``: (height, width) of the whole resized image. ``crop``: (top, left, h, w) in the
    resized image, within it. ``region``: (top, left, h, w) of ``image`` to which all of this applies, by default the
    whole image; pixels outside of it have no influence. Equals, bit for bit, ``PIL.Image.fromarray(region of
    image).resize(size, interpolation).crop(crop)``.
    """
    height, width = image.shape[:2]
    region = region or (0, 0, height, width)
    # some versions of Pillow before 13 treat images differently that are more than a hundred times as high as wide
    if _pixels is None or interpolation not in COMPILED or region[2] > 100 * region[3]:
        return _with_pillow(image, size, crop, interpolation, region)
    out = np.empty((*crop[2:], 3), np.uint8)
    image, kind, order = np.ascontiguousarray(image), COMPILED.index(interpolation), _vertical_first(region, size)
    _pixels.resize_crop(image, (height, width), region, size, crop, kind, order, out)
    return out


def _vertical_first(region: Box, size: tuple[int, int]) -> bool:
    """Return whether Pillow filters columns before rows: from version 13 on, if the height shrinks much more."""
    fewer_rows, fewer_columns = region[2] - size[0], region[3] - size[1]
    return PILLOW >= 13 and fewer_rows > 0 and fewer_rows > 2 * fewer_columns


def _with_pillow(image: np.ndarray, size: tuple[int, int], crop: Box, interpolation: str, region: Box) -> np.ndarray:
    (y, x, h, w), (top, left, crop_h, crop_w) = region, crop
    whole = Image.fromarray(image[y : y + h, x : x + w]).resize((size[1], size[0]), FILTERS[interpolation])
    return np.asarray(whole.crop((left, top, left + crop_w, top + crop_h)))


@dataclass(frozen=True)
class EvalTransform:
    """timm's evaluation transform up to, not including, the scaling to [0, 1]; deterministic.

    Raises ``DataError`` for other than 1 or 3 channels. A call raises ``ImageError`` for an image so narrow that
    resizing would exceed the pixel limit.
    """

    preprocessing: Preprocessing

    def __post_init__(self):
        if self.preprocessing.input_size[0] not in (1, 3):
            raise DataError(f"images have 3 channels, or 1 in grey; the model takes {self.preprocessing.input_size[0]}")

    def __call__(self, image: np.ndarray, rng: random.Random | None = None) -> np.ndarray:
        """(H, W, 3) uint8 of any size -> (h, w, C) uint8, with (C, h, w) the ``input_size``."""
        channels, *target = self.preprocessing.input_size
        if channels == 1:
            image = grey(image)
        size = self._resized(*image.shape[:2])
        if size[0] * size[1] > max(MAX_PIXELS, LONGEST * min(size) ** 2):
            raise ImageError(
                f"refused: {image.shape[1]} x {image.shape[0]} pixels, resized to {size[1]} x {size[0]} before the "
                "crop; crop the image if it is honest"
            )
        height, width = (min(wanted, there) for wanted, there in zip(target, size))
        # torchvision rounds halves to even, as Python does
        top, left = round((size[0] - height) / 2), round((size[1] - width) / 2)
        cropped = resize_crop(image, size, (top, left, height, width), self.preprocessing.interpolation)
        return _padded(cropped, target)[..., :channels]

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) after the resize."""
        _, *target = self.preprocessing.input_size
        scaled = [math.floor(side / self.preprocessing.crop_pct) for side in target]
        if scaled[0] != scaled[1]:
            # timm's ResizeKeepRatio
            ratio = min(height / scaled[0], width / scaled[1])
            return round(height / ratio), round(width / ratio)
        short = scaled[0]
        if width <= height:
            return int(short * height / width), short
        return short, int(short * width / height)


def _padded(image: np.ndarray, target: list[int]) -> np.ndarray:
    """Pad an image that is smaller than the crop (``crop_pct`` above 1) with black."""
    missing = [wanted - there for wanted, there in zip(target, image.shape)]
    if not any(missing):
        return image
    return np.pad(image, [*((gap // 2, (gap + 1) // 2) for gap in missing), (0, 0)])


def grey(image: np.ndarray) -> np.ndarray:
    """Convert (H, W, 3) RGB to its luminance, Pillow's mode ``L``, in all three channels."""
    return np.asarray(Image.fromarray(image).convert("L").convert("RGB"))
