"""The error of exports."""

from paddle_dla.storage.errors import CheckpointError


class ExportError(CheckpointError):
    """An export cannot be made, trusted or read; the message says what is wrong, where, and what to do."""
