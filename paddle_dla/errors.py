"""Errors caused by the user or the environment. Commands print each ``UserError`` in one line and exit with code 1.

Any other exception is a defect of this project and keeps its traceback. Imports nothing.
"""


class UserError(Exception):
    """A problem outside of this code. The message says what is wrong, where, and what to do."""


class WrongValue(UserError, ValueError):
    """A given value is invalid. Also a ``ValueError``, for callers of the Python functions."""


class Notice(UserWarning):
    """What a user should know of a call that goes on. Commands print it in one line, without a place in the source."""


def words_of(error: BaseException) -> str:
    """Return the message of ``error``, or an empty string if formatting it raises, as it may for a user's exception."""
    try:
        return str(error).strip()
    except Exception:  # noqa: BLE001 - it may raise any other
        return ""


def told(error: BaseException) -> str:
    """Return the class and the message of ``error``."""
    words = words_of(error)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
