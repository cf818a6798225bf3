"""Read the private attributes of Paddle's optimizers; no other file does. Paddle only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle

from alignment.engine.records.run import (
    FIRST,
    LARGEST,
    MEAN,
    MOMENTUM,
    POWER_1,
    POWER_2,
    SECOND,
    STATE,
    SUM,
    Key,
)
from alignment.engine.sides.paddle.arrays import array_of

ROLES = {
    "velocity": MOMENTUM,
    "momentum": MOMENTUM,
    "moment1": FIRST,
    "moment2": SECOND,
    "moment2_max": LARGEST,
    "mean_square": SECOND,
    "mean_grad": MEAN,
    "moment": SUM,
    "_avg_squared_grad": SECOND,
    "_avg_squared_update": "acc_delta",
}
"""The names of optimizer state in Paddle. Other accumulators keep their own name as their role."""

OWN_ROLES = {("Adamax", "moment"): FIRST, ("Adamax", "inf_norm"): "exp_inf"}
"""Names with another meaning in one kind of optimizer."""

WITH_RATE = {("RMSProp", "momentum")}
"""State that holds steps including the learning rate, where torch's holds the factor of the rate."""

POWERS = {"beta1_pow_acc": (POWER_1, "beta1"), "beta2_pow_acc": (POWER_2, "beta2")}

# Hyperparameters, by their names in torch, that a kernel takes as float32 for any dtype of the weights. Seen with
# 3.3.1: with them rounded in torch too, Momentum and AdamW agree with it to 1e-16, Adagrad, Adadelta and RAdam to
# 1e-12, NAdam to 1e-15; without, to 1e-7 to 1e-12. Rates, and the betas and epsilon of Adam and AdamW, are float64 like
# the weights.
FLOAT32_SETTINGS: dict[str, tuple[str, ...]] = {
    "Momentum": ("momentum", "weight_decay"),
    "AdamW": ("weight_decay",),
    "Lamb": ("betas", "eps", "weight_decay"),
    "RMSProp": ("alpha", "momentum", "eps"),
    "Adagrad": ("eps",),
    "Adadelta": ("rho", "eps"),
    "NAdam": ("betas", "momentum_decay", "eps"),
    "RAdam": ("betas",),
    "Adamax": ("betas", "eps"),
}

INEXACT = {"Lamb": 2.0**-17}
"""The share of its own steps by which an optimizer is off, from float32 constants that no setting in torch has.

Lamb decays its moments by betas in float32 and corrects their bias by the exact ones: for a beta2 of 0.999 that is
6.7e-6 of the first step (measured, 3.3.1), rounded up to a power of two.
"""


def float32_settings(optimizer: paddle.optimizer.Optimizer) -> tuple[str, ...]:
    """Return the hyperparameters, by their names in torch, that this optimizer keeps in float32."""
    kinds = type(optimizer).__mro__
    return next((FLOAT32_SETTINGS[kind.__name__] for kind in kinds if kind.__name__ in FLOAT32_SETTINGS), ())


def inexact(optimizer: paddle.optimizer.Optimizer) -> float:
    """Return the share of its own steps by which this optimizer may be off."""
    return INEXACT.get(type(optimizer).__name__, 0.0)


def schedule(optimizer: paddle.optimizer.Optimizer) -> paddle.optimizer.lr.LRScheduler | None:
    """Return the ``LRScheduler`` that is the optimizer's learning rate, if it is one."""
    rate = getattr(optimizer, "_learning_rate", None)
    return rate if isinstance(rate, paddle.optimizer.lr.LRScheduler) else None


def _groups(optimizer: paddle.optimizer.Optimizer) -> list[Any]:
    """Return the optimizer's groups of parameters, which are dicts, or else its parameters."""
    return optimizer._param_groups or []


def held(optimizer: paddle.optimizer.Optimizer) -> Iterator[tuple[int, paddle.Tensor]]:
    """Yield the number of the group and the parameter, for all that the optimizer holds."""
    for number, group in enumerate(_groups(optimizer)):
        if isinstance(group, dict):
            yield from ((number, parameter) for parameter in group["params"])
        else:
            yield 0, group


def rates(optimizer: paddle.optimizer.Optimizer, names: Mapping[str, str]) -> dict[str, float]:
    """Return the learning rates in use: the optimizer's rate, times the factor of the parameter's group.

    ``names``: those of parameters, by their unique ones.
    """
    rate, found = float(optimizer.get_lr()), {}
    for _, parameter in held(optimizer):
        if parameter.name in names:
            factor = (getattr(parameter, "optimize_attr", None) or {}).get("learning_rate", 1.0)
            found[names[parameter.name]] = rate * float(factor)
    return found


def state(
    optimizer: paddle.optimizer.Optimizer, names: Mapping[str, str], rates: Mapping[str, float]
) -> dict[Key, np.ndarray]:
    """Return the optimizer's state of each parameter, by its name in ``names``, in the roles and units of torch's."""
    found: dict[Key, np.ndarray] = {}
    own = type(optimizer).__name__
    for kind, accumulators in optimizer._accumulators.items():
        for unique, value in accumulators.items():
            if unique not in names:
                continue
            name = names[unique]
            if kind in POWERS:
                role, setting = POWERS[kind]
                # after step t it is beta to the t + 1
                found[STATE, name, role] = value.numpy().reshape(()) / (_beta(optimizer, unique, setting) or 1.0)
                continue
            role = _role(own, kind)
            found[STATE, name, role] = array_of(value) / (((own, kind) in WITH_RATE and rates.get(name)) or 1.0)
    return found


def _role(own: str, kind: str) -> str:
    """Return torch's name of the state that the optimizer ``own`` calls ``kind``."""
    return OWN_ROLES.get((own, kind), ROLES.get(kind, kind))


def _beta(optimizer: paddle.optimizer.Optimizer, unique: str, setting: str) -> float:
    for number, parameter in held(optimizer):
        group = _groups(optimizer)[number]
        if parameter.name == unique and isinstance(group, dict) and setting in group:
            return float(group[setting])
    return float(getattr(optimizer, f"_{setting}"))


Clipped = Callable[[list[tuple[paddle.Tensor, paddle.Tensor | None]]], None]
"""A function that receives parameters with their clipped gradients."""


def watch_clips(optimizer: paddle.optimizer.Optimizer, see: Clipped) -> list[Any]:
    """Pass the results of the optimizer's own clips to ``see``; return these clips unchanged."""
    clips = []

    def watched(clip: Callable[..., Any]) -> Any:  # replaces a ClipGradBase, which is only called
        clips.append(clip)

        def call(pairs: Any) -> Any:
            pairs = clip(pairs)
            see(pairs)
            return pairs

        return call

    for group in _groups(optimizer):
        if isinstance(group, dict) and group.get("grad_clip") is not None:
            group["grad_clip"] = watched(group["grad_clip"])
    if optimizer._grad_clip is not None:
        optimizer._grad_clip = watched(optimizer._grad_clip)
    return clips


@contextmanager
def optimizer_attributes_restored(layer: paddle.nn.Layer) -> Iterator[None]:
    """Restore what an optimizer with groups sets on parameters (decay, factor of the rate); clear the gradients."""
    kept = [
        (p, getattr(p, "regularizer", None), dict(getattr(p, "optimize_attr", None) or {}), p.stop_gradient)
        for p in layer.parameters()
    ]
    try:
        yield
    finally:
        for parameter, regularizer, attributes, stopped in kept:
            parameter.regularizer, parameter.optimize_attr = regularizer, attributes
            parameter.stop_gradient = stopped
            parameter.clear_gradient(False)


@contextmanager
def schedule_restored(scheduler: Any) -> Iterator[None]:
    """Restore a learning rate scheduler, which its owner may hold, at exit."""
    kept = dict(vars(scheduler)) if isinstance(scheduler, paddle.optimizer.lr.LRScheduler) else None
    try:
        yield
    finally:
        if kept is not None:
            vars(scheduler).clear()
            vars(scheduler).update(kept)
