"""Solve the rules of Adagrad, RMSprop, Adadelta, Adamax, NAdam and RAdam, with the place of epsilon. numpy only.

Formulas: torch.optim of the same names (torch 2.13), with ``u`` for the factor of the rate, ``g`` for the gradient with
its weight decay. Paddle's differ in the place of epsilon: RMSProp has it under the root, Adamax beside the decayed
maximum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from alignment.engine.explaining.solving import (
    FIT,
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
)
from alignment.engine.records.run import FIRST, LARGEST, MEAN, MOMENTUM, SECOND, SUM

STEPS = "acc_delta"
"""Adadelta's average of squared steps."""
MAXIMUM = "exp_inf"
"""Adamax' decayed maximum of the gradients."""

BESIDE, UNDER = "epsilon", "epsilon under the root"
AT_GRADIENT, AT_MAXIMUM = "epsilon beside the gradient's magnitude", "epsilon beside the decayed maximum"


def squares_rule(updates: Sequence[Update], role: str, unit: float) -> Rule | None:
    """``v = keep * v + take * g ** 2``, with the weight decay in ``g``."""
    later = [u for u in updates if role in u.old or u.number > 1] or list(updates)
    target = joined([u.new[role] for u in later])
    pickers = (old(role), lambda u: u.gradient**2, lambda u: u.gradient * u.before, lambda u: u.before**2)
    found = solve([joined([pick(u) for u in later]) for pick in pickers], target, unit * largest(target))
    if not found:
        # without a decay, as the weights' own columns may be equal
        found = solve([joined([pick(u) for u in later]) for pick in pickers[:2]], target, unit * largest(target))
        return {"keep": found[0], "take": found[1], "weight decay": Number(0.0)} if found else None
    half = over(found[2], found[1])
    return {"keep": found[0], "take": found[1], "weight decay": Number(half.value / 2, half.bound / 2)}


def _decayed(updates: Sequence[Update], decay: Number) -> list[np.ndarray]:
    value = 0.0 if decay.is_zero else decay.value
    return [u.gradient + value * u.before for u in updates]


def adagrad(updates: Sequence[Update], unit: float) -> Rule | None:
    """``s += g ** 2``; ``u = g / (sqrt(s) + epsilon) / (1 + (t - 1) * rate decay)``."""
    sums = squares_rule(updates, SUM, unit)
    if not sums:
        return None
    rule = {"weight decay": sums["weight decay"], "decay of the sum": sums["keep"], "share of the square": sums["take"]}
    rule |= _initial(updates[0], sums, unit)
    moving, moves, roundoff = moves_of(updates, unit)
    g, s = joined(_decayed(moving, sums["weight decay"])), joined([u.new[SUM] for u in moving])
    late = joined([np.full_like(u.gradient, u.number - 1) for u in moving])
    root = np.sqrt(s)
    limit = roundoff * largest(root) + unit * largest(g)
    if found := solve([-moves, -late * moves * root, -late * moves], moves * root - g, limit):
        return rule | {BESIDE: found[0], "rate decay": found[1]}
    return rule | (_under_root(moves, s, g, roundoff) or {})


def _initial(first: Update, sums: Rule, unit: float) -> Rule:
    """Return the initial sum of squares, if it is the same for all elements."""
    if SUM in first.old or first.number != 1:
        return {}
    g = _decayed([first], sums["weight decay"])[0]
    left = first.new[SUM] - sums["take"].value * g**2
    bound = FIT * unit * largest(first.new[SUM])
    return {"initial accumulator": Number(float(left.mean()), bound)} if np.ptp(left) <= 2 * bound else {}


def _under_root(moves: np.ndarray, square: np.ndarray, g: np.ndarray, roundoff: float) -> Rule | None:
    """``u = g / sqrt(v + epsilon)``: ``u ** 2 * v - g ** 2 = -epsilon * u ** 2``."""
    limit = 2 * roundoff * largest(moves) * largest(square) + roundoff * largest(g)
    found = solve([-(moves**2)], moves**2 * square - g**2, limit)
    return {UNDER: found[0]} if found else None


def rmsprop(updates: Sequence[Update], unit: float) -> Rule | None:
    """``u = g / (sqrt(v - m ** 2) + epsilon)``, ``m`` only where it is centered; momentum over ``u``."""
    found = squares_rule(updates, SECOND, unit)
    if not found:
        return None
    decay = found["weight decay"]
    rule = {"weight decay": decay, "alpha": found["keep"]}
    centered = any(np.any(u.new[MEAN]) for u in updates if MEAN in u.new)
    rule["centered"] = Number(float(centered))
    moving, moves, roundoff = moves_of(updates, unit)
    g = joined(_decayed(moving, decay))
    square = joined([u.new[SECOND] - (u.new[MEAN] ** 2 if centered else 0.0) for u in moving])
    root = np.sqrt(np.maximum(square, 0.0))
    limit, plain = roundoff * largest(root) + unit * largest(g), {"momentum": Number(0.0)}
    if beside := solve([-moves], moves * root - g, limit):
        return rule | plain | {BESIDE: beside[0]}
    if under := _under_root(moves, square, g, roundoff):
        return rule | plain | under
    return rule | (_rms_momentum(moving, moves, g, root, roundoff) or {})


def _rms_momentum(
    moving: Sequence[Update], moves: np.ndarray, g: np.ndarray, root: np.ndarray, roundoff: float
) -> Rule | None:
    """``u = momentum * u' + g / (root + epsilon)``, or with epsilon under the root."""
    last = joined([old(MOMENTUM)(u) for u in moving])
    limit = 2 * roundoff * largest(root) * 2
    if found := solve([last * root, -moves, last], moves * root - g, limit):
        return {"momentum": found[0], BESIDE: found[1]}

    def predicted(numbers: np.ndarray) -> np.ndarray:
        momentum, exponent = numbers
        return momentum * last + g / np.sqrt(root**2 + 10.0**exponent)

    for exponent in (-3.0, -6.0, -8.0, -10.0):
        if found := refine(predicted, moves, np.array([0.9, exponent]), roundoff):
            momentum, epsilon = found[0], 10.0 ** found[1].value
            return {"momentum": momentum, UNDER: Number(epsilon, float(np.log(10)) * epsilon * found[1].bound)}
    return None


def adadelta(updates: Sequence[Update], unit: float) -> Rule | None:
    """``u = sqrt(d' + epsilon) / sqrt(v + epsilon) * g``, ``d`` the average of ``u ** 2``."""
    found = squares_rule(updates, SECOND, unit)
    if not found:
        return None
    rule = {"weight decay": found["weight decay"], "rho": found["keep"]}
    moving, moves, roundoff = moves_of(updates, unit)
    g = joined(_decayed(moving, found["weight decay"]))
    v, d = (joined([pick(u) for u in moving]) for pick in (new(SECOND), old(STEPS)))
    limit = 2 * roundoff * largest(moves) * largest(v) + unit * largest(g) ** 2
    epsilon = solve([g**2 - moves**2], moves**2 * v - d * g**2, limit)
    return rule | ({"epsilon under the roots": epsilon[0]} if epsilon else {})


def first_moment(updates: Sequence[Update], unit: float) -> Rule | None:
    """``m = beta1 * m + (1 - beta1) * factor * (g + decay * p)``."""
    target = joined([u.new[FIRST] for u in updates])
    columns = [joined([pick(u) for u in updates]) for pick in (old(FIRST), gradient, before)]
    found = solve(columns, target, unit * largest(target))
    if not found:
        return None
    factor = over(found[1], Number(1 - found[0].value, found[0].bound))
    return {"beta1": found[0], "weight decay": over(found[2], found[1]), "gradient factor": factor}


def adamax(updates: Sequence[Update], unit: float) -> Rule | None:
    """``n = max(beta2 * n, |g| + epsilon)``, Paddle's ``max(beta2 * n + epsilon, |g|)``; ``u = m' / n``."""
    rule = first_moment(updates, unit)
    if not rule:
        return None
    g = np.abs(joined(_decayed(updates, rule["weight decay"])))
    n, last = (joined([pick(u) for u in updates]) for pick in (new(MAXIMUM), old(MAXIMUM)))
    roundoff = unit * largest(n)
    above = n - g
    decayed = np.zeros(n.shape, bool)
    # where the gradient is larger, the added number is the same for all elements: the least, or nothing
    for added in sorted({0.0, float(np.median(above[last == 0.0])) if (last == 0.0).any() else 0.0}):
        decayed = np.abs(above - added) > FIT * roundoff
        found = solve([last[decayed], np.ones(int(decayed.sum()))], n[decayed], roundoff) if decayed.any() else None
        if found is None:
            continue
        keep, beside = found
        if np.abs(np.maximum(keep.value * last + beside.value, g + added) - n).max() <= FIT * roundoff:
            rule |= {"beta2": keep, AT_GRADIENT: Number(added, roundoff), AT_MAXIMUM: beside}
            break
    return rule | (_corrected_step(updates, rule, unit) or {})


def _corrected_step(updates: Sequence[Update], rule: Rule, unit: float) -> Rule | None:
    moving, moves, roundoff = moves_of(updates, unit)
    steps = joined([u.new[FIRST] / (1 - rule["beta1"].value ** u.number) / u.new[MAXIMUM] for u in moving])
    found = solve([steps], moves, roundoff + unit * largest(steps))
    return {"factor": found[0]} if found else None


def nadam(updates: Sequence[Update], rule: Rule, unit: float) -> Rule | None:
    """``u = ((1 - mu_t) / (1 - P_t) * g + mu_t+1 / (1 - P_t+1) * m) / (sqrt(v') + epsilon)``.

    ``P`` is the product of all ``mu``; ``mu_t = beta1 * (1 - 0.96 ** (t * psi) / 2)``, ``psi`` is the momentum decay.
    """
    moving, moves, roundoff = moves_of(updates, unit)
    beta1, beta2 = rule["beta1"].value, rule["beta2"].value
    root = joined([np.sqrt(u.new[SECOND] / (1 - beta2**u.number)) for u in moving])
    gradients = _decayed(moving, rule["weight decay"])
    weights = joined([u.before for u in moving])

    def predicted(numbers: np.ndarray) -> np.ndarray:
        psi, epsilon, decoupled, both = numbers
        mu = [beta1 * (1 - 0.5 * 0.96 ** (t * psi)) for t in range(1, max(u.number for u in moving) + 2)]
        product = np.cumprod(mu)
        ups = [
            (1 - mu[u.number - 1]) / (1 - product[u.number - 1]) * g
            + mu[u.number] / (1 - product[u.number]) * u.new[FIRST]
            for u, g in zip(moving, gradients)
        ]
        return joined(ups) - epsilon * moves + decoupled * weights * root + both * weights

    limit = roundoff * largest(root) + unit * largest(joined(gradients))
    found = refine(predicted, moves * root, np.array([0.004, 0.0, 0.0, 0.0]), limit)
    return {"momentum decay": found[0], BESIDE: found[1], "decoupled weight decay": found[2]} if found else None


def radam(updates: Sequence[Update], rule: Rule, unit: float) -> Rule | None:
    """``u = m' * r_t * sqrt(1 - beta2^t) / (sqrt(v) + epsilon)``, or ``m'`` where the variance is not yet tractable."""
    moving, moves, roundoff = moves_of(updates, unit)
    beta1, beta2 = rule["beta1"].value, rule["beta2"].value
    factors, roots = [], []
    for u in moving:
        factor = _rectification(beta2, u.number)
        roots.append(np.sqrt(u.new[SECOND]) if factor else np.zeros_like(u.gradient))
        factors.append(u.new[FIRST] / (1 - beta1**u.number) * (factor * np.sqrt(1 - beta2**u.number) if factor else 1))
    m, root, weights = joined(factors), joined(roots), joined([u.before for u in moving])
    rectified = joined([np.full_like(u.gradient, float(_rectification(beta2, u.number) > 0)) for u in moving])
    plain = 1 - rectified
    # u * root - m = -epsilon * u + decay * p * (root + epsilon) where rectified, u - m = decay * p where not
    scale = root + plain
    columns = [-moves * rectified, weights * scale, weights * rectified]
    found = solve(columns, moves * scale - m, roundoff * max(1.0, largest(root)) + unit * largest(m))
    return {BESIDE: found[0], "decoupled weight decay": found[1]} if found else None


def _rectification(beta2: float, t: int) -> float:
    """Return RAdam's factor at a step, 0 if its variance is not tractable (a length of 5 or less, torch 2.13)."""
    last = 2 / (1 - beta2) - 1
    length = last - 2 * t * beta2**t / (1 - beta2**t)
    if length <= 5:
        return 0.0
    return float(np.sqrt((length - 4) * (length - 2) * last / ((last - 4) * (last - 2) * length)))


def adam_under_root(updates: Sequence[Update], rule: Rule, unit: float) -> Rule | None:
    """``u = m' / sqrt(v' + epsilon)``."""
    moving, moves, roundoff = moves_of(updates, unit)
    beta1, beta2 = rule["beta1"].value, rule["beta2"].value
    m = joined([u.new[FIRST] / (1 - beta1**u.number) for u in moving])
    v = joined([u.new.get(LARGEST, u.new[SECOND]) / (1 - beta2**u.number) for u in moving])
    return _under_root(moves, v, m, roundoff)


def adam_beside_uncorrected(updates: Sequence[Update], rule: Rule, unit: float) -> Rule | None:
    """``u = m' * sqrt(1 - beta2^t) / (sqrt(v) + epsilon)``."""
    moving, moves, roundoff = moves_of(updates, unit)
    beta1, beta2 = rule["beta1"].value, rule["beta2"].value
    m = joined([u.new[FIRST] / (1 - beta1**u.number) * np.sqrt(1 - beta2**u.number) for u in moving])
    root = joined([np.sqrt(u.new.get(LARGEST, u.new[SECOND])) for u in moving])
    before_all = joined([u.before for u in moving])
    limit = roundoff * largest(root) + unit * largest(m)
    found = solve([-moves, root * before_all, before_all], moves * root - m, limit)
    return {"epsilon beside the uncorrected root": found[0], "decoupled weight decay": found[1]} if found else None


def refine(
    predicted: Callable[[np.ndarray], np.ndarray], target: np.ndarray, start: np.ndarray, roundoff: float
) -> list[Number] | None:
    """Solve ``predicted`` = ``target`` by Gauss-Newton from ``start``; ``None`` if there is no solution."""
    numbers, widths = start.astype(np.float64), np.maximum(np.abs(start), 1e-3) * 1e-4
    for _ in range(30):
        residual = target - predicted(numbers)
        steps = np.diag(widths)
        jacobian = np.stack([(predicted(numbers + h) - predicted(numbers - h)) / (2 * h.sum()) for h in steps], axis=1)
        if not np.isfinite(jacobian).all() or not np.isfinite(residual).all():
            return None
        change = np.linalg.lstsq(jacobian, residual, rcond=None)[0]
        numbers = numbers + change
        left = float(np.abs(target - predicted(numbers)).max())
        if left <= FIT * roundoff:
            bounds = np.abs(np.linalg.pinv(jacobian)).sum(axis=1) * max(left, roundoff)
            return [Number(float(value), float(bound)) for value, bound in zip(numbers, bounds)]
    return None
