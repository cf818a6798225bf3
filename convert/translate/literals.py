"""Numbers in a port's source that may become arguments: found, masked, replaced, left out. No framework.

A number remembers its ``role``, the name of the argument that it stands for, and, where it is written for a keyword,
the ``default`` with which it is left out.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping
from typing import Any

from convert.translate.templates import literal


def with_role(node: ast.expr, role: str) -> ast.expr:
    """``node``, whose numbers remember what they are for."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant):
            inner.role = role
    return node


def is_number(node: ast.AST) -> bool:
    """Whether ``node`` is a number, or a switch, that could be an argument."""
    return isinstance(node, ast.Constant) and (isinstance(node.value, (int, float)) or getattr(node, "switch", False))


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
        node.switch = True
    return node


def optional_keyword(name: str, value: Any, default: Any) -> ast.keyword:
    """``name=value``, which is left out in the end where it is the ``default`` in all of a class."""
    node = with_role(literal(value), name)
    if isinstance(node, ast.Constant):
        node.switch = True
        node.default = default
    keyword = ast.keyword(name, node)
    keyword.default = default
    return keyword


class Shortened(ast.NodeTransformer):
    """Leaves out keywords that have their default."""

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        node.keywords = [keyword for keyword in node.keywords if not _needless(keyword)]
        return node


def _needless(keyword: ast.keyword) -> bool:
    if not hasattr(keyword, "default"):
        return False
    try:
        value = ast.literal_eval(keyword.value)
    except ValueError:  # no plain value
        return False
    return value == keyword.default and isinstance(value, bool) == isinstance(keyword.default, bool)


def free(name: str, taken: set[str]) -> str:
    """``name``, with a number behind it where it is ``taken``."""
    return name if name not in taken else next(f"{name}{n}" for n in range(2, 999) if f"{name}{n}" not in taken)
