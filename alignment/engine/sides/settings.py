"""One vocabulary for what a layer is configured to do, whichever framework it is of. No framework.

``settings_torch`` and ``settings_paddle`` put a layer into it; two ``Settings`` of the same category compare field by
field. A field that one side leaves out is unknown there and compares with nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# the one can stand for the other, with the same weights in another shape; where it does not, the numbers show it
AFFINE = {"conv", "linear"}

OTHER = "other"
CONTAINER = "container"


@dataclass(frozen=True)
class Settings:
    """``category`` is what the layer computes (``conv``, ``batch_norm``, ``activation``, ...), ``fields`` how.

    ``shapes`` are those of its own parameters by role (``weight``, ``bias``), in torch's layout.
    """

    category: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def has_weights(self) -> bool:
        """Whether the layer has parameters of its own."""
        return bool(self.shapes)


def disagreements(reference: Settings, port: Settings) -> dict[str, tuple[Any, Any]]:
    """``{field: (reference, port)}`` for every field that both sides know and set otherwise.

    A layer of a kind that the vocabulary lacks has no known settings and disagrees with nothing.
    """
    if {reference.category, port.category} & {OTHER, CONTAINER}:
        return {}
    if reference.category != port.category and {reference.category, port.category} != AFFINE:
        return {"category": (reference.category, port.category)}
    common = [name for name in reference.fields if name in port.fields]
    return {
        name: (reference.fields[name], port.fields[name])
        for name in common
        if not _equal(reference.fields[name], port.fields[name])
    }


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, (int, float)):
        # Paddle keeps attributes in float32: what differs by less than its roundoff is the same setting
        return abs(a - b) <= 2.0**-23 * max(abs(a), abs(b))
    return a == b


def pairs_of(value: Any, dims: int) -> tuple[int, ...]:
    """A size for each of ``dims`` dimensions, from one number or a sequence."""
    return tuple(value) if isinstance(value, (list, tuple)) else (value,) * dims


def both_sides(padding: Any, dims: int) -> tuple[tuple[int, int], ...] | str:
    """Padding before and after in each dimension; a word (``same``) stays one.

    One number, one for each dimension, or two for each dimension, flat or nested.
    """
    if isinstance(padding, str):
        return padding.lower()
    if isinstance(padding, (list, tuple)) and padding and isinstance(padding[0], (list, tuple)):
        return tuple(tuple(side) for side in padding[-dims:])
    sizes = pairs_of(padding, dims)
    if len(sizes) == 2 * dims:
        return tuple((sizes[2 * i], sizes[2 * i + 1]) for i in range(dims))
    return tuple((size, size) for size in sizes)


def is_padded(padding: tuple[tuple[int, int], ...] | str) -> bool:
    """Whether anything is added at all; without it, whether a mean counts what was added is no setting."""
    return isinstance(padding, str) or any(map(any, padding))
