"""Find the rank at fault, and describe it."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from paddle_dla.launching.ranks import RankState

# messages of gloo and NCCL about a rank that they have waited for in vain
GAVE_UP = re.compile(r"time-?out|timed out", re.IGNORECASE)
LINES = 15  # lines of a log that are shown
# seconds from the first failure in which only the user can have killed a guardian: Paddle's launcher asks first, and
# gives the ranks at least 3 seconds
ASKED = 2.0
# messages in the last lines of an intact rank when another one has gone
PEER_LOST = re.compile(
    r"gloo/transport/.*(Connection|TIMEOUT|error|closed)|Connection (reset|closed) by peer|Broken pipe"
    r"|connection to (another rank|rank \d+) is lost|ncclRemoteError|ncclSystemError|NCCL error.*(remote|timeout)",
    re.IGNORECASE,
)


def culprit(states: Sequence[RankState]) -> RankState | None:
    """Return the rank that failed first and not because another had gone; ``None`` if none has failed.

    The order of the ends is not enough: a rank that raises takes a while to end, and a rank that waited for it, which
    then raises too, may end earlier.
    """
    failed = _failed(states)
    if not failed:
        return None
    own = [state for state in failed if not lost_a_peer(state) and _by_itself(state, failed[0])]
    return own[0] if own else failed[0]


def _failed(states: Sequence[RankState]) -> list[RankState]:
    """Return the ranks that failed, in the order of their ends."""
    return sorted((state for state in states if state.failed), key=lambda state: state.ended)


def first_to_give_up(states: Sequence[RankState]) -> RankState | None:
    """Return the rank that ended because another did not arrive in time; ``None`` if there is none."""
    return next((state for state in _failed(states) if lost_a_peer(state) and _says(state, GAVE_UP)), None)


def _by_itself(state: RankState, first: RankState) -> bool:
    """Return whether the rank ended by itself: the launcher ends the others by SIGTERM and SIGKILL."""
    early = state.orphaned and state.ended - first.ended < ASKED
    return (state.code or 0) > 0 or state is first or early


def lost_a_peer(state: RankState) -> bool:
    """Return whether the rank raised because the connection to another one broke."""
    return state.code == 1 and _says(state, PEER_LOST)


def _says(state: RankState, pattern: re.Pattern[str]) -> bool:
    return any(pattern.search(line) for line in state.last_lines(3))


def explain(states: Sequence[RankState]) -> list[str]:
    """Return the messages on a failure: the rank, its end, its last output, the ends of the other ranks."""
    guilty = culprit(states)
    if guilty is None:
        return []
    lines = [f"error: {guilty} {how(guilty)}"]
    if lost_a_peer(guilty) and len(states) < guilty.ranks:
        lines.append("a rank of another node went first: its node's output says why")
    elif lost_a_peer(guilty):
        lines.append("no rank tells why: each has lost the connection to another")
    others = [state for state in states if state is not guilty]
    return lines + tail(guilty) + [f"then {state} {how(state)}" for state in others if state.failed]


def tail(state: RankState) -> list[str]:
    """Return the last lines that a rank has printed, under a heading."""
    return [f"the last lines of {state.log}:", *(f"    {line}" for line in state.last_lines(LINES))]


def how(state: RankState) -> str:
    """Describe the end of a rank."""
    if state.code is None or state.code >= 0:
        return f"ended with exit code {state.code}"
    name = signal.Signals(-state.code).name
    why = "; out of memory, perhaps: the kernel's log (dmesg) tells" if name == "SIGKILL" else ""
    if state.orphaned:
        why = ", with its guardian (paddle_dla.launching.one_rank), which was killed" + why
    return f"died of signal {-state.code} ({name}){why}"
