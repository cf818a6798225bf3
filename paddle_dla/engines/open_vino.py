"""OpenVINO on the CPU."""

from __future__ import annotations

import os

import numpy as np

from paddle_dla.cpu import usable_threads
from paddle_dla.engines.base import EngineError, check_images, require


class OpenVinoEngine:
    """The network in an ``.onnx`` file with one input, (B, C, H, W), and one output, (B, K)."""

    name = "openvino"

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None):
        """Raises ``EngineError`` if the file cannot be run."""
        require("openvino", "openvino")
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": threads or usable_threads(),
            "INFERENCE_PRECISION_HINT": "f32",  # the default is bfloat16 if the processor supports it
            "PERFORMANCE_HINT": "LATENCY",  # one batch at a time, with all threads
        }
        try:
            self._network = openvino.Core().compile_model(os.fspath(path), "CPU", settings)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot open {path}: {error}") from error
        shape = self._network.input(0).partial_shape
        self._expected = tuple(-1 if side.is_dynamic else side.get_length() for side in list(shape)[1:])
        self.num_classes = int(self._network.output(0).partial_shape[1].get_length())

    def run(self, images: np.ndarray) -> np.ndarray:
        """(B, C, H, W) float32 -> logits (B, K) float32."""
        # copied: the next run overwrites the returned array
        return np.array(self._network(check_images(images, self._expected))[0])
