"""Name the sizes of a forward method's arguments as an engineer does: ``B, N, C = x.shape``. No framework.

How a size is written depends on how often it is used, and on whether the argument's variable is reassigned. A mark
therefore stands for it until all statements are written.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from convert.translate.sizes import Expression
from convert.translate.templates import filled_tree


@dataclass
class ArgumentSizes:
    """``marks`` maps sizes to their marks, ``places`` maps marks to their argument and dimension."""

    ranks: dict[str, int] = field(default_factory=dict)
    marks: dict[Expression, str] = field(default_factory=dict)
    places: dict[str, tuple[str, int]] = field(default_factory=dict)

    def add(self, argument: str, shape: Sequence[int | Expression]) -> None:
        """Register ``argument`` with ``shape``. A size of several arguments is read from the first."""
        self.ranks[argument] = len(shape)
        for axis, size in enumerate(shape):
            if isinstance(size, Expression) and size not in self.marks:
                mark = self.marks[size] = f"size_of_argument_{len(self.marks)}"
                self.places[mark] = (argument, axis)

    def written(
        self, statements: list[ast.stmt], taken: Collection[str], called: Mapping[str, Sequence[str | None]]
    ) -> list[ast.stmt]:
        """Replace the marks in ``statements`` by ``x.shape[0]`` if used once, otherwise by names assigned above.

        ``taken`` are names of other values, ``called`` the reference's names of the sizes of each argument.
        """
        names = [node for statement in statements for node in ast.walk(statement) if isinstance(node, ast.Name)]
        used = Counter(node.id for node in names if node.id in self.places)
        stored = {node.id for node in names if isinstance(getattr(node, "ctx", None), ast.Store)}
        taken = {*taken, *(node.id for node in names)}
        above: list[ast.stmt] = []
        found: dict[str, ast.expr] = {}
        for argument in self.ranks:
            marks = {axis: mark for mark, (owner, axis) in self.places.items() if owner == argument and mark in used}
            if sum(used[mark] for mark in marks.values()) == 1 and argument not in stored:
                found |= {mark: size_of(argument, axis) for axis, mark in marks.items()}
            elif marks:
                parts = _named(marks, called.get(argument, ()), taken)
                taken |= {*parts.values()}
                found |= {mark: ast.Name(parts[axis], ast.Load()) for axis, mark in marks.items()}
                above.append(_unpacked(argument, self.ranks[argument], parts))
        return [*above, *(filled_tree(statement, found) for statement in statements)]


def _named(axes: Iterable[int], hints: Sequence[str | None], taken: Collection[str]) -> dict[int, str]:
    """Return a name for the size along each of ``axes``: the reference's, or B for the batch."""
    parts: dict[int, str] = {}
    for axis in axes:
        hint = hints[axis] if hints and hints[axis] != "_" else None
        parts[axis] = free_size((hint or ("N" if axis else "B"), *"NLHW"), {*taken, *parts.values()})
    return parts


def _unpacked(argument: str, rank: int, parts: Mapping[int, str]) -> ast.stmt:
    if len(parts) == 1:
        ((axis, name),) = parts.items()
        return ast.Assign([ast.Name(name, ast.Store())], size_of(argument, axis))
    target = ast.Tuple([ast.Name(parts.get(axis, "_"), ast.Store()) for axis in range(rank)], ast.Store())
    return ast.Assign([target], ast.Attribute(ast.Name(argument, ast.Load()), "shape", ast.Load()))


def size_of(tensor: str, axis: int) -> ast.expr:
    """Return ``tensor.shape[axis]``."""
    shape = ast.Attribute(ast.Name(tensor, ast.Load()), "shape", ast.Load())
    return ast.Subscript(shape, ast.Constant(axis), ast.Load())


def free_size(names: Iterable[str], taken: Collection[str]) -> str:
    """Return the first of ``names`` that is not ``taken``, or a numbered one."""
    return next(name for name in (*names, *(f"size{n}" for n in range(2, 99))) if name not in taken)
