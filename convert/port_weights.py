"""Convert the weights of a port: another checkpoint of its reference to Paddle, or a Paddle file back. No framework.

The manifest in the port's folder is the key map: it records for each Paddle tensor its torch tensor and the steps. For
checkpoints with other names pass another key map (``alignment.transfer`` finds one, ``KeyMap.save`` writes it).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from convert.audit import FLOATS, MISSING
from convert.key_map import drop_reason
from convert.matching.key_map import KeyMap, KeyMapError, Line, parse_steps
from convert.outcome import Conversion, ConversionError, versions
from convert.readers import Source, no_count, shared_prefix
from paddle_dla import weight_files
from paddle_dla.models.adapt_weights import Ends, adapt_stem
from paddle_dla.models.cards import WEIGHTS
from paddle_dla.models.registry import Entry
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.manifest import FORMAT, describe
from paddle_dla.storage.tensors import StoredTensor
from paddle_dla.storage.values import non_finite

COUNTER = "num_batches_tracked"
CONSTANT = "a constant of the forward method"
TABLE = "a table of the model, which the file does not hold"


class Unasked(ConversionError):
    """Raised if ``num_classes`` or ``in_chans`` of a source differ from the port's and were not requested."""

    def __init__(self, message: str, faults: list[str], num_classes: int, in_chans: int):
        super().__init__(message, faults)
        self.num_classes, self.in_chans = num_classes, in_chans


def convert_for_port(
    source: Source,
    entry: Entry,
    num_classes: int | None = None,
    in_chans: int | None = None,
    head_seed: int = 0,
    preprocessing: Preprocessing | None = None,
    key_map: KeyMap | None = None,
) -> Conversion:
    """Convert ``source`` for the port ``entry``; the arguments are those of ``convert_source``.

    Raises ``ConversionError``, which lists every tensor that is missing, left over, or of another shape or type.
    """
    own, recorded = stored_weights(port_folder(entry))
    source = _without_prefix(source, key_map or key_map_of(recorded))
    used = _used(key_map or key_map_of(recorded), source, recorded)
    arrays = _applied(used, source, recorded, own, entry)
    ends, made = Ends.of(entry.card), {}
    has = ends.classes(arrays) or entry.card.num_classes or 0, ends.channels(arrays) or entry.card.in_chans or 3
    wanted = num_classes or entry.card.num_classes or 0, in_chans or entry.card.in_chans or 3
    _refuse_unasked(source, entry, has, (num_classes, in_chans))
    if has[1] != wanted[1]:
        arrays[ends.stem] = adapt_stem(arrays[ends.stem], wanted[1], ends.stem)
        made[ends.stem] = f"adapted from {has[1]} to {wanted[1]} input channels by timm's rule"
    if has[0] != wanted[0]:
        arrays.update(_new_head(arrays, ends, wanted[0], head_seed))
        why = f"new head for {wanted[0]} classes, initialised with seed {head_seed}"
        made.update({name: why for name in ends.head if name in arrays})
    chosen = preprocessing or entry.card.preprocessing.with_channels(wanted[1])
    accounts = _accounts(used, source, arrays, made)  # before the manifest, which waits for the source's digest
    manifest = {
        "format": FORMAT,
        "model": entry.name,
        "num_classes": wanted[0],
        "in_chans": wanted[1],
        "source": dict(source.origin),
        "versions": versions("numpy", "safetensors", "torch"),
        "preprocessing": chosen.as_dict(),
        **accounts,
    }
    bad = [f"{name}: {fault}" for name, array in arrays.items() if (fault := non_finite(array))]
    return Conversion(entry.name, *wanted, arrays, manifest, [*source.notes, *made.values(), *bad])


def stored_weights(folder: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the arrays of the port in ``folder`` and their manifest. Raises ``CheckpointError`` if one is missing."""
    arrays, manifest = weight_files.read(Path(folder) / WEIGHTS)
    if manifest is None:
        raise CheckpointError(f"{os.fspath(folder)} has weights without a manifest")
    return arrays, manifest


def port_folder(entry: Entry) -> Path:
    """Return the folder of the port ``entry``. Raises ``CheckpointError`` if it is not a port."""
    if entry.folder is None:
        raise CheckpointError(f"{entry.place} is no port: it has no folder with weights")
    return entry.folder


def key_map_of(manifest: Mapping[str, Any]) -> KeyMap:
    """Return the key map recorded in a port's manifest."""
    return KeyMap(
        tuple(
            Line(None, name, dropped=CONSTANT)
            if record.get("from") is None
            else Line(record["from"], name, parse_steps(record.get("steps", ())))
            for name, record in manifest["tensors"].items()
        )
    )


def _without_prefix(source: Source, key_map: KeyMap) -> Source:
    """Remove a wrapper's prefix from every name: Lightning's ``model.``, ``module.``, ``_orig_mod.``."""
    prefix, known = shared_prefix(source.tensors), {line.torch for line in key_map if line.torch}
    if not prefix or not any(name.removeprefix(prefix) in known for name in source.tensors):
        return source
    tensors = {name.removeprefix(prefix): tensor for name, tensor in source.tensors.items()}
    return replace(source, tensors=tensors, notes=[*source.notes, f"prefix {prefix!r} removed from every name"])


def _is_table(record: Mapping[str, Any]) -> bool:
    """Return whether a tensor is not trained: indices, or a tensor that checkpoints of the reference do not contain."""
    return not record["dtype"].startswith("float") or record.get("saved") is False


def _used(key_map: KeyMap, source: Source, recorded: Mapping[str, Any]) -> KeyMap:
    """Fit ``key_map`` to ``source``: drop batch counters, and keep the port's own tables if the source lacks them."""
    tables = {name for name, record in recorded["tensors"].items() if _is_table(record)}
    lines, known = [], {line.torch for line in key_map if line.torch}
    for line in key_map:
        if line.paddle in tables and line.torch not in source.tensors:
            lines.append(Line(None, line.paddle, dropped=TABLE))
        elif line.paddle or line.torch in source.tensors:
            lines.append(line)
    norms = {line.torch.rpartition(".")[0] for line in key_map if line.torch and line.torch.endswith(".running_mean")}
    lines += [Line(name, None, dropped=drop_reason(name)) for name in source.tensors
              if name not in known and name.endswith(f".{COUNTER}") and name.rpartition(".")[0] in norms]  # fmt: skip
    return KeyMap(tuple(lines))


def _applied(
    key_map: KeyMap, source: Source, recorded: Mapping[str, Any], own: Mapping[str, np.ndarray], entry: Entry
) -> dict[str, np.ndarray]:
    """Return ``{Paddle name: array}`` in the port's order; head and stem may have other classes and channels."""
    tensors = recorded["tensors"]
    tables = {line.torch for line in key_map if line.paddle and _is_table(tensors[line.paddle])}
    carried = {line.torch for line in key_map if line.torch and line.paddle} - tables
    faults = [f"{name}: the file has type {source.tensors[name].dtype}, the model one of {', '.join(FLOATS)}"
              for name in carried if name in source.tensors and source.tensors[name].dtype not in FLOATS]  # fmt: skip
    faults += [f"{line.torch}: is {count}, which counts no batches" for line in key_map if line.paddle is None
               and line.torch is not None and line.torch in source.tensors and not source.tensors[line.torch].shape
               and (count := no_count(source.tensors[line.torch]))]  # fmt: skip
    if faults:
        raise _misfit(source, entry, faults)
    arrays = {name: tensor.array() if name in tables or name not in carried else tensor.array().astype(
        np.float32, copy=False) for name, tensor in source.tensors.items()}  # fmt: skip
    made: dict[str, np.ndarray] = {}
    try:
        shapes = {name: tuple(record["shape"]) for name, record in tensors.items()}
        loose = key_map.apply(arrays, partial=True)
        made = key_map.apply(arrays, shapes | _free(loose, shapes, Ends.of(entry.card)))
    except KeyMapError as error:
        faults = [fault.replace("in the key map, not among the tensors", MISSING) for fault in error.faults]
    changed = [name for name in made if _is_table(tensors[name]) and not np.array_equal(made[name], own[name])]
    faults += [f"{name}: the file has another table than the model" for name in changed]
    if faults:
        raise _misfit(source, entry, faults)
    return {name: np.ascontiguousarray(made.get(name, own[name])) for name in tensors}


def _misfit(source: Source, entry: Entry, faults: list[str]) -> ConversionError:
    origin = source.place.get("file", "the source")
    return ConversionError(f"{origin} does not account for {entry.name} (nothing was written)", faults)


def _free(
    made: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], ends: Ends
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of head and stem with the numbers of classes and channels of the file."""
    free = {}
    for name in (*ends.head, ends.stem):
        if name in made and name in shapes and len(made[name].shape) == len(shapes[name]):
            found, shape = made[name].shape, list(shapes[name])
            axis = 1 if name == ends.stem or (len(shape) == 2 and name == ends.head[0]) else 0
            shape[axis] = found[axis]
            free[name] = tuple(shape)
    return free


def _refuse_unasked(source: Source, entry: Entry, has: tuple[int, int], asked: tuple[int | None, int | None]) -> None:
    own = entry.card.num_classes, entry.card.in_chans
    faults = []
    if asked[0] is None and has[0] != (own[0] or 0):
        faults.append(
            f"it has {has[0]} classes: pass --num-classes {has[0]} to keep them, or another number for a new head"
        )
    if asked[1] is None and has[1] != (own[1] or 3):
        faults.append(f"it takes {has[1]} input channels: pass --in-chans {has[1]} to keep them")
    if faults:
        raise Unasked(f"{source.place.get('file', 'the source')} differs from {entry.place}:", faults, *has)


def _new_head(arrays: Mapping[str, np.ndarray], ends: Ends, num_classes: int, seed: int) -> dict[str, np.ndarray]:
    """Return a new classifier, initialised as in torch: U(-1, 1) / sqrt(features)."""
    old, rng = arrays[ends.head[0]], np.random.default_rng(seed)
    shape = (old.shape[0], num_classes) if old.ndim == 2 else (num_classes, *old.shape[1:])
    features = old.shape[0] if old.ndim == 2 else old.shape[1]
    shapes = {ends.head[0]: shape, ends.head[1]: (num_classes,)}
    return {name: (rng.uniform(-1, 1, size) / features**0.5).astype(np.float32) for name, size in shapes.items()
            if name in arrays}  # fmt: skip


def _accounts(
    key_map: KeyMap, source: Source, arrays: Mapping[str, np.ndarray], made: Mapping[str, str]
) -> dict[str, Any]:
    lines: dict[str | None, Line] = {line.paddle: line for line in key_map if line.paddle}
    tensors = {}
    for name, array in arrays.items():
        line = lines[name]
        entry: dict[str, Any] = {"from": None if name in made and "new head" in made[name] else line.torch}
        entry["steps"] = [str(step) for step in line.steps]
        if name in made:
            entry["made"] = made[name]
        if line.torch is not None and line.torch in source.tensors:
            entry["source_dtype"] = source.tensors[line.torch].dtype
        tensors[name] = {**entry, **describe(array)}
    dropped = {}
    for line in key_map:
        if line.torch is not None and line.torch in source.tensors and line.paddle is None:
            tensor = source.tensors[line.torch]
            dropped[line.torch] = {"reason": line.dropped, "dtype": tensor.dtype, "shape": list(tensor.shape)}
            if not tensor.shape:
                dropped[line.torch]["value"] = int(tensor.array())
    return {"tensors": tensors, "dropped": dropped}


def timm_state(
    arrays: Mapping[str, np.ndarray], entry: Entry, manifest: Mapping[str, Any] | None
) -> dict[str, StoredTensor]:
    """Convert the Paddle weights ``arrays`` of the port ``entry`` to ``{timm name: tensor}``, in the port's order.

    The tensors are float32. Batch counters have the values recorded in ``manifest``, otherwise 0. A table is included
    only if it came from a file. Raises ``ConversionError`` for tensors that are missing, left over, or of another
    shape.
    """
    _, recorded = weight_files.read(port_folder(entry) / WEIGHTS)
    kept = manifest or {}
    tensors, faults = (recorded or {"tensors": {}})["tensors"], []
    faults += [f"{name}: {MISSING}" for name in tensors if name not in arrays]
    faults += [f"{name}: left over in the file" for name in arrays if name not in tensors]
    shapes = {name: tuple(record["shape"]) for name, record in tensors.items()}
    free = shapes | _free(arrays, shapes, Ends.of(entry.card))
    faults += [f"{name}: the file has shape {list(array.shape)}, the model {list(free[name])}"
               for name, array in arrays.items() if name in free and array.shape != free[name]]  # fmt: skip
    if faults:
        raise ConversionError(f"these weights do not account for {entry.name} (nothing was written)", faults)
    found: dict[str, StoredTensor] = {}
    for name, record in tensors.items():
        theirs, array = record.get("from"), arrays[name]
        came = kept.get("tensors", {}).get(name, {})
        if theirs is None or (_is_table(record) and "source_dtype" not in came):
            continue
        array = np.ascontiguousarray(array.T if "transpose" in record.get("steps", ()) else array)
        found[theirs] = StoredTensor(array, array.dtype.name)
        if theirs.endswith(".running_var"):
            counter = f"{theirs.rpartition('.')[0]}.{COUNTER}"
            value = kept.get("dropped", {}).get(counter, {}).get("value", 0)
            found[counter] = StoredTensor(np.asarray(value, np.int64), "int64")
    return found
