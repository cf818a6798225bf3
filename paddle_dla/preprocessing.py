"""How an image becomes a model's input: one record, shared by training, evaluation and export. No framework.

It is stored with the weights (the manifest of a converted file, ``preprocessing.json`` of an export), because the
accuracy of a model depends on it: resizing with another library alone costs DLA 0.4 to 1.7 points of top-1.
Definitions are those of timm 1.0.31 (``timm/data/transforms_factory.py``, crop mode ``center``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, Literal, get_args

from paddle_dla.errors import WrongValue
from paddle_dla.storage.shown import shown

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]
INTERPOLATIONS: tuple[str, ...] = get_args(Interpolation)

MAX_SIDE = 2**14
"""Largest side in pixels, about that of the largest pictures from cameras; a batch of 1 is then 3 GiB."""
MAX_CHANNELS = 2**10
"""Hyperspectral sensors have some hundred channels."""
MAX_MEAN = 2.0**15
"""float32 has 24 bits: with a larger mean, the 256 levels of a pixel can no longer be told apart after subtraction."""
STD_RANGE = 2.0**-20, 2.0**20
"""16-bit pixels on the scale of [0, 1] need 2**-16. With a smaller value, a network in float32 overflows."""
CROP_RANGE = 2.0**-4, 4.0
"""An image is resized to ``side / crop_pct``: for a smaller value, to more than sixteen times the size of the crop."""


@dataclass(frozen=True)
class Preprocessing:
    """Resize the short side to ``floor(H / crop_pct)``, crop the centre, scale to [0, 1], normalise.

    ``input_size`` is (C, H, W) in pixels. C is 3 (RGB), 1 (grey) or the number of channels of another sensor, for which
    only the normalisation applies. ``interpolation`` is a filter of PIL. ``mean`` and ``std`` have one value per
    channel, on the scale of [0, 1]. Raises ``ValueError`` for settings that cannot be applied to any image.
    """

    input_size: tuple[int, int, int] = (3, 224, 224)
    crop_pct: float = 0.875
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self):
        for name in ("input_size", "mean", "std"):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)):
                raise WrongValue(f"{name} is a list of numbers, not {value!r}")
            object.__setattr__(self, name, tuple(value))
        self._check_size()
        if self.interpolation not in INTERPOLATIONS:
            raise WrongValue(f"interpolation is one of {', '.join(INTERPOLATIONS)}, not '{shown(self.interpolation)}'")
        if not len(self.mean) == len(self.std) == self.input_size[0]:
            raise WrongValue(f"mean and std have {self.input_size[0]} values; not {self.mean} and {self.std}")
        if not all(_within(value, -MAX_MEAN, MAX_MEAN) for value in self.mean):
            raise WrongValue(f"mean is on the scale of [0, 1], at most {MAX_MEAN:g}, not {self.mean}")
        if not all(_within(value, *STD_RANGE) for value in self.std):
            low, high = STD_RANGE
            raise WrongValue(f"std is on the scale of [0, 1], from {low:g} to {high:g}, not {self.std}")

    def _check_size(self) -> None:
        sizes, most = self.input_size, (MAX_CHANNELS, MAX_SIDE, MAX_SIDE)
        whole = len(sizes) == 3 and all(isinstance(side, Integral) and not isinstance(side, bool) for side in sizes)
        if not whole or not all(1 <= side <= limit for side, limit in zip(sizes, most)):
            raise WrongValue(
                f"input_size is (channels, height, width), up to {MAX_CHANNELS} channels and {MAX_SIDE} pixels a side, "
                f"not {sizes}"
            )
        if not _within(self.crop_pct, *CROP_RANGE):
            raise WrongValue(
                f"crop_pct is the share of the resized short side that is kept, from {CROP_RANGE[0]:g} to "
                f"{CROP_RANGE[1]:g}, not {self.crop_pct!r}"
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the record as a JSON-serialisable dict; ``from_dict`` reads it back."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def line(self) -> str:
        """Return the record as one line of text."""
        size, mean, std = ("x".join(map(str, self.input_size)), *(_numbers(values) for values in (self.mean, self.std)))
        return f"{size}, crop {self.crop_pct:g}, {self.interpolation}, mean {mean}, std {std}"

    def with_channels(self, channels: int) -> Preprocessing:
        """Return the record for ``channels`` input channels; if not 3, each channel gets the average statistics."""
        if channels == self.input_size[0]:
            return self
        average = [[sum(values) / len(values)] * channels for values in (self.mean, self.std)]
        size = (channels, *self.input_size[1:])
        return replace(self, input_size=size, mean=tuple(average[0]), std=tuple(average[1]))

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Preprocessing:
        """Create a record from the result of ``as_dict``. Raises ``ValueError`` for a missing or unknown key."""
        known = {field.name for field in fields(cls)}
        if not isinstance(record, Mapping) or record.keys() != known:
            shown = sorted(map(str, record)) if isinstance(record, Mapping) else repr(record)
            raise WrongValue(f"a preprocessing record has the keys {sorted(known)}, not {shown}")
        return cls(**record)


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _within(value: object, low: float, high: float) -> bool:
    """Return whether the value is a number in the range. NaN is in no range."""
    return isinstance(value, Real) and not isinstance(value, bool) and not value < low and value <= high
