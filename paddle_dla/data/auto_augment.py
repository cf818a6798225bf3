"""AutoAugment, RandAugment and AugMix, and the configuration strings for these and TrivialAugment.

AutoAugment (arXiv:1805.09501), RandAugment (arXiv:1909.13719) and AugMix (arXiv:1912.02781) are those of timm 1.0.31
(``timm/data/auto_augment.py``), and so are the strings, with two exceptions: ``ta-wide`` selects TrivialAugment, which
timm lacks; and what timm ignores (an unknown set of operations, an option without a number, an option given twice) is
an error here.

Each is a transform of images, ``transform(image, rng)``, that draws only from ``rng``.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from paddle_dla.data.augment_op import FULL_MAGNITUDE, AugmentOp, ImageTransform, OpSettings
from paddle_dla.data.policies import (
    AUGMIX,
    AUTO_AUGMENT_POLICIES,
    RAND_AUGMENT,
    RAND_AUGMENT_INCREASING,
    RAND_AUGMENT_SETS,
)
from paddle_dla.data.trivial_augment import TrivialAugment
from paddle_dla.errors import WrongValue


@dataclass(frozen=True)
class AutoAugment:
    """Draw one of the ``policy``'s sequences and apply it."""

    policy: tuple[tuple[AugmentOp, ...], ...]

    def __call__(self, image: Image.Image, rng: random.Random) -> Image.Image:
        return _apply_all(rng.choice(self.policy), image, rng)


@dataclass(frozen=True)
class RandAugment:
    """Draw ``num_layers`` of ``ops`` and apply them in the order drawn.

    Without ``weights``, all are equally likely and one may occur twice. With weights, each occurs at most once, and the
    next is drawn from the remaining ones in proportion to their weights (the rule of ``numpy.random.choice``).
    """

    ops: tuple[AugmentOp, ...]
    num_layers: int = 2
    weights: tuple[float, ...] | None = None

    def __post_init__(self):
        if self.weights is not None and self.num_layers > len(self.ops):
            raise WrongValue(f"{self.num_layers} of {len(self.ops)} weighted operations cannot be drawn; lower n")

    def __call__(self, image: Image.Image, rng: random.Random) -> Image.Image:
        return _apply_all(self.draw(rng), image, rng)

    def draw(self, rng: random.Random) -> list[AugmentOp]:
        """Draw the operations of one image, in order."""
        if self.weights is None:
            return rng.choices(self.ops, k=self.num_layers)
        left, drawn = list(zip(self.ops, self.weights)), []
        for _ in range(self.num_layers):
            [place] = rng.choices(range(len(left)), [weight for _, weight in left])
            drawn.append(left.pop(place)[0])
        return drawn


@dataclass(frozen=True)
class AugMix:
    """Mix ``width`` chains of ``depth`` operations with each other and with the image.

    The chains' weights are drawn from Dirichlet(alpha), the weight of the mixture from Beta(alpha, alpha). A ``depth``
    of -1 draws 1 to 3 operations for each chain. ``blended`` blends the chains over the image one by one, rounding to 8
    bits after each: cheaper, and not exactly the same.
    """

    ops: tuple[AugmentOp, ...]
    alpha: float = 1.0
    width: int = 3
    depth: int = -1
    blended: bool = False

    def __call__(self, image: Image.Image, rng: random.Random) -> Image.Image:
        weights = self._draw_weights(rng)
        share = np.float32(rng.betavariate(self.alpha, self.alpha))
        return (self._blend if self.blended else self._mix)(image, weights, share, rng)

    def _draw_weights(self, rng: random.Random) -> np.ndarray:
        """Draw (width,) float32 that sum to 1: a Dirichlet variate is a normalised list of gamma variates."""
        gammas = [rng.gammavariate(self.alpha, 1.0) for _ in range(self.width)]
        return np.array([gamma / sum(gammas) for gamma in gammas], np.float32)

    def _run_chain(self, image: Image.Image, rng: random.Random) -> Image.Image:
        depth = self.depth if self.depth > 0 else rng.randint(1, 3)
        return _apply_all(rng.choices(self.ops, k=depth), image, rng)

    def _mix(self, image: Image.Image, weights: np.ndarray, share: np.float32, rng: random.Random) -> Image.Image:
        mixed = np.zeros(np.asarray(image).shape, np.float32)
        for weight in weights:
            mixed += weight * np.asarray(self._run_chain(image, rng), np.float32)
        mixture = Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8))
        return Image.blend(image, mixture, float(share))

    def _blend(self, image: Image.Image, weights: np.ndarray, share: np.float32, rng: random.Random) -> Image.Image:
        result = image
        for weight in _blending_weights(weights * share):
            result = Image.blend(result, self._run_chain(image, rng), float(weight))
        return result


def _blending_weights(weights: np.ndarray) -> list[np.float32]:
    """Return the alphas for blending layers in turn such that their final weights are ``weights``: last first."""
    uncovered, alphas = np.float32(1), []
    for weight in weights[::-1]:
        alphas.append(weight / uncovered)
        uncovered = uncovered * (np.float32(1) - alphas[-1])
    return alphas[::-1]


def _apply_all(ops: Iterable[AugmentOp], image: Image.Image, rng: random.Random) -> Image.Image:
    for op in ops:
        image = op(image, rng)
    return image


def auto_augment(config: str, settings: OpSettings | None = None) -> ImageTransform:
    """Create the transform for the string ``config``: a scheme, then options, separated by dashes.

    - ``original``, ``originalr``, ``v0``, ``v0r``, ``3a``: an AutoAugment policy. ``mstd``: the magnitude's standard
      deviation.
    - ``rand``: RandAugment. ``m``: magnitude (10), ``n``: operations per image (2), ``p``: probability of each (0.5),
      ``mstd`` (above 100: the magnitude is uniform from 0 to ``m``), ``mmax``: its limit (10), ``inc1``: operations
      that increase with it, ``t``: a named set of operations (``3a``, ``3aw``, ``weights``).
    - ``augmix``: AugMix. ``m``: magnitude (3), ``w``: chains (3), ``d``: operations in each (1 to 3), ``a``: alpha
      (1), ``b1``: blended, ``mstd`` (if not given: uniform from 0 to ``m``).
    - ``ta-wide``: TrivialAugment, with the settings' filter (bilinear if that is drawn) and black beyond the edge.

    For example ``rand-m9-mstd0.5-inc1``. Raises ``ValueError`` that names the wrong part and the known ones.
    """
    settings = settings or OpSettings()
    scheme, *sections = config.split("-")
    if config == "ta-wide":
        fixed = settings.interpolation
        return TrivialAugment(Image.Resampling.BILINEAR if fixed is None else fixed)
    if scheme in AUTO_AUGMENT_POLICIES:
        return _auto_augment(scheme, _parse(config, sections, _AUTO_AUGMENT_OPTIONS), settings)
    if scheme == "rand":
        return _rand_augment(_parse(config, sections, _RAND_AUGMENT_OPTIONS), settings)
    if scheme == "augmix":
        return _aug_mix(_parse(config, sections, _AUGMIX_OPTIONS), settings)
    known = ", ".join([*AUTO_AUGMENT_POLICIES, "rand", "augmix", "ta-wide"])
    raise WrongValue(f"auto_augment {config!r}: unknown scheme {scheme!r}; known are {known}")


def _auto_augment(policy: str, options: dict[str, Any], settings: OpSettings) -> AutoAugment:
    settings = replace(settings, magnitude_std=options.get("mstd", settings.magnitude_std))
    sequences = AUTO_AUGMENT_POLICIES[policy]
    return AutoAugment(tuple(tuple(AugmentOp(*step, settings) for step in steps) for steps in sequences))


def _rand_augment(options: dict[str, Any], settings: OpSettings) -> RandAugment:
    std = options.get("mstd", settings.magnitude_std)
    settings = replace(
        settings,
        magnitude_std=math.inf if std > 100 else std,
        magnitude_max=options.get("mmax", settings.magnitude_max),
    )
    plain = RAND_AUGMENT_INCREASING if options.get("inc") else RAND_AUGMENT
    names = RAND_AUGMENT_SETS[options["t"]] if "t" in options else dict.fromkeys(plain)
    weights = None if None in names.values() else tuple(weight for weight in names.values() if weight is not None)
    prob, magnitude = options.get("p", 0.5), options.get("m", FULL_MAGNITUDE)
    ops = tuple(AugmentOp(name, prob, magnitude, settings) for name in names)
    return RandAugment(ops, options.get("n", 2), weights)


def _aug_mix(options: dict[str, Any], settings: OpSettings) -> AugMix:
    settings = replace(settings, magnitude_std=options.get("mstd", math.inf))
    ops = tuple(AugmentOp(name, 1.0, options.get("m", 3), settings) for name in AUGMIX)
    rest = {name: options[key] for key, name in _AUGMIX_FIELDS.items() if key in options}
    return AugMix(ops, **rest)


class _Value(NamedTuple):
    """The value that may follow an option's letters."""

    pattern: str
    convert: Callable[[str], Any]
    meaning: str


_WHOLE = _Value(r"\d+", int, "a whole number")
_COUNT = _Value(r"0*[1-9]\d*", int, "a whole number above 0")
_NUMBER = _Value(r"\d+(\.\d*)?", float, "a number")
_POSITIVE = _Value(r"(?=.*[1-9])\d+(\.\d*)?", float, "a number above 0")
_PROBABILITY = _Value(r"0(\.\d*)?|1(\.0*)?", float, "a number within [0, 1]")
_SWITCH = _Value(r"[01]", int, "0 or 1")
_SET = _Value("|".join(RAND_AUGMENT_SETS), str, f"one of {', '.join(RAND_AUGMENT_SETS)}")

_AUTO_AUGMENT_OPTIONS = {"mstd": _NUMBER}
_RAND_AUGMENT_OPTIONS = {
    "m": _WHOLE,
    "n": _COUNT,
    "p": _PROBABILITY,
    "mstd": _NUMBER,
    "mmax": _COUNT,
    "inc": _SWITCH,
    "t": _SET,
}
_AUGMIX_OPTIONS = {"m": _WHOLE, "w": _COUNT, "d": _COUNT, "a": _POSITIVE, "b": _SWITCH, "mstd": _NUMBER}
_AUGMIX_FIELDS = {"w": "width", "d": "depth", "a": "alpha", "b": "blended"}


def _parse(config: str, sections: list[str], known: Mapping[str, _Value]) -> dict[str, Any]:
    """Parse ``["m9", "inc1"]`` to ``{"m": 9, "inc": 1}``. Raises ``ValueError`` that quotes the invalid section."""
    options: dict[str, Any] = {}
    for section in sections:
        # the name of a set follows its letter directly, in letters or digits
        [key] = re.findall("^(?:t|[a-z]*)", section)
        where = f"auto_augment {config!r}, section {section!r}"
        if key not in known:
            raise WrongValue(f"{where}: unknown option {key!r}; known here are {', '.join(known)}")
        if key in options:
            raise WrongValue(f"{where}: {key!r} is given twice")
        value = known[key]
        text = section.removeprefix(key)
        if not re.fullmatch(value.pattern, text):
            raise WrongValue(f"{where}: {key!r} takes {value.meaning}, not {text!r}")
        options[key] = value.convert(text)
    return options
