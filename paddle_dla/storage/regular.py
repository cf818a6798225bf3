"""Read files named by a user only if they are regular files, up to a given size.

A FIFO waits for a writer that never comes, ``/dev/zero`` has no end, and a sparse file of a few bytes on the disk can
have any length. ``open`` accepts all of them. Refusals are raised as the ``OSError`` that the system itself would
raise, so callers need no second case in their messages.
"""

from __future__ import annotations

import errno
import os
import stat
from io import FileIO

MOST_IMAGE = 2**28
"""Bytes of one image: the uncompressed size of the most pixels that are decoded (``paddle_dla.data.decoding``)."""
MOST_TEXT = 2**26
"""Bytes of a record or a table: the longest written here, of a hundred thousand shards, is a tenth of it."""

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_regular(path: str | os.PathLike[str]) -> FileIO:
    """Open ``path`` for reading, without a buffer. Raises ``OSError`` if it is not a regular file; never waits."""
    # checked before opening, because opening a device can have effects, and after, because the file may have changed
    _refuse(path, os.stat(path).st_mode)
    file = open(path, "rb", buffering=0, opener=_open_at_once)  # noqa: SIM115 - for the caller to close
    try:
        _refuse(path, os.fstat(file.fileno()).st_mode)
    except OSError:
        file.close()
        raise
    return file


def read_regular(path: str | os.PathLike[str], most: int = MOST_TEXT) -> bytes:
    """Read a whole regular file. Raises ``OSError`` for anything else, and for a file of more than ``most`` bytes."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", os.fspath(path))
        return file.read()


def read_text(path: str | os.PathLike[str], most: int = MOST_TEXT) -> str:
    """Read a regular file as UTF-8, without the byte order mark that editors of Windows add.

    Raises ``UnicodeDecodeError``, a ``ValueError``, for any other encoding.
    """
    return read_regular(path, most).decode("utf-8-sig")


def lines_of(text: str) -> list[str]:
    """Split ``text`` into lines for any system. ``str.splitlines`` would also split at characters within names."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _refuse(path: str | os.PathLike[str], mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise OSError(errno.EINVAL, f"it is no regular file but {kind}", os.fspath(path))
