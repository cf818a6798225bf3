"""Write a Paddle layer as a program for Paddle Inference.

BN stays in the program. With oneDNN, Paddle Inference folds it on opening: of the 48 BN of dla46x_c its pass
``conv2d_bn_onednn_fuse_pass`` folds 48, and both programs then have the same speed. Without oneDNN a program that was
folded beforehand is even slower (dla60: 1.3 times), because the bias becomes a separate addition.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from paddle_dla.engines.base import require
from paddle_dla.engines.paddle_inference import WEIGHTS, program_path
from paddle_dla.exporting.errors import ExportError

if TYPE_CHECKING:
    from paddle import nn

INPUT = "images"


def write_inference(layer: nn.Layer, prefix: str | os.PathLike[str], input_size: tuple[int, int, int]) -> None:
    """Write ``PREFIX.json`` (Paddle 2.6: ``.pdmodel``) and ``PREFIX.pdiparams``: images (B, C, H, W), any B.

    ``layer`` is in evaluation mode; it is not changed. Raises ``ExportError`` if the files are incomplete.
    """
    require("paddle", "cpu")
    import paddle

    spec = paddle.static.InputSpec([-1, *input_size], "float32", INPUT)
    paddle.jit.save(layer, os.fspath(prefix), input_spec=[spec])
    # only for paddle.jit.load of Paddle 2.6
    Path(f"{os.fspath(prefix)}.pdiparams.info").unlink(missing_ok=True)
    _check_complete(layer, prefix)


def _check_complete(layer: nn.Layer, prefix: str | os.PathLike[str]) -> None:
    """Raise ``ExportError`` for a truncated file, which Paddle does not notice and which crashes paddle2onnx."""
    program, weights = program_path(prefix), Path(f"{os.fspath(prefix)}{WEIGHTS}")
    expected = sum(tensor.numpy().nbytes for tensor in layer.state_dict().values())
    try:
        if program.suffix == ".json":
            json.loads(program.read_bytes())
    except ValueError as error:
        raise ExportError(f"{program.name} was not written to its end; is the disk full?") from error
    if weights.stat().st_size < expected:
        raise ExportError(f"{weights.name} was not written to its end; is the disk full?")
