"""The one error of everything that reads or writes weights, and those that damaged bytes cause underneath."""

from __future__ import annotations

import pickle
import struct

from paddle_dla.errors import UserError

# what an unpickler raises where the bytes make no sense, the constructors that it calls included
UNPICKLING_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    SystemError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
)


class CheckpointError(UserError):
    """A file that cannot be read, trusted, matched or written; the message says what, where and what to do."""
