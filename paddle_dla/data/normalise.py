"""Convert pixels to a model's floats: scale to [0, 1], subtract the mean, divide by the deviation, channels first.

Equal to torchvision's ``ToTensor`` and ``Normalize``, rounding included: three float32 operations, each rounded. A
pixel has only 256 values, so the results are computed once for each value and looked up.
"""

from __future__ import annotations

import numpy as np

from paddle_dla.preprocessing import Preprocessing

try:
    from paddle_dla.data import _pixels
except ImportError:
    _pixels = None


class Normalise:
    """Convert batches of pixels to batches of normalised floats."""

    def __init__(self, preprocessing: Preprocessing):
        levels = np.arange(256, dtype=np.float32) / np.float32(255)
        mean, std = (np.array(values, np.float32)[:, np.newaxis] for values in (preprocessing.mean, preprocessing.std))
        self._table = (levels - mean) / std  # (C, 256)

    def __call__(self, images: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """(B, H, W, C) uint8 -> (B, C, H, W) float32, written to ``out`` if given."""
        batch, height, width, channels = images.shape
        if out is None:
            out = np.empty((batch, channels, height, width), np.float32)
        for image, floats in zip(images, out):
            if _pixels is not None and floats.flags.c_contiguous:
                _pixels.normalise(np.ascontiguousarray(image), channels, self._table, floats)
            else:
                self._look_up(image, floats)
        return out

    def _look_up(self, image: np.ndarray, out: np.ndarray) -> None:
        for channel, table in enumerate(self._table):
            # pixels are valid indices: "clip" only avoids numpy's buffered check
            np.take(table, image[..., channel], out=out[channel], mode="clip")

    def undo(self, images: np.ndarray) -> np.ndarray:
        """(B, C, H, W) float32 -> the nearest pixels, (B, H, W, C) uint8, for viewing a model's input."""
        # the table's ends are the normalised 0 and 1
        low, high = self._table[:, 0], self._table[:, -1]
        pixels = (np.moveaxis(images, 1, -1) - low) / (high - low) * 255
        return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
