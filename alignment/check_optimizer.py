"""Compare the updates of the optimizers: every parameter, alone with its gradients.

Usage::

    python alignment/check_optimizer.py --model dla60
    python alignment/check_optimizer.py --model dla34 --steps 20

Both sides start from the same weights and receive the same gradients; the models never run. The gradients depend on the
weights, so that an error affects later steps. Weight decay excludes BatchNorm and biases, the layers' rates decay
towards the input, gradients are clipped by their norm, and the learning rate changes at each step. Everything is
computed in float64.

Exit codes: 0 aligned, 1 not aligned, 2 usage.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignment.command import CheckOptions, Progress, at_least_one, parser, run
from alignment.engine.judging.parts import part_row
from alignment.engine.result import Result
from paddle_dla.terminal import run_command

CASES: dict[str, dict[str, Any]] = {
    "sgd": dict(lr=0.1, weight_decay=1e-4),
    "momentum": dict(lr=0.1, weight_decay=1e-4),
    "adamw": dict(lr=1e-3, weight_decay=0.05),
    "lamb": dict(lr=5e-3, weight_decay=0.02),
    "adamw, layer decay": dict(lr=1e-3, weight_decay=0.05, layer_decay=0.75),
}
"""timm's names, and the arguments of ``create_optimizer_v2``."""

CLIP_GRAD = 1.0

Arrays = dict[str, np.ndarray]
Gradient = Callable[[str, int, np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions(CheckOptions):
    """The options of the check; ``steps`` is the number of steps of each optimizer."""

    steps: int = 5


def check_optimizer(options: OptimizerOptions, progress: Progress) -> Result:
    """Compare every optimizer on the weights of one model."""
    from alignment.pairs import versions

    model, steps, seed = options.model, options.steps, options.seed
    result = Result(f"{model}: {steps} steps of the optimizers, timm against Paddle", "float64")
    gradient = gradients(seed)
    for case in CASES:
        progress(f"{model}: {case}")
        exact = timm_weights(model, case, steps, gradient, seed, "float64")
        rounded = timm_weights(model, case, steps, gradient, seed, "float32")
        port = paddle_weights(model, case, steps, gradient, seed)
        for name, array in exact.items():
            depth = len(result.rows)
            result.rows.append(part_row(name, "parameter", depth, array, rounded[name], port.get(name), case))
    result.facts = {
        "weights": f"timm's {model} with seed {seed}",
        "clipped": f"to norm {CLIP_GRAD:g}, over all gradients",
        "floor": "torch's own float32 error x 2**-29",
        "versions": versions(),
    }
    return result


def gradients(seed: int) -> Gradient:
    """Return a gradient function: half of the weight, plus noise that is drawn once and shifted at each step."""
    drawn: Arrays = {}

    def gradient(name: str, step: int, value: np.ndarray) -> np.ndarray:
        if name not in drawn:
            rng = np.random.RandomState((seed + sum(map(ord, name))) % 2**32)
            drawn[name] = rng.standard_normal(value.size).astype(np.float32)
        return 0.5 * value + np.roll(drawn[name], step).reshape(value.shape).astype(value.dtype)

    return gradient


def rate(case: str, step: int) -> float:
    """Return the learning rate of a step, which rises as in a warm-up."""
    return CASES[case]["lr"] * (step + 1) / 8


def timm_weights(model: str, case: str, steps: int, gradient: Gradient, seed: int, dtype: str) -> Arrays:
    """Return the parameters after ``steps`` steps of timm's optimizer."""
    import torch

    from alignment.models import fresh_reference
    from torch_ref.model import import_timm

    import_timm()
    from timm.optim import create_optimizer_v2

    module = fresh_reference(model, seed).to(getattr(torch, dtype))
    optimizer = create_optimizer_v2(module, case.split(",")[0], **CASES[case])
    for step in range(steps):
        for name, parameter in module.named_parameters():
            parameter.grad = torch.from_numpy(gradient(name, step, parameter.detach().numpy()))
        torch.nn.utils.clip_grad_norm_(module.parameters(), CLIP_GRAD)
        for group in optimizer.param_groups:
            group["lr"] = rate(case, step) * group.get("lr_scale", 1.0)
        optimizer.step()
    return {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}


def paddle_weights(model: str, case: str, steps: int, gradient: Gradient, seed: int) -> Arrays:
    """Return the parameters after ``steps`` steps of Paddle's optimizer in float64, from timm's weights."""
    import paddle

    from alignment.models import fresh_reference, twins
    from paddle_dla import create_model
    from paddle_dla.optim import clip_grad_norm_, create_optimizer
    from torch_ref.model import state_arrays

    layer, names = create_model(model), twins(model)
    arrays = {name: array for name, array in state_arrays(fresh_reference(model, seed)).items() if name in names}
    layer.set_state_dict({names[name].paddle: names[name].carried(array) for name, array in arrays.items()})
    layer.to(dtype="float64")
    optimizer = create_optimizer(layer, case.split(",")[0], **CASES[case])
    trained = dict(optimizer.named_parameters())
    theirs = {names[name].paddle: (name, names[name].carried) for name in names}
    for step in range(steps):
        for name, parameter in trained.items():
            timm_name, carried = theirs[name]
            made = gradient(timm_name, step, np.ascontiguousarray(carried(parameter.numpy())))
            parameter.grad = paddle.to_tensor(np.ascontiguousarray(carried(made)))
        clip_grad_norm_(trained.values(), CLIP_GRAD)
        optimizer.set_lr(rate(case, step))
        optimizer.step()
    return {theirs[name][0]: theirs[name][1](parameter.numpy()) for name, parameter in trained.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    usage = parser("check-optimizer", __doc__)
    few = OptimizerOptions.steps
    usage.add_argument("--steps", type=at_least_one, default=few, help=f"number of optimizer steps (default: {few})")
    return run(usage, argv, OptimizerOptions, check_optimizer)


if __name__ == "__main__":
    sys.exit(run_command(main))
