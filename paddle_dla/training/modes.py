"""Which parts of a network are trained, and which are frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from paddle import Tensor, nn

from paddle_dla.models.grouping import STATISTICS
from paddle_dla.training.errors import TrainingError

DROPOUT = "head_drop"
"""DLA's dropout before the classifier, which stays active in a linear probe."""


@dataclass(frozen=True)
class Frozen:
    """Frozen layers. ``layers`` stay in evaluation mode: as in timm's ``freeze``, this includes their BatchNorm."""

    layers: tuple[nn.Layer, ...] = field(default=())

    def train(self, network: nn.Layer) -> None:
        """Switch ``network`` to training mode, except for the frozen layers."""
        network.train()
        for layer in self.layers:
            layer.eval()


def freeze(network: nn.Layer, prefixes: Sequence[str]) -> Frozen:
    """Freeze the layers and parameters whose names start with one of ``prefixes``.

    Raises ``TrainingError`` for a prefix that matches nothing, and if nothing is left to train.
    """
    names = [name for name, _ in network.named_parameters()]
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            raise TrainingError(f"train.freeze: no layer's name begins with {prefix!r}")
    for name, parameter in network.named_parameters():
        if name.startswith(tuple(prefixes)):
            parameter.stop_gradient = True
    if all(parameter.stop_gradient for parameter in network.parameters()):
        raise TrainingError("train.freeze leaves nothing to train")
    layers = (layer for name, layer in network.named_sublayers() if name.startswith(tuple(prefixes)))
    return Frozen(tuple(layers))


def freeze_all_but_head(network: nn.Layer) -> Frozen:
    """Freeze everything except the classifier (linear probe); features are computed as in evaluation."""
    classifier = network.get_classifier()
    head = next(name for name, layer in network.named_sublayers() if layer is classifier)
    for name, parameter in network.named_parameters():
        if not name.startswith(f"{head}."):
            parameter.stop_gradient = True
    around = {head, DROPOUT, *(head.rsplit(".", depth)[0] for depth in range(1, head.count(".") + 1))}
    inside = f"{head}."
    return Frozen(
        tuple(layer for name, layer in network.named_sublayers() if name not in around and not name.startswith(inside))
    )


def running_statistics(network: nn.Layer) -> list[Tensor]:
    """Return BatchNorm's buffers, which a forward pass in training changes."""
    return [tensor for name, tensor in network.state_dict().items() if name.endswith(STATISTICS)]
