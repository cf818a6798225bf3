"""Optimizers, parameter groups and gradient clipping, as timm 1.0.31 and torch define them."""

from paddle_dla.optim.base import NamedOptimizer
from paddle_dla.optim.clip import adaptive_clip_grad_, clip_grad_, clip_grad_norm_, clip_grad_value_
from paddle_dla.optim.factory import OPTIMIZERS, create_optimizer
from paddle_dla.optim.groups import ParamGroup, layer_decay_groups, weight_decay_groups
from paddle_dla.optim.rules import SGD, AdamW, Lamb

__all__ = [
    "OPTIMIZERS",
    "SGD",
    "AdamW",
    "Lamb",
    "NamedOptimizer",
    "ParamGroup",
    "adaptive_clip_grad_",
    "clip_grad_",
    "clip_grad_norm_",
    "clip_grad_value_",
    "create_optimizer",
    "layer_decay_groups",
    "weight_decay_groups",
]
