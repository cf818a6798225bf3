"""The end of a process of a job: it ends with its parent, and its exit code follows the shell's convention."""

from __future__ import annotations

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h: the signal sent to this process when its parent dies


def die_with_parent() -> None:
    """Make the kernel kill this process when its parent exits (Linux)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def ending_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that ask a process to end: ``kill``, Ctrl-C, and a closed terminal (not with ``nohup``)."""
    hung_up = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGTERM, signal.SIGINT, *hung_up)


def exit_code(code: int) -> int:
    """Return the shell's exit code for ``code`` of a process; ``code`` is negative if a signal ended it."""
    return 128 - code if code < 0 else code
