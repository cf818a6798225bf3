"""Open ports that the translator wrote: a folder becomes a Paddle network. Paddle only.

Opening a port runs the Python source in its folder, as importing a package does. The card records the checksum of that
source. A port is refused if its source or weights differ from its card and manifest.
"""

from __future__ import annotations

import hashlib
import os
from importlib.abc import ExecutionLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from paddle import nn

from paddle_dla.models.cards import SOURCE, WEIGHTS, read_card
from paddle_dla.models.expected_tensors import set_state, shapes_of, tables_of, tied_in
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.manifest import file_difference
from paddle_dla.storage.regular import read_regular
from paddle_dla.weight_files import check_fit, read

MOST_SOURCE = 2**24
"""Largest source in bytes: the longest one written so far, of a network of 2,000 statements, is a hundredth of it."""


def open_port(folder: str | os.PathLike[str], unproved: bool = False) -> nn.Layer:
    """Open the network in the port ``folder``, with its weights, in evaluation mode.

    ``unproved`` also opens a draft that is not aligned with its reference. Raises ``CheckpointError`` if the folder is
    not a port, is a draft, or holds another source or other weights than it records.

        model = open_port("ports/convnext_atto")
    """
    model = proved_network(folder, unproved)
    arrays, _ = read(Path(folder) / WEIGHTS)
    check_fit(arrays, shapes_of(model), os.fspath(folder), tables_of(model), tied_in(model))
    set_state(model, arrays)
    model.eval()
    return model


def proved_network(folder: str | os.PathLike[str], unproved: bool = False) -> nn.Layer:
    """Open the network in the port ``folder`` without loading its weights; their checksums are still verified.

    Raises the errors of ``open_port``.
    """
    card = read_card(folder)
    if not card["proved"] and not unproved:
        raise CheckpointError(f"{os.fspath(folder)} is a draft that is not aligned with its reference; see its report")
    source, weights = Path(folder) / SOURCE, Path(folder) / WEIGHTS
    try:
        code = read_regular(source, MOST_SOURCE)
        if hashlib.sha256(code).hexdigest() != card["files"][SOURCE]["sha256"]:
            raise _changed(source)
        if file_difference(weights, card["files"][WEIGHTS]) is not None:
            raise _changed(weights)
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename or folder}: {error.strerror}") from error
    return _built(code, source)


def _changed(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} was changed since the port was proved; prove it again with convert/port.py")


def build_model(source: str | os.PathLike[str]) -> nn.Layer:
    """Build the network in the Python file ``source``, without its weights. Raises ``OSError`` if there is no file."""
    return _built(read_regular(source, MOST_SOURCE), source)


class _Verified(ExecutionLoader):
    """Loader that runs the verified bytes, not the file's present content or a ``.pyc`` beside it."""

    def __init__(self, code: bytes, path: str | os.PathLike[str]):
        self._text, self._path = code.decode("utf-8"), os.fspath(path)

    def get_source(self, fullname: str) -> str:
        return self._text

    def get_filename(self, fullname: str) -> str:
        return self._path


def _built(code: bytes, path: str | os.PathLike[str]) -> nn.Layer:
    loader = _Verified(code, path)
    spec = spec_from_file_location("ported_model", os.fspath(path), loader=loader)
    assert spec is not None  # a loader is given
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module.build_model()
