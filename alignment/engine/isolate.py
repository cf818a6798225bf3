"""Every layer of the port on its own: what it does with the reference's inputs, forward and backward. No framework.

The frameworks come in as two functions, ``leaf`` and ``container``, that replay one call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alignment.engine.compare import Difference, compare
from alignment.engine.tape import Record, Slot, Tape

# What a layer alone may differ by in float64, over the largest magnitude. Isolated layers do not inherit anything, so
# the floor is that of one sum: 2**-53 times the root of its length (2**18 terms at most in practice), a few times.
FORWARD_LIMIT = 2.0**-53 * 2**9 * 8
# Paddle's kernels keep some constants of their backward pass in float32 also in float64 (1/49 of an average pool,
# 2e-8 relative, measured); a real mistake changes a gradient by far more.
BACKWARD_LIMIT = 2.0**-23


@dataclass(frozen=True)
class Finding:
    """One tensor of one isolated layer that is not the reference's.

    ``where`` is ``output``, ``input gradient``, ``parameter gradient``, ``handed`` (to the inner layer ``inner``),
    ``returned gradient`` (to it), ``state`` or ``call``; ``index`` counts tensors. ``note`` says what is no number.
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


@dataclass
class Measured:
    """What isolation looked at: ``findings`` beyond the limits, and the largest error of each layer by direction."""

    findings: list[Finding] = field(default_factory=list)
    errors: dict[tuple[str, str], float] = field(default_factory=dict)


class Judge:
    """Compares one replay after the other with the record."""

    def __init__(self, tape: Tape, twins: Mapping[str, str]):
        self.tape = tape
        self.twins = twins
        self.measured = Measured()

    def outputs(self, record: Record, replay: Any, leaf: bool, expected: Sequence[np.ndarray]) -> None:
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
            expected = [self.tape.get(ref) for ref in handed.record.input_refs()]
            if len(expected) != len(handed.tensors):
                note = f"{len(handed.tensors)} tensors instead of {len(expected)}"
                self._note(record, False, "handed", note, handed.record.path)
                continue
            for index, (one, other) in enumerate(zip(expected, handed.tensors)):
                self.number(record, False, "handed", index, one, other, FORWARD_LIMIT, handed.record.path)

    def answered(self, record: Record, replay: Any) -> None:
        """The gradients that flow back into the inner layers of a container."""
        for call, grads in replay.answered:
            for index, (slot, actual) in enumerate(zip(call.output_grads, grads)):
                self._gradient(record, False, "returned gradient", index, slot, actual, call.path)

    def missing_calls(self, record: Record, keys: Sequence[tuple[str, int]]) -> None:
        """Calls that the reference made and the port did not."""
        for path, call in keys:
            self._note(record, False, "call", f"call {call + 1} of {path} is missing", path)

    def failure(self, record: Record, leaf: bool, error: str) -> None:
        """A replay that ended in an exception."""
        self._note(record, leaf, "output", f"raised {error}")

    def number(
        self, record: Record, leaf: bool, where: str, index: int, expected: np.ndarray, actual: np.ndarray,
        limit: float, inner: str = "",
    ) -> None:  # fmt: skip
        """Compare two arrays and keep what exceeds ``limit``."""
        found = compare(expected, actual)
        key = (record.path, where)
        self.measured.errors[key] = max(self.measured.errors.get(key, 0.0), found.relative)
        if found.mismatch or not found.relative <= limit:
            twin = self.twins[record.path]
            self.measured.findings.append(
                Finding(record.path, twin, leaf, where, index, found, inner, found.mismatch, expected, actual)
            )

    def _gradient(
        self, record: Record, leaf: bool, where: str, index: int, slot: Slot | None, actual: np.ndarray | None,
        inner: str = "",
    ) -> None:  # fmt: skip
        expected = None if slot is None or slot.ref is None else self.tape.get(slot.ref)
        if expected is None and actual is None:
            return
        if actual is None and expected is not None:
            actual = np.zeros_like(expected)
        if expected is None:
            expected = np.zeros_like(actual)
        self.number(record, leaf, where, index, expected, actual, BACKWARD_LIMIT, inner)

    def _note(self, record: Record, leaf: bool, where: str, note: str, inner: str = "") -> None:
        infinite = Difference(np.inf, np.inf, (), 0, note)
        self.measured.errors[record.path, where] = np.inf
        twin = self.twins[record.path]
        self.measured.findings.append(Finding(record.path, twin, leaf, where, 0, infinite, inner, note))


LeafReplay = Callable[[str, Record, Sequence[Slot | None]], Any]
ContainerReplay = Callable[[str, Record, Sequence[Record]], Any]


def isolate(
    tape: Tape,
    twins: Mapping[str, str],
    leaf: LeafReplay,
    container: ContainerReplay,
    composite: Callable[[str], bool],
    partial: frozenset[str] = frozenset(),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Measured:
    """Replay every call of every layer that has a twin.

    ``leaf(twin, record, output grads)`` and ``container(twin, record, calls)`` return a replay; ``composite(twin)``
    tells whether the twin has layers inside, whatever the reference's has. ``partial`` as in ``compare_tapes``.
    """
    judge, inside = Judge(tape, twins), tape.children()
    chosen = [record for record in tape if record.path in twins]
    for number, record in enumerate(chosen):
        progress(number, len(chosen))
        twin = twins[record.path]
        if composite(twin):
            _judge_container(judge, record, container(twin, record, inside[record.key]), inside[record.key])
        else:
            calls = inside[record.key] if record.path in partial else []
            refs, grads = tape.own(record, calls)
            _judge_leaf(judge, record, leaf(twin, record, grads), [tape.get(ref) for ref in refs])
    return judge.measured


def _judge_leaf(judge: Judge, record: Record, replay: Any, expected: Sequence[np.ndarray]) -> None:
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
    judge.missing_calls(record, [call.key for call in calls if call.path in judge.twins and call.key not in made])
    judge.outputs(record, replay, False, judge.tape.outputs(record))
    judge.answered(record, replay)
    judge.input_grads(record, replay, False)
