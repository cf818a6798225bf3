"""Heartbeats: each rank reports its place at every step, so that a hanging rank can be told from those that wait.

A beat is one small write to a file that stays open: it costs microseconds and no disk access. No framework.
"""

from __future__ import annotations

import faulthandler
import json
import math
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from paddle_dla.storage.json_text import to_json

FOLDER_VARIABLE = "PADDLE_DLA_HEARTBEAT"  # set by a launcher to the folder
WIDTH = 256  # bytes of a beat: a single write, which a reader sees as a whole
DUMP = signal.SIGUSR1  # asks a rank to write its stacks to stderr


@dataclass(frozen=True)
class Beat:
    """``count`` beats so far, the last of them at ``since``; ``when``: the last sign of life of any kind.

    Both are seconds of this machine's monotonic clock; infinite for a rank that need not send any.
    """

    rank: int
    pid: int
    count: int
    step: int
    place: str
    when: float
    since: float


class Heartbeat:
    """The beats of one rank, in ``folder``; without a folder it does nothing, at no cost.

    Once it is created, the signal ``DUMP`` makes this process write the stacks of its threads to stderr.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, rank: int):
        self._count, self._since, self._step, self._place, self._file = 0, 0.0, 0, "", None
        if folder is None:
            return
        self._file = os.open(_path(folder, rank), os.O_WRONLY | os.O_CREAT, 0o600)
        if sys.__stderr__ is not None:  # a process may be started without stderr
            faulthandler.register(DUMP, file=sys.__stderr__)

    @classmethod
    def from_environment(cls, rank: int) -> Heartbeat:
        """Create the heartbeat for the launcher that started this process, if it is one that reads beats."""
        return cls(os.environ.get(FOLDER_VARIABLE), rank)

    @property
    def is_heard(self) -> bool:
        """Whether a launcher reads the beats."""
        return self._file is not None

    def beat(self, place: str | None = None, step: int | None = None) -> None:
        """Report that this rank has reached ``place`` in ``step``, by default the step of the last beat.

        All ranks beat at the same places in the same order: the rank with the fewest beats is where a job hangs.
        """
        self._count, self._since = self._count + 1, time.monotonic()
        self._step = self._step if step is None else step
        self._place = self._place if place is None else place
        self.alive()

    def alive(self, place: str | None = None, step: int | None = None) -> None:
        """Report that this rank is doing work that the others wait for, such as a checkpoint. Not counted as a beat."""
        place, step = self._place if place is None else place, self._step if step is None else step
        self._write(step, place, time.monotonic())

    def rest(self, place: str) -> None:
        """Report that this rank starts work of unknown length, such as opening data; it is then silent for a while."""
        self._write(self._step, place, math.inf)

    def _write(self, step: int, place: str, when: float) -> None:
        if self._file is None:
            return
        beat = [os.getpid(), self._count, step, place[: WIDTH // 8], when, self._since]
        os.pwrite(self._file, to_json(beat).encode("ascii").ljust(WIDTH), 0)

    def close(self) -> None:
        """Report that the rank is done: from now on its silence is ignored."""
        if self._file is not None:
            self._since = math.inf
            self._write(-1, "done", math.inf)
            os.close(self._file)
            self._file = None
            faulthandler.unregister(DUMP)


def read_beat(folder: str | os.PathLike[str], rank: int) -> Beat | None:
    """Return the last beat of ``rank``; ``None`` if there is none."""
    try:
        pid, count, step, place, when, since = json.loads(_path(folder, rank).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    # JSON has no infinity
    return Beat(rank, pid, count, step, place, *(math.inf if moment is None else moment for moment in (when, since)))


def _path(folder: str | os.PathLike[str], rank: int) -> Path:
    return Path(folder, f"rank{rank}.beat")
