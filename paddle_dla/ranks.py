"""Which of how many processes this is, and how they exchange results: Paddle's own launcher and collectives.

``python -m paddle.distributed.launch --nproc_per_node 2 ...`` starts the processes and tells each its place through the
environment; without it there is one. Paddle is imported only where there are several.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """``rank`` counts from 0 to ``count`` - 1."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that speaks and writes."""
        return self.rank == 0


def join() -> Ranks:
    """This process's place; where there are several, all must call this, and are connected afterwards."""
    count = int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))
    if count == 1:
        return Ranks()
    import paddle

    paddle.distributed.init_parallel_env()
    return Ranks(int(os.environ["PADDLE_TRAINER_ID"]), count)


def gather(value: Value, ranks: Ranks) -> list[Value]:
    """The value of every rank, in their order, on every rank; all must call this."""
    if ranks.count == 1:
        return [value]
    import paddle

    values: list[Value] = []
    paddle.distributed.all_gather_object(values, value)
    return values
