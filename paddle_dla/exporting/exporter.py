"""Export a network as a folder that runs without this package: written, checked, and only then put in place."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paddle_dla.engines.base import require
from paddle_dla.engines.eager import outputs_of
from paddle_dla.errors import WrongValue
from paddle_dla.exporting.check import Agreement, compare, measure, random_images
from paddle_dla.exporting.folder import FORMATS, RUNNER, STEM, Record, check_target, export_folder, write_record
from paddle_dla.exporting.opening import NEEDS, frozen, open_files, write_model
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.storage.values import refuse_non_finite

if TYPE_CHECKING:
    from paddle import nn

Progress = Callable[[str], None]
ENGINE_OF = {form: engine for engine, (form, _) in reversed(NEEDS.items())}  # the first engine of each format
PACKAGES = ("paddlepaddle", "paddlepaddle-gpu", "paddle2onnx", "onnx", "onnxruntime", "numpy")
"""Packages whose versions are recorded."""


@dataclass(frozen=True)
class Wanted:
    """What to export: ``formats`` of ``FORMATS``, and the facts to record about the network.

    ``images`` (N, C, H, W) float32, normalised, are used by the check; seeded noise by default. ``class_ids`` are the
    folder names of the classes, if they differ from ``class_names``.
    """

    model: str
    preprocessing: Preprocessing
    formats: Sequence[str] = ("inference",)
    class_names: Sequence[str] | None = None
    weights: Mapping[str, Any] | None = None
    images: np.ndarray | None = None
    class_ids: Sequence[str] | None = None


def export_model(
    layer: nn.Layer,
    folder: str | os.PathLike[str],
    wanted: Wanted,
    *,
    overwrite: bool = False,
    progress: Progress = lambda line: None,
) -> list[Agreement]:
    """Write ``layer`` (not changed) to ``folder``. Returns the agreement of each format with it.

    Raises ``ValueError`` for an invalid request, ``EngineError`` for a missing package, ``CheckpointError`` if the
    folder cannot be written (all before any work), and ``ExportError`` if the check fails. If anything is raised,
    ``folder`` is unchanged.
    """
    num_classes = check_wanted(layer, wanted)
    check_target(folder, overwrite)
    network = frozen(layer)
    images = random_images(wanted.preprocessing.input_size) if wanted.images is None else wanted.images
    outputs_of(network, images[:1], num_classes)  # a network that returns no logits cannot be exported as a classifier
    with export_folder(folder, overwrite) as part:
        for form in wanted.formats:
            progress(f"writing {form}")
            write_model(network, part / STEM, form, wanted.preprocessing.input_size)
        progress(f"checking against the network itself, on {len(images)} images")
        agreements = check_files(network, part, wanted.formats, images)
        add_record(part, wanted, num_classes, weights_of(network, wanted), agreements)
    return agreements


def check_wanted(layer: nn.Layer, wanted: Wanted) -> int:
    """Check the request and return the number of classes.

    Raises ``ValueError`` for an invalid request, ``EngineError`` for a missing package, ``CheckpointError`` for weights
    that are not finite.
    """
    num_classes, channels = getattr(layer, "num_classes", 0), getattr(layer, "in_chans", None)
    multiple, sides = getattr(layer, "side_multiple", 1), wanted.preprocessing.input_size[1:]
    if not num_classes:
        raise WrongValue("only a classifier can be exported; this network has no classes")
    unknown = [form for form in wanted.formats if form not in FORMATS]
    if unknown or not wanted.formats:
        raise WrongValue(f"formats are of {', '.join(FORMATS)}, not {list(wanted.formats)}")
    if channels not in (None, wanted.preprocessing.input_size[0]):
        raise WrongValue(f"the network takes {channels} channels, images have {wanted.preprocessing.input_size[0]}")
    if any(side % multiple for side in sides):
        raise WrongValue(f"the sides of the images must be multiples of {multiple}, not {sides[0]}x{sides[1]}")
    for names in (wanted.class_names, wanted.class_ids):
        if names is not None and len(names) != num_classes:
            raise WrongValue(f"{len(names)} class names for {num_classes} classes")
    require("paddle", "cpu")
    arrays = {name: tensor.numpy() for name, tensor in layer.state_dict().items()}
    refuse_non_finite(arrays, f"the network {wanted.model}")
    if "onnx" in wanted.formats:
        from paddle_dla.exporting.to_onnx import require_onnx

        require_onnx()
    return num_classes


def check_files(layer: nn.Layer, folder: Path, formats: Sequence[str], images: np.ndarray) -> list[Agreement]:
    """Run the files of each format and compare them with ``layer``. Raises ``ExportError`` if they differ."""
    reference = measure(layer, images)
    input_size = images.shape[1:]
    return [compare(open_files(folder / STEM, ENGINE_OF[form], input_size), reference) for form in formats]


def add_record(
    folder: Path,
    wanted: Wanted,
    num_classes: int,
    weights: Mapping[str, Any],
    agreements: Sequence[Agreement],
    precision: str = "float32",
    measured: Mapping[str, Any] | None = None,
) -> None:
    """Write the runner and the record beside the files of the network."""
    shutil.copyfile(Path(__file__).with_name("runner.py"), folder / RUNNER)
    record = Record(
        model=wanted.model,
        num_classes=num_classes,
        preprocessing=wanted.preprocessing,
        formats=tuple(wanted.formats),
        class_names=None if wanted.class_names is None else tuple(wanted.class_names),
        class_ids=None if wanted.class_ids is None else tuple(wanted.class_ids),
        weights=weights,
        precision=precision,
        versions=versions(),
        check={**{agreement.engine: asdict(agreement) for agreement in agreements}, **(measured or {})},
    )
    write_record(folder, record)


def weights_of(layer: nn.Layer, wanted: Wanted) -> Mapping[str, Any]:
    """Return the record of the weights: the given one, or the checksum of the current tensors."""
    return wanted.weights or {"source": None, "sha256": state_sha256(layer)}


def state_sha256(layer: nn.Layer) -> str:
    """Return the SHA-256 over name, type, shape and bytes of every tensor, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(layer.state_dict().items()):
        array = np.ascontiguousarray(tensor.numpy())
        digest.update(f"{name} {array.dtype.name} {list(array.shape)}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of the packages that wrote the export."""
    import paddle_dla

    found = {"python": platform.python_version(), "paddle_dla": paddle_dla.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
