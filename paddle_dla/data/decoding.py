"""Decode an image file to RGB pixels, exactly those of ``PIL.Image.open(file).convert("RGB")``, as timm reads them.

This defines the details: EXIF orientation is not applied, an alpha channel is dropped, palettes and CMYK are converted
by Pillow. JPEG is decoded by simplejpeg if it is installed: the same underlying library, the same bytes, less overhead.
Files that simplejpeg does not handle (CMYK, damaged ones) are decoded by Pillow.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image

from paddle_dla.data.errors import ImageError

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

# Pillow's own limit for its warning of a decompression bomb: 1/4 GiB of RGB pixels
MAX_PIXELS = 1024**3 // 4 // 3
JPEG = b"\xff\xd8\xff"
PROGRAMS = ("EPS",)
"""Formats that Pillow passes to another program, whatever the name of the file."""
DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError),
    *(RuntimeError, AttributeError, AssertionError, struct.error, zlib.error),
)
"""Exceptions that Pillow's readers of many formats raise for damaged bytes."""


def decode(data: bytes) -> np.ndarray:
    """Decode to (H, W, 3) uint8 RGB. Raises ``ImageError`` if truncated, damaged, unknown or beyond ``MAX_PIXELS``."""
    return Decoder().decode(data)


class Decoder:
    """``decode`` for many images in a row: the pixels of JPEGs reuse one buffer, which saves a fifth of the time.

    The result of ``decode`` is valid until the next call.
    """

    def __init__(self):
        self._buffer = np.empty(0, np.uint8)

    def decode(self, data: bytes) -> np.ndarray:
        """Decode an image like the function of this name."""
        pixels = self._decode_jpeg(data) if data[:3] == JPEG else None
        return _decode_with_pillow(data) if pixels is None else pixels

    def _decode_jpeg(self, data: bytes) -> np.ndarray | None:
        """Return the pixels, or ``None`` if Pillow must decode the file."""
        if simplejpeg is None:
            return None
        try:
            rows, columns, colorspace, _ = simplejpeg.decode_jpeg_header(data)
            if colorspace not in ("YCbCr", "Gray"):
                return None
            height, width = int(rows), int(columns)
            _refuse_bomb(width, height)
            if self._buffer.size < height * width * 3:
                self._buffer = np.empty(height * width * 3, np.uint8)
            return simplejpeg.decode_jpeg(data, "RGB", buffer=self._buffer)
        except ValueError:
            return None


def _decode_with_pillow(data: bytes) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            # between one and two times its limit Pillow only warns; here it is an error
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                _refuse_bomb(*image.size)
                if image.format in PROGRAMS:
                    raise ImageError(f"refused: {image.format} is a program, which Ghostscript would run")
                return np.asarray(image.convert("RGB"))
    except Image.UnidentifiedImageError:
        raise ImageError(f"no image of a known format: {_start(data)}") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"refused: {error}") from error
    except DAMAGED as error:
        raise ImageError(f"damaged image: {error}") from error


def _refuse_bomb(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"refused: {width} x {height} pixels are more than {MAX_PIXELS:,}; a small file that claims to be so large "
            "is made to exhaust memory (shrink the image if it is honest)"
        )


def _start(data: bytes) -> str:
    return f"{len(data):,} bytes that begin with {data[:8]!r}" if data else "an empty file"
