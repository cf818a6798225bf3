"""Two trainings side by side: a correct one is aligned at every step, and each wrong part is seen where it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from training_recipes import small_pair

from alignment import check_training
from alignment.command import add_weights, parser

pytestmark = pytest.mark.torch
STEPS, CLASSES = 8, 5


def batches(number=STEPS):
    from torch_ref.training import mixed_batches

    return mixed_batches(number, (8, 3, 16, 16), CLASSES, seed=0)


def trained(optimizer="sgd", change=None, dtype="float64", pair=None, data=None):
    """The small network, with ``change`` made to Paddle's parts."""
    from alignment.engine.lockstep import lockstep

    ours, theirs = check_training.recipes(optimizer, STEPS, 64)
    return lockstep(
        "small", *(pair or small_pair()), data or batches(), ours, (change or (lambda parts: parts))(theirs), dtype
    )


@pytest.mark.parametrize("optimizer", check_training.RECIPES)
def test_a_correct_training_is_aligned_at_every_step(optimizer):
    result = trained(optimizer)
    assert result.passed, result.verdict()
    assert {row.depth for row in result.rows if row.kind == "loss"} == {*range(1, STEPS + 1)}
    assert {row.kind for row in result.rows} == {"learning rate", "loss", "parameter", "buffer", "averaged weight"}
    # far within what is allowed: nothing is kept in float32 anywhere
    assert result.worst.relative < 1e-11


@pytest.mark.parametrize("optimizer", check_training.RECIPES)
def test_in_float32_it_stays_within_the_noise(optimizer):
    result = trained(optimizer, dtype="float32")
    assert result.passed, result.verdict()
    assert result.worst.relative > 1e-9


def by_paddle(parts):
    import paddle

    return replace(
        parts,
        optimizer=lambda layer: paddle.optimizer.Momentum(0.1, 0.9, layer.parameters(), use_nesterov=True),
        scheduler=lambda made: parts.scheduler(made),
    )


def other_optimizer(**options):
    def change(parts):
        from paddle_dla.optim import create_optimizer

        lr, decay = check_training.rate("sgd", 64), check_training.RECIPES["sgd"][2]
        return replace(
            parts,
            optimizer=lambda layer: create_optimizer(layer, **dict(name="sgd", lr=lr, weight_decay=decay) | options),
        )

    return change


def other_ema(**options):
    def change(parts):
        from paddle_dla.ema import ModelEma

        settings = dict(decay=check_training.EMA_DECAY, use_warmup=True) | options
        return replace(parts, ema=lambda layer: ModelEma(layer, **settings))

    return change


def each_clipped_alone(parts):
    from paddle_dla.optim import clip_grad_norm_

    return replace(parts, clip=lambda parameters: [clip_grad_norm_([p], 0.1) for p in parameters])


def other_schedule(parts):
    from paddle_dla.schedule import Scheduler, create_schedule

    schedule = create_schedule(
        "cosine", check_training.rate("sgd", 64), 4, 2, per_epoch=False, warmup_epochs=1, warmup_prefix=True
    )
    return replace(parts, scheduler=lambda made: Scheduler(made, schedule))


def other_loss(factor):
    return lambda parts: replace(parts, loss=lambda output, target: parts.loss(output, target) * factor)


# the fault -> what departs first, and at which step; a decay of 1e-4 does not show in a first step at a rate of 1e-5
FAULTS = {
    "loss off by 1e-8": (other_loss(1 + 1e-8), "loss", 1),
    "no decay at all": (other_optimizer(weight_decay=0.0), "parameter", 2),
    "bias decayed": (other_optimizer(filter_bias_and_bn=False), "parameter", 2),
    "no Nesterov": (other_optimizer(name="momentum"), "parameter", 1),
    "momentum 1e-7 off": (other_optimizer(momentum=0.9 + 1e-7), "parameter", 1),
    "Paddle's Momentum": (by_paddle, "parameter", 1),
    "no warm-up of the average": (other_ema(use_warmup=False), "averaged weight", 2),
    "statistics not averaged": (other_ema(exclude_buffers=True), "averaged weight", 2),
    "clipped each alone": (each_clipped_alone, "parameter", 1),
    "warm-up before the cosine": (other_schedule, "learning rate", 3),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_part_is_seen_at_the_step_and_quantity_that_it_changes_first(fault):
    change, kind, step = FAULTS[fault]
    result = trained(change=change)
    assert not result.passed
    first = result.first_difference
    assert (first.kind, first.depth) == (kind, step), str(result)


def test_another_batch_norm_is_seen_in_its_statistics():
    import paddle

    result = trained(pair=small_pair(paddle_norm=paddle.nn.BatchNorm2D))
    assert {row.kind for row in result.rows if not row.aligned} == {"buffer", "averaged weight"}
    # the variance is biased, by 1 / (8 * 14 * 14) of it; a momentum in float32 alone would do 3e-8
    (variance,) = (row for row in result.rows if (row.layer, row.kind) == ("1.running_var", "buffer"))
    assert variance.relative > 1e-6


def test_it_ends_at_the_first_departure():
    result = trained(change=other_schedule)
    assert max(row.depth for row in result.rows) == 3


def test_where_torch_departs_from_itself_it_ends_and_says_so(monkeypatch):
    from alignment.engine import lockstep

    # as if a few roundings of a loss were all that is allowed: what two runs of torch are apart
    monkeypatch.setattr(lockstep, "LIMITS", lockstep.LIMITS | {"parameter": 2.0**-50})
    result = trained()
    (skipped,) = result.skipped
    assert skipped.layer.startswith("steps 2 to 8")
    assert "torch's own float64 rounding" in skipped.reason
    assert {row.depth for row in result.rows} == {1}
    assert {row.kind for row in result.rows} == {"learning rate", "loss", "parameter", "buffer", "averaged weight"}


def test_models_are_given_back_as_they_came():
    pair = small_pair()
    before = [{name: value.numpy().copy() for name, value in model.state_dict().items()} for model in pair]
    trained(pair=pair)
    for model, state in zip(pair, before):
        assert not model.training
        now = {name: value.numpy() for name, value in model.state_dict().items()}
        assert all(np.array_equal(now[name], array) and now[name].dtype == array.dtype for name, array in state.items())


def test_batches_are_mixed_and_smoothed_and_leave_the_random_state_alone():
    before = np.random.get_state()[1].copy()
    (images, *_), targets = batches(1)[0]
    assert np.array_equal(before, np.random.get_state()[1])
    assert (images.shape, images.dtype, targets.shape) == ((8, 3, 16, 16), np.float32, (8, CLASSES))
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
    assert targets.min() == pytest.approx(0.1 / CLASSES, rel=1e-6)


def arguments(*more):
    usage = parser("check-training", "")
    add_weights(usage)
    check_training.add_training(usage)
    return usage.parse_args(["--model", "dla46x_c", *more])


@pytest.mark.slow
def test_the_command_trains_a_dla_with_each_optimizer(capsys):
    options = ["--steps", "3", "--train-batch", "4", "--train-size", "32", "--full"]
    assert check_training.main(["--model", "dla46x_c", *options]) == 0
    out = capsys.readouterr().out
    assert "dla46x_c: 3 steps of training, timm against Paddle" in out
    assert all(f"{name}, step 3 loss" in out for name in check_training.RECIPES)


@pytest.mark.parametrize(
    "wrong", [["--steps", "0"], ["--train-batch", "3"], ["--train-size", "48"], ["--optimizer", "adam"]]
)
def test_arguments_that_make_no_training_end_with_usage(wrong):
    with pytest.raises(SystemExit) as ended:
        arguments(*wrong)
    assert ended.value.code == 2
