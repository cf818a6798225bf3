"""The sizes of a forward method's arguments, as an engineer names them: ``B, N, C = x.shape``. No framework.

How a size is written depends on how often it is used, and on whether its argument keeps its variable. So a mark stands
for it until all statements are written.
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
    """``marks``: what stands for a size; ``places``: the argument and dimension of a mark."""

    ranks: dict[str, int] = field(default_factory=dict)
    marks: dict[Expression, str] = field(default_factory=dict)
    places: dict[str, tuple[str, int]] = field(default_factory=dict)

    def add(self, argument: str, shape: Sequence[int | Expression]) -> None:
        """``argument`` has ``shape``; a size that an argument before it has is read off that one."""
        self.ranks[argument] = len(shape)
        for axis, size in enumerate(shape):
            if isinstance(size, Expression) and size not in self.marks:
                mark = self.marks[size] = f"size_of_argument_{len(self.marks)}"
                self.places[mark] = (argument, axis)

    def written(
        self, statements: list[ast.stmt], taken: Collection[str], called: Mapping[str, Sequence[str | None]]
    ) -> list[ast.stmt]:
        """``statements`` with ``x.shape[0]`` where that says it all, else with names, which stand above.

        ``taken``: names of other values; ``called``: what the reference calls the sizes of an argument.
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
    """A name for the size along each of ``axes``: the reference's, B for the batch."""
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
    """``tensor.shape[axis]``."""
    shape = ast.Attribute(ast.Name(tensor, ast.Load()), "shape", ast.Load())
    return ast.Subscript(shape, ast.Constant(axis), ast.Load())


def free_size(names: Iterable[str], taken: Collection[str]) -> str:
    """The first of ``names`` that is not ``taken``, or a numbered one."""
    return next(name for name in (*names, *(f"size{n}" for n in range(2, 99))) if name not in taken)
