"""Files that appear complete or not at all.

The bytes go to a hidden file beside the target, reach the disk, and take the target's name in one rename. Whatever
stood there before survives until then. A killed process leaves only its hidden file, which the next write to the
same target removes.
"""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from paddle_dla.storage.errors import CheckpointError

_HINTS = {
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "the quota is used up: free some space or choose another folder",
    errno.EFBIG: "the limit on the size of a file is too low (ulimit -f)",
    errno.EACCES: "choose a folder in which you may write",
    errno.EPERM: "choose a folder in which you may write",
    errno.EROFS: "choose a folder in which you may write",
    errno.ENOENT: "create the folder first",
    errno.ENOTDIR: "a part of the path is a file",
}


def process_runs(pid: str) -> bool:
    """Whether a process of this number is there; a text that is no number is none."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def _remove_leftovers(target: Path) -> None:
    """Remove the hidden files that killed writers of ``target`` left behind."""
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        if not process_runs(leftover.name.split(".")[-2]):
            leftover.unlink(missing_ok=True)


def write_error(path: Path, error: OSError) -> CheckpointError:
    """An ``OSError`` met while writing ``path``, as a message that says what to do."""
    hint = _HINTS.get(error.errno or 0, "nothing was changed")
    return CheckpointError(f"cannot write {path}: {error.strerror or error}; {hint}")


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside ``path`` to write to; what is there when the block ends without an exception becomes ``path``.

    Raises ``CheckpointError`` where the system refuses (no space, no permission, no folder); ``path`` is then as it
    was before.
    """
    target = Path(path)
    part = _part(target)
    try:
        _remove_leftovers(target)
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    except OSError as error:
        raise write_error(target, error) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _part(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}.part")


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raises ``CheckpointError`` where ``path`` could not be written, before any work is done for it."""
    target = Path(path)
    if target.is_dir():
        raise CheckpointError(f"cannot write {target}: it is a folder; name a file in it")
    try:
        _part(target).touch()
        _part(target).unlink()
    except OSError as error:
        raise write_error(target, error) from error
