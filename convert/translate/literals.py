"""Numbers in a port's source that may become arguments: found, masked, replaced, left out. No framework.

A number remembers its ``role``, the name of the argument that it stands for, and, where it is written for a keyword,
the ``default`` with which it is left out: ``notes`` has that of every node.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping
from typing import Any, TypedDict, TypeGuard

from convert.translate.templates import literal


class Notes(TypedDict, total=False):
    """What is remembered of a node while a port is written; copies of the node have it, too."""

    role: str  # the argument that a number stands for
    named: bool  # the argument is called by the role, whatever the reference calls it
    switch: bool  # a value that may become an argument though it is no number
    default: Any  # of a number or a keyword: with which the keyword is left out
    absent: bool  # a number of what the module lacks: any serves
    lacking: bool  # a choice between what some modules have, and what the others have in its place


def notes(node: ast.AST) -> Notes:
    """What is remembered of ``node``, to be read and changed."""
    return vars(node).setdefault("notes", Notes())


def with_role(node: ast.expr, role: str) -> ast.expr:
    """``node``, whose numbers remember what they are for."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant):
            notes(inner)["role"] = role
    return node


def is_number(node: ast.AST) -> TypeGuard[ast.Constant]:
    """Whether ``node`` is a number, or a switch, that could be an argument."""
    return isinstance(node, ast.Constant) and (isinstance(node.value, (int, float)) or notes(node).get("switch", False))


class Masked(ast.NodeTransformer):
    """Replaces numbers by 0."""

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant(0) if is_number(node) else node


class Renamed(ast.NodeTransformer):
    """Replaces numbers, by identity, by expressions or names."""

    def __init__(self, where: Mapping[int, str | ast.expr]):
        self.where = where

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        found = self.where.get(id(node))
        if found is None:
            return node
        return ast.Name(found, ast.Load()) if isinstance(found, str) else copy.deepcopy(found)


def switchable(value: Any) -> ast.expr:
    """``value`` as Python; also ``None`` and a switch may become an argument."""
    node = literal(value)
    if isinstance(node, ast.Constant):
        notes(node)["switch"] = True
    return node


def optional_keyword(name: str, value: Any, default: Any) -> ast.keyword:
    """``name=value``, which is left out in the end where it is the ``default`` in all of a class."""
    node = with_role(literal(value), name)
    if isinstance(node, ast.Constant):
        notes(node).update({"switch": True, "default": default})
    keyword = ast.keyword(name, node)
    notes(keyword)["default"] = default
    return keyword


class Shortened(ast.NodeTransformer):
    """Leaves out keywords that have their default."""

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
    except ValueError:  # no plain value
        return False
    return value == default and isinstance(value, bool) == isinstance(default, bool)


def free(name: str, taken: set[str]) -> str:
    """``name``, with a number behind it where it is ``taken``."""
    return name if name not in taken else next(f"{name}{n}" for n in range(2, 999) if f"{name}{n}" not in taken)
