"""Image files of every unusual kind that data sets contain, made from one drawing; shared by tests."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

SIZE = (301, 263)  # width, height: odd on purpose


def drawing(width: int = SIZE[0], height: int = SIZE[1], seed: int = 0) -> Image.Image:
    """Smooth colours with noise on top, so that every filter and rounding shows."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], axis=-1)
    noisy = smooth + rng.normal(0, 30, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _rotated_by_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees to view
    return encode(drawing(), "JPEG", exif=exif)


def _sixteen_bit() -> bytes:
    levels = np.linspace(0, 65535, SIZE[0] * SIZE[1]).reshape(SIZE[::-1]).astype(np.uint16)
    return encode(Image.fromarray(levels), "PNG")


def _palette_with_transparency() -> bytes:
    return encode(drawing().quantize(31), "PNG", transparency=3)


def odd_images() -> dict[str, bytes]:
    """File contents by what is odd about them."""
    rgb = drawing()
    with_alpha = rgb.copy()
    with_alpha.putalpha(drawing(seed=1).convert("L"))
    return {
        "jpeg": encode(rgb, "JPEG"),
        "jpeg_444": encode(rgb, "JPEG", subsampling=0, quality=97),
        "jpeg_422": encode(rgb, "JPEG", subsampling=1),
        "jpeg_progressive": encode(rgb, "JPEG", progressive=True),
        "jpeg_grey": encode(rgb.convert("L"), "JPEG"),
        "jpeg_cmyk": encode(rgb.convert("CMYK"), "JPEG"),
        "jpeg_exif_rotated": _rotated_by_exif(),
        "jpeg_rgb_inside": encode(rgb, "JPEG", keep_rgb=True),
        "png": encode(rgb, "PNG"),
        "png_alpha": encode(with_alpha, "PNG"),
        "png_grey_alpha": encode(with_alpha.convert("LA"), "PNG"),
        "png_palette": encode(rgb.quantize(17), "PNG"),
        "png_palette_transparent": _palette_with_transparency(),
        "png_16_bit": _sixteen_bit(),
        "png_1_bit": encode(rgb.convert("1"), "PNG"),
        "gif": encode(rgb.quantize(64), "GIF"),
        "webp": encode(rgb, "WEBP"),
        "bmp": encode(rgb, "BMP"),
        "tiff": encode(rgb, "TIFF"),
        "one_pixel": encode(drawing(1, 1), "PNG"),
        "thumbnail": encode(drawing(23, 31), "JPEG"),
        "long": encode(drawing(700, 9), "JPEG"),
        "tall": encode(drawing(9, 700), "PNG"),
        "portrait": encode(drawing(290, 800), "JPEG"),
        "exact": encode(drawing(256, 256), "JPEG"),
        "exact_width": encode(drawing(256, 400), "JPEG"),
        "large": encode(drawing(2400, 1700), "JPEG"),
    }
