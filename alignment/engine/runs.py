"""The runs that ``align`` compares: the reference's in float64 and float32, the port's, and where gradients start."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from alignment.engine.borrowed import PORT, REFERENCE, Borrowed, TorchModule
from alignment.engine.judging.echo import EchoStore, difference
from alignment.engine.judging.noise import Noise, NoiseFloor, credible, measure_leaks, measure_own, run_in_both
from alignment.engine.pairing.points import Point
from alignment.engine.records.losses import LOSS
from alignment.engine.records.store import Budget, Store
from alignment.engine.records.tape import Key, Record, Tape
from alignment.engine.sides.model import ModelRaised
from alignment.engine.sides.paddle import capture as capture_paddle
from alignment.engine.sides.paddle import cut
from alignment.engine.sides.side import Roots, Side
from alignment.engine.sides.torch.borrow import in_type
from alignment.engine.sides.torch.constants import OWN, Constant, constants_of_paddle

# One model run twice does the same operations in the same order; threads may split a sum otherwise, which is worth
# some units in the last place. What is random changes a value by its own size.
SAME_RUN = 2.0**-30
Loss = Callable[..., Any]
"""``(output, *labels) -> number``, in one framework."""

LOSSES = ("cross_entropy", "binary_cross_entropy_with_logits", "mse_loss", "l1_loss", "smooth_l1_loss")
"""Losses that both frameworks have under one name, the mean over all elements."""


@dataclass
class Reference:
    """The reference's run (``recorded``), what float32 does to it by the index of the tensor, and the functions that
    it called of which Paddle keeps constants in float32, ``as_paddle`` with them. ``leaks`` is what those, and what a
    port may write in their place (``functions`` names all), do to its gradients, and ``own`` what rounding in float64
    does to all tensors, once these were measured.

    Kept so that several ports can be compared with it.
    Filled by the first ``align`` that it is given to; good for the same module, weights, inputs and options only.
    """

    recorded: Tape | None = None
    noise: dict[int, Noise] = field(default_factory=dict)
    constants: Mapping[str, Constant] = field(default_factory=dict)
    functions: tuple[str, ...] = ()
    as_paddle: bool = False
    leaks: Mapping[int, Noise] = field(default_factory=dict)
    own: Mapping[int, Noise] = field(default_factory=dict)

    @property
    def tape(self) -> Tape:
        """The run. Raises ``ValueError`` where there was none yet."""
        if self.recorded is None:
            raise ValueError("the reference has not been run: give it to align first")
        return self.recorded

    def floor(self, dtype: str) -> NoiseFloor:
        """What rounding explains in ``dtype``."""
        if dtype != "float64" or self.recorded is None:
            return NoiseFloor(dtype, self.noise, self.leaks)
        return NoiseFloor(dtype, credible(self.recorded, self.noise), self.leaks, self.own)


@dataclass(frozen=True)
class Start:
    """Where gradients start: at the loss, or from a random direction, drawn with ``seed``, at every output."""

    seed: int
    labels: tuple[Any, ...] = ()
    losses: Mapping[str, Any] = field(default_factory=dict)
    """The loss as a layer, by the label of a side."""

    def loss(self, side: Side) -> Any:
        """The loss of ``side`` as a layer, or ``None``."""
        return self.losses.get(side.LABEL)

    def on(self, side: Side) -> Callable[[Any], Roots]:
        """What turns the output of a model of ``side`` into where gradients start."""
        loss = self.loss(side)
        if loss is None:
            return partial(side.in_random_directions, seed=self.seed)
        return partial(side.at_loss, loss=loss, labels=self.labels)

    def beside(self, side: Side) -> dict[str, Any]:
        """The layers that run beside the model of ``side``, by path."""
        return {} if self.loss(side) is None else {LOSS: self.loss(side)}


def start_of(loss: str | tuple[Loss, Loss] | None, labels: Any, seed: int) -> Start:
    """The start that ``align``'s arguments name. Raises ``ValueError`` for a loss of an unknown name."""
    if loss is None and labels is None:
        return Start(seed)
    chosen = "cross_entropy" if loss is None else loss
    if isinstance(chosen, str):
        if chosen not in LOSSES:
            raise ValueError(f"no loss called {chosen!r}; give one of {', '.join(LOSSES)}, or (for torch, for Paddle)")
        chosen = getattr(REFERENCE.FUNCTIONS, chosen), getattr(PORT.FUNCTIONS, chosen)
    given = () if labels is None else tuple(labels) if isinstance(labels, (list, tuple)) else (labels,)
    losses = {side.LABEL: side.loss_layer(function) for side, function in zip((REFERENCE, PORT), chosen, strict=True)}
    return Start(seed, given, losses)


def give_back_memory() -> None:
    """What an earlier phase freed goes back to the system; glibc keeps it otherwise, and peaks add up."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def run_reference(
    models: Borrowed, inputs: Any, start: Start | None, budget: Budget, progress: Callable[[str], None],
    as_paddle: bool = False,
) -> Reference:  # fmt: skip
    """Run torch in float64, and in float32 for its errors; ``as_paddle`` with the constants of Paddle's kernels."""
    constants = constants_of_paddle(apply=as_paddle, alternatives=True, only=OWN)

    def run(dtype: str, store: Store, nudge: int = 0) -> Tape:
        progress(f"torch in {dtype}" + (", for the noise floor" if dtype == "float32" else ""))
        with constants:
            return _reference_run(models, inputs, start, dtype, store, nudge)

    tape, noise = run_in_both(run, budget)
    own = {name: constant for name, constant in constants.used.items() if name in OWN}
    return Reference(tape, noise, own, (*constants.used,), as_paddle)


def leaks_into(
    models: Borrowed, inputs: Any, start: Start | None, reference: Reference, budget: Budget
) -> dict[int, Noise]:  # fmt: skip
    """What constants that Paddle keeps in float32 do to the gradients of the ``reference``."""
    applied = OWN if reference.as_paddle else frozenset()

    def run(store: Store, name: str) -> Tape:
        with constants_of_paddle(alternatives=True, only=applied ^ {name}):
            return _reference_run(models, inputs, start, "float64", store)

    return measure_leaks([partial(run, name=name) for name in reference.functions], reference.tape, budget)


def rounding_of(
    models: Borrowed, inputs: Any, start: Start | None, reference: Reference, budget: Budget
) -> dict[int, Noise]:
    """What rounding in float64 does to the tensors of the ``reference``, measured in float64."""

    def run(dtype: str, store: Store, nudge: int = 0) -> Tape:
        with constants_of_paddle(apply=reference.as_paddle, alternatives=True, only=OWN):
            return _reference_run(models, inputs, start, dtype, store, nudge)

    return measure_own(run, reference.tape, budget)


def _reference_run(
    models: Borrowed, inputs: Any, start: Start | None, dtype: str, store: Store, nudge: int = 0
) -> Tape:
    loss = start.loss(REFERENCE) if start else None
    give_back_memory()
    with ExitStack() as stack:
        for model in (models.torch_module, None if loss is None else loss.function):
            if isinstance(model, TorchModule):
                stack.enter_context(in_type(model, dtype, nudge))
        return REFERENCE.capture(models.torch_module, inputs, store, *_beginning(start, REFERENCE))


def run_port(
    models: Borrowed, inputs: Any, start: Start | None, dtype: str, budget: Budget, guide: Mapping[Key, Record],
    reference: Tape, failed: Callable[[ModelRaised], None],
) -> Tape:  # fmt: skip
    """Run Paddle in ``dtype``, in which the model then stays; its buffers are put back.

    Of what the ``reference`` holds already only the difference is kept; ``guide`` holds its calls by the port's.
    """
    store = EchoStore(reference.store, budget)
    give_back_memory()
    with PORT.in_type(models.paddle_layer, dtype):
        return capture_paddle.capture(models.paddle_layer, inputs, store, *_beginning(start, PORT), failed, guide)


def torch_changes(models: Borrowed, inputs: Any, first: Tape, budget: Budget, as_paddle: bool) -> str | None:
    """The layer from which on torch in float64 returns something else than in its ``first`` run, if any."""
    with constants_of_paddle(apply=as_paddle), in_type(models.torch_module, "float64"):
        return _first_change(REFERENCE, models.torch_module, inputs, first, budget)


def paddle_changes(models: Borrowed, inputs: Any, first: Tape, budget: Budget) -> str | None:
    """The same of Paddle."""
    with PORT.in_type(models.paddle_layer, "float64"):
        return _first_change(PORT, models.paddle_layer, inputs, first, budget, failed=lambda error: None)


def _first_change(
    side: Side, model: Any, inputs: Any, first: Tape, budget: Budget,
    failed: Callable[[ModelRaised], None] | None = None,
) -> str | None:  # fmt: skip
    """Runs ``model`` once more, forward alone; of what it returns only what is not the ``first`` run's is kept."""
    store = EchoStore(first.store, budget)
    give_back_memory()
    again = side.capture(model, inputs, store, failed=failed, guide=first.by_key())
    records = again.by_key()
    for record in first:
        other = records.get(record.key)
        pairs = [] if other is None else [*zip(record.output_refs(), other.output_refs())]
        if any(not difference(first, one, again, two).relative <= SAME_RUN for one, two in pairs):
            return record.path
    return None


def cut_port(
    models: Borrowed, inputs: Any, start: Start | None, tape: Tape, points: Mapping[str, Sequence[Point]],
    judge: cut.Judge,
) -> cut.CutRun:  # fmt: skip
    """Run Paddle in float64 once more, cut at ``points``."""
    give_back_memory()
    with PORT.in_type(models.paddle_layer, "float64"):
        return cut.run_cut(models.paddle_layer, inputs, tape, points, judge, *_beginning(start, PORT))


def _beginning(start: Start | None, side: Side) -> tuple[Callable[[Any], Roots] | None, dict[str, Any]]:
    """Where gradients start, and what runs beside the model; nothing without gradients."""
    return (None, {}) if start is None else (start.on(side), start.beside(side))
