"""What is known of each process of a job on this machine: written by the process's guardian, read by the launcher."""

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
    """``rank`` of ``ranks``, the ``local``-th on ``node``; ``log``: what it printed; ``guardian``: a process id.

    ``code`` is ``None`` while it runs, then its exit code, or less a signal's number; ``started``, ``ended`` and
    ``stopped`` are seconds of this machine's monotonic clock. ``ended``: 0 while it runs; ``stopped``: since when a
    signal has stopped it.
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
        """Whether it ended otherwise than with exit code 0."""
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
    return sorted((_read(path) for path in files), key=lambda state: state.rank)


def _read(path: Path) -> RankState:
    """The state at ``path``; the end of a rank whose guardian was killed is written in its place."""
    state = RankState(**json.loads(path.read_text(encoding="utf-8")))
    if state.code is not None or is_guarded(path.parent, state.rank):
        return state
    state = RankState(**json.loads(path.read_text(encoding="utf-8")))  # the guardian has ended: this is its last word
    if state.code is None:
        state = replace(state, code=-signal.SIGKILL, ended=time.monotonic(), orphaned=True)
        state.write(path.parent)
    return state


def guard(folder: Path, rank: int) -> None:
    """Show that this process guards ``rank``, until it ends: by a lock, which the kernel takes back then."""
    descriptor = os.open(_guard_file(folder, rank), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # kept open: closing would unlock


def is_guarded(folder: Path, rank: int) -> bool:
    """Whether the process that called ``guard`` is there."""
    with open(_guard_file(folder, rank), "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _guard_file(folder: Path, rank: int) -> Path:
    return folder / f"rank{rank}.guard"
