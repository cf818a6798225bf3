"""Read the weights in the files of an export, to check that they are finite: no framework, no package of ONNX.

An engine does not report that a weight is NaN (see ``paddle_dla/storage/values.py``), and gives no access to its
weights. Formats: Paddle's combined parameters as written by ``SerializeToStream`` and ``TensorToStream``
(``paddle/phi/core/framework/dense_tensor_serialize.cc`` and ``dense_tensor_tostream.cc``), and ONNX's protobuf
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto), of which initialisers and constants are read.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from paddle_dla.exporting.errors import ExportError
from paddle_dla.storage.regular import open_regular
from paddle_dla.storage.values import SHOWN, non_finite

Array = tuple[str, np.ndarray]

# Paddle's VarType.Type -> numpy's type; without bfloat16, which no export has
_PADDLE_TYPES = {0: "|b1", 1: "<i2", 2: "<i4", 3: "<i8", 4: "<f2", 5: "<f4", 6: "<f8", 20: "|u1", 21: "|i1"}
# ONNX's floating-point TensorProto.DataType, and the field of such a tensor's values if they are not raw bytes
_ONNX_FLOATS = {1: ("<f4", 4), 10: ("<f2", None), 11: ("<f8", 10)}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def refuse_broken(path: Path) -> None:
    """Raise ``ExportError`` if ``path`` (``.pdiparams`` or ``.onnx``) holds NaN or infinity, or no weights."""
    read = pdiparams if path.suffix == ".pdiparams" else onnx_weights
    try:
        faults = [f"{name}: {fault}" for name, array in read(mapped(path)) if (fault := non_finite(array))]
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, LookupError, struct.error, OverflowError) as error:
        raise ExportError(f"{path} holds no weights that can be read: {error}; export again") from error
    if faults:
        raise ExportError(f"{path} holds weights that are not finite, export again: {'; '.join(faults[:SHOWN])}")


def mapped(path: Path) -> memoryview:
    """Map the bytes of a file, which are read on access."""
    with open_regular(path) as file:
        return np.memmap(file, np.uint8, mode="r").data


def pdiparams(data: memoryview) -> Iterator[Array]:
    """Yield position and shape of each tensor, as a name, and its values; the names are only in the program."""
    position, number = 0, 0
    while position < len(data):
        version, levels = struct.unpack_from("<IQ", data, position)
        position += 12
        for _ in range(levels):
            position += 8 + struct.unpack_from("<Q", data, position)[0]
        version_of_tensor, length = struct.unpack_from("<Ii", data, position)
        if version or version_of_tensor or not 0 < length < 4096:
            raise ValueError(f"tensor {number} has a header of another version")
        position += 8
        kind, shape = _description(data[position : position + length])
        position += length
        dtype, count = np.dtype(_PADDLE_TYPES[kind]), math.prod(shape)
        yield f"tensor {number}, of shape {shape}", np.frombuffer(data, dtype, count, position)
        position, number = position + count * dtype.itemsize, number + 1


def _description(data: memoryview) -> tuple[int, list[int]]:
    """Return type and shape of a Paddle ``TensorDesc``."""
    kind, shape = -1, []
    for field, value in _fields(data):
        if field == 1:
            kind = int(value)
        elif field == 2:
            shape += [value] if isinstance(value, int) else _varints(value)
    return kind, shape


def onnx_weights(data: memoryview) -> Iterator[Array]:
    """Yield name and values of each floating-point initialiser and constant of a graph."""
    for graph in _all(data, 7):
        tensors = list(_all(graph, 5))
        for node in _all(graph, 1):
            tensors += [tensor for attribute in _all(node, 5) for tensor in _all(attribute, 5)]
        for tensor in tensors:
            yield from _onnx_tensor(tensor)


def _onnx_tensor(data: memoryview) -> Iterator[Array]:
    found = dict(_fields(data))
    kind = found.get(2)
    if not isinstance(kind, int) or kind not in _ONNX_FLOATS:
        return
    dtype, field = _ONNX_FLOATS[kind]
    name = bytes(found.get(8, b"")).decode("utf-8", "replace") or "a constant"
    raw = found.get(9, found.get(field, b"") if field else b"")
    if isinstance(raw, memoryview):
        yield name, np.frombuffer(raw, dtype)


def _all(data: memoryview, wanted: int) -> Iterator[memoryview]:
    """Yield the messages of a field."""
    return (value for field, value in _fields(data) if field == wanted and isinstance(value, memoryview))


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field of a protobuf message: a number, or bytes.

    https://protobuf.dev/programming-guides/encoding/
    """
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == _VARINT:
            value, position = _varint(data, position)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
            value, position = data[position : position + size], position + size
        elif kind == _BYTES:
            size, position = _varint(data, position)
            value, position = data[position : position + size], position + size
        else:
            raise ValueError(f"a field of type {kind}")
        if position > len(data):
            raise ValueError("it breaks off")
        yield tag >> 3, value


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7


def _varints(data: memoryview) -> list[int]:
    found, position = [], 0
    while position < len(data):
        value, position = _varint(data, position)
        found.append(value)
    return found
