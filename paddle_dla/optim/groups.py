"""Parameter groups: which parameters are trained, with which weight decay and learning-rate scale.

They match ``param_groups_weight_decay`` and ``param_groups_layer_decay`` of timm 1.0.31
(``timm/optim/_param_groups.py``). Parameters have their names in the model (``level2.tree1.conv1.weight``), which do
not depend on what else was built in the process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from paddle import Tensor, nn

from paddle_dla.errors import WrongValue


@dataclass(frozen=True)
class ParamGroup:
    """``parameters`` by name that share ``weight_decay``; their learning rate is ``lr_scale`` times the optimizer's."""

    parameters: Mapping[str, Tensor]
    weight_decay: float = 0.0
    lr_scale: float = 1.0


def weight_decay_groups(model: nn.Layer, weight_decay: float, exclude_1d: bool = True) -> list[ParamGroup]:
    """Return two groups: parameters of at most one dimension and biases without weight decay, all others with it.

    Parameters named by ``model.no_weight_decay()``, if the model has that method, are not decayed either.

    ``exclude_1d=False``, or no weight decay: one group. Frozen parameters are in no group.
    """
    kept, decayed, never = {}, {}, _never_decayed(model)
    for name, parameter in trainable(model):
        thin = exclude_1d and (parameter.ndim <= 1 or name.endswith(".bias"))
        plain = not weight_decay or thin or name in never
        (kept if plain else decayed)[name] = parameter
    groups = ParamGroup(kept), ParamGroup(decayed, weight_decay)
    return [group for group in groups if group.parameters]


def layer_decay_groups(
    model: nn.Layer, weight_decay: float, layer_decay: float, min_scale: float = 0.0, exclude_1d: bool = True
) -> list[ParamGroup]:
    """Return groups with layer-wise rates, as in BEiT's fine-tuning.

    Each layer learns ``layer_decay`` times as fast as the next one, the head at the full rate. The layers are those of
    the model's ``layer_groups``. No scale is below ``min_scale``. In each layer, parameters of at most one dimension
    have no weight decay (a bias of more dimensions is decayed, unlike in ``weight_decay_groups``; both as in timm).
    Raises ``ValueError`` for a decay outside (0, 1] and for a model without ``layer_groups``.
    """
    if not 0 < layer_decay <= 1:
        raise WrongValue(f"layer_decay is above 0 and at most 1, not {layer_decay}")
    if not hasattr(model, "layer_groups"):
        raise WrongValue(f"{type(model).__name__} has no layer_groups, which layer_decay requires")
    layers, never = model.layer_groups(), _never_decayed(model)
    last = max(layers.values())
    members: dict[tuple[int, float], dict[str, Tensor]] = {}
    for name, parameter in trainable(model):
        decay = 0.0 if (exclude_1d and parameter.ndim <= 1) or name in never else weight_decay
        members.setdefault((layers[name], decay), {})[name] = parameter
    scales = [max(min_scale, layer_decay ** (last - layer)) for layer in range(last + 1)]
    return [ParamGroup(found, decay, scales[layer]) for (layer, decay), found in members.items()]


def _never_decayed(model: nn.Layer) -> frozenset[str]:
    """Return the parameters that match ``model.no_weight_decay()``, which may contain wildcards, as in timm."""
    patterns = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    return frozenset(name for name, _ in model.named_parameters() if any(fnmatchcase(name, one) for one in patterns))


def trainable(model: nn.Layer) -> Iterator[tuple[str, Tensor]]:
    """Yield the trainable parameters, in the order of the model."""
    for name, parameter in model.named_parameters():
        if not parameter.stop_gradient:
            yield name, parameter
