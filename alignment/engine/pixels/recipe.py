"""The steps from the bytes of an image to a model's input, as a record that can be run and varied.

The defaults are those of timm 1.0.31 (``timm/data/transforms_factory.py``: ``transforms_imagenet_eval``, crop mode
``center``, on PIL images; torchvision's ``Resize``, ``CenterCrop``, ``ToTensor`` and ``Normalize`` underneath). The
other values of each field are known deviations of pipelines: a hypothesis is a recipe with one field changed. Pillow
and numpy, no framework.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

DECODE, CROP, NORMALISE = "decode", "crop", "normalise"
STAGES = (DECODE, CROP, NORMALISE)

FILTERS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
GREY_WEIGHTS = {"average": (1 / 3, 1 / 3, 1 / 3), "BT.709": (0.2126, 0.7152, 0.0722)}
"""Grey weights other than Pillow's own (BT.601, in integers), which is called ``L``."""


@dataclass(frozen=True)
class Recipe:
    """The steps of an evaluation's preprocessing.

    ``size``: (height, width) of the result; ``channels``: 3 (RGB) or 1 (grey); ``crop_pct``, ``interpolation``,
    ``mean``, ``std``: as in timm. The other fields are deviations from timm:

    ``exif``: rotate the image by its EXIF orientation. ``backdrop``: the level behind transparency, which is otherwise
    dropped. ``draft``: decode a JPEG at the smallest scale that is large enough. ``order``: the order of the channels.
    ``grey``: the weights of a grey image (``L``, ``average``, ``BT.709``). ``resampling``: ``pillow``; ``floats`` (not
    rounded to 8 bits between its two passes); ``gap 2`` or ``gap 3`` (Pillow's ``reducing_gap``); ``plain``,
    ``corners``, ``aligned`` (bilinear between the four nearest pixels, however much the image shrinks; pixels counted
    by their centres, by their corners, or so that the corner pixels of both coincide). ``geometry``: ``ratio`` (the
    short side resized, the ratio kept), ``squash`` (to the size before the crop, whatever the ratio),
    ``squash, no crop`` (to the final size), ``crop first`` (the centre cut out of the original, then resized).
    ``shift``: (down, right) of the crop in pixels. ``levels``: the divisor of pixels.
    """

    size: tuple[int, int] = (224, 224)
    channels: int = 3
    crop_pct: float = 0.875
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    exif: bool = False
    backdrop: int | None = None
    draft: bool = False
    order: str = "RGB"
    grey: str = ""
    resampling: str = "pillow"
    geometry: str = "ratio"
    shift: tuple[int, int] = (0, 0)
    levels: float = 255.0

    def run(self, data: bytes, upto: str = NORMALISE) -> np.ndarray:
        """Return (H, W, C) uint8 as decoded, (h, w, C) uint8 as cropped, or (C, h, w) float32 as normalised.

        Raises ``OSError`` (``PIL.UnidentifiedImageError`` is one) for bytes that are not an image.
        """
        pixels = self.decode(data)
        if upto == DECODE:
            return pixels
        cropped = self.crop(pixels)
        return cropped if upto == CROP else self.normalise(cropped)

    def decode(self, data: bytes) -> np.ndarray:
        """Decode the bytes of a file to (H, W, C) uint8."""
        with Image.open(io.BytesIO(data)) as image:
            if self.draft:
                side = math.floor(max(self.size) / self.crop_pct)
                image.draft("RGB", (side, side))
            turned = ImageOps.exif_transpose(image) if self.exif else image
            colours = np.asarray(_on_backdrop(turned, self.backdrop).convert("RGB"))
        if self.order == "BGR":
            colours = colours[..., ::-1]
        if self.channels == 1:
            return _grey(colours, self.grey or "L")
        return _grey(colours, self.grey).repeat(3, axis=2) if self.grey else colours

    def crop(self, pixels: np.ndarray) -> np.ndarray:
        """Crop (H, W, C) uint8 to (h, w, C) uint8."""
        if self.geometry == "crop first":
            pixels = _window(pixels, *self._share_of(pixels), (0, 0))
        resized = self._resize(pixels, self._resized_size(*pixels.shape[:2]))
        return _window(resized, *self.size, self.shift)

    def normalise(self, cropped: np.ndarray) -> np.ndarray:
        """Normalise (h, w, C) uint8 to (C, h, w) float32 by three operations, each rounded, as torchvision's."""
        scaled = cropped.astype(np.float32) / np.float32(self.levels)
        return ((scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)).transpose(2, 0, 1)

    def _share_of(self, pixels: np.ndarray) -> tuple[int, int]:
        """Return (height, width) of the crop's content in pixels of the original."""
        short = min(side / wanted for side, wanted in zip(pixels.shape, self.size)) * self.crop_pct
        return max(1, round(self.size[0] * short)), max(1, round(self.size[1] * short))

    def _resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) before the crop."""
        if self.geometry in ("squash, no crop", "crop first"):
            return self.size
        scaled = math.floor(self.size[0] / self.crop_pct), math.floor(self.size[1] / self.crop_pct)
        if self.geometry == "squash":
            return scaled
        if scaled[0] != scaled[1]:
            ratio = min(height / scaled[0], width / scaled[1])
            return round(height / ratio), round(width / ratio)
        short = scaled[0]
        return (int(short * height / width), short) if width <= height else (short, int(short * width / height))

    def _resize(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        if self.resampling in ("plain", "corners", "aligned"):
            return _bilinear_of_four(pixels, size, self.resampling)
        kind, wide = Image.Resampling[self.interpolation.upper()], (size[1], size[0])
        channels = [Image.fromarray(np.ascontiguousarray(channel)) for channel in np.moveaxis(pixels, -1, 0)]
        if self.resampling == "floats":
            floats = [np.asarray(each.convert("F").resize(wide, kind)) for each in channels]
            return np.stack(floats, axis=-1).round().clip(0, 255).astype(np.uint8)
        gap = float(self.resampling[4:]) if self.resampling.startswith("gap ") else None
        resized = [np.asarray(each.resize(wide, kind, reducing_gap=gap)) for each in channels]
        return np.stack(resized, axis=-1)


def _on_backdrop(image: Image.Image, level: int | None) -> Image.Image:
    if level is None or not (image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info):
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (level, level, level, 255)), image)


def _grey(colours: np.ndarray, weights: str) -> np.ndarray:
    """Convert (H, W, 3) to (H, W, 1), uint8."""
    if weights == "L":
        return np.asarray(Image.fromarray(np.ascontiguousarray(colours)).convert("L"))[..., np.newaxis]
    mixed = colours.astype(np.float64) @ np.array(GREY_WEIGHTS[weights])
    return mixed.round().astype(np.uint8)[..., np.newaxis]


def _window(image: np.ndarray, height: int, width: int, shift: tuple[int, int]) -> np.ndarray:
    """Cut out the shifted centre of an image; black where it extends over the edge."""
    # torchvision pads first, the smaller half before, then rounds halves to even
    missing = [max(0, wanted - there) for wanted, there in zip((height, width), image.shape)]
    margins = [abs(step) for step in shift]
    before = [gap // 2 + margin for gap, margin in zip(missing, margins)]
    after = [(gap + 1) // 2 + margin for gap, margin in zip(missing, margins)]
    padded = np.pad(image, [*zip(before, after), (0, 0)])
    top, left = (
        round((there + gap - wanted) / 2) + margin + step
        for there, gap, wanted, margin, step in zip(image.shape, missing, (height, width), margins, shift)
    )
    return padded[top : top + height, left : left + width]


def _bilinear_of_four(pixels: np.ndarray, size: tuple[int, int], grid: str) -> np.ndarray:
    """Interpolate each pixel from the four around its place; the filter does not widen as the image shrinks."""
    rows, down = _places(pixels.shape[0], size[0], grid)
    columns, right = _places(pixels.shape[1], size[1], grid)
    down, right = down[:, np.newaxis, np.newaxis], right[np.newaxis, :, np.newaxis]
    below = np.minimum(rows + 1, pixels.shape[0] - 1)
    beside = np.minimum(columns + 1, pixels.shape[1] - 1)
    upper = pixels[rows[:, np.newaxis], columns] * (1 - right) + pixels[rows[:, np.newaxis], beside] * right
    lower = pixels[below[:, np.newaxis], columns] * (1 - right) + pixels[below[:, np.newaxis], beside] * right
    return np.floor(upper * (1 - down) + lower * down + 0.5).astype(np.uint8)


def _places(there: int, wanted: int, grid: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the place of each of ``wanted`` pixels among ``there``: the pixel before it, and the next one's share."""
    steps = np.arange(wanted, dtype=np.float64)
    if grid == "plain":
        places = (steps + 0.5) * there / wanted - 0.5
    elif grid == "corners":
        places = steps * there / wanted
    else:
        places = steps * (there - 1) / max(wanted - 1, 1)
    places = places.clip(0, there - 1)
    first = np.floor(places).astype(int)
    return first, places - first
