"""Name the layers at fault and their kind from settings, weights and isolated layers. No framework."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignment.engine.judging.limits import BACKWARD_LIMIT, FORWARD_LIMIT
from alignment.engine.judging.settings import MODE_FIELDS
from alignment.engine.locating.findings import Finding
from alignment.engine.records.layout import laid_out
from alignment.engine.result import COMPUTATION, CONFIG, MODE, STATE, WEIGHTS, WIRING, Culprit
from alignment.engine.spread import Spread, spread

# the tensor of a layer whose difference is shown: what the layer computes, then what it passes back
MOST_LINES = 4
"""How many tensors of a layer at fault a report lists."""
SHOWN_FIRST = ("output", "handed", "returned gradient", "input gradient", "parameter gradient")


@dataclass(frozen=True)
class WeightFault:
    """A parameter or buffer of ``layer`` that differs from the reference's before any run."""

    layer: str
    name: str
    relative: float
    note: str = ""
    cause: str = ""
    one_sided: bool = False


@dataclass(frozen=True)
class StateFault:
    """A buffer of ``layer`` that one step updates differently than in the reference."""

    layer: str
    name: str
    relative: float
    cause: str = ""


def locate(
    order: Sequence[str],
    twins: Mapping[str, str],
    disagreements: Mapping[str, Mapping[str, tuple[Any, Any]]],
    weights: Iterable[WeightFault],
    findings: Iterable[Finding],
    states: Iterable[StateFault],
    explain: Callable[[Sequence[Finding]], str] = lambda findings: "unexplained",
) -> list[Culprit]:
    """Return one culprit for each layer at fault, in the ``order`` of the reference's calls.

    The first kind that applies is reported: a wrong setting or wrong weights explain a wrong result, and only what
    neither explains is a fault of the computation. ``explain`` describes what a layer did alone.
    """
    by_layer: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_layer[finding.layer].append(finding)
    wrong_weights: dict[str, list[WeightFault]] = defaultdict(list)
    for fault in weights:
        wrong_weights[fault.layer].append(fault)
    wrong_states: dict[str, list[StateFault]] = defaultdict(list)
    for state in states:
        wrong_states[state.layer].append(state)
    culprits = []
    suspects = [*disagreements, *wrong_weights, *by_layer, *wrong_states]
    for layer in sorted(set(suspects), key=_position(order)):
        kind, cause = _kind(layer, disagreements, wrong_weights, by_layer, wrong_states, explain)
        evidence = [*_settings_lines(disagreements.get(layer, {}))]
        evidence += [_weight_line(fault) for fault in wrong_weights[layer]]
        lines = [*dict.fromkeys(map(finding_line, by_layer[layer]))]
        evidence += lines[:MOST_LINES]
        evidence += [f"... and {len(lines) - MOST_LINES} more tensors"] if len(lines) > MOST_LINES else []
        evidence += [_state_line(state) for state in wrong_states[layer]]
        shown = spread_of(by_layer[layer])
        evidence += [shown.line] if shown else []
        culprits.append(Culprit(layer, twins[layer], kind, cause, tuple(evidence), shown))
    return culprits


def _position(order: Sequence[str]):  # noqa: ANN202 - a sort key
    index = {path: number for number, path in reversed([*enumerate(order)])}
    return lambda layer: index.get(layer, len(order))


def _kind(
    layer: str,
    disagreements: Mapping[str, Mapping[str, tuple[Any, Any]]],
    weights: Mapping[str, Sequence[WeightFault]],
    findings: Mapping[str, Sequence[Finding]],
    states: Mapping[str, Sequence[StateFault]],
    explain: Callable[[Sequence[Finding]], str],
) -> tuple[str, str]:
    settings = disagreements.get(layer, {})
    modes = {name: pair for name, pair in settings.items() if name.split()[0] in MODE_FIELDS}
    if settings.keys() - modes.keys():
        return CONFIG, "; ".join(_settings_lines({k: v for k, v in settings.items() if k not in modes}))
    if weights.get(layer):
        return WEIGHTS, "; ".join(f"{f.name}: {f.cause or f.note or 'unexplained'}" for f in weights[layer])
    if modes:
        return MODE, "; ".join(_settings_lines(modes))
    if findings.get(layer):
        leaf = findings[layer][0].leaf
        return (COMPUTATION if leaf else WIRING), explain(findings[layer])
    return STATE, "; ".join(f"{s.name} is updated otherwise: {s.cause or 'unexplained'}" for s in states[layer])


def _settings_lines(settings: Mapping[str, tuple[Any, Any]]) -> list[str]:
    return [f"{name} {_short(port)} instead of {_short(reference)}" for name, (reference, port) in settings.items()]


def _short(value: Any) -> Any:
    """Return numbers with the digits of float32, in which Paddle keeps them."""
    return str(np.float32(value)) if isinstance(value, float) else value


def _weight_line(fault: WeightFault) -> str:
    return f"{fault.name}: {fault.note or f'relative error {fault.relative:.1e}'}"


def _state_line(state: StateFault) -> str:
    return f"{state.name} after the step: relative error {state.relative:.1e}"


def spread_of(findings: Sequence[Finding]) -> Spread | None:
    """Return the spread of the first tensor, by ``SHOWN_FIRST``, that both sides have in one shape."""
    for where in SHOWN_FIRST:
        for finding in (found for found in findings if found.where == where):
            if finding.expected is None or finding.actual is None:
                continue
            expected, actual = finding.expected, laid_out(finding.actual, finding.expected.shape)
            if actual.shape == expected.shape:
                limit = FORWARD_LIMIT if where in ("output", "handed") else BACKWARD_LIMIT
                return spread(expected, actual, limit, _tensor_name(finding), _axes(where, expected.ndim))
    return None


def _tensor_name(finding: Finding) -> str:
    call = f", call {finding.call + 1}" if finding.call else ""
    if finding.where == "parameter gradient":
        return f"gradient of {finding.inner}"
    if finding.where == "handed":
        return f"tensor {finding.index} handed to {finding.inner}{call}"
    if finding.where == "returned gradient":
        return f"gradient {finding.index} returned to {finding.inner}{call}"
    return f"{finding.where} {finding.index}{call}"


def _axes(where: str, rank: int) -> tuple[str, str]:
    """Return the names of the first two axes. Of three axes the second may be tokens or channels: it is a row."""
    if where != "parameter gradient":
        return "batch element", {2: "feature", 3: "row"}.get(rank, "channel")
    return "output channel", "input channel" if rank > 1 else "channel"


def finding_line(finding: Finding) -> str:
    """Describe one measurement."""
    what = finding.note or f"relative error {finding.difference.relative:.1e} at {list(finding.difference.worst)}"
    return f"alone on the reference's inputs, {_tensor_name(finding)}: {what}"
