"""Four engines that run a network, with one interface. A framework is imported only when its engine is opened."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from paddle_dla.engines.base import Engine, EngineError
from paddle_dla.errors import WrongValue
from paddle_dla.storage.values import non_finite

if TYPE_CHECKING:
    from paddle import nn

__all__ = ["AUTO", "ENGINES", "Engine", "EngineError", "open_engine", "open_fastest"]

ENGINES = ("paddle", "inference", "onnxruntime", "openvino")
AUTO = "auto"
"""The fastest engine; see ``open_fastest``."""


def open_engine(
    kind: str,
    source: nn.Layer | str | os.PathLike[str],
    *,
    threads: int | None = None,
    input_size: tuple[int, int, int] = (3, 224, 224),
) -> Engine:
    """Open an engine of ``ENGINES`` for ``source``, a Paddle layer or the folder of an export.

    ``paddle`` (the eager network) takes a layer. The others take a folder, or a layer, which is then exported for
    images of ``input_size`` (C, H, W) into a temporary folder that is removed before this returns. ``threads`` defaults
    to the number of cores that the process may use.

    Raises ``ValueError`` for another kind, ``EngineError`` if a package is missing, the files cannot be run or a weight
    of the layer is not finite, ``ExportError`` if the folder is not an export, is damaged, or lacks what the engine
    needs.
    """
    if kind not in ENGINES:
        raise WrongValue(f"unknown engine {kind!r}; one of {', '.join(ENGINES)}")
    is_folder = isinstance(source, (str, os.PathLike))
    if not is_folder:
        _refuse_non_finite(source)
    if kind == "paddle":
        if is_folder:
            raise EngineError(f"engine paddle runs a model and its checkpoint, not the export {source}")
        from paddle_dla.engines.eager import EagerEngine

        return EagerEngine(source, threads)
    from paddle_dla.exporting import opening

    if is_folder:
        return opening.open_folder(source, kind, threads)
    return opening.open_layer(source, kind, input_size, threads)


def open_fastest(
    layer: nn.Layer,
    tell: Callable[[str], None],
    *,
    threads: int | None = None,
    input_size: tuple[int, int, int] = (3, 224, 224),
) -> Engine:
    """Open the fastest installed engine that ranks the classes of the first batch as ``layer`` does.

    ``tell`` receives a line with its name. Other arguments and errors are those of ``open_engine``.
    """
    from paddle_dla.engines.auto import AutoEngine

    _refuse_non_finite(layer)

    def open_named(kind: str) -> Engine:
        return open_engine(kind, layer, threads=threads, input_size=input_size)

    return AutoEngine(layer, threads, open_named, tell)


def _refuse_non_finite(layer: nn.Layer) -> None:
    for name, tensor in layer.state_dict().items():
        if fault := non_finite(tensor.numpy()):
            raise EngineError(f"the network cannot be run, {name}: {fault}")
