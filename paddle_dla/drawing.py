"""Pictures that look the same everywhere: no ``matplotlibrc`` of a user changes them, or keeps one from being drawn.

Needs matplotlib (extra ``plots``), which is imported when it is called.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from paddle_dla.storage.atomic import atomic_path


@contextmanager
def figure_in(path: str | os.PathLike[str], size: tuple[float, float], dpi: int = 100) -> Iterator[Any]:
    """A ``matplotlib`` figure of ``size`` inches to draw on; when the block ends, it is written to ``path`` (PNG).

    Raises ``CheckpointError`` where it cannot be written.

        with figure_in("loss.png", (6, 4)) as figure:
            figure.subplots().plot(losses)
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context("default"):
        figure = Figure(figsize=size, dpi=dpi, layout="constrained")
        yield figure
        with atomic_path(path) as part:
            figure.savefig(part, format="png")
