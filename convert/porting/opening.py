"""Rebuild the reference of a port folder with the port's weights. torch is imported on the first call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convert.matching.key_map import KeyMap, Line
from convert.port_weights import key_map_of, stored_weights
from convert.porting.reference import Reference
from paddle_dla.models.cards import read_card
from paddle_dla.storage.errors import CheckpointError

NOT_KEPT = "Paddle has no batch counters, and values made in a forward method are not saved"


def torch_state(arrays: dict[str, np.ndarray], key_map: KeyMap) -> dict[str, np.ndarray]:
    """Return a port's arrays as ``{name in torch: array}``. A translation changes arrays by transposing only."""
    return {
        line.torch: arrays[line.paddle].T if line.transpose else arrays[line.paddle]
        for line in key_map
        if line.torch and line.paddle
    }


def reference_of(folder: Path) -> tuple[Any, KeyMap]:
    """Build the reference of the port in ``folder`` with the port's weights; return it with the key map.

    Raises ``CheckpointError`` if the folder is not a port or records no reference.
    """
    import torch

    reference, (arrays, manifest) = recorded_reference(folder), stored_weights(folder)
    key_map = key_map_of(manifest)
    state = {name: torch.from_numpy(np.array(array)) for name, array in torch_state(arrays, key_map).items()}
    module = reference.build()
    return module, filled(module, state, key_map)


def recorded_reference(folder: str | os.PathLike[str]) -> Reference:
    """Read from the card how to build the reference of the port in ``folder``.

    Raises ``CheckpointError`` if the card does not record it.
    """
    reference = Reference(**read_card(folder)["reference"])
    if not reference.name:
        raise CheckpointError(f"the card of {os.fspath(folder)} does not record how to build the reference")
    return reference


def filled(module: Any, tensors: Mapping[str, Any], key_map: KeyMap) -> KeyMap:
    """Copy ``tensors`` into the torch ``module``; return the key map with a line for each of its other tensors."""
    import torch

    named = dict((*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)))
    with torch.no_grad():
        for name, tensor in tensors.items():
            named[name].copy_(tensor)
    known = {line.torch for line in key_map}
    return KeyMap((*key_map, *(Line(name, None, dropped=NOT_KEPT) for name in named if name not in known)))
