"""Derive the key map between any torch module and any Paddle layer. No framework is imported.

    torch_layers, paddle_layers = read_layers(torch_model), read_layers(paddle_model)
    key_map = derive(torch_layers, paddle_layers)  # or in the order of calls: ordered(layers, call_order(model, run))
    path.write_text(to_text(key_map))              # an editable table; read it: from_text(path.read_text())
    arrays = apply(key_map, {name: value.numpy() for name, value in torch_model.state_dict().items()})

``alignment.transfer`` does all of this in one call. It also runs both models if names and order leave a choice.
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
    """Derive the key map, in the order of ``torch``. Tensors without a twin are unresolved; Paddle's come last.

    Each model's shapes are in the layout of its framework. ``given`` holds pairs of layer paths that are used
    unchanged.

    Raises ``AmbiguousMatch`` if a layer has several possible twins; the message lists them.
    """
    proposal = propose(torch, paddle, given)
    doubts = ambiguity(proposal)
    if doubts:
        raise AmbiguousMatch("layers have several possible twins; name the right ones in the key map:", doubts)
    return proposal.key_map()


def apply(
    key_map: Iterable[Line], arrays: Mapping[str, np.ndarray], shapes: Mapping[str, Shape] | None = None
) -> dict[str, np.ndarray]:
    """Call ``KeyMap.apply``."""
    return KeyMap(tuple(key_map)).apply(arrays, shapes)


def to_text(key_map: Iterable[Line]) -> str:
    """Return the key map as an editable table, one line per tensor."""
    return str(KeyMap(tuple(key_map)))


def from_text(text: str) -> KeyMap:
    """Call ``KeyMap.from_text``."""
    return KeyMap.from_text(text)
