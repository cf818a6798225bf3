"""A normalisation that a port folded into the layer in front of it: weights that are others and compute the same.

In evaluation BatchNorm is a scale and a shift of each channel, ``s = weight / sqrt(running_var + epsilon)``: a
convolution with ``weight * s`` and ``bias * s + (norm.bias - running_mean * s)`` does both. No framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from alignment.engine.judging.error import compare
from alignment.engine.sides.settings import Settings

# Folding is two roundings to each weight, and three to a bias, whose terms may cancel to some bits.
LIMIT = 2.0**-53 * 2.0**10


@dataclass(frozen=True)
class Fold:
    """``layer`` of the reference, ``norm`` behind it, and the largest relative error of the port's folded weights."""

    layer: str
    norm: str
    error: float

    @property
    def exact(self) -> bool:
        """Whether rounding explains the error in float64."""
        return self.error <= LIMIT


def fold(
    layer: str, norm: str, settings: Settings, arrays: Mapping[str, np.ndarray], port: Mapping[str, np.ndarray]
) -> Fold:
    """``settings`` are the normalisation's; ``arrays`` by full name of torch, ``port`` the layer's own by role."""
    own = {role: arrays[f"{norm}.{role}"].astype(np.float64) for role in ("running_mean", "running_var")}
    scale = arrays.get(f"{norm}.weight", np.ones_like(own["running_var"])) / np.sqrt(
        own["running_var"] + settings.fields["epsilon"]
    )
    shift = arrays.get(f"{norm}.bias", np.zeros_like(scale)) - own["running_mean"] * scale
    weight = arrays[f"{layer}.weight"]
    weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    bias = arrays.get(f"{layer}.bias", np.zeros_like(scale)) * scale + shift
    theirs = port["weight"] if port["weight"].shape == weight.shape else port["weight"].T
    return Fold(layer, norm, max(compare(weight, theirs).relative, compare(bias, port["bias"]).relative))
