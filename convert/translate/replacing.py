"""Replace an attribute temporarily. No framework."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(holder: Any, name: str, value: Any) -> Iterator[None]:
    """Context manager that sets ``holder.name`` to ``value``, then restores it; an inherited one is inherited again.

    with replaced(torch.nn.functional, "dropout", same):
        model(x)
    """
    own, original = name in vars(holder), vars(holder).get(name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        if own:
            setattr(holder, name, original)
        else:
            delattr(holder, name)
