"""Sizes of tensors: an integer, or an expression over the sizes of the model's inputs. No framework.

A traced program expresses every dimension by the sizes of the inputs: ``(H // 16) * (W // 16) + 1``. In the port such a
size is read from a tensor that has it (``x.shape[1]``) or computed from other sizes.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass

# how an expression is written in Python
BINARY: dict[str, type[ast.operator]] = {
    "add": ast.Add, "mul": ast.Mult, "floordiv": ast.FloorDiv, "mod": ast.Mod, "pow": ast.Pow, "truediv": ast.Div,
}  # fmt: skip
CEIL = "ceildiv"  # written -(-a // b)
FUNCTIONS = ("max", "min", "round", "int")


@dataclass(frozen=True)
class Expression:
    """``op`` applied to ``args``: one of ``BINARY`` or ``FUNCTIONS``, or ``symbol`` with a name."""

    op: str
    args: tuple[int | float | str | Expression, ...]

    def __str__(self) -> str:
        args = ", ".join(map(str, self.args))
        return args if self.op == "symbol" else f"{self.op}({args})"


def solve(size: int | float | Expression, known: Callable[[Expression], ast.expr | None]) -> ast.expr | None:
    """Return ``size`` as a Python expression; ``None`` if it cannot be computed.

    ``known`` returns how an expression can be read from a tensor, or ``None``.
    """
    if not isinstance(size, Expression):
        return ast.Constant(size)
    found = known(size)
    if found is not None:
        return found
    if size.op not in BINARY and size.op not in (*FUNCTIONS, CEIL):
        return None
    parts: list[ast.expr] = []
    for part in size.args:
        written = None if isinstance(part, str) else solve(part, known)  # a string is the name of a symbol
        if written is None:
            return None
        parts.append(written)
    if size.op == CEIL:
        quotient = ast.BinOp(ast.UnaryOp(ast.USub(), parts[0]), ast.FloorDiv(), parts[1])
        return ast.UnaryOp(ast.USub(), quotient)
    if size.op in FUNCTIONS:
        return ast.Call(ast.Name(size.op), parts, [])
    return _chained(size.op, parts)


def _chained(op: str, parts: list[ast.expr]) -> ast.expr:
    if op not in ("add", "mul"):
        return ast.BinOp(parts[0], BINARY[op](), parts[1])
    # numbers last in a sum, first in a product: H * W + 1, 2 * C; subtracted terms follow added ones
    numbers = [part for part in parts if isinstance(part, ast.Constant)]
    others = [part for part in parts if part not in numbers]
    parts = (
        sorted([*others, *numbers], key=lambda part: _negated(part) is not None) if op == "add" else [*numbers, *others]
    )
    if op == "mul" and _value(parts[0]) == -1:
        return ast.UnaryOp(ast.USub(), _chained(op, parts[1:]) if len(parts) > 2 else parts[1])
    result, *others = parts
    for part in others:
        subtracted = _negated(part) if op == "add" else None
        if subtracted is not None:
            result = ast.BinOp(result, ast.Sub(), subtracted)
        else:
            result = ast.BinOp(result, BINARY[op](), part)
    return result


def _value(node: ast.expr) -> int | float | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) else None


def _negated(node: ast.expr) -> ast.expr | None:
    """Return ``node`` without its sign if it is negative, otherwise ``None``."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return node.operand
    value = _value(node)
    return ast.Constant(-value) if value is not None and value < 0 else None
