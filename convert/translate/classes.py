"""Equal modules become one class; what differs between them becomes its arguments. No framework.

Every module is written by itself, numbers and all. Two are of one class if they are of one class in the reference and
their source is the same but for numbers. A number that is the same in all of a class stays where it is; the others
become arguments, named as the reference's constructor names them where it was called with these values, by their role
otherwise.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from convert.translate.body import Body, Writer, attribute, inside, with_role
from convert.translate.gathering import gathered
from convert.translate.layers import Layer, layer_of, settings_of
from convert.translate.linking import link, used
from convert.translate.loops import rolled
from convert.translate.plain import Call, Held, Module, Program, State, Stop, TranslationError
from convert.translate.sizes import Expression
from convert.translate.templates import filled, literal

SEQUENTIAL = "torch.nn.modules.container.Sequential"
LISTS = {"torch.nn.modules.container.ModuleList": "LayerList", "torch.nn.modules.container.ModuleDict": "LayerDict"}
NOTHING = ast.Call(ast.Attribute(ast.Name("nn"), "Identity", ast.Load()), [], [])


@dataclass
class Instance:
    """One module, written by itself."""

    module: Module
    base: str
    start: list[ast.expr]  # arguments of super().__init__
    init: list[ast.stmt]
    body: Body | None

    @property
    def nodes(self) -> list[ast.AST]:
        """All of its source, in order."""
        return [*self.start, *self.init, *(self.body.statements if self.body else ())]

    def shape(self) -> str:
        """Its source without its numbers."""
        text = [self.base, *(ast.dump(Masked().visit(copy.deepcopy(node))) for node in self.nodes)]
        return "\n".join([*text, *(self.body.inputs if self.body else ["no forward"])])

    def numbers(self) -> list[ast.Constant]:
        """Its numbers, in order."""
        return [node for root in self.nodes for node in ast.walk(root) if is_number(node)]


def is_number(node: ast.AST) -> bool:
    """Whether ``node`` is a number, or a switch, that could be an argument."""
    return isinstance(node, ast.Constant) and (isinstance(node.value, (int, float)) or getattr(node, "switch", False))


class Masked(ast.NodeTransformer):
    """Replaces numbers by 0."""

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant(0) if is_number(node) else node


@dataclass
class Class:
    """A class of the port: ``arguments`` of its constructor, and its source, in which they stand for numbers."""

    name: str
    base: str
    doc: str
    arguments: list[str]
    defaults: dict[str, Any]
    start: list[ast.expr]
    init: list[ast.stmt]
    body: Body | None
    module: Module


@dataclass
class Translation:
    """The classes in order of use, the model's own last; how torch's tensors are called, and which are transposed."""

    classes: list[Class]
    model: str
    names: dict[str, str | None]
    transposed: set[str]


class Builder:
    """Builds the classes of one program."""

    def __init__(self, program: Program, operators: Mapping[str, Any], layers: Mapping[str, Layer]):
        self.program, self.operators, self.layers = program, operators, layers
        self.rules = {path: layer_of(module, layers) for path, module in program.modules.items()}
        self._write_out_tied()
        self._hold_constants()
        link(program, self.opaque)
        self.unused = self._drop_unused()
        self.calls: dict[str, Call] = {}
        self.stops: list[Stop] = []
        self._find_calls(program.root)
        self.shared = self._representatives()
        self.sizes: dict[str, list[Expression]] = {}
        self.listed: set[str] = set()
        self.instances: dict[str, Instance] = {}
        self.classes: dict[str, Class] = {}  # path -> class
        self.given: dict[str, list[Any]] = {}  # path -> values of the class's arguments
        self.order: list[Class] = []
        self.names = {**dict(self._tensor_names()), **dict.fromkeys(self.unused)}

    def translation(self) -> Translation:
        """Raises ``TranslationError`` with everything that has no rule."""
        for level in self._levels():
            for path in level:
                self._write(path)
            if not self.stops:
                self._merge([path for path in level if path in self.instances])
        if self.stops:
            raise TranslationError(list(dict.fromkeys(self.stops)))
        transposed = {path for path in self.names if self.transposed(path)}
        return Translation(self.order, self.classes[""].name, self.names, transposed)

    # facts about modules

    def _write_out_tied(self) -> None:
        """Layers that keep a shared tensor another way round than its other owners are written out."""
        for name, first in self.program.aliases.items():
            if self.transposed(name) != self.transposed(first):
                for path in (name, first):
                    if self.transposed(path):
                        self.rules[path.rpartition(".")[0]] = None

    def _representatives(self) -> dict[str, str]:
        """Modules that are registered twice, and the place where the port makes them: the first that is called."""
        groups: dict[str, list[str]] = {}
        for path, first in self.program.shared.items():
            groups.setdefault(first, [first]).append(path)
        made = {first: next((path for path in paths if path in self.calls), first) for first, paths in groups.items()}
        return {path: made[first] for first, paths in groups.items() for path in paths if path != made[first]}

    def _inside_shared(self, name: str) -> bool:
        """Whether the tensor ``name`` belongs to a module that is made once for all its places."""
        places = (*self.program.shared, *self.program.shared.values())
        return any(name.startswith(f"{path}.") for path in places)

    def _hold_constants(self) -> None:
        """Tensors that are no parameters and no buffers in torch become buffers of the module that has them."""
        for path, value in self.program.constants.items():
            owner, _, name = path.rpartition(".")
            dtype = self.program.states[path].dtype
            self.program.modules[owner].held.append(Held(name, value.shape, dtype, trainable=False, saved=False))

    def _drop_unused(self) -> list[str]:
        """Take away buffers that torch does not save and the trace does not read: the forward makes them anew."""
        read = {ref.path for ref in used(self.program.root) if isinstance(ref, State)}
        dropped = []
        for path, module in self.program.modules.items():
            if self.rules[path] is not None:
                continue
            for held in [*module.held]:
                full = f"{path}.{held.name}".lstrip(".")
                if not held.trainable and not held.saved and full not in read and full not in self.program.constants:
                    module.held.remove(held)
                    dropped.append(full)
        return dropped

    def _tied(self) -> list[ast.stmt]:
        """``self.head.weight = self.embed.weight`` for every module and tensor that has two places."""
        tied = {path: first for path, first in self.shared.items() if self._present(path)}
        for name, first in self.program.aliases.items():
            names = (self.names.get(name), self.names.get(first))
            if None not in names and not self._inside_shared(name):
                tied[names[0]] = names[1]
        return [ast.Assign([inside(path, "")], inside(first, "")) for path, first in tied.items()]

    def whole(self, path: str) -> bool:
        """Whether the module at ``path`` is a layer, taken by its class."""
        return self.rules.get(path) is not None

    def opaque(self, path: str) -> bool:
        """Whether nothing inside the module at ``path`` is written by itself."""
        rule = self.rules.get(path)
        return rule is not None and not rule.inner

    def _find_calls(self, call: Call) -> None:
        first = self.calls.setdefault(call.path, call)
        if [op.name for op in first.walk()] != [op.name for op in call.walk()]:
            self.stops.append(Stop(call.path, call.place, "this module runs in two ways, of which a class has one"))
        if not self.opaque(call.path):
            for step in call.body:
                if isinstance(step, Call):
                    self._find_calls(step)

    def _tensor_names(self) -> Iterator[tuple[str, str | None]]:
        for path, module in self.program.modules.items():
            rule = self.rules[path]
            for held in module.held:
                name = rule.names.get(held.name, held.name) if rule else held.name
                full = f"{path}.{held.name}".lstrip(".")
                yield full, None if name is None else f"{path}.{name}".lstrip(".")

    def renamed(self, path: str) -> str:
        """What the port calls the tensor at ``path``."""
        return self.names.get(path) or path

    def transposed(self, path: str | int) -> bool:
        """Whether the port keeps the tensor at ``path`` the other way round."""
        owner, _, name = str(path).rpartition(".")
        rule = self.rules.get(owner)
        return rule is not None and name in rule.transposed

    def _holds(self, path: str) -> bool:
        module = self.program.modules[path]
        return bool(module.held) or any(self._holds(child) for child in module.children.values())

    def _present(self, path: str) -> bool:
        """Whether the port has the module at ``path``: it is called, or something inside is, or it holds tensors."""
        if path in self.calls or self._holds(path):
            return True
        return any(self._present(child) for child in self.program.modules[path].children.values())

    def plain_container(self, path: str) -> str | None:
        """``Sequential``, ``LayerList`` or ``LayerDict`` for a module that is just that."""
        module = self.program.modules[path]
        if module.forward == f"{SEQUENTIAL}.forward" and SEQUENTIAL in module.bases and self._simple(path):
            return "Sequential"
        return LISTS.get(module.kind)

    def _simple(self, path: str) -> bool:
        """Whether the sequence passes one tensor from each module to the next."""
        call = self.calls.get(path)
        if call is None:
            return True
        steps = call.body
        return all(
            isinstance(step, Call)
            and len(step.inputs) == 1
            and len(step.outputs) == 1
            and not self.sizes.get(step.path)
            and step.path not in self.listed
            for step in steps
        )

    def needs_class(self, path: str) -> bool:
        """Whether source is written for the module at ``path``."""
        return path == "" or (
            not self.whole(path)
            and not (path in self.shared and "." not in path)
            and (path in self.calls or self._holds(path) or self._present(path))
            and self.plain_container(path) is None
        )

    def _levels(self) -> list[list[str]]:
        heights: dict[str, int] = {}

        def height(path: str) -> int:
            if path not in heights:
                children = self.program.modules[path].children.values()
                heights[path] = 1 + max((height(child) for child in children), default=0)
            return heights[path]

        levels: list[list[str]] = [[] for _ in range(height(""))]
        for path in self.program.modules:
            if not self._below_whole(path):
                levels[height(path) - 1].append(path)
        return levels

    def _below_whole(self, path: str) -> bool:
        while path:
            path = path.rpartition(".")[0]
            if self.opaque(path):
                return True
        return False

    # one module by itself

    def _write(self, path: str) -> None:
        if not self.needs_class(path):
            return
        module = self.program.modules[path]
        body = None
        if path in self.calls:
            writer = Writer(self.program, self.calls[path], self.operators, self.transposed, self.sizes, self.renamed,
                            self.listed)  # fmt: skip
            body = writer.body()
            self.stops += writer.stops
            self.sizes[path] = body.sizes
            if body.listed:
                self.listed.add(path)
            length_of = partial(self._list_length, path)
            body.statements = rolled(gathered(body.statements, length_of), length_of)
        if self.stops:
            return
        base, start, init = self._construction(module)
        self.instances[path] = Instance(module, base, start, init, body)

    def _list_length(self, path: str, owner: str) -> int | None:
        """How many modules the list ``self.owner`` has."""
        inner = f"{path}.{owner}".lstrip(".") if owner else path
        module = self.program.modules.get(inner)
        return len(module.children) if module else None

    def _construction(self, module: Module) -> tuple[str, list[ast.expr], list[ast.stmt]]:
        numbered = [name for name in module.children if name.isdigit()]
        init: list[ast.stmt] = []
        base, start = "Layer", []
        if numbered:
            base = "Sequential" if SEQUENTIAL in module.bases else "LayerList"
            items = compressed([self.construct(module.children[name]) for name in numbered])
            start = items.elts if base == "Sequential" else [_as_list(items)]
        named = {
            name: self.construct(path)
            for name, path in module.children.items()
            if name not in numbered and self._present(path) and (module.path or path not in self.shared)
        }
        init += _assigned(named)
        for held in module.held:
            init.append(_held(held))
        if module.path == "":
            init += self._tied()
        return base, start, init

    def construct(self, path: str) -> ast.expr:
        """The expression that makes the module at ``path``."""
        module = self.program.modules[path]
        rule = self.rules[path]
        if rule is not None:
            return self._layer(module, rule)
        container = self.plain_container(path)
        if container is not None:
            return self._container(module, container)
        if path in self.classes:
            return self._constructed(self.classes[path], self.given[path])
        return copy.deepcopy(NOTHING)

    def _constructed(self, made: Class, given: list[Any]) -> ast.expr:
        node = ast.Call(ast.Name(made.name), [], [])
        for argument, value in zip(made.arguments, given, strict=True):
            if argument in made.defaults:
                node.keywords.append(optional_keyword(argument, value, made.defaults[argument]))
            else:
                node.args.append(with_role(_given(value), argument))
        return node

    def _layer(self, module: Module, rule: Layer) -> ast.expr:
        settings = settings_of(module, rule)
        values = {name: with_role(literal(value), name) for name, value in settings.items() if _sayable(value)}
        for name in rule.inner:
            child = module.children.get(name)
            values[name] = self.construct(child) if child else copy.deepcopy(NOTHING)
        node = filled(rule.template, values)
        for keyword, (name, default) in rule.optional.items():
            node.keywords.append(optional_keyword(keyword, settings.get(name, default), default))
        return node

    def _container(self, module: Module, container: str) -> ast.expr:
        callee = ast.Attribute(ast.Name("nn"), container, ast.Load())
        items = {name: self.construct(path) for name, path in module.children.items()}
        if container == "LayerDict":
            keys: list[ast.expr | None] = [ast.Constant(name) for name in items]
            return ast.Call(callee, [ast.Dict(keys, list(items.values()))], [])
        if all(name.isdigit() for name in items):
            listed = compressed(list(items.values()))
            return ast.Call(callee, [_as_list(listed)] if container == "LayerList" else listed.elts, [])
        pairs = [ast.Tuple([ast.Constant(name), item], ast.Load()) for name, item in items.items()]
        return ast.Call(callee, pairs, [])

    # equal modules

    def _merge(self, paths: list[str]) -> None:
        groups: dict[tuple[str, str], list[str]] = {}
        for path in paths:
            instance = self.instances[path]
            groups.setdefault((instance.module.kind, instance.shape()), []).append(path)
        for (kind, _), members in groups.items():
            instances = [self.instances[path] for path in members]
            made, values = merged(instances, self._class_name(kind.rpartition(".")[2], instances[0]))
            self.order.append(made)
            for path, given in zip(members, values, strict=True):
                self.classes[path], self.given[path] = made, given

    def _class_name(self, name: str, instance: Instance) -> str:
        name = re.sub(r"\W", "", name)
        taken = {made.name: made for made in self.order}
        if name not in taken:
            return name
        first = set(taken[name].module.children)
        more = [
            child
            for child in instance.module.children
            if child not in first and self._present(instance.module.children[child])
        ]
        for child in more:
            longer = f"{name}With{child.title().replace('_', '')}"
            if child.isidentifier() and longer not in taken:
                return longer
        return next(f"{name}{number}" for number in range(2, 999) if f"{name}{number}" not in taken)


def optional_keyword(name: str, value: Any, default: Any) -> ast.keyword:
    """``name=value``, which is left out in the end where it is the ``default`` in all of a class."""
    node = with_role(literal(value), name)
    if isinstance(node, ast.Constant):
        node.switch = True
        node.default = default
    keyword = ast.keyword(name, node)
    keyword.default = default
    return keyword


class _Shortened(ast.NodeTransformer):
    """Leaves out keywords that have their default."""

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        node.keywords = [keyword for keyword in node.keywords if not _needless(keyword)]
        return node


def _needless(keyword: ast.keyword) -> bool:
    return (
        hasattr(keyword, "default")
        and isinstance(keyword.value, ast.Constant)
        and keyword.value.value == keyword.default
        and isinstance(keyword.value.value, bool) == isinstance(keyword.default, bool)
    )


FEWEST_NUMBERED = 4
"""Attributes ``layer1``, ``layer2``, ... of one class that are made in a loop."""


def _assigned(named: dict[str, ast.expr]) -> list[ast.stmt]:
    """``self.name = ...`` for each; a row of numbered names of one class as a loop."""
    statements: list[ast.stmt] = []
    names = list(named)
    while names:
        row = _numbered_row(names, named)
        if len(row) < FEWEST_NUMBERED:
            statements.append(_set(names[0], named[names[0]]))
            del names[0]
            continue
        statements.append(_numbered_loop(row, [named[name] for name in row]))
        del names[: len(row)]
    return statements


def _numbered_row(names: list[str], named: Mapping[str, ast.expr]) -> list[str]:
    """The longest beginning of ``names`` that counts up and is of one class."""
    found = re.fullmatch(r"(\D+)(\d+)", names[0])
    if found is None or not isinstance(named[names[0]], ast.Call):
        return names[:1]
    row = []
    for offset, name in enumerate(names):
        if name != f"{found[1]}{int(found[2]) + offset}":
            break
        row.append(name)
    (first, *_) = _runs([named[name] for name in row])
    return row[: len(first)] if isinstance(named[row[0]].func, ast.Name) else row[:1]


def _numbered_loop(row: list[str], constructors: list[ast.expr]) -> ast.stmt:
    """``for number, size in enumerate([...], 1): self.add_sublayer(f"layer{number}", Layer(size))``."""
    found = re.fullmatch(r"(\D+)(\d+)", row[0])
    listed = _repeated(constructors)
    loop = listed.generators[0]
    label = ast.JoinedStr([ast.Constant(found[1]), ast.FormattedValue(ast.Name("number"), -1, None)])
    add = ast.Expr(filled("self.add_sublayer(label, layer)", {"label": label, "layer": listed.elt}))
    start = ast.Constant(int(found[2]))
    if isinstance(loop.target, ast.Name) and loop.target.id == "_":
        count = ast.BinOp(start, ast.Add(), loop.iter.args[0])
        return ast.For(
            ast.Name("number", ast.Store()), filled("range(start, end)", {"start": start, "end": count}), [add], []
        )
    target = ast.Tuple([ast.Name("number", ast.Store()), loop.target], ast.Store())
    return ast.For(target, filled("enumerate(rows, start)", {"rows": loop.iter, "start": start}), [add], [])


def _sayable(value: Any) -> bool:
    return isinstance(value, (int, float, str, bool, type(None), list, tuple))


def _set(name: str, value: ast.expr) -> ast.stmt:
    return ast.Assign([attribute(ast.Name("self"), name)], value)


def _held(held: Any) -> ast.stmt:
    shape = with_role(literal(list(held.shape)), "shape")
    if held.trainable:
        return _set(held.name, filled("self.create_parameter(shape)", {"shape": shape}))
    dtype = ast.Constant(held.dtype) if held.dtype != "working" else None
    zeros = filled(
        "paddle.zeros(shape, dtype=dtype)" if dtype else "paddle.zeros(shape)", {"shape": shape, "dtype": dtype}
    )
    return ast.Expr(filled("self.register_buffer(name, zeros)", {"name": ast.Constant(held.name), "zeros": zeros}))


def _as_list(items: ast.List) -> ast.expr:
    """``[*[x for ...]]`` as ``[x for ...]``."""
    return items.elts[0].value if _one_star(items) else items


def _one_star(items: ast.List) -> bool:
    return len(items.elts) == 1 and isinstance(items.elts[0], ast.Starred)


def compressed(items: list[ast.expr]) -> ast.List:
    """A list of constructors with repetition said once: ``[A(1), *[B(2) for _ in range(5)]]``."""
    elements: list[ast.expr] = []
    for run in _runs(items):
        if not _worth_a_loop(run):
            elements.extend(run)
            continue
        elements.append(ast.Starred(_repeated(run), ast.Load()))
    return ast.List(elements, ast.Load())


def _worth_a_loop(run: list[ast.expr]) -> bool:
    """Whether the constructors of ``run`` are written once: classes of the port, and three or more equal layers."""
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
    # columns that are the same in every row are one variable
    names: dict[tuple[Any, ...], str] = {}
    for position in columns:
        values = tuple(row[position].value for row in rows)
        role = re.sub(r"\W", "", str(getattr(rows[0][position], "role", "value"))) or "value"
        if values not in names:
            names[values] = _free(role, set(names.values()))
    table = [[ast.Constant(value) for value in values] for values in zip(*names, strict=True)]
    where = {id(rows[0][position]): names[tuple(row[position].value for row in rows)] for position in columns}
    element = Renamed(where).visit(first)
    target = [ast.Name(name, ast.Store()) for name in names.values()]
    if len(target) == 1:
        source = ast.List([row[0] for row in table], ast.Load())
        return ast.ListComp(element, [ast.comprehension(target[0], source, [], 0)])
    source = ast.List([ast.Tuple(row, ast.Load()) for row in table], ast.Load())
    return ast.ListComp(element, [ast.comprehension(ast.Tuple(target, ast.Store()), source, [], 0)])


def _free(name: str, taken: set[str]) -> str:
    return name if name not in taken else next(f"{name}{n}" for n in range(2, 999) if f"{name}{n}" not in taken)


class Renamed(ast.NodeTransformer):
    """Replaces numbers, by identity, by expressions or names."""

    def __init__(self, where: Mapping[int, str | ast.expr]):
        self.where = where

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        found = self.where.get(id(node))
        if found is None:
            return node
        return ast.Name(found, ast.Load()) if isinstance(found, str) else copy.deepcopy(found)


class _Chain:
    """One transformation after another."""

    def __init__(self, *steps: ast.NodeTransformer):
        self.steps = steps

    def visit(self, node: Any) -> Any:
        for step in self.steps:
            node = step.visit(node)
        return node


# --- arguments


def merged(instances: list[Instance], name: str) -> tuple[Class, list[list[Any]]]:
    """One class for ``instances``, and for each of them the values of its arguments."""
    numbers = [instance.numbers() for instance in instances]
    columns: dict[tuple[Any, ...], list[int]] = {}
    for position in range(len(numbers[0])):
        values = tuple((type(row[position].value), row[position].value) for row in numbers)
        if len(set(values)) > 1:
            columns.setdefault(values, []).append(position)
    first = instances[0]
    found = _Arguments(instances, _bound_names(first))
    where: dict[int, ast.expr] = {}
    inside_forward = _forward_numbers(first)
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
    finish = _Chain(Renamed(where), _Shortened())
    init = [_set(name, ast.Name(name)) for name in found.names.values() if name in kept]
    init += [finish.visit(node) for node in first.init]
    if first.body:
        first.body.statements = [finish.visit(node) for node in first.body.statements]
    start = [finish.visit(node) for node in first.start]
    order = sorted(found.names, key=lambda values: found.names[values] in found.defaults)
    made = Class(
        name, first.base, first.module.doc, [found.names[values] for values in order], found.defaults, start, init,
        first.body, first.module,
    )  # fmt: skip
    return made, [[values[index][1] for values in order] for index in range(len(instances))]


def _given(value: Any) -> ast.expr:
    node = literal(value)
    if isinstance(node, ast.Constant):
        node.switch = True
    return node


Values = tuple[tuple[type, Any], ...]
"""One number of every instance, with its type: 0 is not False."""


def _bound_names(instance: Instance) -> set[str]:
    """Names that the source itself assigns."""
    return {
        node.id
        for root in instance.nodes
        for node in ast.walk(root)
        if isinstance(node, ast.Name) and isinstance(getattr(node, "ctx", None), ast.Store)
    }


class _Arguments:
    """The arguments of a class under construction; ``names``: what each is called."""

    def __init__(self, instances: list[Instance], taken: set[str]):
        self.instances, self.taken = instances, taken | {"self"}
        self.names: dict[Values, str] = {}
        self.defaults: dict[str, Any] = {}

    def expression(self, values: Values, nodes: list[ast.Constant]) -> ast.expr:
        """An argument for ``values``, or a multiple of one that is there."""
        name = self._remembered(values)
        if name is None:
            derived = self._derived(values)
            if derived is not None:
                return derived
            roles = [str(getattr(node, "role", "")) for node in nodes]
            name = next((role for role in roles if role.isidentifier()), "size")
        self.names[values] = _free(name, self.taken | {*self.names.values()})
        optional = [node.default for node in nodes if hasattr(node, "default")]
        if len(optional) == len(nodes):
            self.defaults[self.names[values]] = optional[0]
        return ast.Name(self.names[values], ast.Load())

    def _remembered(self, values: Values) -> str | None:
        """What the reference calls ``values``: an argument of its constructor, or an attribute."""
        taken = self.taken | {*self.names.values()}
        for kept in ("constructor", "settings"):
            for name in getattr(self.instances[0].module, kept):
                if name not in taken and name != "training" and _all_equal(self.instances, kept, name, values):
                    return name
        return None

    def _derived(self, values: Values) -> ast.expr | None:
        if not all(kind is int and value > 0 for kind, value in values):
            return None
        for base, name in self.names.items():
            if not all(kind is int and value > 0 for kind, value in base):
                continue
            pairs = [(value, other) for (_, value), (_, other) in zip(values, base, strict=True)]
            factor, divisor = pairs[0][0] // pairs[0][1], pairs[0][1] // pairs[0][0]
            if factor > 1 and all(value == factor * other for value, other in pairs):
                return ast.BinOp(ast.Constant(factor), ast.Mult(), ast.Name(name, ast.Load()))
            if divisor > 1 and all(value * divisor == other for value, other in pairs):
                return ast.BinOp(ast.Name(name, ast.Load()), ast.FloorDiv(), ast.Constant(divisor))
        return None


def _all_equal(instances: list[Instance], kept: str, name: str, values: Values) -> bool:
    found = (getattr(instance.module, kept).get(name) for instance in instances)
    return all(type(ours) is kind and ours == value for ours, (kind, value) in zip(found, values, strict=True))


def _forward_numbers(instance: Instance) -> set[int]:
    if instance.body is None:
        return set()
    return {id(node) for root in instance.body.statements for node in ast.walk(root)}


def _by_constructor(columns: Mapping[Values, list[int]], instances: list[Instance]) -> list[tuple[Values, list[int]]]:
    """Columns in the order in which the reference's constructor names them, the others after."""
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
