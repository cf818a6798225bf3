"""The lock of a run on its folder. It ends with the process: a killed run leaves nothing to clear. No framework.

It is a lock of the kernel (``flock(2)``) on a file in the folder. The run also uses the file to detect that its folder
was removed or moved: the file is then no longer found at its path.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from paddle_dla.storage.atomic import write_error
from paddle_dla.training.errors import FolderGoneError, FolderInUseError

LOCK = ".running"
# error numbers of file systems without locks, such as Lustre mounted without the option flock
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


def is_in_place(path: Path, descriptor: int) -> bool:
    """Return whether ``path`` still leads to the open file ``descriptor``: not removed, moved or replaced."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except (FileNotFoundError, NotADirectoryError):
        return False


class Hold:
    """The lock of a run on ``folder``. Without a lock, as on all ranks except the first, it is always in place."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock: int | None = None

    @property
    def in_place(self) -> bool:
        """Whether the folder is still the one that this run has locked; true without a lock."""
        return self._lock is None or is_in_place(self.folder / LOCK, self._lock)

    def check(self) -> None:
        """Raise ``FolderGoneError`` if the folder is no longer the one that this run started to write to."""
        if not self.in_place:
            raise FolderGoneError(self.folder)

    def take(self) -> None:
        """Lock the folder, and create it if necessary.

        Raises ``FolderInUseError`` if another run has locked it, ``OSError`` if it cannot be created or locked.
        """
        self.release()
        while self._lock is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                self._lock_file(descriptor)
            finally:
                if self._lock is None:
                    os.close(descriptor)
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"pid {os.getpid()} on {platform.node()}, since {time.strftime('%F %T')}\n".encode(), 0)

    def _lock_file(self, descriptor: int) -> None:
        """Lock an open file. Has no effect if its last holder has just removed the file."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 1000, 0).decode("utf-8", "replace").strip()
            raise FolderInUseError(self.folder, holder or "one that has just begun") from None
        except OSError:
            with suppress(OSError):
                (self.folder / LOCK).unlink()
            raise
        if is_in_place(self.folder / LOCK, descriptor):
            self._lock = descriptor

    def release(self) -> None:
        """Release the folder and remove the lock file, if it is there."""
        if self._lock is not None:
            if self.in_place:
                with suppress(OSError):  # it may remain: an unlocked file does no harm
                    (self.folder / LOCK).unlink()
            os.close(self._lock)
            self._lock = None


@contextmanager
def holding(folder: Path, first: bool, say: Callable[[str], None] = print) -> Iterator[Hold]:
    """Lock ``folder`` on the ``first`` rank; if no lock is available, report it through ``say``.

    Folders that were created for it and are still empty are removed at the end: a refused run leaves nothing. Raises
    ``FolderInUseError``, and ``CheckpointError`` for a folder that cannot be written to.
    """
    hold = Hold(folder)
    absent = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        if first:
            _take(hold, say)
        yield hold
    finally:
        hold.release()
        for path in absent:
            with suppress(OSError):  # it is not empty
                path.rmdir()


def _take(hold: Hold, say: Callable[[str], None]) -> None:
    try:
        hold.take()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise write_error(hold.folder, error) from error
        say(f"{hold.folder} is on a file system without locks: see to it that no second run writes there")
