"""Find the rank at fault in a job that has ended, and describe it."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from paddle_dla.launching.ends import exit_code
from paddle_dla.launching.ranks import RankState

HUNG = 124  # exit code of timeout(1)
# gloo gives up a collective after 30 seconds, and Paddle has no option for that: a rank that was silent for nearly as
# long when another gave up is the one that it waited for
GLOO = 25.0
# messages of gloo and NCCL about a rank that they have waited for in vain
GAVE_UP = re.compile(r"time-?out|timed out", re.IGNORECASE)
# messages in the last lines of an intact rank when another one has gone
PEER_LOST = re.compile(
    r"gloo/transport/.*(Connection|TIMEOUT|error|closed)|Connection (reset|closed) by peer|Broken pipe"
    r"|connection to (another rank|rank \d+) is lost|ncclRemoteError|ncclSystemError|NCCL error.*(remote|timeout)",
    re.IGNORECASE,
)
LINES = 15  # lines of a log that are shown


def culprit(states: Sequence[RankState]) -> RankState | None:
    """Return the rank that failed first and not because of another one; ``None`` if none has failed.

    The order of the ends is not enough: a rank that raises takes a while to end, and a rank that waited for it, which
    then raises too, may end earlier.
    """
    for candidates in (_own_failures(states), _unrecorded(states), _awaited(states), _failed(states)):
        if candidates:
            return candidates[0]
    return None


def _failed(states: Sequence[RankState]) -> list[RankState]:
    """Return the ranks that failed, in the order of their ends."""
    return sorted((state for state in states if state.failed), key=lambda state: state.ended)


def _own_failures(states: Sequence[RankState]) -> list[RankState]:
    """Return the ranks that raised, were killed or hung; of those that hung, the one farthest behind comes first."""
    hung = sorted((state for state in states if state.hung), key=_progress)
    own = [state for state in _failed(states) if not (state.hung or lost_a_peer(state) or _was_ended(state))]
    before = [state for state in own if not hung or state.ended < min(one.ended for one in hung)]
    return [*before, *hung]


def _progress(state: RankState) -> tuple[bool, int, float]:
    """Return what grows with a rank's progress: a stopped one has made least, one that waits is in a later step."""
    return not state.stopped, state.step, -state.silent


def _was_ended(state: RankState) -> bool:
    """Return whether the launcher has ended the rank: by SIGTERM, which is not how a rank fails by itself."""
    return state.asked and (state.code or 0) < 0


def _unrecorded(states: Sequence[RankState]) -> list[RankState]:
    """Return the ranks whose guardian was killed before it was asked to end: it has recorded no end."""
    return [state for state in states if state.code is None and not state.asked]


def _awaited(states: Sequence[RankState]) -> list[RankState]:
    """Return the ranks that another gave up waiting for: they had been silent, or stopped, when they were ended."""
    if not any(lost_a_peer(state) and _says(state, GAVE_UP) for state in states):
        return []
    ended = [state for state in states if state.asked and not lost_a_peer(state)]
    return sorted((state for state in ended if state.stopped or state.silent > GLOO), key=_progress)


def lost_a_peer(state: RankState) -> bool:
    """Return whether the rank raised because the connection to another one broke."""
    return state.code == 1 and _says(state, PEER_LOST)


def _says(state: RankState, pattern: re.Pattern[str]) -> bool:
    return any(pattern.search(line) for line in state.last_lines(3))


def explain(states: Sequence[RankState]) -> tuple[int, list[str]]:
    """Return the exit code of a job, and the messages on its failure; 0 and none if no rank has failed.

    The messages name the rank, its end, its last output, and the ends of the other ranks.
    """
    guilty = culprit(states)
    if guilty is None:
        return 0, []
    hangs = guilty.hung or guilty in _awaited(states)
    code = HUNG if hangs else exit_code(-signal.SIGKILL if guilty.code is None else guilty.code)
    lines = [f"error: {guilty} {how(guilty, hangs)}"]
    if lost_a_peer(guilty) and len(states) < guilty.ranks:
        lines.append("a rank of another node went first: its node's output says why")
    elif lost_a_peer(guilty):
        lines.append("no rank tells why: each has lost the connection to another")
    others = [f"then {state} {how(state, state.hung)}" for state in states if state is not guilty and state.failed]
    last = [f"    {line}" for line in guilty.last_lines(LINES)]
    return code, [*lines, f"the last lines of {guilty.log}:", *last, *others]


def how(state: RankState, hangs: bool = False) -> str:
    """Describe the end of a rank."""
    if hangs:
        where = f"step {state.step}" + (f", {state.place}" if state.place else "")
        stopped = "; a signal has stopped it" if state.stopped else ""
        return f"hangs: no sign of life for {state.silent:.0f} s, the last at {where}{stopped}"
    if state.code is None:
        return "was killed with its guardian (paddle_dla.launching.one_rank)"
    if state.code >= 0:
        return f"ended with exit code {state.code}"
    name = signal.Signals(-state.code).name
    why = "; out of memory, perhaps: the kernel's log (dmesg) tells" if name == "SIGKILL" else ""
    return f"died of signal {-state.code} ({name}){why}"
