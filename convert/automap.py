"""The key map between any torch module and any Paddle layer, derived from both. No framework is imported.

    torch_layers, paddle_layers = read_layers(torch_model), read_layers(paddle_model)
    key_map = derive(torch_layers, paddle_layers)  # or in the order of calls: ordered(layers, call_order(model, run))
    path.write_text(to_text(key_map))              # to read, to edit, and back: from_text(path.read_text())
    arrays = apply(key_map, {name: value.numpy() for name, value in torch_model.state_dict().items()})

``alignment.transfer`` does all of it in one call, and runs both models where names and order leave a choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from convert.matching.derive import propose
from convert.matching.differences import ambiguity
from convert.matching.key_map import AmbiguousMatch, KeyMap, KeyMapError, Line, Shape
from convert.matching.layers import Layer, call_order, ordered, read_layers

__all__ = ["AmbiguousMatch", "KeyMapError", "Layer", "apply", "call_order", "derive", "from_text", "ordered",
           "read_layers", "to_text"]  # fmt: skip


def derive(torch: Sequence[Layer], paddle: Sequence[Layer], given: Mapping[str, str] | None = None) -> KeyMap:
    """The key map, in the order of ``torch``; what has no twin is unresolved, Paddle's tensors last.

    Shapes as each framework has them. ``given`` are pairs of layer paths that are taken as they are.

    Raises ``AmbiguousMatch`` where a layer has several possible twins; its message lists them.
    """
    proposal = propose(torch, paddle, given)
    doubts = ambiguity(proposal)
    if doubts:
        raise AmbiguousMatch("layers have several possible twins; name the right ones in the key map:", doubts)
    return proposal.key_map()


def apply(
    key_map: Iterable[Line], arrays: Mapping[str, np.ndarray], shapes: Mapping[str, Shape] | None = None
) -> dict[str, np.ndarray]:
    """``KeyMap.apply``."""
    return KeyMap(tuple(key_map)).apply(arrays, shapes)


def to_text(key_map: Iterable[Line]) -> str:
    """The key map as a table to read and to edit, one line for each tensor."""
    return str(KeyMap(tuple(key_map)))


def from_text(text: str) -> KeyMap:
    """``KeyMap.from_text``."""
    return KeyMap.from_text(text)
