"""Sizes of tensors: a whole number, or an expression over the sizes of the model's inputs. No framework.

A traced program says of every dimension how it follows from the inputs: ``(H // 16) * (W // 16) + 1``. The same
expression, met again, is read off a tensor that has it (``x.shape[1]``) or computed from others.
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
        return self.args[0] if self.op == "symbol" else f"{self.op}({', '.join(map(str, self.args))})"


def solve(size: int | float | Expression, known: Callable[[Expression], ast.expr | None]) -> ast.expr | None:
    """``size`` as Python, where ``known`` says how an expression can be read off; ``None`` where it cannot be had."""
    if not isinstance(size, Expression):
        return ast.Constant(size)
    found = known(size)
    if found is not None:
        return found
    if size.op not in BINARY and size.op not in (*FUNCTIONS, CEIL):
        return None
    parts = [solve(part, known) for part in size.args]
    if None in parts:
        return None
    if size.op == CEIL:
        quotient = ast.BinOp(ast.UnaryOp(ast.USub(), parts[0]), ast.FloorDiv(), parts[1])
        return ast.UnaryOp(ast.USub(), quotient)
    if size.op in FUNCTIONS:
        return ast.Call(ast.Name(size.op), parts, [])
    return _chained(size.op, parts)


def _chained(op: str, parts: list[ast.expr]) -> ast.expr:
    if op not in ("add", "mul"):
        return ast.BinOp(parts[0], BINARY[op](), parts[1])
    # numbers last in a sum, first in a product: H * W + 1, 2 * C; what is subtracted after what is added
    numbers = [part for part in parts if isinstance(part, ast.Constant)]
    others = [part for part in parts if part not in numbers]
    parts = sorted([*others, *numbers], key=_negative) if op == "add" else [*numbers, *others]
    if op == "mul" and _value(parts[0]) == -1:
        return ast.UnaryOp(ast.USub(), _chained(op, parts[1:]) if len(parts) > 2 else parts[1])
    result, *others = parts
    for part in others:
        if op == "add" and _negative(part):
            result = ast.BinOp(result, ast.Sub(), _negated(part))
        else:
            result = ast.BinOp(result, BINARY[op](), part)
    return result


def _value(node: ast.expr) -> int | float | None:
    return node.value if isinstance(node, ast.Constant) else None


def _negative(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return node.value < 0
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)


def _negated(node: ast.expr) -> ast.expr:
    return node.operand if isinstance(node, ast.UnaryOp) else ast.Constant(-node.value)
