"""Makes timm and torchvision draw from a generator of the test's, so that two sides can see the same random numbers."""

import random

import numpy as np

from torch_ref.draws import Overlay, batch_replacements, sample_replacements

__all__ = ["Overlay", "batch_draws", "sample_draws"]


def sample_draws(monkeypatch, rng: random.Random) -> None:
    """What timm does to one image draws from ``rng``."""
    for module, name, value in sample_replacements(rng):
        monkeypatch.setattr(module, name, value)


def batch_draws(monkeypatch, rng: np.random.Generator) -> None:
    """What timm does to a batch draws from ``rng``."""
    for module, name, value in batch_replacements(rng):
        monkeypatch.setattr(module, name, value)
