"""The layers into which mistakes are put: found by what they are and where they hang. Paddle only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paddle import nn

ROOT = "(model)"
Among = Callable[[str, nn.Layer], bool]
"""Whether the layer at a path qualifies."""


class NotApplicable(Exception):
    """The model has no layer in which this fault could be made, or it would change nothing there."""


@dataclass(frozen=True)
class Target:
    """A layer of ``model`` and where it hangs."""

    model: nn.Layer
    path: str
    layer: Any

    @property
    def parent(self) -> nn.Layer:
        """The layer that holds it."""
        return _by_path(self.model, self.path.rpartition(".")[0])

    def replace(self, layer: nn.Layer) -> None:
        """Put ``layer`` in its place."""
        layer.train() if self.layer.training else layer.eval()
        setattr(self.parent, self.path.rpartition(".")[2], layer)

    def sibling(self, name: str) -> str:
        """Path of another layer in the same parent."""
        return f"{self.path.rpartition('.')[0]}.{name}".lstrip(".")


def _by_path(model: nn.Layer, path: str) -> nn.Layer:
    for name in filter(None, path.split(".")):
        model = getattr(model, name) if hasattr(model, name) else model._sub_layers[name]
    return model


def is_a(*types: type) -> Among:
    """A layer of one of these classes."""
    return lambda path, layer: isinstance(layer, types)


def conv(condition: Callable[[nn.Conv2D], bool] = lambda conv: True) -> Among:
    """A convolution that meets a condition."""
    return lambda path, layer: isinstance(layer, nn.Conv2D) and condition(layer)


def kernel(conv: nn.Conv2D) -> int:
    """Its side."""
    return conv.weight.shape[2]


def strided(conv: nn.Conv2D) -> bool:
    """A 3x3 convolution that makes the map smaller."""
    return conv._stride[0] > 1 and kernel(conv) == 3


def plain3x3(conv: nn.Conv2D) -> bool:
    """A 3x3 convolution that keeps the size."""
    return conv._stride[0] == 1 and kernel(conv) == 3


def square1x1(conv: nn.Conv2D) -> bool:
    """A 1x1 convolution with as many channels out as in."""
    return conv.weight.shape[0] == conv.weight.shape[1] and conv._groups == 1 and kernel(conv) == 1


def square(conv: nn.Conv2D) -> bool:
    """A convolution with as many channels out as in, in one group."""
    return conv.weight.shape[0] == conv.weight.shape[1] and conv._groups == 1


def classifier(path: str, layer: nn.Layer) -> bool:
    """The only kind of layer in these networks that has a bias: the one that makes logits."""
    return isinstance(layer, (nn.Conv2D, nn.Linear)) and layer.bias is not None


def stem(path: str, layer: nn.Layer) -> bool:
    """The convolution that takes the image."""
    return isinstance(layer, nn.Conv2D) and layer.weight.shape[1] == 3


def block(path: str, layer: nn.Layer) -> bool:
    """A residual block of convolutions in a row."""
    return all(hasattr(layer, name) for name in ("conv1", "bn1", "conv2", "bn2", "relu"))


def res2net(path: str, layer: nn.Layer) -> bool:
    """A residual block whose middle convolution is a cascade over groups."""
    return all(hasattr(layer, name) for name in ("conv1", "convs", "bns", "relu"))


def residual(path: str, layer: nn.Layer) -> bool:
    """A residual block of either kind."""
    return block(path, layer) or res2net(path, layer)


def uniform(path: str, layer: nn.Layer) -> bool:
    """A block all of whose convolutions return maps of one shape."""
    convs = [sub for sub in layer.children() if isinstance(sub, nn.Conv2D)]
    return block(path, layer) and len({(conv.weight.shape[0], *conv._stride) for conv in convs}) == 1


def root(path: str, layer: nn.Layer) -> bool:
    """A node that aggregates."""
    return type(layer).__name__ == "DlaRoot"


def tree(path: str, layer: nn.Layer) -> bool:
    """A tree of two blocks and a root."""
    return hasattr(layer, "tree1") and hasattr(layer, "root") and residual(path, layer.tree1)


def nested(path: str, layer: nn.Layer) -> bool:
    """A tree of two trees."""
    return hasattr(layer, "tree1") and hasattr(layer.tree1, "tree1")


def chain(path: str, layer: nn.Layer) -> bool:
    """A sequence that ends in an activation."""
    return isinstance(layer, nn.Sequential) and isinstance(layer[-1], nn.ReLU)


def average(path: str, layer: nn.Layer) -> bool:
    """An average pool."""
    return type(layer).__name__ == "AvgPool2D"


def global_pool(path: str, layer: nn.Layer) -> bool:
    """A pool over the whole map."""
    return "Adaptive" in type(layer).__name__


def whole_model(path: str, layer: nn.Layer) -> bool:
    """The model itself."""
    return path == ROOT
