"""What a network expects of a file of weights: shapes, and tables of indices that some keep beside them."""

from __future__ import annotations

from paddle import nn


def shapes_of(network: nn.Layer) -> dict[str, tuple[int, ...]]:
    """``{name: shape}`` of every tensor that is saved."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def tables_of(network: nn.Layer) -> dict[str, str]:
    """``{name: type}`` of those that are no weights: integers and booleans, as Swin's ``relative_position_index``."""
    state = network.state_dict()
    return {name: str(tensor.dtype).rpartition(".")[2] for name, tensor in state.items()
            if not tensor.is_floating_point()}  # fmt: skip
