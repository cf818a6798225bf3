"""Every tensor of a file accounted for exactly once: mapped, or dropped with a reason; anything else is a fault.

Names, shapes and types alone: no framework, no array is touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from convert.key_map import drop_reason, to_paddle

# types that become float32 without loss
FLOATS = ("float32", "float16", "bfloat16")
MISSING = "missing in the file"


class Described(Protocol):
    """What the audit looks at of a tensor."""

    @property
    def dtype(self) -> str:
        """Type by name, as ``float32``."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape."""
        ...


@dataclass
class Account:
    """The outcome: ``mapped`` timm name -> Paddle name, ``dropped`` timm name -> reason, ``faults`` one line each."""

    mapped: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def audit(
    tensors: Mapping[str, Described],
    layout: Mapping[str, tuple[int, ...]],
    unused: Mapping[str, tuple[int, ...]] | None = None,
) -> Account:
    """Hold ``tensors`` against ``layout``, the ``{name: shape}`` that the model needs.

    ``unused`` are names that some files hold and no model reads; they are dropped one by one, by name and shape.
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
