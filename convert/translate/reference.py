"""Read names from the reference's source: statements, the variables that they assign, aliases. No framework."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from convert.translate.plain import Place


@dataclass(frozen=True)
class Statement:
    """One simple statement: its first line, and the names that it assigns (``None`` for other targets)."""

    file: str
    line: int
    function: int  # first line of the enclosing function
    targets: tuple[str | None, ...] = ()
    returns: bool = False


@functools.cache
def _tree(file: str) -> ast.Module:
    """Parse ``file``; return an empty module if it is not readable Python source."""
    try:
        with open(file, encoding="utf-8") as source:
            return ast.parse(source.read())
    except (OSError, SyntaxError, ValueError):
        return ast.Module([], [])


@functools.cache
def _statements(file: str) -> dict[int, Statement]:
    """Return ``{line: statement}`` of every line of ``file`` that belongs to a simple statement."""
    found: dict[int, Statement] = {}
    _collect(_tree(file), file, 0, found)
    return found


def _collect(node: ast.AST, file: str, function: int, found: dict[int, Statement]) -> None:
    for child in ast.iter_child_nodes(node):
        inner = child.lineno if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) else function
        if isinstance(child, ast.stmt) and not hasattr(child, "body"):
            statement = Statement(file, child.lineno, function, _targets(child), isinstance(child, ast.Return))
            for line in range(child.lineno, (child.end_lineno or child.lineno) + 1):
                found.setdefault(line, statement)
        _collect(child, file, inner, found)


def _targets(statement: ast.stmt) -> tuple[str | None, ...]:
    if isinstance(statement, (ast.AugAssign, ast.AnnAssign)):
        targets = [statement.target]
    elif isinstance(statement, ast.Assign):
        targets = statement.targets[-1:]
    else:
        return ()
    (target,) = targets
    parts = target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target]
    return tuple(part.id if isinstance(part, ast.Name) else None for part in parts)


def statement_at(place: Place | None) -> Statement | None:
    """Return the simple statement at ``place``. A lambda counts as a return, whatever statement encloses it."""
    if place is None:
        return None
    found = _statements(place.file).get(place.line)
    return replace(found, targets=(), returns=True) if found and place.function == "<lambda>" else found


def _assignments(file: str, function: int) -> Iterator[ast.Assign]:
    """Yield the assignments of the function at line ``function``, in any order."""
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.FunctionDef) and node.lineno == function:
            yield from (inner for inner in ast.walk(node) if isinstance(inner, ast.Assign))


@functools.cache
def aliases(file: str, function: int) -> dict[str, str]:
    """Return ``{name: other name of the same value}`` of the function at line ``function``: ``shortcut = x``."""
    found: dict[str, str] = {}
    for node in _assignments(file, function):
        if isinstance(node.value, ast.Name):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found.setdefault(node.value.id, target.id)
    return found


@functools.cache
def size_names(file: str, function: int) -> dict[str, tuple[str | None, ...]]:
    """Return ``{name: names of its sizes}`` of the function at line ``function``: ``B, N, C = x.shape``."""
    found: dict[str, tuple[str | None, ...]] = {}
    for node in _assignments(file, function):
        shape = _SHAPE.fullmatch(ast.unparse(node.value))
        if shape and isinstance(node.targets[0], ast.Tuple):
            found.setdefault(shape[1], _targets(node))
    return found


_SHAPE = re.compile(r"(\w+)\.(?:shape|size\(\))")
