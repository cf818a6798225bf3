"""Pair a model of the project, a DLA (``pairs``) or a port (``ported``), with its reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import paddle
import torch

from alignment.engine.result import Result
from alignment.pairs import Precision, align_backward, align_forward, build_pair
from alignment.ported import align_port, pair_of
from convert.conversion import Conversion
from convert.key_map import to_paddle
from convert.layout import state_layout
from convert.port_weights import key_map_of, stored_weights
from convert.porting.opening import recorded_reference
from convert.readers import Source
from paddle_dla.models.registry import Entry, find_model
from torch_ref.model import create_model as create_timm

Progress = Callable[[str], None]
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Twin:
    """The Paddle tensor that corresponds to a torch tensor, ``transposed`` or not."""

    paddle: str
    transposed: bool = False

    def carried(self, array: np.ndarray) -> np.ndarray:
        """Convert ``array`` to the other framework's layout, in either direction."""
        return array.T if self.transposed else array


def twins(model: str) -> dict[str, Twin]:
    """Return ``{name in torch: twin}`` of every tensor in a checkpoint of ``model`` that Paddle keeps."""
    entry = find_model(model)
    if entry.folder is None:
        return {name: Twin(twin) for name in state_layout(entry.name) if (twin := to_paddle(name)) is not None}
    key_map = key_map_of(stored_weights(entry.folder)[1])
    return {line.torch: Twin(line.paddle, line.transpose) for line in key_map if line.torch and line.paddle}


def fresh_reference(model: str, seed: int) -> torch.nn.Module:
    """Return the reference of ``model`` as torch initialises it under ``seed``, in evaluation mode."""
    entry = find_model(model)
    if entry.folder is None:
        return create_timm(entry.name, seed=seed)
    return replace(recorded_reference(entry.folder), seed=seed).build()


def both(
    entry: Entry, source: Source, conversion: Conversion, paddle_arrays: Arrays | None = None
) -> tuple[torch.nn.Module, paddle.nn.Layer]:
    """Build the reference and the Paddle model with the weights of one conversion, in evaluation mode.

    ``paddle_arrays``: weights of the Paddle model read from a file, used instead. Raises ``CheckpointError`` where they
    do not fit.
    """
    if entry.folder is not None:
        return pair_of(entry, source, conversion, paddle_arrays)[:2]
    pair = build_pair(source, conversion, paddle_arrays)
    return pair.torch_model, pair.paddle_model


def compared_forward(
    entry: Entry, source: Source, conversion: Conversion, inputs: np.ndarray | Sequence[str],
    dtype: Precision = "float64", paddle_arrays: Arrays | None = None, progress: Progress = lambda line: None,
) -> Result:  # fmt: skip
    """Compare every layer's output; arguments as in ``pairs.align_forward``."""
    if entry.folder is None:
        return align_forward(source, conversion, inputs, dtype, paddle_arrays, progress)
    return align_port(entry, source, conversion, inputs, dtype=dtype, backward=False, paddle_arrays=paddle_arrays,
                      progress=progress)  # fmt: skip


def compared_backward(
    entry: Entry, source: Source, conversion: Conversion, inputs: np.ndarray | Sequence[str], mode: str = "eval",
    seed: int = 0, paddle_arrays: Arrays | None = None, progress: Progress = lambda line: None,
) -> Result:  # fmt: skip
    """Compare outputs and gradients of every layer; arguments as in ``pairs.align_backward``."""
    if entry.folder is None:
        return align_backward(source, conversion, inputs, mode, seed, paddle_arrays, progress)
    return align_port(entry, source, conversion, inputs, mode, seed=seed, paddle_arrays=paddle_arrays,
                      progress=progress)  # fmt: skip
