"""Standard streams of a command: make printed text safe for a terminal, and report a failure to print as one error.

A file name may contain any character except the zero byte, for example one that moves the cursor, or one that is
missing in the encoding of the stream. A stream may be full, closed, or a pipe whose reader has exited.
"""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TextIO

from paddle_dla.errors import Notice
from paddle_dla.extras import EXTRAS, how_to_install, installed
from paddle_dla.storage.shown import UNSHOWN, UNSHOWN_IN_LINES, escaped, shown

# control codes of a progress bar: return to the start of the line, and to the line above
_UNSHOWN_BESIDE_BARS = re.compile(rf"(?!\r|\x1b\[A){UNSHOWN_IN_LINES.pattern}")
_EMPTY_VALUE = re.compile("--[a-z0-9-]+=")


class OutputError(Exception):
    """A standard stream cannot be written. ``reader_left``: because the reader of the pipe has exited.

    Commands do not catch it: it propagates to ``run_command`` from any place that prints.
    """

    def __init__(self, name: str, error: OSError):
        super().__init__(f"cannot write to {name}: {error.strerror or error}")
        self.reader_left = isinstance(error, BrokenPipeError)


class GuardedStream:
    """A text stream that escapes control characters, and raises ``OutputError`` if writing fails.

    ``one_line`` maps names that contain line breaks to the escaped text that is printed instead.
    """

    def __init__(self, stream: TextIO, name: str, unshown: re.Pattern[str], one_line: Mapping[str, str] | None = None):
        self._stream, self._name, self._unshown, self._one_line = stream, name, unshown, one_line or {}

    def write(self, text: str) -> int:
        """Write ``text`` and return its number of characters."""
        safe = text
        for broken, whole in self._one_line.items():
            safe = safe.replace(broken, whole)
        with self._told():
            self._stream.write(escaped(safe, self._unshown))
        return len(text)

    def flush(self) -> None:
        """Flush all buffers to the system."""
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
    """Within the block, guard ``sys.stdout`` and ``sys.stderr``, and keep the descriptors 0 to 2 open.

    Command-line ``arguments`` are printed on one line each, so that a line break in a name cannot forge a line.
    """
    _open_descriptors()
    before, one_line = (sys.stdout, sys.stderr), _in_one_line(arguments)
    sys.stdout = GuardedStream(_usable(before[0]), "standard output", UNSHOWN_IN_LINES, one_line)
    sys.stderr = GuardedStream(_usable(before[1]), "standard error", _UNSHOWN_BESIDE_BARS, one_line)
    as_python_does = warnings.formatwarning
    warnings.formatwarning = partial(_warning_line, as_python_does)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        warnings.formatwarning = as_python_does


def _warning_line(otherwise: Callable[..., str], message: Any, category: type[Warning], *place: Any) -> str:
    """Return the text of a warning: one line for a ``Notice``, and Python's own text for any other."""
    return f"warning: {message}\n" if issubclass(category, Notice) else otherwise(message, category, *place)


def _in_one_line(arguments: Sequence[str]) -> dict[str, str]:
    """Map the arguments that contain line breaks, and such parts of their paths, to their escaped text.

    The longest come first: a whole path before its parts.
    """
    names = {part for argument in arguments for part in (argument, *re.split("[/:=]", argument))}
    broken = sorted((name for name in names if re.search("[\n\r]", name)), key=len, reverse=True)
    return {name: escaped(name, UNSHOWN) for name in broken if name.strip()}


def _usable(stream: TextIO | None) -> TextIO:
    """Return ``stream`` with an error handler that can write every character, or a null stream if it was closed."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream


def _open_descriptors() -> None:
    """Open descriptors 0 to 2 if closed: otherwise the next opened file would get the number, and all printed text."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def run_command(main: Callable[[], int]) -> int:
    """Run ``main`` with guarded streams and return its exit code.

    Returns 1 with a one-line message if the output cannot be written, the system refuses an operation that ``main`` did
    not expect, memory runs out, a warning is turned into an error, or a package of an extra is missing. If the reader
    of the output has exited, returns the code of a process ended by SIGPIPE, without a message. Returns 2 for an empty
    argument.
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
    """Return the option without a value, or the position of the empty argument; either would be ignored silently."""
    for place, (before, argument) in enumerate(zip(["", *arguments], arguments), 1):
        if _EMPTY_VALUE.fullmatch(argument):
            return argument.removesuffix("=")
        if not argument:
            return before if before.startswith("--") else f"argument {place}"
    return ""


def _refusal(error: OSError) -> str:
    """Describe in one line the operation that the system refused."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return "the current folder was removed; change to one that is there"
    reason = error.strerror or str(error)
    return reason if error.filename is None else f"{shown(os.fsdecode(error.filename))}: {reason}"


def _failed(what: str, code: int = 1) -> int:
    try:
        print(f"error: {what}", file=sys.stderr, flush=True)
    except (OSError, OutputError):
        _drop_what_is_left(2)
    return code


def _drop_what_is_left(descriptor: int) -> None:
    """Drop what a stream's buffer holds: Python would report at exit that it cannot be written, with another code."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _output_failed(error: OutputError) -> int:
    _drop_what_is_left(1)
    if error.reader_left:
        return 128 + signal.SIGPIPE
    return _failed(str(error))
