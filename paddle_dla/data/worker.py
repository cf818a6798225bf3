"""A loader process, and its messages to the main process. Imports no framework.

It is a new interpreter, not a fork and not a child of ``multiprocessing``: it contains nothing of the main process
(Paddle, its threads, the program's main module).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import pickle
import select
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from typing import NamedTuple

from paddle_dla.data.batching import BatchMaker, Job
from paddle_dla.data.errors import DataError, WorkerError
from paddle_dla.data.slots import WAITING, Slots


class Done(NamedTuple):
    """A batch is in a slot: ``count`` samples; ``skipped`` are (name, reason) of those left out."""

    number: int
    slot: int
    count: int
    skipped: list[tuple[str, str]]


class Failed(NamedTuple):
    """The worker has failed. ``data_error`` is the message if the source is the cause; ``trace`` the full traceback."""

    data_error: str | None
    trace: str


def main(connection: Connection, worker: int, memory: int, job: int, lifeline: int) -> None:
    """Make the batches of worker number ``worker``; the arguments after it are open descriptors.

    ``memory``: the slots; ``job``: a file that holds the pickled ``Job``; ``lifeline``: a pipe whose other end the main
    process keeps open.
    """
    _die_with(lifeline)
    try:
        _run(connection, worker, memory, _read_job(job))
    except (BrokenPipeError, ConnectionResetError, EOFError):
        sys.exit(1)  # the main process has exited
    except DataError as error:
        data_error = None if isinstance(error, WorkerError) else str(error)
        connection.send(Failed(data_error, traceback.format_exc()))
    except Exception:  # noqa: BLE001 - whatever it is, the main process raises it
        connection.send(Failed(None, traceback.format_exc()))


def _run(connection: Connection, worker: int, memory: int, job: Job) -> None:
    slots = Slots(job.layout, memory)
    free = list(range(job.layout.slots))
    maker = BatchMaker(job, lambda state: slots.note(worker, state))
    for number in job.numbers(worker):
        if not free:
            slots.note(worker, WAITING)
            free.append(connection.recv())
        slot = free.pop(0)
        count, skipped = maker.make(number, slots.arrays(worker, slot))
        connection.send(Done(number, slot, count, skipped))
        while connection.poll():
            free.append(connection.recv())
    slots.note(worker, WAITING)
    maker.close()


def _read_job(descriptor: int) -> Job:
    with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as data:
        return pickle.loads(data)  # noqa: S301 - written by the main process for this one


def _die_with(lifeline: int) -> None:
    """End this process when the main process ends, even while it is busy or stuck.

    When the pipe's other end closes, the kernel sends SIGIO, which ends the process. A thread that waits for the pipe
    would also wait for Python's lock.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:
        sys.exit(1)  # the main process exited before
