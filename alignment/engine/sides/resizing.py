"""The weights that mix pixels when an image is resized, as Paddle's kernels round them. numpy only.

Measured with paddlepaddle 3.3.1 and 2.6.2 on CPU; ``tests/test_resizing.py`` compares every mode with Paddle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

SINGLE, DOUBLE = np.float32, np.float64


@dataclass(frozen=True)
class Resizing:
    """The dtypes in which a kernel computes along one axis.

    ``position`` is that of an output pixel between input pixels, ``share`` the weight of the later of its neighbours,
    ``rest`` that of the earlier one. The ratio of the sizes is float32 everywhere.
    """

    position: type = SINGLE
    share: type = SINGLE
    rest: type = SINGLE


# the kernels round differently; the types were found by trying all combinations
BACKWARD = Resizing()
FORWARD: dict[tuple[str, bool], Sequence[Resizing]] = {
    # mode, align_corners -> by axis of space
    ("linear", False): [Resizing(DOUBLE, DOUBLE, DOUBLE)],
    ("linear", True): [Resizing(rest=DOUBLE)],
    ("bilinear", False): [Resizing(position=DOUBLE), Resizing()],
    ("bilinear", True): [Resizing()] * 2,
    ("trilinear", False): [Resizing()] * 3,
    ("trilinear", True): [Resizing()] * 3,
    ("bicubic", False): [Resizing(position=DOUBLE)] * 2,
    ("bicubic", True): [Resizing()] * 2,
}
FORWARD_2 = FORWARD | {("linear", False): [Resizing()], ("bilinear", False): [Resizing()] * 2}
"""Used if Paddle 2 is installed. Without any Paddle, where only the reference is recorded, version 3 is assumed."""
EXACT = Resizing(DOUBLE, DOUBLE, DOUBLE)
CUBIC = -0.75
"""The parameter of the cubic kernel, in both frameworks."""


@dataclass(frozen=True)
class Mixing:
    """Weights (new, old) of each axis of space: those of a kernel and those of its gradient.

    ``size``: the largest error of a weight.
    """

    ahead: Sequence[np.ndarray]
    back: Sequence[np.ndarray]
    size: float


def is_mixed(mode: str, corners: bool) -> bool:
    """Return whether this mode mixes pixels; nearest neighbours are the same in both frameworks."""
    return (mode, corners) in FORWARD


def mixing(
    mode: str, corners: bool, sizes: Sequence[int], wanted: Sequence[int], scales: Sequence[float | None]
) -> Mixing:
    """Return the weights for images of ``sizes`` resized to ``wanted``, by ``scales`` if given."""
    mixed = _cubic if mode == "bicubic" else _linear
    how = [(old, new, corners, scale) for old, new, scale in zip(sizes, wanted, scales)]
    exact = [mixed(*axis, EXACT, DOUBLE) for axis in how]
    kernels = FORWARD_2 if _major_version_of_paddle() == 2 else FORWARD
    ahead = [mixed(*axis, types, SINGLE) for axis, types in zip(how, kernels[mode, corners])]
    back = [mixed(*axis, BACKWARD, SINGLE) for axis in how]
    largest = max(abs(made - right).max() for made, right in zip((*ahead, *back), (*exact, *exact)))
    return Mixing(ahead, back, float(largest))


@cache
def _major_version_of_paddle() -> int:
    for name in ("paddlepaddle", "paddlepaddle-gpu"):
        with suppress(PackageNotFoundError):
            return int(version(name).split(".")[0])
    return 3


def _ratio(old: int, new: int, corners: bool, scale: float | None, of: type) -> Any:
    if corners:
        return of(old - 1) / of(new - 1) if new > 1 else of(0)
    return of(1 / scale) if scale else of(old) / of(new)


def _position(index: int, ratio: Any, corners: bool, of: type) -> float:
    if corners:
        return float(of(of(ratio) * of(index)))
    return float(of(of(of(ratio) * of(index + 0.5)) - of(0.5)))


def _linear(old: int, new: int, corners: bool, scale: float | None, types: Resizing, of: type) -> np.ndarray:
    """Return (new, old): the shares of the input pixels in each output pixel along one axis."""
    ratio, made = _ratio(old, new, corners, scale, of), np.zeros((new, old))
    for index in range(new):
        position = max(_position(index, ratio, corners, types.position), 0.0)
        first = min(int(position), old - 1)
        share = types.share(types.share(position) - types.share(first))
        made[index, first] += float(types.rest(1) - types.rest(share))
        made[index, min(first + 1, old - 1)] += float(share)
    return made


def _cubic(old: int, new: int, corners: bool, scale: float | None, types: Resizing, of: type) -> np.ndarray:
    """Return (new, old) for the cubic kernel over four pixels; pixels beyond the border repeat the last one."""
    ratio, made = _ratio(old, new, corners, scale, of), np.zeros((new, old))
    for index in range(new):
        position = _position(index, ratio, corners, types.position)
        first = math.floor(SINGLE(position) if of is SINGLE else position)
        t = position - first
        for shift, share in enumerate((_far(t + 1), _near(t), _near(1 - t), _far(2 - t)), start=-1):
            made[index, min(max(first + shift, 0), old - 1)] += share
    return made


def _near(x: float) -> float:
    return ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1


def _far(x: float) -> float:
    return ((CUBIC * x - 5 * CUBIC) * x + 8 * CUBIC) * x - 4 * CUBIC
