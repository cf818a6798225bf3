"""What a port's training gets wrong: one change each to a correct training, and what must be said of it."""

from __future__ import annotations

from training_recipes import (
    CLASSES,
    DECAY,
    LateEma,
    PaddleEma,
    StillEma,
    groups,
    paddle_adamw,
    paddle_clip,
    paddle_cosine,
    paddle_momentum,
    small_pair,
    torch_sgd,
)


def no_decay_for_none(layer, decay=DECAY):
    """Every parameter decays: BatchNorm's and biases too."""
    return [{"params": [p for p in layer.parameters() if not p.stop_gradient], "weight_decay": decay}]


def half_rate_for_vectors(layer, decay=DECAY):
    found = groups(layer, decay)
    found[1]["learning_rate"] = 0.5
    return found


def double_rate_for_one(layer, decay=DECAY):
    found = groups(layer, decay)
    last = {"params": found[1]["params"][-1:], "weight_decay": 0.0, "learning_rate": 2.0}
    return [found[0], found[1] | {"params": found[1]["params"][:-1]}, last]


def without_first_convolution(layer, decay=DECAY):
    found = groups(layer, decay)
    found[0]["params"] = found[0]["params"][1:]
    return found


def clearing_nothing(make):
    def build(layer):
        optimizer = make(layer)
        optimizer.clear_grad = lambda: None
        return optimizer

    return build


def frozen_bias():
    ours, theirs = small_pair()
    theirs[5].bias.stop_gradient = True
    return ours, theirs


def swapped_momentum():
    from paddle_dla.models.layers import BatchNorm2D

    return small_pair(lambda channels: BatchNorm2D(channels, momentum=0.1))


def paddles_own_norm():
    import paddle

    return small_pair(paddle.nn.BatchNorm2D)


def other_epsilon():
    ours, theirs = small_pair()
    theirs[1]._epsilon = 1e-3
    return ours, theirs


def other_weight():
    ours, theirs = small_pair()
    theirs[0].weight.set_value(theirs[0].weight.numpy() * 1.5)
    return ours, theirs


def clip_each_tensor(parameters):
    for parameter in parameters:
        paddle_clip(0.1)([parameter])


def clip_object(name, *arguments):
    import paddle

    return getattr(paddle.nn, name)(*arguments)


def paddle_loss(**options):
    import paddle

    return lambda output, labels: paddle.nn.functional.cross_entropy(output, labels, **options)


def summed_loss():
    import torch

    return lambda output, labels: torch.nn.functional.cross_entropy(output, labels, reduction="sum")


def scaled_gradient_loss():
    import paddle

    def loss(output, labels):
        value = paddle.nn.functional.cross_entropy(output, labels)
        return 2 * value - value.detach()

    return loss


MATRICES, VECTORS = {"0.weight", "5.weight"}, {"1.weight", "1.bias", "5.bias"}
ALL = MATRICES | VECTORS

# name -> (recipe, pair, what the Paddle half has instead (or both, as a pair), the layers at fault, the kind, words of
# the cause, the kind of quantity that departs first, its step)
FAULTS = {
    "schedule_ahead": (
        "sgd_all", None, {"optimizer": lambda: paddle_momentum(lr=lambda: paddle_cosine(ahead=1))},
        "(schedule)", "config", "one step ahead", "learning rate", 1,
    ),
    "schedule_behind": (
        "sgd_all", None, {"optimizer": lambda: paddle_momentum(lr=lambda: paddle_cosine(ahead=-1))},
        "(schedule)", "config", "one step behind", "learning rate", 1,
    ),
    "rate_doubled": (
        "sgd", None, {"optimizer": lambda: paddle_momentum(lr=0.2)},
        "(schedule)", "config", "2 times", "learning rate", 1,
    ),
    "schedule_never_stepped": (
        "adamw_all", None, {"optimizer": lambda: paddle_adamw(lr=0.01)},
        "(schedule)", "config", "never stepped", "learning rate", 2,
    ),
    "rate_of_a_group": (
        "sgd", None, {"optimizer": lambda: paddle_momentum(params=half_rate_for_vectors)},
        VECTORS, "config", "0.5 times", "learning rate", 1,
    ),
    "rate_of_one": (
        "sgd", None, {"optimizer": lambda: paddle_momentum(params=double_rate_for_one)},
        {"5.bias"}, "config", "2 times", "learning rate", 1,
    ),
    "momentum_where_none_is": (
        "sgd", None,
        {
            "optimizer": (
                lambda: torch_sgd(momentum=0.0, nesterov=False),
                lambda: paddle_momentum(nesterov=False),
            )
        },
        "(optimizer)", "config", "momentum 0.9 where the reference has none", "parameter", 2,
    ),
    "momentum": (
        "sgd", None, {"optimizer": lambda: paddle_momentum(momentum=0.8)},
        "(optimizer)", "config", "momentum 0.8 instead of 0.9", "parameter", 1,
    ),
    "nesterov": (
        "sgd", None, {"optimizer": lambda: paddle_momentum(nesterov=False)},
        "(optimizer)", "config", "plain momentum, not Nesterov's", "parameter", 1,
    ),
    "dampening": (
        "sgd", None,
        {
            "optimizer": (
                lambda: torch_sgd(dampening=0.5, nesterov=False),
                lambda: paddle_momentum(nesterov=False),
            )
        },
        "(optimizer)", "config", "dampening", "optimizer state", 2,
    ),
    "decay_missing": (
        "sgd", None, {"optimizer": lambda: paddle_momentum(params=lambda layer: groups(layer, 0.0))},
        MATRICES, "config", "weight decay is missing (0 instead of 0.001)", "optimizer state", 1,
    ),
    "decay_doubled": (
        "sgd", None, {"optimizer": lambda: paddle_momentum(params=lambda layer: groups(layer, 2 * DECAY))},
        MATRICES, "config", "weight decay 0.002 instead of 0.001", "optimizer state", 1,
    ),
    "decay_of_all": (
        "sgd", None, {"optimizer": lambda: paddle_momentum(params=no_decay_for_none)},
        VECTORS, "config", "weight decay 0.001 where the reference has none", "optimizer state", 1,
    ),
    "decay_coupled": (
        "adamw", None, {"optimizer": lambda: paddle_adamw(kind="Adam")},
        MATRICES, "config", "coupled (L2) weight decay 0.05 instead of decoupled", "optimizer state", 1,
    ),
    "decay_decoupled": (
        "adam", None, {"optimizer": lambda: paddle_adamw(kind="AdamW")},
        MATRICES, "config", "decoupled weight decay 0.05 instead of coupled", "optimizer state", 1,
    ),
    "beta1": (
        "adamw", None, {"optimizer": lambda: paddle_adamw(beta1=0.8)},
        "(optimizer)", "config", "beta1 0.8 instead of 0.9", "optimizer state", 1,
    ),
    "beta2": (
        "adamw", None, {"optimizer": lambda: paddle_adamw(beta2=0.99)},
        "(optimizer)", "config", "beta2 0.99 instead of 0.999", "optimizer state", 1,
    ),
    "epsilon": (
        "adamw", None, {"optimizer": lambda: paddle_adamw(epsilon=1e-6)},
        "(optimizer)", "config", "epsilon 1e-06 instead of 1e-08", "parameter", 1,
    ),
    "another_optimizer": (
        "sgd", None, {"optimizer": lambda: paddle_adamw(lr=0.1)},
        "(optimizer)", "config", "another optimizer", "optimizer state", 1,
    ),
    "clip_missing": (
        "sgd_all", None, {"grad_clip": lambda: None},
        "(clip)", "config", "gradients are not clipped", "clipped gradient", 1,
    ),
    "clip_limit": (
        "sgd_all", None, {"grad_clip": lambda: paddle_clip(0.25)},
        "(clip)", "config", "clipped to norm 0.25 instead of 0.5", "clipped gradient", 1,
    ),
    "clip_by_tensor": (
        "sgd_all", None,
        {
            "grad_clip": lambda: clip_each_tensor,
        },
        "(clip)", "config", "each tensor is clipped by its own norm", "clipped gradient", 1,
    ),
    "clip_by_group": (
        "sgd_all", None,
        {
            "grad_clip": lambda: None,
            "optimizer": lambda: paddle_momentum(lr=paddle_cosine, grad_clip=clip_object("ClipGradByGlobalNorm", 0.1)),
        },
        "(clip)", "config", "each group of parameters is clipped by its own norm", "clipped gradient", 1,
    ),
    "clip_by_value": (
        "sgd_all", None,
        {
            "grad_clip": lambda: None,
            "optimizer": lambda: paddle_momentum(lr=paddle_cosine, grad_clip=clip_object("ClipGradByValue", 0.05)),
        },
        "(clip)", "config", "by value", "clipped gradient", 1,
    ),
    "clip_without_1e-6": (
        "sgd_all", None, {"grad_clip": lambda: paddle_clip(added=0.0)},
        "(clip)", "config", "divided by the norm itself", "clipped gradient", 1,
    ),
    "clip_where_none_is": (
        "sgd", None, {"grad_clip": (lambda: None, lambda: paddle_clip())},
        "(clip)", "config", "gradients are clipped; the reference's are not", "gradient norm", 1,
    ),
    "not_given": (
        "sgd", None, {"optimizer": lambda: paddle_momentum(params=without_first_convolution)},
        {"0.weight"}, "config", "the optimizer was not given it", "optimizer state", 1,
    ),
    "frozen": (
        "sgd", frozen_bias, {}, {"5.bias"}, "computation", "stop_gradient", "gradient", 1,
    ),
    "not_cleared": (
        "sgd", None, {"optimizer": lambda: clearing_nothing(paddle_momentum())},
        "(optimizer)", "computation", "not cleared", "gradient", 2,
    ),
    "loss_summed": (
        "sgd", None, {"loss": lambda: paddle_loss(reduction="sum")},
        "(loss)", "computation", "8 times the reference's (the batch: summed, not averaged)", "loss", 1,
    ),
    "loss_smoothed": (
        "sgd", None, {"loss": lambda: smoothed_loss(0.1)},
        "(loss)", "computation", "label smoothing 0.1 instead of", "loss", 1,
    ),
    "gradient_doubled": (
        "sgd", None, {"loss": scaled_gradient_loss}, ALL, "computation", "all gradients are 2 times", "gradient", 1,
    ),
    "loss_averaged": (
        "sgd", None, {"loss": (summed_loss, lambda: paddle_loss())},
        "(loss)", "computation", "0.125 times the reference's (averaged, not summed)", "loss", 1,
    ),
    "another_model": (
        "sgd", other_epsilon, {}, "(model)", "computation", "align tells the layer", "output", 1,
    ),
    "bn_momentum_swapped": (
        "sgd", swapped_momentum, {}, {"1"}, "state", "swapped for its complement", "buffer", 1,
    ),
    "bn_biased_variance": (
        "sgd", paddles_own_norm, {}, {"1"}, "state", "biased batch variance", "buffer", 1,
    ),
    "ema_decay": (
        "sgd_all", None, {"ema": lambda: lambda layer: PaddleEma(layer, decay=0.99)},
        "(ema)", "config", "decay 0.99 instead of 0.9", "averaged weight", 2,
    ),
    "ema_before_the_step": (
        "sgd_all", None, {"ema": lambda: LateEma}, "(ema)", "config", "from before the step", "averaged weight", 1,
    ),
    "ema_lacks_buffers": (
        "sgd_all", None, {"ema": lambda: lambda layer: PaddleEma(layer, buffers="missing")},
        "(ema)", "config", "lacks buffers", "averaged weight", 0,
    ),
    "ema_never_updated": (
        "sgd_all", None, {"ema": lambda: StillEma}, "(ema)", "config", "decay 1 instead of 0", "averaged weight", 1,
    ),
    "ema_copies_buffers": (
        "sgd_all", None, {"ema": lambda: lambda layer: PaddleEma(layer, buffers="copied")},
        "(ema)", "config", "copied, not averaged", "averaged weight", 2,
    ),
    "another_start": (
        "sgd", other_weight, {}, {"0.weight"}, "weights", "differs before the first step", "parameter", 0,
    ),
}  # fmt: skip


def smoothed_loss(smoothing):
    import paddle

    def loss(output, labels):
        spread = paddle.nn.functional.label_smooth(
            paddle.nn.functional.one_hot(labels, CLASSES).astype(output.dtype), epsilon=smoothing
        )
        return paddle.nn.functional.cross_entropy(output, spread, soft_label=True)

    return loss
