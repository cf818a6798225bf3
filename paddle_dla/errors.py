"""What a user can do wrong, or meet: every error that a command turns into one line and exit code 1 is a ``UserError``.

Any other exception is a defect of this project and keeps its traceback. Imports nothing.
"""


class UserError(Exception):
    """Something that is not as it must be, outside of this code; the message says what, where and what to do."""


class WrongValue(UserError, ValueError):
    """A value that was given and makes no sense. A ``ValueError`` too, for those who call the functions from Python."""


def words_of(error: BaseException) -> str:
    """What ``error`` says; empty where its own words raise, as a user's exception may."""
    try:
        return str(error).strip()
    except Exception:  # noqa: BLE001 - it may raise any other
        return ""


def told(error: BaseException) -> str:
    """``error`` with its class."""
    words = words_of(error)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
