"""torch as a ``Side``: the functions of this subpackage that Paddle's has, too. torch only."""

from __future__ import annotations

import torch
import torch.nn.functional as FUNCTIONS

from alignment.engine.sides.torch.arrays import array_of, is_tensor, is_trained, to_numpy
from alignment.engine.sides.torch.borrow import borrow, in_type, own_arrays, own_tensors, settings_kept
from alignment.engine.sides.torch.capture import at_loss, capture, in_random_directions, loss_layer
from alignment.engine.sides.torch.probe import prober
from alignment.engine.sides.torch.settings import describe
from alignment.engine.sides.torch.steps import LABEL, outputs

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

Model = torch.nn.Module
