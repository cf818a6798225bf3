"""Which of how many processes this is, and how they exchange results: Paddle's own launcher and collectives.

``python -m paddle.distributed.launch --nproc_per_node 2 ...`` starts the processes and tells each its place through the
environment; without it there is one. Paddle is imported only where there are several.

Ranks meet before they exchange (``Ranks.meet``): a wait has no limit then but the launcher's ``--hang-timeout``.
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

UNWATCHED = 1800.0  # seconds that ranks wait for each other where no launcher watches them: what Paddle gives NCCL


@dataclass(frozen=True)
class Ranks:
    """``rank`` counts from 0 to ``count`` - 1; ``heart`` tells a launcher that this rank lives."""

    rank: int = 0
    count: int = 1
    heart: Heartbeat = field(default_factory=lambda: Heartbeat(None, 0), compare=False, repr=False)
    meeting: Meeting | None = field(default=None, compare=False, repr=False)

    @property
    def first(self) -> bool:
        """Whether this is the one that speaks and writes."""
        return self.rank == 0

    def meet(self) -> None:
        """Wait until all ranks are here; all must call this. Raises ``LostRankError`` where one has ended."""
        if self.meeting is not None:
            self.heart.beat()
            self.meeting.wait()
            self.heart.alive()


@contextmanager
def joined() -> Iterator[Ranks]:
    """This process's place; where there are several, all must call this, and are connected within it."""
    rank = int(os.environ.get("PADDLE_TRAINER_ID", "0"))
    count = int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))
    heart = Heartbeat.from_environment(rank)
    heart.beat("start")
    try:
        if count == 1:
            heart.rest("opening")
            yield Ranks(heart=heart)
        else:
            meeting = _connect(rank, count, heart)
            heart.rest("opening")
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
    return connect(rank, count, host, _all_gather, lambda: heart.alive("waiting"), limit)


def gather(value: Value, ranks: Ranks) -> list[Value]:
    """The value of every rank, in their order, on every rank; all must call this."""
    if ranks.count == 1:
        return [value]
    ranks.meet()
    return _all_gather(value)


def _all_gather(value: Value) -> list[Value]:
    import paddle

    values: list[Value] = []
    paddle.distributed.all_gather_object(values, value)
    return values
