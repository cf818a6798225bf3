"""Explain why a layer is at fault from its recorded weights and results. numpy only.

Every function returns a description, and ``""`` or ``UNEXPLAINED`` where no hypothesis explains the numbers to
rounding.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice

import numpy as np

from alignment.engine.explaining.arrangements import partly, permuted
from alignment.engine.explaining.case import Case, explain
from alignment.engine.explaining.known_causes import explain_gradient, explain_value
from alignment.engine.explaining.lookups import lookup
from alignment.engine.explaining.rounding import narrowed
from alignment.engine.explaining.terms import scaled
from alignment.engine.judging.error import compare
from alignment.engine.judging.limits import BACKWARD_LIMIT, FORWARD_LIMIT
from alignment.engine.locating.findings import Finding
from alignment.engine.records.losses import LOSS, LossCase
from alignment.engine.records.store import Ref
from alignment.engine.records.tape import ROOT, Record, Slot, Tape
from alignment.engine.sides.settings import CONTAINER, OTHER, Settings

UNEXPLAINED = "unexplained"
MANY = 24
"""With more known tensors at a place, those deeper inside are left out."""
PARAMETERS = 32
"""The number of parameters tried for a container's own computation."""
SHOWN = 3
"""The number of explained measurements in a cause; the evidence lists all of them."""

# Epsilon is solved from differences that cancel by up to six digits, but it is a small share of the variance: the
# result that it gives keeps ten digits.
FITS = 1e-10

Alternatives = Callable[
    [Settings, Mapping[str, np.ndarray], Sequence[np.ndarray], tuple[int, ...]], Iterator[tuple[str, np.ndarray]]
]
"""The outputs of a layer with these settings, weights and inputs if one setting were another: description, array."""


# --- weights --------------------------------------------------------------------------------------------------------


class WeightIndex:
    """The reference's tensors by content, to identify the source of a wrong one; they are read on first use.

    A matrix that may contain those of q, k and v is also indexed by its thirds.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray]):
        self._tensors = tensors
        self._names: dict[tuple[tuple[int, ...], bytes], str] = {}

    def name(self, array: np.ndarray) -> str:
        """Return the name of the tensor that equals ``array``, if any."""
        if not self._names:
            for name, part in chain(self._tensors.items(), _thirds(self._tensors)):
                self._names.setdefault(self._key(part), name)
        return self._names.get(self._key(array), "")

    @staticmethod
    def _key(array: np.ndarray) -> tuple[tuple[int, ...], bytes]:
        return array.shape, hashlib.blake2b(np.ascontiguousarray(array, np.float64).data).digest()


def _thirds(tensors: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the thirds of tensors that may pack q, k and v."""
    for name, array in tensors.items():
        if array.ndim and len(array) % 3 == 0 and re.search("qkv|in_proj", name):
            width = len(array) // 3
            for begin in range(0, len(array), width or 1):
                yield f"{name} [{begin}:{begin + width}]", array[begin : begin + width]


def weight_cause(expected: np.ndarray, actual: np.ndarray, index: WeightIndex, own: str = "") -> str:
    """Describe how ``expected``, a layer's parameter or buffer named ``own``, became ``actual``."""
    if actual.size > 1 and (actual == actual.flat[0]).all():
        # constants first: all new biases are equal, so one would be taken for another's
        value = float(actual.flat[0])
        return f"{value:g} everywhere" + (" (the default: zero or one)" if value in (0.0, 1.0) else "")
    other = index.name(actual)
    if other and other != own:
        return f"it is the reference's {other} (swapped or mixed up)"
    return (
        _rearranged_weight(expected, actual) or _rounded_weight(expected, actual) or _inexact_weight(expected, actual)
    )


def _rearranged_weight(expected: np.ndarray, actual: np.ndarray) -> str:
    for words, candidate in _arrangements(expected):
        if candidate.shape == actual.shape and np.array_equal(candidate, actual):
            return words
    case = Case(expected.astype(np.float64), actual.astype(np.float64), limit=0.0)
    return explain(case, (permuted,))


def _arrangements(weight: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    if weight.ndim >= 2:
        yield "transposed (output and input channels)", weight.swapaxes(0, 1)
    if weight.ndim >= 3:
        yield "flipped in space", np.flip(weight, tuple(range(2, weight.ndim)))
        yield "transposed and flipped in space", np.flip(weight, tuple(range(2, weight.ndim))).swapaxes(0, 1)
        yield "flipped along the last axis", np.flip(weight, -1)
    if weight.ndim == 4:
        yield "transposed in space (height and width)", weight.swapaxes(2, 3)
        yield "flipped along the height", np.flip(weight, 2)
        yield "laid out as HWIO", weight.transpose(2, 3, 1, 0)
    yield "negated", -weight


def _rounded_weight(expected: np.ndarray, actual: np.ndarray) -> str:
    names = ("float16", "bfloat16", "float32")
    return next((f"rounded to {name}" for name in names if np.array_equal(narrowed(expected, name), actual)), "")


def _inexact_weight(expected: np.ndarray, actual: np.ndarray) -> str:
    if expected.shape != actual.shape:
        return f"shape {list(actual.shape)} instead of {list(expected.shape)}"
    # the factor was applied to float32 weights, which were rounded after it
    words = explain(Case(expected.astype(np.float64), actual.astype(np.float64), limit=2.0**-23), (scaled,))
    if words:
        return words
    if np.array_equal(np.sort(expected, axis=None), np.sort(actual, axis=None)):
        return "the same values in another order (permuted)"
    differing = int((expected != actual).sum())
    if differing == expected.size > 1:
        return f"all {expected.size} elements differ; were the weights loaded?"
    return f"{differing} of {expected.size} elements differ"


# --- what isolated layers did ---------------------------------------------------------------------------------------


@dataclass
class Causes:
    """Explains findings from the tape. ``settings`` and ``weights`` (float64) are the reference's, by layer.

    ``extra`` are parameters that only the twin of a layer has; ``loss`` explains a loss that differs, i.e. a layer of
    the category ``LOSS``.
    """

    tape: Tape
    settings: Mapping[str, Settings]
    weights: Mapping[str, Mapping[str, np.ndarray]]
    alternatives: Alternatives
    loss: Callable[[LossCase], str] = lambda case: ""
    extra: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    _tried: dict[tuple[str, str], dict[Callable[[Case], str], str]] = field(
        init=False, repr=False, default_factory=dict
    )
    _records: Mapping[tuple[str, int], Record] = field(init=False, repr=False)
    _inside: Mapping[tuple[str, int], Sequence[Record]] = field(init=False, repr=False)

    def __post_init__(self):
        self._records, self._inside = self.tape.by_key(), self.tape.children()

    def explain(self, findings: Sequence[Finding]) -> str:
        """Explain one layer's findings: by values if any is wrong, else by gradients."""
        if findings and self.settings[findings[0].layer].category == LOSS:
            words = self._of_loss(findings)
            if words:
                return words
        forward = [finding for finding in findings if not finding.where.endswith("gradient")]
        chosen = forward or [finding for finding in findings if finding.where.endswith("gradient")]
        words = [*dict.fromkeys(filter(None, map(self._one, chosen)))]
        return "; ".join(words[:SHOWN]) or (self._place(chosen) if chosen else "") or UNEXPLAINED

    def _one(self, finding: Finding) -> str:
        expected, actual = finding.expected, finding.actual
        if expected is None or actual is None:
            return finding.note
        record = self._records.get((finding.layer, finding.call))
        if record is None:
            return ""  # another layer uses this layer's weights
        if finding.where.endswith("gradient"):
            words = explain_gradient(_case(expected, actual, self._known_gradients(record), BACKWARD_LIMIT))
        else:
            case = replace(
                _case(expected, actual, self._known(record, finding), FORWARD_LIMIT),
                parameters=self._parameters(finding.layer),
                extra=self.extra.get(finding.layer, {}),
            )
            words = self._of_value(case, finding, record)
        return f"{_subject(finding)}: {words}" if words else ""

    def _of_value(self, case: Case, finding: Finding, record: Record) -> str:
        """Explain a value; first try what explained another layer of this category, as mistakes are often repeated."""
        tried = self._tried.setdefault((self.settings[finding.layer].category, finding.where), {})
        others = [hypothesis for hypothesis, layer in tried.items() if layer != finding.layer]
        words = explain(case, (), others) if others else ""
        if words:
            return words
        used: list[Callable[[Case], str]] = []
        words = (finding.leaf and self._another_setting(case, finding, record)) or explain_value(case, used)
        tried |= dict.fromkeys(used, finding.layer)
        return words

    def _place(self, findings: Sequence[Finding]) -> str:
        """Describe where in the tensor the difference is, if nothing explains it."""
        arrays = [(f.expected, f.actual) for f in findings if f.expected is not None and f.actual is not None]
        return partly(_case(*arrays[0], {}, FORWARD_LIMIT)) if arrays else ""

    def _another_setting(self, case: Case, finding: Finding, record: Record) -> str:
        settings, weights = self.settings[finding.layer], self.weights.get(finding.layer, {})
        inputs = [self.tape.get(ref) for ref in record.input_refs()]
        if settings.category == "embedding" and len(inputs) == 1:
            return lookup(case, inputs[0], weights["weight"], settings.fields.get("padding_idx"))
        if settings.category == "batch_norm" and inputs:
            words = other_epsilon(inputs[0], case.expected, case.actual, weights, settings)
            if words:
                return words
        for words, candidate in self.alternatives(settings, weights, inputs, case.actual.shape):
            if case.is_actual(candidate):
                return words
        return ""

    def _of_loss(self, findings: Sequence[Finding]) -> str:
        """Explain a loss from its value and its gradient by the model's output, one of which may be right."""
        record = self._records[findings[0].layer, findings[0].call]
        output, *labels = (self.tape.get(ref) for ref in record.input_refs())
        value = _first(findings, "output")
        gradient = _first([finding for finding in findings if finding.index == 0], "input gradient")
        slot = record.input_grads[0] if record.input_grads else None
        expected = None if slot is None or slot.ref is None else self.tape.get(slot.ref)
        right = self.tape.outputs(record)[0]
        wrong = right if value is None else value.actual
        actual = expected if gradient is None else gradient.actual
        if wrong is None or wrong.size != 1:
            return ""
        return self.loss(LossCase(output, tuple(labels), float(right.item()), float(wrong.item()), expected, actual))

    def _parameters(self, layer: str) -> dict[str, np.ndarray]:
        """Return the layer's own parameters and those of containers inside it, whose code may have no twin."""
        found = dict(self.weights.get(layer, {}))
        begin = "" if layer == ROOT else f"{layer}."
        for path, settings in self.settings.items():
            if settings.category in (CONTAINER, OTHER) and path not in (layer, ROOT) and path.startswith(begin):
                found |= {f"{path.removeprefix(begin)}.{n}": a for n, a in self.weights.get(path, {}).items()}
        return dict(islice(found.items(), PARAMETERS))

    def _known(self, record: Record, finding: Finding) -> dict[str, np.ndarray]:
        """Return the tensors of one call by name: its inputs, and the inputs and outputs of the layers inside it."""
        refs = {f"input {number}": ref for number, ref in enumerate(record.input_refs())}
        for call in self._inside[record.key]:
            refs |= {f"the output of {_name(record, call)}{_nth(i)}": ref for i, ref in enumerate(call.output_refs())}
        for call in self._inside[record.key]:
            if (call.path, call.call) != (finding.inner, finding.inner_call):
                refs |= {f"what {_name(record, call)} gets{_nth(i)}": r for i, r in enumerate(call.input_refs())}
        for call in self._deeper(record) if len(refs) < MANY else ():
            refs |= {f"the output of {_name(record, call)}{_nth(i)}": ref for i, ref in enumerate(call.output_refs())}
        return _loaded(self.tape, refs.items())

    def _deeper(self, record: Record) -> Iterator[Record]:
        """Yield calls within inner containers: these may have no twin, so that their code is a part of this one."""
        for call in self._inside[record.key]:
            yield from islice(self._inside[call.key], MANY)

    def _known_gradients(self, record: Record) -> dict[str, np.ndarray]:
        slots: list[tuple[str, Slot | None]] = [("its output", slot) for slot in record.seeds()]
        for call in self._inside[record.key]:
            slots += [(f"{_name(record, call)}{_nth(i)}", slot) for i, slot in enumerate(call.input_grads)]
        refs = [(name, slot.ref) for name, slot in slots if slot is not None and slot.ref is not None]
        return _loaded(self.tape, refs)


def _first(findings: Sequence[Finding], where: str) -> Finding | None:
    return next((finding for finding in findings if finding.where == where), None)


def _case(expected: np.ndarray, actual: np.ndarray, known: Mapping[str, np.ndarray], limit: float) -> Case:
    # the hypotheses combine several tensors, each with its own error
    return Case(expected, actual, known, 4 * limit)


def _loaded(tape: Tape, refs: Iterable[tuple[str, Ref]]) -> dict[str, np.ndarray]:
    """Load arrays by name; a tensor with several names gets the first."""
    named: dict[int, tuple[str, Ref]] = {}
    for name, ref in refs:
        named.setdefault(ref.index, (name, ref))
    return {name: tape.get(ref) for name, ref in named.values()}


def _name(record: Record, call: Record) -> str:
    name = call.path.removeprefix(f"{record.path}.")
    return f"{name} #{call.call + 1}" if call.call else name


def _nth(index: int) -> str:
    return f" [{index}]" if index else ""


def _subject(finding: Finding) -> str:
    inner = finding.inner.removeprefix(f"{finding.layer}.")
    call = f" #{finding.inner_call + 1}" if finding.inner_call else ""
    return {
        "handed": f"what {inner}{call} is handed",
        "returned gradient": f"the gradient returned to {inner}{call}",
        "parameter gradient": f"the gradient of {inner}",
    }.get(finding.where, f"the {finding.where}")


def other_epsilon(
    x: np.ndarray,
    expected: np.ndarray,
    actual: np.ndarray,
    weights: Mapping[str, np.ndarray],
    settings: Settings,
) -> str:
    """Solve BatchNorm's epsilon from the ratio of the two results and the variance used."""
    axes = tuple(axis for axis in range(x.ndim) if axis != 1)
    if expected.shape != actual.shape or not axes:
        return ""
    batch = settings.fields.get("use_batch")
    variance = x.var(axes) if batch else weights["running_var"].astype(np.float64)
    ours, theirs = (np.sqrt(array.var(axes)) for array in (expected, actual))
    with np.errstate(all="ignore"):
        used = (variance + settings.fields["epsilon"]) * (ours / theirs) ** 2 - variance
    bias = weights.get("bias", np.zeros_like(variance))
    shape = [1, -1] + [1] * (x.ndim - 2)
    epsilon = float(np.median(used))
    if not (epsilon > 0 and (variance + epsilon > 0).all()):
        return ""
    factor = np.sqrt((variance + settings.fields["epsilon"]) / (variance + epsilon)).reshape(shape)
    bias = bias.reshape(shape)
    # epsilon itself is solved from differences that cancel and has few digits; its result must still fit
    if compare(actual, (expected - bias) * factor + bias).relative <= FITS:
        return f"epsilon {epsilon:.3g} instead of {settings.fields['epsilon']:.3g}"
    return ""
