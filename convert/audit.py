"""Audit a file: every tensor must be mapped, or dropped with a reason, exactly once; anything else is a fault.

The audit reads names, shapes and types only. It imports no framework and reads no array.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from convert.key_map import drop_reason, to_paddle

# types that convert to float32 without loss
FLOATS = ("float32", "float16", "bfloat16")
MISSING = "missing in the file"


class Described(Protocol):
    """Tensor attributes that the audit reads."""

    @property
    def dtype(self) -> str:
        """Name of the type, e.g. ``float32``."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape."""
        ...


@dataclass
class Account:
    """Result of an audit.

    ``mapped`` is timm name -> Paddle name, ``dropped`` is timm name -> reason, ``faults`` has one line per fault.
    """

    mapped: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def audit(
    tensors: Mapping[str, Described],
    layout: Mapping[str, tuple[int, ...]],
    unused: Mapping[str, tuple[int, ...]] | None = None,
) -> Account:
    """Compare ``tensors`` with ``layout``, the ``{name: shape}`` that the model needs.

    ``unused`` is ``{name: shape}`` of tensors that some files contain and no model reads. A tensor is dropped as unused
    only if both its name and its shape match.
    """
    unused = unused or {}
    account = Account()
    for name, shape in layout.items():
        if name not in tensors and to_paddle(name) is not None:
            account.faults.append(f"{name}: {MISSING}, the model needs shape {list(shape)}")
    for name, tensor in tensors.items():
        if name in layout:
            _place(account, name, tensor, layout[name])
        elif name in unused and unused[name] == tensor.shape:
            account.dropped[name] = "unused: a projection of the original authors' code that no forward pass reads"
        else:
            account.faults.append(
                f"{name}: left over in the file (shape {list(tensor.shape)}), the model has no such tensor"
            )
    return account


def _place(account: Account, name: str, tensor: Described, shape: tuple[int, ...]) -> None:
    target = to_paddle(name)
    if tensor.shape != tuple(shape):
        account.faults.append(f"{name}: the file has shape {list(tensor.shape)}, the model {list(shape)}")
    elif target is None:
        account.dropped[name] = drop_reason(name)
    elif tensor.dtype not in FLOATS:
        account.faults.append(f"{name}: the file has type {tensor.dtype}, the model one of {', '.join(FLOATS)}")
    else:
        account.mapped[name] = target
