"""Open an export as an engine, with the records that evaluation and prediction need."""

from __future__ import annotations

import copy
import os
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from paddle_dla.engines.base import Engine
from paddle_dla.exporting.check import compare, measure, random_images
from paddle_dla.exporting.errors import ExportError
from paddle_dla.exporting.folder import NETWORKS, STEM, Record, read_record
from paddle_dla.exporting.stored_weights import refuse_broken
from paddle_dla.preprocessing import Preprocessing

if TYPE_CHECKING:
    from paddle import nn

NEEDS = {
    "onnxruntime": ("onnx", "onnxruntime"),
    "openvino": ("onnx", "openvino"),
    "inference": ("inference", "paddle"),
}
"""Engine: the format that it runs, and its package. The first one is the default: it was compared with the network when
the export was made.
"""


CHECKED = 2
"""Number of random images on which an engine without an export is compared with the network."""


@dataclass(frozen=True)
class Export:
    """An open export: ``engine`` runs it, ``preprocessing`` describes its input images."""

    engine: Engine
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None
    record: Record


def load_export(folder: str | os.PathLike[str], engine: str | None = None, threads: int | None = None) -> Export:
    """Open ``folder`` with ``engine``, one of ``NEEDS``, or with the first of them for which it has files.

    The files are verified first. Raises ``ExportError`` if the folder is not an export, is damaged, has a later format,
    has weights that are not finite, or no network for the engine; ``EngineError`` if the engine's package is missing.
    """
    record = read_record(folder)
    kind = _choose(folder, record, engine)
    refuse_broken(Path(folder, NETWORKS[NEEDS[kind][0]]))
    opened = open_files(Path(folder, STEM), kind, record.preprocessing.input_size, threads)
    return Export(opened, record.preprocessing, record.class_names, record)


def _choose(folder: str | os.PathLike[str], record: Record, engine: str | None) -> str:
    there = [kind for kind, (form, _) in NEEDS.items() if form in record.formats]
    if engine is None and there:
        return next((kind for kind in there if find_spec(NEEDS[kind][1])), there[0])
    if engine not in there:
        formats = [NEEDS[engine][0]] if engine in NEEDS else dict.fromkeys(form for form, _ in NEEDS.values())
        raise ExportError(
            f"{folder} has no network for {engine}, it holds: {', '.join(record.formats)}; export with "
            f"--format {'|'.join(formats)}"
        )
    return engine


def open_folder(folder: str | os.PathLike[str], kind: str, threads: int | None) -> Engine:
    """Return only the engine of ``load_export``."""
    return load_export(folder, kind, threads).engine


def open_files(prefix: Path, kind: str, input_size: tuple[int, int, int], threads: int | None = None) -> Engine:
    """Open the engine ``kind`` on the files at ``prefix``, unverified; ``input_size`` is (C, H, W)."""
    if kind == "inference":
        from paddle_dla.engines.paddle_inference import PaddleInferenceEngine

        return PaddleInferenceEngine(prefix, input_size, threads)
    if kind == "openvino":
        from paddle_dla.engines.open_vino import OpenVinoEngine

        return OpenVinoEngine(f"{prefix}.onnx", threads)
    from paddle_dla.engines.onnx_runtime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(f"{prefix}.onnx", threads)


def open_layer(layer: nn.Layer, kind: str, input_size: tuple[int, int, int], threads: int | None) -> Engine:
    """Write ``layer`` (not changed) for ``kind`` into a temporary folder and open it.

    Raises ``ExportError`` if the engine does not compute what the layer does, checked as for an export: paddle2onnx has
    written networks with other results without an error.
    """
    network = frozen(layer)
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder, STEM)
        write_model(network, prefix, NEEDS[kind][0], input_size)
        opened = open_files(prefix, kind, input_size, threads)
        compare(opened, measure(network, random_images(input_size, CHECKED)))
        return opened


def write_model(layer: nn.Layer, prefix: Path, form: str, input_size: tuple[int, int, int]) -> None:
    """Write ``layer`` (evaluation mode) in one of ``FORMATS``."""
    if form == "inference":
        from paddle_dla.exporting.to_inference import write_inference

        write_inference(layer, prefix, input_size)
    else:
        from paddle_dla.exporting.to_onnx import write_onnx

        write_onnx(layer, f"{prefix}.onnx", input_size)


def frozen(layer: nn.Layer) -> nn.Layer:
    """Return a copy of ``layer`` with all its parts in evaluation mode."""
    result = copy.deepcopy(layer)
    result.eval()
    return result
