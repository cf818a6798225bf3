"""Paddle as a ``Side``: the functions of this subpackage that torch's has, too. Paddle only."""

from __future__ import annotations

import paddle
import paddle.nn.functional as FUNCTIONS

from alignment.engine.sides.paddle.arrays import array_of, is_tensor, is_trained, to_numpy
from alignment.engine.sides.paddle.borrow import borrow, in_type, own_arrays, own_tensors, settings_kept
from alignment.engine.sides.paddle.capture import at_loss, capture, in_random_directions, loss_layer
from alignment.engine.sides.paddle.probe import prober
from alignment.engine.sides.paddle.settings import describe
from alignment.engine.sides.paddle.steps import LABEL, outputs

__all__ = [
    "FUNCTIONS",
    "LABEL",
    "Model",
    "array_of",
    "at_loss",
    "borrow",
    "capture",
    "describe",
    "in_random_directions",
    "in_type",
    "is_tensor",
    "is_trained",
    "loss_layer",
    "outputs",
    "own_arrays",
    "own_tensors",
    "prober",
    "settings_kept",
    "to_numpy",
]

Model = paddle.nn.Layer
