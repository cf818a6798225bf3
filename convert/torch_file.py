"""Read files of ``torch.save`` without torch. Nothing in them is executed or can crash or hang the reader.

Both formats of ``torch/serialization.py`` (torch 2.13) are read: the zip (``_load``) and the stream of pickles written
by torch before 1.6 (``_legacy_load``). torch's own reader hashes any key of a pickle, which may never end or overflow
the stack of the process. This reader uses ``paddle_dla.storage.limited_pickle``.
"""

from __future__ import annotations

import math
import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from io import BufferedReader, BytesIO
from typing import Any, BinaryIO, TypeGuard

import numpy as np

from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.limited_pickle import LimitedUnpickler, StandIn, handlers, is_flat, refused
from paddle_dla.storage.regular import open_regular
from paddle_dla.storage.shown import shown
from paddle_dla.storage.tensors import StoredTensor

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
MOST_DIMENSIONS = 32
"""Limit of a tensor's dimensions; numpy before 2 allows no more."""
MOST_REPEATED = 2**20
"""Limit of the elements of a tensor that has more elements than its storage (``expand``); real ones are scalars."""

# torch's storage classes -> the tensor's type, and numpy's type of the bytes
_STORAGES = {
    "DoubleStorage": ("float64", "f8"),
    "FloatStorage": ("float32", "f4"),
    "HalfStorage": ("float16", "f2"),
    "BFloat16Storage": ("bfloat16", "u2"),
    "LongStorage": ("int64", "i8"),
    "IntStorage": ("int32", "i4"),
    "ShortStorage": ("int16", "i2"),
    "CharStorage": ("int8", "i1"),
    "ByteStorage": ("uint8", "u1"),
    "BoolStorage": ("bool", "b1"),
    "ComplexFloatStorage": ("complex64", "c8"),
    "ComplexDoubleStorage": ("complex128", "c16"),
    # storages of tensors that are not read; their size gives the offset of the next one
    "QInt8Storage": ("qint8", "i1"),
    "QUInt8Storage": ("quint8", "u1"),
    "QInt32Storage": ("qint32", "i4"),
    "UntypedStorage": ("bytes", "u1"),
}
# objects that training checkpoints contain beside weights, and tensors that are not plain: known by name, never built
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
_BUILTINS = ("set", "complex", "bytearray", "dict", "list", "tuple", "int", "float", "str", "bool")
_HARMLESS = {
    ("argparse", "Namespace"), ("collections", "Counter"), ("collections", "defaultdict"), ("_codecs", "encode"),
    *(("numpy", name) for name in ("dtype", "float64", "float32", "int64")), *((module, "scalar") for module in _NUMPY),
    *((module, name) for module in ("builtins", "__builtin__") for name in _BUILTINS),
    *(("torch", name) for name in ("device", "Tensor")),
    *(("torch.storage", name) for name in ("TypedStorage", "_load_from_bytes")),
    *(("torch.nn.parameter", name) for name in ("Parameter", "Buffer")),
    ("torch._tensor", "_rebuild_from_type_v2"), ("torch.serialization", "_get_layout"),
    *(("torch._utils", f"_rebuild_{kind}") for kind in (
        "sparse_tensor", "qtensor", "meta_tensor_no_storage", "tensor_v3", "device_tensor_from_numpy",
        "device_tensor_from_cpu_tensor", "nested_tensor", "wrapper_subclass", "sparse_csr_tensor",
    )),
}  # fmt: skip
# prefixes of torch.float8_e4m3fn and the like: dtypes and quantisation schemes are global names too
_DTYPES = ("float", "bfloat", "int", "uint", "bool", "complex", "q", "bits", "per_", "half", "double", "short", "long")


class CodeError(CheckpointError):
    """Raised if a file names code; ``name`` is the name."""

    def __init__(self, name: str):
        super().__init__(f"names code ({shown(name)}) beside weights")
        self.name = name


class UnreadObject(StandIn):
    """Placeholder for an object that is not a plain tensor; only the name of its ``kind`` is kept."""

    __slots__ = ("kind",)

    def __init__(self, kind: str, *arguments: object):
        self.kind = kind


@dataclass(frozen=True, eq=False)
class _StorageType(StandIn):
    dtype: str
    layout: str


@dataclass(frozen=True, eq=False)
class _Storage(StandIn):
    """``count`` elements, starting at ``first``, of the storage ``key`` of the file ``data``."""

    data: _Data
    type: _StorageType
    key: str
    count: int
    first: int = 0

    def elements(self) -> np.ndarray:
        """Return a read-only view of the file. Raises ``CheckpointError`` if the storage is too short."""
        layout = np.dtype(self.data.order + self.type.layout)
        raw = self.data.storages.get(self.key, np.empty(0, np.uint8))
        end = (self.first + self.count) * layout.itemsize
        if len(raw) < end:
            raise CheckpointError(f"storage {shown(self.key)} has {len(raw):,} bytes where {end:,} are needed")
        return raw[self.first * layout.itemsize : end].view(layout)


@dataclass(frozen=True, eq=False)
class TorchTensor(StandIn):
    """A plain dense tensor of a file; its data is read when ``stored`` is called."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def stored(self) -> StoredTensor:
        """Return the contiguous tensor. Raises ``CheckpointError`` if it extends beyond its storage."""
        elements = self.storage.elements()
        size, extent = math.prod(self.shape), math.prod(filter(None, self.shape))
        last = self.offset + sum((side - 1) * stride for side, stride in zip(self.shape, self.strides))
        if (size and last >= len(elements)) or extent > max(len(elements), MOST_REPEATED):
            raise CheckpointError(
                f"it has shape {list(self.shape)}, more than its storage of {len(elements):,} elements"
            )
        steps = [stride * elements.itemsize for stride in self.strides]
        begin = elements[self.offset :] if size else elements[:0]
        view = np.lib.stride_tricks.as_strided(begin, self.shape, steps, writeable=False)
        return StoredTensor(view.astype(view.dtype.newbyteorder("="), order="C", copy=False), self.storage.type.dtype)


class _Data:
    """Bytes of a file's storages. For a stream they are filled in after its pickles are read."""

    def __init__(self, order: str = "<"):
        self.order = order
        self.storages: dict[str, np.ndarray] = {}


def read_torch_file(path: str | os.PathLike[str]) -> object:
    """Return the object that was passed to ``torch.save``: dicts, lists and plain values; tensors as ``TorchTensor``.

    Raises ``CodeError`` if the file names anything that tensors do not need, ``CheckpointError`` for other content that
    is refused, ``OSError``, ``zipfile.BadZipFile`` and the ``UNPICKLING_ERRORS`` for a damaged file.
    """
    with BufferedReader(open_regular(path)) as file:
        content = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
        is_zip = file.peek(4)[:4] == b"PK\x03\x04"
        return _read_zip(file, content) if is_zip else _read_stream(file, content)


# --- the formats ------------------------------------------------------------------------------------------------------


def _read_zip(file: BinaryIO, content: np.ndarray) -> object:
    with zipfile.ZipFile(file) as archive:
        records = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in records if name.lower().endswith("/data.pkl")]
        if len(records) != len(archive.infolist()) or len(pickles) != 1:
            raise refused("it is a zip that torch did not write: a name is missing or duplicated")
        root = pickles[0].rpartition("/")[0]
        data = _Data(">" if f"{root}/byteorder" in records and archive.read(f"{root}/byteorder") == b"big" else "<")
        for name, info in records.items():
            if info.compress_type != zipfile.ZIP_STORED:
                raise refused("it is a zip that torch did not write: it is compressed")
            if name.startswith(f"{root}/data/"):
                data.storages[name.removeprefix(f"{root}/data/")] = _record(content, info)
        pickled = archive.read(pickles[0])
    return _TorchUnpickler(BytesIO(pickled), data, len(pickled)).load()


def _record(content: np.ndarray, info: zipfile.ZipInfo) -> np.ndarray:
    """Return the bytes of a record, after its header of 30 bytes, its name and its padding (APPNOTE.TXT 4.3.7)."""
    header = content[info.header_offset : info.header_offset + 30].tobytes()
    begin = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
    return content[begin : begin + info.file_size]


def _read_stream(file: BinaryIO, content: np.ndarray) -> object:
    """Read five pickles (magic number, version, machine facts, content, keys), then the storages in key order."""
    size, data = len(content), _Data()
    head = [_TorchUnpickler(file, data, size).load() for _ in range(3)]
    if head[:2] != [MAGIC, PROTOCOL] or not isinstance(head[2], dict):
        raise refused("it does not begin like torch's files")
    data.order = "<" if head[2].get("little_endian", True) else ">"
    unpickler = _TorchUnpickler(file, data, size)
    result = unpickler.load()
    keys = _TorchUnpickler(file, data, size).load()
    at = file.tell()
    for key in keys if isinstance(keys, list) else ():
        if type(key) is not str or key not in unpickler.types:
            raise refused("it lists a storage that no tensor has")
        (count,) = struct.unpack("<q", content[at : at + 8].tobytes())
        end = at + 8 + count * np.dtype(unpickler.types[key].layout).itemsize
        if not at + 8 <= end <= size:
            raise CheckpointError(f"storage {shown(key)} ends at byte {end:,} of {size:,}")
        data.storages[key], at = content[at + 8 : end], end
    return result


# --- the pickle -------------------------------------------------------------------------------------------------------


class _TorchUnpickler(LimitedUnpickler):
    """Unpickler of torch files; ``types`` holds the type of each storage by its key."""

    def __init__(self, file: BinaryIO, data: _Data, size: int):
        super().__init__(file, size)
        self._data = data
        self.types: dict[str, _StorageType] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "torch" and name in _STORAGES:
            return _StorageType(*_STORAGES[name])
        if (module, name) == ("collections", "OrderedDict"):
            return self._ordered
        if (module, name) in _MADE:
            return _MADE[module, name]
        of_torch = module == "torch" and name.startswith(_DTYPES)
        of_numpy = module == "numpy.dtypes" and name.endswith("DType")
        if of_torch or of_numpy or (module, name) in _HARMLESS:
            return partial(UnreadObject, f"{module}.{name}")
        raise CodeError(f"{module}.{name}")

    def check_key(self, key: object) -> None:
        """Accept text, numbers and flat tuples of these as keys: optimizers number their parameters."""
        if not is_flat(key) and not isinstance(key, StandIn):
            raise refused(f"a key in it is a {type(key).__name__} that could take forever to look up")

    def persistent_load(self, pid: object) -> StandIn:
        """Return the storage of ``("storage", type, key, device, elements)``; old files also refer to parts of one."""
        if type(pid) is not tuple or len(pid) not in (5, 6) or type(pid[0]) is not str or pid[0] != "storage":
            raise refused("it refers to something that is not a storage")
        _, kind, key, _, count, *view = pid
        if not isinstance(kind, _StorageType):
            return UnreadObject("a storage of no known type")
        if type(key) is not str or not _is_count(count):
            raise refused("it refers to a storage without a name or size")
        self.types.setdefault(key, kind)
        if view and view[0] is not None:
            if type(view[0]) is not tuple or len(view[0]) != 3 or not all(map(_is_count, view[0][1:])):
                raise refused("it refers to a part of a storage that is none")
            return _Storage(self._data, kind, key, view[0][2], view[0][1])
        return _Storage(self._data, kind, key, count)

    def _ordered(self, pairs: object = ()) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for pair in pairs if type(pairs) is list or type(pairs) is tuple else ():
            if type(pair) not in (list, tuple) or len(pair) != 2:
                raise refused("it makes a dict of items that are not pairs")
            self.set_items(made, list(pair))
        return made

    def load_newobj(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        self.append(kind(*arguments))


_TorchUnpickler.dispatch = handlers(("BINPERSID", "NEWOBJ"))


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 2**62


def _are_counts(value: object) -> TypeGuard[tuple[int, ...]]:
    return type(value) is tuple and all(map(_is_count, value))


def _tensor(
    storage: object, offset: object, shape: object, strides: object, gradient: object = False, hooks: object = None,
    metadata: object = None, *_: object,
) -> StandIn:  # fmt: skip
    """Replace ``torch._utils._rebuild_tensor`` and ``_v2``; ``requires_grad`` and hooks are not kept."""
    if not isinstance(storage, _Storage):
        return UnreadObject("a tensor in a storage of no known type")
    if metadata:
        # torch marks a pending negation or conjugation instead of applying it, so the stored numbers are different
        return UnreadObject("a view that torch marks as negated, conjugated or otherwise; save it with .resolve_neg()")
    if not _is_count(offset) or not _are_counts(shape) or not _are_counts(strides):
        raise refused("a tensor in it has an invalid shape")
    if len(shape) != len(strides) or len(shape) > MOST_DIMENSIONS:
        raise refused(f"a tensor in it has more than {MOST_DIMENSIONS} dimensions, or no stride for one")
    return TorchTensor(storage, offset, shape, strides)


def _parameter(data: object, *_: object) -> object:
    """Replace ``torch._utils._rebuild_parameter`` and ``_with_state``; returns the tensor."""
    return data


def _size(sides: object = ()) -> tuple[int, ...]:
    if (type(sides) is not list and type(sides) is not tuple) or not all(map(_is_count, sides)):
        raise refused("a shape in it is invalid")
    return tuple(sides)


_MADE: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch", "Size"): _size,
}
