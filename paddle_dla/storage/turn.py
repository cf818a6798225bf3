"""Processes that put files which belong together in place do so one after the other.

Each file takes its name in one rename; of two that belong together, two processes could leave one each. The lock is the
kernel's, on the folder (``flock(2)``): it leaves no file, and ends with its process.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from paddle_dla.storage.errors import CheckpointError

LONGEST_S = 60
"""Seconds. Two renames take a millisecond; who holds a folder for longer is stopped."""
EVERY_S = 0.01


@contextmanager
def in_turn(files: Iterable[Path]) -> Iterator[None]:
    """Within the block no other process is in one for the same folders. A file system without locks holds nobody up.

    Raises ``CheckpointError`` where another process does not leave its block.
    """
    with ExitStack() as stack:
        # in one order, so that no two processes wait for each other
        for folder in sorted({os.path.realpath(file.parent) for file in files}):
            _lock(folder, stack)
        yield


def _lock(folder: str, stack: ExitStack) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # a folder that may be written and not listed
        return
    stack.callback(os.close, descriptor)
    end = time.monotonic() + LONGEST_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EINTR):  # no locks here, as on NFS for a folder
                return
        if time.monotonic() > end:
            raise CheckpointError(
                f"cannot write to {folder}: another process has been putting files in place there for {LONGEST_S} s, "
                "and may be stopped"
            )
        time.sleep(EVERY_S)
