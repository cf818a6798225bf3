"""Explain the difference of two images from their pixels: axis order, mirroring, shifts, scale. numpy only.

Every function returns a description, or ``""`` where its hypothesis does not hold for every element.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

FARTHEST = 8  # largest shift in pixels that is searched
SMALLEST_OVERLAP = 0.5  # share of each side; a smaller overlap is not conclusive
SAME = 1e-5  # relative to the largest magnitude: float32 rounding of one multiplication and one addition


def explain_pixels(reference: np.ndarray, port: np.ndarray) -> str:
    """Describe the operation that turns ``reference`` into ``port``: (H, W, C) or (C, H, W), any dtype."""
    for hypothesis in (_dtype, _layout, _channels, _mirrored, _shifted, _affine):
        found = hypothesis(reference, port)
        if found:
            return found
    return ""


def pattern(reference: np.ndarray, port: np.ndarray) -> str:
    """Describe how much differs if no hypothesis holds."""
    if reference.shape != port.shape:
        return f"shape {_shape(port)} instead of {_shape(reference)}"
    error = np.abs(reference.astype(np.float64) - port)
    share = np.count_nonzero(error) / max(error.size, 1)
    return f"differs in {share:.0%} of the elements by at most {error.max(initial=0):g}"


def channel_axis(array: np.ndarray) -> int | None:
    """Return the axis of 1, 3 or 4 channels of an image; the last if both are possible, ``None`` if none is."""
    return next((axis for axis in (-1, 0) if array.ndim == 3 and array.shape[axis] in (1, 3, 4)), None)


def _same(left: np.ndarray, right: np.ndarray) -> bool:
    if left.shape != right.shape:
        return False
    if left.dtype.kind != "f" and right.dtype.kind != "f":
        return np.array_equal(left, right)
    return np.allclose(left, right, rtol=0, atol=SAME * max(float(np.abs(left).max(initial=0)), 1e-30))


def _dtype(reference: np.ndarray, port: np.ndarray) -> str:
    if reference.dtype != port.dtype and np.array_equal(reference, port):
        return f"{port.dtype} instead of {reference.dtype}, the values are the same"
    return ""


def _layout(reference: np.ndarray, port: np.ndarray) -> str:
    if reference.ndim != 3 or port.ndim != 3:
        return ""
    for axes, words in (((1, 2, 0), "channels last instead of first"), ((2, 0, 1), "channels first instead of last")):
        if _same(reference.transpose(axes), port):
            return words
    height_width = (1, 0, 2) if channel_axis(reference) == -1 else (0, 2, 1)
    return "height and width swapped" if _same(reference.transpose(height_width), port) else ""


def _channels(reference: np.ndarray, port: np.ndarray) -> str:
    axis = channel_axis(reference)
    if axis is None or reference.shape != port.shape or reference.shape[axis] != 3:
        return ""
    for order in itertools.permutations(range(3)):
        if order != (0, 1, 2) and _same(reference.take(order, axis), port):
            return "channels swapped (BGR)" if order == (2, 1, 0) else f"channels in the order {order}"
    return ""


def _mirrored(reference: np.ndarray, port: np.ndarray) -> str:
    rows = 1 if channel_axis(reference) == 0 else 0
    if reference.ndim < 2:
        return ""
    changes: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "mirrored left to right": lambda image: np.flip(image, rows + 1),
        "upside down": lambda image: np.flip(image, rows),
        "turned by 180 degrees": lambda image: np.flip(image, (rows, rows + 1)),
        "turned by 90 degrees to the left": lambda image: np.rot90(image, 1, (rows, rows + 1)),
        "turned by 90 degrees to the right": lambda image: np.rot90(image, -1, (rows, rows + 1)),
    }
    return next((words for words, change in changes.items() if _same(change(reference), port)), "")


def _shifted(reference: np.ndarray, port: np.ndarray) -> str:
    rows = 1 if channel_axis(reference) == 0 else 0
    if reference.shape != port.shape or reference.ndim < 2:
        return ""
    theirs, ours = (np.moveaxis(image, (rows, rows + 1), (0, 1)) for image in (reference, port))
    steps = sorted(itertools.product(range(-FARTHEST, FARTHEST + 1), repeat=2), key=lambda step: sum(map(abs, step)))
    for step in steps[1:]:
        if any(abs(move) > side * (1 - SMALLEST_OVERLAP) for move, side in zip(step, theirs.shape)):
            continue
        there = theirs[tuple(slice(max(0, move), move if move < 0 else None) for move in step)]
        here = ours[tuple(slice(max(0, -move), -move if move > 0 else None) for move in step)]
        # compare one row first: it rules out nearly all shifts
        if _same(there[:1], here[:1]) and _same(there, here):
            return f"crop shifted by {step} pixels (down, right)"
    return ""


def _affine(reference: np.ndarray, port: np.ndarray) -> str:
    """Test ``port = factor * reference + offset`` in each channel."""
    if reference.shape != port.shape or port.dtype.kind != "f":
        return ""
    axis = channel_axis(reference)
    channels = [(reference, port)] if axis is None else zip(np.moveaxis(reference, axis, 0), np.moveaxis(port, axis, 0))
    fits = [_fit(x.astype(np.float64).ravel(), y.astype(np.float64).ravel()) for x, y in channels]
    if None in fits:
        return ""
    factors, offsets = (", ".join(f"{value:.5g}" for value in values) for values in zip(*fits))
    return f"mean and std, or the scale, of another model: each channel times {factors}, plus {offsets}"


def _fit(x: np.ndarray, y: np.ndarray) -> tuple[float, float] | None:
    centred = x - x.mean()
    spread = centred @ centred
    if not spread or not np.isfinite(y).all():
        return None
    factor = float(centred @ y / spread)
    offset = float(y.mean() - factor * x.mean())
    fits = np.abs(factor * x + offset - y).max() <= SAME * max(np.abs(y).max(), 1e-30)
    return (factor, offset) if fits and factor else None


def _shape(array: np.ndarray) -> str:
    return "x".join(map(str, array.shape))
