"""Deep Layer Aggregation in PaddlePaddle: the same weights, layers and outputs as the models of timm.

``create_model`` and ``list_models`` are the whole public interface. Both are imported on first use, so that ``import
paddle_dla`` is cheap and the framework-free parts (names, shapes, files) run without Paddle.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.2.0"
__all__ = ["create_model", "list_models"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from paddle_dla.models import factory

        return getattr(factory, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
