"""Operations on one PIL image (RGB or grey), each a pure function of its arguments; nothing is random here.

They are the operations of timm 1.0.31 (``timm/data/auto_augment.py``) and, for ``adjust_hue`` and ``grayscale``, of
torchvision 0.28 (``torchvision/transforms/_functional_pil.py``). Each returns an image of the same size and mode; the
input is never changed. Operations that move pixels take a filter of PIL and the colour of pixels that come into view,
one value for each channel.
"""

from __future__ import annotations

import math

from PIL import Image, ImageEnhance, ImageFilter, ImageOps

Fill = tuple[int, ...]

LEVELS = Image.frombytes("L", (256, 1), bytes(range(256)))


def _affine(image: Image.Image, matrix: tuple[float, ...], resample: Image.Resampling, fill: Fill) -> Image.Image:
    """Set pixel (x, y) to that at (a x + b y + c, d x + e y + f), with ``matrix`` (a, b, c, d, e, f)."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=resample, fillcolor=fill)


def shear_x(image: Image.Image, factor: float, resample: Image.Resampling, fill: Fill) -> Image.Image:
    """Shear sideways: each row moves left by ``factor`` times its distance from the top."""
    return _affine(image, (1, factor, 0, 0, 1, 0), resample, fill)


def shear_y(image: Image.Image, factor: float, resample: Image.Resampling, fill: Fill) -> Image.Image:
    """Shear vertically: each column moves up by ``factor`` times its distance from the left."""
    return _affine(image, (1, 0, 0, factor, 1, 0), resample, fill)


def translate_x(image: Image.Image, pixels: float, resample: Image.Resampling, fill: Fill) -> Image.Image:
    """Move left by ``pixels``."""
    return _affine(image, (1, 0, pixels, 0, 1, 0), resample, fill)


def translate_y(image: Image.Image, pixels: float, resample: Image.Resampling, fill: Fill) -> Image.Image:
    """Move up by ``pixels``."""
    return _affine(image, (1, 0, 0, 0, 1, pixels), resample, fill)


def translate_x_relative(image: Image.Image, share: float, resample: Image.Resampling, fill: Fill) -> Image.Image:
    """Move left by a fraction of the width."""
    return translate_x(image, share * image.width, resample, fill)


def translate_y_relative(image: Image.Image, share: float, resample: Image.Resampling, fill: Fill) -> Image.Image:
    """Move up by a fraction of the height."""
    return translate_y(image, share * image.height, resample, fill)


def rotate(image: Image.Image, degrees: float, resample: Image.Resampling, fill: Fill) -> Image.Image:
    """Rotate anticlockwise about the centre."""
    return image.rotate(degrees, resample=resample, fillcolor=fill)


def auto_contrast(image: Image.Image) -> Image.Image:
    """Stretch each channel to the whole range of values."""
    return ImageOps.autocontrast(image)


def equalize(image: Image.Image) -> Image.Image:
    """Equalise the histogram of each channel."""
    return ImageOps.equalize(image)


def invert(image: Image.Image) -> Image.Image:
    """Replace each value by 255 minus it."""
    return ImageOps.invert(image)


def identity(image: Image.Image) -> Image.Image:
    """Return the image itself."""
    return image


def solarize(image: Image.Image, threshold: float) -> Image.Image:
    """Invert values from ``threshold`` on; 256 changes nothing."""
    return ImageOps.solarize(image, math.ceil(threshold))


def solarize_add(image: Image.Image, add: int, threshold: int = 128) -> Image.Image:
    """Add to values below ``threshold``, up to white."""
    table = [min(255, value + add) if value < threshold else value for value in range(256)]
    return image.point(table * len(image.getbands()))


def posterize(image: Image.Image, bits: int) -> Image.Image:
    """Keep the highest ``bits`` of each value: 8 changes nothing, 0 is black.

    Policies do request 0 bits, which ``ImageOps.posterize`` refuses from Pillow 13 on.
    """
    dropped = 0xFF >> bits
    return image.point([value & ~dropped for value in range(256)] * len(image.getbands()))


def brightness(image: Image.Image, factor: float) -> Image.Image:
    """Scale the brightness: 0 is black, 1 changes nothing."""
    return _blended_with(image, 0, factor)


def contrast(image: Image.Image, factor: float) -> Image.Image:
    """Scale the contrast: 0 is an even grey, 1 changes nothing."""
    counts = image.convert("L").histogram()
    mean = sum(level * count for level, count in enumerate(counts)) / sum(counts)
    return _blended_with(image, int(mean + 0.5), factor)


def _blended_with(image: Image.Image, level: int, factor: float) -> Image.Image:
    """Blend an even image of the grey ``level`` with ``image``, as ``ImageEnhance`` does.

    The result of a pixel depends only on its value: the 256 values are blended once, and looked up.
    """
    table = Image.blend(Image.new("L", LEVELS.size, level), LEVELS, factor).tobytes()
    return image.point(list(table) * len(image.getbands()))


def color(image: Image.Image, factor: float) -> Image.Image:
    """Scale the saturation: 0 is grey, 1 changes nothing."""
    return ImageEnhance.Color(image).enhance(factor)


def sharpness(image: Image.Image, factor: float) -> Image.Image:
    """Scale the sharpness: 0 is smoothed, 1 changes nothing, 2 is sharpened."""
    return ImageEnhance.Sharpness(image).enhance(factor)


def desaturate(image: Image.Image, amount: float) -> Image.Image:
    """Reduce the saturation: 0 changes nothing, 1 is grey."""
    return color(image, min(1.0, max(0.0, 1.0 - amount)))


def gaussian_blur(image: Image.Image, radius: float) -> Image.Image:
    """Blur; ``radius`` is the standard deviation in pixels."""
    return image.filter(ImageFilter.GaussianBlur(radius=radius))


def adjust_hue(image: Image.Image, turn: float) -> Image.Image:
    """Rotate the hue by ``turn`` in [-0.5, 0.5] of a full turn; a grey image has no hue to change."""
    if image.mode == "L":
        return image
    hue, saturation, value = image.convert("HSV").split()
    shift = int(turn * 255)
    hue = hue.point([(angle + shift) % 256 for angle in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert(image.mode)


def grayscale(image: Image.Image) -> Image.Image:
    """Set every channel to the luma (ITU-R 601)."""
    return image.convert("L").convert(image.mode)
