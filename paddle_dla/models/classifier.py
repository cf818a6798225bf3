"""The classifier of a network: a new one for another number of classes, in the place of the old one. Paddle only."""

from __future__ import annotations

import math

import paddle
from paddle import nn

from paddle_dla.models.registry import ModelError


def new_classifier(old: nn.Layer, num_classes: int, name: str) -> nn.Layer:
    """Return a new classifier of the same kind as ``old``. An identity does not show which kind it replaced."""
    if type(old) is nn.Linear:
        new = nn.Linear(old.weight.shape[0], num_classes, bias_attr=None if old.bias is not None else False)
    elif type(old) is nn.Conv2D and list(old.weight.shape[2:]) == [1, 1]:
        new = nn.Conv2D(old.weight.shape[1], num_classes, 1, bias_attr=None if old.bias is not None else False)
    else:
        raise ModelError(f"the classifier {name} is a {type(old).__name__}; only Linear and Conv2D 1x1 are replaced")
    uniform_as_torch(new, old.weight.shape[0] if type(old) is nn.Linear else old.weight.shape[1])
    return new


@paddle.no_grad()
def uniform_as_torch(layer: nn.Layer, fan_in: int) -> None:
    """Initialise weight and bias of a linear layer or a convolution as torch does: U(-1, 1) / sqrt(fan_in)."""
    bound = 1 / math.sqrt(fan_in)
    for parameter in (layer.weight, layer.bias):
        if parameter is not None:
            paddle.assign(paddle.uniform(parameter.shape, min=-bound, max=bound), parameter)


def replace_layer(network: nn.Layer, name: str, new: nn.Layer) -> None:
    """Replace the layer ``name`` (dotted) by ``new``."""
    parent, _, key = name.rpartition(".")
    owner = dict(network.named_sublayers(include_self=True))[parent]
    owner.add_sublayer(key, new)
