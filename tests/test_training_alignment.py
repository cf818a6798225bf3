"""``align_training`` on correct trainings: no alarm, nothing changed; on broken ones: what departs first, and why."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.torch

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


def with_changes(recipe, pair=None, **changes):
    return lambda: ((pair or small_pair)(), RECIPES[recipe]() | {k: make() for k, make in changes.items()})


# --- correct --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_correct_training_is_aligned_over_twenty_steps(recipe):
    result = train(small_pair(), data=batches(20), **RECIPES[recipe]())
    assert result.passed, str(result)
    # what a correct training keeps to, whatever the floor would allow
    worst = {kind: max(r.relative for r in result.rows if r.kind == kind) for kind in ("loss", "parameter")}
    assert worst["loss"] < 1e-9
    assert worst["parameter"] < 1e-8
    assert "horizon" not in result.facts
    assert {r.depth for r in result.rows} == {*range(21)}


@pytest.mark.parametrize("recipe", ["sgd_all", "adamw_all"])
def test_a_correct_dla_trains_as_timms(recipe):
    result = train(dla_pair(), data=batches(2, batch=4, side=32), **RECIPES[recipe]())
    assert result.passed, result.verdict()
    assert {r.kind for r in result.rows} >= {"loss", "gradient", "optimizer state", "buffer", "averaged weight"}


# --- faults ---------------------------------------------------------------------------------------------------------


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


def faulty(name):
    recipe, pair, changes, *_ = FAULTS[name]
    options = RECIPES[recipe]()
    for part, make in changes.items():
        halves = options.get(part) or losses()
        options[part] = tuple(half() for half in make) if isinstance(make, tuple) else (halves[0], make())
    return train((pair or small_pair)(), **options)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_named_and_laid_at_the_right_door(name):
    *_, layers, kind, words, quantity, step = FAULTS[name]
    result = faulty(name)
    shown = f"{result.verdict()}\n{result.facts.get('first departure')}\n{result.culprits}"
    assert not result.passed
    first = result.first_difference
    assert (first.kind, first.depth) == (quantity, step), shown
    assert len(result.culprits) == 1, shown
    found = result.culprits[0]
    assert (found.kind, words in found.cause) == (kind, True), shown
    if isinstance(layers, str):
        assert found.layer == layers, shown
    else:
        assert found.layer in layers, shown
        if len(layers) > 1 and layers != ALL:
            assert all(layer in " ".join(found.evidence) for layer in layers), shown


# --- rules that no optimizer of Paddle gets wrong, in numpy -----------------------------------------------------------


def adam_run(steps=6, corrected=True, factor=1.0, epsilon=1e-8, decay=0.0, rate=0.01):
    """Adam by its formula, as a recorded run."""
    from alignment.engine.training import FIRST, GRADIENT, PARAMETER, SECOND, STATE, Run, Step

    rng = np.random.RandomState(0)
    p, m, v = rng.standard_normal(50), np.zeros(50), np.zeros(50)
    record = [Step({}, {(PARAMETER, "w", ""): p})]
    for k in range(1, steps + 1):
        g = rng.standard_normal(50)
        used = factor * g + decay * p
        m, v = 0.9 * m + 0.1 * used, 0.999 * v + 0.001 * used**2
        c1, c2 = (1 - 0.9**k, 1 - 0.999**k) if corrected else (1.0, 1.0)
        p = p - rate * (m / c1) / (np.sqrt(v / c2) + epsilon)
        arrays = {(GRADIENT, "w", ""): g, (PARAMETER, "w", ""): p, (STATE, "w", FIRST): m, (STATE, "w", SECOND): v}
        record.append(Step({"w": rate}, arrays))
    return Run(record)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"corrected": False}, ["bias correction is missing"]),
        ({"factor": 0.5}, ["the gradient enters 0.5 times"]),
        ({"epsilon": 1e-5}, ["epsilon 1e-05 instead of 1e-08"]),
        ({"decay": 0.1}, ["weight decay 0.1 where the reference has none"]),
    ],
)
def test_what_an_adam_does_otherwise_is_solved_from_its_numbers(changes, words):
    from alignment.engine.rules import differences, rule_of

    rules = [rule_of(run, "w", "float64") for run in (adam_run(), adam_run(**changes))]
    assert differences(*rules) == words


def test_a_rule_that_does_not_fit_is_not_taken():
    from alignment.engine.rules import rule_of
    from alignment.engine.training import PARAMETER

    run = adam_run()
    run.steps[3].arrays[PARAMETER, "w", ""][7] += 1e-6
    assert "epsilon" not in rule_of(run, "w", "float64")


# --- what else is promised ------------------------------------------------------------------------------------------


def snapshot(pair):
    import paddle
    import torch

    ours, theirs = pair
    return (
        {name: (str(v.dtype), v.detach().numpy().tobytes()) for name, v in ours.state_dict().items()},
        {name: (str(v.dtype), v.numpy().tobytes()) for name, v in theirs.state_dict().items()},
        [(m.training, getattr(m, "eps", None), getattr(m, "momentum", None)) for m in ours.modules()],
        [layer.training for layer in theirs.sublayers(include_self=True)],
        [(p.stop_gradient, p.regularizer, dict(p.optimize_attr), p.name) for p in theirs.parameters()],
        [p.grad is None or p.grad.numpy().tobytes() for p in ours.parameters()],
        [p.grad is None for p in theirs.parameters()],
        torch.random.get_rng_state().numpy().tobytes(),
        np.random.get_state()[1].tobytes(),
        [word for word in str(paddle.get_rng_state()[0]).split() if not word.startswith("0x")],  # but addresses
    )


def raising(output, labels):
    raise RuntimeError("the loss of the port")


@pytest.mark.parametrize("fails", [None, "torch", "Paddle"])
def test_neither_model_is_changed_whatever_happens(fails):
    import torch

    pair = small_pair()
    pair[0](torch.randn(2, 3, 16, 16)).sum().backward()
    before = snapshot(pair)
    recipe = RECIPES["sgd_all"]()
    if fails:
        halves = losses()
        recipe["loss"] = (raising, halves[1]) if fails == "torch" else (halves[0], raising)
        with pytest.raises(RuntimeError, match="the loss of the port"):
            train(pair, **recipe)
    else:
        train(pair, **recipe)
    assert snapshot(pair) == before


def test_a_schedule_that_its_owner_holds_comes_back_as_it_was():
    schedule = paddle_cosine()
    train(
        small_pair(),
        optimizer=(torch_sgd(), lambda layer: paddle_momentum(lr=schedule)(layer)),
        scheduler=(cosine, None),
    )
    assert (schedule.last_epoch, schedule.last_lr) == (0, 0.01)


def test_in_float32_the_floor_is_torchs_own_and_a_correct_training_stays_within_it():
    result = train(small_pair(), dtype="float32", **RECIPES["sgd_all"]())
    assert result.dtype == "float32"
    assert result.passed, str(result)
    assert 1e-8 < max(row.relative for row in result.rows) < 1e-4


def test_in_float32_a_fault_is_found_and_named():
    result = train(small_pair(), optimizer=(torch_sgd(), paddle_momentum(momentum=0.8)), dtype="float32")
    assert [c.layer for c in result.culprits] == ["(optimizer)"]
    assert "momentum 0.8" in result.culprits[0].cause


def test_what_paddle_keeps_in_float32_is_said():
    result = train(small_pair(), **RECIPES["sgd"]())
    assert result.facts["momentum"].startswith("of the optimizer, in torch: 0.8999999761581421")
    assert "0.0010000000474974513" in result.facts["weight_decay"]


def test_an_optimizer_of_which_no_rule_is_known_is_compared_and_not_explained():
    import paddle
    import torch

    recipe = (
        lambda model: torch.optim.RMSprop(model.parameters(), 0.01, alpha=0.95, eps=1e-3),
        lambda layer: paddle.optimizer.RMSProp(0.01, rho=0.95, epsilon=1e-3, parameters=layer.parameters()),
    )
    result = train(small_pair(), recipe)
    # torch adds epsilon to the root, Paddle to what the root is drawn of
    assert result.first_difference.kind == "parameter"
    assert [(c.layer, c.cause) for c in result.culprits] == [("(optimizer)", "unexplained")]


def test_paddles_clip_by_the_global_norm_is_told_from_torchs():
    import paddle

    def make(layer):
        parameters = [p for p in layer.parameters() if not p.stop_gradient]
        return paddle.optimizer.Momentum(0.1, 0.9, parameters, grad_clip=paddle.nn.ClipGradByGlobalNorm(0.2))

    result = train(small_pair(), (plain_sgd, make), grad_clip=(torch_clip(0.2), None))
    assert [c.layer for c in result.culprits] == ["(clip)"]
    assert "divided by the norm itself" in result.culprits[0].cause


def plain_sgd(model):
    import torch

    return torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)


@pytest.mark.parametrize(
    ("kind", "ours", "theirs"),
    [("Adagrad", {"eps": 1e-3}, {"epsilon": 1e-3}), ("Adadelta", {"rho": 0.9}, {"rho": 0.9, "epsilon": 1e-6})],
)
def test_other_optimizers_that_agree_are_aligned(kind, ours, theirs):
    import paddle
    import torch

    recipe = (
        lambda model: getattr(torch.optim, kind)(model.parameters(), 0.1, **ours),
        lambda layer: getattr(paddle.optimizer, kind)(
            0.1, parameters=[p for p in layer.parameters() if not p.stop_gradient], **theirs
        ),
    )
    result = train(small_pair(), recipe)
    assert result.passed, str(result)


def test_a_fault_of_the_schedule_is_not_laid_at_the_optimizers_door_nor_hides_one():
    import paddle

    optimizer = paddle_momentum(lr=lambda: paddle_cosine(ahead=1), momentum=0.8)
    result = train(small_pair(paddle.nn.BatchNorm2D), (torch_sgd(), optimizer), scheduler=(cosine, None))
    assert [c.layer for c in result.culprits] == ["(schedule)", "(optimizer)", "1"]


def test_where_training_is_chaotic_only_the_parts_are_judged():
    """BatchNorm over four values in the last level: what separates two runs grows a hundredfold at each step."""
    data = batches(4, batch=4, side=32)
    result = train(dla_pair(randomise_batch_norm=True), (torch_sgd(lr=0.05), paddle_momentum(lr=0.05)), data=data)
    assert result.passed, result.verdict()
    assert "horizon" in result.facts
    assert {row.kind for row in result.rows if row.depth == 4} == {"learning rate"}


def test_constants_that_paddle_keeps_in_float32_raise_no_alarm_and_are_said():
    import paddle

    pair = small_pair(paddle_pool=paddle.nn.AdaptiveAvgPool2D)
    result = train(pair, **RECIPES["sgd_all"]())
    assert result.passed, str(result)
    assert "constants that it keeps in float32" in result.facts["gradients"]
    wrong = train(pair, (torch_sgd(), paddle_momentum(params=lambda layer: groups(layer, DECAY * 1.01))))
    assert "weight decay 0.00101 instead of 0.001" in wrong.culprits[0].cause


def test_a_bias_that_only_rounding_moves_raises_no_alarm_and_is_said():
    """Before a BatchNorm its gradient is zero; Adam makes whole steps of what rounding leaves of it."""
    result = train(small_pair(bias=True), **RECIPES["adamw"]())
    assert result.passed, str(result)
    assert "0.bias" in {item.layer for item in result.skipped}
    assert "0.bias" in result.facts["rounding"]


def test_a_training_of_no_steps_is_refused():
    with pytest.raises(ValueError, match="no batches"):
        from alignment import align_training

        align_training(*small_pair(), [], loss=losses(), optimizer=(torch_sgd(), paddle_momentum()))


def test_an_optimizer_that_is_not_made_anew_is_refused():
    pair = small_pair()
    same = torch_sgd()(pair[0])
    with pytest.raises(ValueError, match="must make a new one"):
        train(pair, (lambda model: same, paddle_momentum()))
