"""Ports of small models of timm, made once a session, and a network written by hand with a card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from paddle import nn

SMALL = {
    "test_resnet": [],
    "test_convnext": [],
    "test_vit": [],
    "test_efficientnet": [],
}
"""timm's test models, one a family, and what else ``convert/port.py`` is told of them."""


def make_port(name: str, folder: Path, *options: str) -> str:
    """The folder of a port of ``name``, proved in evaluation mode."""
    from convert.port import main

    target = folder / name
    assert main(["--model", name, "--eval-only", "--output", str(target), *options]) == 0
    return str(target)


def sealed_again(folder: Path, **changes: Any) -> None:
    """Write ``changes`` and the sums of the files as they are into the card of the port in ``folder``."""
    from paddle_dla.models.cards import CARD, sealed
    from paddle_dla.storage.manifest import describe_file

    card = json.loads((folder / CARD).read_text()) | changes
    del card["sha256"]
    card["files"] = {name: describe_file(folder / name) for name in card["files"]}
    (folder / CARD).write_text(json.dumps(sealed(card)))


class ByHand(nn.Layer):
    """Two convolutions and a classifier, with the card that a user would write."""

    card: ClassVar = {
        "name": "by_hand",
        "num_classes": 7,
        "classifier": "head",
        "first_conv": "stem",
        "preprocessing": {"input_size": [3, 32, 32], "crop_pct": 1.0, "interpolation": "bilinear",
                          "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
        "layer_groups": {"stem.weight": 0, "stem.bias": 0, "body.weight": 1, "body.bias": 1, "head.weight": 2,
                         "head.bias": 2},
        "feature_levels": [{"module": "stem", "channels": 4, "stride": 2}, {"module": "body", "channels": 8,
                                                                            "stride": 4}],
    }  # fmt: skip

    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Conv2D(3, 4, 3, 2, 1), nn.Conv2D(4, 8, 3, 2, 1)
        self.head = nn.Linear(8, 7)

    def forward(self, x):
        return self.head(nn.functional.relu(self.body(nn.functional.relu(self.stem(x)))).mean([2, 3]))


def ending():
    """A program, not a network."""
    raise SystemExit(0)


ending.card = ByHand.card


class Cardless(nn.Layer):
    """Nobody knows what its classifier is."""


class HalfCard(ByHand):
    """A card that lacks most."""

    card: ClassVar = {"name": "half", "num_classes": 7}
