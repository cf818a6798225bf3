"""Facts published about each variant's weights: hub id, preprocessing, accuracy.

Source: timm 1.0.31, ``timm/models/dla.py`` (hub ids, preprocessing) and its ``results-imagenet.csv`` (top-1/top-5 on
ImageNet-1k, 224x224, crop 0.875, bilinear, PIL). No framework.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from paddle_dla.models.variants import VARIANTS
from paddle_dla.preprocessing import Preprocessing

IMAGENET_CLASSES = 1000
"""Number of classes of all published weights."""


@dataclass(frozen=True)
class Pretrained:
    """timm's published weights for one variant. ``top1`` and ``top5`` are percentages."""

    hub_id: str
    top1: float
    top5: float
    preprocessing: Preprocessing = field(default_factory=Preprocessing)


_PUBLISHED = {
    "dla34": (74.632, 92.052),
    "dla46_c": (64.880, 86.330),
    "dla46x_c": (66.008, 86.946),
    "dla60x_c": (67.928, 88.426),
    "dla60": (77.036, 93.316),
    "dla60x": (78.234, 94.022),
    "dla102": (78.016, 93.952),
    "dla102x": (78.516, 94.226),
    "dla102x2": (79.448, 94.654),
    "dla169": (78.702, 94.334),
    "dla60_res2net": (78.480, 94.204),
    "dla60_res2next": (78.488, 94.144),
}

PRETRAINED: dict[str, Pretrained] = {name: Pretrained(f"timm/{name}.in1k", *_PUBLISHED[name]) for name in VARIANTS}
