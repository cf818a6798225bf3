"""A Paddle layer as a program for Paddle Inference.

BN stays in the program. With oneDNN, Paddle Inference folds it on opening: of the 48 BN of dla46x_c its pass
``conv2d_bn_onednn_fuse_pass`` takes 48, and both programs then run alike. Without oneDNN a program that was folded
beforehand is even slower (dla60: 1.3 times), because the bias becomes an addition of its own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from paddle_dla.engines.base import require

if TYPE_CHECKING:
    from paddle import nn

INPUT = "images"


def write_inference(layer: nn.Layer, prefix: str | os.PathLike[str], input_size: tuple[int, int, int]) -> None:
    """Write ``PREFIX.json`` (Paddle 2.6: ``.pdmodel``) and ``PREFIX.pdiparams``: images (B, C, H, W), any B.

    ``layer`` is in evaluation mode; it is not changed.
    """
    require("paddle", "cpu")
    import paddle

    spec = paddle.static.InputSpec([-1, *input_size], "float32", INPUT)
    paddle.jit.save(layer, os.fspath(prefix), input_spec=[spec])
    # for paddle.jit.load of Paddle 2.6 alone
    Path(f"{os.fspath(prefix)}.pdiparams.info").unlink(missing_ok=True)
