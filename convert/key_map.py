"""Map the tensor names of a timm DLA state dict to Paddle names and back. Strings only.

The classifier is a 1x1 convolution, so nothing is transposed. Only BatchNorm's buffers are renamed.
"""

from __future__ import annotations

# last component of the name in timm -> in Paddle
RENAMED = {
    "running_mean": "_mean",
    "running_var": "_variance",
}

# last component of a name that has no counterpart in Paddle -> why nothing is lost without it
DROPPED = {
    "num_batches_tracked": "a step counter that BatchNorm reads only with momentum=None; Paddle has none "
    "(its value is kept in the manifest)",
}

_BACK = {paddle: timm for timm, paddle in RENAMED.items()}


def to_paddle(name: str) -> str | None:
    """Return the Paddle name of a timm tensor, or ``None`` if ``DROPPED`` lists it."""
    prefix, dot, last = name.rpartition(".")
    return None if last in DROPPED else f"{prefix}{dot}{RENAMED.get(last, last)}"


def to_timm(name: str) -> str:
    """Return the timm name of a Paddle tensor."""
    prefix, dot, last = name.rpartition(".")
    return f"{prefix}{dot}{_BACK.get(last, last)}"


def drop_reason(name: str) -> str:
    """Return the reason why ``to_paddle(name)`` is ``None``."""
    return DROPPED[name.rpartition(".")[2]]


def twin_name(name: str) -> str:
    """Return Paddle's name of a layer's own tensor that torch calls ``name``."""
    return RENAMED.get(name, name)
