"""Where a difference begins: what a cut run shows of every call, and which calls are at fault by it. No framework.

At a cut both models hold the reference's values again, so what differs there was made by the piece in front of it. The
piece may consist of several layers and of code of the containers around them; the calls that are only watched tell
which: the first that took what the reference took and returned something else. Where none did, it is the code of the
innermost container around the cut that took the reference's values itself. A watched call that differs where nothing
behind it does is no fault: the two containers are of another extent, or the two layers do not stand for one another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from alignment.engine.judging.echo import in_layout, regrouped
from alignment.engine.judging.error import Difference, compare
from alignment.engine.judging.noise import BACKWARD_LIMIT, NoiseFloor
from alignment.engine.locating.findings import Finding
from alignment.engine.pairing.points import Point
from alignment.engine.records.layout import Layout, plain
from alignment.engine.records.store import Ref
from alignment.engine.records.structure import places
from alignment.engine.records.tape import ROOT, Record, Slot, Tape, is_ref

Met = list[tuple[int, Layout] | None]


@dataclass(eq=False)
class _Call:
    """A call of the port: whether it took and returned what the reference's call does (None: not known).

    ``passed`` tells that a cut after it took the reference's values.
    """

    path: str
    point: Point | None
    outer: _Call | None
    cuts: int
    took: bool | None = None
    gave: bool | None = None
    passed: bool = False
    findings: list[Finding] = field(default_factory=list)
    gradient: list[Finding] = field(default_factory=list)

    def around(self) -> list[_Call]:
        """The calls in which this one happens, innermost first."""
        return [self.outer, *self.outer.around()] if self.outer else []


class Trace:
    """Looks at a cut run while it goes on (``sides.paddle.cut.Judge``); ``findings`` say what is at fault."""

    def __init__(self, tape: Tape, floor: NoiseFloor, twins: Mapping[str, str], leaves: frozenset[str]):
        self.tape, self.floor, self.twins, self.leaves = tape, floor, twins, leaves
        self.findings: list[Finding] = []
        self._open: list[_Call] = []
        self._calls: list[_Call] = []
        self._by_point: dict[int, _Call] = {}
        self._suspects: list[_Call] = []
        self._once_suspected: list[_Call] = []
        self._cuts = 0
        self._returned: list[tuple[_Call, Finding]] = []

    # --- forward ----------------------------------------------------------------------------------------------------

    def began(self, point: Point | None, path: str) -> None:
        """A call begins."""
        call = _Call(path, point, self._open[-1] if self._open else None, self._cuts)
        self._open.append(call)
        self._calls.append(call)
        if point is not None:
            self._by_point[id(point)] = call

    def taken(self, point: Point, arrays: Sequence[np.ndarray]) -> Met:
        """What a call takes."""
        call, refs = self._open[-1], point.record.input_refs()
        met, wrong = self._met(point, "handed", refs, arrays)
        call.took = None if None in met or not met else not wrong
        if point.cut and wrong:
            self._confirm(call, wrong)
        elif point.cut and call.took:
            for suspect in self._suspects:
                suspect.passed = True
        if point.record.path == ROOT or (point.cut and call.took is not None):
            call.took = True  # what the model is given, or what a cut gives
        return met

    def returned(self, point: Point | None, arrays: Sequence[np.ndarray]) -> Met:
        """What a call returns."""
        call = self._open.pop()
        if point is None:
            return []
        met, wrong = self._met(point, "output", self._outputs(point), arrays)
        call.gave, call.findings = (None if None in met else not wrong), wrong
        if point.record.path == ROOT:
            if wrong:
                self._confirm(None, wrong, call)
        elif point.cut:
            self._cuts += 1
            if any(finding.note for finding in wrong):
                # another shape: the code around it may make up for that (padding that is cropped again)
                met = [None] * len(arrays)
                self._suspect(call)
            elif wrong and call.took:
                self.findings += wrong
        elif wrong:
            self._suspect(call)
        return met

    def _suspect(self, call: _Call) -> None:
        if call.took:
            self._suspects.append(call)
            self._once_suspected.append(call)

    @property
    def apart(self) -> set[str]:
        """Layers that returned something else, which made no difference to what followed."""
        blamed = {finding.layer for finding in self.findings}
        return {call.point.record.path for call in self._once_suspected if call.passed} - blamed

    def took(self, record: Record, arrays: Sequence[np.ndarray]) -> bool:
        """Whether ``arrays`` are what the reference's call takes."""
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
        """Which of ``refs`` each array is, and in which layout; and those that are none."""
        if len(refs) != len(arrays):
            return self._by_value(refs, arrays), []
        met: Met = []
        wrong: list[Finding] = []
        for number, (ref, array) in enumerate(zip(refs, arrays)):
            layout, found = self._look(ref, array)
            met.append(None if layout is None else (number, layout))
            if layout is not None and not found.relative <= self.floor.allowed(ref):
                wrong.append(self._finding(point, where, number, found, self.tape.get(ref), layout, array))
        if wrong and len(refs) > 1 and point.record.path != ROOT:
            other = self._by_value(refs, arrays)
            if None not in other:
                return other, []
        return met, wrong

    def _look(self, ref: Ref, array: np.ndarray) -> tuple[Layout | None, Difference]:
        expected, allowed = self.tape.get(ref), self.floor.allowed(ref)
        layout, found = in_layout(expected, array, allowed)
        found = self.floor.scaled(found, ref)
        if found.relative <= allowed:
            return layout, found
        if regrouped(expected, array, allowed):
            return None, found
        return layout or plain(expected.shape), found

    def _by_value(self, refs: Sequence[Ref], arrays: Sequence[np.ndarray]) -> Met:
        """Each array as the first of ``refs``, not taken yet, that it is; ``None`` where it is none."""
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
        return Finding(record.path, self.twins.get(record.path, record.path), leaf, where, index, found,
                       note=found.mismatch, expected=expected, actual=actual, call=record.call)  # fmt: skip

    def _confirm(self, cut: _Call | None, wrong: Sequence[Finding], root: _Call | None = None) -> None:
        """What a cut takes is wrong: blame who made it."""
        suspects = [call for call in self._suspects if not call.passed and not self._holds_another(call)]
        self._suspects = [call for call in self._suspects if call.passed]
        if suspects:
            self.findings += [finding for call in suspects for finding in call.findings]
            return
        if root is not None:
            self.findings += wrong
            return
        around = [call for call in cut.around() if call.point is not None]
        owner = next((call for call in around if call.took is not False), around[-1] if around else None)
        if owner is not None and owner.point is not None:
            self.findings += [self._handed(owner.point, cut.point, finding) for finding in wrong]

    def _holds_another(self, call: _Call) -> bool:
        return any(call in other.around() for other in self._suspects if not other.passed)

    def _handed(self, owner: Point, inner: Point, finding: Finding) -> Finding:
        outer = owner.record
        return Finding(outer.path, self.twins.get(outer.path, outer.path), False, "handed", finding.index,
                       finding.difference, inner.record.path, finding.note, finding.expected, finding.actual,
                       outer.call, inner.record.call)  # fmt: skip

    # --- backward ---------------------------------------------------------------------------------------------------

    def gradient(self, point: Point, where: str, index: int, slot: Slot | None, array: np.ndarray | None) -> None:
        """A gradient, in the reference's layout."""
        finding = self._gradient_finding(point, where, index, slot, array)
        if finding is None:
            return
        call = self._by_point[id(point)]
        if where == "returned gradient" or point.record.path == ROOT:
            self._returned.append((call, finding))
        elif point.cut:
            if call.took:
                self.findings.append(finding)
        else:
            call.gradient.append(finding)

    def _gradient_finding(
        self, point: Point, where: str, index: int, slot: Slot | None, array: np.ndarray | None
    ) -> Finding | None:
        ref = slot.ref if slot is not None else None
        if ref is None:
            return None  # the reference asks for no gradient here
        expected = self.tape.get(ref)
        if array is None:
            array = np.zeros_like(expected)
        found = self.floor.scaled(compare(expected, array), ref)
        if found.relative <= max(self.floor.allowed(ref), BACKWARD_LIMIT):
            return None
        return self._finding(point, where, index, found, expected, plain(expected.shape), array)

    def end(self) -> None:
        """After the backward pass: blame who passed a wrong gradient on."""
        watched = [call for call in self._calls if call.gradient]
        innermost = [call for call in watched if not any(call in other.around() for other in watched)]
        blamed: list[_Call] = []
        for call, finding in self._returned:
            # what lies behind the cut: calls that began when as many cuts had returned
            cuts = call.cuts if call.point.record.path == ROOT else call.cuts + 1
            near = [other for other in innermost if other.cuts == cuts]
            near = [other for other in near if other.took is not False or other.point is None]
            if near:
                blamed += [near[-1]] if near[-1] not in blamed else []
            elif not innermost:
                self.findings.append(self._returned_to(call, finding))
        for call in blamed:
            self.findings += call.gradient

    def _returned_to(self, call: _Call, finding: Finding) -> Finding:
        if call.point.record.path == ROOT:
            return finding
        around = [outer for outer in call.around() if outer.point is not None]
        outer = around[0].point.record if around else call.point.record
        return Finding(outer.path, self.twins.get(outer.path, outer.path), False, "returned gradient", finding.index,
                       finding.difference, call.point.record.path, finding.note, finding.expected, finding.actual,
                       outer.call, call.point.record.call)  # fmt: skip
