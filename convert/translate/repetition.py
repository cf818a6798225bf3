"""Compress repeated constructors: write a list of equal layers as a loop over their differences. No framework.

    nn.Sequential(Block(64, 2), *[Block(64, 1) for _ in range(5)])
"""

from __future__ import annotations

import ast
import copy
import re
import string
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from convert.translate.body import attribute, sayable
from convert.translate.literals import Masked, Renamed, free, is_number, notes, with_role
from convert.translate.templates import filled


def set_attribute(name: str, value: ast.expr) -> ast.stmt:
    """Return ``self.name = value``, or ``setattr(self, "class", value)`` if the name is not usable after a dot."""
    if not sayable(name):
        return ast.Expr(ast.Call(ast.Name("setattr", ast.Load()), [ast.Name("self"), ast.Constant(name), value], []))
    return ast.Assign([attribute(ast.Name("self"), name)], value)


FEWEST_NUMBERED = 4
"""Fewest attributes ``layer1``, ``layer2``, ... of one class that are made in a loop."""


def assigned(named: dict[str, ast.expr]) -> list[ast.stmt]:
    """Return ``self.name = ...`` for each; consecutive numbered names of one class become a loop."""
    statements: list[ast.stmt] = []
    names = list(named)
    while names:
        row = _numbered_row(names, named)
        if len(row) < FEWEST_NUMBERED:
            statements.append(set_attribute(names[0], named[names[0]]))
            del names[0]
            continue
        statements.append(_numbered_loop(row, [named[name] for name in row]))
        del names[: len(row)]
    return statements


def _numbered_row(names: list[str], named: Mapping[str, ast.expr]) -> list[str]:
    """Return the longest prefix of ``names`` that counts up and is of one class."""
    found = re.fullmatch(r"(\D+)(0|[1-9]\d*)", names[0])  # not layer01: numbers are written without zeros
    constructor = named[names[0]]
    if found is None or not isinstance(constructor, ast.Call):
        return names[:1]
    row = []
    for offset, name in enumerate(names):
        if name != f"{found[1]}{int(found[2]) + offset}":
            break
        row.append(name)
    (first, *_) = _runs([named[name] for name in row])
    return row[: len(first)] if isinstance(constructor.func, ast.Name) else row[:1]


def _numbered_loop(row: list[str], constructors: list[ast.expr]) -> ast.stmt:
    """Return ``for number, size in enumerate([...], 1): self.add_sublayer(f"layer{number}", Layer(size))``."""
    name = row[0].rstrip(string.digits)
    listed = _repeated(constructors)
    loop = listed.generators[0]
    label = ast.JoinedStr([ast.Constant(name), ast.FormattedValue(ast.Name("number"), -1, None)])
    add = ast.Expr(filled("self.add_sublayer(label, layer)", {"label": label, "layer": listed.elt}))
    start = ast.Constant(int(row[0].removeprefix(name)))
    if isinstance(loop.iter, ast.Call):  # range(n): nothing differs
        count = ast.BinOp(start, ast.Add(), loop.iter.args[0])
        return ast.For(
            ast.Name("number", ast.Store()), filled("range(start, end)", {"start": start, "end": count}), [add], []
        )
    target = ast.Tuple([ast.Name("number", ast.Store()), loop.target], ast.Store())
    return ast.For(target, filled("enumerate(rows, start)", {"rows": loop.iter, "start": start}), [add], [])


def as_list(items: ast.List) -> ast.expr:
    """Simplify ``[*[x for ...]]`` to ``[x for ...]``."""
    only = items.elts[0] if len(items.elts) == 1 else None
    return only.value if isinstance(only, ast.Starred) else items


def compressed(items: list[ast.expr]) -> ast.List:
    """Compress the repetitions in a list of constructors: ``[A(1), *[B(2) for _ in range(5)]]``."""
    elements: list[ast.expr] = []
    for run in _segments(_runs(items)):
        if not _worth_a_loop(run):
            elements.extend(run)
            continue
        elements.append(ast.Starred(_repeated(run), ast.Load()))
    return ast.List(elements, ast.Load())


def _segments(runs: Iterable[list[ast.expr]]) -> Iterator[list[ast.expr]]:
    """Split each of ``runs`` in two if it consists of equal layers followed by other equal layers."""
    for run in runs:
        texts = [ast.dump(item) for item in run]
        changes = [position for position in range(1, len(run)) if texts[position] != texts[position - 1]]
        yield from (run[: changes[0]], run[changes[0] :]) if len(changes) == 1 else (run,)


def _worth_a_loop(run: list[ast.expr]) -> bool:
    """Return whether ``run`` becomes a loop: classes of the port do, and three or more equal layers."""
    if len(run) == 1 or not isinstance(run[0], ast.Call):
        return False
    return isinstance(run[0].func, ast.Name) or (len(run) > 2 and len({ast.dump(item) for item in run}) == 1)


def _runs(items: list[ast.expr]) -> Iterator[list[ast.expr]]:
    run: list[ast.expr] = []
    for item in items:
        if run and ast.dump(Masked().visit(copy.deepcopy(run[0]))) != ast.dump(Masked().visit(copy.deepcopy(item))):
            yield run
            run = []
        run.append(item)
    if run:
        yield run


def _repeated(run: list[ast.expr]) -> ast.ListComp:
    rows = [[node for node in ast.walk(item) if is_number(node)] for item in run]
    first = run[0]
    columns = [position for position in range(len(rows[0]))
               if len({(type(row[position].value), row[position].value) for row in rows}) > 1]  # fmt: skip
    if not columns:
        count = with_role(ast.Constant(len(run)), "depth")
        return ast.ListComp(
            first, [ast.comprehension(ast.Name("_", ast.Store()), filled("range(n)", {"n": count}), [], 0)]
        )
    # columns with equal values in every row become one variable
    names: dict[tuple[Any, ...], str] = {}
    for position in columns:
        values = tuple(row[position].value for row in rows)
        role = re.sub(r"\W", "", notes(rows[0][position]).get("role", "value")) or "value"
        if values not in names:
            names[values] = free(role, set(names.values()))
    table: list[list[ast.expr]] = [[ast.Constant(value) for value in values] for values in zip(*names, strict=True)]
    where = {id(rows[0][position]): names[tuple(row[position].value for row in rows)] for position in columns}
    element = Renamed(where).visit(first)
    target: list[ast.expr] = [ast.Name(name, ast.Store()) for name in names.values()]
    if len(target) == 1:
        source = ast.List([row[0] for row in table], ast.Load())
        return ast.ListComp(element, [ast.comprehension(target[0], source, [], 0)])
    source = ast.List([ast.Tuple(row, ast.Load()) for row in table], ast.Load())
    return ast.ListComp(element, [ast.comprehension(ast.Tuple(target, ast.Store()), source, [], 0)])
