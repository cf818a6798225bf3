"""Bring Paddle weights home to timm: ``.pdparams`` or ``.safetensors`` -> ``.safetensors`` or ``.pth``.

Usage::

    python convert/paddle2timm.py --checkpoint finetuned.pdparams --model dla60 --output dla60_finetuned.safetensors

A port's weights need ``--model ports/NAME``.

A file written by ``timm2paddle.py`` is restored bit for bit: its manifest records the model, the batch counters that
Paddle does not have, and the original type of the tensors (half, bfloat16). Weights trained since then no longer fit a
shorter type and stay float32. ``timm.create_model(name, checkpoint_path=...)`` loads the result.

Exit codes: 0 written, 1 refused (nothing was written), 2 usage.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convert.audit import audit
from convert.key_map import to_paddle, to_timm
from convert.layout import state_layout
from convert.outcome import ConversionError
from convert.port_weights import timm_state
from convert.readers import source_from_arrays
from paddle_dla import weight_files
from paddle_dla.command_parser import CommandParser
from paddle_dla.errors import UserError
from paddle_dla.extras import install_command
from paddle_dla.models.registry import Entry, find_model, recorded_variant
from paddle_dla.storage.apart import check_apart
from paddle_dla.storage.atomic import atomic_path, check_writable
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.tensors import StoredTensor, write_safetensors
from paddle_dla.terminal import run_command

SUFFIXES = (".safetensors", ".pth")


def convert_back(
    arrays: Mapping[str, np.ndarray],
    model: str,
    manifest: Mapping[str, Any] | None = None,
) -> dict[str, StoredTensor]:
    """Convert ``{Paddle name: array}`` to ``{timm name: tensor}``, in timm's order.

    Batch counters and types are restored from ``manifest`` if it is given. Raises ``ConversionError``, which lists
    every tensor that is missing, left over, or of another shape or type.
    """
    source = source_from_arrays({to_timm(name): array for name, array in arrays.items()})
    layout = state_layout(model, source.num_classes or 1000, source.in_chans)
    twice = [f"{name}: left over: its name in timm, {to_timm(name)}, is that of another tensor" for name in arrays
             if to_timm(name) != name and to_timm(name) in arrays]  # fmt: skip
    faults = [*audit(source.tensors, layout).faults, *twice]
    if faults:
        raise ConversionError(f"these weights do not account for {model} (nothing was written)", faults)
    types = _source_types(arrays, manifest or {})
    counters = (manifest or {}).get("dropped", {})
    tensors = {}
    for name in layout:
        paddle = to_paddle(name)
        if paddle is None:
            value = np.asarray(counters.get(name, {}).get("value", 0), np.int64)
            tensors[name] = StoredTensor(value, "int64")
        else:
            tensors[name] = _as_type(arrays[paddle], types.get(paddle, "float32"))
    return tensors


def port_back(
    arrays: Mapping[str, np.ndarray], entry: Entry, manifest: Mapping[str, Any] | None
) -> dict[str, StoredTensor]:
    """Like ``convert_back``, for the port ``entry``."""
    tensors, types = timm_state(arrays, entry, manifest), _source_types(arrays, manifest or {})
    theirs = {record["from"]: types[name] for name, record in (manifest or {}).get("tensors", {}).items()
              if name in types}  # fmt: skip
    return {name: _as_type(tensor.array(), theirs[name]) if name in theirs else tensor
            for name, tensor in tensors.items()}  # fmt: skip


def _source_types(arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the original half and bfloat16 types by Paddle name; empty unless every value still fits its type."""
    types = {
        name: entry["source_dtype"]
        for name, entry in manifest.get("tensors", {}).items()
        if entry.get("source_dtype") in ("float16", "bfloat16") and name in arrays
    }
    exact = all(_fits(arrays[name], dtype) for name, dtype in types.items())
    return types if exact else {}


def _fits(array: np.ndarray, dtype: str) -> bool:
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    if dtype == "bfloat16":
        return not np.any(bits & 0xFFFF)
    with np.errstate(over="ignore"):
        return bool(np.array_equal(array.astype(np.float16).astype(np.float32).view(np.uint32), bits))


def _as_type(array: np.ndarray, dtype: str) -> StoredTensor:
    if dtype == "bfloat16":
        return StoredTensor((np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16), dtype)
    return StoredTensor(array.astype(dtype, copy=False), dtype)


def write_timm(path: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Write ``tensors`` to ``path`` atomically.

    Raises ``CheckpointError`` if a ``.pth`` is requested without torch, or if the file cannot be written.
    """
    if path.suffix == ".safetensors":
        with atomic_path(path) as part:
            write_safetensors(part, tensors, framework="pt")
        return
    content = _torch_bytes(path, tensors)
    with atomic_path(path) as part:
        part.write_bytes(content)


def _torch_bytes(path: Path, tensors: Mapping[str, StoredTensor]) -> memoryview:
    """Return the content of a ``.pth``. torch's own writer reports a full disk as a ``RuntimeError``."""
    try:
        import torch
    except ImportError:
        raise CheckpointError(
            f"writing {path} needs torch: {install_command('torch')}, or name a .safetensors file, which needs none"
        ) from None
    state = {
        name: torch.from_numpy(t.raw.copy()).view(torch.bfloat16)
        if t.dtype == "bfloat16"
        else torch.from_numpy(t.raw.copy())
        for name, t in tensors.items()
    }
    content = io.BytesIO()
    torch.save(state, content)
    return content.getbuffer()


def run(source: str, output: str, model: str | None = None) -> Path:
    """Convert the file ``source``, write ``output`` and return its path.

    Raises ``CheckpointError`` if the source cannot be read or does not match the model, or if the output cannot be
    written.
    """
    target = Path(output)
    if target.suffix not in SUFFIXES:
        raise CheckpointError(f"cannot write {target}: the suffix must be one of {', '.join(SUFFIXES)}")
    check_writable(target)
    source = weight_files.weight_file(source)
    check_apart({"--output": target}, [source])
    arrays, manifest = weight_files.read(source)
    recorded = manifest["model"] if manifest else None
    entry = find_model(model or recorded_variant(manifest, source))
    name = entry.name
    if recorded is not None and recorded != name:
        raise CheckpointError(f"{source} holds {recorded}, not {name}")
    tensors = convert_back(arrays, name, manifest) if entry.folder is None else port_back(arrays, entry, manifest)
    write_timm(target, tensors)
    print(f"{name}: {len(tensors)} tensors written to {target}")
    return target


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    result = CommandParser("paddle2timm", __doc__)
    result.add_argument("--checkpoint", required=True, help="Paddle weights to convert: .pdparams or .safetensors")
    result.add_argument("--output", required=True, help=f"file to write: {' or '.join(SUFFIXES)}")
    result.add_argument("--model", type=_model, help="model name or port folder (default: from the manifest)")
    return result


def _model(text: str) -> str:
    try:
        return find_model(text).place
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    args = parser().parse_args(argv)
    try:
        run(args.checkpoint, args.output, args.model)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
