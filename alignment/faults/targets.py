"""The layers into which mistakes are put: found by what they are and where they hang. Paddle only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paddle import Tensor, nn

from alignment.faults.operations import Seen

ROOT = "(model)"
Among = Callable[[str, nn.Layer], bool]
"""Whether the layer at a path qualifies."""


class NotApplicable(Exception):
    """The model has no layer in which this fault could be made, or it would change nothing there."""


@dataclass(frozen=True)
class Target:
    """A layer of ``model`` and where it hangs; ``seen`` is what the model calls, where that is known."""

    model: nn.Layer
    path: str
    layer: Any
    seen: Seen | None = None

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
    """A layer with weights and a bias; the last one makes the logits."""
    return isinstance(layer, (nn.Conv2D, nn.Linear)) and layer.bias is not None


def stem(path: str, layer: nn.Layer) -> bool:
    """The convolution that takes the image."""
    return isinstance(layer, nn.Conv2D) and layer.weight.shape[1] == 3


def is_ours(layer: nn.Layer) -> bool:
    """Whether it is a layer of this project, whose wiring ``alignment.faults.wiring`` can put together."""
    return type(layer).__module__.startswith("paddle_dla.")


def block(path: str, layer: nn.Layer) -> bool:
    """A residual block of convolutions in a row, as this project wires it."""
    return is_ours(layer) and all(hasattr(layer, name) for name in ("conv1", "bn1", "conv2", "bn2", "relu"))


def res2net(path: str, layer: nn.Layer) -> bool:
    """A residual block whose middle convolution is a cascade over groups, as this project wires it."""
    return is_ours(layer) and all(hasattr(layer, name) for name in ("conv1", "convs", "bns", "relu"))


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
    return isinstance(layer, nn.Sequential) and len(layer) > 1 and isinstance(layer[-1], nn.ReLU)


def average(path: str, layer: nn.Layer) -> bool:
    """An average pool over 3x3 that pads."""
    side = getattr(layer, "ksize", 3)
    return type(layer).__name__ == "AvgPool2D" and side in (3, [3, 3]) and layer.padding == 1


def global_pool(path: str, layer: nn.Layer) -> bool:
    """A pool over the whole map, of height and width: what is done to it names both axes."""
    name = type(layer).__name__
    return "Adaptive" in name and "1D" not in name


def whole_model(path: str, layer: nn.Layer) -> bool:
    """The model itself."""
    return path == ROOT


def either(*conditions: Among) -> Among:
    """A layer that meets one of several conditions."""
    return lambda path, layer: any(condition(path, layer) for condition in conditions)


def linear(condition: Callable[[nn.Linear], bool] = lambda linear: True) -> Among:
    """A linear layer that meets a condition."""
    return lambda path, layer: isinstance(layer, nn.Linear) and condition(layer)


def has_bias(layer: Any) -> bool:
    """Whether it adds a bias."""
    return layer.bias is not None


def is_square(linear: nn.Linear) -> bool:
    """As many features out as in."""
    return linear.weight.shape[0] == linear.weight.shape[1]


def is_packed(linear: nn.Linear) -> bool:
    """Query, key and value in one layer: three times as many features out as in."""
    return linear.weight.shape[1] == 3 * linear.weight.shape[0]


def patches(path: str, layer: nn.Layer) -> bool:
    """A convolution whose windows do not overlap."""
    return isinstance(layer, nn.Conv2D) and kernel(layer) == layer._stride[0] > 1


def norm(path: str, layer: nn.Layer) -> bool:
    """A normalisation with weight, bias and epsilon that keeps no statistics."""
    return (
        epsilon_name(layer) != ""
        and not hasattr(layer, "_mean")
        and all(getattr(layer, name, None) is not None for name in ("weight", "bias"))
    )


def own_norm(path: str, layer: nn.Layer) -> bool:
    """A normalisation that the port wrote itself."""
    return norm(path, layer) and not isinstance(layer, nn.LayerNorm)


def epsilon_name(layer: nn.Layer) -> str:
    """The attribute that holds its epsilon, or nothing."""
    return next((name for name in ("_epsilon", "epsilon", "eps") if isinstance(getattr(layer, name, None), float)), "")


SCALES, HEADS, SHIFTS = ("scale", "scaling", "qk_scale"), ("num_heads", "heads", "n_heads"), ("shift_size", "shift")
"""The names that ports give to what attention is set to."""


def setting(layer: nn.Layer, names: tuple[str, ...], kind: type) -> str:
    """The first attribute of these names that holds a positive number of this type, or nothing."""
    values = {name: layer.__dict__[name] for name in names if name in layer.__dict__}
    return next((name for name, value in values.items() if type(value) is kind and value > 0), "")


def attention(names: tuple[str, ...], kind: type) -> Among:
    """A layer that holds linear layers, and a setting of attention."""
    return lambda path, layer: bool(setting(layer, names, kind)) and bool(linears(layer))


def linears(layer: nn.Layer) -> list[nn.Linear]:
    """The linear layers that it holds itself."""
    return [inner for inner in layer.children() if isinstance(inner, nn.Linear)]


def shifted(path: str, layer: nn.Layer) -> bool:
    """A layer that shifts its windows."""
    return bool(setting(layer, SHIFTS, int))


def anything(path: str, layer: nn.Layer) -> bool:
    """Any layer."""
    return True


Shape = Callable[[Tensor], bool]


def owner(shape: Shape) -> Among:
    """A layer with a parameter of its own, of such a shape, which is no layer of Paddle and no normalisation."""
    return lambda path, layer: own_parameter(layer, shape) != ""


def own_parameter(layer: nn.Layer, shape: Shape) -> str:
    """The name of the first such parameter, or nothing."""
    of_paddle = any(base.__module__.startswith("paddle.nn.") for base in type(layer).__mro__ if base is not nn.Layer)
    if of_paddle or norm("", layer):
        return ""
    held = layer._parameters.items()
    return next((name for name, value in held if value is not None and value.size > 1 and shape(value)), "")


def is_vector(parameter: Tensor) -> bool:
    """One value for each channel: the gamma of a layer scale."""
    return parameter.size == max(parameter.shape) and parameter.ndim != 3


def is_token(parameter: Tensor) -> bool:
    """One token: (1, 1, C)."""
    return parameter.ndim == 3 and parameter.size == parameter.shape[-1]


def is_position(parameter: Tensor) -> bool:
    """One vector for each position: (1, N, C)."""
    return parameter.ndim == 3 and parameter.shape[-2] > 1


def is_table(parameter: Tensor) -> bool:
    """One value for each relative position and head."""
    return parameter.ndim == 2 and min(parameter.shape) > 1


def index_name(layer: nn.Layer) -> str:
    """The name of a buffer of whole numbers in a square, or nothing."""
    held = layer._buffers.items()
    return next((n for n, b in held if b is not None and "int" in str(b.dtype) and _is_square(b.shape)), "")


def _is_square(shape: list[int]) -> bool:
    return len(shape) == 2 and shape[0] == shape[1] > 1


def indexed(path: str, layer: nn.Layer) -> bool:
    """A layer that holds such a buffer."""
    return index_name(layer) != ""
