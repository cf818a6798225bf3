"""Sources and transforms for the tests of the loader; workers import this module, so it must be one of its own."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass, replace

import numpy as np
from pictures import png

from paddle_dla.data.errors import DataError
from paddle_dla.data.source import Sample

SHAPE = (8, 8, 3)


class Made:
    """``count`` images of 8x8, all pixels of image k being (k, k + 1, k + 2); label k modulo 10. No files."""

    classes = None
    sequential = False

    def __init__(self, count, bad=(), broken=-1, sequential=False):
        self.num_samples = count
        self.bad, self.broken, self.sequential = set(bad), broken, sequential

    def name(self, index):
        return f"image-{index}"

    def reader(self, rising=False):
        return self

    def sample(self, index):
        if index == self.broken:
            raise DataError(f"the source is broken at {index}")
        return Sample(self.name(index), index % 10, b"no image" if index in self.bad else png(index))

    def close(self):
        pass


def keep(image, rng):
    return image


def noisy(image, rng):
    """Adds what depends on all of the randomness that a transform is given."""
    return image + np.uint8(rng.randrange(256))


def mix(batch, rng, epoch):
    """float32 images, soft labels; depends on all that a batch transform is given."""
    share = np.float32(rng.random())
    other = np.float32(1) - share  # in float32 on every version of NumPy
    images = batch.images.astype(np.float32)
    images = np.moveaxis(images * share + images[::-1] * other + np.float32(epoch), -1, 1)
    labels = np.eye(10, dtype=np.float32)[batch.labels]
    return replace(batch, images=images, labels=share * labels + other * labels[::-1])


def floats(batch, rng, epoch, out):
    """Writes where it is told to."""
    np.copyto(out, np.moveaxis(batch.images, -1, 1))
    return replace(batch, images=out)


@dataclass(frozen=True)
class At:
    """``keep``, except at the image with the given first pixel, where it calls ``action``."""

    value: int
    action: object

    def __call__(self, image, rng):
        if image[0, 0, 0] == self.value:
            self.action()
        return image


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def crash():
    os.kill(os.getpid(), signal.SIGSEGV)


def leave():
    os._exit(3)


def nap(image, rng):
    """Slow, but going on."""
    time.sleep(0.1)
    return image


def hang():
    time.sleep(600)


def hang_in_c():
    """Busy without ever letting go of Python's lock."""
    sum(iter(int, 1))


def fail():
    raise KeyError("a mistake in a transform")


def eat_memory():
    raise MemoryError


def refuse_paddle():
    loaded = {"paddle", "torch"} & sys.modules.keys()
    if loaded:
        raise AssertionError(f"a worker has {loaded}")


def fail_mixing(batch, rng, epoch):
    raise ZeroDivisionError("a mistake in a batch transform")


def hang_mixing(batch, rng, epoch):
    time.sleep(600)
