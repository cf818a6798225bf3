"""A grid of images with captions, drawn with Pillow only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

SMALLEST = 112  # smallest side in pixels, so that a caption has room
GAP = 6
LINE = 14  # height of a line of text, in pixels
BACKGROUND, INK, FAINT = "white", "black", "#606060"


def grid(images: np.ndarray, captions: Sequence[Sequence[str]], columns: int | None = None) -> Image.Image:
    """Draw B images in rows, each above the lines of its caption; lines after the first keep their end if cut.

    ``images``: (B, H, W, C) uint8, C being 1 or 3, B at least 1. Small images are enlarged by a whole factor without
    interpolation, so that every pixel shown exists. ``columns``: by default about as many as there are rows.
    """
    scale = max(1, math.ceil(SMALLEST / max(images.shape[1:3])))
    height, width = (side * scale for side in images.shape[1:3])
    columns = min(columns or math.ceil(math.sqrt(len(images))), len(images))
    step = (width + GAP, height + GAP + LINE * max(len(lines) for lines in captions))
    rows = math.ceil(len(images) / columns)
    picture = Image.new("RGB", (columns * step[0] + GAP, rows * step[1] + GAP), BACKGROUND)
    draw, font = ImageDraw.Draw(picture), _font()
    for place, (image, lines) in enumerate(zip(images, captions)):
        left, top = GAP + place % columns * step[0], GAP + place // columns * step[1]
        picture.paste(_as_image(image).resize((width, height), Image.Resampling.NEAREST), (left, top))
        for row, line in enumerate(lines):
            text = fitted(line, width, font, keep_end=row > 0)
            draw.text((left, top + height + 1 + row * LINE), text, fill=FAINT if row else INK, font=font)
    return picture


def _as_image(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB")


def _font() -> Font:
    try:
        return ImageFont.load_default(size=LINE - 3)
    except TypeError:
        return ImageFont.load_default()  # before Pillow 10.1 it has a fixed size


def fitted(text: str, width: int, font: Font, keep_end: bool = False) -> str:
    """Cut ``text`` to ``width`` pixels, with dots at the cut. Characters that an old font lacks become ``?``."""
    if not isinstance(font, ImageFont.FreeTypeFont):
        text = text.encode("latin-1", "replace").decode("latin-1")
    cut = text
    while text and font.getlength(cut) > width:
        text = text[1:] if keep_end else text[:-1]
        cut = "..." + text if keep_end else text + "..."
    return cut
