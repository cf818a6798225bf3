"""Files that appear complete or not at all.

The bytes are written to a hidden file beside the target, flushed to the disk, and renamed to the target in one step.
The previous file remains until then. A killed process leaves only its hidden file, which the next write to the same
target removes. A symbolic link is kept and its target is written; devices and pipes are written in place.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from paddle_dla.storage.destination import Destination
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.turn import in_turn

_HINTS = {
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "the quota is used up: free some space or choose another folder",
    errno.EFBIG: "the limit on the size of a file is too low (ulimit -f)",
    errno.EACCES: "choose a folder in which you may write",
    errno.EPERM: "choose a folder in which you may write",
    errno.EROFS: "choose a folder in which you may write",
    errno.ENOENT: "create the folder first",
    errno.ENOTDIR: "a part of the path is a file",
    errno.ELOOP: "the links lead in a circle: remove them or name another file",
    errno.ENXIO: "it is a pipe that nobody reads: start its reader first",
}


def process_runs(pid: str) -> bool:
    """Return whether a process with this number exists; false for a text that is not a number."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def is_left_behind(pid: str) -> bool:
    """Return whether a file with ``pid`` in its name was left by a killed process; numbers are reused, even our own."""
    return pid == str(os.getpid()) or not process_runs(pid)


def _remove_leftovers(target: Path) -> None:
    """Remove the hidden files and folders that killed writers of ``target`` left behind."""
    ours = re.compile(rf"\.{re.escape(target.name)}\.(\d+)\.(?:part|kept)")
    for name in os.listdir(target.parent):
        found = ours.fullmatch(name)
        if found and is_left_behind(found[1]):
            left = target.with_name(name)
            left.rmdir() if left.is_dir() else left.unlink(missing_ok=True)


def write_error(path: str | os.PathLike[str], error: OSError) -> CheckpointError:
    """Return the error for an ``OSError`` while writing ``path``, with a message that says what to do."""
    hint = _HINTS.get(error.errno or 0, "what stood there is kept")
    return CheckpointError(f"cannot write {os.fspath(path)}: {error.strerror or error}; {hint}")


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; it becomes ``path`` if the block ends without an exception.

    Raises ``CheckpointError`` if the system refuses (no space, no permission, no folder); ``path`` is then unchanged.
    """
    with atomic_paths(path) as (part,):
        yield part


@contextmanager
def atomic_paths(*paths: str | os.PathLike[str]) -> Iterator[list[Path]]:
    """Like ``atomic_path`` for files that belong together: all are flushed to the disk before any is put in place.

    If two processes write the same files, one puts all of its files in place, then the other. If one file cannot be put
    in place, the previous ones are restored.
    """
    named = " and ".join(os.fspath(path) for path in paths)
    parts: list[Path] = []
    try:
        with ExitStack() as stack:
            places = [Destination.of(path) for path in paths]
            for place in places:
                parts.append(_prepared(place, stack))
            yield parts
            for part in parts:
                reach_disk(part)
            if len(parts) > 1:
                stack.enter_context(in_turn(place.file for place in places if not place.stream))
            _put(places, parts)
    except OSError as error:
        raise write_error(named, error) from error
    finally:
        for part in parts:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def _put(places: Sequence[Destination], parts: Sequence[Path]) -> None:
    """Put every part in place, or none, as far as the system allows the previous files to be restored."""
    with ExitStack() as undone:
        for number, (place, part) in enumerate(zip(places, parts), 1):
            if number == len(parts) or place.stream:
                place.put(part)
                continue
            kept = place.kept()
            undone.callback(place.put_back, kept)
            place.put(part)
        for place in places:
            place.forget()
        undone.pop_all()


def reach_disk(path: Path) -> None:
    """Flush the content of the file ``path`` to the disk. Raises ``OSError`` on failure."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _prepared(place: Destination, stack: ExitStack) -> Path:
    """Return the path for writing the content of ``place``: not beside a device, whose folder is the system's."""
    if place.stream:
        return Path(stack.enter_context(TemporaryDirectory(prefix="paddle-dla-")), "part")
    _remove_leftovers(place.file)
    return place.part()


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise ``CheckpointError`` if ``path`` could not be written, before any work is done for it."""
    try:
        Destination.of(path).check()
    except OSError as error:
        raise write_error(path, error) from error


def check_regular(path: str | os.PathLike[str], what: str) -> None:
    """Like ``check_writable``, for output that cannot go to a device or pipe because it is read again, or grows."""
    check_writable(path)
    if Destination.of(path).stream:
        raise CheckpointError(f"cannot write {os.fspath(path)}: {what} needs a regular file; name one")
