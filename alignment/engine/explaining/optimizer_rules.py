"""Which rule an optimizer follows, and with which numbers: solved from what it was given and what it made. numpy only.

Each rule is linear in its numbers, so that they come out of least squares over all steps and elements, with a bound on
their error; a rule that does not fit to rounding is not taken. Formulas: torch.optim.SGD, Adam and AdamW (torch 2.13).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alignment.engine.judging.noise import BITS
from alignment.engine.records.run import FIRST, GIVEN, GRADIENT, LARGEST, MOMENTUM, PARAMETER, SECOND, STATE, Run

SAMPLES = 512
"""Elements of each tensor and step that are used: a few numbers are solved from thousands of equations."""
# Some ten roundings make an update. A rule that is another one leaves a thousandth of the update at least, a billion
# times what rounding leaves in float64.
FIT = 2.0**10
# columns that are the same to half of the digits of float64 do not tell their numbers apart
RANK = 2.0**-26
# a hyperparameter that one framework keeps in float32 is the same setting (see ``settings``)
SAME = 2.0**-23


@dataclass(frozen=True)
class Number:
    """A solved number and how far rounding may have put it from its true value."""

    value: float
    bound: float = 0.0

    def same(self, other: Number) -> bool:
        """Whether both may be the same setting."""
        return abs(self.value - other.value) <= 2 * (self.bound + other.bound) + SAME * abs(self.value)

    @property
    def is_zero(self) -> bool:
        """Whether rounding alone may have made it other than zero (as 1 - a of an a near 1, some units of 2**-53)."""
        return abs(self.value) <= 2 * self.bound + 2.0**-48

    def __str__(self) -> str:
        if self.is_zero:
            return "0"
        known = math.log10(abs(self.value) / self.bound) if self.bound else 6
        return f"{self.value:.{min(6, max(1, int(known)))}g}"


Rule = Mapping[str, Number]


@dataclass(frozen=True)
class _Update:
    """One step of one parameter, flat: rate, gradient as given, weights before and after, state before and after."""

    number: int
    rate: float
    gradient: np.ndarray
    before: np.ndarray
    after: np.ndarray
    old: Mapping[str, np.ndarray]
    new: Mapping[str, np.ndarray]


def solve(columns: Sequence[np.ndarray], target: np.ndarray, roundoff: float) -> list[Number] | None:
    """Numbers by which ``columns`` sum to ``target``; ``None`` where none do, or where several sets would.

    ``roundoff`` is what rounding may have added to an element of ``target``. A column of zeros has the number 0.
    """
    scales = [float(np.abs(column).max(initial=0.0)) for column in columns]
    used = [i for i, scale in enumerate(scales) if scale]
    numbers = [Number(0.0)] * len(columns)
    if not used or not target.size:
        return None
    matrix = np.stack([columns[i] / scales[i] for i in used], axis=1)
    found, _, rank, _ = np.linalg.lstsq(matrix, target, rcond=RANK)
    residual = float(np.abs(matrix @ found - target).max())
    if rank < len(used) or not residual <= FIT * roundoff:
        return None
    bounds = np.abs(np.linalg.pinv(matrix, rcond=RANK)).sum(axis=1) * max(residual, roundoff)
    for position, i in enumerate(used):
        numbers[i] = Number(float(found[position]) / scales[i], float(bounds[position]) / scales[i])
    return numbers


def rule_of(run: Run, port: Run, name: str, dtype: str) -> Rule | None:
    """The numbers of the rule by which ``run``'s optimizer updates a parameter; ``None`` where no known rule fits.

    ``port``: whose weights, gradients and rates the optimizer was given: ``run`` itself, or the run that it follows.
    """
    updates = _updates(run, port, name)
    if not updates:
        return None
    unit, roles = 2.0 ** -BITS[dtype], {*updates[-1].new}
    if {FIRST, SECOND} <= roles:
        return _adam(updates, unit)
    if MOMENTUM in roles and SECOND not in roles:
        return _momentum(updates, unit)
    return None if SECOND in roles else _plain(updates, unit)


def _updates(run: Run, port: Run, name: str) -> list[_Update]:
    updates = []
    for number in range(1, len(run) + 1):
        other = port.steps[number]
        gradient = other.get(GIVEN, name)
        gradient = other.get(GRADIENT, name) if gradient is None else gradient
        weights = port.steps[number - 1].get(PARAMETER, name), run.steps[number].get(PARAMETER, name)
        if gradient is None or name not in other.rates or weights[0] is None or weights[1] is None:
            continue
        chosen = np.unique(np.linspace(0, gradient.size - 1, min(SAMPLES, gradient.size)).astype(int))

        def flat(array: np.ndarray, chosen: np.ndarray = chosen) -> np.ndarray:
            return array.reshape(-1)[chosen].astype(np.float64)

        def state(of: int) -> dict[str, np.ndarray]:
            found = {role: run.steps[of].get(STATE, name, role) for role in run.steps[of].roles(name)}
            return {role: flat(array) for role, array in found.items() if array.size == gradient.size}  # noqa: B023

        updates.append(
            _Update(
                number, other.rates[name], flat(gradient), flat(weights[0]), flat(weights[1]), state(number - 1),
                state(number),
            )
        )  # fmt: skip
    return updates


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0)


def _largest(*arrays: np.ndarray) -> float:
    return max(float(np.abs(array).max(initial=0.0)) for array in arrays)


def _moves(updates: Sequence[_Update], unit: float) -> tuple[list[_Update], np.ndarray, float]:
    """The steps with a rate, what each subtracted over its rate, and the rounding in that difference."""
    moving = [u for u in updates if u.rate]
    moves = _joined([(u.before - u.after) / u.rate for u in moving])
    roundoff = max((unit * _largest(u.before, u.after) / u.rate for u in moving), default=0.0) + unit * _largest(moves)
    return moving, moves, roundoff


def _plain(updates: Sequence[_Update], unit: float) -> Rule | None:
    """``p -= rate * (g + decay * p)``."""
    moving, moves, roundoff = _moves(updates, unit)
    columns = _joined([u.gradient for u in moving]), _joined([u.before for u in moving])
    found = solve(columns, moves, roundoff)
    return found and {"factor": found[0], "weight decay": _over(found[1], found[0])}


def _momentum(updates: Sequence[_Update], unit: float) -> Rule | None:
    """``b = momentum * b + (1 - dampening) * (g + decay * p)``; ``p -= rate * b``, or ``g + decay * p + momentum * b``.

    The first step is left out of the buffer's rule: torch does not dampen it.
    """
    later = [u for u in updates if MOMENTUM in u.old]
    rule: dict[str, Number] = {}
    target = _joined([u.new[MOMENTUM] for u in later])
    columns = [_joined([pick(u) for u in later]) for pick in (_old(MOMENTUM), _gradient, _before)]
    buffer = solve(columns, target, unit * _largest(target, *columns[1:2]))
    if buffer:
        rule |= {"momentum": buffer[0], "dampening": Number(1 - buffer[1].value, buffer[1].bound)}
        rule["weight decay"] = _over(buffer[2], buffer[1])
    moving, moves, roundoff = _moves(updates, unit)
    columns = [_joined([pick(u) for u in moving]) for pick in (_new(MOMENTUM), _gradient, _before)]
    update = solve(columns, moves, roundoff)
    if update:
        nesterov = abs(update[1].value) > 0.5
        rule["nesterov"] = Number(float(nesterov))
        rule["factor"] = update[1] if nesterov else update[0]
        coupled = rule.get("weight decay", Number(0.0))
        share = update[2].value - (update[1].value * coupled.value if nesterov else 0.0)
        rule["decoupled weight decay"] = Number(share, update[2].bound + coupled.bound)
    return rule or None


def _adam(updates: Sequence[_Update], unit: float) -> Rule | None:
    """Moments of ``g + decay * p``; ``p -= rate * (m' / (sqrt(v') + epsilon) + decay * p)``, ``'`` bias-corrected."""
    rule: dict[str, Number] = {}
    target = _joined([u.new[FIRST] for u in updates])
    columns = [_joined([pick(u) for u in updates]) for pick in (_old(FIRST), _gradient, _before)]
    first = solve(columns, target, unit * _largest(target))
    if not first:
        return None
    decay = _over(first[2], first[1])
    rule |= {"beta1": first[0], "weight decay": decay}
    rule["gradient factor"] = _over(first[1], Number(1 - first[0].value, first[0].bound))
    target = _joined([u.new[SECOND] for u in updates])
    squares = _joined([(u.gradient + decay.value * u.before) ** 2 for u in updates])
    second = solve([_joined([_old(SECOND)(u) for u in updates]), squares], target, unit * _largest(target))
    if not second:
        return rule
    rule["beta2"] = second[0]
    for corrected in (True, False):
        if found := _adam_update(updates, unit, rule, corrected):
            return rule | found | {"bias correction": Number(float(corrected))}
    return rule


def _adam_update(updates: Sequence[_Update], unit: float, rule: Rule, corrected: bool) -> Rule | None:
    """Epsilon and decoupled decay: of a move ``u``, ``u * sqrt(v') - m' = -eps * u + decay * (sqrt(v') + eps) * p``."""
    moving, moves, roundoff = _moves(updates, unit)
    firsts, roots = [], []
    for u in moving:
        c1, c2 = (1 - rule[b].value ** u.number if corrected else 1.0 for b in ("beta1", "beta2"))
        firsts.append(u.new[FIRST] / c1)
        roots.append(np.sqrt(u.new.get(LARGEST, u.new[SECOND]) / c2))
    m, root, before = _joined(firsts), _joined(roots), _joined([u.before for u in moving])
    if not m.size:
        return None
    columns = [-moves, root * before, before]
    found = solve(columns, moves * root - m, roundoff * _largest(root) + unit * _largest(m))
    return found and {"epsilon": found[0], "decoupled weight decay": found[1]}


def _over(a: Number, b: Number) -> Number:
    if not b.value:
        return Number(0.0)
    ratio = a.value / b.value
    return Number(ratio, (a.bound + abs(ratio) * b.bound) / abs(b.value))


def _gradient(update: _Update) -> np.ndarray:
    return update.gradient


def _before(update: _Update) -> np.ndarray:
    return update.before


def _old(role: str):  # noqa: ANN202 - a picker
    return lambda update: update.old.get(role, np.zeros_like(update.gradient))


def _new(role: str):  # noqa: ANN202 - a picker
    return lambda update: update.new[role]


# --- two rules ------------------------------------------------------------------------------------------------------


def differences(reference: Rule, port: Rule) -> list[str]:
    """How the port's rule differs from the reference's, in words."""
    words = _decays(reference, port)
    if "momentum" not in reference and "momentum" in port and not port["momentum"].is_zero:
        words.append(f"momentum {port['momentum']} where the reference has none")
    for name in reference:
        if name not in port or reference[name].same(port[name]) or "weight decay" in name:
            continue
        ours, theirs = reference[name].value, port[name].value
        if name == "nesterov":
            words.append("Nesterov momentum instead of plain momentum" if theirs else "plain momentum, not Nesterov's")
        elif name == "bias correction":
            words.append("moments corrected for their bias" if theirs else "bias correction is missing")
        elif name == "factor":
            words.append(f"the step is {theirs / ours:.6g} times the learning rate's")
        elif name == "gradient factor":
            words.append(f"the gradient enters {theirs / ours:.6g} times")
        else:
            words.append(f"{name} {port[name]} instead of {reference[name]}")
    return words


def _decays(reference: Rule, port: Rule) -> list[str]:
    kinds = [kind for kind in ("weight decay", "decoupled weight decay") if kind in reference and kind in port]
    wrong = [kind for kind in kinds if not reference[kind].same(port[kind])]
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
