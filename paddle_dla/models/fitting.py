"""What a network expects of a file of weights: shapes, and tables of indices that some keep beside them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from paddle import Tensor, nn

from paddle_dla.storage.values import VARIANCE


def shapes_of(network: nn.Layer) -> dict[str, tuple[int, ...]]:
    """``{name: shape}`` of every tensor that is saved."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def tables_of(network: nn.Layer) -> dict[str, str]:
    """``{name: type}`` of those that are no weights: buffers, and integers, as Swin's ``relative_position_index``.

    Statistics of normalisation are weights, whoever registers them as buffers.
    """
    state, buffers = network.state_dict(), {name for name, _ in network.named_buffers()}
    masks = {name for name in buffers if not name.endswith((VARIANCE, "_mean"))}
    return {name: str(tensor.dtype).rpartition(".")[2] for name, tensor in state.items()
            if name in masks or not tensor.is_floating_point()}  # fmt: skip


def set_state(network: nn.Layer, state: Mapping[str, Tensor | np.ndarray]) -> None:
    """Give ``network`` the tensors and arrays in ``state``."""
    network.set_state_dict(dict(state))  # pyright: ignore[reportArgumentType] - Paddle takes arrays and does not say so


def tied_in(network: nn.Layer) -> list[list[str]]:
    """The names of each tensor that has several, as an embedding has that is the classifier's weight, too."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, tensor in network.state_dict().items():
        names[id(tensor)].append(name)
    return [group for group in names.values() if len(group) > 1]
