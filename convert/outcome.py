"""Results of a conversion: Paddle names and arrays with the manifest that accounts for them, or an error."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

import paddle_dla
from convert.audit import MISSING
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.shown import shown
from paddle_dla.storage.values import SHOWN, listed


@dataclass(frozen=True)
class Conversion:
    """A finished conversion.

    ``arrays`` are by Paddle name, in the model's order. ``manifest`` has the content that is written to disk.
    ``warnings`` are shown to the user.
    """

    model: str
    num_classes: int
    in_chans: int
    arrays: dict[str, np.ndarray]
    manifest: dict[str, Any]
    warnings: list[str] = field(default_factory=list)


class ConversionError(CheckpointError):
    """Raised if a source does not match the model exactly; ``faults`` has one line per difference.

    The message shows the first few.
    """

    def __init__(self, message: str, faults: list[str]):
        missing = [shown(fault) for fault in faults if MISSING in fault]
        others = [shown(fault) for fault in faults if MISSING not in fault]
        half = SHOWN // 2
        # show missing and other tensors, so that both spellings of a renamed tensor appear
        super().__init__(listed(message, [*missing[:half], *others[:half], *missing[half:], *others[half:]]))
        self.faults = faults


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of this project, of Python, and of those ``packages`` that are installed."""
    found = {"paddle_dla": paddle_dla.__version__, "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
