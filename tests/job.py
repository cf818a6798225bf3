"""A job of several ranks that sums numbers, and in which rank 1 goes wrong at step 3 in the way that it is told.

``python job.py WAY [STEPS]``: ``well``, ``slow`` (well, too), ``raise``, ``exit``, ``kill``, ``stop``, ``sleep``. On
SIGTERM all ranks save and leave.
"""

import os
import signal
import sys
import time

import paddle
import paddle.distributed as dist

from paddle_dla.training.heartbeat import Heartbeat


def go_wrong(way: str) -> None:
    if way == "raise":
        raise ValueError("the label is out of range")
    if way == "exit":
        sys.exit(7)
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
    heartbeat = Heartbeat.from_environment(rank)
    for step in range(steps):
        if step == 3 and rank == 1:
            go_wrong(way)
        heartbeat.beat(step, "exchange")
        values = paddle.to_tensor([float(rank + 1), float(len(asked))])
        dist.all_reduce(values)
        print(f"step {step}: {float(values[0])}", flush=True)
        if float(values[1]):
            print("saved", flush=True)
            break
        if way == "slow":
            time.sleep(0.1)
    heartbeat.close()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
