"""Makes timm and torchvision draw from a generator of the test's, so that two sides can see the same random numbers."""

import random

import numpy as np
import PIL.ImageOps
from PIL import Image


class Overlay:
    """A module with some of its attributes replaced."""

    def __init__(self, module, **replaced):
        self.__dict__.update(replaced, _module=module)

    def __getattr__(self, name):
        return getattr(self._module, name)


class _Filled:
    """What ``torch.empty(...)`` stands for until a distribution fills it."""

    def __init__(self, uniform=None, normal=None):
        self.uniform_, self.normal_ = uniform, normal


class _SampleDraws:
    """``numpy.random`` as timm's augmentation uses it, on a ``random.Random``."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.beta = rng.betavariate

    def randint(self, low, high):
        return self.rng.randint(low, high - 1)

    def dirichlet(self, alphas):
        gammas = np.array([self.rng.gammavariate(alpha, 1.0) for alpha in alphas])
        return gammas / gammas.sum()

    def choice(self, values, size, replace=True, p=None):
        """With replacement a place is a uniform number; without, each from the weights that are left."""
        if replace:
            return [values[int(self.rng.random() * len(values))] for _ in range(size)]
        p, drawn = np.array(p), []
        for _ in range(size):
            place = int(np.searchsorted(np.cumsum(p), self.rng.random() * p.sum(), side="right"))
            drawn.append(values[place])
            p[place] = 0
        return drawn


def posterize(image, bits):
    """As ``ImageOps.posterize`` was until Pillow 13, from which on timm fails where a policy keeps no bit."""
    return PIL.ImageOps.posterize(image, bits) if bits else Image.new(image.mode, image.size)


def sample_draws(monkeypatch, rng: random.Random) -> None:
    """What timm does to one image draws from ``rng``."""
    import timm.data.auto_augment
    import timm.data.transforms
    import torch
    import torchvision.transforms.autoaugment
    import torchvision.transforms.transforms

    monkeypatch.setattr(timm.data.transforms, "random", rng)
    monkeypatch.setattr(timm.data.auto_augment, "random", rng)
    monkeypatch.setattr(timm.data.auto_augment, "np", Overlay(np, random=_SampleDraws(rng)))
    monkeypatch.setattr(timm.data.auto_augment, "ImageOps", Overlay(PIL.ImageOps, posterize=posterize))
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
    monkeypatch.setattr(torchvision.transforms.transforms, "torch", drawn)
    monkeypatch.setattr(torchvision.transforms.autoaugment, "torch", drawn)


def batch_draws(monkeypatch, rng: np.random.Generator) -> None:
    """What timm does to a batch draws from ``rng``."""
    import timm.data.mixup
    import timm.data.random_erasing
    import torch

    mixing = Overlay(np.random, rand=rng.random, beta=rng.beta, randint=rng.integers)
    monkeypatch.setattr(timm.data.mixup, "np", Overlay(np, random=mixing))

    def randint(low, high):
        return int(rng.integers(low, high + 1))

    def empty(shape, **_):
        return _Filled(normal=lambda: torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)))

    erasing = Overlay(random, random=rng.random, uniform=rng.uniform, randint=randint)
    monkeypatch.setattr(timm.data.random_erasing, "random", erasing)
    monkeypatch.setattr(timm.data.random_erasing, "torch", Overlay(torch, empty=empty))
