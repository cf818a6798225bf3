"""``create_optimizer``, with timm's names and defaults."""

from __future__ import annotations

from paddle import nn

from paddle_dla.errors import WrongValue
from paddle_dla.optim.base import NamedOptimizer
from paddle_dla.optim.groups import layer_decay_groups, weight_decay_groups
from paddle_dla.optim.rules import SGD, AdamW, Lamb

OPTIMIZERS = ("sgd", "momentum", "adamw", "lamb")


def create_optimizer(
    model: nn.Layer,
    name: str = "sgd",
    lr: float = 0.1,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float | None = None,
    max_grad_norm: float | None = 1.0,
    filter_bias_and_bn: bool = True,
    layer_decay: float | None = None,
    layer_decay_min_scale: float = 0.0,
) -> NamedOptimizer:
    """Create an optimizer like timm 1.0.31 ``create_optimizer_v2``: those that its DLA and ResNet recipes use.

    ``sgd`` uses Nesterov momentum, ``momentum`` does not. ``lamb`` clips by ``max_grad_norm`` itself. Arguments that do
    not apply to an optimizer are ignored, as in timm. Without ``filter_bias_and_bn``, BatchNorm and biases are decayed,
    too. ``layer_decay`` and ``layer_decay_min_scale`` are those of ``layer_decay_groups``. Unlike in timm, the scale of
    a layer's rate also applies without a schedule.

    ``model`` is the network itself, not its parallel wrapper, whose names differ from those of the state dict.

    Raises ``ValueError`` for an unknown name, invalid values and a model with nothing to train.
    """
    if name not in OPTIMIZERS:
        raise WrongValue(f"there is no optimizer {name!r}; known are {', '.join(OPTIMIZERS)}")
    if not weight_decay >= 0:
        raise WrongValue(f"weight_decay is not negative, unlike {weight_decay}")
    if layer_decay is None:
        groups = weight_decay_groups(model, weight_decay, filter_bias_and_bn)
    else:
        groups = layer_decay_groups(model, weight_decay, layer_decay, layer_decay_min_scale, filter_bias_and_bn)
    if name in ("sgd", "momentum"):
        return SGD(groups, lr, momentum, nesterov=name == "sgd")
    if name == "adamw":
        return AdamW(groups, lr, betas, 1e-8 if eps is None else eps)
    return Lamb(groups, lr, betas, 1e-6 if eps is None else eps, max_grad_norm)
