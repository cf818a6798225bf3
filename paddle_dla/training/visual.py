"""Write the records of a run for VisualDL, Paddle's dashboard, if it is installed (extra ``visualdl``).

    visualdl --logdir FOLDER/visualdl --language en

Without ``--language``, VisualDL 2.5.3 returns an error to a browser that requests none of its languages.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from paddle_dla.training.records import Record

PLACES = ("epoch", "step")  # position of a value; all other numbers are curves


def is_installed() -> bool:
    """Return whether VisualDL is installed; a run works without it."""
    return find_spec("visualdl") is not None


class VisualDL:
    """Curves in ``folder``. Existing content is removed, so that a repeated update is shown once."""

    def __init__(self, folder: Path):
        from visualdl import LogWriter

        for old in folder.glob("vdlrecords.*"):
            old.unlink()
        self._writer = LogWriter(logdir=str(folder))

    def add(self, record: Record) -> None:
        """Add the numbers of one update or validation, under names such as ``train/loss``."""
        if "step" in record:
            for name, value in record.items():
                if isinstance(value, float) and name not in PLACES:
                    self._writer.add_scalar(tag=f"{record['kind']}/{name}", step=record["step"], value=value)

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()
