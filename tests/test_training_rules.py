"""What ``align_training`` says of optimizers and schedules: correct pairs pass, others are told with their numbers."""

from __future__ import annotations

import numpy as np
import pytest
from training_recipes import batches, small_pair, train

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread")]


def optimizers(kind, twin, ours, theirs):
    """Both over all parameters, at a rate of 0.01."""
    import paddle
    import torch

    return (
        lambda model: getattr(torch.optim, kind)(model.parameters(), 0.01, **ours),
        lambda layer: getattr(paddle.optimizer, twin)(
            0.01, parameters=[p for p in layer.parameters() if not p.stop_gradient], **theirs
        ),
    )


CORRECT = {
    "SGD": ("SGD", "SGD", {}, {}),
    "SGD with decay": ("SGD", "SGD", {"weight_decay": 0.01}, {"weight_decay": 0.01}),
    "Adam without a first moment": ("Adam", "Adam", {"betas": (0.0, 0.99)}, {"beta1": 0.0, "beta2": 0.99}),
    "Adam with AMSGrad": ("Adam", "Adam", {"amsgrad": True}, {"amsgrad": True}),
    "AdamW": ("AdamW", "AdamW", {}, {}),
    "Adagrad": ("Adagrad", "Adagrad", {"eps": 1e-6}, {"epsilon": 1e-6}),
    "Adadelta": ("Adadelta", "Adadelta", {"rho": 0.9}, {"rho": 0.9, "epsilon": 1e-6}),
    "NAdam": ("NAdam", "NAdam", {}, {}),
    "RAdam": ("RAdam", "RAdam", {}, {}),
}


@pytest.mark.parametrize("name", CORRECT)
def test_an_optimizer_that_follows_the_references_rule_is_aligned(name):
    result = train(small_pair(), optimizers(*CORRECT[name]), data=batches(7))
    assert result.passed, str(result)


def test_lamb_is_aligned_but_for_what_paddle_keeps_in_float32():
    import paddle

    from torch_ref.model import import_timm

    import_timm()
    from timm.optim import Lamb

    recipe = (
        lambda model: Lamb(model.parameters(), 0.01, weight_decay=0.01, max_grad_norm=None),
        lambda layer: paddle.optimizer.Lamb(
            0.01, 0.01, parameters=[p for p in layer.parameters() if not p.stop_gradient], epsilon=1e-6
        ),
    )
    result = train(small_pair(), recipe)
    assert result.passed, str(result)
    assert "float32" in result.facts["steps"]


ADAM, RMS = ("Adam", "Adam"), ("RMSprop", "RMSProp")
WRONG = {
    "beta1": (*ADAM, {"betas": (0.0, 0.99)}, {"beta1": 0.5, "beta2": 0.99}, "beta1 0.5 instead of 0"),
    "adagrad epsilon": ("Adagrad", "Adagrad", {}, {"epsilon": 1e-2}, "epsilon 0.01 instead of 1e-10"),
    "adagrad start": (
        "Adagrad", "Adagrad", {"eps": 1e-6}, {"epsilon": 1e-6, "initial_accumulator_value": 0.1},
        "initial accumulator 0.1 instead of 0",
    ),
    "adagrad rate": ("Adagrad", "Adagrad", {"lr_decay": 0.1, "eps": 1e-6}, {"epsilon": 1e-6}, "rate decay 0 instead"),
    "adagrad decay": (
        "Adagrad", "Adagrad", {"eps": 1e-6, "weight_decay": 0.1}, {"epsilon": 1e-6}, "weight decay is missing",
    ),
    "rmsprop epsilon": (*RMS, {"eps": 1e-3}, {"epsilon": 1e-3, "rho": 0.99}, "epsilon 0.001, added under the root"),
    "rmsprop small epsilon": (*RMS, {"eps": 1e-8}, {"epsilon": 1e-8, "rho": 0.99}, "1e-08, added under the root"),
    "rmsprop rho": (*RMS, {"eps": 1e-3}, {"epsilon": 1e-3, "rho": 0.9}, "alpha 0.9 instead of 0.99"),
    "rmsprop centered": (
        *RMS, {"eps": 1e-3, "centered": True}, {"epsilon": 1e-3, "rho": 0.99}, "not centered, as the reference is",
    ),
    "rmsprop momentum": (
        *RMS, {"eps": 1e-3, "momentum": 0.9}, {"epsilon": 1e-3, "rho": 0.99, "momentum": 0.8},
        "momentum 0.8 instead of 0.9",
    ),
    "rmsprop momentum, epsilon": (
        *RMS, {"eps": 1e-3, "momentum": 0.9}, {"epsilon": 1e-3, "rho": 0.99, "momentum": 0.9}, "added under the root",
    ),
    "adamax epsilon": (
        "Adamax", "Adamax", {"eps": 1e-3}, {"epsilon": 1e-3},
        "epsilon 0.001, added beside the decayed maximum; the reference adds it beside the gradient's magnitude",
    ),
    "adamax beta2": ("Adamax", "Adamax", {"eps": 1e-3}, {"epsilon": 1e-3, "beta2": 0.9}, "beta2 0.9 instead of 0.999"),
    "nadam momentum decay": ("NAdam", "NAdam", {}, {"momentum_decay": 0.04}, "momentum decay 0.04 instead of 0.004"),
    "nadam epsilon": ("NAdam", "NAdam", {}, {"epsilon": 1e-4}, "epsilon 0.0001 instead of 1e-08"),
    "radam epsilon": ("RAdam", "RAdam", {}, {"epsilon": 1e-4}, "epsilon 0.0001 instead of 1e-08"),
    "adam for nadam": ("NAdam", "Adam", {}, {}, "the update is Adam's, not NAdam's"),
    "nadam for adam": ("Adam", "NAdam", {}, {}, "the update is NAdam's, not Adam's"),
    "adam for radam": ("RAdam", "Adam", {}, {}, "the update is Adam's, not RAdam's"),
    "adadelta epsilon": (
        "Adadelta", "Adadelta", {"rho": 0.9}, {"rho": 0.9, "epsilon": 1e-4}, "under the roots 0.0001 instead of 1e-06",
    ),
    "adadelta rho": ("Adadelta", "Adadelta", {"rho": 0.9}, {"rho": 0.95, "epsilon": 1e-6}, "rho 0.95 instead of 0.9"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_the_number_of_a_rule_that_differs_is_named(name):
    kind, twin, ours, theirs, words = WRONG[name]
    result = train(small_pair(), optimizers(kind, twin, ours, theirs), data=batches(7))
    found = [(c.layer, c.kind) for c in result.culprits]
    assert (found, words in result.culprits[0].cause) == ([("(optimizer)", "config")], True), result.culprits


def test_a_momentum_that_the_references_schedule_changes_is_named():
    import paddle
    import torch

    def one_cycle():
        options = dict(divide_factor=25.0, end_learning_rate=0.1 / 25 / 1e4, phase_pct=0.3, anneal_strategy="cos")
        return paddle.optimizer.lr.OneCycleLR(0.1, 10, **options)

    recipe = (
        lambda model: torch.optim.SGD(model.parameters(), 0.1, momentum=0.9),
        lambda layer: paddle.optimizer.Momentum(
            one_cycle(), 0.9, [p for p in layer.parameters() if not p.stop_gradient]
        ),
    )
    for cycled in (True, False):

        def schedule(optimizer, cycled=cycled):
            return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 10, cycle_momentum=cycled)

        result = train(small_pair(), recipe, data=batches(8), scheduler=(schedule, None))
        causes = [c.cause for c in result.culprits]
        assert result.passed or ("at all steps; the reference's changes" in causes[0] and cycled), causes
        assert result.passed != cycled


def test_an_optimizer_that_steps_every_second_time_is_told_from_one_that_clears_nothing():
    import paddle
    import torch

    def every_second(layer):
        optimizer, calls = paddle.optimizer.SGD(0.01, [p for p in layer.parameters() if not p.stop_gradient]), []
        step, clear = optimizer.step, optimizer.clear_grad

        def rarely():
            calls.append(1)
            if len(calls) % 2 == 0:
                step()

        optimizer.step, optimizer.clear_grad = rarely, lambda: None if len(calls) % 2 else clear()
        return optimizer

    result = train(small_pair(), (lambda model: torch.optim.SGD(model.parameters(), 0.01), every_second))
    assert [c.layer for c in result.culprits] == ["(optimizer)"]
    assert "updated at steps 2, 4, 6 alone" in result.culprits[0].cause


# --- clips and statistics -------------------------------------------------------------------------------------------


def clipping(name, size):
    import paddle
    import torch

    def make(layer):
        clip, parameters = getattr(paddle.nn, name)(size), [p for p in layer.parameters() if not p.stop_gradient]
        return paddle.optimizer.SGD(0.01, parameters, grad_clip=clip)

    return lambda model: torch.optim.SGD(model.parameters(), 0.01), make


@pytest.mark.parametrize("size", [0.01, 0.02])
def test_a_clip_by_value_is_told_by_its_value(size):
    from torch.nn.utils import clip_grad_value_

    ours = (lambda parameters: clip_grad_value_(parameters, 0.01), None)
    result = train(small_pair(), clipping("ClipGradByValue", size), grad_clip=ours)
    assert result.passed == (size == 0.01)
    assert result.passed or "clipped to 0.02 instead of 0.01" in result.culprits[0].cause


def test_a_clip_of_each_tensor_is_told_in_float32_too():
    from torch.nn.utils import clip_grad_norm_

    ours = (lambda parameters: clip_grad_norm_(parameters, 0.1), None)
    result = train(small_pair(), clipping("ClipGradByNorm", 0.1), grad_clip=ours, dtype="float32")
    assert "each tensor is clipped by its own norm (to 0.1)" in result.culprits[0].cause


@pytest.mark.parametrize("biased", [False, True])
def test_another_momentum_is_told_beside_a_biased_variance(biased):
    import paddle

    from paddle_dla.models.layers import BatchNorm2D

    norm = paddle.nn.BatchNorm2D if biased else BatchNorm2D
    result = train(small_pair(lambda channels: norm(channels, momentum=0.8)), clipping("ClipGradByValue", 1e6))
    assert [c.layer for c in result.culprits] == ["1"]
    mean, variance = result.culprits[0].cause.split("; ")
    assert all("momentum 0.2 instead of 0.1" in words for words in (mean, variance))
    assert ("biased" in variance, "biased" in mean) == (biased, False)


def test_statistics_over_all_batches_are_told_from_a_momentum():
    pair = small_pair()
    pair[0][1].momentum = None
    result = train(pair, clipping("ClipGradByValue", 1e6))
    assert [c.layer for c in result.culprits] == ["1"]
    assert "momentum=None" in result.culprits[0].cause


# --- schedules ------------------------------------------------------------------------------------------------------


def torch_schedule(name, *arguments, **options):
    import torch

    return lambda optimizer: getattr(torch.optim.lr_scheduler, name)(optimizer, *arguments, **options)


def paddle_schedule(name, *arguments):
    import paddle

    return getattr(paddle.optimizer.lr, name)(*arguments)


def warm_cosine(steps, length):
    def make(optimizer):
        parts = [torch_schedule("LinearLR", 0.1, 1.0, steps), torch_schedule("CosineAnnealingLR", length)]
        return torch_schedule("SequentialLR", [part(optimizer) for part in parts], [steps])(optimizer)

    return make


def paddle_warm_cosine(steps, length):
    cosine = paddle_schedule("CosineAnnealingDecay", 0.1, length)
    return paddle_schedule("LinearWarmup", cosine, steps, 0.01, 0.1)


SCHEDULES = {
    "cosine": (
        lambda: torch_schedule("CosineAnnealingLR", 8), lambda: paddle_schedule("CosineAnnealingDecay", 0.1, 10),
        "cosine: steps 10 instead of 8",
    ),
    "long cosine": (
        lambda: torch_schedule("CosineAnnealingLR", 90), lambda: paddle_schedule("CosineAnnealingDecay", 0.1, 100),
        "cosine: steps 100 instead of 90",
    ),
    "end of a cosine": (
        lambda: torch_schedule("CosineAnnealingLR", 10), lambda: paddle_schedule("CosineAnnealingDecay", 0.1, 10, 0.01),
        "cosine: to 0.01 instead of 0",
    ),
    "warm-up": (
        lambda: torch_schedule("LinearLR", 0.1, 1.0, 4), lambda: paddle_schedule("LinearWarmup", 0.1, 5, 0.01, 0.1),
        "linear: steps 5 instead of 4",
    ),
    "start of a warm-up": (
        lambda: torch_schedule("LinearLR", 0.1, 1.0, 4), lambda: paddle_schedule("LinearWarmup", 0.1, 4, 0.02, 0.1),
        "linear: from 0.02 instead of 0.01",
    ),
    "warm-up before a cosine": (lambda: warm_cosine(3, 9), lambda: paddle_warm_cosine(4, 9), "steps 4 instead of 3"),
    "cosine after a warm-up": (lambda: warm_cosine(3, 9), lambda: paddle_warm_cosine(3, 12), "steps 12 instead of 9"),
    "gamma": (
        lambda: torch_schedule("ExponentialLR", 0.9), lambda: paddle_schedule("ExponentialDecay", 0.1, 0.95),
        "gamma 0.95 instead of 0.9",
    ),
    "step size": (
        lambda: torch_schedule("StepLR", 3, 0.1), lambda: paddle_schedule("StepDecay", 0.1, 2, 0.1),
        "milestone 1 2 instead of 3",
    ),
    "factor of steps": (
        lambda: torch_schedule("StepLR", 3, 0.1), lambda: paddle_schedule("StepDecay", 0.1, 3, 0.5),
        "gamma 0.5 instead of 0.1",
    ),
    "milestone": (
        lambda: torch_schedule("MultiStepLR", [3, 6], 0.1),
        lambda: paddle_schedule("MultiStepDecay", 0.1, [3, 5], 0.1), "milestone 2 5 instead of 6",
    ),
    "length of a polynomial": (
        lambda: torch_schedule("PolynomialLR", 10, 2.0), lambda: paddle_schedule("PolynomialDecay", 0.1, 12, 0.0, 2.0),
        "reaches 0 at step 12 instead of 10",
    ),
    "another kind": (
        lambda: torch_schedule("CosineAnnealingLR", 10), lambda: paddle_schedule("ExponentialDecay", 0.1, 0.9),
        "geometric (from 0.1, gamma 0.9), instead of cosine (steps 10, from 0.1, to 0)",
    ),
}  # fmt: skip


def rates(make, steps=12):
    """What a schedule of torch's makes of a rate of 0.1."""
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
    schedule, found = make(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return np.array(found)


def paddle_rates(schedule, steps=12):
    found = []
    for _ in range(steps):
        found.append(schedule())
        schedule.step()
    return np.array(found)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_number_of_a_schedule_that_differs_is_named(name):
    from alignment.engine.explaining.schedules import rate_cause

    ours, theirs, words = SCHEDULES[name]
    assert words in rate_cause(rates(ours()), paddle_rates(theirs()))


def test_a_schedule_that_no_formula_fits_is_not_described():
    from alignment.engine.explaining.schedules import rate_cause

    drawn = np.random.RandomState(0).uniform(0.01, 0.1, (2, 12))
    assert rate_cause(*drawn) == "another schedule of the learning rate"


def test_a_schedule_of_another_length_is_found_in_training():
    import paddle
    import torch

    recipe = (
        lambda model: torch.optim.SGD(model.parameters(), 0.1),
        lambda layer: paddle.optimizer.SGD(
            paddle_schedule("CosineAnnealingDecay", 0.1, 10), [p for p in layer.parameters() if not p.stop_gradient]
        ),
    )
    result = train(small_pair(), recipe, scheduler=(torch_schedule("CosineAnnealingLR", 8), None))
    assert [(c.layer, c.kind) for c in result.culprits] == [("(schedule)", "config")]
    assert "10 instead of 8" in result.culprits[0].cause
