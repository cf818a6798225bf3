"""Make timm and torchvision draw from a given generator, so that both sides use the same random numbers.

Inside ``sample_draws`` or ``batch_draws``, ``random``, ``numpy.random`` and ``torch`` are replaced in the namespaces of
the modules of timm 1.0.31 and torchvision 0.28 that transform images; afterwards they are restored. torch, numpy and
``random`` themselves are not changed. Not thread-safe.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

Replacement = tuple[ModuleType, str, Any]
"""A module, the name of one of its attributes, and the replacement."""


class Overlay:
    """Proxy of a module with some of its attributes replaced."""

    def __init__(self, module: Any, **replaced: Any):
        self.__dict__.update(replaced, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _Filled:
    """Stand-in for ``torch.empty(...)``, which a distribution fills."""

    def __init__(self, uniform: Any = None, normal: Any = None):
        self.uniform_, self.normal_ = uniform, normal


class _SampleDraws:
    """The part of ``numpy.random`` that timm's augmentation uses, implemented with a ``random.Random``."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.beta = rng.betavariate

    def randint(self, low: int, high: int) -> int:
        return self.rng.randint(low, high - 1)

    def dirichlet(self, alphas: Sequence[float]) -> np.ndarray:
        gammas = np.array([self.rng.gammavariate(alpha, 1.0) for alpha in alphas])
        return gammas / gammas.sum()

    def choice(self, values: Sequence[Any], size: int, replace: bool = True, p: Sequence[float] | None = None) -> list:
        """With replacement, draw uniformly and ignore ``p``; without, draw by the weights of the remaining values."""
        if replace:
            return [values[int(self.rng.random() * len(values))] for _ in range(size)]
        left, drawn = np.array(p), []
        for _ in range(size):
            place = int(np.searchsorted(np.cumsum(left), self.rng.random() * left.sum(), side="right"))
            drawn.append(values[place])
            left[place] = 0
        return drawn


def _posterize(image: Any, bits: int) -> Any:
    """Like ``ImageOps.posterize`` before Pillow 13; since then timm fails if a policy keeps 0 bits."""
    from PIL import Image, ImageOps

    return ImageOps.posterize(image, bits) if bits else Image.new(image.mode, image.size)


def sample_replacements(rng: random.Random) -> list[Replacement]:
    """Return the replacements that make timm's transforms of one image draw from ``rng``."""
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
        # torch's own linspace is float32 and depends on the processor
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
    """Return the replacements that make timm's mixing and erasing of a batch draw from ``rng``."""
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
    """Context manager that sets all replacements and always restores the original attributes."""
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
    """Context manager in which timm's transforms of one image draw from ``rng``."""
    with replaced(sample_replacements(rng)):
        yield


@contextmanager
def batch_draws(rng: np.random.Generator) -> Iterator[None]:
    """Context manager in which timm's mixing and erasing of a batch draw from ``rng``."""
    with replaced(batch_replacements(rng)):
        yield
