"""How an image becomes a model's input: the one record that training, evaluation and export share. No framework.

It travels with the weights (the manifest of a converted file, ``preprocessing.json`` of an export), because a model
is only as good as what it is fed: resizing with another library alone costs DLA 0.4 to 1.7 points of top-1.
Definitions are those of timm 1.0.31 (``timm/data/transforms_factory.py``, crop mode ``center``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from paddle_dla.storage.shown import shown

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


@dataclass(frozen=True)
class Preprocessing:
    """Resize the short side to ``floor(H / crop_pct)``, crop the centre, scale to [0, 1], normalise.

    ``input_size`` is (C, H, W) in pixels, C being 3 (RGB), 1 (grey) or the number of channels of another sensor, for
    which only the normalisation means anything; ``interpolation`` is a filter of PIL; ``mean`` and ``std`` have one
    value for each channel, on the scale of [0, 1]. Raises ``ValueError`` for anything that no image could go through.
    """

    input_size: tuple[int, int, int] = (3, 224, 224)
    crop_pct: float = 0.875
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self):
        for name in ("input_size", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.input_size) != 3 or min(self.input_size) < 1:
            raise ValueError(f"input_size is (channels, height, width) in pixels, not {self.input_size}")
        if not 0 < self.crop_pct <= 4 or not math.isfinite(self.crop_pct):
            raise ValueError(f"crop_pct is the share of the resized short side that is kept, not {self.crop_pct}")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation is one of {', '.join(INTERPOLATIONS)}, not '{shown(self.interpolation)}'")
        if not len(self.mean) == len(self.std) == self.input_size[0] or min(self.std) <= 0:
            raise ValueError(
                f"mean and std have {self.input_size[0]} values, std above 0; not {self.mean} and {self.std}"
            )

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON writes it; ``from_dict`` reads it back."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def with_channels(self, channels: int) -> Preprocessing:
        """The same for a model of ``channels`` input channels: other than 3, each gets the average statistics."""
        if channels == self.input_size[0]:
            return self
        average = [[sum(values) / len(values)] * channels for values in (self.mean, self.std)]
        size = (channels, *self.input_size[1:])
        return replace(self, input_size=size, mean=tuple(average[0]), std=tuple(average[1]))

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Preprocessing:
        """The reverse of ``as_dict``; raises ``ValueError`` for a key that is missing or unknown."""
        known = {field.name for field in fields(cls)}
        if record.keys() != known:
            raise ValueError(f"a preprocessing record has the keys {sorted(known)}, not {sorted(record)}")
        return cls(**record)
