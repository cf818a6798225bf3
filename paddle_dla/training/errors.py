"""How a training can end before its end; each message says what, where and what to do."""

from __future__ import annotations

from pathlib import Path

from paddle_dla.errors import UserError


class TrainingError(UserError):
    """A run that cannot begin, go on or be trusted."""

    def with_notes_of(self, error: BaseException) -> TrainingError:
        """This error, with what was noted on another."""
        for note in getattr(error, "__notes__", ()):
            self.add_note(note)
        return self


class ResumeError(TrainingError):
    """A checkpoint that this run cannot go on from."""


class NonFiniteError(TrainingError):
    """A loss or gradient that is NaN or infinite; the message names the step and the layer."""


class Stopped(Exception):
    """Somebody asked the run to end: ``reason`` is the name of the signal."""

    def __init__(self, reason: str):
        super().__init__(f"stopped by {reason}")
        self.reason = reason


class FolderInUseError(TrainingError):
    """Another run, ``holder``, writes to ``folder``."""

    def __init__(self, folder: Path, holder: str):
        super().__init__(f"another run ({holder}) writes to {folder}: wait for its end, or name another train.output")
        self.folder, self.holder = folder, holder


class FolderGoneError(TrainingError):
    """``path``, which this run writes to, was taken away from it."""

    def __init__(self, path: Path):
        super().__init__(f"{path} was removed, moved or replaced while this run was writing to it")
        self.path = path
