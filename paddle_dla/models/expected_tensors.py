"""The tensors that a network expects in a weight file: shapes, and index tables stored among the weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from paddle import Tensor, nn

from paddle_dla.storage.values import VARIANCE


def shapes_of(network: nn.Layer) -> dict[str, tuple[int, ...]]:
    """Return ``{name: shape}`` of every tensor that is saved."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def tables_of(network: nn.Layer) -> dict[str, str]:
    """Return ``{name: type}`` of tensors that are not weights: buffers, and integers such as Swin's index tables.

    An example is ``relative_position_index``. Statistics of normalisation count as weights even if they are buffers.
    """
    state, buffers = network.state_dict(), {name for name, _ in network.named_buffers()}
    masks = {name for name in buffers if not name.endswith((VARIANCE, "_mean"))}
    return {name: str(tensor.dtype).rpartition(".")[2] for name, tensor in state.items()
            if name in masks or not tensor.is_floating_point()}  # fmt: skip


def set_state(network: nn.Layer, state: Mapping[str, Tensor | np.ndarray]) -> None:
    """Load the tensors and arrays in ``state`` into ``network``."""
    network.set_state_dict(dict(state))  # pyright: ignore[reportArgumentType] - Paddle takes arrays and does not say so


def tied_in(network: nn.Layer) -> list[list[str]]:
    """Return the names of each tensor that has several, such as an embedding that is also the classifier's weight."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, tensor in network.state_dict().items():
        names[id(tensor)].append(name)
    return [group for group in names.values() if len(group) > 1]
