"""Signals that ask a run to end: noted at once, and handled when no update is half done."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from paddle_dla.launching.ends import ending_signals


class StopRequest:
    """A request to stop. ``reason`` is the name of the first signal, or ``None``."""

    def __init__(self):
        self.reason: str | None = None

    def note(self, number: int, frame: FrameType | None = None) -> None:
        """Handle a signal. A second Ctrl-C ends the program immediately."""
        if self.reason is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = self.reason or signal.Signals(number).name


@contextmanager
def listening() -> Iterator[StopRequest]:
    """Turn ``ending_signals`` into requests within the block, then restore their handlers. Main thread only."""
    request = StopRequest()
    before = {number: signal.signal(number, request.note) for number in ending_signals()}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
