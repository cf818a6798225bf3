"""The one error of everything that reads or writes weights."""

from __future__ import annotations


class CheckpointError(Exception):
    """A file that cannot be read, trusted, matched or written; the message says what, where and what to do."""
