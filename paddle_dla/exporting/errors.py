"""The error of exports."""

from paddle_dla.storage.errors import CheckpointError


class ExportError(CheckpointError):
    """An export that cannot be made, trusted or read; the message says what, where and what to do."""
