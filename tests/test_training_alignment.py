"""``align_training`` on correct trainings: no alarm, nothing changed; on broken ones: what departs first, and why."""

from __future__ import annotations

import numpy as np
import pytest
from training_faults import ALL, FAULTS
from training_recipes import (
    DECAY,
    RECIPES,
    batches,
    cosine,
    dla_pair,
    groups,
    losses,
    paddle_cosine,
    paddle_momentum,
    small_pair,
    torch_clip,
    torch_sgd,
    train,
)

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread")]


# --- correct --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_correct_training_is_aligned_over_twenty_steps(recipe):
    result = train(small_pair(), data=batches(20), **RECIPES[recipe]())
    assert result.passed, str(result)
    # what a correct training keeps to, whatever the floor would allow
    worst = {kind: max(r.relative for r in result.rows if r.kind == kind) for kind in ("loss", "parameter")}
    assert worst["loss"] < 1e-9
    assert worst["parameter"] < 1e-8
    assert {r.depth for r in result.rows} == {*range(21)}


@pytest.mark.parametrize("recipe", ["sgd_all", "adamw_all"])
def test_a_correct_dla_trains_as_timms(recipe):
    result = train(dla_pair(), data=batches(2, batch=4, side=32), **RECIPES[recipe]())
    assert result.passed, result.verdict()
    assert {r.kind for r in result.rows} >= {"loss", "gradient", "optimizer state", "buffer", "averaged weight"}


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
        named = [text.partition("parameters: ")[2].split(", ") for text in found.evidence if "parameters: " in text]
        assert len(layers) == 1 or layers == ALL or {*named[0]} == layers, shown


# --- rules that no optimizer of Paddle gets wrong, in numpy -----------------------------------------------------------


def adam_run(steps=6, corrected=True, factor=1.0, epsilon=1e-8, decay=0.0, rate=0.01):
    """Adam by its formula, as a recorded run."""
    from alignment.engine.records.run import FIRST, GRADIENT, PARAMETER, SECOND, STATE, Run, Step

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
    from alignment.engine.explaining.optimizer_rules import differences, rule_of

    rules = [rule_of(run, run, "w", "float64") for run in (adam_run(), adam_run(**changes))]
    assert differences(*rules) == words


def test_a_rule_that_does_not_fit_is_not_taken():
    from alignment.engine.explaining.optimizer_rules import rule_of
    from alignment.engine.records.run import PARAMETER

    run = adam_run()
    run.steps[3].arrays[PARAMETER, "w", ""][7] += 1e-6
    assert "epsilon" not in rule_of(run, run, "w", "float64")


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

    class Signs(paddle.optimizer.SGD):
        """Takes the signs of the gradients."""

        def step(self):
            for parameter in self._parameter_list:
                if parameter.grad is not None:
                    parameter.set_value(parameter - 0.01 * paddle.sign(parameter.grad))

    recipe = (
        lambda model: torch.optim.SGD(model.parameters(), 0.01),
        lambda layer: Signs(0.01, parameters=[p for p in layer.parameters() if not p.stop_gradient]),
    )
    result = train(small_pair(), recipe)
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


@pytest.fixture(scope="module")
def chaos():
    """BatchNorm over four values in the last level: what separates two runs grows a hundredfold at each step."""
    import paddle

    data = batches(4, batch=4, side=32)
    recipe = (torch_sgd(lr=0.05), paddle_momentum(lr=0.05))

    def run(biased):
        pair = dla_pair(randomise_batch_norm=True)
        for layer in pair[1].sublayers() if biased else ():
            if isinstance(layer, paddle.nn.BatchNorm2D):
                layer.__class__ = paddle.nn.BatchNorm2D
        return train(pair, recipe, data=data)

    return run


def test_where_training_is_chaotic_every_step_is_judged(chaos):
    result = chaos(biased=False)
    assert result.passed, result.verdict()
    assert {row.kind for row in result.rows if row.depth == 4} >= {"learning rate", "loss", "gradient", "parameter"}
    assert max(row.allowed for row in result.rows) < 1e-5


def test_where_training_is_chaotic_a_biased_variance_is_found(chaos):
    result = chaos(biased=True)
    assert {c.kind for c in result.culprits} == {"state"}, result.verdict()
    assert all("biased batch variance" in c.cause for c in result.culprits)
    assert {row.kind for row in result.rows if row.differs} == {"buffer"}


def test_constants_that_paddle_keeps_in_float32_raise_no_alarm_and_are_said():
    import paddle

    pair = small_pair(paddle_pool=paddle.nn.AdaptiveAvgPool2D)
    result = train(pair, **RECIPES["sgd_all"]())
    assert result.passed, str(result)
    assert "kernels keep in float32" in result.facts["constants"]
    wrong = train(pair, (torch_sgd(), paddle_momentum(params=lambda layer: groups(layer, DECAY * 1.01))))
    assert "weight decay 0.00101 instead of 0.001" in wrong.culprits[0].cause


def test_a_bias_that_only_rounding_moves_raises_no_alarm_and_is_said():
    """Before a BatchNorm its gradient is zero; Adam makes whole steps of what rounding leaves of it."""
    result = train(small_pair(bias=True), **RECIPES["adamw"]())
    assert result.passed, str(result)
    assert "0.bias" in result.facts["rounding"]
    judged = [row for row in result.rows if row.layer == "0.bias"]
    assert {row.kind for row in judged} >= {"gradient", "optimizer state", "parameter"}
    assert max(row.allowed for row in judged) < 1e-5


def test_a_training_of_no_steps_is_refused():
    with pytest.raises(ValueError, match="no batches"):
        from alignment import align_training

        align_training(*small_pair(), [], loss=losses(), optimizer=(torch_sgd(), paddle_momentum()))


def test_an_optimizer_that_is_not_made_anew_is_refused():
    pair = small_pair()
    same = torch_sgd()(pair[0])
    with pytest.raises(ValueError, match="make a new one"):
        train(pair, (lambda model: same, paddle_momentum()))
