"""The card of a port: what ``card.json`` in its folder says of it. No framework."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.json_record import RecordError, Sha256, read_record
from paddle_dla.storage.json_text import json_sha256, to_json
from paddle_dla.storage.manifest import FileRecord

SOURCE, WEIGHTS, CARD = "model.py", "weights.pdparams", "card.json"
FORMAT = 2


class _Optional(TypedDict, total=False):
    verdict: dict[str, str]
    reference: dict[str, Any]
    preprocessing: dict[str, Any] | None
    golden: dict[str, Any]


class Card(_Optional):
    """``card.json`` of a port; see ``convert.porting.folder``.

    ``files`` holds size and SHA-256 of source and weights, ``sha256`` the sum of everything else in the card.
    """

    format: int
    name: str
    proved: bool
    files: dict[str, FileRecord]
    sha256: Sha256


def read_card(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The card of the port in ``folder``. Raises ``CheckpointError`` where it is missing, edited or damaged."""
    path = Path(folder) / CARD
    if not path.is_file():
        raise CheckpointError(f"{os.fspath(folder)} is no port: it has no {CARD}; convert/port.py makes one")
    try:
        card = read_record(path, Card, FORMAT)
    except RecordError as error:
        raise CheckpointError(f"{path} {error}; make the port again with convert/port.py") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    if not is_whole(card):
        raise CheckpointError(f"{path} is not what was written: it was edited or damaged; make the port again")
    return card


def sealed(card: Mapping[str, Any]) -> dict[str, Any]:
    """``card`` with its own sum."""
    content = json.loads(to_json(card))  # as it is read again
    return {**content, "sha256": json_sha256(content)}


def is_whole(card: Mapping[str, Any]) -> bool:
    """Whether the ``card`` is what ``sealed`` gave, and has the sums of source and weights."""
    content = {key: value for key, value in card.items() if key != "sha256"}
    return {SOURCE, WEIGHTS} <= card["files"].keys() and card["sha256"] == json_sha256(content)
