"""Files that somebody else names, read only where they are files, and up to a stated size.

A FIFO waits for a writer who never comes, ``/dev/zero`` has no end, a sparse file of some bytes on the disk is as long
as it likes. ``open`` takes all of them. What is refused here is an ``OSError`` as the system itself would raise, so
whoever names the file in a message needs no second case.
"""

from __future__ import annotations

import errno
import os
import stat
from io import FileIO

MOST_IMAGE = 2**28
"""Bytes of one image: those of the most pixels that are decoded (``paddle_dla.data.images``), not compressed at all."""
MOST_TEXT = 2**26
"""Bytes of a record or a table: the longest that is written here, of a hundred thousand shards, has a tenth of it."""

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_regular(path: str | os.PathLike[str]) -> FileIO:
    """``path`` opened for reading, without a buffer. Raises ``OSError`` where it is no regular file; never waits."""
    # asked before it is opened, since opening a device can do things, and after, since it may be another one by then
    _refuse(path, os.stat(path).st_mode)
    file = open(path, "rb", buffering=0, opener=_open_at_once)  # noqa: SIM115 - for the caller to close
    try:
        _refuse(path, os.fstat(file.fileno()).st_mode)
    except OSError:
        file.close()
        raise
    return file


def read_regular(path: str | os.PathLike[str], most: int = MOST_TEXT) -> bytes:
    """All of a regular file. Raises ``OSError`` for anything else, and for one of more than ``most`` bytes."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", os.fspath(path))
        return file.read()


def read_text(path: str | os.PathLike[str], most: int = MOST_TEXT) -> str:
    """``read_regular`` as UTF-8, less the mark that editors of Windows put in front.

    Raises ``UnicodeDecodeError``, a ``ValueError``, for anything else.
    """
    return read_regular(path, most).decode("utf-8-sig")


def lines_of(text: str) -> list[str]:
    """The lines of ``text``, whatever system wrote it. ``str.splitlines`` would also divide at characters of names."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _refuse(path: str | os.PathLike[str], mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise OSError(errno.EINVAL, f"it is no regular file but {kind}", os.fspath(path))
