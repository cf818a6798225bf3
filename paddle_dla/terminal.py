"""The standard streams of a command: what it prints is safe on a terminal, and a failure to print is one error.

A name may hold any character but a zero byte: one that moves the cursor, one that the stream's encoding has not. A
stream may be full, closed, or a pipe whose reader has gone.
"""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from paddle_dla.extras import EXTRAS, how_to_install, installed
from paddle_dla.storage.shown import UNSHOWN, UNSHOWN_IN_LINES, escaped, shown

# what a progress bar needs beside lines: to return to the beginning of the line, and to the line above
_UNSHOWN_BESIDE_BARS = re.compile(rf"(?!\r|\x1b\[A){UNSHOWN_IN_LINES.pattern}")
_EMPTY_VALUE = re.compile("--[a-z0-9-]+=")


class OutputError(Exception):
    """A standard stream that cannot be written; ``reader_left``: because nobody reads it any more.

    No error that a command expects: it reaches ``run_command`` from wherever something is printed.
    """

    def __init__(self, name: str, error: OSError):
        super().__init__(f"cannot write to {name}: {error.strerror or error}")
        self.reader_left = isinstance(error, BrokenPipeError)


class GuardedStream:
    """A text stream that escapes control characters, and says in an ``OutputError`` what went wrong.

    ``one_line`` are names that have line breaks, which are escaped where they are printed, and what to print for each.
    """

    def __init__(self, stream: TextIO, name: str, unshown: re.Pattern[str], one_line: Mapping[str, str] | None = None):
        self._stream, self._name, self._unshown, self._one_line = stream, name, unshown, one_line or {}

    def write(self, text: str) -> int:
        """Write ``text``; the number of its characters."""
        safe = text
        for broken, whole in self._one_line.items():
            safe = safe.replace(broken, whole)
        with self._told():
            self._stream.write(escaped(safe, self._unshown))
        return len(text)

    def flush(self) -> None:
        """Hand everything to the system."""
        with self._told():
            self._stream.flush()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(self._name, error) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def guarded_streams(arguments: Sequence[str] = ()) -> Iterator[None]:
    """Within the block ``sys.stdout`` and ``sys.stderr`` are guarded, and the descriptors 0 to 2 open.

    ``arguments`` of the command line are printed in one line each: no name in them forges another.
    """
    _open_descriptors()
    before, one_line = (sys.stdout, sys.stderr), _in_one_line(arguments)
    sys.stdout = GuardedStream(_usable(before[0]), "standard output", UNSHOWN_IN_LINES, one_line)
    sys.stderr = GuardedStream(_usable(before[1]), "standard error", _UNSHOWN_BESIDE_BARS, one_line)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _in_one_line(arguments: Sequence[str]) -> dict[str, str]:
    """The arguments that have line breaks, and the parts of paths in them that have, with what to print for each.

    The longest first: a whole path before its parts.
    """
    names = {part for argument in arguments for part in (argument, *re.split("[/:=]", argument))}
    broken = sorted((name for name in names if re.search("[\n\r]", name)), key=len, reverse=True)
    return {name: escaped(name, UNSHOWN) for name in broken if name.strip()}


def _usable(stream: TextIO | None) -> TextIO:
    """``stream``, such that every character can be written to it; nothing, where it was closed."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream


def _open_descriptors() -> None:
    """A file that is opened where one of the three was closed would get its number, and all that is printed."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def run_command(main: Callable[[], int]) -> int:
    """The exit code of ``main``, run with guarded streams.

    1 with a sentence where the output could not be written, the system refuses something that ``main`` did not expect,
    memory does not suffice, a warning is made an error, or a package of one of the extras is missing; where nobody
    reads the output any more, that of a process that the signal for it has ended, without a word; 2 for an argument
    that is empty.
    """
    with guarded_streams(sys.argv[1:]):
        try:
            if empty := _empty_argument(sys.argv[1:]):
                return _failed(f"{empty} is empty; is a variable of the shell not set?", 2)
            code = main()
            sys.stdout.flush()
        except OutputError as error:
            return _output_failed(error)
        except BrokenPipeError as error:
            return _output_failed(OutputError("standard output", error))
        except MemoryError as error:
            return _failed(f"not enough memory: {error}")
        except OSError as error:
            return _failed(_refusal(error))
        except Warning as error:
            return _failed(f"a warning, which python -W error or PYTHONWARNINGS makes an error: {error}")
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in EXTRAS or installed(package):  # a defect
                raise
            return _failed(how_to_install([package]))
    return code


def _empty_argument(arguments: Sequence[str]) -> str:
    """The option without its value, or the place of the argument, that would read as if nothing had been said."""
    for place, (before, argument) in enumerate(zip(["", *arguments], arguments), 1):
        if _EMPTY_VALUE.fullmatch(argument):
            return argument.removesuffix("=")
        if not argument:
            return before if before.startswith("--") else f"argument {place}"
    return ""


def _refusal(error: OSError) -> str:
    """What the system refused, in one line."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return "the current folder was removed; change to one that is there"
    reason = error.strerror or str(error)
    return reason if error.filename is None else f"{shown(os.fsdecode(error.filename))}: {reason}"


def _failed(what: str, code: int = 1) -> int:
    print(f"error: {what}", file=sys.stderr)
    return code


def _output_failed(error: OutputError) -> int:
    # what is still in a buffer has nowhere to go, and Python would complain of it at the end
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if error.reader_left:
        return 128 + signal.SIGPIPE
    with suppress(OutputError):
        print(f"error: {error}", file=sys.stderr)
    return 1
