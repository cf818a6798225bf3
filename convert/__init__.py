"""Convert torch models to Paddle: weights and code. ``port_model`` makes a port; the rest imports no framework."""

from __future__ import annotations

from typing import Any

__all__ = ["port_model"]


def __getattr__(name: str) -> Any:
    if name == "port_model":
        from convert.porting.porting import port_model

        return port_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
