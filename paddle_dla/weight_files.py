"""Read and write weight files, verify them against their manifest, and match them to a model by name. No framework.

A converted file is read directly. Any other source (a timm checkpoint, a hub id) goes to the converters that installed
packages register under the entry-point group ``paddle_dla.converters``: callables ``(source, model name) -> {Paddle
name: array}``. This package can therefore load timm's files without a table of timm's names.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from paddle_dla.errors import Notice, WrongValue
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.siblings import refuse_shadowed
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.manifest import check_tensors, manifest_path, verify, write_with_manifest
from paddle_dla.storage.pdparams import read_pdparams, write_pdparams
from paddle_dla.storage.tensors import read_safetensors, write_safetensors
from paddle_dla.storage.values import below_normal, listed, refuse_unusable

__all__ = ["CheckpointError", "check_fit", "load_weights", "read", "save"]

CONVERTERS = "paddle_dla.converters"
WRITERS = {".pdparams": write_pdparams, ".safetensors": write_safetensors}

TRAINED = "model.pdparams"
"""The weights in the folder of a training checkpoint."""
FOLDERS = {
    "card.json": "is the folder of a port; name it as the model: --model {folder}",
    "preprocessing.json": "is an export; evaluate and predict run it with --export {folder}",
    TRAINED: "is a checkpoint of a training, whose weights are Paddle's already: {folder}/" + TRAINED,
}
"""A file that identifies a kind of folder: the description of such a folder."""


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Read the arrays of a ``.pdparams`` or ``.safetensors`` file, and the manifest they were verified against, if any.

    The arrays may be read-only views of the file. Raises ``CheckpointError`` if the file is unreadable or does not
    match its manifest; in that case nothing in it was interpreted.
    """
    manifest = verify(path)
    if Path(path).suffix == ".safetensors":
        arrays = {name: tensor.array() for name, tensor in read_safetensors(path).items()}
    else:
        arrays = read_pdparams(path)
    if manifest is not None:
        check_tensors(manifest, arrays, path)
    return arrays, manifest


def save(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any]) -> None:
    """Write a ``.pdparams`` or ``.safetensors`` file with its manifest: both or neither.

    Raises ``CheckpointError`` for any other suffix, and if the system refuses to write.
    """
    write_with_manifest(path, arrays, manifest, WRITERS[check_suffix(path)])


def check_suffix(path: str | os.PathLike[str]) -> str:
    """Return the suffix of a weight file that can be written. Raises ``CheckpointError`` for any other suffix."""
    suffix = Path(path).suffix
    if suffix not in WRITERS:
        raise CheckpointError(f"cannot write {path}: the suffix must be one of {', '.join(WRITERS)}")
    return suffix


def load_weights(source: str, model: str, place: str | None = None) -> dict[str, np.ndarray]:
    """Return ``{Paddle name: array}`` for ``model`` from a converted file, a timm checkpoint or a hub id.

    ``place`` opens the model if it differs from the name recorded in checkpoints: the folder of a port.

    Raises ``CheckpointError`` if the weights are unavailable, damaged, or belong to another model.
    """
    source = weight_file(source)
    if not _is_converted(source):
        return _convert(source, place or model)
    arrays, manifest = read(source)
    if manifest is None:
        warnings.warn(f"{manifest_path(source).name} is absent: {source} is loaded unverified", Notice, stacklevel=4)
    elif manifest["model"] != model:
        raise CheckpointError(f"{source} holds {manifest['model']}, not {model}")
    return arrays


def weight_file(source: str) -> str:
    """Return the weight file for ``source``: itself, or ``model.pdparams`` in the folder of a training checkpoint.

    Raises ``CheckpointError`` for any other folder; the message describes the folder.
    """
    if not Path(source).is_dir():
        return source
    if Path(source, TRAINED).is_file():
        return str(Path(source, TRAINED))
    raise CheckpointError(f"{source} {described_folder(source)}")


def described_folder(folder: str | os.PathLike[str]) -> str:
    """Describe a folder that was given instead of a weight file, and what to give instead."""
    for marker, what in FOLDERS.items():
        if Path(folder, marker).is_file():
            return what.format(folder=os.fspath(folder))
    files = [path for pattern in ("*", f"*/{TRAINED}") for path in sorted(Path(folder).glob(pattern))]
    weights = [str(path) for path in files if path.suffix in WRITERS and path.is_file()]
    name = f"name the weight file: {' or '.join(weights[:5])}" if weights else "name a weight file"
    return f"is a folder; {name}"


def _is_converted(source: str) -> bool:
    """Return whether ``source`` needs no conversion: a file in Paddle's own format, or one with a manifest of ours."""
    return Path(source).suffix == ".pdparams" or manifest_path(source).exists()


def _convert(source: str, model: str) -> dict[str, np.ndarray]:
    refuse_shadowed()
    for entry in entry_points(group=CONVERTERS):
        return entry.load()(source, model)
    raise CheckpointError(
        f"{source} is not a converted file, and no converter is installed; install the whole project "
        "(pip install . in its folder), or convert the file first: python convert/timm2paddle.py"
    )


def recorded_preprocessing(manifest: Mapping[str, Any], path: str | os.PathLike[str]) -> Preprocessing | None:
    """Return the preprocessing in the manifest of the weight file ``path``, or ``None`` if the manifest has none.

    Raises ``CheckpointError`` for a preprocessing that cannot be applied to any image.
    """
    if "preprocessing" not in manifest:
        return None
    try:
        return Preprocessing.from_dict(manifest["preprocessing"])
    except WrongValue as error:
        raise CheckpointError(f"{manifest_path(path)}: {error}; convert again") from error


def check_fit(
    arrays: Mapping[str, np.ndarray],
    expected: Mapping[str, tuple[int, ...]],
    source: str,
    tables: Mapping[str, str] | None = None,
    tied: Iterable[Sequence[str]] = (),
) -> None:
    """Raise ``CheckpointError`` with every difference between ``arrays`` and the expected ``{name: shape}``.

    If names and shapes match, the values must also be usable: see ``refuse_unusable``, which takes ``tables``. ``tied``
    lists the names of each tensor that has several names; a file must hold the same values under all of them.
    """
    kinds = (
        [*_sorted("missing in the file", expected.keys() - arrays.keys())],
        [*_sorted("not in the model", arrays.keys() - expected.keys())],
        sorted(
            f"{name}: the file has shape {list(arrays[name].shape)}, the model {list(shape)}"
            for name, shape in expected.items()
            if name in arrays and arrays[name].shape != tuple(shape)
        ),
    )
    # alternate between the kinds: a message shows the start of a long list, and one kind must not hide another
    faults = [fault for some in zip_longest(*kinds) for fault in some if fault]
    if faults:
        raise CheckpointError(listed(f"{source} does not fit the model:", faults))
    refuse_unusable(arrays, source, tables)
    if faults := untied(arrays, tied):
        raise CheckpointError(listed(f"{source} does not fit the model:", faults))
    if tiny := below_normal(arrays):
        head = f"{source} holds weights below 1.2e-38, which an engine may take for 0:"
        warnings.warn(listed(head, tiny), Notice, stacklevel=2)


def untied(arrays: Mapping[str, np.ndarray], tied: Iterable[Sequence[str]]) -> list[str]:
    """Return the names of tied tensors whose values in ``arrays`` differ between the names, each with the reason."""
    return [
        f"{name}: other values than {first}, and the model has one tensor for both"
        for first, *others in tied
        for name in others
        if first in arrays and name in arrays and not np.array_equal(arrays[first], arrays[name], equal_nan=True)
    ]


def _sorted(what: str, names: Iterable[str]) -> list[str]:
    return [f"{name}: {what}" for name in sorted(names)]
