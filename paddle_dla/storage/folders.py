"""Folders that appear complete or not at all, like files in ``atomic``.

A folder is filled under a hidden name and gets its own in one rename. A file system cannot exchange two folders at
once, so the previous folder is set aside first. If the process is killed between the two renames, ``recover`` restores
it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from paddle_dla.storage.atomic import is_left_behind, write_error
from paddle_dla.storage.destination import refuse_unreplaceable
from paddle_dla.storage.errors import CheckpointError

PART, OLD, GONE = "part", "old", "gone"
_HIDDEN = re.compile(rf"\.(?P<name>.+)\.(?P<pid>\d+)\.(?P<what>{PART}|{OLD}|{GONE})")


@contextmanager
def atomic_folder(path: str | os.PathLike[str], replace: bool) -> Iterator[Path]:
    """Yield an empty folder beside ``path`` to fill. It becomes ``path`` if the block ends without an exception.

    Without ``replace``, a folder that is not empty is never replaced, even if it appeared meanwhile. Raises
    ``CheckpointError`` if the system refuses; the previous content of ``path`` is then still there.
    """
    target = Path(os.path.realpath(path))
    part, old = hidden(target, PART), hidden(target, OLD)
    try:
        recover(target.parent, re.escape(target.name))
        part.mkdir()
        yield part
        _reach_disk(part)
        if replace and target.exists():
            shutil.copymode(target, part)
            os.rename(target, old)
        _take_place(part, target, old)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise write_error(path, error) from error
    except CheckpointError as error:
        if type(error) is not CheckpointError or str(part) not in str(error):
            raise
        raise CheckpointError(str(error).replace(str(part), os.fspath(path))) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_folder(path: str | os.PathLike[str], parents: bool = False) -> None:
    """Raise ``CheckpointError`` if a folder cannot be put at ``path``, before any work is done for it.

    ``parents``: missing folders above it will be created.
    """
    target = Path(os.path.realpath(path))
    if not target.name:
        raise CheckpointError(f"cannot write {os.fspath(path)}: it is the root of the file system; name a folder in it")
    try:
        above = next(folder for folder in target.parents if os.path.lexists(folder) or not parents)
        probe = hidden(above / target.name, PART)
        probe.mkdir()
        probe.rmdir()
        if target.exists():
            refuse_unreplaceable(target, hidden(target, PART))
    except OSError as error:
        raise write_error(path, error) from error


def recover(parent: Path, names: str) -> None:
    """Remove what killed processes left of the folders in ``parent`` whose names match the expression ``names``.

    A folder that was set aside and not yet replaced gets its name back. Raises ``CheckpointError`` if the system
    refuses.
    """
    try:
        for entry in os.listdir(parent) if parent.is_dir() else ():
            found = _HIDDEN.fullmatch(entry)
            if found and re.fullmatch(names, found["name"]) and is_left_behind(found["pid"]):
                _put_right(parent / entry, parent / found["name"], found["what"])
    except OSError as error:
        raise write_error(parent, error) from error


def _put_right(leftover: Path, target: Path, what: str) -> None:
    if what == OLD and not target.exists():
        os.rename(leftover, target)
    elif leftover.is_dir():
        shutil.rmtree(leftover, ignore_errors=True)
    else:
        leftover.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a folder such that it is never half there under its name. One that cannot be removed stays."""
    gone = hidden(path, GONE)
    with suppress(OSError):
        os.rename(path, gone)
        shutil.rmtree(gone, ignore_errors=True)


def hidden(target: Path, what: str) -> Path:
    """Return the name under which this process keeps ``target`` while it is a ``PART``, ``OLD`` or ``GONE``."""
    return target.with_name(f".{target.name}.{os.getpid()}.{what}")


def _take_place(part: Path, target: Path, old: Path) -> None:
    try:
        os.rename(part, target)
        _sync(target.parent)  # before the previous content is removed
    except OSError:
        if not part.exists():
            os.rename(target, part)
        with suppress(FileNotFoundError):
            os.rename(old, target)
        raise


def _reach_disk(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
