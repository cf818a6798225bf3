"""Read and write the files of PaddlePaddle's reprod_log: ``{name: array}``.

reprod_log (https://github.com/PaddlePaddle/models/tree/release/2.2/tutorials/reprod_log, 1.0.1) saves with
``numpy.save(path, dict)``: a ``.npy`` header of an array of objects without dimensions, and the pickle of that array.
``numpy.load(allow_pickle=True)`` runs any code that the pickle names. This module uses the unpickler of ``.pdparams``
files, which accepts arrays of numbers and refuses every other name.

Such a file holds outputs without their layers: two of them show that two models differ, not where.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from io import BufferedReader
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from alignment.engine.judging.error import compare
from alignment.engine.judging.limits import BITS, MARGIN
from alignment.engine.judging.rows import UNMEASURED, tensor_row
from alignment.engine.records.files import load_tape
from alignment.engine.records.tape import Tape
from alignment.engine.result import Result, Row
from paddle_dla.storage.atomic import atomic_path
from paddle_dla.storage.errors import UNPICKLING_ERRORS, CheckpointError
from paddle_dla.storage.limited_pickle import Budget
from paddle_dla.storage.pdparams import (
    ALLOWED,
    ArrayUnpickler,
    StoredArray,
    StoredDtype,
    named_arrays,
    write_object_array,
)
from paddle_dla.storage.regular import open_regular

SUFFIX = ".npy"

MEASURED = 9e-7
"""The float32 error of a correct DLA60's logits, over the largest of them.

A file contains no run in another precision to measure rounding with, so this value replaces the measurement.
"""

NO_LAYER = (
    "reprod_log's files hold outputs alone, so no layer is named; python alignment/check_backward.py names the layer "
    "at fault, or alignment/record.py on machines of one framework each"
)


def read_reprod(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read ``{name: array}`` from a file of ``ReprodLogger.save`` or ``write_reprod``; nothing in it is executed.

    Raises ``CheckpointError`` where the file is missing, damaged, holds something other than named arrays of numbers,
    or names any code.
    """
    try:
        with BufferedReader(open_regular(path)) as file:
            _skip_header(file)
            outer = _ReprodUnpickler(file).load()
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except (*UNPICKLING_ERRORS, TokenError) as error:  # numpy tokenises the header as Python
        raise CheckpointError(
            f"{path} is no readable file of reprod_log: {type(error).__name__}: {error}; it is truncated, damaged or "
            "of another format"
        ) from error
    return named_arrays(outer.element if isinstance(outer, _ObjectArray) else outer, path)


def write_reprod(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Write ``arrays`` as ``ReprodLogger.save`` does, completely or not at all.

    Raises ``CheckpointError`` for another suffix than ``.npy``, for arrays of anything but numbers, and where the
    system refuses.
    """
    if Path(path).suffix != SUFFIX:
        raise CheckpointError(f"cannot write {path}: reprod_log's files end in {SUFFIX}")
    wrong = [name for name, array in arrays.items() if array.dtype.kind not in "biufc"]
    if wrong:
        raise CheckpointError(f"cannot write {path}: {wrong[0]!r} is an array of {arrays[wrong[0]].dtype}, no numbers")
    with atomic_path(path) as part, open(part, "wb") as file:
        npy.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        write_object_array(file, arrays)


def tape_outputs(tape: Tape) -> dict[str, np.ndarray]:
    """Return the outputs of every call on ``tape``, by layer.

    ``layer#2`` is the second call of a layer, ``layer[1]`` the second tensor that a call returned.
    """
    found = {}
    for record in tape:
        arrays = tape.outputs(record)
        for index, array in enumerate(arrays):
            call = f"#{record.call + 1}" if record.call else ""
            found[f"{record.path}{call}{f'[{index}]' if len(arrays) > 1 else ''}"] = array
    return found


def export_tape(tape: Tape, path: str | os.PathLike[str]) -> None:
    """Write every output on ``tape`` as a file of reprod_log. Raises ``CheckpointError`` as ``write_reprod``."""
    write_reprod(path, tape_outputs(tape))


def export_record(folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Write every output in a folder of ``record.py`` as a file of reprod_log.

    Raises ``CheckpointError`` as ``write_reprod``, and ``TapeError`` where the folder holds no record.
    """
    export_tape(load_tape(folder)[0], path)


def compare_reprod(
    reference: str | os.PathLike[str], candidate: str | os.PathLike[str], tolerance: float | None = None
) -> Result:
    """Compare two files name by name, by the largest error of each array over its largest magnitude.

    ``tolerance`` is the allowed error; the default is what rounding explains in the arrays' dtype (``allowed``). Raises
    ``CheckpointError`` where a file is unreadable.
    """
    expected, actual = read_reprod(reference), read_reprod(candidate)
    result = Result(f"{candidate} against {reference}", "the files' types")
    for depth, name in enumerate(dict.fromkeys([*expected, *actual])):
        result.rows.append(_row(name, depth, expected.get(name), actual.get(name), tolerance))
    if not any(array.size for array in expected.values()):
        result.rows = [replace(row, undecided="the array has no elements") for row in result.rows]
    limit = "what rounding explains in the type" if tolerance is None else f"--tolerance {tolerance:g}"
    result.facts = {"allowed": f"{limit}, for the largest error of an array, not for its mean", "note": NO_LAYER}
    return result


def allowed(dtype: np.dtype[Any]) -> tuple[float, float]:
    """Return the relative error that rounding explains between two correct models in ``dtype``, and the limit.

    From ``MEASURED``, scaled by the bits of the significand, and the margin of ``engine.noise``; integers must be
    equal.
    """
    if dtype.kind not in "fc":
        return 0.0, 0.0
    name = "float32" if dtype.name in ("float32", "complex64", "float16") else "float64"
    bits = np.finfo(dtype).nmant + 1
    floor = MEASURED * 2.0 ** (BITS["float32"] - bits)
    return floor, floor * MARGIN[name]


def _row(
    name: str, depth: int, expected: np.ndarray | None, actual: np.ndarray | None, tolerance: float | None
) -> Row:  # fmt: skip
    if expected is None or actual is None:
        shown = next(array for array in (expected, actual) if array is not None)
        note = f"not in the {'first' if expected is None else 'second'} file"
        return tensor_row(name, name, "Array", depth, shown.shape, UNMEASURED, (0.0, 0.0), note=note)
    found = compare(_parts(expected), _parts(actual))
    # use the dtype that rounds more
    floor, limit = max(allowed(expected.dtype), allowed(actual.dtype))
    limits = floor, limit if tolerance is None else tolerance
    note = found.mismatch or _lost(expected, actual, found.max_abs)
    found = replace(found, worst=found.worst[: expected.ndim])
    row = tensor_row(name, name, "Array", depth, expected.shape, found, limits, note=note)
    return replace(row, undecided="" if note else _judges_nothing(expected))


def _judges_nothing(expected: np.ndarray) -> str:
    """Return why the first file's array cannot judge the second's; empty if it can."""
    finite = expected.dtype.kind not in "fc" or np.isfinite(expected).all()
    return "" if finite else "the first file is NaN or infinite there"


def _parts(array: np.ndarray) -> np.ndarray:
    """Return a complex array as real and imaginary parts, (..., 2); any other array unchanged."""
    return np.stack([np.real(array), np.imag(array)], -1) if array.dtype.kind == "c" else array


def _lost(expected: np.ndarray, actual: np.ndarray, difference: float) -> str:
    """Describe integers beyond 2**53 whose difference is lost in float64, in which errors are measured."""
    exact = expected.dtype.kind in "biu" and actual.dtype.kind in "biu"
    return "integers differ in their last digits" if exact and not difference and (expected != actual).any() else ""


# --- the pickle -----------------------------------------------------------------------------------------------------


class _ObjectDtype(StoredDtype):
    """``StoredDtype`` that also accepts the object dtype of the outer array, whose elements then arrive as a list."""

    __slots__ = ()

    def __init__(self, budget: Budget, code: str, align: object = False, copy: object = False):
        if type(code) is str and code in ("O8", "O4", "O"):
            self.value = None
        else:
            super().__init__(budget, code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if self.value is not None:
            super().__setstate__(state)


class _ObjectArray(StoredArray):
    """``StoredArray`` that also accepts an array of one object, kept as the unpickler made it: no pointer is formed."""

    __slots__ = ("element",)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, _, data = state
        self.element: object = None
        if dtype.value is not None:
            super().__setstate__(state)
        elif shape != () or type(data) is not list or len(data) != 1:
            raise CheckpointError("it holds an array of several objects, not a dict of named arrays")
        else:
            self.element = data[0]


_STAND_INS = {StoredArray: _ObjectArray, StoredDtype: _ObjectDtype}
_ALLOWED = {name: _STAND_INS.get(value, value) for name, value in ALLOWED.items()}


class _ReprodUnpickler(ArrayUnpickler):
    allowed = _ALLOWED
    format = "file of reprod_log"


def _skip_header(file: BinaryIO) -> None:
    """Skip to the pickle. Raises ``CheckpointError`` for a ``.npy`` that holds anything but one object."""
    version = npy.read_magic(file)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise CheckpointError(f"it is of version {version[0]}.{version[1]} of .npy; reprod_log writes 1.0 or 2.0")
    shape, _, dtype = read(file)
    if shape != () or dtype != np.dtype(object):
        raise CheckpointError(
            f"it holds an array of {dtype}, {list(shape)}, not the dict of named arrays of reprod_log"
        )
