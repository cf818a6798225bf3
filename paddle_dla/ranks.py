"""The rank of this process, and the exchange of results between ranks: Paddle's own launcher and collectives.

``python -m paddle.distributed.launch --nproc_per_node 2 ...`` starts the processes and passes each its rank through the
environment. Without it there is one process. Paddle is imported only if there are several.

Ranks meet before they exchange (``Ranks.meet``). After that, only the launcher's ``--hang-timeout`` limits a wait.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from paddle_dla.launching.heartbeat import Heartbeat
from paddle_dla.launching.meeting import Meeting, connect

Value = TypeVar("Value")

UNWATCHED = 1800.0  # seconds that ranks wait for each other if no launcher watches them: Paddle's value for NCCL


@dataclass(frozen=True)
class Ranks:
    """The place of this process: ``rank`` counts from 0 to ``count`` - 1; ``heart`` sends heartbeats to a guardian."""

    rank: int = 0
    count: int = 1
    heart: Heartbeat = field(default_factory=lambda: Heartbeat(None), compare=False, repr=False)
    meeting: Meeting | None = field(default=None, compare=False, repr=False)

    @property
    def first(self) -> bool:
        """Whether this is the first rank, which prints and writes."""
        return self.rank == 0

    def meet(self) -> None:
        """Wait until all ranks are here; all must call this. Raises ``LostRankError`` if one has ended."""
        if self.meeting is not None:
            self.heart.beat()
            self.meeting.wait()
            self.heart.beat()


@contextmanager
def joined() -> Iterator[Ranks]:
    """Yield this process's ranks. Several processes must all call this; they are connected within the block."""
    rank = int(os.environ.get("PADDLE_TRAINER_ID", "0"))
    count = int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))
    heart = Heartbeat.from_environment()
    heart.beat("start")
    try:
        if count == 1:
            heart.beat("opening")
            yield Ranks(heart=heart)
        else:
            meeting = _connect(rank, count, heart)
            heart.beat("opening")
            try:
                yield Ranks(rank, count, heart, meeting)
            finally:
                meeting.close()
    finally:
        heart.close()


def _connect(rank: int, count: int, heart: Heartbeat) -> Meeting:
    import paddle

    paddle.distributed.init_parallel_env()
    host = os.environ["PADDLE_CURRENT_ENDPOINT"].rpartition(":")[0]
    limit = math.inf if heart.is_heard else UNWATCHED
    return connect(rank, count, host, _all_gather, heart.beat, limit)


def gather(value: Value, ranks: Ranks) -> list[Value]:
    """Return the values of all ranks, in rank order, on every rank; all must call this."""
    if ranks.count == 1:
        return [value]
    ranks.meet()
    return _all_gather(value)


def _all_gather(value: Value) -> list[Value]:
    import paddle

    values: list[Value] = []
    paddle.distributed.all_gather_object(values, value)
    return values
