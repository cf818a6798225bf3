"""Explain loss, clip and average, each from its own inputs and outputs on both sides. numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeGuard

import numpy as np

from alignment.engine.explaining.explain_layer import UNEXPLAINED
from alignment.engine.explaining.solving import SAME
from alignment.engine.judging.error import compare
from alignment.engine.judging.limits import BITS, MARGIN
from alignment.engine.records.run import AVERAGE, BUFFER, GIVEN, GRADIENT, OUTPUT, PARAMETER, WHOLE, Run, Step

SMOOTHED = 1e-4
"""The least label smoothing that is distinguished from none: a thousandth of the usual 0.1."""

Explained = tuple[str, list[str]]
"""The cause and its evidence."""

TORCH_EPSILON = 1e-6
"""The number that ``torch.nn.utils.clip_grad_norm_`` adds to the norm before it divides (torch 2.13)."""

# The precision of a limit or a decay solved from norms and sums over many rounded elements: ten digits remain of
# float64, six of float32.
SOLVED = {"float64": 2.0**-33, "float32": 2.0**-20}

SCALED = 2.0**-20
"""The precision of the factor of a scaled gradient, also if it was scaled in float32: a few roundings."""


# --- loss -----------------------------------------------------------------------------------------------------------


def loss_cause(reference: Run, port: Run, number: int) -> str:
    """Explain why losses of the same outputs differ, first at step ``number``."""
    ours, theirs = (_smoothing(run) for run in (reference, port))
    if ours is not None and theirs is not None and abs(ours - theirs) > SMOOTHED:
        return f"label smoothing {round(theirs, 4) + 0.0:g} instead of {round(ours, 4) + 0.0:g}"
    factor = _loss_factor(reference.steps[number], port.steps[number])
    labels = port.labels[number - 1] if port.labels else None
    if factor:
        return f"the loss is {factor:.6g} times the reference's{_known_factor(factor, labels)}"
    if _softmax_twice(port) and not _softmax_twice(reference):
        return "a softmax is applied to the outputs before a cross entropy that applies its own"
    return f"the loss differs on the same outputs: {UNEXPLAINED}"


def _known_factor(factor: float, labels: object) -> str:
    """Explain the factor of a scaled loss by the labels, if possible."""
    if not _is_array(labels):
        return ""
    size, counted = len(labels), int((labels >= 0).sum()) if labels.dtype.kind in "iu" else labels.size
    known = {size: " (the batch: summed, not averaged)", 1 / size: " (averaged, not summed)"}
    if 0 < counted < labels.size:
        some = f"the {counted} of {labels.size} labels that count"
        known[counted / labels.size] = f" (a mean over all labels, not over {some}: ignore_index)"
        known[labels.size / counted] = f" (a mean over {some}, not over all: ignore_index)"
    return next((words for value, words in known.items() if abs(factor - value) <= SAME * value), "")


def _softmax_twice(run: Run) -> bool:
    """Return whether every loss is the mean cross entropy of the softmax of the outputs, to the rounding of float32."""
    losses = []
    for step, labels in zip(run.steps[1:], run.labels):
        logits = step.get(OUTPUT, WHOLE[OUTPUT])
        if logits is None or logits.ndim != 2 or not _are_classes(labels, logits):
            return False
        logs = _log_softmax(np.exp(_log_softmax(logits)))
        losses.append((step.loss, -logs[np.arange(len(labels)), labels].mean()))
    return bool(losses) and all(abs(loss - value) <= SAME * abs(loss) for loss, value in losses)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _is_array(labels: object) -> TypeGuard[np.ndarray]:
    return isinstance(labels, np.ndarray) and labels.ndim > 0


def _loss_factor(reference: Step, port: Step) -> float:
    """Return the factor of the loss and all gradients of a step relative to the reference's, or 0."""
    factor = port.loss / reference.loss if reference.loss else 0.0
    theirs = port.of(GRADIENT)
    for name, array in reference.of(GRADIENT).items():
        other = theirs.get(name)
        if other is not None and np.any(array):
            share = float(np.vdot(other.reshape(-1), array.reshape(-1)) / np.vdot(array, array))
            if abs(share - factor) > SAME * abs(factor):
                return 0.0
    return factor


def _are_classes(labels: object, logits: np.ndarray) -> bool:
    """Return whether each row of ``logits`` has a class number."""
    if not _is_array(labels) or labels.shape != logits.shape[:1] or labels.dtype.kind not in "iu":
        return False
    return bool(((labels >= 0) & (labels < logits.shape[1])).all())


def _smoothing(run: Run) -> float | None:
    """Return the label smoothing of a mean cross entropy over classes, if the loss is one at every step."""
    found = []
    for step, labels in zip(run.steps[1:], run.labels):
        logits = step.get(OUTPUT, WHOLE[OUTPUT])
        if logits is None or logits.ndim != 2 or not _are_classes(labels, logits):
            return None
        logs = _log_softmax(logits)
        hard, even = -logs[np.arange(len(labels)), labels].mean(), -logs.mean()
        if even == hard:
            return None
        # labels smoothed in float32 are off by its roundoff, and so is the loss
        found.append((SAME * abs(step.loss / (even - hard)), (step.loss - hard) / (even - hard)))
    if not found:
        return None
    bound, best = min(found)
    same = all(abs(value - best) <= bound + other for other, value in found)
    return float(best) if same and -bound <= best < 1 else None


# --- clip -----------------------------------------------------------------------------------------------------------


def clip_cause(reference: Run, port: Run, dtype: str, groups: Sequence[Sequence[str]]) -> Explained | None:
    """Describe how the port's clipping differs from the reference's, each on its own gradients; ``None`` if equal."""
    ours, theirs = (_value_limit(run, port) for run in (reference, port))
    if ours is not None and theirs is not None:
        other = abs(ours - theirs) > SCALED * ours
        return (f"elements are clipped to {theirs:.6g} instead of {ours:.6g}", []) if other else None
    limit = _limit(reference, port)
    clips = any(step.of(GIVEN) for step in port.steps[1:])
    if limit is None:
        if clips and not any(step.of(GIVEN) for step in reference.steps[1:]) and _ever_clipped(port):
            return "gradients are clipped; the reference's are not", [_clip_line(port)]
        return None
    size, added = limit
    if _as_expected(port, size, added, dtype):
        return None
    evidence = [f"reference: norm {size:.6g} at most", _clip_line(port)]
    if not clips or not _ever_clipped(port):
        return f"gradients are not clipped (the reference's have norm {size:.6g} at most)", evidence
    if _as_expected(port, size, 0.0, dtype):
        return (
            f"divided by the norm itself; torch's clip_grad_norm_ divides by the norm + {TORCH_EPSILON:g}",
            evidence,
        )
    return _other_clip(port, size, groups), evidence


def _value_limit(run: Run, port: Run) -> float | None:
    """Return the limit of single elements of the port's gradients, if ``run`` clips by value."""
    found = []
    for step, other in zip(run.steps[1:], port.steps[1:]):
        before, after = other.of(GRADIENT), step.of(GIVEN)
        changed = [name for name in after if name in before and not np.array_equal(after[name], before[name])]
        if changed:
            value = max(float(np.abs(after[name]).max()) for name in changed)
            if not all(np.array_equal(np.clip(before[name], -value, value), after[name]) for name in changed):
                return None
            found.append(value)
    return found[0] if found and np.ptp(found) <= SCALED * found[0] else None


def _norm(arrays: Mapping[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(float(np.vdot(a, a)) for a in arrays.values())))


def _factors(step: Step, before: Mapping[str, np.ndarray] | None = None) -> dict[str, float]:
    """Return the factor of each scaled gradient; NaN if it was not only scaled. ``before``: else the step's own."""
    after = step.of(GIVEN)
    before = step.of(GRADIENT) if before is None else before
    factors = {}
    for name in after.keys() & before.keys():
        square = float(np.vdot(before[name], before[name]))
        if square:
            factor = float(np.vdot(after[name], before[name])) / square
            fits = compare(after[name], factor * before[name]).relative <= SCALED
            factors[name] = factor if fits else float("nan")
    return factors


def _limit(reference: Run, port: Run) -> tuple[float, float] | None:
    """Return the largest norm that the reference allows for the port's gradients, and what it adds before dividing."""
    found = []
    for step, other in zip(reference.steps[1:], port.steps[1:]):
        before = other.of(GRADIENT)
        factors = _factors(step, before)
        values = [*factors.values()]
        if factors and max(values) < 1 - SCALED and np.ptp(values) <= SCALED:
            total = _norm({name: before[name] for name in factors})
            found.append((float(np.median(values)), total))
    if not found:
        return None
    spread = {added: np.ptp([f * (n + added) for f, n in found]) for added in (TORCH_EPSILON, 0.0)}
    added = min(spread, key=spread.__getitem__)
    return float(np.median([f * (n + added) for f, n in found])), added


def _as_expected(port: Run, size: float, added: float, dtype: str) -> bool:
    for step in port.steps[1:]:
        before = step.of(GRADIENT)
        after = before | step.of(GIVEN)
        total = _norm({name: before[name] for name in after})
        factor = min(1.0, size / (total + added)) if total else 1.0
        if any(compare(factor * before[name], after[name]).relative > SOLVED[dtype] for name in after):
            return False
    return True


def _ever_clipped(run: Run) -> bool:
    return any(not abs(f - 1) <= SCALED for step in run.steps[1:] for f in _factors(step).values())


def _other_clip(port: Run, size: float, groups: Sequence[Sequence[str]]) -> str:
    step = next(s for s in port.steps[1:] if any(not abs(f - 1) <= SCALED for f in _factors(s).values()))
    factors, gradients = _factors(step), step.of(GRADIENT)
    if any(np.isnan(f) for f in factors.values()):
        return "single elements are clipped (by value), not the norm"
    if np.ptp([*factors.values()]) <= SCALED:
        found = next(iter(factors.values())) * _norm({name: gradients[name] for name in factors})
        return f"clipped to norm {found:.6g} instead of {size:.6g}"
    for words, sets in (
        ("each tensor is clipped by its own norm", [[name] for name in factors]),
        ("each group of parameters is clipped by its own norm", groups),
    ):
        for added in (TORCH_EPSILON, 0.0):
            limits = _limits(factors, gradients, sets, added)
            if limits and np.ptp(limits) <= SCALED * max(limits):
                return f"{words} (to {limits[0]:.6g}), not all by the global norm (to {size:.6g})"
    return f"clipped otherwise: {UNEXPLAINED}"


def _limits(
    factors: Mapping[str, float], gradients: Mapping[str, np.ndarray], sets: Sequence[Sequence[str]], added: float
) -> list[float]:
    """Return the norms to which each set was clipped; empty if one was not scaled as a whole. ``added`` to the norm."""
    found = []
    for names in sets:
        own = [factors[name] for name in names if name in factors]
        if own and np.ptp(own) > SCALED:
            return []
        if own and own[0] < 1 - SCALED:
            found.append(own[0] * (_norm({name: gradients[name] for name in names if name in factors}) + added))
    return found


def _clip_line(port: Run) -> str:
    values = [f for f in _factors(port.steps[1]).values() if not np.isnan(f)]
    shown = f"{min(values):.6g} to {max(values):.6g}" if values else "none"
    return f"port, step 1: factors {shown}, norm before {_norm(port.steps[1].of(GRADIENT)):.6g}"


# --- average --------------------------------------------------------------------------------------------------------


def average_cause(reference: Run, port: Run, dtype: str) -> Explained | None:
    """Describe how the port's averaged weights differ from the reference's rule, each on its own weights."""
    if not reference.steps[0].of(AVERAGE):
        return None
    missing = [name for name in reference.steps[-1].of(AVERAGE) if name not in port.steps[-1].of(AVERAGE)]
    if missing:
        buffers = all((BUFFER, name, "") in reference.steps[-1].arrays for name in missing)
        what = "buffers (BatchNorm's statistics)" if buffers else "tensors"
        return f"the average lacks {what}", [", ".join(missing)]
    for kind, what in ((PARAMETER, "weights"), (BUFFER, "buffers")):
        ours, theirs = _decays(reference, port, kind, "float64"), _decays(port, port, kind, dtype)
        if ours is None or not ours[1]:
            continue
        if theirs is None:
            return f"the {what} are averaged otherwise: {UNEXPLAINED}", []
        if words := _average_words(ours, theirs, what):
            return words
    return None


Decays = tuple[int, list[tuple[float, float]]]
"""Whether the weights after the step (0) or before it (1) are averaged; each step's decay and its error."""


def _decays(run: Run, port: Run, kind: str, dtype: str) -> Decays | None:
    """Solve how ``run`` averages the port's weights."""
    for late in (0, 1):
        found = [_decay(run, port, number, kind, late, dtype) for number in range(1, len(run) + 1)]
        fitting = [decay for decay in found if decay is not None]
        if len(fitting) == len(found):
            return late, fitting
    return None


def _decay(run: Run, port: Run, number: int, kind: str, late: int, dtype: str) -> tuple[float, float] | None:
    """Solve ``d`` of ``e = d * e' + (1 - d) * w`` over all tensors; NaN if nothing moved, ``None`` if none fits.

    Also returns the bound of its rounding error.
    """
    old, new = run.steps[number - 1].of(AVERAGE), run.steps[number].of(AVERAGE)
    weights = port.steps[number - late].of(kind)
    names = [name for name in weights if name in new and name in old]
    if not names:
        return float("nan"), 0.0
    e, last, w = (np.concatenate([of[name].reshape(-1) for name in names]) for of in (new, old, weights))
    square = float(np.vdot(last - w, last - w))
    if not square:
        return (float("nan"), 0.0) if np.array_equal(e, w) else None
    decay = float(np.vdot(e - w, last - w)) / square
    limit = MARGIN[dtype] * 2.0 ** -BITS[dtype] * float(np.abs(w).max())
    if float(np.abs(e - w - decay * (last - w)).max()) > limit:
        return None
    return decay, limit * float(np.abs(last - w).sum()) / square


def _average_words(ours: Decays, theirs: Decays, what: str) -> Explained | None:
    if ours[0] != theirs[0]:
        when = "before" if theirs[0] else "after"
        return f"the average takes the {what} from {when} the step", [f"decay {theirs[1][-1][0]:.6g}"]
    for number, ((a, bound), (b, other)) in enumerate(zip(ours[1], theirs[1]), 1):
        if abs(a - b) > SAME + bound + other:
            shown = [f"step {number}: decay {b:.6g} instead of {a:.6g}"]
            if what == "buffers" and b in (0.0, 1.0):
                return f"buffers are {'left as they were' if b else 'copied'}, not averaged", shown
            return f"decay {b:.6g} instead of {a:.6g} for the {what}, from step {number} on", shown
    return None
