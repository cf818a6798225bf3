"""Serialise processes that put files belonging together in place.

Each file gets its name in one rename; without a lock, two processes could leave one file each of a pair. The lock is
the kernel's, on the folder (``flock(2)``): it leaves no file, and ends with its process.
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
"""Seconds. Two renames take a millisecond; a process that holds a folder for longer is suspended."""
EVERY_S = 0.01


@contextmanager
def in_turn(files: Iterable[Path]) -> Iterator[None]:
    """Within the block, no other process is in a block for the same folders. File systems without locks are not locked.

    Raises ``CheckpointError`` if another process does not leave its block.
    """
    with ExitStack() as stack:
        # in a fixed order, so that no two processes wait for each other
        for folder in sorted({os.path.realpath(file.parent) for file in files}):
            _lock(folder, stack)
        yield


def _lock(folder: str, stack: ExitStack) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # a folder that is writable but not listable
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
