"""Compress repetition in a forward method: statements that differ only in an index become a loop. No framework."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable

from convert.translate.templates import literal

SHORTEST = 2
LONGEST_PERIOD = 12


def rolled(statements: list[ast.stmt], length_of: Callable[[str], int | None]) -> list[ast.stmt]:
    """Write ``x = self.blocks[0](x)``, ``x = self.blocks[1](x)``, ... in ``statements`` as a loop over ``self.blocks``.

    ``length_of`` returns the number of modules in the list ``self.NAME``.
    """
    result: list[ast.stmt] = []
    position = 0
    while position < len(statements):
        found = _longest(statements, position)
        if found is None:
            result.append(statements[position])
            position += 1
            continue
        period, times, owner, first = found
        result.append(_loop(statements[position : position + period], owner, first, times, length_of(owner)))
        position += period * times
    return result


def _longest(statements: list[ast.stmt], start: int) -> tuple[int, int, str, int] | None:
    """Return ``(period, times, list, first index)`` of the longest repetition that begins at ``start``."""
    best = None
    for period in range(1, LONGEST_PERIOD + 1):
        owners = dict.fromkeys(owner for s in statements[start : start + period] for owner, _ in _indices(s))
        for owner in owners:
            first = {index for s in statements[start : start + period] for name, index in _indices(s) if name == owner}
            if len(first) != 1:
                continue
            (index,) = first
            pattern = _pattern(statements[start : start + period], owner, index)
            times = 1
            while (
                _pattern(statements[start + times * period : start + (times + 1) * period], owner, index + times)
                == pattern
            ):
                times += 1
            if times >= SHORTEST and (best is None or times * period > best[0] * best[1]):
                best = (period, times, owner, index)
    return best


def _indices(statement: ast.stmt) -> list[tuple[str, int]]:
    """Return ``(list, index)`` of every ``self.list[index]``."""
    return [item for node in ast.walk(statement) if (item := _item(node)) is not None]


def _item(node: ast.AST) -> tuple[str, int] | None:
    if (
        isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Attribute)
        and isinstance(node.value.value, ast.Name)
        and node.value.value.id == "self"
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, int)
    ):
        return node.value.attr, node.slice.value
    return None


class _Item(ast.NodeTransformer):
    """Replace ``self.owner[index]`` by a variable."""

    def __init__(self, owner: str, index: int, name: str):
        self.owner, self.index, self.name = owner, index, name

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        if _item(node) == (self.owner, self.index):
            return ast.Name(self.name, ast.Load())
        self.generic_visit(node)
        return node


def _pattern(statements: list[ast.stmt], owner: str, index: int) -> list[str]:
    return [ast.dump(_Item(owner, index, "").visit(copy.deepcopy(s))) for s in statements]


def _loop(body: list[ast.stmt], owner: str, first: int, times: int, length: int | None) -> ast.stmt:
    name = _singular(owner, {node.id for s in body for node in ast.walk(s) if isinstance(node, ast.Name)})
    over: ast.expr = ast.Attribute(ast.Name("self"), owner, ast.Load())
    if first or times != length:
        end = None if length == first + times else literal(first + times)
        over = ast.Subscript(over, ast.Slice(literal(first) if first else None, end), ast.Load())
    changed = [_Item(owner, first, name).visit(s) for s in body]
    return ast.For(ast.Name(name, ast.Store()), over, changed, [])


def _singular(owner: str, taken: set[str]) -> str:
    name = owner[:-1] if owner.endswith("s") and len(owner) > 2 else f"{owner}_item"
    return name if name not in taken and name.isidentifier() else f"{name}_"
