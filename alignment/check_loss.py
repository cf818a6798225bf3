"""Compare losses with timm's and torch's: values and gradients, also on large logits.

Usage::

    python alignment/check_loss.py --model dla60

The logits are timm's for random images, unchanged and scaled until some are more than 64 below the largest, where
Paddle's own softmax clips. Everything is computed in float64.

Exit codes: 0 aligned, 1 not aligned, 2 usage.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from alignment.command import CheckOptions, Progress, parser, run, sides
from alignment.engine.judging.parts import part_row
from alignment.engine.result import Result
from paddle_dla.terminal import run_command

LARGEST = (1.0, 30.0, 300.0)
"""The largest logits of a batch, to which all of them are scaled."""

BATCH, SMOOTHING, THRESHOLD, TEMPERATURE = 8, 0.1, 0.2, 4.0

Loss = Callable[..., Any]
Measured = tuple[np.ndarray, np.ndarray]


def check_loss(options: CheckOptions, progress: Progress) -> Result:
    """Compare every loss on the logits of one model."""
    from alignment.pairs import versions

    model, seed = options.model, options.seed
    logits = timm_logits(model, seed)
    result = Result(f"{model}: losses, timm against Paddle", "float64")
    ours, theirs, targets = timm_losses(), paddle_losses(), draw_targets(logits.shape, seed)
    for largest in LARGEST:
        scaled = logits * (largest / np.abs(logits).max())
        for name, loss in ours.items():
            progress(f"{model}: {name}, logits up to {largest:g}")
            measured = (
                of_torch(loss, scaled, targets[name], "float64"),
                of_torch(loss, scaled, targets[name], "float32"),
                of_paddle(theirs[name], scaled, targets[name]),
            )
            for kind, arrays in zip(("loss", "gradient"), zip(*measured)):
                depth, direction = len(result.rows), f"{kind}, logits up to {largest:g}"
                result.rows.append(part_row(name, kind, depth, *arrays, direction))
    result.facts = {
        "logits": "x".join(map(str, logits.shape)) + f" of timm's {model} with seed {seed}",
        "floor": "torch's own float32 error x 2**-29",
        "versions": versions(),
    }
    return result


def timm_logits(model: str, seed: int) -> np.ndarray:
    """Return a new timm model's logits for random images, (B, K) float64."""
    import torch

    from alignment.models import fresh_reference

    images = np.random.RandomState(seed).standard_normal((BATCH, 3, *sides(None, model))).astype(np.float32)
    with torch.no_grad():
        return fresh_reference(model, seed)(torch.from_numpy(images)).double().numpy()


def draw_targets(shape: tuple[int, int], seed: int) -> dict[str, list[np.ndarray]]:
    """Draw each loss's arguments besides logits (B, K): classes, mixed rows, a teacher's logits."""
    rng = np.random.RandomState(seed)
    batch, classes = shape
    labels = rng.randint(0, classes, batch)
    mixed = np.full(shape, SMOOTHING / classes)
    mixed[np.arange(batch), labels] += 0.7 * (1 - SMOOTHING)
    mixed[np.arange(batch), labels[::-1]] += 0.3 * (1 - SMOOTHING)
    teacher = [labels, rng.standard_normal(shape)]
    return {
        "cross entropy": [labels],
        "label smoothing": [labels],
        "soft targets": [mixed],
        "BCE": [labels],
        "BCE, mixed": [mixed],
        "BCE, threshold": [mixed],
        "BCE, summed": [mixed],
        "distillation": teacher,
        "SSLD, ce": teacher,
        "SSLD, js": teacher,
    }


def timm_losses() -> dict[str, Loss]:
    """Return timm's and torch's losses; the distillations are defined in torch."""
    import torch.nn.functional as F

    from torch_ref.model import import_timm

    import_timm()
    from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

    def divergence(of: Any, other: Any) -> Any:
        return F.kl_div(other.log_softmax(-1), of.log_softmax(-1), reduction="batchmean", log_target=True)

    def distillation(x: Any, target: Any, teacher: Any) -> Any:
        soft = divergence(teacher / TEMPERATURE, x / TEMPERATURE) * TEMPERATURE**2
        return 0.5 * F.cross_entropy(x, target) + 0.5 * soft

    return {
        "cross entropy": F.cross_entropy,
        "label smoothing": LabelSmoothingCrossEntropy(SMOOTHING),
        "soft targets": SoftTargetCrossEntropy(),
        "BCE": BinaryCrossEntropy(SMOOTHING),
        "BCE, mixed": BinaryCrossEntropy(SMOOTHING),
        "BCE, threshold": BinaryCrossEntropy(SMOOTHING, target_threshold=THRESHOLD),
        "BCE, summed": BinaryCrossEntropy(SMOOTHING, sum_classes=True),
        "distillation": distillation,
        "SSLD, ce": lambda x, target, teacher: F.cross_entropy(x, teacher.softmax(-1)),
        "SSLD, js": lambda x, target, teacher: 0.5 * (divergence(teacher, x) + divergence(x, teacher)),
    }


def paddle_losses() -> dict[str, Loss]:
    """Return the Paddle losses that correspond to ``timm_losses``."""
    from paddle_dla import losses

    return {
        "cross entropy": losses.CrossEntropy(),
        "label smoothing": losses.LabelSmoothingCrossEntropy(SMOOTHING),
        "soft targets": losses.SoftTargetCrossEntropy(),
        "BCE": losses.BinaryCrossEntropy(SMOOTHING),
        "BCE, mixed": losses.BinaryCrossEntropy(SMOOTHING),
        "BCE, threshold": losses.BinaryCrossEntropy(SMOOTHING, target_threshold=THRESHOLD),
        "BCE, summed": losses.BinaryCrossEntropy(SMOOTHING, sum_classes=True),
        "distillation": losses.Distillation(0.5, temperature=TEMPERATURE),
        "SSLD, ce": losses.SSLD("ce"),
        "SSLD, js": losses.SSLD("js"),
    }


def of_torch(loss: Loss, logits: np.ndarray, others: Sequence[np.ndarray], dtype: str) -> Measured:
    """Return the loss's value and gradient in torch."""
    import torch

    of_type = getattr(torch, dtype)
    x = torch.tensor(logits, dtype=of_type, requires_grad=True)
    given = [torch.from_numpy(array) for array in others]
    value = loss(x, *(array.to(of_type) if array.is_floating_point() else array for array in given))
    value.backward()
    assert x.grad is not None
    return value.detach().numpy(), x.grad.numpy()


def of_paddle(loss: Loss, logits: np.ndarray, others: Sequence[np.ndarray]) -> Measured:
    """Return the loss's value and gradient in Paddle in float64."""
    import paddle

    x = paddle.to_tensor(logits, stop_gradient=False)
    value = loss(x, *map(paddle.to_tensor, others))
    value.backward()
    assert x.grad is not None
    return value.numpy().reshape(()), x.grad.numpy()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(parser("check-loss", __doc__), argv, CheckOptions, check_loss)


if __name__ == "__main__":
    sys.exit(run_command(main))
