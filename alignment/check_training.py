"""Compare training step by step, with everything that a recipe has, in float64.

Usage::

    python alignment/check_training.py --model dla60
    python alignment/check_training.py --model dla34 --optimizer sgd --steps 50 --dtype float32

Both models start from the same weights and see the same batches, mixed and smoothed by timm's mixup. The recipe has
soft-target cross entropy, clipping by the norm, an optimizer with weight decay and momentum, a cosine schedule with
warm-up, and a moving average with warm-up. One side uses timm and torch, the other ``paddle_dla``. In float64 every
loss must agree to 1e-9, all parameters, statistics and averages to 1e-8; in float32 to the noise of torch's own
training.

Random images in small batches are the hardest case: BatchNorm magnifies every error, and at a high learning rate the
training is chaotic, so that rounding alone separates two correct ones. The default rates are low enough to avoid this
for twenty steps. The column ``rounding`` shows how far rounding grows; if it reaches the limit, the comparison ends and
reports that. Measured with the defaults on dla34, dla46x_c and dla60_res2net with the three optimizers: losses within
6.2e-13, everything else within 4.8e-12, at most 1.3 times the effect of reordering the batch in torch.

Exit codes: 0 aligned, 1 not aligned or the weights do not fit, 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from alignment.command import (
    SIDE_MULTIPLE,
    SIZE,
    Progress,
    WeightOptions,
    add_weights,
    at_least_one,
    chosen_weights,
    parser,
    run,
    sides,
)
from alignment.engine.judging.limits import BITS
from alignment.engine.result import Result
from alignment.engine.sides.training import Recipe
from paddle_dla.models.registry import find_model
from paddle_dla.terminal import run_command

RECIPES = {"sgd": (0.01, 256, 1e-4), "adamw": (1e-3, 256, 0.05), "lamb": (5e-3, 256, 0.02)}
"""Learning rate, the batch size that it belongs to, and weight decay."""

EPOCHS, WARMUP_EPOCHS, EMA_DECAY, CLIP_GRAD = 4, 1, 0.99, 5.0


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(WeightOptions):
    """The options of the training: optimizers, number of steps, batch size, image side in pixels.

    ``dtype`` is that of the Paddle model.
    """

    optimizer: tuple[str, ...] = tuple(RECIPES)
    steps: int = 20
    train_batch: int = 8
    train_size: int | None = None
    dtype: str = "float64"


def check_training(options: TrainingOptions, progress: Progress) -> Result:
    """Train one model with each optimizer and compare. Raises ``CheckpointError`` where weights do not fit."""
    from alignment.engine.lockstep import lockstep
    from alignment.models import both
    from alignment.pairs import versions
    from torch_ref.training import mixed_batches

    source, conversion, arrays = chosen_weights(options, progress)
    model, steps, batch, dtype = options.model, options.steps, options.train_batch, options.dtype
    models = both(find_model(model), source, conversion, arrays)
    shape = (batch, conversion.in_chans, *sides(options.train_size, model))
    batches = mixed_batches(steps, shape, conversion.num_classes, options.seed)
    result = Result(f"{model}: {steps} steps of training, timm against Paddle", dtype)
    for name in options.optimizer:
        found = lockstep(
            name,
            *models,
            batches,
            *recipes(name, steps, batch),
            dtype=dtype,
            progress=lambda line, name=name: progress(f"{model}: {name}, {line}"),
        )
        result.rows += [replace(row, direction=f"{name}, {row.direction}") for row in found.rows]
        result.skipped += [replace(item, layer=f"{name}, {item.layer}") for item in found.skipped]
        result.facts |= found.facts
    result.facts |= {
        "weights": source.describe(),
        "input": "x".join(map(str, shape)),
        "floor": "torch again in float64, the samples of each batch in another order"
        if dtype == "float64"
        else "torch's own error in float32",
        "optimizers": ", ".join(f"{name} ({rate(name, batch):g})" for name in options.optimizer),
        "versions": versions(),
    }
    return result


def rate(optimizer: str, batch: int) -> float:
    """Return the highest learning rate of the training, scaled linearly with the batch size."""
    from paddle_dla.schedule import scale_lr

    lr, base, _ = RECIPES[optimizer]
    return scale_lr(lr, batch, base)


def recipes(optimizer: str, steps: int, batch: int) -> tuple[Recipe, Recipe]:
    """Return the same training recipe for torch and for Paddle."""
    from paddle_dla.ema import ModelEma
    from paddle_dla.losses import SoftTargetCrossEntropy
    from paddle_dla.optim import clip_grad_, create_optimizer
    from paddle_dla.schedule import Scheduler, create_schedule
    from torch_ref.training import timm_parts

    lr, decay, updates = rate(optimizer, batch), RECIPES[optimizer][2], -(-steps // EPOCHS)
    parts = timm_parts(optimizer, lr, decay, EPOCHS, updates, WARMUP_EPOCHS, EMA_DECAY, CLIP_GRAD)
    schedule = create_schedule("cosine", lr, EPOCHS, updates, per_epoch=False, warmup_epochs=WARMUP_EPOCHS)
    return (
        Recipe(parts.loss, parts.optimizer, parts.scheduler, parts.ema, parts.clip),
        Recipe(
            loss=SoftTargetCrossEntropy(),
            optimizer=lambda layer: create_optimizer(layer, optimizer, lr, decay),
            scheduler=lambda made: Scheduler(made, schedule),
            ema=lambda layer: ModelEma(layer, EMA_DECAY, use_warmup=True),
            clip=lambda parameters: clip_grad_(parameters, CLIP_GRAD),
        ),
    )


def add_training(to: argparse.ArgumentParser) -> None:
    """Add the arguments of ``TrainingOptions``, except those of ``WeightOptions``."""
    steps, batch = TrainingOptions.steps, TrainingOptions.train_batch
    to.add_argument(
        "--optimizer", nargs="+", choices=RECIPES, default=[*RECIPES], help="optimizers to compare (default: all three)"
    )
    to.add_argument("--steps", type=at_least_one, default=steps, help=f"number of optimizer steps (default: {steps})")
    to.add_argument("--train-batch", type=_batch, default=batch, help=f"batch size (default: {batch})")
    to.add_argument("--train-size", type=_side, help=f"image side in pixels (default: {SIZE}, or the port's own)")


def _batch(text: str) -> int:
    # mixup pairs the samples of a batch
    if not text.isdecimal() or int(text) < 2 or int(text) % 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not an even number of at least 2")
    return int(text)


def _side(text: str) -> int:
    if not text.isdecimal() or int(text) < SIDE_MULTIPLE or int(text) % SIDE_MULTIPLE:
        raise argparse.ArgumentTypeError(f"{text!r} is not a multiple of {SIDE_MULTIPLE}")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    usage = parser("check-training", __doc__)
    add_weights(usage)
    add_training(usage)
    usage.add_argument("--dtype", choices=BITS, default="float64", help="dtype of the Paddle model (default: float64)")
    return run(usage, argv, TrainingOptions, check_training)


if __name__ == "__main__":
    sys.exit(run_command(main))
