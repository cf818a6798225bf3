"""An export becomes an engine again, with what evaluation and prediction need to know of it."""

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
"""Engine: the format that it runs, the package that it is. First the one that is taken where none is named: it was
held against the network when the export was made."""


CHECKED = 2
"""Random images on which an engine that was not exported is held against the network."""


@dataclass(frozen=True)
class Export:
    """An export that is open: ``engine`` runs it, ``preprocessing`` is how its images are made."""

    engine: Engine
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None
    record: Record


def load_export(folder: str | os.PathLike[str], engine: str | None = None, threads: int | None = None) -> Export:
    """Open ``folder`` with ``engine``, one of ``NEEDS``, or with the first of them that it has files for.

    The files are verified first. Raises ``ExportError`` where the folder is no export, is damaged, is of a later
    format, has weights that are not finite or no network for the engine, ``EngineError`` where the engine's package is
    missing.
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
    """The engine of ``load_export`` alone."""
    return load_export(folder, kind, threads).engine


def open_files(prefix: Path, kind: str, input_size: tuple[int, int, int], threads: int | None = None) -> Engine:
    """The engine ``kind`` on the files at ``prefix``, as they are; ``input_size`` is (C, H, W)."""
    if kind == "inference":
        from paddle_dla.engines.paddle_inference import PaddleInferenceEngine

        return PaddleInferenceEngine(prefix, input_size, threads)
    if kind == "openvino":
        from paddle_dla.engines.open_vino import OpenVinoEngine

        return OpenVinoEngine(f"{prefix}.onnx", threads)
    from paddle_dla.engines.onnx_runtime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(f"{prefix}.onnx", threads)


def open_layer(layer: nn.Layer, kind: str, input_size: tuple[int, int, int], threads: int | None) -> Engine:
    """Write ``layer`` (left as it is) for ``kind`` into a folder, open it, remove the folder.

    Raises ``ExportError`` where the engine does not compute what the layer does, held against it as an export is:
    paddle2onnx has written networks that score otherwise without a word.
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
    """A copy of ``layer`` in evaluation mode, whatever mode its parts were in."""
    result = copy.deepcopy(layer)
    result.eval()
    return result
