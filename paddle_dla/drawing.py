"""Pictures that look the same everywhere: a user's ``matplotlibrc`` neither changes them nor makes drawing fail.

Needs matplotlib (extra ``plots``), which is imported on the first call.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from paddle_dla.storage.atomic import atomic_path


@contextmanager
def figure_in(path: str | os.PathLike[str], size: tuple[float, float], dpi: int = 100) -> Iterator[Any]:
    """Yield a ``matplotlib`` figure of ``size`` inches. At the end of the block it is written to ``path`` (PNG).

    Raises ``CheckpointError`` if the file cannot be written.

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
