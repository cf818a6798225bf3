"""Pairs of models, and correct trainings of them in both frameworks, of which ``training_faults`` changes a part."""

from __future__ import annotations

import numpy as np

STEPS, BATCH, CLASSES, DECAY = 6, 8, 5, 1e-3


# --- the pairs ------------------------------------------------------------------------------------------------------


def small_pair(paddle_norm=None, paddle_pool=None, bias=False):
    """Convolution, BatchNorm, ReLU and a linear layer, with the same weights in both."""
    import paddle
    import torch

    from convert.automap import apply, derive, read_layers
    from paddle_dla.models.layers import BatchNorm2D, SelectAdaptivePool2D

    norm = paddle_norm or BatchNorm2D
    torch.manual_seed(0)
    ours = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, bias=bias),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, CLASSES),
    ).eval()
    theirs = paddle.nn.Sequential(
        paddle.nn.Conv2D(3, 8, 3, bias_attr=None if bias else False),
        norm(8),
        paddle.nn.ReLU(),
        (paddle_pool or SelectAdaptivePool2D)(*([1] if paddle_pool else ["avg"])),
        paddle.nn.Flatten(),
        paddle.nn.Linear(8, CLASSES),
    )
    theirs.eval()
    arrays = {name: value.numpy() for name, value in ours.state_dict().items()}
    shapes = {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
    carried = apply(derive(read_layers(ours), read_layers(theirs)), arrays, shapes)
    theirs.set_state_dict({name: array.copy() for name, array in carried.items()})
    return ours, theirs


def dla_pair(**options):
    from alignment.pairs import build_pair, seeded_source
    from convert.conversion import convert_source

    source = seeded_source("dla46x_c", 0, num_classes=CLASSES, **options)
    found = build_pair(source, convert_source(source, "dla46x_c", num_classes=CLASSES))
    return found.torch_model, found.paddle_model


def batches(steps=STEPS, batch=BATCH, side=16):
    rng = np.random.RandomState(0)
    return [
        (rng.standard_normal((batch, 3, side, side)).astype(np.float32), rng.randint(0, CLASSES, batch))
        for _ in range(steps)
    ]


# --- a correct training, of which each fault changes one part -------------------------------------------------------


def losses():
    import paddle
    import torch

    return torch.nn.functional.cross_entropy, paddle.nn.functional.cross_entropy


def groups(model, decay=DECAY):
    """Weights with decay, BatchNorm and biases without."""
    trainable = [p for p in model.parameters() if getattr(p, "requires_grad", True) and not _frozen(p)]
    return [
        {"params": [p for p in trainable if len(p.shape) > 1], "weight_decay": decay},
        {"params": [p for p in trainable if len(p.shape) <= 1], "weight_decay": 0.0},
    ]


def _frozen(parameter):
    return getattr(parameter, "stop_gradient", False) is True


def torch_sgd(lr=0.1, **options):
    import torch

    options = {"momentum": 0.9, "nesterov": True} | options
    return lambda model: torch.optim.SGD(groups(model), lr, **options)


def paddle_momentum(lr=0.1, momentum=0.9, nesterov=True, params=groups, **options):
    import paddle

    return lambda layer: paddle.optimizer.Momentum(
        lr() if callable(lr) else lr, momentum, params(layer), use_nesterov=nesterov, **options
    )


def torch_adamw(lr=0.01, kind="AdamW", decay=0.05, **options):
    import torch

    return lambda model: getattr(torch.optim, kind)(groups(model, decay), lr, **options)


def paddle_adamw(lr=0.01, kind="AdamW", decay=0.05, params=groups, **options):
    import paddle

    return lambda layer: getattr(paddle.optimizer, kind)(
        lr() if callable(lr) else lr, parameters=params(layer, decay), **options
    )


def cosine(optimizer):
    """timm's cosine schedule with warmup, over updates."""
    from torch_ref.model import import_timm

    import_timm()
    from timm.scheduler import CosineLRScheduler

    return CosineLRScheduler(optimizer, t_initial=20, warmup_t=2, warmup_lr_init=0.01, t_in_epochs=False)


def paddle_cosine(base=0.1, ahead=0):
    """The same in Paddle; a new one at each call."""
    import paddle

    def rate(k):
        return 0.01 + k * (base - 0.01) / 2 if k < 2 else 0.5 * base * (1 + np.cos(np.pi * k / 20))

    return paddle.optimizer.lr.LambdaDecay(1.0, lambda k: float(rate(k + ahead)))


def torch_clip(size=0.5):
    import torch

    return lambda parameters: torch.nn.utils.clip_grad_norm_(parameters, size)


def paddle_clip(size=0.5, added=1e-6):
    """As torch's, which adds 1e-6 to the norm."""
    import paddle

    def clip(parameters):
        with paddle.no_grad():
            norm = float(np.sqrt(sum((p.grad.numpy() ** 2).sum() for p in parameters)))
            for parameter in parameters:
                parameter.grad.scale_(min(1.0, size / (norm + added)))

    return clip


def torch_ema(decay=0.9):
    from torch_ref.model import import_timm

    return lambda model: import_timm().utils.ModelEmaV3(model, decay=decay)


class PaddleEma:
    """timm's ModelEmaV3 in Paddle; ``buffers`` and ``lag`` are there to be got wrong."""

    def __init__(self, layer, decay=0.9, buffers="averaged"):
        self.decay, self.buffers = decay, buffers
        self.averages = {n: v.clone() for n, v in self._tensors(layer).items()}

    def _tensors(self, layer):
        found = layer.state_dict()
        return {n: v for n, v in found.items() if self.buffers != "missing" or not n.endswith(("_mean", "_variance"))}

    def update(self, layer, step=None):
        # as timm: its first update, of step 1, takes the weights as they are
        decay = 0.0 if step == 1 else self.decay
        for name, value in self._tensors(layer).items():
            keep = 0.0 if self.buffers == "copied" and name.endswith(("_mean", "_variance")) else decay
            self.averages[name] = self.averages[name] * keep + value * (1 - keep)

    def state_dict(self):
        return self.averages


class StillEma(PaddleEma):
    """Is never updated."""

    def update(self, layer):
        pass


class LateEma(PaddleEma):
    """Takes the weights of the last call: those from before the step."""

    def __init__(self, layer, **options):
        super().__init__(layer, **options)
        self.last = {n: v.clone() for n, v in layer.state_dict().items()}

    def update(self, layer, step=None):
        decay = 0.0 if step == 1 else self.decay
        for name, value in layer.state_dict().items():
            self.averages[name] = self.averages[name] * decay + self.last[name] * (1 - decay)
            self.last[name] = value.clone()


def train(pair, optimizer, data=None, **options):
    from alignment import align_training

    loss = options.pop("loss", None) or losses()
    return align_training(*pair, data or batches(), loss=loss, optimizer=optimizer, **options)


RECIPES = {
    "sgd": lambda: dict(optimizer=(torch_sgd(), paddle_momentum())),
    "sgd_all": lambda: dict(
        optimizer=(torch_sgd(), paddle_momentum(lr=paddle_cosine)),
        scheduler=(cosine, None),
        grad_clip=(torch_clip(), paddle_clip()),
        ema=(torch_ema(), PaddleEma),
    ),
    "adamw": lambda: dict(optimizer=(torch_adamw(), paddle_adamw())),
    "adamw_all": lambda: dict(
        optimizer=(torch_adamw(0.1), paddle_adamw(lr=paddle_cosine)),
        scheduler=(cosine, None),
        grad_clip=(torch_clip(), paddle_clip()),
        ema=(torch_ema(), PaddleEma),
    ),
    "adam": lambda: dict(optimizer=(torch_adamw(kind="Adam"), paddle_adamw(kind="Adam"))),
}
