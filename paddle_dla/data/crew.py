"""The main process's side of the workers: start them, receive batches, report failures, end them."""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from paddle_dla.data.batching import Job
from paddle_dla.data.errors import DataError, WorkerError
from paddle_dla.data.slots import MIXING, STARTING, Arrays, Slots, anonymous_file
from paddle_dla.data.worker import Done, Failed

_START = (
    "import sys; from multiprocessing.connection import Connection; connection = Connection({connection}); "
    "sys.path[:] = connection.recv(); from paddle_dla.data.worker import main; "
    "main(connection, {worker}, {memory}, {job}, {lifeline})"
)
# a worker computes in one thread: there are as many workers as requested threads
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_LOOK = 0.5  # seconds between two checks whether a silent worker is stuck
_STARTED = 60.0  # seconds in which a worker must have imported what it needs; it usually takes a tenth of one
_END = 5.0  # seconds that the system may take to end a killed process; it takes milliseconds


class _Pickler(pickle.Pickler):
    def persistent_id(self, thing: object) -> None:
        """Refuse objects that a worker could not import."""
        if getattr(thing, "__module__", None) == "__main__" and (name := getattr(thing, "__qualname__", None)):
            raise pickle.PicklingError(f"{name} is defined in the program that was started")


def pickled(job: Job) -> bytes:
    """Pickle the job for the workers. Raises ``DataError`` if part of it cannot be sent to another process."""
    data = io.BytesIO()
    try:
        _Pickler(data, pickle.HIGHEST_PROTOCOL).dump(job)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise DataError(
            f"source and transforms cannot go to worker processes: {error}; make them of classes and functions at the "
            "top of an importable module, or use workers=0"
        ) from error
    return data.getvalue()


class Crew:
    """The running workers of one job. The code that starts a crew must close it."""

    def __init__(self, job: Job, timeout: float):
        self._job = job
        self._timeout = timeout
        self._owner = os.getpid()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._connections: list[Connection] = []
        self._lifelines: list[int] = []
        data = pickled(job)
        with ExitStack() as files:
            memory, job_file = anonymous_file(job.layout.size), anonymous_file(len(data))
            files.callback(os.close, memory)
            files.callback(os.close, job_file)
            _write(job_file, data)
            self.slots = Slots(job.layout, memory)
            try:
                for worker in range(job.layout.workers):
                    self._start(worker, memory, job_file)
            except BaseException:
                self.close()
                raise

    def _start(self, worker: int, memory: int, job: int) -> None:
        ours, theirs = Pipe()
        self._connections.append(ours)
        lifeline, keep = os.pipe()
        self._lifelines.append(keep)
        self.slots.note(worker, STARTING)
        descriptors = {"connection": theirs.fileno(), "memory": memory, "job": job, "lifeline": lifeline}
        try:
            process = subprocess.Popen(
                # -P: a file random.py in the current folder must not replace Python's module
                [sys.executable, "-P", "-c", _START.format(worker=worker, **descriptors)],
                pass_fds=tuple(descriptors.values()),
                stdin=subprocess.DEVNULL,
                env={**os.environ, **_ENVIRONMENT},
                process_group=0,  # Ctrl-C goes to the main process only, which ends the workers
            )
        finally:
            theirs.close()
            os.close(lifeline)
        self._processes.append(process)
        with suppress(BrokenPipeError, ConnectionResetError):  # it has already died: see receive()
            ours.send(sys.path)

    @property
    def pids(self) -> list[int]:
        """The workers' process ids."""
        return [process.pid for process in self._processes]

    def receive(self, worker: int) -> Done:
        """Return the next batch of a worker. Raises ``WorkerError`` if it is dead, stuck or has failed."""
        connection = self._connections[worker]
        try:
            self._await(worker)
            message = connection.recv()
        except (EOFError, ConnectionResetError, BrokenPipeError):
            raise self._death(worker) from None
        if isinstance(message, Failed):
            raise self._failure(worker, message)
        return message

    def arrays(self, worker: int, slot: int) -> Arrays:
        """Return a slot's arrays as views."""
        return self.slots.arrays(worker, slot)

    def release(self, worker: int, slot: int) -> None:
        """Return a slot to its worker, which writes the next batch there."""
        with suppress(BrokenPipeError, ConnectionResetError):  # it has ended: after its last batch, or see receive()
            self._connections[worker].send(slot)

    def _await(self, worker: int) -> None:
        """Wait for a message of a worker. Raises ``WorkerError`` if it makes no progress.

        Only the time of this wait counts: while the whole job is suspended, nothing is measured, and no worker is late.
        """
        look = min(_LOOK, self._timeout / 4)
        last, silent = None, 0.0
        while not self._connections[worker].poll(look):
            now = self.slots.state(worker)
            silent = silent + look if now == last else 0.0
            last = now
            if silent > (max(self._timeout, _STARTED) if now.doing == STARTING else self._timeout):
                raise WorkerError(
                    f"{self._named(worker)} hangs: no progress for {silent:.1f} s {self._place(now.doing)}; raise "
                    f"timeout ({self._timeout:g} s) if that can take so long"
                )

    def _death(self, worker: int) -> WorkerError:
        place = self._place(self.slots.state(worker).doing)
        try:
            code = self._processes[worker].wait(_END)
        except subprocess.TimeoutExpired:
            return WorkerError(f"{self._named(worker)} closed its connection {place}")
        if code >= 0:
            return WorkerError(f"{self._named(worker)} ended with exit code {code} {place}; its own message is above")
        hint = "; was there too little memory?" if code == -signal.SIGKILL else ""
        return WorkerError(f"{self._named(worker)} was killed by {signal.Signals(-code).name} {place}{hint}")

    def _failure(self, worker: int, message: Failed) -> DataError:
        if message.data_error is not None:
            return DataError(message.data_error)
        place = self._place(self.slots.state(worker).doing)
        return WorkerError(f"{self._named(worker)} failed {place}:\n\n{message.trace}")

    def _named(self, worker: int) -> str:
        return f"loader worker {worker} (pid {self._processes[worker].pid})"

    def _place(self, state: int) -> str:
        if state >= 0:
            try:
                return f"at sample {self._job.source.name(state)!r}"
            except DataError:
                return f"at sample {state}"
        return {STARTING: "while it started", MIXING: "in the batch transform"}.get(state, "between two batches")

    def close(self) -> None:
        """End all workers and wait for them. Does nothing if called again, or in a fork of the main process."""
        if os.getpid() != self._owner:
            return
        for process in self._processes:
            process.kill()
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END)
        for connection in self._connections:
            connection.close()
        for lifeline in self._lifelines:
            os.close(lifeline)
        self._lifelines.clear()


def _write(descriptor: int, data: bytes) -> None:
    """Write all of ``data``: one call writes at most 2 GiB."""
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
