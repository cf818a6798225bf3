"""Find the deviation from a known recipe that produces a port's pixels: run hypotheses and compare every element.

Pillow and numpy, no framework.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from alignment.engine.pixels.recipe import CROP, DECODE, FILTERS, GREY_WEIGHTS, NORMALISE, Recipe

STATISTICS = {
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "Inception's": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "CLIP's": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "DPN's": ((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3),
    "CIFAR-10's": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}
"""Mean and standard deviation on the scale of [0, 1].

timm 1.0.31 ``timm/data/constants.py``; CIFAR-10's are common usage.
"""

CROP_PCTS = (0.875, 0.95, 0.9, 1.0, 0.96, 0.8)
SHIFTS = 2  # pixels, in any direction
NEAR = 0.15
"""The share of the mean difference that the nearest hypothesis may leave.

cv2's bilinear works in 11-bit integers, which leaves 1 to 7 % of its difference from Pillow's; wrong causes leave
nearly all.
"""
SECOND = 0.25
"""The share of one hypothesis' remainder that a second one may leave to be named with it."""
FLOAT_ROUNDING = 4 * 2.0**-23
"""Relative to the largest magnitude: normalising takes three float32 operations, in any order."""
PAIRED = 4  # the best hypotheses, which are tried together with every other one


@dataclass(frozen=True)
class Variation:
    """A recipe with ``changes``, described by ``cause``; they take effect at ``stage``."""

    stage: str
    cause: str
    changes: dict[str, Any] = field(hash=False)


@dataclass(frozen=True)
class Explanation:
    """A cause; ``left`` is the share of the mean difference that the hypothesis leaves: 0 if it is exact."""

    stage: str
    cause: str
    left: float

    @property
    def exact(self) -> bool:
        """Whether only float32 rounding is left."""
        return self.left == 0

    def words(self) -> str:
        """The cause, with the remaining difference if it is not exact."""
        return self.cause if self.exact else f"nearest to: {self.cause} (leaves {self.left:.1%} of the difference)"


def variations(recipe: Recipe) -> Iterator[Variation]:
    """Yield known deviations of pipelines, the earliest stage first, except what the recipe itself does."""
    for each in itertools.chain(_of_decoding(recipe), _of_cropping(recipe), _of_normalising(recipe)):
        if replace(recipe, **each.changes) != recipe:
            yield each


def _of_decoding(recipe: Recipe) -> Iterator[Variation]:
    yield Variation(DECODE, "EXIF orientation applied", {"exif": True})
    yield Variation(DECODE, "channels swapped (BGR)", {"order": "BGR"})
    for level, colour in ((255, "white"), (0, "black")):
        yield Variation(DECODE, f"transparency laid on {colour} instead of dropped", {"backdrop": level})
    yield Variation(DECODE, "JPEG decoded at a reduced scale (Pillow's draft mode)", {"draft": True})
    instead = "instead of Pillow's" if recipe.channels == 1 else "instead of colours"
    if recipe.channels == 3:
        yield Variation(DECODE, "grey instead of colours", {"grey": "L"})
    for name in GREY_WEIGHTS:
        yield Variation(DECODE, f"grey by {name} weights {instead}", {"grey": name})


def _of_cropping(recipe: Recipe) -> Iterator[Variation]:
    if recipe.interpolation in ("bilinear", "bicubic"):
        floats = "intermediate rows not rounded to 8 bits (an antialiased resize of tensors)"
        yield Variation(CROP, floats, {"resampling": "floats"})
    yield Variation(CROP, "antialias off / cv2 bilinear", {"resampling": "plain"})
    yield Variation(CROP, "antialias off, pixels counted by their corners", {"resampling": "corners"})
    yield Variation(CROP, "antialias off, corners aligned", {"resampling": "aligned"})
    for gap in (2, 3):
        yield Variation(CROP, f"reduced before it is resized (reducing_gap={gap}.0)", {"resampling": f"gap {gap}"})
    for name in FILTERS:
        yield Variation(CROP, f"resized with {name} instead of {recipe.interpolation}", {"interpolation": name})
    yield Variation(CROP, "squashed instead of the ratio kept, then cropped", {"geometry": "squash"})
    yield Variation(CROP, "squashed to the final size, not cropped", {"geometry": "squash, no crop"})
    yield Variation(CROP, "cropped out of the original before it is resized", {"geometry": "crop first"})
    for value in CROP_PCTS:
        yield Variation(CROP, f"crop_pct {value:g} instead of {recipe.crop_pct:g}", {"crop_pct": value})
    for shift in itertools.product(range(-SHIFTS, SHIFTS + 1), repeat=2):
        yield Variation(CROP, f"crop shifted by {shift} pixels (down, right)", {"shift": shift})


def _of_normalising(recipe: Recipe) -> Iterator[Variation]:
    unscaled = "pixels of 0 to 255 not scaled to [0, 1] before mean and std"
    yield Variation(NORMALISE, unscaled, {"levels": 1.0})
    for name, (mean, std) in STATISTICS.items():
        mean, std = (values[: recipe.channels] for values in (mean, std))
        said = "not normalised by any mean and std" if name == "none" else f"mean and std of another model: {name}"
        yield Variation(NORMALISE, said, {"mean": mean, "std": std})
        yield Variation(NORMALISE, f"std of another model: {name}", {"std": std})
        yield Variation(NORMALISE, f"mean of another model: {name}", {"mean": mean})
    backwards = {"mean": recipe.mean[::-1], "std": recipe.std[::-1]}
    yield Variation(NORMALISE, "mean and std in the order of BGR", backwards)


class Runs:
    """Results of recipes for one image up to one stage; shared steps are computed once."""

    def __init__(self, data: bytes, stage: str):
        self._data, self._stage = data, stage
        self._made: dict[tuple, np.ndarray] = {}

    def of(self, recipe: Recipe) -> np.ndarray:
        """Return the result of ``recipe.run``."""
        decoding = (recipe.channels, recipe.exif, recipe.backdrop, recipe.order, recipe.grey)
        decoding += (recipe.size, recipe.crop_pct) if recipe.draft else ()
        pixels = self._once((DECODE, *decoding), lambda: recipe.decode(self._data))
        if self._stage == DECODE:
            return pixels
        cropping = (recipe.size, recipe.crop_pct, recipe.interpolation, recipe.resampling)
        cropping += (recipe.geometry, recipe.shift)
        cropped = self._once((CROP, *decoding, *cropping), lambda: recipe.crop(pixels))
        return cropped if self._stage == CROP else recipe.normalise(cropped)

    def _once(self, key: tuple, make: Callable[[], np.ndarray]) -> np.ndarray:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def explain(recipe: Recipe, data: bytes, stage: str, reference: np.ndarray, port: np.ndarray) -> Explanation | None:
    """Find the deviation, or two together, that turns the recipe's ``reference`` of an image into ``port``.

    Both arrays are as ``Recipe.run(data, stage)`` returns them. Returns the exact deviation that takes effect earliest;
    else the nearest, if it leaves less than ``NEAR``; else ``None``.
    """
    if (reference.shape != port.shape and stage != DECODE) or np.array_equal(reference, port):
        return None
    single, runs = list(variations(recipe)), Runs(data, stage)
    tried = list(_tried(recipe, single, runs, reference, port))
    best = min(tried, key=lambda each: each[1], default=None)
    if best is None or best[1] == 0:
        return best and _explanation(best)
    nearest = [each for each, left in sorted(tried, key=lambda item: item[1])[:PAIRED] if left < 1]
    pairs = [_together(first, second) for first in nearest for second in single if _compatible(first, second)]
    paired = min(_tried(recipe, pairs, runs, reference, port), key=lambda each: each[1], default=best)
    # by chance alone two causes leave a little less than one
    best = paired if paired[1] <= SECOND * best[1] else best
    return _explanation(best) if best[1] < NEAR else None


def _explanation(found: tuple[Variation, float]) -> Explanation:
    return Explanation(found[0].stage, found[0].cause, found[1])


def _tried(
    recipe: Recipe,
    these: Iterable[Variation],
    runs: Runs,
    reference: np.ndarray,
    port: np.ndarray,
) -> Iterator[tuple[Variation, float]]:
    """Yield each variation with its remaining difference, except those without effect or with another shape."""
    start = difference(reference, port) if reference.shape == port.shape else np.inf
    for each in these:
        made = runs.of(replace(recipe, **each.changes))
        if made.shape != port.shape or np.array_equal(made, reference):
            continue
        left = difference(made, port)
        yield each, left / start if left else 0.0


def difference(made: np.ndarray, port: np.ndarray) -> float:
    """Return the mean absolute difference; 0 if it is float32 rounding only."""
    error = np.abs(made.astype(np.float64) - port)
    is_float = made.dtype.kind == "f"
    if is_float and error.max(initial=0) <= FLOAT_ROUNDING * np.abs(made).max(initial=0):
        return 0.0
    mean = float(error.mean()) if error.size else 0.0
    return mean if np.isfinite(mean) else np.inf


def _compatible(first: Variation, second: Variation) -> bool:
    return not first.changes.keys() & second.changes.keys()


def _together(first: Variation, second: Variation) -> Variation:
    earlier, later = sorted((first, second), key=lambda each: (DECODE, CROP, NORMALISE).index(each.stage))
    return Variation(earlier.stage, f"{earlier.cause}; and {later.cause}", earlier.changes | later.changes)


def recipe_of(reference: np.ndarray, data: bytes) -> tuple[Recipe, str, bool] | None:
    """Find the recipe that produces ``reference`` from an image, the stage, and whether the channels are moved.

    ``reference``: (h, w, C) or (C, h, w), C being 1 or 3, uint8 or floats. ``None`` if no known recipe does; see
    ``STATISTICS``, ``CROP_PCTS``, ``FILTERS``.
    """
    stage = CROP if reference.dtype == np.uint8 else NORMALISE
    runs = Runs(data, stage)
    if reference.ndim != 3:
        return None
    for last in (True, False):
        height, width, channels = reference.shape if last else (*reference.shape[1:], reference.shape[0])
        if channels not in (1, 3):
            continue
        moved = last != (stage == CROP)
        expected = as_made(reference, stage, moved)
        for recipe in _known(height, width, channels, stage):
            if difference(runs.of(recipe), expected) == 0:
                return recipe, stage, moved
    return None


def as_made(array: np.ndarray, stage: str, moved: bool) -> np.ndarray:
    """Return ``array`` with its channels where ``Recipe.run`` has them: last for uint8, first for floats."""
    if not moved or array.ndim != 3:
        return array
    return np.moveaxis(array, 0, -1) if stage in (DECODE, CROP) else np.moveaxis(array, -1, 0)


def _known(height: int, width: int, channels: int, stage: str) -> Iterator[Recipe]:
    statistics = STATISTICS.values() if stage == NORMALISE else [STATISTICS["none"]]
    for interpolation, crop_pct in itertools.product(("bilinear", "bicubic", "lanczos"), CROP_PCTS):
        base = Recipe((height, width), channels, crop_pct, interpolation)
        for mean, std in statistics:
            yield replace(base, mean=mean[:channels], std=std[:channels])
