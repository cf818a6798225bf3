"""Quantise an ONNX network to 8 bits: post-training static quantisation, calibrated on the user's images.

ONNX Runtime's quantisation in the QDQ form, with activations in uint8 and weights in int8, one scale for each output
channel, ranges by minimum and maximum. The choices were measured on a CPU with AVX512-VNNI, with dla46_c trained on
Fashion-MNIST (10,000 test images, float 87.11 %), and with random weights for the speed of the others:

- int8 activations give the same 87.23 % but are slower than float; with uint8, one thread, 224x224, dla60 is 3.1,
  dla34 2.9 and dla46x_c 1.7 times as fast as float;
- ranges by entropy score the same 87.23 %, by percentile (99.99) 87.08 % (500 images of calibration; with 256, the
  ranges by minimum and maximum score 87.01 %);
- all operators are quantised, including the first convolution and the classifier: pooling, addition and concatenation
  between two convolutions then stay in 8 bits. The first convolution, with its three channels, becomes no faster, but
  leaving it in float changes the total by 3 % at most, in either direction;
- grouped convolutions are slow in 8 bits if a group has few channels (dla46x_c: 0.7 times the speed of float), so
  groups are merged into wider ones with zeros in between (``merge_groups``), with the same result.

On CPUs without VNNI the products of uint8 and int8 may saturate; the measured loss, which the export prints, shows it.

Paddle Inference has an int8 mode too (``enable_mkldnn_int8``), but it runs programs that other tools have quantised,
and PaddleSlim, which makes them, is not part of Paddle.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paddle_dla.engines.base import Engine, check_outputs, require
from paddle_dla.exporting.check import run_in_batches
from paddle_dla.exporting.errors import ExportError
from paddle_dla.exporting.to_onnx import INPUT, require_onnx

if TYPE_CHECKING:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader

GROUP_CHANNELS = 32
"""Groups with fewer input channels are merged: dla60x is fastest with this value among 16, 32 and 64."""
RUNS = 7
"""Alternating runs of each network for the ratio of speeds. The median of an odd number is one of them."""
BATCH = 8
"""Images per batch, in calibration and in the measurements."""


@dataclass(frozen=True)
class Measured:
    """int8 compared with float32, on the same images and threads.

    ``top1_*`` are percentages of the ``labelled`` images, NaN if there are none. ``same_top1`` is the percentage of all
    images with the same prediction. ``speed`` is the speed of int8 relative to float32.
    """

    images: int
    labelled: int
    top1_float32: float
    top1_int8: float
    same_top1: float
    speed: float

    @property
    def loss(self) -> float:
        """Points of top-1 that int8 loses; negative if it gains; NaN without labels."""
        return self.top1_float32 - self.top1_int8

    def __str__(self) -> str:
        if self.labelled:
            score = (
                f"top-1 {self.top1_int8:.2f} % of {self.labelled} labelled images, float32 {self.top1_float32:.2f} % "
                f"(loss {self.loss:+.2f} points)"
            )
        else:
            score = "no labelled images, so the loss of top-1 is unknown"
        return (
            f"int8: {score}; the same class as float32 on {self.same_top1:.2f} % of {self.images}; {self.speed:.2f} "
            "times as fast"
        )


def require_int8() -> None:
    """Raise ``EngineError`` if a package needed for quantisation is missing."""
    require_onnx()
    require("ml_dtypes", "onnx")  # onnxruntime.quantization imports it without declaring it


def quantise(source: str | os.PathLike[str], target: str | os.PathLike[str], batches: Iterable[np.ndarray]) -> None:
    """Write the float network ``source`` in 8 bits to ``target``.

    ``batches`` are normalised images (B, C, H, W) float32; they determine the range of each activation. Raises
    ``ExportError`` if there are none, ``EngineError`` for a missing package.
    """
    require_int8()
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as folder, _quiet():
        merged = Path(folder, "merged.onnx")
        model = onnx.load(os.fspath(source))
        merge_groups(model)
        onnx.save(model, merged)
        reader = _reader(batches)
        quantize_static(
            merged,
            os.fspath(target),
            reader,
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )


def _reader(batches: Iterable[np.ndarray]) -> CalibrationDataReader:
    """Wrap ``batches`` for ONNX Runtime's calibration. Raises ``ExportError`` if there are none."""
    from onnxruntime.quantization import CalibrationDataReader

    feeds = _feeds(batches)
    first = next(feeds, None)
    if first is None:
        raise ExportError("quantisation needs images to calibrate on, there are none")

    class Reader(CalibrationDataReader):
        def __init__(self):
            self._first = first

        def get_next(self) -> dict[str, np.ndarray] | None:
            feed, self._first = self._first, None
            return next(feeds, None) if feed is None else feed

    return Reader()


def _feeds(batches: Iterable[np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    for batch in batches:
        yield {INPUT: np.ascontiguousarray(batch, np.float32)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the advice to optimise the network first, which has been done."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def merge_groups(model: onnx.ModelProto, channels: int = GROUP_CHANNELS) -> None:
    """Rewrite each grouped convolution of ``model`` with groups of at least ``channels`` input channels, in place.

    Neighbouring groups are merged into one whose weights are zero between channels of different groups: the same sums,
    plus zeros.
    """
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        groups = next((attribute for attribute in node.attribute if attribute.name == "group"), None)
        if node.op_type != "Conv" or groups is None or groups.i == 1 or node.input[1] not in weights:
            continue
        weight = weights[node.input[1]]
        array = numpy_helper.to_array(weight)
        factor = _merge_factor(groups.i, array.shape[1], channels)
        weight.CopyFrom(numpy_helper.from_array(_block_diagonal(array, groups.i, factor), weight.name))
        groups.i //= factor


def _merge_factor(groups: int, width: int, channels: int) -> int:
    """Return how many groups of ``width`` channels to merge: the smallest divisor of ``groups`` that suffices."""
    divisors = [factor for factor in range(1, groups + 1) if groups % factor == 0]
    return next((factor for factor in divisors if factor * width >= channels), groups)


def _block_diagonal(weight: np.ndarray, groups: int, factor: int) -> np.ndarray:
    """(O, I, h, w) of ``groups`` groups -> (O, I * factor, h, w) of ``groups / factor``."""
    outputs, inputs, *kernel = weight.shape
    merged = np.zeros((outputs, inputs * factor, *kernel), weight.dtype)
    per_group = outputs // groups
    for group in range(groups):
        rows = slice(group * per_group, (group + 1) * per_group)
        start = group % factor * inputs
        merged[rows, start : start + inputs] = weight[rows]
    return merged


def measure_int8(float32: Engine, int8: Engine, images: np.ndarray, labels: np.ndarray) -> Measured:
    """Run both on ``images`` (N, C, H, W) float32; ``labels`` (N,), -1 for none."""
    runs = (run_in_batches(engine, images, BATCH) for engine in (float32, int8))
    exact, rounded = (check_outputs(run, np.arange(len(run))).argmax(1) for run in runs)
    known = labels >= 0
    first, second = (
        100 * float((found == labels)[known].mean()) if known.any() else np.nan for found in (exact, rounded)
    )
    same = 100 * float((exact == rounded).mean())
    return Measured(len(images), int(known.sum()), first, second, same, _speed((float32, int8), images[:BATCH]))


def _speed(engines: Sequence[Engine], images: np.ndarray) -> float:
    """Return the relative speed of the second engine: medians of alternating runs, for equal load of the machine."""
    seconds: list[list[float]] = [[] for _ in engines]
    for _ in range(RUNS):
        for engine, taken in zip(engines, seconds):
            start = time.perf_counter()
            engine.run(images)
            taken.append(time.perf_counter() - start)
    first, second = (float(np.median(taken)) for taken in seconds)
    return first / second
