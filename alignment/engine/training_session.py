"""``align_training``: compare the training of a Paddle layer with that of a torch module step by step.

The module is independent of models and optimizers. It uses both frameworks; ``alignment.engine.records.run`` lists the
compared quantities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from alignment.engine.borrowed import (
    PORT,
    REFERENCE,
    Borrowed,
    PaddleLayer,
    TorchModule,
    borrow,
    is_tensor,
    side_of,
)
from alignment.engine.explaining.training_causes import Evidence, find_culprits
from alignment.engine.judging.error import compare
from alignment.engine.judging.limits import BITS, MARGIN
from alignment.engine.judging.noise import NOTHING, Noise, added
from alignment.engine.judging.run_rows import compare_steps, left_out
from alignment.engine.judging.step_limits import SHARE, StepLimits, measure_spread
from alignment.engine.records.run import BUFFER, Run
from alignment.engine.records.store import Budget, Store
from alignment.engine.records.tree import mapped
from alignment.engine.reporting.report import Report
from alignment.engine.result import Culprit, Result, Skipped
from alignment.engine.sides.paddle.optimizers import optimizer_attributes_restored, schedule_restored
from alignment.engine.sides.paddle.steps import PaddleTraining, keeps_momentum_in_float32
from alignment.engine.sides.torch.constants import constants_of_paddle
from alignment.engine.sides.torch.steps import Follower
from alignment.engine.sides.training import Batch, Recipe
from alignment.engine.training_pairs import pair_tensors
from convert.matching.key_map import KeyMap

Pair = tuple[Callable[..., Any], Callable[..., Any]]
MaybePair = tuple[Callable[..., Any] | None, Callable[..., Any] | None]
Progress = Callable[[str], None]


def align_training(
    torch_module: TorchModule,
    paddle_layer: PaddleLayer,
    batches: Sequence[tuple[Any, Any]],
    *,
    loss: Pair,
    optimizer: Pair,
    scheduler: MaybePair | None = None,
    ema: MaybePair | None = None,
    grad_clip: MaybePair | None = None,
    key_map: str | Mapping[str, str] | KeyMap = "auto",
    mode: str = "train",
    dtype: str = "float64",
    max_memory: int = 256 * 2**20,
    progress: Progress = lambda line: None,
) -> Report:
    """Train the port on the batches, judge every quantity of every step by the reference, and find what is at fault.

    ``batches``: (inputs, labels) for each step. Inputs are one array, a sequence of arrays, or a mapping by name;
    labels are what both losses take: an array, or a list, tuple or dict of arrays. Tensors of either framework are
    converted to arrays. The next arguments are pairs, one callable for torch and one for Paddle; each makes a new
    object whenever it is called:

    - ``loss(output, labels)``: a scalar.
    - ``optimizer(model)``: over ``model``'s parameters, in groups or not.
    - ``scheduler(optimizer)``: an object whose ``step_update(num_updates=k)``, as timm's, or else ``step()`` is called
      after update k. Without one for Paddle, the optimizer's ``LRScheduler`` is used if it has one as its learning
      rate.
    - ``ema(model)``: an object whose ``update(model)``, or ``update(model, step=k)`` if it takes ``step``, is called
      after update k. Averages are read from its ``module``, or else from its ``state_dict()``.
    - ``grad_clip(parameters)``: called on the parameters with a gradient, between the backward pass and the step. A
      Paddle optimizer's own ``grad_clip`` is compared as well.

    ``key_map`` and ``mode`` as in ``align``; a ``KeyMap``, as ``transfer`` returns it, pairs tensors, also packed ones
    (q, k and v) with separate ones. Dropout is off. The port trains in ``dtype``. At each step torch, in float64,
    starts from the port's weights and statistics, so that no error grows from step to step. Its outputs, loss,
    gradients and statistics are those of the port's weights. Its clip receives the port's gradients, its optimizer the
    port's gradients and rates, its average the port's weights. Learning rates are the reference's own. If all of that
    agrees at each step, and so does the start, the two trainings are the same but for rounding.

    Both models are returned as they came, Paddle's without gradients. The record of a step is about six times the
    weights; ``max_memory`` bytes of each of the two records stay in memory, the rest goes to temporary files.

    Rows are in the order of steps and of ``alignment.engine.records.run.KINDS``, in which each quantity determines the
    next: ``result.first_difference`` is the first departure. ``result.culprits`` explain it.

    Raises ``AmbiguousMatch`` where a layer has several possible twins; ``ValueError`` for an unknown ``mode`` or
    ``dtype``, for no batches or batches that are not pairs, and where a callable returns the same object twice;
    ``StepError`` for whatever a model or a callable raises, with the side and the step at which it did.
    """
    batches = _arrays_of(torch_module, paddle_layer, batches, dtype)
    recipes = _recipes(loss, optimizer, scheduler, ema, grad_clip)
    with borrow(torch_module, paddle_layer, mode) as models, optimizer_attributes_restored(paddle_layer):
        return TrainingSession(models, batches, recipes, key_map, dtype, max_memory, progress).compare()


class TrainingSession:
    """One comparison of two trainings: both models, the recipes, the runs, and the findings."""

    def __init__(
        self, models: Borrowed, batches: Sequence[Batch],
        recipes: tuple[Recipe, Recipe], key_map: str | Mapping[str, str] | KeyMap, dtype: str,
        max_memory: int, progress: Progress,
    ):  # fmt: skip
        self.models, self.batches, self.dtype = models, batches, dtype
        self.ours, self.theirs = recipes
        self.max_memory, self.progress = max_memory, progress
        self.pairs = pair_tensors(models, key_map)
        self.momenta: set[float] = set()
        self.clip_groups: list[list[str]] = []
        self.float32_settings: tuple[str, ...] = ()
        self.inexact = 0.0
        self.constants = constants_of_paddle(apply=False, alternatives=True)
        name = type(models.torch_module).__name__
        self.title = f"{name}: {len(batches)} steps of training, torch against Paddle"

    def compare(self) -> Report:
        """Run all steps, from the port's run to the culprits."""
        if unstable := [*self.unrepeatable()]:
            return Report(self.title, self.dtype, missing=unstable, facts=dict(self.models.notes))
        with ExitStack() as stack:
            self.momenta = stack.enter_context(_momenta_rounded(self.models, self.pairs.layers))
            self.run_port(stack)
            self.follow()
            self.measure()
            result = self.with_leaks(self.judged())
            result.culprits = self.explained(result)
        _name_first(result)
        return result

    @property
    def last(self) -> int:
        """The last step that the reference can follow; only the first if not all of the port's weights are paired."""
        return 1 if self.pairs.ties or any(self.pairs.extra.values()) else len(self.batches)

    def unrepeatable(self) -> Iterator[str]:
        """Yield the sides whose outputs of the first batch change when they run a second time."""
        inputs, _ = self.batches[0]
        ours, theirs = self.models.torch_module, self.models.paddle_layer
        for side, model, dtype in ((REFERENCE, ours, "float64"), (PORT, theirs, self.dtype)):
            found = []
            for _ in range(2):
                with side.in_type(model, dtype):
                    found.append(side.outputs(model, inputs))
            errors = [compare(found[0][path], found[1][path]).relative for path in found[0].keys() & found[1].keys()]
            worst = max((error for error in errors if not np.isnan(error)), default=0.0)
            if worst > MARGIN[self.dtype] * 2.0 ** -BITS[self.dtype]:
                yield (
                    f"{side.LABEL}'s model does not repeat its result: run twice on the first batch, its outputs "
                    f"differ by {worst:.1e}; it draws its own random numbers, or keeps state outside of its "
                    "buffers"
                )

    def run_port(self, stack: ExitStack) -> None:
        """Train the port in its dtype; its state is restored when ``stack`` closes."""
        self.progress(f"Paddle in {self.dtype}, {len(self.batches)} steps")
        layer = self.models.paddle_layer
        stack.enter_context(PORT.in_type(layer, self.dtype))
        training = PaddleTraining(layer, self.theirs, self.pairs.layout)
        stack.enter_context(schedule_restored(training.scheduler))
        store = Store(Budget(self.max_memory))
        labels = [labels for _, labels in self.batches]
        self.port = Run([*training.run(self.batches, lambda: store)], training.given(), training.frozen(), labels)
        self.float32_settings, self.clip_groups = training.float32_settings(), training.clip_groups()
        self.inexact = training.inexact()
        self.changed = {"Paddle": training.changed()}

    def follow(self) -> None:
        """Repeat each of the port's steps with the reference in float64."""
        self.progress("torch in float64, from the port's weights at each step")
        store = Store(Budget(self.max_memory))
        self.follower = self._follower()
        with REFERENCE.in_type(self.models.torch_module, "float64"), self.constants:
            steps = [*self.follower.follow(self.port, self._followed(), lambda: store)]
        first, last = (steps[number].of(BUFFER) for number in (0, -1))
        alone = [name for name in first if name not in self.pairs.names]
        self.changed["torch"] = [name for name in alone if not np.array_equal(first[name], last[name])]
        self.reference = Run(steps, self.follower.given, self.follower.frozen, self.port.labels)

    def measure(self) -> None:
        """Repeat the same steps with the reference in float32 to measure rounding."""
        self.progress("torch in float32, measuring rounding")
        with REFERENCE.in_type(self.models.torch_module, "float32"):
            rounded = self._follower().follow(self.port, self._followed(), lambda: Store(Budget(self.max_memory)))
            with closing(rounded):
                self.limits = StepLimits(measure_spread(self.reference, rounded), self.dtype, self.inexact)

    def with_leaks(self, result: Report) -> Report:
        """Return ``result``, or one that allows for Paddle's float32 constants if these may explain the differences."""
        if not self.constants.used or not any(row.differs for row in result.rows):
            return result
        self.progress("torch in float64, with the constants that Paddle keeps in float32")
        leaks: dict[Any, Noise] = {}
        for name in self.constants.used:
            constants = constants_of_paddle(alternatives=True, only={name})
            with REFERENCE.in_type(self.models.torch_module, "float64"), constants:
                moved = self._follower().follow(self.port, self._followed(), lambda: Store(Budget(self.max_memory)))
                with closing(moved):
                    found = measure_spread(self.reference, moved)
            leaks |= {key: added(noise, leaks.get(key, NOTHING)) for key, noise in found.items()}
        self.limits = replace(self.limits, leaks=leaks)
        wrong = {(row.layer, row.direction) for row in result.rows if row.differs}
        other = self.judged()
        if leaked := [row.relative for row in other.rows if row.aligned and (row.layer, row.direction) in wrong]:
            words = f"constants that the frameworks' kernels keep in float32 change values by up to {max(leaked):.1e}"
            other.facts["constants"] = words
        return other

    def _follower(self) -> Follower:
        return Follower(self.models.torch_module, self.ours, self.float32_settings)

    def _followed(self) -> Sequence[Batch]:
        return self.batches[: self.last]

    def judged(self) -> Report:
        """Judge every quantity; list what was not compared and the facts of the run."""
        result = Report(self.title, self.dtype)
        result.rows = [*compare_steps(self.reference, self.port, self.limits, self.pairs.names)]
        result.skipped = [*self.pairs.skipped, *left_out(self.reference, self.port)]
        if self.last < len(self.batches):
            steps = f"steps {self.last + 1} to {len(self.batches)}"
            reason = "the two models have different parameters, so the reference cannot start from the port's"
            result.skipped.append(Skipped(steps, "training", "both", reason))
        result.missing = [*_missing(self.pairs.extra, "parameters"), *_missing(self.changed, "statistics")]
        result.facts = {**self.models.notes, **self._facts(result)}
        return result

    def explained(self, result: Result) -> list[Culprit]:
        """Return the culprits."""
        normed: dict[str, Any] = {
            path: layer for path, layer in self.models.reference.items() if hasattr(layer, "running_mean")
        }
        momenta = {path: layer.momentum for path, layer in normed.items() if hasattr(layer, "momentum")}
        twins = self.pairs.names | self.pairs.layers
        return find_culprits(
            Evidence(
                self.reference, self.port, result.rows, self.dtype, twins, momenta, self.pairs, self.changed,
                self.clip_groups,
            )
        )  # fmt: skip

    def _facts(self, result: Result) -> dict[str, str]:
        own = "x 2**-29" if self.dtype == "float64" else "the worst tensor of each kind"
        facts = {
            "compared": f"{len(self.batches)} steps, Paddle {self.dtype} against torch float64",
            "each step": "torch starts from the port's weights and statistics; clip, optimizer and average of the "
            "reference are given what the port's were given",
            "floor": f"torch's own error in float32 within one step, {own}",
            "limits": f"none above {SHARE:.2g} of a tensor's own size, at which it is undecided",
        }
        for name, values in self.follower.settings.items():
            facts[name] = f"of the optimizer, in torch: {', '.join(map(repr, values))}, as Paddle keeps it (float32)"
        if self.inexact:
            facts["steps"] = f"the port's optimizer keeps constants in float32: {self.inexact:.1e} of a step is allowed"
        if self.momenta:
            values = ", ".join(map(repr, sorted(self.momenta)))
            facts["BatchNorm's momentum"] = f"in torch: {values}, as Paddle's kernel keeps it (float32)"
        if vanished := self.limits.vanished():
            facts["rounding"] = (
                f"the gradient of {', '.join(sorted(vanished))} is nothing but rounding: its error is measured "
                "against what cancels in it"
            )
        return facts


# --- what is handed in ----------------------------------------------------------------------------------------------


def _arrays_of(torch_module: TorchModule, paddle_layer: PaddleLayer, batches: Sequence[Any], dtype: str) -> list[Batch]:
    """Convert the batches to arrays.

    Raises ``TypeError`` for models of another framework, and ``ValueError`` for anything that is not a batch.
    """
    if not isinstance(torch_module, TorchModule) or not isinstance(paddle_layer, PaddleLayer):
        kinds = f"{type(torch_module).__name__} and {type(paddle_layer).__name__}"
        raise TypeError(f"the first argument must be a torch.nn.Module, the second a paddle.nn.Layer; got {kinds}")
    if dtype not in BITS:
        raise ValueError(f"dtype must be one of {', '.join(BITS)}, got {dtype!r}")
    if not len(batches):
        raise ValueError("there are no batches: a training of no steps proves nothing")
    found = []
    for number, batch in enumerate(batches):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ValueError(f"batches[{number}] must be a pair (inputs, labels), got {_described(batch)}")
        inputs, labels = (mapped(part, _is_data, _array) for part in batch)
        if not isinstance(inputs, (np.ndarray, Mapping, list, tuple)):
            raise ValueError(
                f"the inputs of batches[{number}] must be an array, a sequence or a mapping of arrays, "
                f"got {_described(inputs)}"
            )
        found.append((inputs, labels))
    return found


def _is_data(value: object) -> bool:
    return isinstance(value, (np.ndarray, np.generic)) or is_tensor(value)


def _array(value: Any) -> np.ndarray:
    return side_of(value).array_of(value) if is_tensor(value) else np.asarray(value)


def _described(value: Any) -> str:
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, (tuple, list)) else type(value).__name__


def _recipes(
    loss: Pair, optimizer: Pair, scheduler: MaybePair | None, ema: MaybePair | None, clip: MaybePair | None
) -> tuple[Recipe, Recipe]:
    given = {"loss": loss, "optimizer": optimizer, "scheduler": scheduler, "ema": ema, "grad_clip": clip}
    for name, pair in given.items():
        if pair is not None and not _is_pair(pair, required=name in ("loss", "optimizer")):
            raise ValueError(f"{name} must be two callables, for torch and for Paddle, got {_described(pair)}")
    parts = [*zip(*(pair or (None, None) for pair in given.values()))]
    return Recipe(*parts[0]), Recipe(*parts[1])


def _is_pair(pair: Any, required: bool) -> bool:
    known = isinstance(pair, (tuple, list)) and len(pair) == 2
    return known and all(callable(half) or (half is None and not required) for half in pair)


# --- what is said ---------------------------------------------------------------------------------------------------


def _missing(alone: Mapping[str, Sequence[str]], what: str) -> Iterator[str]:
    """Yield a message if unpaired tensors of both sides may belong together."""
    if all(alone.values()):
        ours, theirs = (", ".join(alone[side]) for side in ("torch", "Paddle"))
        yield f"{what} were not paired: {ours} in torch, {theirs} in Paddle; name them or their layers in the key map"


@contextmanager
def _momenta_rounded(models: Borrowed, layers: Mapping[str, str]) -> Iterator[set[float]]:
    """Give torch's BatchNorm the momentum as Paddle's kernel rounds it, for this context; yields the values used."""
    kept: list[tuple[Any, float]] = []
    used = set()
    for path, twin in layers.items():
        layer: Any = models.reference[path]
        momentum = getattr(layer, "momentum", None)
        if isinstance(momentum, float) and keeps_momentum_in_float32(models.port[twin]):
            kept.append((layer, momentum))
            layer.momentum = 1 - float(np.float32(1 - momentum))
            used.add(layer.momentum)
    try:
        yield used
    finally:
        for layer, momentum in kept:
            layer.momentum = momentum


def _name_first(result: Result) -> None:
    """Record the first departure, and where the reference and the port still agreed."""
    first = result.first_difference
    if first is None:
        return
    result.facts["first departure"] = f"{first.direction} of {first.layer}"
    agreed = [before.direction for before, row in pairwise(result.rows) if row is first]
    if agreed:
        result.facts["first departure"] += f"; {agreed[0]} still agrees"
