"""Merge modules whose source differs only in numbers into one class with arguments. No framework.

A number that is the same in all of them stays. The others become arguments. An argument has the name of the argument of
the reference's constructor that was called with these values, otherwise that of its role.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from convert.translate.body import Body
from convert.translate.literals import Masked, Renamed, Shortened, free, is_number, notes
from convert.translate.plain import Module
from convert.translate.repetition import set_attribute


@dataclass
class Instance:
    """The source of one module, written by itself."""

    module: Module
    base: str
    start: list[ast.expr]  # arguments of super().__init__
    init: list[ast.stmt]
    body: Body | None

    @property
    def forward(self) -> Body:
        """Forward method of a module that has one."""
        assert self.body is not None, f"{self.module.path} has no forward method"
        return self.body

    @property
    def nodes(self) -> list[ast.AST]:
        """Return all nodes of the source, in order."""
        return [*self.start, *self.init, *(self.body.statements if self.body else ())]

    def shape(self) -> str:
        """Return the source without its numbers."""
        text = [self.base, *(ast.dump(Masked().visit(copy.deepcopy(node))) for node in self.nodes)]
        return "\n".join([*text, *(self.body.inputs if self.body else ["no forward"])])

    def numbers(self) -> list[ast.Constant]:
        """Return the numbers of the source, in order."""
        return [node for root in self.nodes for node in ast.walk(root) if is_number(node)]


@dataclass
class Class:
    """A class of the port: the ``arguments`` of its constructor, and its source, in which they replace numbers."""

    name: str
    base: str
    doc: str
    arguments: list[str]
    defaults: dict[str, Any]
    start: list[ast.expr]
    init: list[ast.stmt]
    body: Body | None
    module: Module


def merged(instances: list[Instance], name: str) -> tuple[Class, list[list[Any]]]:
    """Return one class for ``instances``, and the values of its arguments for each."""
    numbers = [instance.numbers() for instance in instances]
    columns: dict[tuple[Any, ...], list[int]] = {}
    for position in range(len(numbers[0])):
        values = tuple(_value(row[position]) for row in numbers)
        if len({*values} - {ABSENT}) > 1:
            columns.setdefault(values, []).append(position)
    _settle_absent(columns)
    first = instances[0]
    inside_forward = _forward_numbers(first)
    found = _Arguments(instances, _bound_names(first), _attributes(first), inside_forward)
    where: dict[int, ast.expr] = {}
    kept: set[str] = set()
    for values, positions in _by_constructor(columns, instances):
        expression = found.expression(values, [numbers[0][position] for position in positions])
        for position in positions:
            node = numbers[0][position]
            if id(node) in inside_forward:
                kept |= {inner.id for inner in ast.walk(expression) if isinstance(inner, ast.Name)}
                where[id(node)] = _of_self(expression)
            else:
                where[id(node)] = expression
    finish = _Chain(Renamed(where), Shortened())
    init = [set_attribute(name, ast.Name(name)) for name in found.names.values() if name in kept]
    init += [finish.visit(node) for node in first.init]
    if first.body:
        first.body.statements = [finish.visit(node) for node in first.body.statements]
    start = [finish.visit(node) for node in first.start]
    order = sorted(found.names, key=lambda values: found.names[values] in found.defaults)
    given = [[_given(values[index], found.defaults.get(found.names[values])) for values in order]
             for index in range(len(instances))]  # fmt: skip
    made = Class(
        name, first.base, first.module.doc, [found.names[values] for values in order], found.defaults, start, init,
        first.body, first.module,
    )  # fmt: skip
    return made, given


class _Chain:
    """Apply several transformations in sequence."""

    def __init__(self, *steps: ast.NodeTransformer):
        self.steps = steps

    def visit(self, node: Any) -> Any:
        for step in self.steps:
            node = step.visit(node)
        return node


Values = tuple[tuple[type, Any], ...]
"""The values of one number in all instances, with their types: 0 is not False."""
ABSENT = (type(...), ...)
"""The number of an instance that lacks the part with this number (see ``variants``): any value is allowed."""


def _value(node: ast.Constant) -> tuple[type, Any]:
    return ABSENT if notes(node).get("absent", False) else (type(node.value), node.value)


def _given(value: tuple[type, Any], default: Any) -> Any:
    return default if value == ABSENT else value[1]


def _settle_absent(columns: dict[Values, list[int]]) -> None:
    """Merge columns of numbers that some instances lack into columns that agree wherever both have values."""
    unsettled = [values for values in columns if ABSENT in values]
    while unsettled:
        values = unsettled.pop(0)
        if values not in columns:  # it was merged into another unsettled column
            continue
        others = sorted((other for other in columns if other != values), key=lambda other: ABSENT in other)
        for other in others:
            if all(ours in (theirs, ABSENT) or theirs == ABSENT for ours, theirs in zip(values, other, strict=True)):
                both = tuple(ours if theirs == ABSENT else theirs for ours, theirs in zip(values, other, strict=True))
                positions = sorted([*columns.pop(values), *columns.pop(other)])
                columns[both] = sorted([*columns.get(both, []), *positions])
                unsettled += [both] if ABSENT in both else []
                break


def _bound_names(instance: Instance) -> set[str]:
    """Return the names that the constructor itself assigns."""
    return {
        node.id
        for root in (*instance.start, *instance.init)
        for node in ast.walk(root)
        if isinstance(node, ast.Name) and isinstance(getattr(node, "ctx", None), ast.Store)
    }


def _attributes(instance: Instance) -> set[str]:
    """Return the attributes of ``self`` that the constructor sets."""
    assigned = (statement.targets[0] for statement in instance.init if isinstance(statement, ast.Assign))
    return {target.attr for target in assigned if isinstance(target, ast.Attribute)}


class _Arguments:
    """The arguments of a class under construction; ``names`` holds their names."""

    def __init__(self, instances: list[Instance], taken: set[str], attributes: set[str], inside_forward: set[int]):
        self.instances, self.taken = instances, taken | {"self"}
        self.attributes, self.inside_forward = attributes, inside_forward
        self.names: dict[Values, str] = {}
        self.defaults: dict[str, Any] = {}

    def expression(self, values: Values, nodes: list[ast.Constant]) -> ast.expr:
        """Return an argument for ``values``, or a multiple of an existing argument."""
        remembered = [notes(node) for node in nodes]
        named = [note["role"] for note in remembered if "role" in note and note.get("named", False)]
        taken = self.taken | {*self.names.values()}
        if any(id(node) in self.inside_forward for node in nodes):
            taken |= self.attributes  # it becomes an attribute
        name = named[0] if named else self._remembered(values, taken)
        if name is None:
            derived = self._derived(values)
            if derived is not None:
                return derived
            roles = [note.get("role", "") for note in remembered]
            name = next((role for role in roles if role.isidentifier()), "size")
        self.names[values] = free(name, taken)
        optional = [note["default"] for note in remembered if "default" in note]
        if len(optional) == len(nodes):
            self.defaults[self.names[values]] = optional[0]
        elif ABSENT in values:
            self.defaults[self.names[values]] = None
        return ast.Name(self.names[values], ast.Load())

    def _remembered(self, values: Values, taken: set[str]) -> str | None:
        """Return the reference's name of ``values``, not in ``taken``: a constructor argument, or an attribute."""
        for kept in ("constructor", "settings"):
            for name in getattr(self.instances[0].module, kept):
                if name not in taken and name != "training" and _all_equal(self.instances, kept, name, values):
                    return name
        return None

    def _derived(self, values: Values) -> ast.expr | None:
        if not all(_counts(value) or value == ABSENT for value in values):
            return None
        for base, name in self.names.items():
            if not all(map(_counts, base)):
                continue
            both = zip(values, base, strict=True)
            pairs = [(value[1], other[1]) for value, other in both if value != ABSENT]
            factor, divisor = pairs[0][0] // pairs[0][1], pairs[0][1] // pairs[0][0]
            if factor > 1 and all(value == factor * other for value, other in pairs):
                return ast.BinOp(ast.Constant(factor), ast.Mult(), ast.Name(name, ast.Load()))
            if divisor > 1 and all(value * divisor == other for value, other in pairs):
                return ast.BinOp(ast.Name(name, ast.Load()), ast.FloorDiv(), ast.Constant(divisor))
        return None


def _counts(value: tuple[type, Any]) -> bool:
    return value[0] is int and value[1] > 0


def _all_equal(instances: list[Instance], kept: str, name: str, values: Values) -> bool:
    found = (getattr(instance.module, kept).get(name) for instance in instances)
    return all(
        value == ABSENT or (type(ours) is value[0] and ours == value[1])
        for ours, value in zip(found, values, strict=True)
    )


def _forward_numbers(instance: Instance) -> set[int]:
    if instance.body is None:
        return set()
    return {id(node) for root in instance.body.statements for node in ast.walk(root)}


def _by_constructor(columns: Mapping[Values, list[int]], instances: list[Instance]) -> list[tuple[Values, list[int]]]:
    """Sort columns by the order of the reference's constructor arguments; columns without one come last."""
    order = list(instances[0].module.constructor)

    def rank(item: tuple[Values, list[int]]) -> tuple[int, int]:
        values, positions = item
        found = (number for number, name in enumerate(order) if _all_equal(instances, "constructor", name, values))
        return next(found, len(order)), positions[0]

    return sorted(columns.items(), key=rank)


def _of_self(expression: ast.expr) -> ast.expr:
    class Owned(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            return ast.Attribute(ast.Name("self"), node.id, ast.Load())

    return Owned().visit(copy.deepcopy(expression))
