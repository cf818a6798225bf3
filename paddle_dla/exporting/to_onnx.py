"""Write a Paddle layer as an ONNX file: standard operators only, input ``images``, output ``logits``, any batch size.

paddle2onnx translates the program that Paddle saved. In its output each bias is a reshape and an addition, and each
weight passes through an identity. ONNX Runtime's basic optimisations, which use only standard operators, simplify this
to one ``Conv`` with bias per convolution. BN is folded before, in float64 (``fold.py``). ONNX Runtime would fold it
too, whenever the file is opened and in float32; the graphs are then the same, with similar errors. Folding here also
serves runtimes that do not fold, and quantisation starts from the weights that are really used.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paddle_dla.engines.base import require, stdout_to_stderr
from paddle_dla.engines.paddle_inference import WEIGHTS, program_path
from paddle_dla.exporting.errors import ExportError
from paddle_dla.exporting.fold import fold_batch_norms
from paddle_dla.exporting.to_inference import INPUT, write_inference

if TYPE_CHECKING:
    import onnx
    from paddle import nn

OUTPUT = "logits"
OPSET = 17
ZERO = "paddle_dla.zero"
"""Name of the value of every ``Pad``."""
PACKAGES = ("paddle2onnx", "onnx", "onnxruntime")


def require_onnx() -> None:
    """Raise ``EngineError`` if a package that the export needs is missing."""
    for package in PACKAGES:
        require(package, "onnx")


def write_onnx(layer: nn.Layer, path: str | os.PathLike[str], input_size: tuple[int, int, int]) -> None:
    """Write ``layer`` (evaluation mode; not changed) for images (B, C, H, W).

    Raises ``ExportError`` if paddle2onnx cannot translate it, ``EngineError`` if a package is missing.
    """
    require_onnx()
    folded, _ = fold_batch_norms(layer, np.zeros((1, *input_size), np.float32))
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder, "program")
        write_inference(folded, prefix, input_size)
        model = _tidied(_padded_with_zeros(_translated(prefix)), Path(folder, "optimised.onnx"))
    _save(model, path)


def _translated(prefix: Path) -> bytes:
    """Translate the program at ``prefix`` by paddle2onnx."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about compilers, which are not needed here
        import paddle2onnx
    try:
        # a fixed opset: every user gets what the check has measured
        with stdout_to_stderr():
            return paddle2onnx.export(
                os.fspath(program_path(prefix)),
                f"{prefix}{WEIGHTS}",
                None,
                opset_version=OPSET,
                auto_upgrade_opset=False,
                optimize_tool="none",
            )
    # it logs the cause of a failure, then fails on its own missing result
    except (RuntimeError, UnboundLocalError) as error:
        raise ExportError(f"paddle2onnx cannot translate the network; it logged why ({error})") from error


def _padded_with_zeros(content: bytes) -> bytes:
    """Return the same network with ``Pad`` nodes that pad with 0, as the networks do.

    paddle2onnx 2.1 writes an uninitialised value, a different one in every run. The check after the export refuses a
    network that pads with anything else.
    """
    import onnx

    model = onnx.load_from_string(content)
    pads = [node for node in model.graph.node if node.op_type == "Pad" and len(node.input) > 2]
    if pads:
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros([], np.float32), ZERO))
    for node in pads:
        node.input[2] = ZERO
    return model.SerializeToString()


def _tidied(content: bytes, scratch: Path) -> onnx.ModelProto:
    """Return the same network in as few standard nodes as possible, with our names."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = os.fspath(scratch)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    model = onnx.load(scratch)
    used = {node.domain for node in model.graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    (source,), (result,) = model.graph.input, model.graph.output
    for value, name in ((source, INPUT), (result, OUTPUT)):
        _rename(model.graph, value.name, name)
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]
    return model


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for value in (*graph.input, *graph.output):
        value.name = new if value.name == old else value.name


def _save(model: onnx.ModelProto, path: str | os.PathLike[str]) -> None:
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the ONNX network is not valid: {error}") from error
    onnx.save(model, os.fspath(path))
