"""Looks for ranks that no longer move."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from paddle_dla.launching.ranks import RankState
from paddle_dla.launching.verdict import tail
from paddle_dla.training.heartbeat import DUMP, Beat, read_beat

STACKS = 1.0  # seconds that ranks have to write where they are


def hanging(folder: Path, states: Sequence[RankState], timeout: float) -> list[tuple[RankState, Beat]]:
    """The ranks that hold the job up, once one of them has not beaten for ``timeout`` seconds: mostly one or none.

    A rank that waits for another is as silent as that other. Of the silent ones those are meant that are stopped, else
    those with the fewest beats. Where no rank ever beats none is watched: the program knows nothing of beats.
    """
    running = [state for state in states if state.code is None]
    beats = [(state, read_beat(folder, state.rank) or _first(state)) for state in running]
    if not any(beat.count for _, beat in beats):
        return []
    silent = [(state, beat) for state, beat in beats if time.monotonic() - beat.when > timeout]
    stopped = [(state, beat) for state, beat in silent if is_stopped(state.pid)]
    fewest = min((beat.count for _, beat in silent), default=0)
    return stopped or [(state, beat) for state, beat in silent if beat.count == fewest]


def _first(state: RankState) -> Beat:
    """What stands for the beats of a rank that has made none."""
    return Beat(state.rank, state.pid, 0, 0, "before its first beat", state.started)


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped the process (Linux: proc(5), the state ``T``)."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] == "T"


def end_hanging(folder: Path, states: Sequence[RankState], guilty: Sequence[tuple[RankState, Beat]]) -> list[str]:
    """Have every rank write its stacks to its log, then kill the ``guilty``; the lines that tell of it."""
    lines = [describe(state, beat) for state, beat in guilty]
    if len(guilty) > 1:
        lines.append("they have come equally far: the stacks in their logs tell who waits for whom")
    for state in states:
        if state.code is None and read_beat(folder, state.rank) is not None:
            _send(state.pid, DUMP)
    time.sleep(STACKS)
    for state, _ in guilty:
        lines += tail(state)
        _send(state.pid, signal.SIGKILL)
    return lines


def describe(state: RankState, beat: Beat) -> str:
    """The rank, how long it has been silent, and where."""
    silence = time.monotonic() - beat.when
    where = f"step {beat.step}" + (f", {beat.place}" if beat.place else "")
    stopped = "; a signal has stopped it" if is_stopped(state.pid) else ""
    return f"error: {state} hangs: no sign of life for {silence:.0f} s, the last at {where}{stopped}"


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
