"""The error for all reading and writing of weights, and the underlying errors that damaged bytes cause."""

from __future__ import annotations

import pickle
import struct

from paddle_dla.errors import UserError

# errors of an unpickler for invalid bytes, including those of the constructors that it calls
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
    """A file cannot be read, trusted, matched or written; the message says what is wrong, where, and what to do."""
