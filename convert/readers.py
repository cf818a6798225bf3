"""Read torch checkpoints as ``{timm name: tensor}``. Nothing in a file is executed.

``.safetensors`` and files of ``torch.save`` (``.pth``, ``.pth.tar``, ``.pt``, ``.bin``) are memory-mapped. Neither
needs torch.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import numpy as np

from convert.torch_file import CodeError, TorchTensor, UnreadObject, read_torch_file
from paddle_dla.models.adapt_weights import HEAD, STEM
from paddle_dla.storage.errors import UNPICKLING_ERRORS, CheckpointError
from paddle_dla.storage.manifest import file_sha256
from paddle_dla.storage.shown import shown
from paddle_dla.storage.tensors import StoredTensor, read_safetensors
from paddle_dla.weight_files import described_folder

# keys under which training checkpoints store the weights, in timm's order of lookup (timm/models/_helpers.py)
CONTAINERS = ("state_dict", "model", "net")
EMA_CONTAINERS = ("state_dict_ema", "model_ema")


@dataclass(frozen=True)
class Source:
    """The weights of one file, unchanged."""

    tensors: Mapping[str, StoredTensor]
    place: Mapping[str, object]
    """Origin of the weights."""
    notes: list[str] = field(default_factory=list)
    """What was done to extract the tensors, one sentence each."""
    digest: Future[str] | None = None
    """SHA-256 of the file, computed in the background."""

    @property
    def origin(self) -> Mapping[str, object]:
        """Origin of the weights for the manifest. Raises ``OSError`` if the file cannot be read again."""
        return self.place if self.digest is None else {**self.place, "sha256": self.digest.result()}

    def describe(self) -> str:
        """Describe the origin of the weights in one line."""
        if self.digest is not None:
            return f"{self.place['file']} (sha256 {self.digest.result()[:16]}...)"
        return ", ".join(str(value) for value in self.place.values())

    @property
    def num_classes(self) -> int:
        """Number of classes of the file's head; 0 if it has none."""
        head = self.tensors.get(HEAD[0])
        return head.shape[0] if head is not None and head.shape else 0

    @property
    def in_chans(self) -> int:
        """Number of input channels of the file's stem; 3 if it has none (the audit then reports it)."""
        stem = self.tensors.get(STEM)
        return stem.shape[1] if stem is not None and len(stem.shape) == 4 else 3


def read_source(path: str | os.PathLike[str], use_ema: bool = False) -> Source:
    """Read the state dict of a timm checkpoint of any known kind.

    Raises ``CheckpointError`` if the file is missing, is damaged, names code, or holds no state dict (or, with
    ``use_ema``, no averaged one).
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} {described_folder(path)}")
    if not path.is_file():
        raise CheckpointError(f"cannot read {path}: no such file" if not path.exists() else f"{path} is not a file")
    if path.suffix.lower() == ".safetensors":
        tensors: Mapping[str, object] = read_safetensors(path)
        container, averaged = "", ""
        if use_ema:
            raise CheckpointError(f"{path}: a .safetensors file holds one set of weights; use it without --use-ema")
    else:
        content = _load_pickle(path)
        container, tensors = _find_state_dict(content, path, use_ema)
        averaged = "" if use_ema else _averaged(content)
    names, notes = _without_prefixes(tensors, path)
    if container:
        notes.append(f"weights taken from {container!r}")
    if averaged:
        notes.append(f"the file holds averaged weights, too ({averaged!r}), which --use-ema takes")
    place = {"file": path.name, "bytes": path.stat().st_size, "sha256": None, "container": container}
    background = ThreadPoolExecutor(1)
    digest = background.submit(file_sha256, path)
    background.shutdown(wait=False)
    return Source({name: _stored(name, tensors[old], path) for name, old in names.items()}, place, notes, digest)


def no_count(tensor: StoredTensor) -> str:
    """Return the value of a batch counter as text if it is not an integer, otherwise an empty string.

    Counters of a floating-point type are accepted: a state dict in half precision has them in half precision too.
    """
    value = tensor.array().item() if not tensor.shape else None
    whole = isinstance(value, (int, float)) and abs(value) < 2**63 and value == int(value)
    return "" if whole else str(value if value is not None else f"of shape {list(tensor.shape)}")


def source_from_arrays(arrays: Mapping[str, np.ndarray], **origin: object) -> Source:
    """Make a ``Source`` from arrays in memory; ``origin`` describes where they came from."""
    return Source({name: StoredTensor(array, array.dtype.name) for name, array in arrays.items()}, origin)


def _load_pickle(path: Path) -> object:
    try:
        return read_torch_file(path)
    except CodeError as error:
        raise CheckpointError(
            f"{path} {error}: refused, nothing was run. Save the state dict alone, or as .safetensors"
        ) from None
    except (CheckpointError, zipfile.BadZipFile, *UNPICKLING_ERRORS) as error:
        raise _unreadable(path, shown(error) or type(error).__name__) from error


def _unreadable(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} is no readable torch file: {reason}; it is truncated, damaged or of another format")


def _find_state_dict(content: object, path: Path, use_ema: bool) -> tuple[str, Mapping[str, object]]:
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict; save model.state_dict()")
    for container in EMA_CONTAINERS if use_ema else CONTAINERS:
        if isinstance(content.get(container), Mapping):
            return container, content[container]
    if use_ema:
        raise CheckpointError(f"{path} has no averaged weights ({' or '.join(EMA_CONTAINERS)}); leave --use-ema out")
    if averaged := _averaged(content):
        raise CheckpointError(f"{path} holds averaged weights alone ({averaged!r}): take them with --use-ema")
    return "", content


def _averaged(content: object) -> str:
    """Return the key under which ``content`` stores averaged weights; empty if it has none."""
    held = content if isinstance(content, Mapping) else {}
    return next((name for name in EMA_CONTAINERS if isinstance(held.get(name), Mapping)), "")


def _without_prefixes(tensors: Mapping[str, object], path: Path) -> tuple[dict[str, str], list[str]]:
    """Return ``{clean name: name in the file}``, without the prefixes that wrappers add.

    DistributedDataParallel adds ``module.``, torch.compile ``_orig_mod.``, and Lightning the name of the attribute that
    holds the model. A prefix is removed if every name has it and one of the names is that of a DLA's stem or head.
    """
    strange = [name for name in tensors if not isinstance(name, str)]
    if strange:
        raise CheckpointError(f"{path} has an entry that is called {shown(strange[0])}: tensors of a model are named")
    names = {name: name for name in tensors}
    prefix = shared_prefix(names)
    if not prefix or not any(f"{prefix}{known}" in names for known in (STEM, *HEAD)):
        return names, []
    return {name.removeprefix(prefix): old for name, old in names.items()}, [
        f"prefix {prefix!r} removed from every name"
    ]


def shared_prefix(names: Iterable[str]) -> str:
    """Return the longest common prefix of all ``names`` that ends at a dot."""
    columns = zip(*(name.split(".")[:-1] for name in names))
    return "".join(f"{column[0]}." for column in takewhile(lambda column: len(set(column)) == 1, columns))


def _stored(name: str, value: object, path: Path) -> StoredTensor:
    if isinstance(value, StoredTensor):
        return value
    if isinstance(value, UnreadObject):
        raise CheckpointError(f"{path}: entry '{shown(name)}' is no plain dense tensor ({value.kind})")
    if not isinstance(value, TorchTensor):
        raise CheckpointError(
            f"{path}: entry '{shown(name)}' is a {type(value).__name__}, not a tensor; is this a state dict? "
            f"(looked into {', '.join(CONTAINERS)})"
        )
    try:
        return value.stored()
    except CheckpointError as error:
        raise _unreadable(path, f"tensor '{shown(name)}': {error}") from error
