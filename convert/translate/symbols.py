"""Convert the sympy expressions that ``torch.export`` uses for sizes to plain values. No framework."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import sympy

from convert.translate.plain import Limit
from convert.translate.sizes import Expression


def expression_of(term: sympy.Basic, whole: bool) -> int | float | Expression:
    """Convert ``term`` to an expression.

    In a ``whole`` number divisions are exact: otherwise torch would not have used it as a size.
    """
    if isinstance(term, sympy.Integer):
        return int(term)
    if isinstance(term, sympy.Symbol):
        return Expression("symbol", (term.name,))
    if isinstance(term, sympy.Number):
        return float(term)
    kind = type(term).__name__
    if isinstance(term, sympy.Mul):
        factor, rest = term.as_coeff_Mul()
        if isinstance(factor, sympy.Rational) and not isinstance(factor, sympy.Integer):
            product = expression_of(factor.p * rest, whole)
            return Expression("floordiv" if whole else "truediv", (product, int(factor.q)))
    if isinstance(term, sympy.Pow) and term.exp == -1:
        return Expression("truediv", (1, expression_of(term.base, whole)))
    parts = tuple(expression_of(part, whole and kind not in ROUNDED) for part in term.args)
    if kind == "CeilToInt" and isinstance(parts[0], Expression) and parts[0].op == "truediv":
        return Expression("ceildiv", parts[0].args)
    if kind == "TruncToInt" and isinstance(parts[0], Expression) and parts[0].op == "truediv":
        return Expression("floordiv", parts[0].args)  # sizes are positive
    if kind in SAME_SIZE:
        return parts[0]
    name = SIZE_FUNCTIONS.get(kind, kind)
    return Expression("floordiv" if whole and name == "truediv" else name, parts)


ROUNDED = ("CeilToInt", "TruncToInt", "RoundToInt", "FloorToInt")
SAME_SIZE = ("ToFloat", "Identity")
SIZE_FUNCTIONS = {
    "Add": "add", "Mul": "mul", "FloorDiv": "floordiv", "CleanDiv": "floordiv", "Mod": "mod", "PythonMod": "mod",
    "Pow": "pow", "PowByNatural": "pow", "FloatPow": "pow", "IntTrueDiv": "truediv", "FloatTrueDiv": "truediv",
    "Max": "max", "Min": "min", "TruncToInt": "int", "RoundToInt": "round",
}  # fmt: skip
"""sympy's and torch's names of the functions of sizes -> the ``op`` of an ``Expression``."""


def limit_of(
    guards: Iterable[sympy.Basic], symbols: tuple[sympy.Basic, sympy.Basic], traced: tuple[int, int]
) -> Limit | None:
    """Find the heights and widths for which the ``guards`` of a trace hold, by trying square images of many sizes.

    ``symbols`` are those of height and width, ``traced`` the sizes in the trace. Returns ``None`` if any size is
    allowed.
    """
    guards = [guard for guard in guards if any(symbol in guard.free_symbols for symbol in symbols)]
    largest = max(traced)
    sides = [*range(SIDE_STEP, 2 * largest + 1, SIDE_STEP), *(largest * times for times in LARGER)]
    held = [side for side in sides if all(_holds(guard, symbols, side) for guard in guards)]
    if not held:
        return Limit(equal=traced)
    tried = [side for side in sides if side >= held[0]]
    multiple = math.gcd(*held)
    if held == tried:
        return None
    if len(held) > 1 and held == [side for side in tried if side % multiple == 0]:
        return Limit(multiple=multiple)
    return Limit(equal=traced)


SIDE_STEP = 8
"""Pixels between the tried sizes; finer limits, which no network has, are not searched for."""


LARGER = (3, 4, 6, 8, 16, 32, 64)
"""Larger sizes to try, as multiples of the traced one, so that they have its divisors."""
BATCHES = (*range(2, 10), 12, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 96, 128, 129)
"""Batch sizes to try; 1 is not among them, since ``torch.export`` treats it specially, without guards."""


def refused_batch(guards: Iterable[sympy.Basic], batch: sympy.Basic, traced: Mapping[sympy.Basic, int]) -> int | None:
    """Return the first of ``BATCHES`` for which the ``guards`` of a trace do not hold; ``None`` if they always hold.

    ``batch`` is the symbol of the batch size; all other sizes are as ``traced``.
    """
    sizes = {symbol: sympy.Integer(size) for symbol, size in traced.items()}
    about = [guard.xreplace(sizes) for guard in guards if batch in guard.free_symbols]
    return next((count for count in BATCHES if not all(_holds(guard, (batch,), count) for guard in about)), None)


def _holds(guard: sympy.Basic, symbols: Iterable[sympy.Basic], size: int) -> bool:
    try:
        found = guard.xreplace({symbol: sympy.Integer(size) for symbol in symbols})
    except ZeroDivisionError:  # a tensor has no elements at that size
        return False
    return found is not sympy.false and found is not False
