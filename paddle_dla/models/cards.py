"""The card of a model: facts about it that are read without building it. A port's is ``card.json``. No framework.

A hand-written network has the same card as a mapping; ``docs/port-your-own-model.md`` shows one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from paddle_dla.preprocessing import Preprocessing
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.json_record import RecordError, Sha256, read_record
from paddle_dla.storage.json_text import json_sha256, to_json
from paddle_dla.storage.manifest import FileRecord, read_manifest

SOURCE, WEIGHTS, CARD = "model.py", "weights.pdparams", "card.json"
FORMAT = 2


class _Optional(TypedDict, total=False):
    verdict: dict[str, str]
    reference: dict[str, Any]
    preprocessing: dict[str, Any] | None
    golden: dict[str, Any]


class Card(_Optional):
    """``card.json`` of a port; see ``convert.porting.folder``.

    ``files`` holds the size and SHA-256 of source and weights, ``sha256`` the checksum of the rest of the card.
    """

    format: int
    name: str
    proved: bool
    files: dict[str, FileRecord]
    sha256: Sha256


def read_card(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the card of the port in ``folder``. Raises ``CheckpointError`` if it is missing, edited or damaged."""
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
    """Return ``card`` with its own checksum."""
    content = json.loads(to_json(card))  # as a reader will parse it
    return {**content, "sha256": json_sha256(content)}


def is_whole(card: Mapping[str, Any]) -> bool:
    """Return whether ``card`` matches its own checksum and has those of source and weights."""
    content = {key: value for key, value in card.items() if key != "sha256"}
    return {SOURCE, WEIGHTS} <= card["files"].keys() and card["sha256"] == json_sha256(content)


def golden_inputs(golden: Mapping[str, Any]) -> list[np.ndarray]:
    """Return the inputs for the ``golden`` outputs of a card: drawn from a normal distribution, or as stored."""
    generator = np.random.RandomState(golden["seed"])
    return [
        np.array(one["values"] if "values" in one else generator.standard_normal(one["shape"]), one["dtype"])
        .reshape(one["shape"])
        for one in golden["inputs"]
    ]  # fmt: skip


@dataclass(frozen=True)
class Described:
    """A card as the pipeline reads it. ``None`` and empty values mean that the card has no entry.

    ``classifier`` and ``first_conv`` are names of layers. ``features`` is the layer that returns the result of timm's
    ``forward_features``. ``layer_groups`` is the depth of each parameter, 0 at the input. ``no_weight_decay`` are names
    of parameters. ``levels`` are ``module``, ``num_chs`` and ``reduction`` of each feature map. All names are those of
    the Paddle network. ``assumed`` gives the reason if ``preprocessing`` is a guess.
    """

    name: str
    num_classes: int | None = None
    in_chans: int | None = None
    classifier: str | None = None
    first_conv: str | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    assumed: str = ""
    layer_groups: Mapping[str, int] = field(default_factory=dict)
    no_weight_decay: frozenset[str] = frozenset()
    levels: tuple[Mapping[str, Any], ...] = ()
    features: str | None = None


def describe(card: Mapping[str, Any], names: Mapping[str, str] | None = None) -> Described:
    """Read ``card`` with the names of the Paddle network; ``names`` maps the names that differ, card to Paddle.

    Raises ``ValueError`` for a preprocessing that cannot be applied to any image.
    """
    names = names or {}
    shape = _image_shape(card)
    preprocessing, assumed = _preprocessing(card, shape)
    groups: Mapping[str, int] = card.get("layer_groups") or {}
    undecayed: Iterable[str] = card.get("no_weight_decay") or ()
    return Described(
        name=str(card["name"]),
        num_classes=card.get("num_classes") or None,
        in_chans=shape[0] if shape else preprocessing.input_size[0],
        classifier=_one_name(card.get("classifier")),
        first_conv=_one_name(card.get("first_conv")),
        preprocessing=preprocessing,
        assumed=assumed,
        layer_groups={names.get(name, name): depth for name, depth in groups.items()},
        no_weight_decay=frozenset(names.get(name, name) for name in undecayed),
        levels=tuple(
            {"module": level["module"], "num_chs": level["channels"], "reduction": level["stride"]}
            for level in card.get("feature_levels") or ()
        ),
        features=_one_name(card.get("features")),
    )


def describe_port(folder: str | os.PathLike[str]) -> Described:
    """Read the card of the port in ``folder``. Raises ``CheckpointError`` if it is no port or its card is damaged."""
    manifest = read_manifest(Path(folder) / WEIGHTS) or {"tensors": {}}
    renamed = {record.get("from"): name for name, record in manifest["tensors"].items() if record.get("from") != name}
    try:
        return describe(read_card(folder), renamed)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{Path(folder) / CARD}: {error}") from error


def _image_shape(card: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the (C, H, W) of the images that the reference was traced with; ``None`` if its inputs are not images."""
    inputs = card.get("inputs") or ()
    return tuple(inputs[0]["shape"]) if len(inputs) == 1 and len(inputs[0]["shape"]) == 3 else None


def _preprocessing(card: Mapping[str, Any], shape: tuple[int, ...] | None) -> tuple[Preprocessing, str]:
    if not card.get("preprocessing"):
        guess, why = Preprocessing(), "its card records none"
        return replace(guess.with_channels(shape[0]), input_size=shape) if shape else guess, why
    recorded = Preprocessing.from_dict(card["preprocessing"])
    if shape is None:
        return recorded, ""
    recorded = recorded.with_channels(shape[0])
    built_for_one = "img_size" in ((card.get("reference") or {}).get("options") or {})
    return (replace(recorded, input_size=shape) if built_for_one else recorded), ""


def _one_name(value: Any) -> str | None:
    """Return ``value`` if it is a single name, else ``None``.

    Some of timm's cards name several classifiers, which is not supported.
    """
    return value if isinstance(value, str) and value else None


def missing(described: Described) -> Iterable[str]:
    """Return the entries that the commands need and the card lacks."""
    required = ("num_classes", "in_chans", "classifier", "first_conv")
    return [name for name in required if getattr(described, name) is None]
