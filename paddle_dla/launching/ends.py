"""How a process of a job ends: with the process that started it, and by an exit code that a shell understands."""

from __future__ import annotations

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h: the signal that this process gets when its parent dies


def die_with_parent() -> None:
    """Let the kernel kill this process when the one that started it is gone (Linux)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def ending_signals() -> tuple[signal.Signals, ...]:
    """What asks a process to end: ``kill``, Ctrl-C, and a terminal that is closed, unless ``nohup`` keeps that away."""
    hung_up = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGTERM, signal.SIGINT, *hung_up)


def exit_code(code: int) -> int:
    """What a shell says of a process that ended with ``code``, which is less a signal's number where one ended it."""
    return 128 - code if code < 0 else code
