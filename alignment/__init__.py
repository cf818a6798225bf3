"""The proof that two models are the same: every layer of both compared.

``align`` (one pass) and ``align_training`` (steps of training) serve any torch module and Paddle layer, ``transfer``
loads the module's weights into the layer, ``align_data`` serves any two pipelines of images; the ``check_*`` scripts
serve DLA; ``engine`` is what all use.
"""

from __future__ import annotations

from typing import Any

__all__ = ["align", "align_data", "align_training", "transfer"]


def __getattr__(name: str) -> Any:
    if name == "align":
        from alignment.engine.session import align

        return align
    if name == "align_data":
        from alignment.engine.pixels.images import align_data

        return align_data
    if name == "align_training":
        from alignment.engine.training_session import align_training

        return align_training
    if name == "transfer":
        from alignment.engine.transfer import transfer

        return transfer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
