"""safetensors files as read-only views of the mapped file, including bfloat16, which numpy lacks.

Format: https://github.com/huggingface/safetensors#format. The library validates the header (bounds, overlaps, sizes).
The views are created here, because its numpy interface copies and refuses bfloat16. Files are also written here: the
library (0.8) writes to a hidden file of its own, which is never removed if the process is killed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.regular import open_regular
from paddle_dla.storage.shown import shown

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "|b1",
}
_CODES = {np.dtype(layout).name: code for code, layout in _DTYPES.items() if code != "BF16"} | {"bfloat16": "BF16"}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as stored in a file: ``raw`` is a read-only view, bfloat16 as its 16-bit pattern."""

    raw: np.ndarray
    dtype: str
    """``float32``, ``float16``, ``bfloat16``, ``float64``, ``int64``, ..."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return self.raw.shape

    def array(self) -> np.ndarray:
        """Return the values; bfloat16, which numpy lacks, as float32, which represents all of its values."""
        if self.dtype != "bfloat16":
            return self.raw
        # numpy 1 changes the type of a shifted scalar
        return np.asarray(np.left_shift(self.raw, 16, dtype=np.uint32)).view(np.float32)


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, StoredTensor]:
    """Read ``{name: tensor}`` in the order of the file, which stays mapped while the tensors are referenced.

    Raises ``CheckpointError`` if the file is missing, truncated, damaged, or of a type that no DLA weight has.
    """
    if os.path.isdir(path):
        raise CheckpointError(f"cannot read {path}: it is a folder")
    try:
        open_regular(path).close()
        with safe_open(os.fspath(path), framework="numpy"):
            pass
        content = np.memmap(path, dtype=np.uint8, mode="r")
    except FileNotFoundError:
        raise CheckpointError(f"cannot read {path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no readable safetensors file: {error}; it is truncated or damaged") from error
    length = int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8 : 8 + length].tobytes())
    header.pop("__metadata__", None)
    data = content[8 + length :]
    entries = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    return {name: _view(data, name, entry, path) for name, entry in entries}


def _view(data: np.ndarray, name: str, entry: Mapping[str, Any], path: str | os.PathLike[str]) -> StoredTensor:
    code = str(entry["dtype"])
    if code not in _DTYPES:
        raise CheckpointError(f"{path}: tensor '{shown(name)}' is of type {code}, which no supported weight has")
    begin, end = entry["data_offsets"]
    try:
        raw = data[begin:end].view(_DTYPES[code]).reshape(entry["shape"])
    except ValueError as error:  # numpy allows 64 dimensions, before 2 only 32, and an empty array must have a size
        raise CheckpointError(f"{path}: tensor '{shown(name)}' has a shape that no array has: {error}") from error
    return StoredTensor(raw.view(np.ndarray), "bfloat16" if code == "BF16" else raw.dtype.name)


def write_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray | StoredTensor], framework: str = "np"
) -> None:
    """Write ``tensors``, the widest types first, so that all are aligned; callers make it atomic.

    ``framework`` is the recorded framework, which some readers require (``pt`` for torch). Raises ``CheckpointError``
    for a type that no weight has, and ``OSError`` if the system refuses.
    """
    entries = [
        (name, tensor if isinstance(tensor, StoredTensor) else StoredTensor(tensor, tensor.dtype.name))
        for name, tensor in tensors.items()
    ]
    entries.sort(key=lambda entry: -entry[1].raw.itemsize)
    header: dict[str, object] = {"__metadata__": {"format": framework}}
    end = 0
    for name, tensor in entries:
        if tensor.dtype not in _CODES:
            raise CheckpointError(f"cannot write {name!r}: no supported weight is of type {tensor.dtype}")
        begin, end = end, end + tensor.raw.nbytes
        header[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in entries:
            raw = np.ascontiguousarray(tensor.raw, tensor.raw.dtype.newbyteorder("<"))
            file.write(raw.reshape(-1).view(np.uint8).data)
