"""Compare every layer of a PyTorch model and its Paddle port.

``align`` compares one pass of any torch module and Paddle layer. ``align_training`` compares training step by step,
``align_data`` the preprocessing of images. ``transfer`` loads the module's weights into the layer. ``record_torch``,
``record_paddle`` and ``compare_records`` compare models on machines with one framework each. The ``check_*`` commands
check DLA models and ports. All of them use ``alignment.engine``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["align", "align_data", "align_training", "compare_records", "record_paddle", "record_torch", "transfer"]


_PLACES = {
    "align": "alignment.engine.session",
    "align_data": "alignment.engine.pixels.images",
    "align_training": "alignment.engine.training_session",
    "compare_records": "alignment.engine.offline",
    "record_paddle": "alignment.engine.recording",
    "record_torch": "alignment.engine.recording",
    "transfer": "alignment.engine.transfer",
}
"""The names are imported on first use: most of their modules import both frameworks."""


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
