"""The value that the loader yields: plain arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Batch:
    """B samples.

    ``images``: (B, H, W, C) uint8 as cropped, or (B, C, H, W) float32 once normalised.
    ``labels``: (B,) int64 class indices, or (B, K) float32 probabilities once mixed; -1 if a source has no label.
    ``indices``: (B,) int64, the index of each sample in its source, the same for any batch size, worker or rank.
    """

    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.images)
