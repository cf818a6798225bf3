"""Which rank was at fault, and the words for it."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from paddle_dla.launching.ranks import RankState

LINES = 15  # of a log that are shown
# what a rank that is well says, in its last lines, when another one is gone
PEER_LOST = re.compile(
    r"gloo/transport/.*(Connection|TIMEOUT|error|closed)|Connection (reset|closed) by peer|Broken pipe"
    r"|connection to another rank is lost|ncclRemoteError|ncclSystemError|NCCL error.*(remote|timeout)",
    re.IGNORECASE,
)


def culprit(states: Sequence[RankState]) -> RankState | None:
    """The rank that failed first and not because another was gone; ``None`` where none has failed.

    The order of the ends alone would not do: a rank that raises takes a while to end, and one that waited for it, which
    then raises too, may be faster.
    """
    failed = sorted((state for state in states if state.failed), key=lambda state: state.ended or 0.0)
    if not failed:
        return None
    # the launcher ends the others by SIGTERM and SIGKILL: a signal tells of a fault only in the first
    own = [state for state in failed if not lost_a_peer(state) and (state.code > 0 or state is failed[0])]
    return own[0] if own else failed[0]


def lost_a_peer(state: RankState) -> bool:
    """Whether the rank raised because the connection to another broke."""
    return state.code == 1 and any(PEER_LOST.search(line) for line in state.last_lines(3))


def explain(states: Sequence[RankState]) -> list[str]:
    """The lines that tell what went wrong: the rank, its end, the last that it printed, the other ranks' ends."""
    guilty = culprit(states)
    if guilty is None:
        return []
    lines = [f"error: {guilty} {how(guilty)}"]
    if lost_a_peer(guilty):
        lines.append("a rank of another node went first: its node's output says why")
    others = [state for state in states if state is not guilty]
    return lines + tail(guilty) + [f"then {state} {how(state)}" for state in others if state.failed]


def tail(state: RankState) -> list[str]:
    """The last lines that a rank has printed, under a heading."""
    return [f"the last lines of {state.log}:", *(f"    {line}" for line in state.last_lines(LINES))]


def how(state: RankState) -> str:
    """The end of a rank, in words."""
    if state.code is None or state.code >= 0:
        return f"ended with exit code {state.code}"
    name = signal.Signals(-state.code).name
    why = "; out of memory, perhaps: the kernel's log (dmesg) tells" if name == "SIGKILL" else ""
    return f"died of signal {-state.code} ({name}){why}"
