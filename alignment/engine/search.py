"""Find where differences begin: run the port again, cut at every paired call, and combine the findings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alignment.engine.accounts import Accounts, split
from alignment.engine.borrowed import Borrowed
from alignment.engine.judging.limits import BACKWARD_LIMIT, NoiseFloor
from alignment.engine.judging.rows import UNMEASURED
from alignment.engine.locating.culprits import StateFault
from alignment.engine.locating.findings import Finding
from alignment.engine.locating.trace import Trace
from alignment.engine.pairing.calls import Matching
from alignment.engine.pairing.points import Point
from alignment.engine.records.tape import ROOT, Key, Record, Tape
from alignment.engine.result import FORWARD, PARAMETER, Result
from alignment.engine.runs import Start, cut_port
from alignment.engine.sides.model import ModelRaised
from alignment.engine.sides.paddle.cut import CutRun

MOST_AT_ONCE = 8
"""With more watched calls at fault no further run is made; faults behind them show once they are fixed."""

Points = Mapping[str, Sequence[Point]]
"""Cut points by the path of the port's layer, in the order of its calls."""


@dataclass(frozen=True)
class Found:
    """The outcome of a search: ``findings`` of layers at fault, buffers (``states``), and layers set ``apart``.

    A layer set ``apart`` returns something else than its twin, and the layers after it compensate for that.
    """

    findings: Sequence[Finding]
    states: Sequence[StateFault]
    apart: set[str]


@dataclass
class Search:
    """The cut runs of a comparison's port.

    ``tape`` and ``floor`` are the reference's, ``port`` is the tape of the chained run. ``explained`` are layers whose
    cause is known from their settings or weights.
    """

    models: Borrowed
    inputs: Any
    start: Start | None
    tape: Tape
    floor: NoiseFloor
    port: Tape
    matching: Matching
    points: Mapping[Key, Point]
    accounts: Accounts
    explained: set[str]
    leaves: frozenset[str] = field(init=False)

    def __post_init__(self):
        # reference layers whose twin calls no other layer: a difference is their own computation
        inside = self.port.children()
        single = {record.path for record in self.port if not inside[record.key]}
        twins = self.matching.twins.items()
        self.leaves = frozenset(path for path, twin in twins if twin in single and path != ROOT)

    def find(self, result: Result, states: Sequence[StateFault], wrong: set[str]) -> Found:
        """Run the port cut and return the findings, without outputs that are aligned in the chained run's ``result``.

        ``states`` are those of the chained run, ``wrong`` the tensors that differed before any run.
        """
        trace, run, apart = self._runs()
        found = [*trace.findings, *self._missing_calls(trace.findings), *self._further_calls(trace.findings)]
        forward = [row for row in result.rows if row.direction == FORWARD]
        wrong_calls = {(row.layer, row.call) for row in forward if not row.aligned}
        right = {(row.layer, row.call) for row in forward} - wrong_calls
        findings = [f for f in found if f.where != "output" or (f.layer, f.call) not in right]
        if run.raised is not None:
            return Found([*findings, self._raised(run.raised)], states, apart)
        if self.start is not None:
            met = {p.record.path for p in run.called if self.matching.twins.get(p.record.path) not in run.further}
            right_parameters = {row.layer for row in result.rows if row.direction == PARAMETER and row.aligned}
            findings += self._parameter_findings(run.param_grads, findings, met, right_parameters)
        first = {p.record.path: self.points.get((p.record.path, 0)) for p in run.called if p.cut}
        judged = {layer: self.floor.allowed(p.outputs[0]) for layer, p in first.items() if p is not None and p.outputs}
        alone = self.accounts.state_faults(self.tape, run.buffers, judged, wrong)
        return Found(findings, [*(s for s in states if s.layer not in judged), *alone], apart)

    def _runs(self) -> tuple[Trace, CutRun, set[str]]:
        """Return the last of the cut runs; each of them starts from what the previous one found."""
        points, trusted = self._points(), set()
        trace, run = self._run(points, trusted)
        if run.raised is not None and trace.shapes_left:
            # the code around kept a wrong shape and the run failed: the code does not compensate for it
            trusted |= trace.shapes_left
            trace, run = self._run(points, trusted, shapes_cut=True)
        if run.raised is None and trace.doubtful:
            trace, run = self._with_doubtful_cut(points, trusted, trace, run)
        while run.raised is None and trace.blamed - trusted and len(trusted) <= MOST_AT_ONCE:
            trusted |= trace.blamed
            trace, run = self._run(points, trusted, trace.shapes_cut)
        apart = trace.apart
        if run.raised is None and apart and self.start is not None:
            # a graph cannot be cut at a tensor of another extent
            points = {t: [p for p in some if p.record.path not in apart] for t, some in points.items()}
            trace, run = self._run(points, trusted, trace.shapes_cut)
            apart |= trace.apart
        return trace, run, apart

    def _with_doubtful_cut(self, points: Points, trusted: set[Key], trace: Trace, run: CutRun) -> tuple[Trace, CutRun]:
        """Cut the doubtful calls too; return that run if no container around them is at fault, else the given one."""
        doubtful = trace.doubtful
        other, again = self._run(points, trusted | doubtful.keys(), trace.shapes_cut)
        around = set().union(*doubtful.values())
        if again.raised is None and not around & {finding.layer for finding in other.findings}:
            trusted |= doubtful.keys()
            return other, again
        return trace, run

    def _run(self, points: Points, trusted: set[Key], shapes_cut: bool = False) -> tuple[Trace, CutRun]:
        twins, known = self.matching.twins, frozenset(trusted)
        trace = Trace(self.tape, self.floor, twins, self.leaves, self.explained, known, shapes_cut)
        return trace, cut_port(self.models, self.inputs, self.start, self.tape, points, trace)

    def _points(self) -> Points:
        points: dict[str, list[Point]] = {}
        for key, twin in self.matching.calls.items():
            if key in self.points and self._does_something(key[0]):
                points.setdefault(twin[0], []).append(self.points[key])
        return points

    def _missing_calls(self, findings: Sequence[Finding]) -> Iterator[Finding]:
        """Yield calls that only the reference makes in a container at fault, of layers that the port has."""
        inside = self.tape.children()
        for key in dict.fromkeys((f.layer, f.call) for f in findings if not f.leaf):
            for call in inside.get(key, ()):
                if not self._is_made(call, inside) and self._is_in_port(call.path):
                    note = f"call {call.call + 1} of {call.path} is missing"
                    yield Finding(key[0], self.matching.twins[key[0]], False, "call", 0, UNMEASURED, call.path, note,
                                  call=key[1], inner_call=call.call)  # fmt: skip

    def _further_calls(self, findings: Sequence[Finding]) -> Iterator[Finding]:
        """Yield calls that only the port makes in a container at fault, of layers that the reference has."""
        inside, paired = self.port.children(), {*self.matching.calls.values()}
        back = {twin: path for path, twin in self.matching.twins.items()}
        for key in dict.fromkeys((f.layer, f.call) for f in findings if not f.leaf):
            twin = self.matching.calls.get(key)
            for call in () if twin is None else inside.get(twin, ()):
                if call.key not in paired and call.path in back:
                    note = f"{call.path} is called more often than in the reference"
                    yield Finding(key[0], self.matching.twins[key[0]], False, "call", 0, UNMEASURED, back[call.path],
                                  note, call=key[1], inner_call=call.call)  # fmt: skip

    def _is_made(self, call: Record, inside: Mapping[Key, Sequence[Record]]) -> bool:
        """Return whether the port makes a call or, for a container it may have inlined, a call inside it."""
        settings = self.models.reference_settings
        within = [*_within(call, inside)]
        weighted = [inner for inner in within if settings[inner.path].has_weights]
        return any(one.key in self.matching.calls for one in (call, *(weighted or within)))

    def _is_in_port(self, path: str) -> bool:
        """Return whether the port has a layer, or the layers with weights inside it."""
        twins = self.matching.twins
        return path in twins or path in self.models.port or any(inner.startswith(f"{path}.") for inner in twins)

    def _does_something(self, path: str) -> bool:
        """Return whether a layer can be judged; one that returns its input has no values of its own."""
        return self.models.reference_settings[path].category not in ("identity", "flatten")

    def _parameter_findings(
        self, theirs: Mapping[str, np.ndarray], findings: Sequence[Finding], met: set[str], right: set[str]
    ) -> Iterator[Finding]:
        """Yield wrong parameter gradients, except those that are ``right`` in the chained run.

        Every piece of the cut run starts from the reference's values. ``met`` are the layers that the port calls as
        often as the reference.
        """
        floor, blamed = self.floor, {finding.layer for finding in findings}
        # containers are not cut: an error in them may come from a wrong input
        handed = {finding.inner for finding in findings if finding.where == "handed"} - self.leaves
        called = self.tape.by_key()
        for gradient in self.accounts.gradients(self.tape, floor, theirs):
            layer, own = split(gradient.name)
            if gradient.name in right or any(b == layer or b.startswith(f"{layer}.") or layer == ROOT for b in blamed):
                continue
            found, note = gradient.measured(floor)
            if not note and found.relative <= max(floor.allowed(gradient.ref), BACKWARD_LIMIT):
                continue
            actual = np.zeros_like(gradient.expected) if gradient.actual is None else gradient.actual
            # the port does not call this layer, or the container uses its weights
            while layer != ROOT and ((layer, 0) not in called or layer not in met):
                layer = layer.rpartition(".")[0] or ROOT
            if layer in blamed | handed:
                continue
            twin = self.matching.twins.get(layer, layer)
            yield Finding(layer, twin, layer in self.leaves, "parameter gradient", 0, found, own, found.mismatch,
                          gradient.expected, actual)  # fmt: skip

    def _raised(self, raised: ModelRaised) -> Finding:
        back = {twin: path for path, twin in self.matching.twins.items()}
        path = raised.path
        while path not in back and path != ROOT:
            path = path.rpartition(".")[0] or ROOT
        layer = back.get(path, ROOT)
        inside = "" if path == raised.path else f" (in {raised.path})"
        note = f"raised {raised.words}{inside}"
        return Finding(layer, path, layer in self.leaves, "output", 0, UNMEASURED, note=note)


def _within(call: Record, inside: Mapping[Key, Sequence[Record]]) -> Iterator[Record]:
    """Yield all calls inside a call, at any depth."""
    for inner in inside[call.key]:
        yield inner
        yield from _within(inner, inside)
