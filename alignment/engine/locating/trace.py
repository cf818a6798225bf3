"""Find where a difference begins: compare every call of a cut run and blame the calls at fault. No framework.

At a cut both models continue with the reference's values, so a difference there comes from the piece in front of it.
The piece may consist of several layers and of code of the containers around them. Calls that are watched but not cut
show which: the first that takes the reference's inputs and returns another output is at fault. If there is none, the
code of the innermost container around the cut that itself takes the reference's values is at fault. A watched call that
differs while nothing behind it does is no fault: the two containers differ in extent, or the two layers do not
correspond.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from alignment.engine.judging.echo import in_layout, regrouped
from alignment.engine.judging.error import Difference, compare
from alignment.engine.judging.limits import BACKWARD_LIMIT, NoiseFloor
from alignment.engine.judging.rows import UNMEASURED
from alignment.engine.locating.findings import Finding
from alignment.engine.pairing.points import Point
from alignment.engine.records.layout import Layout, plain
from alignment.engine.records.store import Ref
from alignment.engine.records.structure import places
from alignment.engine.records.tape import ROOT, Key, Record, Slot, Tape, is_ref

PICTURES = 8
"""The number of layers with a known cause (settings or weights) whose differences are kept."""

Met = list[tuple[int, Layout] | None]


@dataclass(eq=False)
class _Call:
    """A call of the port; ``took`` and ``gave``: whether its inputs and outputs are the reference's (None: unknown).

    ``passed`` tells that a cut after it took the reference's values, ``exchanged`` that the call took them in another
    order. ``handed`` lists its wrong inputs.
    """

    path: str
    point: Point | None
    outer: _Call | None
    took: bool | None = None
    gave: bool | None = None
    passed: bool = False
    exchanged: bool = False
    handed: list[Finding] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def record(self) -> Record:
        """The reference's call, for a paired call."""
        assert self.point is not None, f"a call of {self.path} has no point"
        return self.point.record

    def around(self) -> list[_Call]:
        """Return the calls around this one, innermost first."""
        return [self.outer, *self.outer.around()] if self.outer else []


def _owner(call: _Call) -> _Call | None:
    """Return the call whose code is at fault where ``call`` receives a wrong input or a wrong gradient.

    That is the innermost call around it that itself took the reference's values; if none is known to, the innermost of
    which the opposite is not known.
    """
    around = [outer for outer in call.around() if outer.point is not None]
    sure = [outer for outer in around if outer.took and not outer.exchanged]
    return next(iter(sure or [outer for outer in around if outer.took is not False] or around[-1:]), None)


class Trace:
    """Watches a cut run (``sides.paddle.cut.Judge``); ``findings`` are the faults found.

    ``blamed`` are watched calls at fault, judged by what followed them. Their outputs are not the reference's, so they
    may cause further differences; another run, with them among the ``trusted``, cuts them as well. A call that returns
    another shape is not cut, as the code around it may compensate; with ``shapes_cut`` it is cut like others.
    """

    def __init__(
        self, tape: Tape, floor: NoiseFloor, twins: Mapping[str, str], leaves: frozenset[str],
        explained: Container[str] = frozenset(), trusted: Container[Key] = frozenset(), shapes_cut: bool = False,
    ):  # fmt: skip
        self.tape, self.floor, self.twins, self.leaves, self.explained = tape, floor, twins, leaves, explained
        self.trusted, self.shapes_cut = trusted, shapes_cut
        self.blamed: set[Key] = set()
        self._kept = 0
        self.findings: list[Finding] = []
        self._open: list[_Call] = []
        self._calls: list[_Call] = []
        self._by_point: dict[int, _Call] = {}
        self._suspects: list[_Call] = []
        self._once_suspected: list[_Call] = []
        self._at_fault: list[_Call] = []

    # --- forward ----------------------------------------------------------------------------------------------------

    def began(self, point: Point | None, path: str) -> None:
        """Record that a call begins."""
        call = _Call(path, point, self._open[-1] if self._open else None)
        self._open.append(call)
        self._calls.append(call)
        if point is not None:
            self._by_point[id(point)] = call

    def taken(self, point: Point, arrays: Sequence[np.ndarray]) -> Met:
        """Compare the inputs of a call."""
        call, refs = self._open[-1], point.record.input_refs()
        met, wrong = self._met(point, "handed", refs, arrays)
        call.took, call.handed = (None if None in met or not met else not wrong), wrong
        if wrong and len(refs) > 1 and None not in (other := self._by_value(refs, arrays)):
            # all inputs are there in another order, which is right if the port's code expects it
            met, wrong, call.took, call.exchanged = other, [], True, True
        elif len(refs) != len(arrays):
            call.handed = [self._count(point, len(arrays), len(refs))]
        if self.replaces(point) and wrong:
            self._confirm(call, wrong)
        elif self.replaces(point) and call.took:
            for suspect in self._suspects:
                suspect.passed = True
        if point.record.path == ROOT or (self.replaces(point) and call.took is not None):
            call.took = True  # the model's inputs, or those that a cut supplies
        return met if call.took else [None] * len(arrays)

    def returned(self, point: Point | None, arrays: Sequence[np.ndarray]) -> Met:
        """Compare the outputs of a call."""
        call = self._open.pop()
        if point is None:
            return []
        met, wrong = self._met(point, "output", self._outputs(point), arrays)
        call.gave, call.findings = (None if None in met else not wrong), wrong
        if point.record.path == ROOT:
            if wrong:
                self._confirm(call, wrong, by_model=True)
            return met
        if not self.replaces(point):
            if wrong:
                self._suspect(call)
            return met if call.gave and call.took else [None] * len(arrays)
        if any(finding.note for finding in wrong) and not self.shapes_cut:
            # another shape: the code around may compensate for it (padding that is cropped again)
            self._suspect(call)
            return [None] * len(arrays)
        if wrong and call.took:
            self.findings += [*self._first_inside(call), *wrong]
        return met

    def replaces(self, point: Point) -> bool:
        """Return whether a call is cut: calls of layers with weights, and calls that are known to be at fault."""
        return point.cut or point.record.key in self.trusted

    def _suspect(self, call: _Call) -> None:
        if call.took:
            self._suspects.append(call)
            self._once_suspected.append(call)

    @property
    def shapes_left(self) -> set[Key]:
        """Calls that returned another shape and were not cut."""
        return {c.record.key for c in self._once_suspected if any(finding.note for finding in c.findings)}

    @property
    def apart(self) -> set[str]:
        """Layers whose wrong output made no difference to what followed, or that are at another point of the model."""
        blamed = {finding.layer for finding in self.findings}
        passed = {call.record.path for call in self._once_suspected if call.passed}
        return (passed | {call.record.path for call in self._calls if self._is_elsewhere(call, blamed)}) - blamed

    def _is_elsewhere(self, call: _Call, blamed: set[str]) -> bool:
        """Return whether a watched call took wrong inputs with no fault around it: it is another point of the model."""
        if call.point is None or self.replaces(call.point) or call.took is not False:
            return False
        return not blamed & {ROOT, *(outer.record.path for outer in call.around() if outer.point is not None)}

    @property
    def doubtful(self) -> dict[Key, set[str]]:
        """Calls with wrong outputs inside containers at fault (the named layers), which may cause that fault.

        A later cut took the right values, but it may not depend on these outputs.
        """
        calls = {call: {*call.around()} & {*self._at_fault} for call in self._once_suspected if call.passed}
        return {call.record.key: {outer.record.path for outer in around}
                for call, around in calls.items() if around}  # fmt: skip

    def took(self, record: Record, arrays: Sequence[np.ndarray]) -> bool:
        """Return whether ``arrays`` are the inputs of the reference's call."""
        refs = record.input_refs()
        return len(refs) == len(arrays) and all(
            in_layout(self.tape.get(ref), array, self.floor.allowed(ref))[1].relative <= self.floor.allowed(ref)
            for ref, array in zip(refs, arrays)
        )

    def _outputs(self, point: Point) -> Sequence[Ref]:
        if point.record.path == ROOT:
            return [ref for _, ref in places(point.record.outputs, is_ref)]
        return point.outputs

    def _met(
        self, point: Point, where: str, refs: Sequence[Ref], arrays: Sequence[np.ndarray]
    ) -> tuple[Met, list[Finding]]:
        """Return which of ``refs`` each array is, and in which layout; and findings for the arrays that match none."""
        if len(refs) != len(arrays):
            return self._by_value(refs, arrays), []
        met: Met = []
        wrong: list[Finding] = []
        for number, (ref, array) in enumerate(zip(refs, arrays)):
            layout, found = self._look(ref, array)
            met.append(None if layout is None else (number, layout))
            if layout is not None and not found.relative <= self.floor.allowed(ref):
                wrong.append(self._finding(point, where, number, found, self.tape.get(ref), layout, array))
        return met, wrong

    def _look(self, ref: Ref, array: np.ndarray) -> tuple[Layout | None, Difference]:
        expected, allowed = self.tape.get(ref), self.floor.allowed(ref)
        layout, found = in_layout(expected, array, allowed)
        found = self.floor.scaled(found, ref)
        if found.relative <= allowed:
            return layout, found
        if array.shape != expected.shape and regrouped(expected, array, allowed):
            return None, found
        return layout or plain(expected.shape), found

    def _by_value(self, refs: Sequence[Ref], arrays: Sequence[np.ndarray]) -> Met:
        """Match each array to the first free one of ``refs`` that it equals; ``None`` where there is none."""
        met: Met = []
        for array in arrays:
            free = [n for n in range(len(refs)) if n not in {known[0] for known in met if known}]
            met.append(next(filter(None, (self._same(n, refs[n], array) for n in free)), None))
        return met

    def _same(self, number: int, ref: Ref, array: np.ndarray) -> tuple[int, Layout] | None:
        layout, found = in_layout(self.tape.get(ref), array, self.floor.allowed(ref))
        return (number, layout) if layout and found.relative <= self.floor.allowed(ref) else None

    def _finding(
        self, point: Point, where: str, index: int, found: Difference, expected: np.ndarray, layout: Layout,
        array: np.ndarray,
    ) -> Finding:  # fmt: skip
        record = point.record
        actual = layout.back(array) if array.shape == layout.shape else array
        leaf = record.path in self.leaves
        kept = (expected, actual) if self._keeps_arrays(record.path) else (None, None)
        return Finding(record.path, self.twins.get(record.path, record.path), leaf, where, index, found,
                       note=found.mismatch, expected=kept[0], actual=kept[1], call=record.call)  # fmt: skip

    def _count(self, point: Point, number: int, expected: int) -> Finding:
        """Return the finding of a call that receives another number of tensors."""
        record = point.record
        return Finding(record.path, self.twins.get(record.path, record.path), False, "handed", 0, UNMEASURED,
                       note=f"{number} tensors instead of {expected}", call=record.call)  # fmt: skip

    def _keeps_arrays(self, layer: str) -> bool:
        """Return whether a finding keeps its arrays: to find a cause or, for the first few, to draw a picture."""
        self._kept += layer in self.explained
        return layer not in self.explained or self._kept <= PICTURES

    def _confirm(self, call: _Call, wrong: Sequence[Finding], by_model: bool = False) -> None:
        """Blame the calls behind a wrong input of ``call``, a cut, or behind a wrong output of the model."""
        suspects = [one for one in self._suspects if not one.passed and not self._holds_another(one)]
        suspects = [one for one in suspects if not one.exchanged]
        self._suspects = [one for one in self._suspects if one.passed]
        if suspects:
            for one in suspects:
                self.findings += [*self._first_inside(one), *one.findings]
            self._at_fault += suspects
            self.blamed |= {one.record.key for one in suspects}
            return
        if self.blamed:
            return  # the difference may come from a blamed call: a run in which that call is cut decides
        if by_model:
            self._at_fault.append(call)
            self.findings += [*self._first_inside(call), *wrong]
            return
        owner = _owner(call)
        if owner is not None:
            self._at_fault.append(owner)
            self.findings += self._first_inside(owner, call)
            self.findings += [self._handed(owner.record, call.record, finding) for finding in wrong]

    def _first_inside(self, owner: _Call, but: _Call | None = None) -> list[Finding]:
        """Return the wrong inputs of the first layer inside a container at fault: they are nearest to the mistake."""
        for call in self._calls:
            if call.handed and call is not but:
                around = [outer for outer in call.around() if outer.point is not None]
                if around and around[0] is owner:
                    return [self._handed(owner.record, call.record, finding) for finding in call.handed]
        return []

    def _holds_another(self, call: _Call) -> bool:
        return any(call in other.around() for other in self._suspects if not other.passed)

    def _handed(self, outer: Record, inner: Record, finding: Finding) -> Finding:
        return Finding(outer.path, self.twins.get(outer.path, outer.path), False, "handed", finding.index,
                       finding.difference, inner.path, finding.note, finding.expected, finding.actual, outer.call,
                       inner.call)  # fmt: skip

    # --- backward ---------------------------------------------------------------------------------------------------

    def gradient(self, point: Point, where: str, index: int, slot: Slot | None, array: np.ndarray | None) -> None:
        """Compare a gradient, in the reference's layout, of a piece that started with the reference's gradients."""
        finding = self._gradient_finding(point, where, index, slot, array)
        call = self._by_point[id(point)]
        if finding is None or any(outer.exchanged for outer in (call, *call.around())):
            return
        if where == "returned gradient":
            self.findings.append(self._returned_to(call, finding))
        elif call.gave or point.cut or point.record.path == ROOT:
            self.findings.append(finding)

    def _gradient_finding(
        self, point: Point, where: str, index: int, slot: Slot | None, array: np.ndarray | None
    ) -> Finding | None:
        ref = slot.ref if slot is not None else None
        if ref is None:
            return None  # the reference computes no gradient here
        expected = self.tape.get(ref)
        if array is None:
            array = np.zeros_like(expected)
        found = self.floor.scaled(compare(expected, array), ref)
        if found.relative <= max(self.floor.allowed(ref), BACKWARD_LIMIT):
            return None
        return self._finding(point, where, index, found, expected, plain(expected.shape), array)

    def _returned_to(self, call: _Call, finding: Finding) -> Finding:
        """Return the finding of a gradient that returns to a call: the code around the call computes it."""
        owner = _owner(call) or call
        outer = owner.record
        return Finding(outer.path, self.twins.get(outer.path, outer.path), False, "returned gradient", finding.index,
                       finding.difference, call.record.path, finding.note, finding.expected, finding.actual,
                       outer.call, call.record.call)  # fmt: skip
