"""Export in 8 bits: check the float network, quantise it, and measure both."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from paddle_dla.errors import WrongValue
from paddle_dla.exporting.check import BATCHES, Agreement, compare, measure, random_images, run_in_batches
from paddle_dla.exporting.errors import ExportError
from paddle_dla.exporting.exporter import Progress, Wanted, add_record, check_wanted, weights_of
from paddle_dla.exporting.folder import STEM, check_target, export_folder
from paddle_dla.exporting.int8 import BATCH, Measured, measure_int8, quantise, require_int8
from paddle_dla.exporting.opening import frozen, open_files, write_model

if TYPE_CHECKING:
    from paddle import nn

    from paddle_dla.engines.base import Engine


def export_int8(
    layer: nn.Layer,
    folder: str | os.PathLike[str],
    wanted: Wanted,
    calibration: np.ndarray,
    judged: tuple[np.ndarray, np.ndarray],
    *,
    max_loss: float = 5.0,
    overwrite: bool = False,
    progress: Progress = lambda line: None,
) -> tuple[Agreement, Measured]:
    """Export like ``export_model``, with ``model.onnx`` in 8 bits.

    ``calibration`` (N, C, H, W) float32; ``judged`` are such images, and labels (N,), -1 for none. Returns the
    agreement of the float network with ``layer``, and the measurement of int8 against it. Also raises ``ExportError``
    if int8 loses more than ``max_loss`` points of top-1.
    """
    if not 0 <= max_loss <= 100:
        raise WrongValue(f"max_loss is in points of top-1, 0 to 100, not {max_loss}")
    num_classes = check_wanted(layer, wanted)
    require_int8()
    check_target(folder, overwrite)
    network, size = frozen(layer), wanted.preprocessing.input_size
    images = random_images(size) if wanted.images is None else wanted.images
    with export_folder(folder, overwrite) as part:
        progress("writing onnx in float32")
        write_model(network, part / "float32", "onnx", size)
        float32 = open_files(part / "float32", "onnxruntime", size)
        agreement = compare(float32, measure(network, images))
        progress(f"quantising, calibrated on {len(calibration)} images")
        starts = range(0, len(calibration), BATCH)
        quantise(part / "float32.onnx", part / f"{STEM}.onnx", (calibration[start : start + BATCH] for start in starts))
        int8 = open_files(part / STEM, "onnxruntime", size)
        check_batches(int8, images)
        progress(f"measuring on {len(judged[0])} images")
        measured = measure_int8(float32, int8, *judged)
        if measured.loss > max_loss:
            raise ExportError(
                f"int8 loses more than {max_loss:g} points: {measured}; calibrate on more, or better, images"
            )
        (part / "float32.onnx").unlink()
        add_record(
            part, wanted, num_classes, weights_of(network, wanted), [agreement], "int8", {"int8": asdict(measured)}
        )
    return agreement, measured


def check_batches(engine: Engine, images: np.ndarray) -> None:
    """Raise ``ExportError`` unless each batch size gives the same class for each image, with finite logits."""
    runs = [run_in_batches(engine, images, size) for size in BATCHES]
    if not all(np.isfinite(run).all() for run in runs):
        raise ExportError("the int8 network's logits are not finite")
    if any((run != runs[0]).any() for run in runs):
        raise ExportError(f"the int8 network's logits depend on the size of the batch ({BATCHES})")
