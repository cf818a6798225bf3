"""Images as the reference sees them: timm's own evaluation transform. Never imports Paddle."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch

from torch_ref.model import import_timm


def eval_batch(model: torch.nn.Module, paths: Sequence[str | os.PathLike[str]]) -> np.ndarray:
    """The images at ``paths`` through the evaluation transform of ``model``: (B, C, H, W) float32, normalised.

    Raises ``OSError`` (``PIL.UnidentifiedImageError`` is one) for a file that is no image.
    """
    import_timm()
    from PIL import Image
    from timm.data import create_transform, resolve_data_config

    transform = create_transform(**resolve_data_config({}, model=model))
    batch = []
    for path in paths:
        with Image.open(path) as image:
            batch.append(transform(image.convert("RGB")).numpy())
    return np.stack(batch)
