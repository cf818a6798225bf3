"""What is known of each process of a job on this machine: written by the process's guardian, read by the launcher."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from paddle_dla.storage.atomic import atomic_path
from paddle_dla.storage.json_text import to_json


@dataclass(frozen=True)
class RankState:
    """``rank`` of ``ranks``, the ``local``-th on ``node``; ``log``: what it printed.

    ``code`` is ``None`` while it runs, then its exit code, or less a signal's number; ``started`` and ``ended`` are
    seconds of this machine's monotonic clock.
    """

    rank: int
    ranks: int
    local: int
    pid: int
    node: str
    log: str
    started: float
    code: int | None = None
    ended: float | None = None

    @property
    def failed(self) -> bool:
        return self.code not in (None, 0)

    def __str__(self) -> str:
        return f"rank {self.rank} (pid {self.pid}, node {self.node})"

    def write(self, folder: Path) -> None:
        """Leave this in ``folder``, whole or not at all."""
        with atomic_path(folder / f"rank{self.rank}.state") as part:
            part.write_text(to_json(asdict(self)), encoding="utf-8")

    def last_lines(self, count: int) -> list[str]:
        """The end of the log."""
        path = Path(self.log)
        if not path.exists():
            return []
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 200 * count))
            lines = file.read().decode("utf-8", "replace").splitlines()
        return [line for line in lines if line.strip()][-count:]


def read_states(folder: Path) -> list[RankState]:
    """All ranks of this machine that were started, in order."""
    files = [path for path in folder.iterdir() if re.fullmatch(r"rank\d+\.state", path.name)]
    states = [RankState(**json.loads(path.read_text(encoding="utf-8"))) for path in files]
    return sorted(states, key=lambda state: state.rank)
