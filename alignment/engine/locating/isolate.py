"""Every layer of the port on its own: what it does with the reference's inputs, forward and backward. No framework.

The frameworks come in as two functions, ``leaf`` and ``container``, that replay one call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alignment.engine.judging.error import Difference, compare
from alignment.engine.judging.noise import BACKWARD_LIMIT, BITS, FORWARD_LIMIT, VANISHING, NoiseFloor
from alignment.engine.records.layout import laid_out
from alignment.engine.records.store import Ref
from alignment.engine.records.tape import ROOT, Key, Record, Slot, Tape
from alignment.engine.result import FORWARD, GRADIENT, PARAMETER, Row

# a floor in float64 above which nothing of a tensor but rounding is there to agree
VANISHED = VANISHING * 2.0 ** (BITS["float32"] - BITS["float64"])


@dataclass(frozen=True)
class Finding:
    """One tensor of one isolated layer that is not the reference's.

    ``where`` is ``output``, ``input gradient``, ``parameter gradient``, ``handed`` (to the inner layer ``inner``),
    ``returned gradient`` (to it) or ``call``; ``index`` counts tensors, ``inner`` is the parameter's name where it is
    one's gradient. ``call`` is the layer's call, ``inner_call`` that of ``inner``. ``note`` says what is no number.
    """

    layer: str
    twin: str
    leaf: bool
    where: str
    index: int
    difference: Difference
    inner: str = ""
    note: str = ""
    expected: np.ndarray | None = field(default=None, repr=False, compare=False)
    actual: np.ndarray | None = field(default=None, repr=False, compare=False)
    call: int = 0
    inner_call: int = 0


@dataclass
class Measured:
    """What isolation looked at: ``findings`` beyond the limits, and the largest error of each layer by direction."""

    findings: list[Finding] = field(default_factory=list)
    errors: dict[tuple[str, str], float] = field(default_factory=dict)


class Judge:
    """Compares one replay after the other with the record."""

    def __init__(self, tape: Tape, twins: Mapping[str, str], floor: NoiseFloor):
        self.tape = tape
        self.twins = twins
        self.floor = floor
        self.measured = Measured()
        self._param_grads: dict[str, np.ndarray] = {}
        self._replayed: dict[str, tuple[Record, bool]] = {}

    def outputs(self, record: Record, replay: Any, leaf: bool, expected: Sequence[Ref]) -> None:
        """The arrays that came back."""
        if len(expected) != len(replay.outputs):
            self._note(record, leaf, "output", f"{len(replay.outputs)} outputs instead of {len(expected)}")
            return
        for index, (one, other) in enumerate(zip(expected, replay.outputs)):
            self.number(record, leaf, "output", index, one, other, FORWARD_LIMIT)

    def input_grads(self, record: Record, replay: Any, leaf: bool) -> None:
        """The gradients of the inputs."""
        for index, (slot, actual) in enumerate(zip(record.input_grads, replay.grads)):
            self._gradient(record, leaf, "input gradient", index, slot, actual)

    def handed(self, record: Record, replay: Any) -> None:
        """What the inner layers of a container received."""
        for handed in replay.handed:
            expected = handed.record.input_refs()
            if len(expected) != len(handed.tensors):
                note = f"{len(handed.tensors)} tensors instead of {len(expected)}"
                self._note(record, False, "handed", note, handed.record)
                continue
            for index, (one, other) in enumerate(zip(expected, handed.tensors)):
                self.number(record, False, "handed", index, one, other, FORWARD_LIMIT, handed.record)

    def answered(self, record: Record, replay: Any) -> None:
        """The gradients that flow back into the inner layers of a container."""
        for call, grads in replay.answered:
            for index, (slot, actual) in enumerate(zip(call.seeds(), grads)):
                self._gradient(record, False, "returned gradient", index, slot, actual, call)

    def missing_calls(self, record: Record, calls: Sequence[Record]) -> None:
        """Calls that the reference made and the port did not."""
        for call in calls:
            self._note(record, False, "call", f"call {call.call + 1} of {call.path} is missing", call)

    def add_param_grads(self, record: Record, replay: Any, leaf: bool) -> None:
        """Gradients of parameters add up over the calls, and over the layers that share them."""
        self._replayed[record.path] = record, leaf
        for name, grad in replay.param_grads.items():
            known = self._param_grads.get(name)
            self._param_grads[name] = grad if known is None else known + grad

    def param_grads(self, parameters: Mapping[str, tuple[str, str]]) -> None:
        """Gradients of parameters, when all calls were replayed; ``{torch name: (layer, unique name in the port)}``."""
        for name, (path, unique) in parameters.items():
            if path not in self._replayed or name not in self.tape.param_grads:
                continue
            record, leaf = self._replayed[path]
            expected, actual = self.tape.param_grads[name], self._param_grads.get(unique)
            actual = np.zeros(expected.shape) if actual is None else actual
            if actual.size == np.prod(expected.shape, dtype=int):
                actual = actual.reshape(expected.shape)
            role = name.rpartition(".")[2]
            self.number(record, leaf, "parameter gradient", 0, expected, actual, BACKWARD_LIMIT, inner=role)

    def failure(self, record: Record, leaf: bool, error: str) -> None:
        """A replay that ended in an exception."""
        self._note(record, leaf, "output", f"raised {error}")

    def number(
        self, record: Record, leaf: bool, where: str, index: int, ref: Ref | None, actual: np.ndarray,
        limit: float, inner: Record | str = "",
    ) -> None:  # fmt: skip
        """Compare an array with the recorded one, zeros where there is none, and keep what exceeds ``limit``."""
        expected = np.zeros_like(actual) if ref is None else self.tape.get(ref)
        if ref is not None and self.floor.vanishes(ref):
            # nothing of it but rounding is there to agree
            limit = max(limit, self.floor.allowed(ref))
        # what the model itself returns has one shape; between layers a flattened tensor is the same tensor
        strict = record.path == ROOT and where == "output"
        found = compare(expected, actual if strict else laid_out(actual, expected.shape))
        key = (record.path, where)
        self.measured.errors[key] = max(self.measured.errors.get(key, 0.0), found.relative)
        if found.mismatch or not found.relative <= limit:
            self._keep(record, leaf, where, index, found, inner, found.mismatch, expected, actual)

    def _gradient(
        self, record: Record, leaf: bool, where: str, index: int, slot: Slot | None, actual: np.ndarray | None,
        inner: Record | str = "",
    ) -> None:  # fmt: skip
        expected = None if slot is None else slot.ref
        if expected is None and actual is None:
            return
        if actual is None:
            actual = np.zeros(expected.shape)
        self.number(record, leaf, where, index, expected, actual, BACKWARD_LIMIT, inner)

    def _note(self, record: Record, leaf: bool, where: str, note: str, inner: Record | str = "") -> None:
        self.measured.errors[record.path, where] = np.inf
        self._keep(record, leaf, where, 0, Difference(np.inf, np.inf, (), 0, note), inner, note)

    def _keep(
        self, record: Record, leaf: bool, where: str, index: int, found: Difference, inner: Record | str, note: str,
        expected: np.ndarray | None = None, actual: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        name, inner_call = (inner.path, inner.call) if isinstance(inner, Record) else (inner, 0)
        finding = Finding(
            record.path, self.twins[record.path], leaf, where, index, found, name, note, expected, actual,
            record.call, inner_call,
        )  # fmt: skip
        self.measured.findings.append(finding)


def seen_alone(rows: Sequence[Row]) -> bool:
    """Whether the chained run has shown already what every layer does on the reference's own inputs.

    It has where every output and every gradient of it is the reference's to the limit that holds for a layer alone:
    then each layer was fed the reference's values and answered with them. One that is not, anywhere, leaves others
    unseen.
    """
    limits = {FORWARD: FORWARD_LIMIT, GRADIENT: BACKWARD_LIMIT, PARAMETER: BACKWARD_LIMIT}
    return bool(rows) and all(
        row.aligned and (row.relative <= limits[row.direction] or row.floor > VANISHED) for row in rows
    )


LeafReplay = Callable[[str, Record, Sequence[Slot | None]], Any]
ContainerReplay = Callable[[str, Record, Sequence[Record]], Any]


def isolate_layers(
    tape: Tape,
    floor: NoiseFloor,
    twins: Mapping[str, str],
    pairs: Mapping[Key, Key],
    leaf: LeafReplay,
    container: ContainerReplay,
    composite: Callable[[str], bool],
    partial: frozenset[str] = frozenset(),
    parameters: Mapping[str, tuple[str, str]] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Measured:
    """Replay every call of the reference that is among ``pairs``, its calls and those of the port.

    ``leaf(twin, record, output grads)`` and ``container(twin, record, calls)`` return a replay; ``composite(twin)``
    tells whether the twin has layers inside, whatever the reference's has. ``floor`` tells which tensors are nothing
    but rounding. ``partial`` as in ``compare_tapes``,
    ``parameters`` as in ``Judge.param_grads``.
    """
    judge, inside = Judge(tape, twins, floor), tape.children()
    chosen = [record for record in tape if record.key in pairs]
    for number, record in enumerate(chosen):
        progress(number, len(chosen))
        twin = pairs[record.key][0]
        leafless = composite(twin)
        if leafless:
            within = tape.within(record, pairs, partial)
            replay = container(twin, record, within)
            _judge_container(judge, record, replay, within)
        else:
            calls = inside[record.key] if record.path in partial else []
            refs, grads = tape.own(record, calls)
            replay = leaf(twin, record, grads)
            _judge_leaf(judge, record, replay, refs)
        judge.add_param_grads(record, replay, not leafless)
    judge.param_grads(parameters or {})
    return judge.measured


def _judge_leaf(judge: Judge, record: Record, replay: Any, expected: Sequence[Ref]) -> None:
    if replay.error:
        judge.failure(record, True, replay.error)
        return
    judge.outputs(record, replay, True, expected)
    judge.input_grads(record, replay, True)


def _judge_container(judge: Judge, record: Record, replay: Any, calls: Sequence[Record]) -> None:
    judge.handed(record, replay)
    if replay.error:
        judge.failure(record, False, replay.error)
        return
    made = {handed.record.key for handed in replay.handed}
    judge.missing_calls(record, [call for call in calls if call.path in judge.twins and call.key not in made])
    judge.outputs(record, replay, False, record.output_refs())
    judge.answered(record, replay)
    judge.input_grads(record, replay, False)
