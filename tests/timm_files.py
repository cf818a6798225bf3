"""Weight files as timm, its users and their accidents leave them, written without torch where that can be."""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy_weights import timm_weights

from convert import timm2paddle
from convert.layout import state_layout
from paddle_dla.storage.tensors import StoredTensor

SMALL = "dla46x_c"

_CODES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32"}


@functools.cache
def _small_weights(num_classes: int, in_chans: int) -> dict[str, np.ndarray]:
    return timm_weights(SMALL, num_classes, in_chans)


def small_weights(num_classes: int = 1000, in_chans: int = 3) -> dict[str, np.ndarray]:
    """A full state dict of the smallest model, in a dict that the caller may change."""
    return dict(_small_weights(num_classes, in_chans))


def quick_weights(model: str) -> dict[str, np.ndarray]:
    """A full state dict of any model: every tensor another stretch of the same noise, which is quick to make."""
    noise = np.random.RandomState(0).standard_normal(200_003).astype(np.float32)
    return {name: _stretch(noise, name, shape) for name, shape in state_layout(model).items()}


def _stretch(noise: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
    start = zlib.crc32(name.encode()) % 100_000
    return np.resize(noise[start:], shape) if shape else np.asarray(start, np.int64)


def stored(weights: Mapping[str, np.ndarray], dtype: str = "float32") -> dict[str, StoredTensor]:
    """``weights`` with every float32 tensor cut down to ``dtype``."""
    return {
        name: _cut(array, dtype) if array.dtype == np.float32 else StoredTensor(array, array.dtype.name)
        for name, array in weights.items()
    }


def _cut(array: np.ndarray, dtype: str) -> StoredTensor:
    if dtype == "bfloat16":
        return StoredTensor((array.reshape(-1).view(np.uint32) >> 16).astype(np.uint16).reshape(array.shape), dtype)
    return StoredTensor(array.astype(dtype), dtype)


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray | StoredTensor]) -> Path:
    """A .safetensors file written from the description of the format, any type included."""
    header, chunks, end = {}, [], 0
    for name, tensor in tensors.items():
        tensor = tensor if isinstance(tensor, StoredTensor) else StoredTensor(tensor, tensor.dtype.name)
        begin, end = end, end + tensor.raw.nbytes
        header[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        chunks.append(tensor.raw.tobytes())
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(chunks))
    return path


def torch_tensors(weights: Mapping[str, np.ndarray]) -> dict[str, object]:
    """``weights`` as torch tensors."""
    import torch

    return {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}


def convert(source: Path, target: Path, *options: str, model: str = SMALL) -> int:
    """``timm2paddle.py`` on a file, in this process and without running the models; returns its exit code."""
    arguments = ["--model", model, "--checkpoint", source, "--output", target, "--no-verify", *options]
    return timm2paddle.main([str(argument) for argument in arguments])


def run(main: Callable[[Sequence[str]], int], *arguments: object) -> int:
    """Exit code of a command line in this process."""
    return main([str(argument) for argument in arguments])


def same_bits(left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> bool:
    """Whether both hold the same names, and every tensor the same type, shape and bytes."""
    return left.keys() == right.keys() and all(
        (left[name].dtype, left[name].shape, left[name].tobytes())
        == (right[name].dtype, right[name].shape, right[name].tobytes())
        for name in left
    )
