"""Solve an optimizer's rule and its numbers from its inputs and outputs. numpy only.

Formulas: torch.optim.SGD, Adam and AdamW (torch 2.13); those of the others are in ``adaptive_rules``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alignment.engine.explaining import adaptive_rules as adaptive
from alignment.engine.explaining.solving import (
    Number,
    Rule,
    Update,
    before,
    gradient,
    joined,
    largest,
    moves_of,
    new,
    old,
    over,
    solve,
    updates_of,
)
from alignment.engine.judging.limits import BITS
from alignment.engine.records.run import FIRST, LARGEST, MOMENTUM, SECOND, SUM, Run


def rule_of(run: Run, port: Run, name: str, dtype: str) -> Rule | None:
    """Return the numbers of ``run``'s update rule for a parameter; ``None`` if no known rule fits.

    ``port``: the run whose weights, gradients and rates the optimizer received: ``run`` itself, or the run that it
    follows.
    """
    updates = updates_of(run, port, name)
    if not updates:
        return None
    unit, roles = 2.0 ** -BITS[dtype], {*updates[-1].new}
    for needed, rule in _RULES:
        if needed <= roles:
            return rule(updates, unit)
    return None


def _plain(updates: Sequence[Update], unit: float) -> Rule | None:
    """``p -= rate * (g + decay * p)``."""
    moving, moves, roundoff = moves_of(updates, unit)
    columns = joined([u.gradient for u in moving]), joined([u.before for u in moving])
    found = solve(columns, moves, roundoff)
    return {"factor": found[0], "weight decay": over(found[1], found[0]), "momentum": Number(0.0)} if found else None


def _momentum(updates: Sequence[Update], unit: float) -> Rule | None:
    """``b = momentum * b + (1 - dampening) * (g + decay * p)``; ``p -= rate * b``, or ``g + decay * p + momentum * b``.

    The first step is left out of the buffer's rule: torch does not dampen it.
    """
    later = [u for u in updates if MOMENTUM in u.old]
    rule: Rule = {}
    target = joined([u.new[MOMENTUM] for u in later])
    columns = [joined([pick(u) for u in later]) for pick in (old(MOMENTUM), gradient, before)]
    buffer = solve(columns, target, unit * largest(target, *columns[1:2]))
    if buffer:
        rule |= {"momentum": buffer[0], "dampening": Number(1 - buffer[1].value, buffer[1].bound)}
        rule["weight decay"] = over(buffer[2], buffer[1])
    else:
        rule |= _changing(later, unit)
    moving, moves, roundoff = moves_of(updates, unit)
    columns = [joined([pick(u) for u in moving]) for pick in (new(MOMENTUM), gradient, before)]
    update = solve(columns, moves, roundoff)
    if update:
        nesterov = abs(update[1].value) > 0.5
        rule["nesterov"] = Number(float(nesterov))
        rule["factor"] = update[1] if nesterov else update[0]
        coupled = rule.get("weight decay", Number(0.0))
        share = update[2].value - (update[1].value * coupled.value if nesterov else 0.0)
        rule["decoupled weight decay"] = Number(share, update[2].bound + coupled.bound)
    return rule or None


def _changing(later: Sequence[Update], unit: float) -> Rule:
    """Return the momentum of each step, if a schedule changes it, without dampening and weight decay."""
    rule = {}
    for u in later:
        target = u.new[MOMENTUM]
        found = solve([u.old[MOMENTUM], u.gradient], target, unit * largest(target, u.gradient))
        if not found:
            return {}
        rule[f"{CHANGING}{u.number}"] = found[0]
    return rule


CHANGING = "momentum at step "


def _adam(updates: Sequence[Update], unit: float) -> Rule | None:
    """Moments of ``g + decay * p``; ``p -= rate * (m' / (sqrt(v') + epsilon) + decay * p)``, ``'`` bias-corrected.

    If this does not fit, the variants with the same two moments are tried: other places of epsilon, no correction,
    NAdam, RAdam.
    """
    rule = adaptive.first_moment(updates, unit)
    if not rule:
        return None
    target = joined([u.new[SECOND] for u in updates])
    squares = joined([(u.gradient + rule["weight decay"].value * u.before) ** 2 for u in updates])
    second = solve([joined([old(SECOND)(u) for u in updates]), squares], target, unit * largest(target))
    if not second:
        return rule
    rule["beta2"] = second[0]
    corrected, uncorrected = {"bias correction": Number(1.0)}, {"bias correction": Number(0.0)}
    if found := _adam_update(updates, unit, rule, True):
        return rule | found | corrected
    if found := _adam_update(updates, unit, rule, False):
        return rule | found | uncorrected
    for variant in (adaptive.adam_beside_uncorrected, adaptive.adam_under_root):
        if found := variant(updates, rule, unit):
            return rule | found | corrected
    for number, variant in enumerate((adaptive.radam, adaptive.nadam), 1):
        if found := variant(updates, rule, unit):
            return rule | found | {"update": Number(float(number))}
    return rule


VARIANTS = {1: "RAdam's", 2: "NAdam's"}


def _adam_update(updates: Sequence[Update], unit: float, rule: Rule, corrected: bool) -> Rule | None:
    """Solve epsilon and decoupled decay.

    A move ``u`` fulfils ``u * sqrt(v') - m' = -eps * u + decay * (sqrt(v') + eps) * p``.
    """
    moving, moves, roundoff = moves_of(updates, unit)
    firsts, roots = [], []
    for u in moving:
        c1, c2 = (1 - rule[b].value ** u.number if corrected else 1.0 for b in ("beta1", "beta2"))
        firsts.append(u.new[FIRST] / c1)
        roots.append(np.sqrt(u.new.get(LARGEST, u.new[SECOND]) / c2))
    m, root, before = joined(firsts), joined(roots), joined([u.before for u in moving])
    if not m.size:
        return None
    columns = [-moves, root * before, before]
    found = solve(columns, moves * root - m, roundoff * largest(root) + unit * largest(m))
    return {"epsilon": found[0], "decoupled weight decay": found[1]} if found else None


_RULES = [
    ({SUM}, adaptive.adagrad),
    ({FIRST, adaptive.MAXIMUM}, adaptive.adamax),
    ({SECOND, adaptive.STEPS}, adaptive.adadelta),
    ({FIRST, SECOND}, _adam),
    ({SECOND}, adaptive.rmsprop),
    ({MOMENTUM}, _momentum),
    (set(), _plain),
]
"""Rules by the state that they need; the first that fits counts."""


# --- two rules ------------------------------------------------------------------------------------------------------


def differences(reference: Rule, port: Rule) -> list[str]:
    """Describe how the port's rule differs from the reference's."""
    words = [*_decays(reference, port), *_updates(reference, port), *_epsilons(reference, port)]
    words += _changes(reference, port)
    for name in reference:
        known = name in port and not reference[name].same(port[name])
        if known and name != "update" and "weight decay" not in name and "epsilon" not in name:
            words.append(_difference(name, reference[name], port[name]))
    return words


def _difference(name: str, ours: Number, theirs: Number) -> str:
    if name == "nesterov":
        return "Nesterov momentum instead of plain momentum" if theirs.value else "plain momentum, not Nesterov's"
    if name == "momentum" and ours.is_zero:
        return f"momentum {theirs} where the reference has none"
    if name == "bias correction":
        return "moments corrected for their bias" if theirs.value else "bias correction is missing"
    if name == "centered":
        return "centered, the reference is not" if theirs.value else "not centered, as the reference is"
    if name == "factor":
        return f"the step is {theirs.value / ours.value:.6g} times the learning rate's"
    if name == "gradient factor":
        return f"the gradient enters {theirs.value / ours.value:.6g} times"
    return f"{name} {theirs} instead of {ours}"


def _changes(reference: Rule, port: Rule) -> list[str]:
    """Describe a momentum that follows the schedule on one side only."""
    words = []
    for rule, other, form in (
        (reference, port, "momentum {fixed} at all steps; the reference's changes, from {first} to {last}"),
        (port, reference, "momentum that changes, from {first} to {last}, instead of {fixed} at all steps"),
    ):
        steps = [number for name, number in rule.items() if name.startswith(CHANGING)]
        if len(steps) > 1 and "momentum" in other:
            words.append(form.format(fixed=other["momentum"], first=steps[0], last=steps[-1]))
    return words


def _updates(reference: Rule, port: Rule) -> list[str]:
    """Describe another rule on the same two moments."""
    names = [VARIANTS.get(int(rule["update"].value), "") if "update" in rule else "" for rule in (reference, port)]
    ours, theirs = (name or "Adam's" for name in names)
    return [f"the update is {theirs}, not {ours}"] if ours != theirs and _whole(reference) and _whole(port) else []


def _whole(rule: Rule) -> bool:
    """Return whether the rule contains the update and not only the state."""
    return any("epsilon" in name for name in rule)


def _epsilons(reference: Rule, port: Rule) -> list[str]:
    """Describe other values of epsilon, or another place of it."""
    if not (_whole(reference) and _whole(port)):
        return []
    ours, theirs = (
        {name: number for name, number in rule.items() if "epsilon" in name and not number.is_zero}
        for rule in (reference, port)
    )
    places = ours.keys() | theirs.keys()
    if all(place in ours and place in theirs and ours[place].same(theirs[place]) for place in places):
        return []
    if len(ours) == len(theirs) == 1 and ours.keys() != theirs.keys():
        (here, mine), (there, its) = *ours.items(), *theirs.items()
        value = f"{its}" if its.same(mine) else f"{its} instead of {mine}"
        return [f"epsilon {value}, added {_place(there)}; the reference adds it {_place(here)}"]
    zero = Number(0.0)
    return [
        f"{place} {theirs.get(place, zero)} instead of {ours.get(place, zero)}"
        for place in sorted(places)
        if not ours.get(place, zero).same(theirs.get(place, zero))
    ]


def _place(name: str) -> str:
    return name.removeprefix("epsilon").strip() or "beside the root"


NO_DECAY = 1e-10
"""A smaller weight decay has no effect in float32, so it is not a setting."""


def _decays(reference: Rule, port: Rule) -> list[str]:
    kinds = [kind for kind in ("weight decay", "decoupled weight decay") if kind in reference and kind in port]
    wrong = [kind for kind in kinds if not reference[kind].same(port[kind])]
    wrong = [kind for kind in wrong if max(abs(reference[kind].value), abs(port[kind].value)) > NO_DECAY]
    if len(wrong) == 2 and port[wrong[1]].is_zero and reference[wrong[0]].is_zero:
        return [f"coupled (L2) weight decay {port[wrong[0]]} instead of decoupled {reference[wrong[1]]}"]
    if len(wrong) == 2 and port[wrong[0]].is_zero and reference[wrong[1]].is_zero:
        return [f"decoupled weight decay {port[wrong[1]]} instead of coupled (L2) {reference[wrong[0]]}"]
    words = []
    for kind in wrong:
        ours, theirs = reference[kind], port[kind]
        if theirs.is_zero:
            words.append(f"{kind} is missing (0 instead of {ours})")
        elif ours.is_zero:
            words.append(f"{kind} {theirs} where the reference has none")
        else:
            words.append(f"{kind} {theirs} instead of {ours}")
    return words
