"""timm and torchvision drawing from a generator that the caller gives, so that two sides see the same random numbers.

Inside ``sample_draws`` or ``batch_draws`` the modules of timm 1.0.31 and torchvision 0.28 that transform images find
stand-ins for ``random``, ``numpy.random`` and ``torch`` under their own names; afterwards everything is as it was.
torch, numpy and ``random`` themselves are not touched. Not for several threads at a time.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

Replacement = tuple[ModuleType, str, Any]
"""A module, the name of one of its attributes, and what stands for it."""


class Overlay:
    """A module with some of its attributes replaced."""

    def __init__(self, module: Any, **replaced: Any):
        self.__dict__.update(replaced, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _Filled:
    """What ``torch.empty(...)`` stands for until a distribution fills it."""

    def __init__(self, uniform: Any = None, normal: Any = None):
        self.uniform_, self.normal_ = uniform, normal


class _SampleDraws:
    """``numpy.random`` as timm's augmentation uses it, on a ``random.Random``."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.beta = rng.betavariate

    def randint(self, low: int, high: int) -> int:
        return self.rng.randint(low, high - 1)

    def dirichlet(self, alphas: Sequence[float]) -> np.ndarray:
        gammas = np.array([self.rng.gammavariate(alpha, 1.0) for alpha in alphas])
        return gammas / gammas.sum()

    def choice(self, values: Sequence[Any], size: int, replace: bool = True, p: Sequence[float] | None = None) -> list:
        """With replacement a place is a uniform number; without, each from the weights that are left."""
        if replace:
            return [values[int(self.rng.random() * len(values))] for _ in range(size)]
        left, drawn = np.array(p), []
        for _ in range(size):
            place = int(np.searchsorted(np.cumsum(left), self.rng.random() * left.sum(), side="right"))
            drawn.append(values[place])
            left[place] = 0
        return drawn


def _posterize(image: Any, bits: int) -> Any:
    """As ``ImageOps.posterize`` was until Pillow 13, from which on timm fails where a policy keeps no bit."""
    from PIL import Image, ImageOps

    return ImageOps.posterize(image, bits) if bits else Image.new(image.mode, image.size)


def sample_replacements(rng: random.Random) -> list[Replacement]:
    """What makes timm's transforms of one image draw from ``rng``."""
    from torch_ref.model import import_timm

    import_timm()
    import timm.data.auto_augment
    import timm.data.transforms
    import torch
    import torchvision.transforms.autoaugment
    import torchvision.transforms.transforms
    from PIL import ImageOps

    drawn = Overlay(
        torch,
        rand=lambda count: rng.random(),
        randint=lambda high, size, dtype=None: torch.tensor([rng.randrange(high)]),
        randperm=lambda count: rng.sample(range(count), count),
        empty=lambda count: _Filled(uniform=rng.uniform),
        # torch's own is float32, and depends on the processor
        linspace=lambda start, end, steps: torch.tensor(
            [start + (end - start) * step / (steps - 1) for step in range(steps)], dtype=torch.float64
        ),
    )
    return [
        (timm.data.transforms, "random", rng),
        (timm.data.auto_augment, "random", rng),
        (timm.data.auto_augment, "np", Overlay(np, random=_SampleDraws(rng))),
        (timm.data.auto_augment, "ImageOps", Overlay(ImageOps, posterize=_posterize)),
        (torchvision.transforms.transforms, "torch", drawn),
        (torchvision.transforms.autoaugment, "torch", drawn),
    ]


def batch_replacements(rng: np.random.Generator) -> list[Replacement]:
    """What makes timm's mixing and erasing of a batch draw from ``rng``."""
    from torch_ref.model import import_timm

    import_timm()
    import timm.data.mixup
    import timm.data.random_erasing
    import torch

    def randint(low: int, high: int) -> int:
        return int(rng.integers(low, high + 1))

    def empty(shape: Sequence[int], **_: Any) -> _Filled:
        return _Filled(normal=lambda: torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)))

    mixing = Overlay(np.random, rand=rng.random, beta=rng.beta, randint=rng.integers)
    erasing = Overlay(random, random=rng.random, uniform=rng.uniform, randint=randint)
    return [
        (timm.data.mixup, "np", Overlay(np, random=mixing)),
        (timm.data.random_erasing, "random", erasing),
        (timm.data.random_erasing, "torch", Overlay(torch, empty=empty)),
    ]


@contextmanager
def replaced(replacements: Sequence[Replacement]) -> Iterator[None]:
    """Everything replaced inside, and as it was afterwards, whatever happens."""
    before = [(module, name, getattr(module, name)) for module, name, _ in replacements]
    try:
        for module, name, value in replacements:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


@contextmanager
def sample_draws(rng: random.Random) -> Iterator[None]:
    """What timm does to one image draws from ``rng``."""
    with replaced(sample_replacements(rng)):
        yield


@contextmanager
def batch_draws(rng: np.random.Generator) -> Iterator[None]:
    """What timm does to a batch draws from ``rng``."""
    with replaced(batch_replacements(rng)):
        yield
