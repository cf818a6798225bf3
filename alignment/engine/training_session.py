"""``align_training``: does this Paddle layer train as that torch module does, and if not, what departs first, and why?

It knows no model and no optimizer. Both frameworks meet here; what is compared is in ``alignment.engine.records.run``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import paddle
import torch

from alignment.engine.borrowed import Borrowed, borrow
from alignment.engine.explaining.training_causes import Evidence, find_culprits, find_suspects
from alignment.engine.judging.growth import Judge, Spread, first_leak, larger, measure_spread, noisy_parameters
from alignment.engine.judging.noise import BITS
from alignment.engine.judging.run_rows import compare_steps, left_out
from alignment.engine.records.run import Run, Step
from alignment.engine.records.store import Budget, Store
from alignment.engine.result import Result, Skipped
from alignment.engine.sides.model import join
from alignment.engine.sides.paddle import steps as steps_paddle
from alignment.engine.sides.paddle.borrow import paddle_in, paddle_tensors
from alignment.engine.sides.settings import Settings
from alignment.engine.sides.torch import steps as steps_torch
from alignment.engine.sides.torch.borrow import torch_in, torch_tensors
from convert.key_map import twin_name
from convert.matching.pairing import Layer, pair_layers

Inputs = np.ndarray | Sequence[np.ndarray]
Pair = tuple[Callable[..., Any], Callable[..., Any]]
MaybePair = tuple[Callable[..., Any] | None, Callable[..., Any] | None]
Progress = Callable[[str], None]


def align_training(
    torch_module: torch.nn.Module,
    paddle_layer: paddle.nn.Layer,
    batches: Sequence[tuple[Inputs, np.ndarray]],
    *,
    loss: Pair,
    optimizer: Pair,
    scheduler: MaybePair | None = None,
    ema: MaybePair | None = None,
    grad_clip: MaybePair | None = None,
    key_map: str | Mapping[str, str] = "auto",
    mode: str = "train",
    dtype: str = "float64",
    max_memory: int = 256 * 2**20,
    progress: Progress = lambda line: None,
) -> Result:
    """Train both models on the same batches and compare every quantity of every step; then say what is at fault.

    ``batches``: (inputs, labels) for each step, numpy arrays; several inputs as a sequence. What follows are pairs,
    one callable for torch and one for Paddle; each makes a new object whenever it is called:

    - ``loss(output, labels)``: a scalar.
    - ``optimizer(model)``: over ``model``'s parameters, in groups or not.
    - ``scheduler(optimizer)``: an object whose ``step_update(num_updates=k)``, as timm's, or else ``step()`` is called
      after update k. Without one for Paddle, the ``LRScheduler`` which the optimizer has as its learning rate is.
    - ``ema(model)``: an object whose ``update(model)``, or ``update(model, step=k)`` where it takes ``step``, is called
      after update k. Averages are read from its ``module``, or else from its ``state_dict()``.
    - ``grad_clip(parameters)``: called on those with a gradient, between the backward pass and the step. A Paddle
      optimizer's own ``grad_clip`` is seen as well.

    ``key_map`` and ``mode`` as in ``align``; dropout is off. torch trains in float64, Paddle in ``dtype``. Both models
    are given back as they came, Paddle's without gradients. A record of a step is about six times the weights;
    ``max_memory`` bytes of each of the two records stay in memory, the rest goes to temporary files.

    Rows are in the order of steps and of ``alignment.engine.records.run.KINDS``, in which one quantity makes the next:
    ``result.first_difference`` is the first departure. ``result.culprits`` says why.

    Raises ``AmbiguousMatch`` where a layer has several possible twins, and ``ValueError`` for an unknown ``mode`` or
    ``dtype``, for no batches, and where a callable returns the same object twice.
    """
    _refuse(batches, dtype)
    batches = [([inputs] if isinstance(inputs, np.ndarray) else [*inputs], labels) for inputs, labels in batches]
    ours, theirs = _recipes(loss, optimizer, scheduler, ema, grad_clip)
    with ExitStack() as stack:
        models = stack.enter_context(borrow(torch_module, paddle_layer, mode))
        stack.enter_context(steps_paddle.optimizer_attributes_restored(paddle_layer))
        twins = _twins(models, key_map)
        layers = {path: twin for path, twin in twins.items() if path in models.reference}
        momenta = stack.enter_context(_momenta_rounded(models, layers))
        names = _tensor_names(models, layers)
        stack.enter_context(paddle_in(paddle_layer, dtype))
        training = steps_paddle.Training(paddle_layer, theirs, {twin: name for name, twin in names.items()})
        stack.enter_context(steps_paddle.schedule_restored(training.scheduler))
        progress(f"Paddle in {dtype}, {len(batches)} steps")
        port = _recorded(training, batches, max_memory)
        torch_runs = _TorchRuns(torch_module, ours, training.float32_settings(), max_memory)
        progress("torch in float64")
        reference = torch_runs.exact(batches)
        progress("torch again, for what rounding does")
        spread = torch_runs.spread(reference, batches, dtype)
        if dtype == "float64":
            spread = larger(spread, torch_runs.spread(reference, batches[:1], "float32"))
        progress("torch's optimizer on Paddle's gradients")
        with closing(torch_runs.replayed(port, dtype)) as replayed:
            suspects = find_suspects(port, replayed, dtype)
        judge = Judge(spread, dtype, first_leak(reference, port) if dtype == "float64" else 0.0)
        judge.noisy = noisy_parameters(reference, judge)
        title = f"{type(torch_module).__name__}: {len(batches)} steps of training, torch against Paddle"
        result = Result(title, dtype, [*compare_steps(reference, port, judge, names)])
        result.skipped = [*_unpaired(models, names), *left_out(reference, port, judge)]
        result.facts = {**models.notes, **_facts(judge, torch_runs, momenta, len(batches))}
        found = Evidence(
            reference, port, suspects, result.rows, dtype, names | layers, _momenta(models), training.clip_groups()
        )
        result.culprits = find_culprits(found)
    _name_first(result)
    return result


def _refuse(batches: Sequence[Any], dtype: str) -> None:
    if dtype not in BITS:
        raise ValueError(f"dtype must be one of {', '.join(BITS)}, got {dtype!r}")
    if not len(batches):
        raise ValueError("there are no batches: a training of no steps proves nothing")


def _recipes(
    loss: Pair, optimizer: Pair, scheduler: MaybePair | None, ema: MaybePair | None, clip: MaybePair | None
) -> tuple[steps_torch.Recipe, steps_paddle.Recipe]:
    none = (None, None)
    parts = [*zip(loss, optimizer, scheduler or none, ema or none, clip or none)]
    return steps_torch.Recipe(*parts[0]), steps_paddle.Recipe(*parts[1])


class _TorchRuns:
    """The reference's three runs, each from the weights that the module came with."""

    def __init__(
        self, module: torch.nn.Module, recipe: steps_torch.Recipe, float32_settings: Sequence[str], max_memory: int
    ):
        self.module, self.recipe, self.max_memory = module, recipe, max_memory
        self.float32_settings = float32_settings
        self.settings: dict[str, list[float]] = {}
        self._seen: list[Any] = []

    def exact(self, batches: Sequence[steps_torch.Batch]) -> Run:
        """In float64."""
        with torch_in(self.module, torch.float64):
            training = self._training(rounded=False)
            self.settings = training.settings
            return _recorded(training, batches, self.max_memory)

    def spread(self, reference: Run, batches: Sequence[steps_torch.Batch], dtype: str) -> Spread:
        """How far the reference's exact run and its rounded one are apart."""
        with closing(self._rounded(batches, dtype)) as rounded:
            return measure_spread(reference, rounded)

    def _rounded(self, batches: Sequence[steps_torch.Batch], dtype: str) -> Iterator[Step]:
        """What the floor is measured with: rounded at each step, or for a port in float32 in float32 as a whole."""
        with torch_in(self.module, getattr(torch, dtype)):
            training = self._training(rounded=dtype == "float64")
            yield from training.run(batches, lambda: Store(Budget(self.max_memory)))

    def replayed(self, port: Run, dtype: str) -> Iterator[Step]:
        """The optimizer alone, on the port's gradients and learning rates, in the port's type."""
        with torch_in(self.module, getattr(torch, dtype)):
            training = self._training(rounded=False, alone=True)
            yield from training.replay(port.steps, lambda: Store(Budget(self.max_memory)))

    def _training(self, rounded: bool, alone: bool = False) -> steps_torch.Training:
        recipe = steps_torch.Recipe(self.recipe.loss, self.recipe.optimizer) if alone else self.recipe
        training = steps_torch.Training(self.module, recipe, self.float32_settings, rounded)
        if any(training.optimizer is seen for seen in self._seen):
            raise ValueError("the callable for torch's optimizer returned the same one twice; it must make a new one")
        self._seen.append(training.optimizer)
        return training


def _recorded(
    training: steps_torch.Training | steps_paddle.Training, batches: Sequence[steps_torch.Batch], max_memory: int
) -> Run:
    store = Store(Budget(max_memory))
    steps = [*training.run(batches, lambda: store)]
    return Run(steps, training.given(), training.frozen(), [np.asarray(labels) for _, labels in batches])


# --- names ----------------------------------------------------------------------------------------------------------


def _twins(models: Borrowed, key_map: str | Mapping[str, str]) -> dict[str, str]:
    """``{layer path in torch: in Paddle}`` for the layers with weights."""

    def weighted(settings: Mapping[str, Settings]) -> list[Layer]:
        return [Layer(path, s.category, s.shapes) for path, s in settings.items() if s.has_weights]

    given = {} if isinstance(key_map, str) else dict(key_map)
    return pair_layers(weighted(models.reference_settings), weighted(models.port_settings), given)


def _tensor_names(models: Borrowed, layers: Mapping[str, str]) -> dict[str, str]:
    """``{name in torch: in Paddle}`` of parameters and buffers that both have."""
    names = {}
    for path, twin in layers.items():
        theirs = paddle_tensors(models.port[twin])
        for name in torch_tensors(models.reference[path]):
            if twin_name(name) in theirs:
                names[join(path, name)] = join(twin, twin_name(name))
    return names


def pair_tensors(models: Borrowed) -> dict[str, str]:
    """``{name in torch: in Paddle}`` of all parameters and buffers, each layer with weights paired with its twin."""
    return _tensor_names(models, {p: twin for p, twin in _twins(models, "auto").items() if p in models.reference})


def _unpaired(models: Borrowed, names: Mapping[str, str]) -> Iterator[Skipped]:
    taken = set(names.values())
    sides = (
        ("torch", models.reference, torch_tensors, names.keys(), "Paddle"),
        ("Paddle", models.port, paddle_tensors, taken, "torch"),
    )
    for side, layers, tensors, known, other in sides:
        for path, layer in layers.items():
            for name in tensors(layer):
                if join(path, name) not in known:
                    yield Skipped(join(path, name), "tensor", side, f"no tensor of this place in {other}")


# --- BatchNorm's momentum -------------------------------------------------------------------------------------------


@contextmanager
def _momenta_rounded(models: Borrowed, layers: Mapping[str, str]) -> Iterator[set[float]]:
    """Within it torch's BatchNorm has the momentum that Paddle's kernel makes of it; yields the values used."""
    kept: list[tuple[torch.nn.Module, float]] = []
    used = set()
    for path, twin in layers.items():
        momentum = getattr(models.reference[path], "momentum", None)
        if isinstance(momentum, float) and steps_paddle.keeps_momentum_in_float32(models.port[twin]):
            kept.append((models.reference[path], momentum))
            models.reference[path].momentum = 1 - float(np.float32(1 - momentum))
            used.add(models.reference[path].momentum)
    try:
        yield used
    finally:
        for layer, momentum in kept:
            layer.momentum = momentum


def _momenta(models: Borrowed) -> dict[str, float]:
    settings = models.reference_settings.items()
    return {path: s.fields["momentum"] for path, s in settings if s.fields.get("momentum") is not None}


# --- what the reader should know ------------------------------------------------------------------------------------


def _facts(judge: Judge, runs: _TorchRuns, momenta: set[float], steps: int) -> dict[str, str]:
    floor = "torch's own, its weights, gradients and statistics rounded to float32 at each step, x 2**-29"
    facts = {
        "compared": f"{steps} steps, Paddle {judge.dtype} against torch float64",
        "floor": floor if judge.dtype == "float64" else "torch's own error in float32, the worst tensor of each kind",
    }
    for name, values in runs.settings.items():
        facts[name] = f"of the optimizer, in torch: {', '.join(map(repr, values))}, as Paddle keeps it (float32)"
    if momenta:
        values = ", ".join(map(repr, sorted(momenta)))
        facts["BatchNorm's momentum"] = f"in torch: {values}, as Paddle's kernel keeps it (float32)"
    if judge.leak > 2.0 ** -BITS["float32"] * 2.0**-8:
        facts["gradients"] = (
            f"Paddle's differ by {judge.leak:.1e} at the first step (constants that it keeps in float32); what such an "
            "error grows into is allowed"
        )
    if judge.horizon <= steps:
        facts["horizon"] = (
            f"from step {judge.horizon} on rounding in float32 separates torch from itself by more than a percent: "
            "there only schedule, clip, optimizer and average are judged, each on its own inputs"
        )
    if judge.noisy:
        facts["rounding"] = f"the gradient of {', '.join(sorted(judge.noisy))} is zero but for rounding"
    return facts


def _name_first(result: Result) -> None:
    """The first departure, and where the reference and the port still agreed."""
    first = result.first_difference
    if first is None:
        return
    result.facts["first departure"] = f"{first.direction} of {first.layer}"
    agreed = [before.direction for before, row in pairwise(result.rows) if row is first]
    if agreed:
        result.facts["first departure"] += f"; {agreed[0]} still agrees"
