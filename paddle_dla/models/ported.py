"""Ports that the translator made: a folder becomes a Paddle network. Paddle only.

Opening a port runs the Python source in its folder, as importing a package does; its card says what that source is, and
a port whose source or weights are others than the card and the manifest say is refused.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from paddle import nn

from paddle_dla.checkpoint import check_fit, read
from paddle_dla.models.cards import SOURCE, WEIGHTS, read_card
from paddle_dla.models.fitting import shapes_of, tables_of
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.manifest import file_sha256


def open_port(folder: str | os.PathLike[str], unproved: bool = False) -> nn.Layer:
    """The network in the port ``folder``, with its weights, in evaluation mode.

    ``unproved`` opens a draft that is not aligned with its reference. Raises ``CheckpointError`` where the folder is no
    port, is a draft, or holds another source or other weights than it records.

        model = open_port("ports/convnext_atto")
    """
    source = proved_source(folder, unproved)
    arrays, _ = read(Path(folder) / WEIGHTS)
    model = build_model(source)
    check_fit(arrays, shapes_of(model), os.fspath(folder), tables_of(model))
    model.set_state_dict(arrays)
    model.eval()
    return model


def proved_source(folder: str | os.PathLike[str], unproved: bool = False) -> Path:
    """The source of the port in ``folder``, which is what its card says; raises as ``open_port``."""
    card = read_card(folder)
    if not card["proved"] and not unproved:
        raise CheckpointError(f"{os.fspath(folder)} is a draft that is not aligned with its reference; see its report")
    source = Path(folder) / SOURCE
    if file_sha256(source) != card["sha256"]:
        raise CheckpointError(f"{source} was changed since the port was proved; prove it again with convert/port.py")
    return source


def build_model(source: str | os.PathLike[str]) -> nn.Layer:
    """The network that the Python file ``source`` builds, without its weights."""
    spec = importlib.util.spec_from_file_location("ported_model", os.fspath(source))
    if spec is None or spec.loader is None:
        raise CheckpointError(f"{os.fspath(source)} is no Python source")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build_model()
