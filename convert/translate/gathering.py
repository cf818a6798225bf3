"""Write values that a forward method gathers, one per layer, as a loop that appends to a list. No framework.

    y = self.layers[0](x)                     outputs = [x]
    z = self.layers[1](y)                     for layer in self.layers:
    x = paddle.concat([x, y, z], axis=1)          outputs.append(layer(outputs[-1]))
                                              x = paddle.concat(outputs, axis=1)

and, where every layer takes all values so far, ``features.append(layer(features))``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass

from convert.translate.templates import literal

SHORTEST = 2


@dataclass(frozen=True)
class _Step:
    """The statement ``target = owner[number](...)``, which calls one layer of a row with variables only."""

    target: str
    owner: str
    number: int
    indexed: bool
    taken: tuple[str, ...]
    listed: bool


def variadic(inputs: list[str], statements: list[ast.stmt], name: str = "features") -> bool:
    """Make the method take one list if it only concatenates its ``inputs``, in order. Returns whether it does."""
    lists = [node for node, names in _lists_of_names(statements) if names == inputs]
    taken = {node.id for s in statements for node in ast.walk(s) if isinstance(node, ast.Name)}
    if len(lists) != 1 or name in taken or any(_loads(statements, given) != 1 for given in inputs):
        return False
    for s in statements:
        _Replaced(lists[0], ast.Name(name, ast.Load())).visit(s)
    inputs[:] = [name]
    return True


def gathered(statements: list[ast.stmt], length_of: Callable[[str], int | None]) -> list[ast.stmt]:
    """Return ``statements`` with gathered values in a list.

    ``length_of`` returns the number of modules in the list ``self.NAME``; for ``""`` that in the module itself.
    """
    result = list(statements)
    position = 0
    while position < len(result):
        row = _row(result, position)
        if row and _gather(result, position, row, length_of):
            continue
        position += 1
    return result


def _row(statements: list[ast.stmt], start: int) -> list[_Step]:
    """Return the steps from ``start`` on that call consecutive layers of one row."""
    row: list[_Step] = []
    for statement in statements[start:]:
        step = _step(statement)
        if step is None or (row and (step.owner, step.number) != (row[-1].owner, row[-1].number + 1)):
            break
        row.append(step)
    return row


def _step(statement: ast.stmt) -> _Step | None:
    if not (isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)):
        return None
    call = statement.value
    if not isinstance(call, ast.Call) or call.keywords or len(call.args) != 1:
        return None
    callee = _callee(call.func)
    argument = call.args[0]
    listed = isinstance(argument, ast.List)
    taken = _names(argument.elts if listed else [argument])
    if callee is None or taken is None:
        return None
    return _Step(statement.targets[0].id, *callee, tuple(taken), listed)


def _callee(node: ast.expr) -> tuple[str, int, bool] | None:
    """Return ``(row, number, whether by index)`` of ``self.row[3]`` or ``self.row3``."""
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and type(node.slice.value) is int:
        inner = node.value
        if isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name) and inner.value.id == "self":
            return inner.attr, node.slice.value, True
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        found = re.fullmatch(r"(\D+)(\d+)", node.attr)
        if found:
            return found[1], int(found[2]), False
    return None


def _gather(statements: list[ast.stmt], start: int, row: list[_Step], length_of: Callable[[str], int | None]) -> bool:
    """Rewrite ``statements`` in place for the longest prefix of ``row`` that is gathered."""
    for size in range(len(row), SHORTEST - 1, -1):
        steps = row[:size]
        end = start + size
        use = _use(statements[end:], [step.target for step in steps])
        if use is None or len({step.target for step in steps}) != size:
            continue
        found, names = use
        before = names[: len(names) - size]
        grows = all(step.listed and [*step.taken] == [*before, *(s.target for s in steps[:k])]
                    for k, step in enumerate(steps))  # fmt: skip
        chain = (
            not grows
            and all(not s.listed for s in steps)
            and all([*step.taken] == [steps[k - 1].target] for k, step in enumerate(steps) if k)
        )
        if not grows and not (chain and before and _same([*steps[0].taken], before[-1:], statements, start)):
            continue
        if not _only_there(statements, start, steps, found):
            continue
        _rewrite(statements, start, steps, found, before, grows, length_of)
        return True
    return False


def _use(statements: list[ast.stmt], targets: list[str]) -> tuple[ast.List, list[str]] | None:
    """Return the only list that ends in all ``targets``, and its names."""
    ends = [(node, names) for node, names in _lists_of_names(statements) if names[-len(targets) :] == targets]
    return ends[0] if len(ends) == 1 else None


def _lists_of_names(statements: list[ast.stmt]) -> list[tuple[ast.List, list[str]]]:
    """Return the lists that consist of names only, with the names."""
    lists = (node for s in statements for node in ast.walk(s) if isinstance(node, ast.List))
    return [(node, names) for node in lists if (names := _names(node.elts))]


def _names(items: list[ast.expr]) -> list[str] | None:
    """Return the names of ``items``; ``None`` if one is not a name."""
    names = [item.id for item in items if isinstance(item, ast.Name)]
    return names if len(names) == len(items) else None


def _same(taken: list[str], before: list[str], statements: list[ast.stmt], start: int) -> bool:
    """Return whether ``taken`` and ``before`` are equal, or the statement just above is ``before = taken``."""
    if taken == before:
        return True
    above = statements[start - 1] if start else None
    return (
        isinstance(above, ast.Assign)
        and isinstance(above.value, ast.Name)
        and isinstance(above.targets[0], ast.Name)
        and [above.value.id] == taken
        and [above.targets[0].id] == before
    )


def _only_there(statements: list[ast.stmt], start: int, steps: list[_Step], found: ast.List) -> bool:
    """Return whether the values are used only by each other and in ``found``."""
    for position, step in enumerate(steps):
        later = sum(step.target in other.taken for other in steps[position + 1 :])
        if _loads(_until_assigned(statements[start + position + 1 :], step.target), step.target) != later + 1:
            return False
    return True


def _until_assigned(statements: list[ast.stmt], name: str) -> list[ast.stmt]:
    """Return ``statements`` up to the one that assigns ``name`` again."""
    for position, statement in enumerate(statements):
        stored = {node.id for node in ast.walk(statement)
                  if isinstance(node, ast.Name) and isinstance(getattr(node, "ctx", None), ast.Store)}  # fmt: skip
        if name in stored:
            return statements[: position + 1]
    return statements


def _loads(statements: list[ast.stmt], name: str) -> int:
    names = (node for s in statements for node in ast.walk(s) if isinstance(node, ast.Name))
    return sum(node.id == name and isinstance(getattr(node, "ctx", None), ast.Load) for node in names)


class _Replaced(ast.NodeTransformer):
    """Replace one node, found by identity, by another."""

    def __init__(self, old: ast.AST, new: ast.expr):
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else super().generic_visit(node)


def _rewrite(statements: list[ast.stmt], start: int, steps: list[_Step], found: ast.List, before: list[str],
             grows: bool, length_of: Callable[[str], int | None]) -> None:  # fmt: skip
    taken = {node.id for s in statements for node in ast.walk(s) if isinstance(node, ast.Name)}
    outputs = next(
        name for name in ("features" if grows else "outputs", "gathered", "values", "parts") if name not in taken
    )
    layer = next(name for name in ("layer", "block", "module") if name not in taken)
    item = ast.Name(outputs, ast.Load()) if grows else ast.parse(f"{outputs}[-1]", mode="eval").body
    append = ast.Attribute(ast.Name(outputs, ast.Load()), "append", ast.Load())
    body = ast.Expr(ast.Call(append, [ast.Call(ast.Name(layer, ast.Load()), [item], [])], []))
    loop = ast.For(ast.Name(layer, ast.Store()), _over(steps, length_of), [body], [])
    first = ast.Assign(
        [ast.Name(outputs, ast.Store())], ast.List([ast.Name(name, ast.Load()) for name in before], ast.Load())
    )
    for statement in statements[start + len(steps) :]:
        _Replaced(found, ast.Name(outputs, ast.Load())).visit(statement)
    statements[start : start + len(steps)] = [first, loop]


def _over(steps: list[_Step], length_of: Callable[[str], int | None]) -> ast.expr:
    owner, first, last = steps[0].owner, steps[0].number, steps[-1].number
    if not steps[0].indexed:
        if length_of("") == len(steps):
            return ast.parse("self.children()", mode="eval").body
        layers: list[ast.expr] = [
            ast.Attribute(ast.Name("self", ast.Load()), f"{owner}{step.number}", ast.Load()) for step in steps
        ]
        return ast.List(layers, ast.Load())
    over = ast.Attribute(ast.Name("self", ast.Load()), owner, ast.Load())
    length = length_of(owner)
    if first or length != len(steps):
        end = None if length == last + 1 else literal(last + 1)
        return ast.Subscript(over, ast.Slice(literal(first) if first else None, end), ast.Load())
    return over
