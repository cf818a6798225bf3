"""The card of a port: what ``card.json`` in its folder says of it. No framework."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypedDict

from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.json_record import RecordError, read_record

SOURCE, WEIGHTS, CARD = "model.py", "weights.pdparams", "card.json"
FORMAT = 1


class _Optional(TypedDict, total=False):
    verdict: dict[str, str]
    reference: dict[str, Any]
    preprocessing: dict[str, Any] | None
    golden: dict[str, Any]


class Card(_Optional):
    """``card.json`` of a port; see ``convert.porting.folder``."""

    format: int
    name: str
    proved: bool
    sha256: str


def read_card(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The card of the port in ``folder``. Raises ``CheckpointError`` where it is missing or damaged."""
    path = Path(folder) / CARD
    if not path.is_file():
        raise CheckpointError(f"{os.fspath(folder)} is no port: it has no {CARD}; convert/port.py makes one")
    try:
        return read_record(path, Card, FORMAT)
    except (RecordError, OSError) as error:
        raise CheckpointError(f"{path}: {error}") from error
