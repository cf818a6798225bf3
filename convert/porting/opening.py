"""The reference of a port folder, with the port's weights carried back to it. torch is imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from convert.matching.key_map import KeyMap, Line
from convert.port_weights import key_map_of
from convert.porting.reference import Reference
from paddle_dla import checkpoint
from paddle_dla.models.cards import WEIGHTS, read_card
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

    card = read_card(folder)
    reference = Reference(**card["reference"])
    if not reference.name:
        raise CheckpointError(f"{folder} was made of a module that only its maker has")
    arrays, manifest = checkpoint.read(Path(folder) / WEIGHTS)
    if manifest is None:
        raise CheckpointError(f"{folder} has weights without a manifest")
    key_map = key_map_of(manifest)
    module = reference.build()
    with torch.no_grad():
        named = dict((*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)))
        for name, array in torch_state(arrays, key_map).items():
            named[name].copy_(torch.from_numpy(np.array(array)))
    known = {line.torch for line in key_map}
    others = [Line(name, None, dropped=NOT_KEPT) for name in named if name not in known]
    return module, KeyMap((*key_map, *others))
