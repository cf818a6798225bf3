"""Generate a small tree of class folders with images of the kinds that pipelines disagree on."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

ORIENTATION, TURNED = 0x0112, 6  # the EXIF tag, and "turn by 90 degrees to view"


def drawing(width: int = 301, height: int = 263, seed: int = 0) -> Image.Image:
    """Return smooth colours with noise on top, so that every filter and rounding has an effect."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], axis=-1)
    return Image.fromarray((smooth + rng.normal(0, 30, smooth.shape)).clip(0, 255).astype(np.uint8))


def drawn_files() -> dict[str, bytes]:
    """Return image files by name: JPEG and PNG in every mode that occurs in data sets, of odd sizes."""
    image = drawing()
    alpha = image.copy()
    alpha.putalpha(drawing(seed=1).convert("L"))
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED
    levels = np.linspace(0, 65535, image.width * image.height).reshape(image.height, image.width)
    return {
        "colours.jpg": _encoded(image, "JPEG"),
        "full_chroma.jpg": _encoded(image, "JPEG", subsampling=0, quality=97),
        "progressive.jpg": _encoded(image, "JPEG", progressive=True),
        "grey.jpg": _encoded(image.convert("L"), "JPEG"),
        "cmyk.jpg": _encoded(image.convert("CMYK"), "JPEG"),
        "turned_by_exif.jpg": _encoded(image, "JPEG", exif=exif),
        "portrait.jpg": _encoded(drawing(290, 800), "JPEG"),
        "thumbnail.jpg": _encoded(drawing(23, 31), "JPEG"),
        "large.jpg": _encoded(drawing(1600, 1100), "JPEG"),
        "colours.png": _encoded(image, "PNG"),
        "alpha.png": _encoded(alpha, "PNG"),
        "palette.png": _encoded(image.quantize(31), "PNG", transparency=3),
        "sixteen_bits.png": _encoded(Image.fromarray(levels.astype(np.uint16)), "PNG"),
        "one_bit.png": _encoded(image.convert("1"), "PNG"),
    }


CLASSES = ("9", "10", "b")
"""Folders whose alphabetical and numerical orders differ."""


def write_drawn(root: Path) -> None:
    """Write the files as a tree of class folders below ``root``."""
    for place, (name, data) in enumerate(drawn_files().items()):
        folder = root / CLASSES[place % len(CLASSES)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
