"""Heartbeats: a rank writes where it is, so that its guardian can tell a rank that hangs from one that works.

A beat is one small write to a file that stays open: it costs microseconds and no disk access. No framework.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from paddle_dla.storage.json_text import to_json

FILE_VARIABLE = "PADDLE_DLA_HEARTBEAT"  # set by a guardian to the file of its rank
WIDTH = 256  # bytes of a beat: a single write, which a reader sees as a whole
DUMP = signal.SIGUSR1  # asks a rank to write its stacks to stderr


@dataclass(frozen=True)
class Beat:
    """The ``count``-th beat of a rank: it was at ``place`` in ``step``."""

    count: int
    step: int
    place: str


class Heartbeat:
    """The beats of this process, in ``file``; without a file it does nothing, at no cost.

    Once it is created, the signal ``DUMP`` makes this process write the stacks of its threads to stderr.
    """

    def __init__(self, file: str | os.PathLike[str] | None):
        self._beat, self._file = Beat(0, 0, ""), None
        if file is None:
            return
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
        if sys.__stderr__ is not None:  # a process may be started without stderr
            faulthandler.register(DUMP, file=sys.__stderr__)

    @classmethod
    def from_environment(cls) -> Heartbeat:
        """Create the heartbeat for the guardian of this process, if it has one."""
        return cls(os.environ.get(FILE_VARIABLE))

    @property
    def is_heard(self) -> bool:
        """Whether a guardian reads the beats."""
        return self._file is not None

    def beat(self, place: str | None = None, step: int | None = None) -> None:
        """Report that this rank is at ``place`` in ``step``; by default both are those of the last beat."""
        last = self._beat
        self._beat = Beat(last.count + 1, last.step if step is None else step, last.place if place is None else place)
        if self._file is not None:
            text = to_json([self._beat.count, self._beat.step, self._beat.place[: WIDTH // 8]])
            os.pwrite(self._file, text.encode("ascii").ljust(WIDTH), 0)

    def close(self) -> None:
        """Report that this rank is done: from now on its silence is ignored."""
        if self._file is not None:
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = None
            faulthandler.unregister(DUMP)


def read_beat(file: Path) -> Beat | None:
    """Return the last beat in ``file``; ``None`` before the first one, and once the rank is done."""
    try:
        return Beat(*json.loads(file.read_bytes()))
    except (FileNotFoundError, ValueError):
        return None
