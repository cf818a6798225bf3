"""What can be wrong with data; each message says what, where and what to do."""

from paddle_dla.errors import UserError


class DataError(UserError):
    """A data set that cannot be used as asked: a missing folder, an empty class, a bad line, a label out of range."""


class ImageError(DataError):
    """One image that cannot be decoded: truncated, unknown, or too large to be honest."""


class WorkerError(DataError):
    """A loader process that died or hung; the message names the worker and the sample it was at."""
