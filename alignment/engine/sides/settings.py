"""A framework-independent vocabulary of layer settings. No framework.

``describe`` of either side converts a layer to it. The readers convert an argument to a single spelling if the layer
alone determines it. ``resolved`` settles what depends on the input (an axis counted from the end, one size for all
dimensions) by the input's number of axes. Two ``Settings`` of the same category compare field by field. A field that
one side leaves out is unknown there and is not compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

# one can replace the other, with the same weights in another shape; the values decide whether it does
AFFINE = {"conv", "linear"}

OTHER = "other"
CONTAINER = "container"
IDENTITY = "identity"
DROPOUT = "dropout"

MODAL = {"batch_norm", "instance_norm", DROPOUT, "recurrent", "spectral_norm"}
"""Categories whose layers compute differently in training, or update a state."""

Shape = tuple[int, ...]
Widths = tuple[tuple[int, int], ...]
"""The padding before and after in each dimension of space."""


@dataclass(frozen=True)
class Settings:
    """The settings of a layer: ``category`` (``conv``, ``batch_norm``, ``activation``, ...) and ``fields``.

    ``shapes`` are those of its own parameters by role (``weight``, ``bias``), in torch's layout.
    """

    category: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def has_weights(self) -> bool:
        """Whether the layer has its own parameters."""
        return bool(self.shapes)


def disagreements(reference: Settings, port: Settings, shape: Shape | None = None) -> dict[str, tuple[Any, Any]]:
    """Return ``{field: (reference, port)}``, in their own spelling, of every field known on both sides that differs.

    ``shape`` is that of the first input, if known. A layer of a kind that the vocabulary lacks has no known settings
    and no disagreements.
    """
    a, b = resolved(reference, shape), resolved(port, shape)
    if reference.category == port.category == DROPOUT and IDENTITY in (a.category, b.category):
        scales = scales_in_evaluation(reference) or scales_in_evaluation(port)
        a, b = _rate_alone(reference, scales), _rate_alone(port, scales)
    if a.category == b.category == CONTAINER:
        # containers of a kind that both frameworks have, e.g. attention
        if a.fields.get("kind") is None or a.fields.get("kind") != b.fields.get("kind"):
            return {}
    elif {a.category, b.category} & {OTHER, CONTAINER}:
        return {}
    elif a.category != b.category and {a.category, b.category} != AFFINE:
        return {"category": (_called(reference, a), _called(port, b))}
    common = [name for name in a.fields if name in b.fields]
    if "use_batch" in common and a.fields["use_batch"] == b.fields["use_batch"]:
        common = [name for name in common if name != "training"]  # it has no other effect on a normalisation
    return {
        name: (reference.fields.get(name, a.fields[name]), port.fields.get(name, b.fields[name]))
        for name in common
        if not _equal(a.fields[name], b.fields[name])
    }


def _called(given: Settings, known: Settings) -> str:
    """Return the category; dropout at rate 0 counts as the identity."""
    return given.category if known.category == IDENTITY else known.category


def _rate_alone(dropout: Settings, scales: bool) -> Settings:
    """Ignore a dropout's other settings next to an identity, unless it changes values in evaluation."""
    kept = ("rate", "training", *(("mode",) if scales else ()))
    return replace(dropout, fields={name: dropout.fields[name] for name in kept})


def scales_in_evaluation(dropout: Settings) -> bool:
    """Return whether a dropout multiplies by 1 - rate in evaluation, as Paddle's ``downscale_in_infer`` does."""
    return bool(dropout.fields.get("rate")) and dropout.fields.get("mode") == "downscale_in_infer"


def _equal(a: Any, b: Any) -> bool:
    if {type(a), type(b)} <= {int, float} and float in (type(a), type(b)):
        # Paddle keeps attributes in float32: values that differ by less than its roundoff are the same setting
        return a == b or abs(a - b) <= 2.0**-23 * max(abs(a), abs(b))
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a == b


# --- spelling -------------------------------------------------------------------------------------------------------


def resolved(settings: Settings, shape: Shape | None = None) -> Settings:
    """Return ``settings`` in a canonical spelling for an input of this ``shape``.

    Dropout at rate 0 is the identity. The mode is dropped for layers that it does not affect.
    """
    if settings.category == DROPOUT and settings.fields.get("rate") == 0:
        return Settings(IDENTITY, {}, settings.shapes)
    fields = dict(settings.fields)
    if settings.category not in MODAL:
        fields.pop("training", None)
    if "padding" in fields and not is_padded(fields["padding"]):
        fields |= {name: value for name, value in NOTHING_ADDED.items() if name in fields}
    if fields.get("momentum") is not None:
        fields["momentum"] = 1 - fields["momentum"]  # the kept share is Paddle's number, in float32
    if shape is not None:
        for name in (name for name in fields if name in BY_SHAPE):
            fields[name] = BY_SHAPE[name](fields[name], shape)
    return replace(settings, fields=fields)


NOTHING_ADDED = {"padding_mode": "zeros", "count_include_pad": True, "value": 0.0}
"""Fields that only matter with padding: how the border is filled and counted."""


def _axis(axis: Any, shape: Shape) -> Any:
    """Return an axis counted from the front; None is resolved as by torch's softmax."""
    if axis is None:
        return 0 if len(shape) in (0, 1, 3) else 1
    return tuple(_axis(each, shape) for each in axis) if isinstance(axis, tuple) else axis % max(len(shape), 1)


def _in_space(size: Any, shape: Shape) -> Any:
    """Return a number for each dimension behind batch and channels."""
    return size if size is None else pairs_of(size, max(len(shape) - 2, 1))


BY_SHAPE: Mapping[str, Callable[[Any, Shape], Any]] = {
    "dim": _axis,
    "start": _axis,
    "stop": _axis,
    "size": _in_space,
    "scale_factor": _in_space,
}
"""Fields whose meaning depends on the shape of the input."""


def pairs_of(value: Any, dims: int) -> tuple[Any, ...]:
    """Return a size for each of ``dims`` dimensions, from one number or a sequence."""
    if not isinstance(value, (list, tuple)):
        return (value,) * dims
    return tuple(value) * dims if len(value) == 1 else tuple(value)


def both_sides(padding: Any, dims: int, channels_last: bool = False) -> Widths | str:
    """Return the padding before and after in each dimension; ``same`` stays a string, ``valid`` is no padding.

    Accepts one number, one for each dimension, or two for each dimension, flat or nested; nested also with a pair for
    batch and channels.
    """
    if isinstance(padding, str):
        return ((0, 0),) * dims if padding.lower() == "valid" else padding.lower()
    if isinstance(padding, (list, tuple)) and padding and isinstance(padding[0], (list, tuple)):
        sides = padding[1:-1] if channels_last and len(padding) == dims + 2 else padding[-dims:]
        return tuple(tuple(side) for side in sides)
    sizes = pairs_of(padding, dims)
    if len(sizes) == 2 * dims and len(sizes) > dims:
        return tuple((sizes[2 * i], sizes[2 * i + 1]) for i in range(dims))
    return tuple((size, size) for size in sizes)


def keeping_size(kernel: Sequence[int], dilation: Sequence[int]) -> Widths:
    """Return the padding that keeps the size in a convolution of stride 1; the larger half comes behind."""
    total = [step * (size - 1) for size, step in zip(kernel, dilation)]
    return tuple((width // 2, width - width // 2) for width in total)


def from_the_last_axis(padding: Sequence[int]) -> Widths:
    """Return the padding by dimension from a flat list that starts at the last axis, as pure padding layers take it."""
    pairs = [*zip(padding[::2], padding[1::2])]
    return tuple((int(before), int(after)) for before, after in reversed(pairs))


def is_padded(padding: Any) -> bool:
    """Return whether there is any padding; without it, counting it in a mean has no effect."""
    return isinstance(padding, str) or any(map(any, padding))


def numbers(value: Any) -> Any:
    """Return one or several factors as floats."""
    if isinstance(value, (list, tuple)):
        return tuple(map(float, value))
    return None if value is None else float(value)
