"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os
from typing import cast

import numpy as np

from paddle_dla.cpu import usable_threads
from paddle_dla.engines.base import EngineError, check_images, require


class OnnxRuntimeEngine:
    """The network in an ``.onnx`` file with one input, (B, C, H, W), and one output, (B, K)."""

    name = "onnxruntime"

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None):
        """Raises ``EngineError`` if the file cannot be run."""
        require("onnxruntime", "onnx")
        import onnxruntime
        import onnxruntime.capi.onnxruntime_pybind11_state as faults

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable_threads()
        options.log_severity_level = 3  # errors only; its warnings concern its own choices
        known = (faults.Fail, faults.InvalidGraph, faults.InvalidProtobuf, faults.NoSuchFile, faults.RuntimeException)
        try:
            self._session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        except (*known, faults.NotImplemented, faults.InvalidArgument) as error:
            raise EngineError(f"ONNX Runtime cannot open {path}: {error}") from error
        (source,), (result,) = self._session.get_inputs(), self._session.get_outputs()
        self._input = source.name
        self._expected = tuple(side if isinstance(side, int) else -1 for side in source.shape[1:])
        self.num_classes = int(result.shape[-1])

    def run(self, images: np.ndarray) -> np.ndarray:
        """(B, C, H, W) float32 -> logits (B, K) float32."""
        logits = self._session.run(None, {self._input: check_images(images, self._expected)})[0]
        return cast("np.ndarray", logits)  # other kinds of outputs are sparse tensors, lists or maps
