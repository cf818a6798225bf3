"""One interface for every model: methods that a network's class lacks are derived from its card. Paddle only.

Evaluation, training and export use ``num_classes``, ``in_chans``, ``get_classifier``, ``reset_classifier``,
``forward_features``, ``pre_logits``, ``layer_groups``, ``no_weight_decay`` and ``set_grad_checkpointing``. The class of
DLA defines them. The class of a port defines none of them; its card names the layers they need.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_dla.errors import WrongValue
from paddle_dla.models.cards import Described
from paddle_dla.models.classifier import new_classifier, replace_layer, uniform_as_torch
from paddle_dla.models.recomputation import recompute_blocks
from paddle_dla.models.registry import ModelError

if TYPE_CHECKING:
    Network = nn.Layer  # the class that both are mixed into
else:
    Network = object


class Offered(Network):
    """A network with its ``card``. Mixed in after the network's own class, whose methods take precedence."""

    card: Described
    num_classes: int
    in_chans: int

    def get_classifier(self) -> nn.Layer:
        """Return the layer that computes the logits, or an identity if the network has no classes."""
        return self.get_sublayer(self._named("classifier"))

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier, with torch's initialisation for its kind of layer; 0 classes return the features.

        Raises ``ModelError`` if ``global_pool`` differs from the network's pooling, which cannot be replaced.
        """
        refuse_pool(self.card.name, global_pool)
        name, old = self._named("classifier"), self.get_classifier()
        if num_classes < 0:
            raise WrongValue(f"num_classes must be 0 or more, got {num_classes}")
        new = nn.Identity() if num_classes == 0 else new_classifier(old, num_classes, name)
        for hook in old._forward_pre_hooks.values():
            new.register_forward_pre_hook(hook)
        new.train() if self.training else new.eval()
        replace_layer(self, name, new)
        self.num_classes = num_classes

    def get_sublayer(self, name: str) -> nn.Layer:
        """Return the layer ``name`` (dotted). Raises ``ModelError`` if there is none."""
        found = dict(self.named_sublayers()).get(name)
        if found is None:
            raise ModelError(f"{self.card.name} has no layer {name!r}, which its card names")
        return found

    def layer_groups(self) -> dict[str, int]:
        """Return ``{parameter: depth}`` for layer decay. Raises ``ModelError`` if the card has no depths."""
        groups = self._named("layer_groups")
        strange = [name for name, _ in self.named_parameters() if name not in groups]
        # a new classifier may have a bias where the old one had none: it gets the depth of the classifier
        return {**groups, **{name: max(groups.values()) for name in strange}}

    def no_weight_decay(self) -> frozenset[str]:
        """Return the names of parameters without weight decay."""
        return self.card.no_weight_decay

    def pre_logits(self, x: Tensor) -> Tensor:
        """Return the input of the classifier for images ``x`` (B, C, H, W): (B, features), or a 1 x 1 map."""
        seen: list[Tensor] = []
        handle = self.get_classifier().register_forward_pre_hook(partial(_note, seen))
        try:
            self(x)
        finally:
            handle.remove()
        return seen[-1]

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the result of timm's method of this name for images ``x`` (B, C, H, W); later layers do not run.

        Raises ``ModelError`` if the card names no layer that returns it.
        """
        layer = self.get_sublayer(self._named("features"))
        handle = layer.register_forward_post_hook(_stop)
        try:
            self(x)
        except _Reached as reached:
            return reached.output
        finally:
            handle.remove()
        raise ModelError(f"{self.card.name} never calls {self.card.features} as a layer")

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the activations of the repeated blocks in the backward pass instead of storing them.

        Saves memory and costs nearly one more forward pass. A block that contains a layer whose output is requested
        keeps its activations. Raises ``ModelError`` if no blocks repeat.
        """
        wanted = [level["module"] for level in self.card.levels] if isinstance(self, Levels) else []
        if not recompute_blocks(self, enable, [*wanted, self.card.features or ""]) and enable:
            raise ModelError(
                f"{self.card.name} has no repeated blocks to recompute; set train.recompute: false, or give the "
                "network's class a set_grad_checkpointing of its own"
            )

    def _named(self, what: str) -> Any:
        value = getattr(self.card, what)
        if not value:
            raise ModelError(f"the card of {self.card.name} names no {what}")
        return value


class Levels(Offered):
    """Mixed in before a network's class: returns the maps of the levels ``out_indices``, finest first.

    The levels are those of ``card.levels``.
    """

    out_indices: Sequence[int]

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """``module``, ``num_chs`` and ``reduction`` of every level."""
        return [dict(level) for level in self.card.levels]

    @property
    def out_info(self) -> list[dict[str, Any]]:
        """``module``, ``num_chs`` and ``reduction`` of each returned map."""
        return [self.feature_info[index] for index in self.out_indices]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images (B, C, H, W) -> a map of each chosen level, in the layout that the network uses there."""
        found: dict[int, Tensor] = {}
        layers = {index: self.get_sublayer(self.card.levels[index]["module"]) for index in self.out_indices}
        handles = [layer.register_forward_post_hook(partial(_keep, found, index)) for index, layer in layers.items()]
        try:
            super().forward(x)
        finally:
            for handle in handles:
                handle.remove()
        unseen = [self.card.levels[index]["module"] for index in self.out_indices if index not in found]
        if unseen:
            raise ModelError(f"{self.card.name} never calls {', '.join(unseen)} as a layer: it has no map there")
        return [found[index] for index in self.out_indices]


class _Reached(Exception):
    """Ends a forward pass at the layer whose output it carries."""

    def __init__(self, output: Tensor):
        super().__init__()
        self.output = output


def _stop(_layer: nn.Layer, _inputs: Any, output: Tensor) -> NoReturn:
    raise _Reached(output)


def _note(seen: list[Tensor], _layer: nn.Layer, inputs: Any) -> Any:
    seen.append(inputs[0])
    return inputs


def _keep(found: dict[int, Tensor], index: int, _layer: nn.Layer, _inputs: Any, output: Tensor) -> Tensor:
    found[index] = output
    return output


def offer(network: nn.Layer, card: Described) -> nn.Layer:
    """Return ``network`` itself, extended by the methods that ``card`` allows and its class lacks.

    Raises ``ModelError`` if the card names layers or parameters that the network does not have.
    """
    network.__class__ = _named_as(type(network), (type(network), Offered))
    network.card = card
    for name in ("num_classes", "in_chans"):
        if not hasattr(network, name):
            setattr(network, name, getattr(card, name) or 0)
    _check(network, card)
    return network


def _named_as(own: type, bases: tuple[type, ...]) -> type:
    """Return a class with the bases ``bases`` and the name of ``own``."""
    return type(own.__name__, bases, {"__module__": own.__module__, "__doc__": own.__doc__})


def features_of(network: nn.Layer, out_indices: Sequence[int]) -> nn.Layer:
    """Turn ``network`` into one that returns the maps of its levels ``out_indices``; its classifier is removed.

    Raises ``ModelError`` if its card has no levels, or not these.
    """
    levels = len(network.card.levels)
    wrong = [index for index in out_indices if not -levels <= index < levels]
    if not levels or wrong or not out_indices:
        raise ModelError(f"{network.card.name} has the feature levels 0 to {levels - 1}, not {list(out_indices)}")
    network.reset_classifier(0)
    network.__class__ = _named_as(type(network), (Levels, type(network)))
    network.out_indices = sorted({index % levels for index in out_indices})
    return network


def _check(network: nn.Layer, card: Described) -> None:
    layers, parameters = dict(network.named_sublayers()), dict(network.named_parameters())
    named = {"classifier": card.classifier, "first_conv": card.first_conv, "features": card.features}
    faults = [f"{what} {name!r}" for what, name in named.items() if name is not None and name not in layers]
    faults += [f"layer group of {name!r}" for name in card.layer_groups if name not in parameters]
    faults += [f"feature level {level['module']!r}" for level in card.levels if level["module"] not in layers]
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise ModelError(f"the card of {card.name} names what the network does not have: {', '.join(faults[:5])}{more}")


def refuse_pool(name: str, global_pool: str | None) -> None:
    """Raise ``ModelError`` for a pooling that cannot be set on a network with a card."""
    if global_pool not in (None, "avg"):
        raise ModelError(f"the pooling of {name} is part of its source; global_pool={global_pool!r} is DLA's alone")


def set_in_chans(network: nn.Layer, in_chans: int) -> None:
    """Give the first convolution ``in_chans`` input channels, with new weights.

    Raises ``ModelError`` if there is no such convolution.
    """
    name = network.card.first_conv
    conv = None if name is None else network.get_sublayer(name)
    if not isinstance(conv, nn.Conv2D) or conv._groups != 1:
        raise ModelError(f"{network.card.name} has no first convolution that could read {in_chans} channels")
    out, _, *kernel = conv.weight.shape
    conv.weight = conv.create_parameter([out, in_chans, *kernel])
    conv._in_channels = network.in_chans = in_chans
    uniform_as_torch(conv, in_chans * math.prod(kernel))


def set_drop_rate(network: nn.Layer, rate: float) -> None:
    """Set the dropout in front of the classifier, which is what ``drop_rate`` means for timm's classifiers."""
    if not 0 <= rate < 1:
        raise WrongValue(f"drop_rate must be in [0, 1), got {rate}")
    if rate:
        network.get_classifier().register_forward_pre_hook(partial(_dropped, rate))


def _dropped(rate: float, layer: nn.Layer, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (F.dropout(inputs[0], rate, training=layer.training), *inputs[1:])


def set_drop_path_rate(network: nn.Layer, rate: float) -> None:
    """Scale the stochastic depth of all blocks so that the last block's is ``rate``, growing over depth as in timm.

    Raises ``ModelError`` for a network whose source has none: timm omits it from models that are built without.
    """
    if not 0 <= rate < 1:
        raise WrongValue(f"drop_path_rate must be in [0, 1), got {rate}")
    blocks = [layer for layer in network.sublayers() if isinstance(getattr(layer, "drop_prob", None), float)]
    largest = max((layer.drop_prob for layer in blocks), default=0.0)
    if rate and not largest:
        raise ModelError(
            f"{network.card.name} was ported without stochastic depth; make a port that has it: convert/port.py "
            "--torch timm:create_model --torch-args with model_name and drop_path_rate"
        )
    for layer in blocks if largest else ():
        layer.drop_prob = rate * layer.drop_prob / largest
