"""One small network and the step that trains it, for tests of single updates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from small_runs import small_config

from paddle_dla.data.batch import Batch
from paddle_dla.ranks import Ranks
from paddle_dla.training.assembly import build_optimizer
from paddle_dla.training.plan import Plan, Position
from paddle_dla.training.start import build_learner
from paddle_dla.training.step import TrainStep

CLASSES = 4
START = Position()
PLAIN = ("mixing.mixup_alpha=0", "mixing.cutmix_alpha=0", "model.drop_rate=0", "train.grad_accum_steps=1")


def config(*overrides):
    return small_config("data", "run", *PLAIN, *overrides)


def batch(size=4, seed=0, dtype=np.float32):
    rng = np.random.RandomState(seed)
    return Batch(rng.standard_normal((size, 3, 32, 32)).astype(dtype), rng.randint(0, CLASSES, size), np.arange(size))


def part(whole, place):
    return Batch(whole.images[place], whole.labels[place], whole.indices[place])


def made(*overrides, dtype="float32"):
    """A step of a small network, and all that it is made of."""
    wanted = config(*overrides)
    plan = Plan(wanted.total_epochs, 10, wanted.train.grad_accum_steps, 4)
    learner = build_learner(wanted, plan, CLASSES)
    if dtype == "float64":
        learner.network.to(dtype=dtype)
        optimizer = build_optimizer(wanted, learner.network, 0.1)
        learner = replace(learner, optimizer=optimizer, ema=None)
    learner.frozen.train(learner.network)
    return learner, TrainStep(learner, wanted, Ranks()), wanted


def arrays(network):
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def changed(before, after):
    return {name for name in before if before[name].tobytes() != after[name].tobytes()}


def passed(loss):
    return loss


def update(step, batches, number=0, at=START):
    step.begin()
    for place, item in enumerate(batches):
        here = Position(at.epoch, at.batch + place)
        step.accumulate(item, here, 1 / len(batches), place + 1 == len(batches), passed)
    return step.finish(number)
