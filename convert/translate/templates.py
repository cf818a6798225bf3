"""Build expressions from templates: Python text whose names are replaced by expressions. No framework.

filled("F.softmax(self, axis=dim)", {"self": x, "dim": ast.Constant(-1)})     # F.softmax(x, axis=-1)
"""

from __future__ import annotations

import ast
import copy
import functools
from collections.abc import Mapping
from typing import Any, TypeVar

Tree = TypeVar("Tree", ast.expr, ast.stmt)


def filled(template: str, values: Mapping[str, ast.expr]) -> ast.expr:
    """Return the expression of ``template`` with the names in ``values`` replaced; ``*name`` unpacks a list."""
    return filled_tree(copy.deepcopy(_parsed(template)), values)


def filled_tree(tree: Tree, values: Mapping[str, ast.expr]) -> Tree:
    """Replace names in ``tree`` in place, as ``filled`` does in a template."""
    return _Filling(values).visit(tree)


@functools.cache
def _parsed(template: str) -> ast.expr:
    return ast.parse(template, mode="eval").body


class _Filling(ast.NodeTransformer):
    def __init__(self, values: Mapping[str, ast.expr]):
        self.values = values

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.values.get(node.id, node)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        args: list[ast.expr] = []
        for arg in node.args:
            if isinstance(arg, ast.Starred) and isinstance(arg.value, (ast.List, ast.Tuple)):
                args.extend(arg.value.elts)
            else:
                args.append(arg)
        node.args = args
        return node


def literal(value: Any) -> ast.expr:
    """Return the Python expression of a plain value: numbers, strings, and lists of them."""
    if isinstance(value, (list, tuple)):
        return ast.List([literal(item) for item in value], ast.Load())
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value < 0:
        return ast.UnaryOp(ast.USub(), literal(-value))
    if isinstance(value, float) and value == float("inf"):
        return ast.Call(ast.Name("float"), [ast.Constant("inf")], [])
    return ast.Constant(value)
