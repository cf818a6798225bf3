"""The runs that ``align`` compares: the reference's in float64 and float32, the port's, and the start of gradients."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from alignment.engine.borrowed import PORT, REFERENCE, Borrowed, TorchModule
from alignment.engine.judging.echo import EchoStore, difference
from alignment.engine.judging.limits import NoiseFloor, credible
from alignment.engine.judging.noise import Noise, measure_leaks, measure_own, run_in_both
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

# One model run twice does the same operations in the same order. Threads may split a sum differently, which changes
# some units in the last place; random numbers change a value by its own size.
SAME_RUN = 2.0**-30
Loss = Callable[..., Any]
"""``(output, *labels) -> number``, in one framework."""

LOSSES = ("cross_entropy", "binary_cross_entropy_with_logits", "mse_loss", "l1_loss", "smooth_l1_loss")
"""Losses that both frameworks have under the same name, averaged over all elements."""


@dataclass
class Reference:
    """The reference's runs, kept so that several ports can be compared with them.

    ``recorded`` is the float64 run, ``noise`` the errors of float32 by the index of the tensor. ``constants`` are the
    called functions of which Paddle keeps constants in float32; ``as_paddle`` tells whether the run used these
    constants. ``leaks`` is what such constants change in the gradients, also those of functions that a port may write
    instead (``functions`` lists them all). ``own`` is what float64 rounding changes in all tensors. Both are empty
    until measured. ``repeated``, once it was run again: the first layer with another result, or ``None``, in a tuple.

    The first ``align`` that it is given to fills it. It is valid for the same module, weights, inputs and options only.
    """

    recorded: Tape | None = None
    noise: dict[int, Noise] = field(default_factory=dict)
    constants: Mapping[str, Constant] = field(default_factory=dict)
    functions: tuple[str, ...] = ()
    as_paddle: bool = False
    leaks: Mapping[int, Noise] = field(default_factory=dict)
    own: Mapping[int, Noise] = field(default_factory=dict)
    repeated: tuple[str | None] | None = None

    @property
    def tape(self) -> Tape:
        """The float64 run. Raises ``ValueError`` if there is none yet."""
        if self.recorded is None:
            raise ValueError("the reference has not been run: give it to align first")
        return self.recorded

    def floor(self, dtype: str) -> NoiseFloor:
        """Return the noise floor in ``dtype``."""
        if dtype != "float64" or self.recorded is None:
            return NoiseFloor(dtype, self.noise, self.leaks)
        return NoiseFloor(dtype, credible(self.recorded, self.noise), self.leaks, self.own)


@dataclass(frozen=True)
class Start:
    """The start of gradients: the loss, or a random direction, drawn with ``seed``, at every output."""

    seed: int
    labels: tuple[Any, ...] = ()
    losses: Mapping[str, Any] = field(default_factory=dict)
    """The loss as a layer, by the label of a side."""

    def loss(self, side: Side) -> Any:
        """The loss of ``side`` as a layer, or ``None``."""
        return self.losses.get(side.LABEL)

    def on(self, side: Side) -> Callable[[Any], Roots]:
        """Return a function from the output of a model of ``side`` to the roots of the backward pass."""
        loss = self.loss(side)
        if loss is None:
            return partial(side.in_random_directions, seed=self.seed)
        return partial(side.at_loss, loss=loss, labels=self.labels)

    def beside(self, side: Side) -> dict[str, Any]:
        """Return the layers that run beside the model of ``side``, by path."""
        return {} if self.loss(side) is None else {LOSS: self.loss(side)}


def start_of(loss: str | tuple[Loss, Loss] | None, labels: Any, seed: int) -> Start:
    """Return the start that ``align``'s arguments describe. Raises ``ValueError`` for an unknown loss name."""
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


class _Allocated(ctypes.Structure):
    """What glibc's ``mallinfo2`` (mallinfo(3), from glibc 2.33) returns; ``fordblks``: bytes that are free and kept."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks",
                     "keepcost")
    )  # fmt: skip


KEPT = 2**28
"""Bytes of freed memory that glibc may keep: giving back less takes a tenth of the time of a small comparison."""


def give_back_memory() -> None:
    """Return much freed memory to the system: glibc keeps it otherwise, and the peaks of several runs add up."""
    libc = ctypes.CDLL(None)
    trim, allocated = getattr(libc, "malloc_trim", None), getattr(libc, "mallinfo2", None)
    if trim is None:
        return
    if allocated is not None:
        allocated.restype = _Allocated
        if allocated().fordblks < KEPT:
            return
    trim(0)


def run_reference(
    models: Borrowed, inputs: Any, start: Start | None, budget: Budget, progress: Callable[[str], None],
    as_paddle: bool = False,
) -> Reference:  # fmt: skip
    """Run torch in float64, and in float32 for its errors; ``as_paddle`` uses the constants of Paddle's kernels."""
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
    """Measure what constants that Paddle keeps in float32 change in the gradients of the ``reference``."""
    applied = OWN if reference.as_paddle else frozenset()

    def run(store: Store, name: str) -> Tape:
        with constants_of_paddle(alternatives=True, only=applied ^ {name}):
            return _reference_run(models, inputs, start, "float64", store)

    return measure_leaks([partial(run, name=name) for name in reference.functions], reference.tape, budget)


def rounding_of(
    models: Borrowed, inputs: Any, start: Start | None, reference: Reference, budget: Budget
) -> dict[int, Noise]:
    """Measure what float64 rounding changes in the tensors of the ``reference``, in float64 runs."""

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
    """Run Paddle in ``dtype`` and record the run; the model stays in ``dtype``, its buffers are restored.

    The record stores only differences from the ``reference``. ``guide`` maps the port's calls to the reference's.
    """
    store = EchoStore(reference.store, budget)
    give_back_memory()
    with PORT.in_type(models.paddle_layer, dtype):
        return capture_paddle.capture(models.paddle_layer, inputs, store, *_beginning(start, PORT), failed, guide)


def torch_changes(models: Borrowed, inputs: Any, first: Tape, budget: Budget, as_paddle: bool) -> str | None:
    """Return the first layer whose output in torch's float64 run differs from the ``first`` run, or ``None``."""
    with constants_of_paddle(apply=as_paddle), in_type(models.torch_module, "float64"):
        return _first_change(REFERENCE, models.torch_module, inputs, first, budget)


def paddle_changes(models: Borrowed, inputs: Any, first: Tape, budget: Budget) -> str | None:
    """Return the first layer whose output in Paddle's float64 run differs from the ``first`` run, or ``None``."""
    with PORT.in_type(models.paddle_layer, "float64"):
        return _first_change(PORT, models.paddle_layer, inputs, first, budget, failed=lambda error: None)


def _first_change(
    side: Side, model: Any, inputs: Any, first: Tape, budget: Budget,
    failed: Callable[[ModelRaised], None] | None = None,
) -> str | None:  # fmt: skip
    """Run ``model`` forward once more and store only what differs from the ``first`` run."""
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
    """Return where gradients start and the layers beside the model; nothing if gradients are not compared."""
    return (None, {}) if start is None else (start.on(side), start.beside(side))
