"""Errors that end a training early. Each message says what is wrong, where, and what to do."""

from __future__ import annotations

from pathlib import Path

from paddle_dla.errors import UserError


class TrainingError(UserError):
    """A run cannot start, continue or be trusted."""

    def with_notes_of(self, error: BaseException) -> TrainingError:
        """Return this error with the notes of another one."""
        for note in getattr(error, "__notes__", ()):
            self.add_note(note)
        return self


class ResumeError(TrainingError):
    """The run cannot resume from this checkpoint."""


class NonFiniteError(TrainingError):
    """A loss or gradient is NaN or infinite; the message names the step and the layer."""


class Stopped(Exception):
    """The run was asked to stop: ``reason`` is the name of the signal."""

    def __init__(self, reason: str):
        super().__init__(f"stopped by {reason}")
        self.reason = reason


class FolderInUseError(TrainingError):
    """Another run, ``holder``, writes to ``folder``."""

    def __init__(self, folder: Path, holder: str):
        super().__init__(f"another run ({holder}) writes to {folder}: wait for its end, or name another train.output")
        self.folder, self.holder = folder, holder


class FolderGoneError(TrainingError):
    """``path``, which this run writes to, was removed or moved."""

    def __init__(self, path: Path):
        super().__init__(f"{path} was removed, moved or replaced while this run was writing to it")
        self.path = path
