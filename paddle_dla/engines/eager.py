"""The Paddle network itself, run layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from paddle_dla.cpu import usable_threads, use_vector_kernels
from paddle_dla.engines.base import check_images, require

if TYPE_CHECKING:
    from paddle import nn


class EagerEngine:
    """A Paddle layer in evaluation mode, without gradients.

    The layer is put into evaluation mode. ``threads`` are those of Paddle's CPU kernels, which belong to the process:
    opening another engine with another number changes it for both. Paddle itself starts with one.
    """

    name = "paddle"

    def __init__(self, layer: nn.Layer, threads: int | None = None):
        require("paddle", "cpu")
        import paddle

        use_vector_kernels()
        paddle.base.core.set_num_threads(threads or usable_threads())
        layer.eval()
        self.num_classes = int(getattr(layer, "num_classes", 0))
        self._layer = layer
        self._channels = int(getattr(layer, "in_chans", -1))

    def run(self, images: np.ndarray) -> np.ndarray:
        """(B, C, H, W) float32 -> logits (B, K) float32."""
        import paddle

        with paddle.no_grad():
            return self._layer(paddle.to_tensor(check_images(images, (self._channels, -1, -1)))).numpy()
