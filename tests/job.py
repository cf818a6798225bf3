"""A job of several ranks that sums numbers, and in which rank 1 goes wrong at step 3 in the way that it is told.

``python job.py WAY [STEPS]``: ``well``, ``slow`` (well, too), ``raise``, ``kill``, ``stop``, ``sleep``. On
SIGTERM all ranks save and leave. ``late`` and ``leave``: the ranks meet, rank 1 after 35 seconds or never.
``alone``: no rank waits for another, and SIGTERM ends each.
"""

import os
import signal
import sys
import time

import paddle
import paddle.distributed as dist

from paddle_dla.launching.heartbeat import Heartbeat
from paddle_dla.ranks import gather, joined


def go_wrong(way: str) -> None:
    if way == "raise":
        raise ValueError("the label is out of range")
    if way == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if way == "sleep":
        time.sleep(600)


def main(way: str, steps: int = 6) -> None:
    asked = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    dist.init_parallel_env()
    rank = dist.get_rank()
    heartbeat = Heartbeat.from_environment()
    for step in range(steps):
        if step == 3 and rank == 1:
            go_wrong(way)
        heartbeat.beat("exchange", step)
        values = paddle.to_tensor([float(rank + 1), float(len(asked))])
        dist.all_reduce(values)
        print(f"step {step}: {float(values[0])}", flush=True)
        if float(values[1]):
            print("saved", flush=True)
            break
        if way == "slow":
            time.sleep(0.1)
    heartbeat.close()


def meet(way: str) -> None:
    with joined() as ranks:
        if ranks.rank == 1 and way == "late":
            time.sleep(35)  # gloo waits for 30
        if ranks.rank == 1 and way == "leave":
            sys.exit(7)
        print(gather(ranks.rank, ranks), flush=True)


if __name__ == "__main__":
    if sys.argv[1] in ("late", "leave"):
        sys.exit(meet(sys.argv[1]))
    if sys.argv[1] == "alone":
        print("step 1", flush=True)
        sys.exit(time.sleep(600))
    main(sys.argv[1], *map(int, sys.argv[2:]))
