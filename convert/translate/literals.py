"""Handle numbers in a port's source that may become arguments: find, mask, replace, omit. No framework.

``notes`` stores for every number its ``role``, the name of the argument that it stands for, and for a keyword the
``default`` with which it is left out.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping
from typing import Any, TypedDict, TypeGuard

from convert.translate.templates import literal


class Notes(TypedDict, total=False):
    """Annotations of a node while a port is written; copies of the node keep them."""

    role: str  # the argument that a number stands for
    named: bool  # the argument is named by the role, whatever its name in the reference
    switch: bool  # a value that may become an argument although it is not a number
    default: Any  # of a number or a keyword: the value with which the keyword is left out
    absent: bool  # a number of a part that the module lacks: any value is allowed
    lacking: bool  # a choice between a part that some modules have and its replacement in the others


def notes(node: ast.AST) -> Notes:
    """Return the annotations of ``node``, which may be changed."""
    return vars(node).setdefault("notes", Notes())


def with_role(node: ast.expr, role: str) -> ast.expr:
    """Annotate all numbers in ``node`` with ``role``."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant):
            notes(inner)["role"] = role
    return node


def is_number(node: ast.AST) -> TypeGuard[ast.Constant]:
    """Return whether ``node`` is a number or a switch that could become an argument."""
    return isinstance(node, ast.Constant) and (isinstance(node.value, (int, float)) or notes(node).get("switch", False))


class Masked(ast.NodeTransformer):
    """Replace numbers by 0."""

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant(0) if is_number(node) else node


class Renamed(ast.NodeTransformer):
    """Replace numbers, found by identity, by expressions or names."""

    def __init__(self, where: Mapping[int, str | ast.expr]):
        self.where = where

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        found = self.where.get(id(node))
        if found is None:
            return node
        return ast.Name(found, ast.Load()) if isinstance(found, str) else copy.deepcopy(found)


def switchable(value: Any) -> ast.expr:
    """Return ``value`` as a Python expression; ``None`` and booleans may also become arguments."""
    node = literal(value)
    if isinstance(node, ast.Constant):
        notes(node)["switch"] = True
    return node


def optional_keyword(name: str, value: Any, default: Any) -> ast.keyword:
    """Return ``name=value``, which is later left out if it is the ``default`` in all modules of a class."""
    node = with_role(literal(value), name)
    if isinstance(node, ast.Constant):
        notes(node).update({"switch": True, "default": default})
    keyword = ast.keyword(name, node)
    notes(keyword)["default"] = default
    return keyword


class Shortened(ast.NodeTransformer):
    """Leave out keywords that have their default."""

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        node.keywords = [keyword for keyword in node.keywords if not _needless(keyword)]
        return node


def _needless(keyword: ast.keyword) -> bool:
    remembered = notes(keyword)
    if "default" not in remembered:
        return False
    default = remembered["default"]
    try:
        value = ast.literal_eval(keyword.value)
    except ValueError:  # not a plain value
        return False
    return value == default and isinstance(value, bool) == isinstance(default, bool)


def free(name: str, taken: set[str]) -> str:
    """Return ``name``, with a number appended if it is ``taken``."""
    return name if name not in taken else next(f"{name}{n}" for n in range(2, 999) if f"{name}{n}" not in taken)
