"""Detect a normalisation that the port folded into the layer in front of it.

In evaluation BatchNorm is a scale and a shift of each channel, ``s = weight / sqrt(running_var + epsilon)``. A
convolution with ``weight * s`` and ``bias * s + (norm.bias - running_mean * s)`` computes both layers. No framework is
used here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from alignment.engine.judging.error import compare
from alignment.engine.sides.settings import Settings

# Folding rounds each weight twice and each bias three times; the terms of a bias may cancel by some bits.
LIMIT = 2.0**-53 * 2.0**10


@dataclass(frozen=True)
class Fold:
    """The reference's ``layer``, the ``norm`` behind it, and the largest relative error of the folded weights."""

    layer: str
    norm: str
    error: float

    @property
    def exact(self) -> bool:
        """Whether float64 rounding explains the error."""
        return self.error <= LIMIT


def fold(
    layer: str, norm: str, settings: Settings, arrays: Mapping[str, np.ndarray], port: Mapping[str, np.ndarray]
) -> Fold:
    """Compare the port's weights with those of ``layer`` and ``norm`` folded.

    ``settings`` are the normalisation's. ``arrays`` are the reference's by full name, ``port`` the port layer's own by
    role.
    """
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
