"""Measure how large the differences of two arrays are and where in the tensor they sit. No framework.

Axes: from rank 3 on, axis 0 is the batch (B), axis 1 the channel (C), and the rest is space, whose last two axes are
rows and columns (H, W). Rank 2 is batch and feature; the one axis of rank 1 is a channel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np

BARS = 64  # of batch elements and channels: as many as are distinguishable in a picture of 300 units
CELLS = 32  # cells of one side of the map: as many as the eye distinguishes in a picture of 160 pixels
# Bins of half a decade. Below 1e-18 a difference is far under the roundoff of float64 (1.1e-16) of the largest
# magnitude; above 1e6 the exact size does not matter. Values outside count in the first or last bin.
LOW, HIGH, PER_DECADE = -18, 6, 2
LISTED = 4  # indices that are listed individually; more of them are summarised
SIDES = ("upper", "lower", "left", "right")


@dataclass(frozen=True)
class Spread:
    """The differences of one tensor: |difference| over ``scale``, the reference's largest finite magnitude (1 if 0).

    ``differing`` of ``count`` elements exceed ``limit`` (relative). ``exact`` elements are equal, ``not_finite`` ones
    are NaN or infinite on one side only; the others are in ``counts``, by ``edges`` (log10, one more than ``counts``).
    ``batch``, ``channels`` and ``space`` (rows of columns) are means over all other axes, of at most ``BARS`` and
    ``CELLS`` groups of neighbours. They are empty if there is no such axis, infinite if something is not finite.
    ``border`` is the share of the difference that lies in the outermost rows and columns, ``border_area`` their share
    of the elements; both are ``None`` if nothing lies inside. ``axes`` names the first two axes, ``what`` the tensor.
    ``where`` describes the position of the elements that exceed the limit.
    """

    what: str
    shape: tuple[int, ...]
    axes: tuple[str, str]
    scale: float
    limit: float
    count: int
    differing: int
    exact: int
    not_finite: int
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    batch: tuple[float, ...]
    channels: tuple[float, ...]
    space: tuple[tuple[float, ...], ...]
    border: float | None
    border_area: float | None
    where: str

    @property
    def line(self) -> str:
        """Return the position of the differences as a line of evidence."""
        return f"where in {self.what}: {self.where}"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-serialisable values: measurements to three digits, an infinite one as the string ``inf``."""
        found = asdict(self)
        measured = ("scale", "limit", "batch", "channels", "space", "border", "border_area")
        return found | {name: _rounded(found[name]) for name in measured}


def spread(
    expected: np.ndarray,
    actual: np.ndarray,
    limit: float = 0.0,
    what: str = "",
    axes: tuple[str, str] = ("batch element", "channel"),
) -> Spread:
    """Measure where ``actual`` differs from ``expected``; ``limit`` is the relative difference that rounding explains.

    Raises ``ValueError`` for arrays of different shapes.
    """
    if expected.shape != actual.shape:
        raise ValueError(f"shape {list(actual.shape)} instead of {list(expected.shape)}")
    error, scale = _relative(expected, actual)
    differs = error > limit
    finite = np.isfinite(error)
    edges, counts = _histogram(error[finite & (error > 0)])
    as_axes = _batch_channel_rows_columns(error)
    border, area = _border(as_axes)
    rank = error.ndim
    return Spread(
        what=what,
        shape=tuple(error.shape),
        axes=axes,
        scale=scale,
        limit=limit,
        count=error.size,
        differing=int(differs.sum()),
        exact=int((error == 0).sum()),
        not_finite=int((~finite).sum()),
        edges=edges,
        counts=counts,
        batch=tuple(_means(as_axes, (0,), BARS).tolist()) if rank >= 2 and error.size else (),
        channels=tuple(_means(as_axes, (1,), BARS).tolist()) if rank >= 1 and error.size else (),
        space=tuple(map(tuple, _means(as_axes, (3, 4), CELLS).tolist())) if rank >= 3 and error.size else (),
        border=border,
        border_area=area,
        where=_where(_batch_channel_rows_columns(differs), axes),
    )


def _relative(expected: np.ndarray, actual: np.ndarray) -> tuple[np.ndarray, float]:
    """Return |difference| / scale of each element, infinite if only one side is finite, and the scale."""
    wide = np.complex128 if {expected.dtype.kind, actual.dtype.kind} & {"c"} else np.float64
    a, b = np.asarray(expected, wide), np.asarray(actual, wide)
    magnitudes = np.abs(a[np.isfinite(a)])
    scale = float(magnitudes.max(initial=0.0)) or 1.0
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(a - b) / scale
    return np.where(same, 0.0, np.where(np.isfinite(error), error, np.inf)), scale


def _histogram(values: np.ndarray) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Return edges (log10) and counts of positive finite values, without the empty bins at either end."""
    if not values.size:
        return (), ()
    bins = np.clip(np.floor(np.log10(values) * PER_DECADE), LOW * PER_DECADE, HIGH * PER_DECADE - 1).astype(int)
    first, last = int(bins.min()), int(bins.max())
    counts = np.bincount(bins - first, minlength=last - first + 1)
    return tuple(edge / PER_DECADE for edge in range(first, last + 2)), tuple(counts.tolist())


def _batch_channel_rows_columns(array: np.ndarray) -> np.ndarray:
    """Reshape an array of any rank to (B, C, depth, H, W); a missing axis has length 1."""
    shape = array.shape
    if len(shape) < 2:
        return array.reshape(1, -1, 1, 1, 1)
    space = shape[2:]
    rows, columns = (*([1] * (2 - len(space))), *space)[-2:]
    return array.reshape(*shape[:2], math.prod(space[:-2]), rows, columns)


def _means(array: np.ndarray, axes: tuple[int, ...], most: int) -> np.ndarray:
    """Average over all but ``axes``, then over at most ``most`` groups of neighbours along each of them."""
    result = array.mean(tuple(axis for axis in range(array.ndim) if axis not in axes))
    for axis in range(result.ndim):
        starts = group_starts(result.shape[axis], most)
        sizes = np.diff([*starts, result.shape[axis]])
        shape = [-1 if other == axis else 1 for other in range(result.ndim)]
        result = np.add.reduceat(result, starts, axis=axis) / sizes.reshape(shape)
    return result


def group_starts(length: int, most: int) -> list[int]:
    """Return the starts of at most ``most`` groups of nearly equal size among ``length`` neighbours."""
    groups = min(length, most)
    return [group * length // groups for group in range(groups)]


def _border(error: np.ndarray) -> tuple[float | None, float | None]:
    """Return the share of the difference in the outermost rows and columns, and their share of the positions."""
    rows, columns = error.shape[3:]
    ring = np.ones((rows, columns), bool)
    ring[slice(1, -1) if rows > 1 else slice(None), 1:-1] = False
    # infinite differences outweigh all others
    weight = np.isinf(error) if np.isinf(error).any() else error
    total = float(weight.sum())
    if ring.all() or not total:
        return None, None
    return float(weight[..., ring].sum()) / total, float(ring.mean())


# --- in words -------------------------------------------------------------------------------------------------------


def _where(differs: np.ndarray, axes: tuple[str, str]) -> str:
    """Describe where the differing elements of (B, C, depth, H, W) sit."""
    count, size = int(differs.sum()), differs.size
    if not count:
        return "no element exceeds the limit"
    batch, channel = (np.any(differs, axis=tuple({0, 1, 2, 3, 4} - {axis})) for axis in (0, 1))
    parts = [_places(np.any(differs, axis=(0, 1, 2))), _indices(channel, axes[1]), _indices(batch, axes[0])]
    if size == 1:
        return "its one element"
    share = f"all {size:,} elements" if count == size else f"{count:,} of {size:,} elements ({_percent(count / size)})"
    return f"{', '.join(filter(None, parts)) or 'everywhere'}: {share}"


def _percent(share: float) -> str:
    # never 0.0 % of something or 100.0 % of almost everything
    return f"{min(max(100 * share, 0.1), 99.9):.1f} %"


def _indices(hit: np.ndarray, name: str) -> str:
    """Describe which indices of an axis differ; empty if all do."""
    found = np.flatnonzero(hit).tolist()
    if len(found) == hit.size:
        return ""
    if len(found) == 1:
        return f"only in {name} {found[0]}"
    steps = {after - before for before, after in pairwise(found)}
    if steps == {1}:
        return f"only in {name}s {found[0]} to {found[-1]}"
    if len(found) <= LISTED:
        return f"only in {name}s {', '.join(map(str, found))}"
    if len(steps) == 1:
        return f"only in {name}s {found[0]}, {found[1]}, {found[2]}, ... {found[-1]}"
    # a range of more than half of the axis is not informative
    narrow = 2 * (found[-1] - found[0] + 1) <= hit.size
    return f"in {len(found)} of {hit.size} {name}s" + (f", all within {found[0]} to {found[-1]}" if narrow else "")


def _places(hit: np.ndarray) -> str:
    """Describe where in space (H, W) elements differ; empty if everywhere."""
    if hit.all():
        return ""
    if hit.sum() == 1:
        row, column = (int(i[0]) for i in np.nonzero(hit))
        return f"only at row {row}, column {column}"
    return _at_border(hit) or f"at {int(hit.sum()):,} of {hit.size:,} places"


def _at_border(hit: np.ndarray) -> str:
    """Describe the fewest and thinnest border strips that hold all of it, each at most a quarter of the size deep."""
    rows, columns = hit.shape
    if columns < 4 or rows in (2, 3):
        return ""
    sides = SIDES[2:] if rows == 1 else SIDES
    deepest = columns // 4 if rows == 1 else min(rows, columns) // 4
    row, column = np.indices(hit.shape)
    distance = {"upper": row, "lower": rows - 1 - row, "left": column, "right": columns - 1 - column}
    for depth in range(1, deepest + 1):
        for some in (some for number in range(1, len(sides) + 1) for some in combinations(sides, number)):
            if not any(hit[np.all([distance[side] >= depth for side in some], axis=0)]):
                return f"all of it at the {_joined(some)}" + (f", {depth} wide" if depth > 1 else "")
    return ""


def _joined(sides: Sequence[str]) -> str:
    if len(sides) == len(SIDES):
        return "border"
    return f"{', '.join(sides[:-1])} and {sides[-1]} border" if len(sides) > 1 else f"{sides[0]} border"


def _rounded(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_rounded(item) for item in value]
    if value is None or math.isfinite(value):
        return value if value is None else float(f"{value:.2e}")
    return "inf"
