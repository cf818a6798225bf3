"""Errors in data. Each message says what is wrong, where, and what to do."""

from paddle_dla.errors import UserError


class DataError(UserError):
    """A data set cannot be used as requested: a missing folder, an empty class, a bad line, a label out of range."""


class ImageError(DataError):
    """An image cannot be decoded: truncated, unknown, or implausibly large."""


class WorkerError(DataError):
    """A loader process died or hung; the message names the worker and the sample that it was reading."""
