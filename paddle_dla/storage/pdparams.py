"""``.pdparams`` files: read and write a pickle of ``{name: numpy array}``, without Paddle and without executing it.

``paddle.load`` runs any code that a pickle names. Files are therefore read through an unpickler that accepts three
names of numpy and refuses all others. Writing emits the pickle opcodes of a plain dict of arrays directly: the bytes of
each array go from its buffer to the file without a copy, and the result does not depend on the version of numpy (numpy
2's own pickles name ``numpy._core``, which numpy before 1.26 lacks).
"""

from __future__ import annotations

import os
import pickle
import re
import struct
from collections.abc import Callable, Mapping
from functools import partial
from io import BufferedReader
from typing import Any, BinaryIO

import numpy as np

from paddle_dla.storage.errors import UNPICKLING_ERRORS, CheckpointError
from paddle_dla.storage.limited_pickle import Budget, LimitedUnpickler, StandIn, refused
from paddle_dla.storage.regular import open_regular
from paddle_dla.storage.shown import shown

_CODE = re.compile(r"[biufc]\d{1,2}")

# paddle.save adds this entry to the arrays: structured name -> the parameter's automatic name
_NAME_TABLE = "StructuredToParameterName@@"


class StoredDtype(StandIn):
    """Stand-in for ``numpy.dtype``: numeric types only. A dtype of objects would turn a file's bytes into pointers."""

    __slots__ = ("value",)

    def __init__(self, budget: Budget, code: str, align: object = False, copy: object = False):
        if type(code) is not str or not _CODE.fullmatch(code):
            what = f"'{shown(code)}', which" if type(code) is str else "what"
            raise refused(f"it holds an array of {what} are no numbers")
        self.value = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.value = self.value.newbyteorder(state[1])


class StoredArray(StandIn):
    """Stand-in for ``numpy.ndarray``: becomes a read-only view of the bytes in the file."""

    __slots__ = ("budget", "value")

    def __init__(self, budget: Budget, *arguments: object):
        self.budget, self.value = budget, None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        raw = _bytes_of(data, self.budget) if isinstance(data, str) else data  # a str if Python 2 wrote the file
        array = np.frombuffer(raw, dtype.value)
        self.value: np.ndarray | None = array.reshape(shape, order="F" if is_fortran else "C")


def _bytes_of(text: str, budget: Budget) -> bytes:
    budget.take(len(text))
    return text.encode("latin1")


def _encode(budget: Budget, text: str, encoding: str) -> bytes:
    """Stand-in for ``codecs.encode``, by which protocol 2 represents bytes."""
    if type(text) is not str or type(encoding) is not str or encoding != "latin1":
        raise refused("it encodes bytes in a way that numpy never uses")
    return _bytes_of(text, budget)


ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    (module, name): value
    for module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
    for name, value in {"ndarray": StoredArray, "dtype": StoredDtype, "_reconstruct": StoredArray}.items()
}
ALLOWED["_codecs", "encode"] = _encode


class ArrayUnpickler(LimitedUnpickler):
    """Resolve the names that arrays need to the stand-ins above, and no others.

    ``allowed`` are the names, ``format`` is the name of the file format in messages.
    """

    allowed = ALLOWED
    format = ".pdparams"

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in self.allowed:
            raise CheckpointError(
                f"it names {shown(f'{module}.{name}')}, which is no numpy array: refused, nothing was run. An "
                f"honest {self.format} holds arrays only; do not load this file"
            )
        return partial(self.allowed[module, name], self.budget)


def read_pdparams(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read ``{name: array}`` from a file by ``paddle.save`` or ``write_pdparams``; nothing in it is executed.

    Raises ``CheckpointError`` if the file is missing, damaged, holds something other than named arrays, or names any
    code.
    """
    try:
        with BufferedReader(open_regular(path)) as file:
            content = ArrayUnpickler(file).load()
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except UNPICKLING_ERRORS as error:
        raise CheckpointError(
            f"{path} is no readable .pdparams: {type(error).__name__}: {shown(error)}; it is truncated, damaged or of "
            "another format"
        ) from error
    return named_arrays(content, path)


def named_arrays(content: object, path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the arrays loaded by ``ArrayUnpickler``. Raises ``CheckpointError`` if they are not a dict of arrays."""
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dict of named arrays")
    arrays = {}
    for name, value in content.items():
        if name == _NAME_TABLE:
            continue
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], StoredArray):
            value = value[1]  # Paddle 2.x pickles a Tensor as (automatic name, array)
        if not _is_utf8(name):
            raise CheckpointError(f"{path}: the name '{shown(name)}' is no text in UTF-8")
        if not isinstance(value, StoredArray) or value.value is None:
            raise CheckpointError(
                f"{path}: entry '{shown(name)}' is a {type(value).__name__}, not a named numeric array"
            )
        arrays[name] = value.value
    return arrays


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def write_pdparams(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Write ``arrays`` as ``paddle.save`` would: ``paddle.load`` and ``pickle.load`` return a dict of arrays.

    The opcodes are those of protocol 4 (https://peps.python.org/pep-3154/). The state of an array is that documented
    for ``ndarray.__reduce__``: version, shape, dtype, Fortran order, bytes. Callers make it atomic.
    """
    with open(path, "wb") as file:
        file.write(pickle.PROTO + b"\x04")
        _write_dict(file, arrays)
        file.write(pickle.STOP)


def write_object_array(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the pickle of a zero-dimensional object array whose only element is the dict ``arrays``.

    ``numpy.save`` writes the same for a dict, after the header of the format.
    """
    file.write(pickle.PROTO + b"\x04" + _begun_array((), "|O8", _OBJECT_FLAGS) + pickle.EMPTY_LIST)
    _write_dict(file, arrays)
    file.write(pickle.APPEND + pickle.TUPLE + pickle.BUILD + pickle.STOP)


_OBJECT_FLAGS = 63
"""Flags of numpy's dtype of objects (``numpy.dtype("O").flags``): counted references, among others."""


def _write_dict(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    file.write(pickle.EMPTY_DICT)
    for name, array in arrays.items():
        file.write(_text(name))
        _write_array(file, array)
        file.write(pickle.SETITEM)


def _begun_array(shape: tuple[int, ...], code: str, flags: int = 0) -> bytes:
    """Return the opcodes of an array and the start of its state, without the elements."""
    made = _global("numpy.core.multiarray", "_reconstruct") + _global("numpy", "ndarray")
    made += _tuple(_int(0)) + pickle.SHORT_BINBYTES + b"\x01b" + pickle.TUPLE3 + pickle.REDUCE
    return made + pickle.MARK + _int(1) + _tuple(*map(_int, shape)) + _dtype(code, flags) + pickle.NEWFALSE


def _write_array(file: BinaryIO, array: np.ndarray) -> None:
    array = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    file.write(_begun_array(array.shape, array.dtype.str))
    file.write(pickle.BINBYTES8 + struct.pack("<Q", array.nbytes))
    file.write(array.reshape(-1).view(np.uint8).data)
    file.write(pickle.TUPLE + pickle.BUILD)


def _text(value: str) -> bytes:
    raw = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(raw)) + raw


def _int(value: int) -> bytes:
    return pickle.BININT + struct.pack("<i", value)


def _tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def _global(module: str, name: str) -> bytes:
    return _text(module) + _text(name) + pickle.STACK_GLOBAL


def _dtype(code: str, flags: int = 0) -> bytes:
    """Return ``numpy.dtype(code[1:])`` with its state: version 3, byte order, no fields, no subtype, no alignment."""
    arguments = _text(code[1:]) + pickle.NEWFALSE + pickle.NEWTRUE + pickle.TUPLE3
    build = _global("numpy", "dtype") + arguments + pickle.REDUCE
    state = _tuple(_int(3), _text(code[0]), pickle.NONE, pickle.NONE, pickle.NONE, _int(-1), _int(-1), _int(flags))
    return build + state + pickle.BUILD
