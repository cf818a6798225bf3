"""The state of each process of a job on this machine, written by the process's guardian and read by the launcher."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from paddle_dla.storage.atomic import atomic_path
from paddle_dla.storage.json_text import to_json


@dataclass(frozen=True)
class RankState:
    """``rank`` of ``ranks``, the ``local``-th on ``node``; ``log``: its output; ``guardian``: a process id.

    ``code`` is ``None`` while it runs, then its exit code, or the negative number of a signal. ``started``, ``ended``
    and ``stopped`` are seconds of this machine's monotonic clock. ``ended``: 0 while it runs; ``stopped``: when a
    signal stopped it.
    ``orphaned``: it ended because its guardian was killed.
    """

    rank: int
    ranks: int
    local: int
    pid: int
    node: str
    log: str
    started: float
    code: int | None = None
    ended: float = 0.0
    stopped: float | None = None
    guardian: int = 0
    orphaned: bool = False

    @property
    def failed(self) -> bool:
        """Whether it ended with an exit code other than 0."""
        return self.code not in (None, 0)

    def __str__(self) -> str:
        return f"rank {self.rank} (pid {self.pid}, node {self.node})"

    def write(self, folder: Path) -> None:
        """Write this state to ``folder``, whole or not at all."""
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
    """Return all ranks that were started on this machine, in order."""
    files = [path for path in folder.iterdir() if re.fullmatch(r"rank\d+\.state", path.name)]
    return sorted((_read(path) for path in files), key=lambda state: state.rank)


def _read(path: Path) -> RankState:
    """Read the state at ``path``. If the guardian of a rank was killed, its end is written there."""
    state = RankState(**json.loads(path.read_text(encoding="utf-8")))
    if state.code is not None or is_guarded(path.parent, state.rank):
        return state
    state = RankState(**json.loads(path.read_text(encoding="utf-8")))  # its guardian has ended: this record is final
    if state.code is None:
        state = replace(state, code=-signal.SIGKILL, ended=time.monotonic(), orphaned=True)
        state.write(path.parent)
    return state


def guard(folder: Path, rank: int) -> None:
    """Mark this process as the guardian of ``rank`` until it ends: by a lock, which the kernel then releases."""
    descriptor = os.open(_guard_file(folder, rank), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # not closed: closing would unlock


def is_guarded(folder: Path, rank: int) -> bool:
    """Return whether the process that called ``guard`` is running."""
    with open(_guard_file(folder, rank), "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _guard_file(folder: Path, rank: int) -> Path:
    return folder / f"rank{rank}.guard"
