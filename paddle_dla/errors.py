"""What a user can do wrong, or meet: every error that a command turns into one line and exit code 1 is a ``UserError``.

Any other exception is a defect of this project and keeps its traceback. Imports nothing.
"""


class UserError(Exception):
    """Something that is not as it must be, outside of this code; the message says what, where and what to do."""


class WrongValue(UserError, ValueError):
    """A value that was given and makes no sense. A ``ValueError`` too, for those who call the functions from Python."""
