"""Schedules: at every update of a whole run, timm's own rate; and what a schedule promises without timm."""

from __future__ import annotations

import math

import pytest

from paddle_dla.schedule import (
    SCHEDULES,
    Scheduler,
    create_schedule,
    paddleclas_cosine,
    scale_lr,
)

EPOCHS, UPDATES, LR = 12, 7, 0.1

# the same terms of one formula, multiplied in another order: a few roundings of float64
SAME = 8 * 2.0**-52

CASES = {
    "plain": {},
    "warm-up": dict(warmup_epochs=3, warmup_lr=0.01),
    "warm-up as a prefix": dict(warmup_epochs=3, warmup_prefix=True),
    "minimum and cool-down": dict(min_lr=1e-3, cooldown_epochs=2),
    "every 4 epochs": dict(decay_epochs=4, decay_rate=0.5, warmup_epochs=1),
    "fractions of an epoch": dict(decay_epochs=2.4, decay_rate=0.97),
    "milestones": dict(decay_milestones=(3, 5, 9), decay_rate=0.3, warmup_epochs=2, warmup_prefix=True),
    "cycles": dict(cycle_limit=3, cycle_decay=0.5, min_lr=1e-4),
    "longer cycles": dict(cycle_limit=3, cycle_mul=1.5, cycle_decay=0.8, warmup_epochs=2, warmup_prefix=True),
    "k-decay": dict(k_decay=1.7, warmup_epochs=1),
}


def timm_rates(name, per_epoch, **options):
    """The rate of each update of the run as timm's training loop has it, and the number of epochs."""
    import torch

    from torch_ref.model import import_timm

    import_timm()
    from timm.scheduler import create_scheduler_v2

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], LR)
    options = {"decay_epochs": 90, "decay_milestones": (90, 180, 270)} | options
    scheduler, epochs = create_scheduler_v2(
        optimizer, name, EPOCHS, step_on_epochs=per_epoch, updates_per_epoch=UPDATES, **options
    )
    rates = []
    for epoch in range(epochs):
        for batch in range(UPDATES):
            rates.append(optimizer.param_groups[0]["lr"])
            scheduler.step_update(epoch * UPDATES + batch + 1)
        scheduler.step(epoch + 1)
    return rates, epochs


def own_rates(name, per_epoch, **options):
    schedule = create_schedule(name, LR, EPOCHS, UPDATES, per_epoch=per_epoch, **options)
    return [schedule(update) for update in range(schedule.total_epochs * UPDATES)], schedule.total_epochs


def farthest(ours, theirs):
    """The largest relative difference of two runs' rates; infinite where one is longer."""
    if len(ours) != len(theirs):
        return math.inf
    return max(abs(a - b) / max(abs(b), 1e-300) if a != b else 0.0 for a, b in zip(ours, theirs))


@pytest.mark.torch
@pytest.mark.parametrize("per_epoch", [True, False], ids=["per epoch", "per update"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", [*SCHEDULES[:-1], pytest.param("constant", marks=pytest.mark.timm("1.0.31"))])
def test_every_update_of_a_run_has_timms_rate(name, case, per_epoch):
    ours, epochs = own_rates(name, per_epoch, **CASES[case])
    theirs, their_epochs = timm_rates(name, per_epoch, **CASES[case])
    assert epochs == their_epochs
    assert farthest(ours, theirs) < SAME


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("cosine", dict(warmup_epochs=3, warmup_prefix=True)),
        ("cosine", dict(warmup_epochs=3, warmup_lr=0.0)),
        ("cosine", dict(warmup_epochs=3, min_lr=1e-6)),
        ("poly", dict(warmup_epochs=3, decay_rate=0.2)),
        ("step", dict(warmup_epochs=3, decay_epochs=5)),
        ("multistep", dict(warmup_epochs=3, decay_milestones=(4, 8))),
    ],
)
def test_another_schedule_is_seen(name, wrong):
    right = dict(warmup_epochs=3, decay_epochs=4, decay_milestones=(3, 8))
    theirs, _ = timm_rates(name, False, **right)
    assert farthest(own_rates(name, False, **right)[0], theirs) < SAME
    assert farthest(own_rates(name, False, **right | wrong)[0], theirs) > 1e-6


@pytest.mark.parametrize("warmup", [0, 5])
def test_paddleclas_cosine_is_what_paddle_makes_of_it(warmup):
    import paddle

    steps, epochs = 4, 12
    theirs = paddle.optimizer.lr.CosineAnnealingDecay(0.04, (epochs - warmup) * steps)
    if warmup:
        theirs = paddle.optimizer.lr.LinearWarmup(theirs, warmup * steps, 0.0, 0.04)
    ours = paddleclas_cosine(0.04, epochs, steps, warmup)
    assert ours.total_epochs == epochs
    for update in range(epochs * steps):
        # Paddle's cosine is a recursion, in which roundings add up over the updates
        assert ours(update) == pytest.approx(theirs(), rel=1e-9, abs=1e-15)
        theirs.step()


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_rate_depends_on_nothing_but_the_number_of_the_update(name):
    schedule = create_schedule(name, LR, EPOCHS, UPDATES, per_epoch=False, warmup_epochs=2, decay_epochs=3)
    forward = [schedule(update) for update in range(EPOCHS * UPDATES)]
    backward = [schedule(update) for update in reversed(range(EPOCHS * UPDATES))]
    assert forward == backward[::-1]


@pytest.mark.parametrize("name", SCHEDULES)
def test_per_epoch_a_rate_holds_for_the_epoch(name):
    schedule = create_schedule(name, LR, EPOCHS, UPDATES, warmup_epochs=2, decay_epochs=3, decay_milestones=(4, 8))
    for epoch in range(EPOCHS):
        assert len({schedule(epoch * UPDATES + update) for update in range(UPDATES)}) == 1


def test_warm_up_begins_at_its_own_rate_and_ends_at_the_full_one():
    schedule = create_schedule("cosine", LR, EPOCHS, UPDATES, per_epoch=False, warmup_epochs=2, warmup_prefix=True)
    assert schedule(0) == 1e-5
    assert schedule(2 * UPDATES) == LR


def test_a_scheduler_sets_the_rate_of_the_next_update_and_can_begin_anywhere():
    class Optimizer:
        def set_lr(self, value):
            self.lr = value

    schedule = create_schedule("cosine", LR, EPOCHS, UPDATES, per_epoch=False)
    first, resumed = Optimizer(), Optimizer()
    scheduler = Scheduler(first, schedule)
    assert first.lr == schedule(0)
    for update in range(1, 10):
        scheduler.step_update(num_updates=update)
    Scheduler(resumed, schedule, updates=9)
    assert first.lr == resumed.lr == schedule(9)


@pytest.mark.parametrize(("rule", "factor"), [("none", 1), ("linear", 4), ("sqrt", 2)])
def test_the_rate_grows_with_the_batch_as_asked(rule, factor):
    assert scale_lr(0.1, 1024, rule=rule) == 0.1 * factor


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (dict(name="cosin"), "no schedule 'cosin'; known are cosine"),
        (dict(epochs=0), "epochs and updates"),
        (dict(updates_per_epoch=0), "epochs and updates"),
        (dict(warmup_epochs=-1), "warmup_epochs is at least 0"),
        (dict(decay_epochs=0), "decay_epochs above 0"),
        (dict(decay_milestones=(5, 3)), "ascend"),
        (dict(lr=math.nan), "finite"),
        (dict(min_lr=-1.0), "not negative"),
    ],
)
def test_what_makes_no_schedule_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        create_schedule(**dict(name="cosine", lr=LR, epochs=EPOCHS) | wrong)


def test_a_warm_up_that_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match="leave nothing of 5 epochs"):
        paddleclas_cosine(0.04, 5, 10)


def test_a_rule_or_batch_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="none, linear, sqrt"):
        scale_lr(0.1, 512, rule="square")
    with pytest.raises(ValueError, match="at least one sample"):
        scale_lr(0.1, 0)


def test_updates_are_not_negative():
    with pytest.raises(ValueError, match="from 0 on"):
        create_schedule("constant", LR, EPOCHS)(-1)
