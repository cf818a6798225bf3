"""``align``: compare a Paddle layer with a torch module and find the layer at fault.

The module is independent of any model. A ``Session`` uses both frameworks. Its steps are those of a comparison: run the
reference, run the port, pair the calls, judge every value. Where something differs, the port runs once more, cut at
every paired call, to find where the difference begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from alignment.engine.accounts import Accounts, split
from alignment.engine.blame import Blame
from alignment.engine.borrowed import PORT, REFERENCE, Borrowed, PaddleLayer, TorchModule, borrow, refuse_swapped
from alignment.engine.derived_map import derived_map
from alignment.engine.explaining.explain_layer import UNEXPLAINED
from alignment.engine.folding import Fold, fold
from alignment.engine.judging.accepted import Split
from alignment.engine.judging.accepted import split as split_settings
from alignment.engine.judging.gradients import gradient_rows, parameter_rows, unasked_rows
from alignment.engine.judging.limits import MOST_LEAKED
from alignment.engine.judging.outputs import output_rows
from alignment.engine.judging.rows import is_decisive, undecided_behind
from alignment.engine.layer_settings import settings_compared
from alignment.engine.pairing.calls import Matching, Model, match
from alignment.engine.pairing.points import Point, find_points
from alignment.engine.records.losses import LOSS
from alignment.engine.records.store import MEMORY, Budget
from alignment.engine.records.tape import ROOT, Tape
from alignment.engine.records.tree import as_arrays
from alignment.engine.reporting.report import Report
from alignment.engine.result import (
    COMPUTATION,
    FORWARD,
    Culprit,
    Result,
    Skipped,
)
from alignment.engine.runs import (
    Loss,
    Reference,
    Start,
    leaks_into,
    paddle_changes,
    rounding_of,
    run_port,
    run_reference,
    start_of,
    torch_changes,
)
from alignment.engine.sides.model import ModelRaised
from alignment.engine.sides.paddle.settings import lacks_backward_in_evaluation
from alignment.engine.sides.torch.borrow import threads_as_torch
from alignment.engine.sides.torch.constants import BACKWARD_ALONE
from alignment.engine.sides.torch.resetting import set_as_port
from convert.matching.key_map import KeyMap

Inputs = np.ndarray | Sequence[Any] | Mapping[str, Any]
Progress = Callable[[str], None]
AMPLIFIED = "the reference changes as much when its weights move by units in the last place of float64"


@dataclass(frozen=True)
class Options:
    """The options of a comparison; see ``align``."""

    labels: Any = None
    loss: str | tuple[Loss, Loss] | None = None
    key_map: str | Mapping[str, str] | KeyMap = "auto"
    mode: str = "eval"
    dtype: str = "float64"
    backward: bool = True
    isolate: bool = True
    seed: int = 0
    max_memory: int = MEMORY
    accept: Mapping[str, str] = field(default_factory=dict)


def align(
    torch_module: TorchModule,
    paddle_layer: PaddleLayer,
    inputs: Inputs,
    labels: Any = None,
    loss: str | tuple[Loss, Loss] | None = None,
    *,
    key_map: str | Mapping[str, str] | KeyMap = "auto",
    mode: str = "eval",
    dtype: str = "float64",
    backward: bool = True,
    isolate: bool = True,
    seed: int = 0,
    max_memory: int = MEMORY,
    accept: Mapping[str, str] | None = None,
    reference: Reference | None = None,
    progress: Progress = lambda line: None,
) -> Report:
    """Compare every layer of ``paddle_layer`` with its twin in ``torch_module``, and find the layers at fault.

    ``inputs``: the arguments of both models: one array, a sequence of arrays, or a mapping by name; tensors of either
    framework are accepted. ``loss``: a name of ``alignment.engine.runs.LOSSES``, or two functions
    ``(output, *labels) -> number``, for torch and for Paddle. It is compared as one more layer, ``(loss)``, and
    gradients start at it. Labels without a loss mean cross entropy. Without either, gradients start from a random
    direction, drawn with ``seed``, at every output.

    ``key_map``: ``"auto"``, a ``KeyMap`` (returned by ``alignment.transfer``, or loaded), or
    ``{path or tensor in torch: in Paddle}`` for what cannot be told apart. ``mode`` is ``eval`` or ``train``; dropout
    is off in both. Everything is judged in float64, and both models are returned as they came. With
    ``dtype="float32"`` the port also runs in float32 and is compared with the reference's float32 noise:
    ``result.working`` is informative, float64 judges.

    ``accept={"slope": "why"}`` accepts a setting that differs on purpose, in every layer; ``"neck.act:slope"`` accepts
    it in one. The reference then runs with the port's setting, and the verdict states what was accepted, and why.

    ``max_memory``: bytes of the records that stay in memory; the rest goes to a temporary file. ``reference`` reuses
    the torch runs when one module is compared with several ports. ``isolate=False`` skips the run that finds where a
    difference begins. An exception in the Paddle model ends its run and is reported as a culprit at the layer that
    raised it.

    Raises ``AmbiguousMatch`` where a layer with weights has several possible twins, ``ModelRaised`` for an exception of
    the torch module, ``TypeError`` for models that are swapped, and ``ValueError`` for an unknown ``mode``, ``dtype``
    or loss, a loss that is not one number, or a backward pass that Paddle does not have.
    """
    refuse_swapped(torch_module, paddle_layer)
    _refuse_unknown_type(dtype)
    options = Options(labels, loss, key_map, mode, dtype, backward, isolate, seed, max_memory, accept or {})
    session = Session(torch_module, paddle_layer, as_arrays(inputs), options, reference or Reference(), progress)
    return session.compare()


def _refuse_unknown_type(dtype: str) -> None:
    if dtype not in ("float64", "float32"):
        raise ValueError(f"dtype must be 'float64' or 'float32', got {dtype!r}")


@dataclass
class Session:
    """One comparison: both models, the options, and what each step has found so far."""

    torch_module: TorchModule
    paddle_layer: PaddleLayer
    inputs: Any
    options: Options
    runs: Reference
    progress: Progress
    models: Borrowed = field(init=False)
    start: Start | None = field(init=False, default=None)
    budget: Budget = field(init=False)
    errors: list[ModelRaised] = field(init=False, default_factory=list)
    accounts: Accounts = field(init=False)
    matching: Matching = field(init=False)
    points: Mapping[Any, Point] = field(init=False)
    settings: Split = field(init=False)
    folds: Mapping[str, Fold] = field(init=False, default_factory=dict)
    port: Tape = field(init=False)

    def compare(self) -> Report:
        """Run all steps and return the result; both models are returned as they came."""
        options, self.budget = self.options, Budget(self.options.max_memory)
        if options.backward:
            self.start = start_of(options.loss, as_arrays(options.labels), options.seed)
        borrowed = borrow(self.torch_module, self.paddle_layer, options.mode)
        with borrowed as self.models, threads_as_torch(), PORT.in_type(self.paddle_layer, "float64"):
            if self.start is not None and self.start.losses:
                self.models.add(LOSS, self.start.loss(REFERENCE), self.start.loss(PORT), LOSS)
            self.run_reference()
            self.run_port()
            self.account()
            self.pair()
            self.compare_settings()
            result = self._with_leaks(self._with_constants(self.judged(self.port, "float64")))
            if not self._is_undecidable(result):
                Blame(self).find(result)
                result = self._with_rounding(result)
            if options.dtype == "float32":
                self.progress("Paddle in float32, for information")
                result.working = self.judged(self._port_in("float32", []), "float32")
        return result

    # --- steps ------------------------------------------------------------------------------------------------------

    def run_reference(self) -> None:
        """Run torch in float64, and in float32 for the noise floor, unless an earlier comparison did."""
        if self.runs.recorded is None:
            found = run_reference(self.models, self.inputs, self.start, self.budget, self.progress)
            # stored in the caller's object, for further ports
            vars(self.runs).update(vars(found))

    def run_port(self) -> None:
        """Run the whole port in float64; an exception ends the run and is recorded."""
        self.progress("Paddle in float64")
        self.port = self._port_in("float64", self.errors)
        for raised in self.errors:
            self._refuse_absent_backward(raised)

    def _port_in(self, dtype: str, errors: list[ModelRaised]) -> Tape:
        guide = self.runs.tape.by_key()
        return run_port(self.models, self.inputs, self.start, dtype, self.budget, guide, self.runs.tape, errors.append)

    def _refuse_absent_backward(self, raised: ModelRaised) -> None:
        """Raise ``ValueError`` for a recurrent layer in evaluation: Paddle, not the port, lacks its backward pass."""
        recurrent = [p for p, layer in self.models.port.items() if lacks_backward_in_evaluation(layer)]
        finished = any(record.path == ROOT for record in self.port)
        if recurrent and finished and self.options.backward and self.options.mode == "eval":
            raise ValueError(
                f"Paddle has no backward pass of {type(self.models.port[recurrent[0]]).__name__} ({recurrent[0]}) in "
                'evaluation: compare with mode="train" (where it computes the same), or with backward=False'
            ) from raised

    def account(self) -> None:
        """Account for every tensor of both models by the key map."""
        modules = self.torch_module, self.paddle_layer
        self.accounts = Accounts(self.models, derived_map(self.options.key_map, *modules, self.runs.tape, self.port))

    def pair(self) -> None:
        """Pair the layers and calls of the port with those of the reference."""
        tape = self.runs.tape
        reference = Model(self.models.reference_settings, tape)
        port = Model(self.models.port_settings, self.port)
        certain = self.accounts.key_map.layers()
        if LOSS in self.models.reference:
            certain[LOSS] = LOSS
        whole = self.accounts.whole() | {LOSS}
        self.matching = match(reference, port, certain, whole, finished=not self.errors)
        self.points = find_points(reference, port, tape, self.matching)
        self.folds = {fold.layer: fold for fold in self._folds()}

    def compare_settings(self) -> None:
        """Compare the layers' settings; if a difference is accepted, run the reference again, set as the port."""
        compared = settings_compared(self.models, self.matching, self.runs.tape)
        self.settings = split_settings(compared, self.options.accept)
        if self.settings.unused:
            raise ValueError(f"accept names {', '.join(self.settings.unused)}, but no paired layers differ in it")
        if self.settings.accepted:
            self.progress("torch in float64, with the accepted settings")
            with set_as_port(self.models.reference, self.settings.wanted()):
                self.runs = run_reference(self.models, self.inputs, self.start, self.budget, self.progress)
            self.pair()

    def _folds(self) -> Iterator[Fold]:
        """Yield the normalisations that the port folded into the layer in front of them."""
        for point in self.points.values():
            if point.folded:
                twin = self.matching.twins[point.record.path]
                theirs = {split(name)[1]: array for name, array in self.accounts.theirs.arrays.items()
                          if split(name)[0] == twin}  # fmt: skip
                settings = self.models.reference_settings[point.folded]
                found = fold(point.record.path, point.folded, settings, self.accounts.ours.arrays, theirs)
                if found.exact:
                    yield found

    def judged(self, port: Tape, dtype: str) -> Report:
        """Judge every value of a run of the port against the reference's."""
        tape, floor = self.runs.tape, self.runs.floor(dtype)
        result = Report(f"{type(self.torch_module).__name__}: torch against Paddle", dtype)
        result.rows = [*output_rows(tape, port, floor, self._made(port), self.points)]
        if self.options.backward:
            result.rows += gradient_rows(tape, port, floor, self._made(port), self.points)
            theirs = {name: port.get(ref) for name, ref in port.param_grads.items()}
            gradients = self.accounts.gradients(tape, floor, theirs)
            result.rows += parameter_rows((g for g in gradients if split(g.name)[0] not in self.folds), floor)
            result.rows += unasked_rows(self.accounts.unasked(tape, theirs))
            if self.folds:
                folded = ", ".join(f"{found.layer} and {found.norm}" for found in self.folds.values())
                result.missing.append(f"the gradients of {folded}, which the port folded: use backward=False")
        self._list_what_is_left(result)
        result.facts.update(self.models.notes)
        for raised in self.errors:
            result.facts["Paddle raised"] = f"in {raised.path}: {raised.words}"
        if not any(record.path == ROOT for record in port):
            result.missing.append("the port returned nothing")
        return result

    def _is_undecidable(self, result: Result) -> bool:
        """Return whether the port cannot be judged: the reference is NaN, or a model does not repeat its own result."""
        decisive = [row for row in result.rows if is_decisive(row)]
        if all(row.aligned for row in decisive) or self.errors:
            return False
        if not any(row.differs for row in decisive):
            result.rows = [row for row in result.rows if not row.differs]
            return True
        if all(row.aligned for row in result.rows if row.direction == FORWARD):
            return False  # both models agree, so each repeats its result
        self.progress("running both models once more, forward, to check that they repeat their results")
        for name, change in (("torch", self._torch_changes), ("Paddle", self._paddle_changes)):
            layer = change()
            words = f"does not repeat its result when it runs twice, first in {layer}"
            if layer is not None and name == "Paddle" and self.options.mode == "eval":
                result.facts[name] = words  # randomness in evaluation is a fault of the port, which the search finds
            elif layer is not None:
                result.rows = []
                result.missing.append(
                    f"{name} {words}: switch off random operations (stochastic depth, dropout by a function) "
                    "and state kept from call to call"
                )
                return True
        return False

    def _torch_changes(self) -> str | None:
        if self.runs.repeated is None:
            with set_as_port(self.models.reference, self.settings.wanted()):
                changed = torch_changes(self.models, self.inputs, self.runs.tape, self.budget, self.runs.as_paddle)
            self.runs.repeated = (changed,)
        return self.runs.repeated[0]

    def _paddle_changes(self) -> str | None:
        return paddle_changes(self.models, self.inputs, self.port, self.budget)

    def _with_constants(self, result: Report) -> Report:
        """Judge against the reference with Paddle's constants; return that result if fewer rows differ."""
        wrong = [row for row in result.rows if row.direction == FORWARD and not row.aligned]
        if not wrong or not self.runs.constants.keys() - BACKWARD_ALONE:
            return result
        self.progress("torch in float64, with the constants that Paddle keeps in float32")
        strict, matching, points = self.runs, self.matching, self.points
        with set_as_port(self.models.reference, self.settings.wanted()):
            self.runs = run_reference(self.models, self.inputs, self.start, self.budget, self.progress, as_paddle=True)
        self.pair()
        other = self.judged(self.port, "float64")
        if sum(not row.aligned for row in other.rows) >= sum(not row.aligned for row in result.rows):
            self.runs, self.matching, self.points = strict, matching, points
            return result
        for name, constant in self.runs.constants.items():
            words = f"in torch with the constants that Paddle's kernel keeps in float32, {constant.size:.1e} away"
            other.facts[name] = words
        return other

    def _with_leaks(self, result: Report) -> Report:
        """Judge gradients with the change that Paddle's float32 constants cause, if that may explain the differences.

        If outputs differ, or the first wrong gradient differs by more than constants explain, ``result`` is returned.
        """
        differing = [row for row in result.rows if row.differs and (row.direction != FORWARD or is_decisive(row))]
        first, wrong = next(iter(differing), None), {row.layer for row in differing}
        if self.runs.leaks or first is None or first.direction == FORWARD or first.relative > MOST_LEAKED:
            return result
        self.progress("torch in float64, for what constants that Paddle keeps in float32 do to gradients")
        with set_as_port(self.models.reference, self.settings.wanted()):
            self.runs.leaks = leaks_into(self.models, self.inputs, self.start, self.runs, self.budget)
        other = self.judged(self.port, "float64")
        rows = [row for row in other.rows if row.direction != FORWARD and row.layer in wrong]
        if excused := [row.relative for row in rows if row.aligned]:
            words = f"constants that the frameworks' kernels keep in float32 change them by up to {max(excused):.1e}"
            other.facts["gradients"] = words
        return other

    def _with_rounding(self, result: Report) -> Report:
        """Judge by the reference's float64 rounding, where every layer alone is right and a value differs.

        Where float32 saturates, its error does not measure float64 rounding. A difference that rounding does not
        explain is a fault of the first layer that differs.
        """
        row = result.first_difference
        if result.culprits or result.passed or row is None:
            return result
        if self.options.isolate and not row.note:
            self.progress("torch in float64, for what rounding in float64 does")
            with set_as_port(self.models.reference, self.settings.wanted()):
                own = rounding_of(self.models, self.inputs, self.start, self.runs, self.budget)
            # only for this port: another port may be at fault here
            before, self.runs = self.runs, replace(self.runs, own=own)
            other = self.judged(self.port, "float64")
            other.rows = undecided_behind(other.rows)
            if not any(row.differs for row in other.rows):
                other.accepted, other.facts = result.accepted, {**result.facts, "rounding": AMPLIFIED}
                return other
            self.runs = before
        result.culprits = [Culprit(row.layer, row.twin, COMPUTATION, row.note or UNEXPLAINED)]
        return result

    def _made(self, port: Tape) -> dict[Any, Any]:
        made = port.by_key()
        return {key: twin for key, twin in self.matching.calls.items() if twin in made}

    def _list_what_is_left(self, result: Result) -> None:
        for paths, side, kinds in (
            (self.matching.only_reference, "torch", self.runs.tape.layers),
            (self.matching.only_port, "Paddle", self.port.layers),
        ):
            result.skipped += [Skipped(path, kinds[path], side, reason) for path, reason in paths.items()]
        result.skipped += self.accounts.constants()
