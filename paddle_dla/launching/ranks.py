"""The record of each process of a job on this machine, written by the process's guardian and read by the launcher."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from paddle_dla.storage.atomic import atomic_path
from paddle_dla.storage.json_text import to_json


@dataclass(frozen=True)
class RankState:
    """``rank`` of ``ranks``, the ``local``-th on ``node``; ``log``: the file with its output.

    ``code`` is ``None`` while it runs, then its exit code, or the negative number of a signal. ``ended``: when that
    was, in seconds of this machine's monotonic clock. ``silent``: seconds without a sign of life, the last one at
    ``place`` in ``step``. ``stopped``: a signal has stopped it. ``hung``: its guardian has ended it for its silence.
    ``asked``: the launcher has asked it to end, as it does once another one has failed.
    """

    rank: int
    ranks: int
    local: int
    pid: int
    node: str
    log: str
    code: int | None = None
    ended: float = 0.0
    silent: float = 0.0
    place: str = ""
    step: int = 0
    stopped: bool = False
    hung: bool = False
    asked: bool = False

    @property
    def failed(self) -> bool:
        """Whether it ended with an exit code other than 0."""
        return self.code not in (None, 0)

    def __str__(self) -> str:
        return f"rank {self.rank} (pid {self.pid}, node {self.node})"

    def write(self, folder: Path) -> None:
        """Write this record to ``folder``, whole or not at all."""
        with atomic_path(folder / f"rank{self.rank}.state") as part:
            part.write_text(to_json(asdict(self)), encoding="utf-8")

    def last_lines(self, count: int) -> list[str]:
        """Return the last lines of the log."""
        path = Path(self.log)
        if not path.exists():
            return []
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 200 * count))
            lines = file.read().decode("utf-8", "replace").splitlines()
        return [line for line in lines if line.strip()][-count:]


def read_states(folder: Path) -> list[RankState]:
    """Return the records of all ranks that were started on this machine, in order."""
    files = [path for path in folder.iterdir() if re.fullmatch(r"rank\d+\.state", path.name)]
    states = [RankState(**json.loads(path.read_text(encoding="utf-8"))) for path in files]
    return sorted(states, key=lambda state: state.rank)
