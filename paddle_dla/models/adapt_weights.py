"""timm's rules for weights whose stem or head has another size. Arrays only, no framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from paddle_dla.models.cards import Described
from paddle_dla.storage.errors import CheckpointError

STEM = "base_layer.0.weight"
HEAD = ("fc.weight", "fc.bias")


class Shaped(Protocol):
    """An array of any framework."""

    @property
    def shape(self) -> Sequence[int]: ...


@dataclass(frozen=True)
class Ends:
    """The tensors of a network that depend on its input channels and classes: names of weights, empty for none."""

    stem: str
    head: tuple[str, ...]

    @classmethod
    def of(cls, card: Described) -> Ends:
        """Return those of the layers named by ``card``."""
        classifier = card.classifier
        head = () if classifier is None else (f"{classifier}.weight", f"{classifier}.bias")
        return cls("" if card.first_conv is None else f"{card.first_conv}.weight", head)

    def channels(self, arrays: Mapping[str, Shaped]) -> int | None:
        """Return the input channels of the weights, or ``None`` if they cannot be determined."""
        return arrays[self.stem].shape[1] if self.stem in arrays else None

    def classes(self, arrays: Mapping[str, Shaped]) -> int | None:
        """Return the number of classes of the weights in Paddle's layout: a linear layer is (features, classes)."""
        weight = arrays.get(self.head[0]) if self.head else None
        return None if weight is None else weight.shape[1 if len(weight.shape) == 2 else 0]


def adapt_stem(weight: np.ndarray, in_chans: int, name: str = STEM) -> np.ndarray:
    """Adapt the stem's weight from RGB to ``in_chans`` input channels: (O, 3, K, K) -> (O, in_chans, K, K).

    For one channel: the sum over RGB. Otherwise RGB is repeated as often as needed, cut, and scaled by ``3 /
    in_chans``, so that the response to a grey image is unchanged. Source: ``timm.models._manipulate.adapt_input_conv``.

    Raises ``CheckpointError`` if the weight has neither 3 nor ``in_chans`` input channels.
    """
    channels = weight.shape[1]
    if channels == in_chans:
        return weight
    if channels != 3:
        raise CheckpointError(
            f"{name} is for {channels} input channels; only weights for 3 can be adapted to {in_chans}"
        )
    if in_chans == 1:
        return weight.sum(axis=1, keepdims=True)
    repeated = np.tile(weight, (1, -(-in_chans // 3), 1, 1))[:, :in_chans]
    return repeated * np.asarray(3 / in_chans, weight.dtype)


def new_head(num_classes: int, features: int, seed: int) -> dict[str, np.ndarray]:
    """Create a classifier with timm's initialisation for DLA.

    The weight is N(0, sqrt(2 / num_classes)), the bias U(-1, 1) / sqrt(features); float32, shapes (num_classes,
    features, 1, 1) and (num_classes,).
    """
    rng = np.random.default_rng(seed)
    weight = rng.normal(0.0, (2.0 / num_classes) ** 0.5, (num_classes, features, 1, 1))
    bias = rng.uniform(-1, 1, num_classes) / features**0.5
    return dict(zip(HEAD, (weight.astype(np.float32), bias.astype(np.float32))))
