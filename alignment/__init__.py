"""The proof that two models are the same: every layer of both compared.

``align`` serves any torch module and Paddle layer; the ``check_*`` scripts serve DLA; ``engine`` is what both use.
"""

from __future__ import annotations

from typing import Any

__all__ = ["align"]


def __getattr__(name: str) -> Any:
    if name == "align":
        from alignment.aligner import align

        return align
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
