"""The reference of a port folder, with the port's weights carried back to it. torch is imported when it is called."""

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

NOT_KEPT = "Paddle counts no batches, and what a forward method makes is not kept"


def torch_state(arrays: dict[str, np.ndarray], key_map: KeyMap) -> dict[str, np.ndarray]:
    """``{name in torch: array}`` of a port's arrays; transposing is all that a translation does."""
    return {
        line.torch: arrays[line.paddle].T if line.transpose else arrays[line.paddle]
        for line in key_map
        if line.torch and line.paddle
    }


def reference_of(folder: Path) -> tuple[Any, KeyMap]:
    """The torch module that the port in ``folder`` was made of, with the port's weights, and the key map.

    Raises ``CheckpointError`` where the folder is no port or records no reference.
    """
    import torch

    reference, (arrays, manifest) = recorded_reference(folder), stored_weights(folder)
    key_map = key_map_of(manifest)
    state = {name: torch.from_numpy(np.array(array)) for name, array in torch_state(arrays, key_map).items()}
    module = reference.build()
    return module, filled(module, state, key_map)


def recorded_reference(folder: str | os.PathLike[str]) -> Reference:
    """How the reference of the port in ``folder`` is built. Raises ``CheckpointError`` where its card does not say."""
    reference = Reference(**read_card(folder)["reference"])
    if not reference.name:
        raise CheckpointError(f"{os.fspath(folder)} was made of a module that only its maker has")
    return reference


def filled(module: Any, tensors: Mapping[str, Any], key_map: KeyMap) -> KeyMap:
    """Put ``tensors`` into the torch ``module``; the key map with a line for everything else that it has."""
    import torch

    named = dict((*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)))
    with torch.no_grad():
        for name, tensor in tensors.items():
            named[name].copy_(tensor)
    known = {line.torch for line in key_map}
    return KeyMap((*key_map, *(Line(name, None, dropped=NOT_KEPT) for name in named if name not in known)))
