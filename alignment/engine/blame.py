"""Find the layers at fault from judged rows, settings, weights, states and a further run of the port."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from alignment.engine.accounts import initial_by_layer
from alignment.engine.borrowed import REFERENCE
from alignment.engine.explaining.explain_layer import Causes
from alignment.engine.judging.accepted import in_words
from alignment.engine.judging.echo import regrouped
from alignment.engine.judging.rows import is_decisive
from alignment.engine.layer_settings import setting_faults, setting_remarks, stray_modes
from alignment.engine.locating.culprits import StateFault, WeightFault, locate
from alignment.engine.locating.findings import Finding
from alignment.engine.records.losses import LossCase
from alignment.engine.records.tape import ROOT
from alignment.engine.result import FORWARD, Culprit, Result, Row, Skipped
from alignment.engine.runs import Start
from alignment.engine.search import Search
from alignment.engine.sides.torch.alternatives import alternatives
from alignment.engine.sides.torch.other_losses import loss_cause

if TYPE_CHECKING:
    from alignment.engine.session import Session

SEEN = "not run again: in the chained run every layer took and returned the reference's values"
APART = "differs here while nothing after it does: this is not the same point in both models"


@dataclass(frozen=True)
class Blame:
    """Finds the layers at fault in a ``session`` whose rows are judged."""

    session: Session

    def find(self, result: Result) -> None:
        """Store the layers at fault in ``result``; where values differ, run the port again."""
        session = self.session
        faults = session.accounts.weight_faults(session.matching.twins)
        weights = [fault for fault in faults if not self._is_folded(fault)]
        settings = self._settings()
        self._remark(result)
        wrong = {fault.layer if fault.layer == ROOT else f"{fault.layer}.{fault.name}" for fault in weights}
        states = [*self._states_in_chain(result, wrong)]
        apart: set[str] = set()
        if all(row.aligned for row in result.rows if is_decisive(row)) and not session.errors:
            apart = self._set_apart(result)
        findings: Sequence[Finding] = []
        if all(row.aligned for row in result.rows) and not states and not session.errors:
            result.facts["every layer alone"] = SEEN
        elif session.options.isolate:
            session.progress("Paddle again, cut at every paired call")
            found = self._search({*settings, *(fault.layer for fault in weights)}).find(result, states, wrong)
            findings, states = found.findings, found.states
            apart |= found.apart
        result.culprits = self._located(self._without_apart(settings, apart, result), weights, findings, states)

    def _settings(self) -> dict[str, Any]:
        """Return the settings that differ, except in folded layers: ``{layer: {name: (reference's, port's)}}``."""
        session = self.session
        faults = setting_faults(session.settings.faults)
        settings = {layer: fields for layer, fields in faults.items() if layer not in session.folds}
        called, training = {record.path for record in session.port}, session.options.mode == "train"
        for layer, modes in stray_modes(session.models, session.matching, called, training).items():
            settings[layer] = settings.get(layer, {}) | modes
        return settings

    def _remark(self, result: Result) -> None:
        """Record what is no fault: folded normalisations, settings spelled differently, accepted differences."""
        for one in self.session.folds.values():
            result.facts[one.norm] = f"is folded into {one.layer} in the port, to {one.error:.1e}"
        for words, layers in setting_remarks(self.session.settings.faults).items():
            result.facts[f"spelled otherwise in {', '.join(layers)}"] = words
        result.accepted = in_words(self.session.settings.accepted)

    def _is_folded(self, fault: WeightFault) -> bool:
        folds = self.session.folds
        return fault.layer in folds or fault.layer in {found.norm for found in folds.values()}

    def _without_apart(self, settings: Mapping[str, Any], apart: set[str], result: Result) -> dict[str, Any]:
        """Drop the settings of layers in ``apart``, which later layers compensate for, and record them as facts."""
        for layer in sorted(apart & settings.keys()):
            words = ", ".join(f"{name} {port} instead of {own}" for name, (own, port) in settings[layer].items())
            result.facts[f"set otherwise in {layer}"] = f"{words}; later layers compensate for it"
        return {layer: fields for layer, fields in settings.items() if layer not in apart}

    def _set_apart(self, result: Result) -> set[str]:
        """Mark rows that differ while everything after them agrees: they are not the same point in both models."""
        apart = [row for row in result.rows if not row.aligned and self._is_apart(row)]
        for row in apart:
            result.rows.remove(row)
            result.skipped.append(Skipped(row.layer, row.kind, "both", APART))
        result.skipped = [*dict.fromkeys(result.skipped)]
        return {row.layer for row in apart if row.direction == FORWARD}

    def _is_apart(self, row: Row) -> bool:
        # without gradients, a layer behind a scale of zero differs in its own row only
        key = (row.layer, row.call)
        return self.session.options.backward or key not in self.session.matching.certain or self._is_regrouped(key)

    def _is_regrouped(self, key: Any) -> bool:
        session = self.session
        point, call = session.points.get(key), session.matching.calls.get(key)
        twin = None if call is None else session.port.by_key().get(call)
        if point is None or twin is None or len(point.outputs) != len(twin.output_refs()):
            return False
        tape, floor = session.runs.tape, session.runs.floor("float64")
        pairs = zip(point.outputs, twin.output_refs())
        return all(regrouped(tape.get(ref), session.port.get(other), floor.allowed(ref)) for ref, other in pairs)

    def _states_in_chain(self, result: Result, wrong: set[str]) -> Iterator[StateFault]:
        session = self.session
        rows = [row for row in result.rows if row.direction == FORWARD and row.aligned]
        judged = {row.layer: row.allowed for row in rows}
        after = {name: session.port.get(ref) for name, ref in session.port.buffers.items()}
        return session.accounts.state_faults(session.runs.tape, after, judged, wrong)

    def _search(self, explained: set[str]) -> Search:
        session = self.session
        return Search(
            session.models, session.inputs, session.start, session.runs.tape, session.runs.floor("float64"),
            session.port, session.matching, session.points, session.accounts, explained,
        )  # fmt: skip

    def _located(
        self, settings: Mapping[str, Any], weights: Sequence[WeightFault], findings: Sequence[Finding],
        states: Sequence[StateFault],
    ) -> list[Culprit]:  # fmt: skip
        session = self.session
        explain = Causes(
            session.runs.tape, session.models.reference_settings, initial_by_layer(session.accounts), alternatives,
            _loss_cause(session.start), session.accounts.extra(session.matching.twins),
        )  # fmt: skip
        twins = {path: session.matching.twins.get(path, path) for path in session.models.reference}
        order = [record.path for record in session.runs.tape]
        return locate(order, twins, settings, weights, findings, states, explain.explain)


def _loss_cause(start: Start | None) -> Callable[[LossCase], str]:
    return partial(loss_cause, start.loss(REFERENCE)) if start and start.losses else lambda case: ""
