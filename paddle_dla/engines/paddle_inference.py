"""Paddle Inference with oneDNN: the exported program, optimised when it is opened.

Paddle 3 writes a program as ``.json``, Paddle 2.6 as ``.pdmodel``; Paddle 3 reads both.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paddle_dla.cpu import usable_threads
from paddle_dla.engines.base import EngineError, check_images, require, stdout_to_stderr

if TYPE_CHECKING:
    from paddle import inference

PROGRAMS = (".json", ".pdmodel")
WEIGHTS = ".pdiparams"


class PaddleInferenceEngine:
    """The program ``FOLDER/model.json`` (or ``.pdmodel``) with ``FOLDER/model.pdiparams``.

    Not thread-safe: a predictor has one input and one output buffer.
    """

    name = "inference"

    def __init__(self, prefix: str | os.PathLike[str], input_size: tuple[int, int, int], threads: int | None = None):
        """``prefix`` is the path of the files without suffix, ``input_size`` the (C, H, W) of the export.

        A predictor shows neither before its first run. Raises ``EngineError`` if the files cannot be run.
        """
        require("paddle", "cpu")
        from paddle import inference

        program = program_path(prefix)
        config = inference.Config(str(program), f"{os.fspath(prefix)}{WEIGHTS}")
        config.disable_gpu()
        config.disable_glog_info()
        config.enable_mkldnn()
        config.set_cpu_math_library_num_threads(threads or usable_threads())
        try:
            with stdout_to_stderr():
                self._open(inference.create_predictor(config), input_size)
        except (RuntimeError, ValueError, OSError) as error:
            raise EngineError(f"Paddle Inference cannot open {program}: {_last_line(error)}") from error

    def _open(self, predictor: inference.Predictor, input_size: tuple[int, int, int]) -> None:
        self._predictor = predictor
        self._input = predictor.get_input_handle(predictor.get_input_names()[0])
        self._output = predictor.get_output_handle(predictor.get_output_names()[0])
        self._expected = input_size
        self.num_classes = self.run(np.zeros((1, *input_size), np.float32)).shape[-1]

    def run(self, images: np.ndarray) -> np.ndarray:
        """(B, C, H, W) float32 -> logits (B, K) float32."""
        images = check_images(images, self._expected)
        self._input.reshape(images.shape)
        self._input.copy_from_cpu(images)
        self._predictor.run()
        return self._output.copy_to_cpu()


def program_path(prefix: str | os.PathLike[str]) -> Path:
    """Return the path of the program at ``prefix``, of either version. Raises ``EngineError`` if there is none."""
    for suffix in PROGRAMS:
        path = Path(f"{os.fspath(prefix)}{suffix}")
        if path.is_file() and Path(f"{os.fspath(prefix)}{WEIGHTS}").is_file():
            return path
    raise EngineError(f"{os.fspath(prefix)}{{{','.join(PROGRAMS)}}} with {WEIGHTS}: no such files")


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
