"""Resolve an output path: the file behind symbolic links, or a device or pipe, which is written in place.

A device or a link is never replaced by a file: a rename onto ``/dev/null`` would remove the device.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from paddle_dla.storage.errors import CheckpointError

_DESCRIPTORS = re.compile(r"/proc/(?:self|thread-self|\d+)(?:/task/\d+)?/fd")
_MOST_LINKS = 40  # the limit of Linux (path_resolution(7))


@dataclass(frozen=True)
class Destination:
    """``file`` is the target of a path, with every symbolic link resolved.

    A ``stream`` (terminal, character device, pipe) is written in place; anything else is a regular file, or does not
    exist yet. ``descriptor`` is the number of the open file that paths like ``/dev/stdout`` name.
    """

    file: Path
    stream: bool = False
    descriptor: int | None = None

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Destination:
        """Resolve a path.

        Raises ``CheckpointError`` for a folder, a disk or a socket, and ``OSError`` if the system refuses.
        """
        if "\0" in os.fspath(path):
            raise CheckpointError(f"cannot write {os.fspath(path)!r}: a name cannot hold a zero byte")
        file, descriptor = _followed(Path(path))
        if descriptor is not None:
            os.fstat(descriptor)
            return cls(file, stream=True, descriptor=descriptor)
        try:
            mode = file.stat().st_mode
        except FileNotFoundError:
            return cls(file)
        if stat.S_ISREG(mode):
            return cls(file)
        if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
            return cls(file, stream=True)
        what = "a folder; name a file in it" if stat.S_ISDIR(mode) else "a disk or a socket; name a file"
        raise CheckpointError(f"cannot write {path}: it is {what}")

    def part(self) -> Path:
        """Return the path of the hidden file beside the destination in which its content is prepared."""
        return self.file.with_name(f".{self.file.name}.{os.getpid()}.part")

    def check(self) -> None:
        """Raise ``OSError`` if the destination refuses. A pipe is not opened: its reader would see the end of it."""
        if not self.stream:
            try:
                self.part().touch()
            finally:
                self.part().unlink(missing_ok=True)
            if self.file.exists():
                refuse_unreplaceable(self.file, self.part())
        elif self.descriptor is None and not os.access(self.file, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def put(self, part: Path) -> None:
        """Move the content of ``part`` to the destination, whose permissions are kept.

        Raises ``OSError`` if the system refuses.
        """
        if self.stream:
            with open(part, "rb") as source, open(self._opened(), "wb", buffering=0) as stream:
                shutil.copyfileobj(source, stream)
        else:
            with suppress(FileNotFoundError):
                shutil.copymode(self.file, part)
            os.replace(part, self.file)

    def kept(self) -> bool | None:
        """Keep the existing file under a hidden name. Returns whether there is one.

        Returns ``None`` if a file system without hard links cannot keep it.
        """
        if not self.file.exists():
            return False
        try:
            self.forget()
            os.link(self.file, self._kept)
        except OSError:
            return None
        return True

    def put_back(self, kept: bool | None) -> None:
        """Restore the ``kept`` file at the destination, or remove the destination if there was none."""
        with suppress(OSError):
            if kept:
                os.replace(self._kept, self.file)
                self.forget()  # a rename onto the same file does nothing
            elif kept is not None:
                self.file.unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove the kept file."""
        if not self.stream:
            with suppress(OSError):
                self._kept.unlink(missing_ok=True)

    @property
    def _kept(self) -> Path:
        return self.file.with_name(f".{self.file.name}.{os.getpid()}.kept")

    def _opened(self) -> int:
        if self.descriptor is not None:
            sys.stdout.flush()
            # the same open file, so that later output follows it
            return os.dup(self.descriptor)
        # without O_NONBLOCK a pipe without a reader would wait forever; with it the system refuses (ENXIO)
        descriptor = os.open(self.file, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        os.set_blocking(descriptor, True)
        return descriptor


def refuse_unreplaceable(target: Path, beside: Path) -> None:
    """Raise ``OSError`` if the existing ``target`` could not be replaced; ``beside`` is a free name next to it.

    In a writable folder, a file may still not be movable: it is immutable, or belongs to another user in a sticky
    folder. The check requests an impossible rename: the system refuses to put a folder in a file's place, or a file in
    a folder's, only after it has found that both may be moved.
    """
    try:
        if target.is_dir():
            beside.touch()
            os.rename(target, beside)
        else:
            beside.mkdir()
            os.rename(beside, target)
            target.rmdir()  # the file had gone by then, and the folder has taken its name
    except NotADirectoryError:
        pass
    finally:
        with suppress(OSError):
            beside.unlink() if beside.is_file() else beside.rmdir()


def _followed(path: Path) -> tuple[Path, int | None]:
    """Return the path behind all links and, for an open file of this process (``/proc/self/fd/1``), its number."""
    for _ in range(_MOST_LINKS):
        place = Path(os.path.realpath(path.parent), path.name)
        if _DESCRIPTORS.fullmatch(str(place.parent)) and path.name.isdecimal():
            own = place.parent in (Path("/proc/self/fd"), Path(f"/proc/{os.getpid()}/fd"))
            return place, int(path.name) if own else None
        if not place.is_symlink():
            return place, None
        path = place.parent / os.readlink(place)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
