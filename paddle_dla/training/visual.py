"""The records of a run for VisualDL, Paddle's dashboard, where it is installed (extra ``visualdl``).

    visualdl --logdir FOLDER/visualdl --language en

Without ``--language``, VisualDL 2.5.3 answers a browser that names no language it knows with an error.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from paddle_dla.training.records import Record

PLACES = ("epoch", "step")  # where a value belongs; all other numbers are curves


def is_installed() -> bool:
    """Whether VisualDL is there; a run does without."""
    return find_spec("visualdl") is not None


class VisualDL:
    """Curves in ``folder``; what was there goes, so that an update that is done again is shown once."""

    def __init__(self, folder: Path):
        from visualdl import LogWriter

        for old in folder.glob("vdlrecords.*"):
            old.unlink()
        self._writer = LogWriter(logdir=str(folder))

    def add(self, record: Record) -> None:
        """Show the numbers of one update or validation, as ``train/loss``."""
        if "step" in record:
            for name, value in record.items():
                if isinstance(value, float) and name not in PLACES:
                    self._writer.add_scalar(tag=f"{record['kind']}/{name}", step=record["step"], value=value)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
