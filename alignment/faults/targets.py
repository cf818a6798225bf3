"""Find the layers for fault injection by what they are and where they are. Paddle only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paddle import Tensor, nn

from alignment.faults.operations import Seen

ROOT = "(model)"
Among = Callable[[str, nn.Layer], bool]
"""A condition on a layer and its path."""


class NotApplicable(Exception):
    """The model has no layer for this fault, or the fault would change nothing there."""


@dataclass(frozen=True)
class Target:
    """A layer of ``model`` and its position; ``seen`` are the calls of the model, if known."""

    model: nn.Layer
    path: str
    layer: Any
    seen: Seen | None = None

    @property
    def parent(self) -> nn.Layer:
        """Return the layer that holds the target."""
        return _by_path(self.model, self.path.rpartition(".")[0])

    def replace(self, layer: nn.Layer) -> None:
        """Replace the target by ``layer``."""
        layer.train() if self.layer.training else layer.eval()
        setattr(self.parent, self.path.rpartition(".")[2], layer)

    def sibling(self, name: str) -> str:
        """Return the path of another layer in the same parent."""
        return f"{self.path.rpartition('.')[0]}.{name}".lstrip(".")


def _by_path(model: nn.Layer, path: str) -> nn.Layer:
    for name in filter(None, path.split(".")):
        model = getattr(model, name) if hasattr(model, name) else model._sub_layers[name]
    return model


def is_a(*types: type) -> Among:
    """Match a layer of one of these classes."""
    return lambda path, layer: isinstance(layer, types)


def conv(condition: Callable[[nn.Conv2D], bool] = lambda conv: True) -> Among:
    """Match a convolution that meets a condition."""
    return lambda path, layer: isinstance(layer, nn.Conv2D) and condition(layer)


def kernel(conv: nn.Conv2D) -> int:
    """Return the side of the kernel."""
    return conv.weight.shape[2]


def strided(conv: nn.Conv2D) -> bool:
    """Match a 3x3 convolution that makes the map smaller."""
    return conv._stride[0] > 1 and kernel(conv) == 3


def plain3x3(conv: nn.Conv2D) -> bool:
    """Match a 3x3 convolution that keeps the size."""
    return conv._stride[0] == 1 and kernel(conv) == 3


def square1x1(conv: nn.Conv2D) -> bool:
    """Match a 1x1 convolution with as many channels out as in."""
    return conv.weight.shape[0] == conv.weight.shape[1] and conv._groups == 1 and kernel(conv) == 1


def square(conv: nn.Conv2D) -> bool:
    """Match a convolution with as many channels out as in, in one group."""
    return conv.weight.shape[0] == conv.weight.shape[1] and conv._groups == 1


def classifier(path: str, layer: nn.Layer) -> bool:
    """Match a layer with weights and a bias; the last one computes the logits."""
    return isinstance(layer, (nn.Conv2D, nn.Linear)) and layer.bias is not None


def stem(path: str, layer: nn.Layer) -> bool:
    """Match the convolution that takes the image."""
    return isinstance(layer, nn.Conv2D) and layer.weight.shape[1] == 3


def is_ours(layer: nn.Layer) -> bool:
    """Return whether this is a layer of this project, whose wiring ``alignment.faults.wiring`` can reproduce."""
    return type(layer).__module__.startswith("paddle_dla.")


def block(path: str, layer: nn.Layer) -> bool:
    """Match a residual block of convolutions in a row, as this project wires it."""
    return is_ours(layer) and all(hasattr(layer, name) for name in ("conv1", "bn1", "conv2", "bn2", "relu"))


def res2net(path: str, layer: nn.Layer) -> bool:
    """Match a residual block whose middle convolution is a cascade over groups, as this project wires it."""
    return is_ours(layer) and all(hasattr(layer, name) for name in ("conv1", "convs", "bns", "relu"))


def residual(path: str, layer: nn.Layer) -> bool:
    """Match a residual block of either kind."""
    return block(path, layer) or res2net(path, layer)


def uniform(path: str, layer: nn.Layer) -> bool:
    """Match a block whose convolutions all return maps of one shape."""
    convs = [sub for sub in layer.children() if isinstance(sub, nn.Conv2D)]
    return block(path, layer) and len({(conv.weight.shape[0], *conv._stride) for conv in convs}) == 1


def root(path: str, layer: nn.Layer) -> bool:
    """Match an aggregation node."""
    return type(layer).__name__ == "DlaRoot"


def tree(path: str, layer: nn.Layer) -> bool:
    """Match a tree of two blocks and a root."""
    return hasattr(layer, "tree1") and hasattr(layer, "root") and residual(path, layer.tree1)


def nested(path: str, layer: nn.Layer) -> bool:
    """Match a tree of two trees."""
    return hasattr(layer, "tree1") and hasattr(layer.tree1, "tree1")


def chain(path: str, layer: nn.Layer) -> bool:
    """Match a sequence that ends in an activation."""
    return isinstance(layer, nn.Sequential) and len(layer) > 1 and isinstance(layer[-1], nn.ReLU)


def average(path: str, layer: nn.Layer) -> bool:
    """Match an average pool over 3x3 with padding."""
    side = getattr(layer, "ksize", 3)
    return type(layer).__name__ == "AvgPool2D" and side in (3, [3, 3]) and layer.padding == 1


def global_pool(path: str, layer: nn.Layer) -> bool:
    """Match a pool over the whole map, of height and width; changes to it name both axes."""
    name = type(layer).__name__
    return "Adaptive" in name and "1D" not in name


def whole_model(path: str, layer: nn.Layer) -> bool:
    """Match the model itself."""
    return path == ROOT


def either(*conditions: Among) -> Among:
    """Match a layer that meets one of several conditions."""
    return lambda path, layer: any(condition(path, layer) for condition in conditions)


def linear(condition: Callable[[nn.Linear], bool] = lambda linear: True) -> Among:
    """Match a linear layer that meets a condition."""
    return lambda path, layer: isinstance(layer, nn.Linear) and condition(layer)


def has_bias(layer: Any) -> bool:
    """Return whether the layer adds a bias."""
    return layer.bias is not None


def is_square(linear: nn.Linear) -> bool:
    """Return whether there are as many features out as in."""
    return linear.weight.shape[0] == linear.weight.shape[1]


def is_packed(linear: nn.Linear) -> bool:
    """Return whether one layer computes query, key and value: three times as many features out as in."""
    return linear.weight.shape[1] == 3 * linear.weight.shape[0]


def patches(path: str, layer: nn.Layer) -> bool:
    """Match a convolution whose windows do not overlap."""
    return isinstance(layer, nn.Conv2D) and kernel(layer) == layer._stride[0] > 1


def norm(path: str, layer: nn.Layer) -> bool:
    """Match a normalisation with weight, bias and epsilon that keeps no statistics."""
    return (
        epsilon_name(layer) != ""
        and not hasattr(layer, "_mean")
        and all(getattr(layer, name, None) is not None for name in ("weight", "bias"))
    )


def own_norm(path: str, layer: nn.Layer) -> bool:
    """Match a normalisation that the port implements itself."""
    return norm(path, layer) and not isinstance(layer, nn.LayerNorm)


def epsilon_name(layer: nn.Layer) -> str:
    """Return the attribute that holds epsilon, or nothing."""
    return next((name for name in ("_epsilon", "epsilon", "eps") if isinstance(getattr(layer, name, None), float)), "")


SCALES, HEADS, SHIFTS = ("scale", "scaling", "qk_scale"), ("num_heads", "heads", "n_heads"), ("shift_size", "shift")
"""The names of attention settings in ports."""


def setting(layer: nn.Layer, names: tuple[str, ...], kind: type) -> str:
    """Return the first attribute of these names that holds a positive number of this type, or nothing."""
    values = {name: layer.__dict__[name] for name in names if name in layer.__dict__}
    return next((name for name, value in values.items() if type(value) is kind and value > 0), "")


def attention(names: tuple[str, ...], kind: type) -> Among:
    """Match a layer that holds linear layers, and a setting of attention."""
    return lambda path, layer: bool(setting(layer, names, kind)) and bool(linears(layer))


def linears(layer: nn.Layer) -> list[nn.Linear]:
    """Return the linear layers that the layer itself holds."""
    return [inner for inner in layer.children() if isinstance(inner, nn.Linear)]


def shifted(path: str, layer: nn.Layer) -> bool:
    """Match a layer that shifts its windows."""
    return bool(setting(layer, SHIFTS, int))


def anything(path: str, layer: nn.Layer) -> bool:
    """Match any layer."""
    return True


Shape = Callable[[Tensor], bool]


def owner(shape: Shape) -> Among:
    """Match a layer with its own parameter of such a shape, neither a layer of Paddle nor a normalisation."""
    return lambda path, layer: own_parameter(layer, shape) != ""


def own_parameter(layer: nn.Layer, shape: Shape) -> str:
    """Return the name of the first such parameter, or nothing."""
    of_paddle = any(base.__module__.startswith("paddle.nn.") for base in type(layer).__mro__ if base is not nn.Layer)
    if of_paddle or norm("", layer):
        return ""
    held = layer._parameters.items()
    return next((name for name, value in held if value is not None and value.size > 1 and shape(value)), "")


def is_vector(parameter: Tensor) -> bool:
    """Return whether there is one value for each channel: the gamma of a layer scale."""
    return parameter.size == max(parameter.shape) and parameter.ndim != 3


def is_token(parameter: Tensor) -> bool:
    """Return whether this is one token: (1, 1, C)."""
    return parameter.ndim == 3 and parameter.size == parameter.shape[-1]


def is_position(parameter: Tensor) -> bool:
    """Return whether there is one vector for each position: (1, N, C)."""
    return parameter.ndim == 3 and parameter.shape[-2] > 1


def is_table(parameter: Tensor) -> bool:
    """Return whether there is one value for each relative position and head."""
    return parameter.ndim == 2 and min(parameter.shape) > 1


def index_name(layer: nn.Layer) -> str:
    """Return the name of a square integer buffer, or nothing."""
    held = layer._buffers.items()
    return next((n for n, b in held if b is not None and "int" in str(b.dtype) and _is_square(b.shape)), "")


def _is_square(shape: list[int]) -> bool:
    return len(shape) == 2 and shape[0] == shape[1] > 1


def indexed(path: str, layer: nn.Layer) -> bool:
    """Match a layer that holds a square integer buffer."""
    return index_name(layer) != ""
