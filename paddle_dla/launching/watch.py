"""Find ranks that hang."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from paddle_dla.launching.heartbeat import DUMP, Beat, read_beat
from paddle_dla.launching.ranks import RankState
from paddle_dla.launching.verdict import first_to_give_up, tail

# shortest time in seconds that a rank has for starting: importing Paddle and connecting takes 5, on a busy machine 20
STARTING = 60.0
STACKS = 1.0  # seconds that ranks have for writing their stacks
# gloo ends a collective after 30 seconds of waiting, and Paddle has no option for that; if a rank was silent for nearly
# as long when another failed, the other one waited for it
GLOO = 25.0

Beats = list[tuple[RankState, Beat]]


def hanging(folder: Path, states: Sequence[RankState], timeout: float, watched: float = 0.0) -> Beats:
    """Return the ranks that block the job, once one has been silent for ``timeout`` seconds: mostly one or none.

    A rank that waits in a meeting sends heartbeats; one that waits in a collective is as silent as the rank that it
    waits for. If no rank ever sends a beat, none is watched: the program does not support it. Silence counts from
    ``watched`` on, because a scheduler may have stopped the whole job before.
    """
    beats = [(state, last_beat(folder, state)) for state in states if state.code is None]
    if not any(beat.count for _, beat in beats):
        return []
    farthest = max((beat for _, beat in beats), key=lambda beat: beat.count)
    now = time.monotonic()

    def is_silent(state: RankState, beat: Beat) -> bool:
        return now - max(watched, silent_since(state, beat, farthest)) > _limit(beat, timeout)

    return _guilty(beats, is_silent)


def _limit(beat: Beat, timeout: float) -> float:
    return timeout if beat.count > 1 else max(timeout, STARTING)


def silent_since(state: RankState, beat: Beat, farthest: Beat) -> float:
    """Return when the rank's silence began. For a rank at rest, that is when another went ahead, which waits for it."""
    if state.stopped:
        return max(state.stopped, beat.when if beat.when < math.inf else 0.0)
    if beat.when < math.inf or beat.count >= farthest.count:
        return beat.when
    return max(beat.since, farthest.since)


def stalled(folder: Path, states: Sequence[RankState]) -> Beats:
    """Return the ranks that others gave up waiting for, in a job that has ended; none if it ended for another reason.

    These are the ranks that had been silent, or stopped, when the first one gave up, according to their recorded state.
    """
    first = first_to_give_up(states)
    if first is None:
        return []
    ended = [state for state in states if state.code is None or (state.code < 0 and state.ended > first.ended)]
    others = [(state, last_beat(folder, state)) for state in ended]
    return _guilty(others, lambda state, beat: bool(state.stopped) or first.ended - beat.when > GLOO)


def _guilty(beats: Beats, silent: Callable[[RankState, Beat], bool]) -> Beats:
    """Return the ``silent`` ranks that a signal has stopped, else those with the fewest beats of all."""
    found = [(state, beat) for state, beat in beats if silent(state, beat)]
    stopped = [(state, beat) for state, beat in found if state.stopped]
    fewest = min((beat.count for _, beat in beats), default=0)
    return stopped or [(state, beat) for state, beat in found if beat.count == fewest]


def last_beat(folder: Path, state: RankState) -> Beat:
    """Return the last beat of a rank, or a substitute for a rank without one."""
    begun = state.started
    return read_beat(folder, state.rank) or Beat(state.rank, state.pid, 0, 0, "before its first beat", begun, begun)


def wake_guardians(states: Sequence[RankState]) -> None:
    """Continue guardians that a signal has stopped, once their ranks have ended, so that they can record it."""
    for state in states:
        if state.code is None and has_ended(state.pid):
            _send(state.guardian, signal.SIGCONT)


def has_ended(pid: int) -> bool:
    """Return whether the process has exited or is a zombie (Linux: proc(5), the states ``Z`` and ``X``)."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return sys.platform.startswith("linux")
    return status.rpartition(")")[2].split()[0] in "ZX"


def end_hanging(folder: Path, states: Sequence[RankState], guilty: Beats) -> list[str]:
    """Make every rank write its stacks to its log, then kill the ``guilty`` ones. Returns the messages about them."""
    now, farthest = time.monotonic(), max((last_beat(folder, state) for state in states), key=lambda beat: beat.count)
    lines = [describe(state, beat, now - silent_since(state, beat, farthest)) for state, beat in guilty]
    if len(guilty) > 1:
        lines.append("they have reached the same place: the stacks in their logs show which waits for which")
    for state in states:
        if state.code is None and read_beat(folder, state.rank) is not None:
            _send(state.pid, DUMP)
    time.sleep(STACKS)
    for state, _ in guilty:
        lines += tail(state)
        _send(state.pid, signal.SIGKILL)
    return lines


def explain_stalled(states: Sequence[RankState], guilty: Beats) -> list[str]:
    """Return the messages about ``guilty`` ranks, for which others have waited in vain."""
    first = first_to_give_up(states)
    assert first is not None  # without it ``stalled`` returns no rank
    lines = [describe(state, beat, first.ended - (state.stopped or beat.when)) for state, beat in guilty]
    lines.append(f"{first} waited for it in a collective and gave up after gloo's limit of 30 s")
    return lines + [line for state, _ in guilty for line in tail(state)]


def describe(state: RankState, beat: Beat, silence: float) -> str:
    """Describe the rank, the seconds for which it has been silent, and where."""
    where = f"step {beat.step}" + (f", {beat.place}" if beat.place else "")
    stopped = "; a signal has stopped it" if state.stopped else ""
    return f"error: {state} hangs: no sign of life for {silence:.0f} s, the last at {where}{stopped}"


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
