"""Write the forward method of one module: its traced operators, with the reference's variable names. No framework."""

from __future__ import annotations

import ast
import keyword
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from convert.translate.argument_sizes import ArgumentSizes, free_size, size_of
from convert.translate.gathering import variadic
from convert.translate.inplace import ASSIGNED
from convert.translate.linking import references
from convert.translate.literals import notes, with_role
from convert.translate.naming import IMPORTED
from convert.translate.operators import Arguments, Unsupported, functional
from convert.translate.plain import WORKING, Call, Op, Program, Ref, State, Stop, Tensor, Type, open_ended
from convert.translate.reference import aliases, size_names, statement_at
from convert.translate.sizes import Expression, solve
from convert.translate.templates import filled, filled_tree, literal

MISSING = "missing"  # placeholder for an operator without a rule; such source is never returned
SPARE = ("out", "y", "z", "u", "v", "w")


@dataclass
class Body:
    """A forward method. ``inputs`` are its arguments; ``sizes`` are the arguments that are sizes, as expressions.

    ``optional`` is the number of inputs at the end that may be omitted.
    """

    inputs: list[str]
    statements: list[ast.stmt]
    sizes: list[Expression] = field(default_factory=list)
    listed: bool = False  # takes one list instead of its tensors
    optional: int = 0


def attribute(owner: ast.expr, name: str) -> ast.expr:
    """Return ``owner.name``, ``owner[3]`` for a number, ``getattr(owner, "class")`` if no dot access is possible."""
    if name.isdigit():
        return ast.Subscript(owner, ast.Constant(int(name)), ast.Load())
    if not sayable(name):
        return ast.Call(ast.Name("getattr", ast.Load()), [owner, ast.Constant(name)], [])
    return ast.Attribute(owner, name, ast.Load())


def sayable(name: str) -> bool:
    """Return whether ``name`` can be written after a dot. Names that begin with two underscores are mangled by classes.

    torch's ``add_module`` accepts any name without a dot.
    """
    private = name.startswith("__") and not name.endswith("__")
    return name.isidentifier() and not keyword.iskeyword(name) and not private


def inside(path: str, module: str) -> ast.expr:
    """Return ``self.a.b`` for the object at ``path`` inside ``module``."""
    expression: ast.expr = ast.Name("self", ast.Load())
    for name in path.removeprefix(module).lstrip(".").split("."):
        expression = attribute(expression, name)
    return expression


class Writer:
    """Write the body of one call.

    ``child_sizes`` are the sizes that modules inside take as arguments, by path; ``listed`` are the modules that take a
    list.
    """

    def __init__(self, program: Program, call: Call, rules: Mapping[str, Any], transposed: Callable[[str], bool],
                 child_sizes: Mapping[str, list[Expression]], renamed: Callable[[str], str],
                 listed: Collection[str] = ()):  # fmt: skip
        self.program, self.call, self.rules, self.transposed = program, call, rules, transposed
        self.child_sizes, self.renamed, self.listed = child_sizes, renamed, listed
        self.module = program.modules[call.path]
        self.expressions: dict[int | str, ast.expr] = {}
        self.holder: dict[str, int | str] = {}  # variable -> the tensor that it holds
        self.scope: list[tuple[int | str, Tensor]] = []
        self.statements: list[ast.stmt] = []
        self.made: dict[int | str, tuple[str, int]] = {}  # first variable of a tensor, and its place
        self.size_names: dict[Expression, str] = {}
        self.argument_sizes = ArgumentSizes()
        self.told: list[Expression] = []
        self.templates: dict[int, tuple[str, Arguments]] = {}
        self.waiting: list[ast.expr] = []  # written inside a later statement
        self.stops: list[Stop] = []

    def body(self) -> Body:
        """Write the body. Nothing is raised: operators without a rule are listed in ``stops``."""
        steps = self._resolved()
        self._count(steps)
        names = self._inputs()
        if not self.call.path:
            self.statements += self._checks()
        for position, step in enumerate(steps):
            if isinstance(step, Call):
                self._call(step, position)
            else:
                self._operator(step, position)
        self.statements.append(ast.Return(self._result()))
        taken = {*names, *self.size_names.values()}
        self.statements = self.argument_sizes.written(self.statements, taken, self._reference_sizes(names))
        listed = not self.told and bool(self.call.path) and variadic(names, self.statements)
        given = [*names, *(self.size_names[size] for size in self.told)]
        return Body(given, self.statements, self.told, listed)

    def _checks(self) -> Iterator[ast.stmt]:
        """Refuse heights and widths for which the trace does not hold."""
        for name, number in self.program.inputs:
            limit = self.program.limits.get(number)
            if limit is None:
                continue
            if limit.equal is not None:
                text = f"if {name}.shape[2:] != {list(limit.equal)}: raise ValueError(message)"
                message = f"height and width must be {limit.equal[0]} and {limit.equal[1]}, got {{{name}.shape[2:]}}"
            else:
                sides = " or ".join(f"{name}.shape[{axis}] % {limit.multiple}" for axis in (2, 3))
                text = f"if {sides}: raise ValueError(message)"
                message = f"height and width must be multiples of {limit.multiple}, got {{{name}.shape[2:]}}"
            (check,) = ast.parse(text.replace("message", f'f"{message}"')).body
            yield check

    # what is used where

    def _resolved(self) -> list[Op | Call]:
        """Return the steps that do something; outputs of operators that do nothing become aliases of their inputs."""
        self.same: dict[int, Ref | State] = {}
        steps: list[Op | Call] = []
        for step in self.call.body:
            if isinstance(step, Call):
                steps.append(step)
                continue
            template = "" if step.name == ASSIGNED else self._template(step)
            if functional(step.name) == "detach.default" and self._constant(step.args["self"]):
                template = "self"
            if template in ("self", "input") and not self.templates[id(step)][1].replaced.get(template):
                self.same[step.outputs[0]] = self._origin(step.args[template])
            else:
                steps.append(step)
        return steps

    def _origin(self, ref: Ref | State) -> Ref | State:
        while isinstance(ref, Ref) and ref.number in self.same:
            ref = self.same[ref.number]
        return ref

    def _constant(self, ref: Ref | State) -> bool:
        """Return whether ``ref`` is a constant, which gets no gradient anyway."""
        origin = self._origin(ref)
        return isinstance(origin, State) and origin.path in self.program.constants

    def _template(self, op: Op) -> str:
        rule = self.rules.get(op.name) or self.rules.get(functional(op.name))
        tensors = [self.program.tensors[number] for number in op.outputs]
        arguments = Arguments(op.args, self._tensor, tensors)
        self.templates[id(op)] = (MISSING, arguments)
        if rule is None:
            self._stop(op, f"no rule for the operator {op.name}")
            return MISSING
        try:
            template = rule if isinstance(rule, str) else rule(arguments)
        except Unsupported as error:
            self._stop(op, f"the rule for {op.name} does not serve {error}")
            template = MISSING
        self.templates[id(op)] = (template, arguments)
        return template

    def _stop(self, op: Op, why: str) -> None:
        self.stops.append(Stop(self.call.path, op.place, why))

    def _tensor(self, ref: Ref | State) -> Tensor:
        return self.program.tensors[ref.number] if isinstance(ref, Ref) else self.program.states[ref.path]

    def _takes(self, step: Op | Call) -> Iterator[int | str]:
        values = step.inputs if isinstance(step, Call) else step.args
        for ref in references(values):
            ref = self._origin(ref)
            yield ref.number if isinstance(ref, Ref) else ref.path

    def _count(self, steps: list[Op | Call]) -> None:
        """Record the steps that use each tensor, and where each step is written, inlined or not."""
        self.uses: dict[int | str, list[int]] = {}
        for position, step in enumerate(steps):
            for key in self._takes(step):
                self.uses.setdefault(key, []).append(position)
        end = len(steps)
        for number in self.call.outputs:
            ref = self._origin(Ref(number))
            self.uses.setdefault(ref.number if isinstance(ref, Ref) else ref.path, []).append(end)
        self.steps = steps
        self.spoken = [statement_at(step.place) for step in steps]
        self.written = list(range(end + 1))
        self.inline = [False] * end
        for position in reversed(range(end)):
            user = self._only_user(steps[position])
            if user is not None and self._joins(position, user):
                self.inline[position] = True
                self.written[position] = self.written[user]
        self.last = {key: max(self.written[user] for user in users) for key, users in self.uses.items()}

    def _only_user(self, step: Op | Call) -> int | None:
        if len(step.outputs) != 1 or getattr(step, "several", False) or getattr(step, "name", "") == ASSIGNED:
            return None
        users = self.uses.get(step.outputs[0], [])
        return users[0] if len(users) == 1 else None

    def _joins(self, position: int, user: int) -> bool:
        """Return whether the reference writes the value of one step inside the statement of another."""
        ours = self.spoken[position]
        if user == len(self.steps):
            return ours is None or ours.returns or not ours.targets
        theirs = self.spoken[user]
        if ours is None or theirs is None:
            # without source, each call of a module is a statement
            return user == position + 1 and isinstance(self.steps[position], Op)
        if ours == theirs:
            place, other = self.steps[position].place, self.steps[user].place
            return place is not None and other is not None and place.offset < other.offset
        return ours.returns

    # names

    def _inputs(self) -> list[str]:
        names: list[str] = []
        wanted = self._argument_names()
        for number, ref in enumerate(self.call.inputs if self.call.path else self._root_inputs()):
            key = ref.number if isinstance(ref, Ref) else ref.path
            name = wanted[number] if number < len(wanted) and wanted[number] not in names else f"{wanted[0]}{number}"
            while name in names:
                name += "_"
            names.append(name)
            self._hold(name, key)
            self.argument_sizes.add(name, self._tensor(ref).shape)
        return names

    def _root_inputs(self) -> list[Ref]:
        return [Ref(number) for _, number in self.program.inputs]

    def _argument_names(self) -> list[str]:
        if not self.call.path:
            return [name for name, _ in self.program.inputs]
        names = [name for name in self.module.parameters if name not in ("args", "kwargs")] or ["x"]
        return ["x" if name == "input" else name for name in names]

    def _hold(self, name: str, key: int | str) -> None:
        self.expressions[key] = ast.Name(name, ast.Load())
        self.holder[name] = key
        self.made[key] = (name, len(self.statements))
        tensor = self._tensor(Ref(key) if isinstance(key, int) else State(key))
        self.scope.append((key, tensor))

    def _name(self, hint: str | None, key: int | str, position: int, step: Op | Call) -> str:
        """Return a variable for the tensor ``key``, made by ``step``: the reference's own name if it is free."""
        candidates = [hint] if hint else []
        if isinstance(step, Call):
            candidates.append(step.path.rpartition(".")[2])
        for name in (*candidates, "x", *SPARE, *(f"{spare}{n}" for n in range(2, 400) for spare in ("out",))):
            if not name.isidentifier() or keyword.iskeyword(name) or name in ("self", *IMPORTED):
                continue
            if name in self.size_names.values():
                continue
            old = self.holder.get(name)
            if old is None or self.last.get(old, -1) <= position:
                self.holder[name] = key
                return name
            if name == hint and self._moved_aside(name, old, position):
                self.holder[name] = key
                return name
        raise AssertionError("no name is free")

    def _moved_aside(self, name: str, old: int | str, position: int) -> bool:
        """Move the tensor that ``name`` holds to the reference's other name for it: ``shortcut = x``."""
        spoken = self.spoken[position] if position < len(self.spoken) else None
        other = aliases(spoken.file, spoken.function).get(name) if spoken else None
        if other is None or other in self.size_names.values():
            return False
        holder = self.holder.get(other)
        if holder is not None and self.last.get(holder, -1) >= position:
            return False
        self.statements.append(ast.Assign([ast.Name(other, ast.Store())], ast.Name(name, ast.Load())))
        self.expressions[old] = ast.Name(other, ast.Load())
        for expression in self.waiting:
            for node in ast.walk(expression):
                if isinstance(node, ast.Name) and node.id == name:
                    node.id = other
        self.holder[other] = old
        return True

    # sizes

    def _known(self, size: Expression) -> ast.expr | None:
        name = self.size_names.get(size) or self.argument_sizes.marks.get(size)
        if name is not None:
            return ast.Name(name, ast.Load())
        for key, tensor in self.scope:
            if size in tensor.shape and (variable := self._variable(key)):
                return size_of(variable, tensor.shape.index(size))
        return None

    def _known_before(self, size: Expression) -> ast.expr | None:
        """Read ``size`` from a tensor whose variable has been reassigned: store it where the tensor was made."""
        found = self._known(size)
        if found is not None:
            return found
        for key, tensor in self.scope:
            if size in tensor.shape:
                variable, place = self.made[key]
                name = self._size_name()
                item = size_of(variable, tensor.shape.index(size))
                self._insert(place, ast.Assign([ast.Name(name, ast.Store())], item))
                self.size_names[size] = name
                return ast.Name(name, ast.Load())
        return None

    def _insert(self, place: int, statement: ast.stmt) -> None:
        self.statements.insert(place, statement)
        for key, (name, other) in self.made.items():
            if other > place:
                self.made[key] = (name, other + 1)

    def _variable(self, key: int | str) -> str | None:
        """Return the variable that still holds the tensor ``key``, if any."""
        found = self.expressions.get(key)
        return found.id if isinstance(found, ast.Name) and self.holder.get(found.id) == key else None

    def _size(self, size: Expression) -> ast.expr:
        for known in (self._known, self._known_before):
            found = solve(size, known)
            if found is not None:
                return found
        if not self.call.path:
            self.stops.append(Stop(self.call.path, None, f"the size {size} does not follow from the inputs"))
            return ast.Constant(0)
        self.size_names[size] = self._size_name()
        self.told.append(size)
        return ast.Name(self.size_names[size], ast.Load())

    def _size_name(self) -> str:
        return free_size("HWNB", {*self.holder, *self.size_names.values()})

    def _reference_sizes(self, inputs: list[str]) -> dict[str, tuple[str | None, ...]]:
        """Return the reference's names of the sizes of each argument whose shape it unpacks."""
        found: dict[str, tuple[str | None, ...]] = {}
        for file, function in dict.fromkeys((spoken.file, spoken.function) for spoken in self.spoken if spoken):
            for argument, parameter in zip(inputs, self.module.parameters, strict=False):
                names = size_names(file, function).get(parameter)
                if names is not None and len(names) == self.argument_sizes.ranks[argument]:
                    found.setdefault(argument, names)
        return found

    # statements

    def _call(self, call: Call, position: int) -> None:
        args = [self._reference(ref) for ref in call.inputs]
        if call.path in self.listed:
            args = [ast.List(args, ast.Load())]
        args += [self._size(size) for size in self.child_sizes.get(call.path, ())]
        expression = ast.Call(inside(call.path, self.call.path), args, [])
        self._assign(call, position, expression, len(call.outputs) > 1)

    def _assigned(self, op: Op) -> None:
        """Write ``x[:, 1:] = value``; the tensor keeps its variable."""
        base, (kind, dim, *numbers) = self._origin(op.args["self"]), op.args["place"]
        target = self._reference(base)
        if not isinstance(target, ast.Name):
            self.statements.append(ast.Assign([ast.Name("changed", ast.Store())], target))
            target = ast.Name("changed", ast.Load())
        if self._from_a_layer(base):
            # a layer's output may be in use elsewhere, by a hook or by its own backward pass
            self.statements.append(ast.Assign([ast.Name(target.id, ast.Store())], filled("x.clone()", {"x": target})))
        if kind == "select":
            index: ast.expr = self._value(numbers[0], "index")
        else:
            start, end, step = numbers
            start = None if start in (None, 0) else self._value(start, "start")
            end = None if open_ended(end) else self._value(end, "end")
            index = ast.Slice(start, end, None if step == 1 else self._value(step, "step"))
        place = ast.Tuple([*(ast.Slice() for _ in range(dim)), index], ast.Load()) if dim else index
        value = self._reference(op.args["value"])
        self._write(ast.Assign([ast.Subscript(ast.Name(target.id, ast.Load()), place, ast.Store())], value))
        self._hold(target.id, op.outputs[0])

    def _from_a_layer(self, ref: Ref | State) -> bool:
        makers = [step for step in self.steps if isinstance(ref, Ref) and ref.number in step.outputs]
        return not makers or isinstance(makers[0], Call)

    def _operator(self, op: Op, position: int) -> None:
        if op.name == ASSIGNED:
            self._assigned(op)
            return
        template, arguments = self.templates[id(op)]
        plain = {**arguments.plain, **arguments.replaced}
        names = {node.id for node in ast.walk(ast.parse(template, mode="eval")) if isinstance(node, ast.Name)}
        for part in arguments.written.values():
            names |= {node.id for node in ast.walk(part) if isinstance(node, ast.Name)}
        values = {name: self._value(plain[name], name) for name in plain if name in names}
        for name, part in arguments.written.items():
            values[name] = filled_tree(part, values)
        expression = filled(template, values)
        if isinstance(expression, ast.Call):
            for word in expression.keywords:
                if word.arg in arguments.defaults:
                    default = notes(word)["default"] = arguments.defaults[word.arg]
                    if isinstance(word.value, ast.Constant):
                        notes(word.value).update({"default": default, "switch": True})
        expression = _Finish().visit(expression)
        if arguments.first_only and any(number in self.uses for number in op.outputs[1:]):
            self._stop(op, f"the rule for {op.name} has the first of its results only")
        self._assign(op, position, expression, op.several and not arguments.first_only)

    def _value(self, value: Any, role: str) -> ast.expr:
        if isinstance(value, (Ref, State)):
            return self._reference(value)
        if isinstance(value, Expression):
            return self._size(value)
        if isinstance(value, (list, tuple)):
            return ast.List([self._value(item, role) for item in value], ast.Load())
        if isinstance(value, Type):
            return self._type(value)
        if self.program.limits_of_type and isinstance(value, float) and (limit := _limit_of_type(value)):
            return filled(limit, {"dtype": self._type(Type(WORKING))})
        return with_role(literal(value), role)

    def _type(self, dtype: Type) -> ast.expr:
        if dtype.name != WORKING:
            return ast.Constant(dtype.name)
        for key, tensor in self.scope:
            if tensor.dtype == WORKING and (variable := self._variable(key)):
                return ast.Attribute(ast.Name(variable, ast.Load()), "dtype", ast.Load())
        for path, tensor in self.program.states.items():
            if tensor.dtype == WORKING and path.startswith(f"{self.call.path}.".lstrip(".")):
                return ast.Attribute(inside(self.renamed(path), self.call.path), "dtype", ast.Load())
        return ast.Call(ast.Attribute(ast.Name("paddle"), "get_default_dtype", ast.Load()), [], [])

    def _reference(self, ref: Ref | State) -> ast.expr:
        ref = self._origin(ref)
        found = self.expressions.get(ref.number if isinstance(ref, Ref) else ref.path)
        if found is not None:
            return ast.Name(found.id, ast.Load()) if isinstance(found, ast.Name) else found
        assert isinstance(ref, State), f"{ref} is read before it is computed"
        expression = inside(self.renamed(ref.path), self.call.path)
        if self.transposed(ref.path):
            return ast.Attribute(expression, "T", ast.Load())
        return expression

    def _assign(self, step: Op | Call, position: int, expression: ast.expr, several: bool) -> None:
        if self.inline[position]:
            self.expressions[step.outputs[0]] = expression
            self.waiting.append(expression)
            return
        spoken = self.spoken[position]
        targets = spoken.targets if spoken else ()
        if not several:
            hint = targets[0] if len(targets) == 1 and self._final(step, position) else None
            name = self._name(hint, step.outputs[0], position, step)
            self._write(ast.Assign([ast.Name(name, ast.Store())], expression))
            self._hold(name, step.outputs[0])
            return
        hints = targets if len(targets) == len(step.outputs) else (None,) * len(step.outputs)
        names = []
        for hint, number in zip(hints, step.outputs, strict=True):
            if number not in self.uses:
                names.append("_")
                continue
            name = self._name(hint, number, position, step)
            names.append(name)
        elements: list[ast.expr] = [ast.Name(name, ast.Store()) for name in names]
        self._write(ast.Assign([ast.Tuple(elements, ast.Store())], expression))
        for name, number in zip(names, step.outputs, strict=True):
            if name != "_":
                self._hold(name, number)

    def _write(self, statement: ast.stmt) -> None:
        self.statements.append(statement)
        inside = {id(node) for node in ast.walk(statement)}
        self.waiting = [expression for expression in self.waiting if id(expression) not in inside]

    def _final(self, step: Op | Call, position: int) -> bool:
        """Return whether ``step`` makes the value that its statement assigns, not an intermediate value."""
        spoken = self.spoken[position]
        users = self.uses.get(step.outputs[0], ())
        return not any(
            user < len(self.spoken) and self.spoken[user] == spoken and user > position for user in users
        ) or (len(users) > 1 and not all(user < len(self.spoken) and self.spoken[user] == spoken for user in users))

    def _result(self) -> ast.expr:
        if not self.call.path:
            return self._structure(self.program.result)
        values = [self._reference(Ref(number)) for number in self.call.outputs]
        return values[0] if len(values) == 1 else ast.Tuple(values, ast.Load())

    def _structure(self, value: Any) -> ast.expr:
        if isinstance(value, (Ref, State)):
            return self._reference(value)
        if isinstance(value, Expression):
            return self._size(value)
        if isinstance(value, dict):
            return ast.Dict([ast.Constant(key) for key in value], [self._structure(item) for item in value.values()])
        if isinstance(value, (list, tuple)):
            items = [self._structure(item) for item in value]
            return ast.List(items, ast.Load()) if isinstance(value, list) else ast.Tuple(items, ast.Load())
        return literal(value)


LIMITS = {sys.float_info.max: "max", -sys.float_info.max: "min", sys.float_info.min: "tiny",
          sys.float_info.epsilon: "eps"}  # fmt: skip
LARGEST_FLOAT32 = float.fromhex("0x1.fffffep127")


def _limit_of_type(value: float) -> str:
    """Return a template that replaces a limit of float64, the type of the trace, by that of the port's type."""
    if value in LIMITS:
        return f"paddle.finfo(dtype).{LIMITS[value]}"
    too_large = LARGEST_FLOAT32 < abs(value) < sys.float_info.max
    return f"paddle.finfo(dtype).max * {value / sys.float_info.max!r}" if too_large else ""


class _Finish(ast.NodeTransformer):
    """Replace the names that depend on the module: ``transposed(weight)`` and ``self_module.training``."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id == "self_module":
            return ast.Name("self", ast.Load())
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "transposed":
            (inner,) = node.args
            if isinstance(inner, ast.Attribute) and inner.attr == "T":
                return inner.value
            return ast.Attribute(inner, "T", ast.Load())
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        self.generic_visit(node)
        return _merged(node)


def _merged(node: ast.Subscript) -> ast.expr:
    """Merge ``x[:, 1:][:, :, 2]`` into ``x[:, 1:, 2]``."""
    inner = node.value
    if not isinstance(inner, ast.Subscript):
        return node
    first, second = _items(inner), _items(node)
    if not all(isinstance(item, ast.Slice) for item in first):
        return node
    merged: list[ast.expr] = []
    for position in range(max(len(first), len(second))):
        ours = first[position] if position < len(first) else ast.Slice()
        theirs = second[position] if position < len(second) else ast.Slice()
        if not _everything(ours) and not _everything(theirs):
            return node
        merged.append(theirs if _everything(ours) else ours)
    return ast.Subscript(inner.value, ast.Tuple(merged, ast.Load()) if len(merged) > 1 else merged[0], ast.Load())


def _items(node: ast.Subscript) -> list[ast.expr]:
    return list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]


def _everything(item: ast.expr) -> bool:
    return isinstance(item, ast.Slice) and item.lower is item.upper is item.step is None
