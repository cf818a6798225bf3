"""Remake the golden files from timm: ``python tests/make_golden.py``. Needs torch and timm, not Paddle."""

from __future__ import annotations

import numpy as np
import torch
from fingerprints import Golden, fingerprint, save
from numpy_weights import images, timm_weights

from alignment.engine.sides.torch.capture import capture
from alignment.engine.sides.torch.settings import round_epsilons
from paddle_dla.models.variants import VARIANTS
from torch_ref.model import create_model, load_tensors


def main() -> None:
    """Run every variant in float64 and keep the fingerprint of every layer's output."""
    for model in VARIANTS:
        weights = {name: torch.from_numpy(array) for name, array in timm_weights(model).items()}
        module = load_tensors(create_model(model), weights).double()
        round_epsilons(module)
        names, projections, scales = [], [], []
        tape = capture(module, [images()])
        for record in tape:
            name = f"{record.path}#{record.call}"
            projection, scale = fingerprint(name, tape.outputs(record)[0])
            names.append(name)
            projections.append(projection)
            scales.append(scale)
        save(model, Golden(tuple(names), np.array(projections), np.array(scales)))
        print(f"{model}: {len(names)} layers")


if __name__ == "__main__":
    main()
