"""Turn equal modules into one class, with arguments for their differences. No framework.

Every module is first written by itself, including its numbers, innermost modules first. Two modules share a class if
they have the same class in the reference and their source differs only in numbers; ``merging`` makes the class.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from convert.translate.body import Body, Writer, inside
from convert.translate.gathering import gathered
from convert.translate.layers import Layer, layer_of, settings_of
from convert.translate.linking import link, used
from convert.translate.literals import optional_keyword, switchable, with_role
from convert.translate.loops import rolled
from convert.translate.merging import Class, Instance, merged
from convert.translate.naming import class_name, refused_names
from convert.translate.plain import Call, Held, Module, Program, State, Stop, TranslationError
from convert.translate.repetition import as_list, assigned, compressed, set_attribute
from convert.translate.sizes import Expression
from convert.translate.templates import filled, literal
from convert.translate.twofold import of_both_modes
from convert.translate.variants import joined

SEQUENTIAL = "torch.nn.modules.container.Sequential"
LISTS = {"torch.nn.modules.container.ModuleList": "LayerList", "torch.nn.modules.container.ModuleDict": "LayerDict"}
IDENTITY = "torch.nn.modules.linear.Identity"
NOTHING = ast.Call(ast.Attribute(ast.Name("nn"), "Identity", ast.Load()), [], [])


@dataclass
class Translation:
    """The classes in order of use, the model's last; the port's names of torch tensors, and the transposed ones."""

    classes: list[Class]
    model: str
    names: dict[str, str | None]
    transposed: set[str]


class Builder:
    """Build the classes of one program."""

    def __init__(self, program: Program, operators: Mapping[str, Any], layers: Mapping[str, Layer]):
        self.program, self.operators, self.layers = program, operators, layers
        self.rules = {path: layer_of(module, layers) for path, module in program.modules.items()}
        self._write_out_root()
        self._write_out_tied()
        self._hold_constants()
        for one in self._programs():
            link(one, self.opaque)
        self.unused = self._drop_unused()
        self.calls: dict[str, Call] = {}
        self.training_calls: dict[str, Call] = {}
        self.stops = [Stop(path, program.modules[path].place, rule.refused)
                      for path, rule in self.rules.items() if rule is not None and rule.refused]  # fmt: skip
        self.stops += refused_names(program)
        self._find_calls(program.root, self.calls)
        if program.training:
            self._find_calls(program.training.root, self.training_calls)
        self.shared = self._representatives()
        self.sizes: dict[str, list[Expression]] = {}
        self.listed: set[str] = set()
        self.instances: dict[str, Instance] = {}
        self.classes: dict[str, Class] = {}  # path -> class
        self.given: dict[str, list[Any]] = {}  # path -> values of the class's arguments
        self.order: list[Class] = []
        self.names = {**dict(self._tensor_names()), **dict.fromkeys(self.unused)}

    def translation(self) -> Translation:
        """Translate the program. Raises ``TranslationError``, which lists everything that has no rule."""
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

    def _write_out_root(self) -> None:
        """Write a model that is a single layer by its operators, since the model needs a class of its own.

        Raises ``TranslationError`` for a layer that does nothing in evaluation.
        """
        rule = self.rules[""]
        if rule is not None and rule.silent:
            why = "the model is a layer that does nothing in evaluation; port torch.nn.Sequential(layer)"
            raise TranslationError([Stop("", self.program.modules[""].place, why)])
        if rule is not None and not rule.refused:
            self.rules[""] = None

    def _write_out_tied(self) -> None:
        """Write layers by their operators if they transpose a shared tensor that another owner does not."""
        for name, first in self.program.aliases.items():
            if self.transposed(name) != self.transposed(first):
                for path in (name, first):
                    if self.transposed(path):
                        self.rules[path.rpartition(".")[0]] = None

    def _representatives(self) -> dict[str, str]:
        """Return modules that are registered twice, and the path at which the port makes them: the first called one."""
        groups: dict[str, list[str]] = {}
        for path, first in self.program.shared.items():
            groups.setdefault(first, [first]).append(path)
        made = {first: next((path for path in paths if path in self.calls), first) for first, paths in groups.items()}
        return {path: made[first] for first, paths in groups.items() for path in paths if path != made[first]}

    def _inside_shared(self, name: str) -> bool:
        """Return whether the tensor ``name`` belongs to a module that is registered at several paths."""
        places = (*self.program.shared, *self.program.shared.values())
        return any(name.startswith(f"{path}.") for path in places)

    def _programs(self) -> list[Program]:
        """Return the programs: one, or one for each mode."""
        return [program for program in (self.program, self.program.training) if program is not None]

    def _hold_constants(self) -> None:
        """Make tensors that are neither parameters nor buffers in torch buffers of their module."""
        for path, value in self.program.constants.items():
            owner, _, name = path.rpartition(".")
            dtype = self.program.states[path].dtype
            self.program.modules[owner].held.append(Held(name, value.shape, dtype, trainable=False, saved=False))

    def _drop_unused(self) -> list[str]:
        """Remove buffers that torch does not save and the trace does not read: the forward makes them again."""
        read = {ref.path for one in self._programs() for ref in used(one.root) if isinstance(ref, State)}
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
        """Return ``self.head.weight = self.embed.weight`` for every module and tensor that has two paths."""
        tied = {path: first for path, first in self.shared.items() if self._present(path)}
        for name, first in self.program.aliases.items():
            ours, theirs = self.names.get(name), self.names.get(first)
            if ours is not None and theirs is not None and not self._inside_shared(name):
                tied[ours] = theirs
        return [ast.Assign([inside(path, "")], inside(first, "")) for path, first in tied.items()]

    def whole(self, path: str) -> bool:
        """Return whether the module at ``path`` is a layer that is translated as a whole, by its class."""
        return self.rules.get(path) is not None

    def opaque(self, path: str) -> bool:
        """Return whether nothing inside the module at ``path`` is translated separately."""
        rule = self.rules.get(path)
        return rule is not None and not rule.inner

    def _find_calls(self, call: Call, calls: dict[str, Call]) -> None:
        first = calls.setdefault(call.path, call)
        if len({*call.inputs}) > len({*first.inputs}):  # the other call was given one tensor twice
            calls[call.path] = call
        if [op.name for op in first.walk()] != [op.name for op in call.walk()]:
            self.stops.append(Stop(call.path, call.place, "this module runs in two ways, of which a class has one"))
        if not self.opaque(call.path):
            for step in call.body:
                if isinstance(step, Call):
                    self._find_calls(step, calls)

    def _tensor_names(self) -> Iterator[tuple[str, str | None]]:
        for path, module in self.program.modules.items():
            rule = self.rules[path]
            for held in module.held:
                name = rule.names.get(held.name, held.name) if rule else held.name
                full = f"{path}.{held.name}".lstrip(".")
                yield full, None if name is None else f"{path}.{name}".lstrip(".")

    def renamed(self, path: str) -> str:
        """Return the port's name of the tensor at ``path``."""
        return self.names.get(path) or path

    def transposed(self, path: str) -> bool:
        """Return whether the port stores the tensor at ``path`` transposed."""
        owner, _, name = path.rpartition(".")
        rule = self.rules.get(owner)
        return rule is not None and name in rule.transposed

    def _holds(self, path: str) -> bool:
        module = self.program.modules[path]
        return bool(module.held) or any(self._holds(child) for child in module.children.values())

    def _present(self, path: str) -> bool:
        """Return whether the port has the module at ``path``: it or a module inside is called or holds tensors."""
        if self._called(path) or self._holds(path):
            return True
        return any(self._present(child) for child in self.program.modules[path].children.values())

    def plain_container(self, path: str) -> str | None:
        """Return ``Sequential``, ``LayerList`` or ``LayerDict`` if the module is one; otherwise ``None``."""
        module = self.program.modules[path]
        if module.forward == f"{SEQUENTIAL}.forward" and SEQUENTIAL in module.bases and self._simple(path):
            return "Sequential"
        return LISTS.get(module.kind)

    def _simple(self, path: str) -> bool:
        """Return whether the sequence passes one tensor from each module to the next."""
        call = self.calls.get(path) or self.training_calls.get(path)
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
        """Return whether the module at ``path`` gets a class in the source."""
        return path == "" or (
            not self.whole(path)
            and not (path in self.shared and "." not in path)
            and (self._called(path) or self._holds(path) or self._present(path))
            and self.plain_container(path) is None
        )

    def _levels(self) -> list[list[str]]:
        """Return the modules by level, innermost first; modules of one class share a level unless they are nested."""
        paths = [path for path in self.program.modules if not self._below_whole(path)]
        depth = {path: self._nested(path) for path in paths}
        heights = self._heights(paths, {})
        for _ in range(len(paths)):
            tallest: dict[tuple[str, int], int] = {}
            for path in paths:
                key = (self.program.modules[path].kind, depth[path])
                tallest[key] = max(tallest.get(key, 0), heights[path])
            least = {path: tallest[self.program.modules[path].kind, depth[path]] for path in paths}
            raised = self._heights(paths, {path: height for path, height in least.items() if self.needs_class(path)})
            if raised == heights:
                break
            if max(raised.values()) > 4 * len({*heights.values()}) + 40:  # two classes contain each other
                heights = self._heights(paths, {})
                break
            heights = raised
        levels: list[list[str]] = [[] for _ in range(max(heights.values()))]
        for path in paths:
            levels[heights[path] - 1].append(path)
        return levels

    def _heights(self, paths: list[str], least: Mapping[str, int]) -> dict[str, int]:
        """Return the nesting depth below each of ``paths``, at least that in ``least``."""
        heights: dict[str, int] = {}
        for path in reversed(paths):  # inner modules come later
            inner = (heights.get(child, 0) for child in self.program.modules[path].children.values())
            heights[path] = max(1 + max(inner, default=0), least.get(path, 0))
        return heights

    def _nested(self, path: str) -> int:
        """Return how deep modules of the same class are nested in the module at ``path``, itself included."""
        kind = self.program.modules[path].kind
        inner = [other for other, module in self.program.modules.items()
                 if module.kind == kind and other.startswith(f"{path}." if path else "") and other != path]  # fmt: skip
        return 1 + max(map(self._nested, inner), default=0) if inner else 0

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
        body = self._body(path)
        if body is not None:
            self.sizes[path] = body.sizes
            if body.listed:
                self.listed.add(path)
            length_of = partial(self._list_length, path)
            body.statements = rolled(gathered(body.statements, length_of), length_of)
        if self.stops:
            return
        base, start, init = self._construction(module)
        self.instances[path] = Instance(module, base, start, init, body)

    def _body(self, path: str) -> Body | None:
        """Write the forward method of the module at ``path``, for both modes if they differ."""
        evaluation = self._written(self.program, self.calls.get(path))
        if evaluation is not None and path not in self.program.twofold:
            return evaluation
        training = self._written(self.program.training, self.training_calls.get(path))
        if evaluation is None or training is None or self.stops:
            return evaluation or training
        if (training.inputs, training.sizes) != (evaluation.inputs, evaluation.sizes):
            why = "it takes other tensors or sizes in training than in evaluation; a port takes the same in both"
            self.stops.append(Stop(path, self.program.modules[path].place, why))
        evaluation.statements = of_both_modes(evaluation.statements, training.statements)
        return evaluation

    def _written(self, program: Program | None, call: Call | None) -> Body | None:
        if program is None or call is None:
            return None
        writer = Writer(program, call, self.operators, self.transposed, self.sizes, self.renamed, self.listed)
        body = writer.body()
        self.stops += writer.stops
        return body

    def _called(self, path: str) -> bool:
        return path in self.calls or path in self.training_calls

    def _list_length(self, path: str, owner: str) -> int | None:
        """Return the number of modules or parameters in the list ``self.owner``."""
        inner = f"{path}.{owner}".lstrip(".") if owner else path
        module = self.program.modules.get(inner)
        return len(module.children) or len(module.held) if module else None

    def _construction(self, module: Module) -> tuple[str, list[ast.expr], list[ast.stmt]]:
        numbered = [name for name in module.children if name.isdigit()]
        init: list[ast.stmt] = []
        base, start = "Layer", []
        if numbered:
            base = "Sequential" if SEQUENTIAL in module.bases else "LayerList"
            items = compressed([self.construct(module.children[name]) for name in numbered])
            start = items.elts if base == "Sequential" else [as_list(items)]
        named = {
            name: self.construct(path)
            for name, path in module.children.items()
            if name not in numbered and self._present(path) and (module.path or path not in self.shared)
        }
        init += assigned(named)
        for held in module.held:
            init.append(_held(held))
        if module.path == "":
            init += self._tied()
        return base, start, init

    def construct(self, path: str) -> ast.expr:
        """Return the expression that makes the module at ``path``."""
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
                node.args.append(with_role(switchable(value), argument))
        return node

    def _layer(self, module: Module, rule: Layer) -> ast.expr:
        settings = settings_of(module, rule)
        values = {name: with_role(literal(value), name) for name, value in settings.items() if _sayable(value)}
        for name in rule.inner:
            child = module.children.get(name)
            values[name] = self.construct(child) if child else copy.deepcopy(NOTHING)
        node = filled(rule.template, values)
        for keyword, (name, default) in rule.optional.items():
            assert isinstance(node, ast.Call), f"{rule.template} takes no keywords"
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
            return ast.Call(callee, [as_list(listed)] if container == "LayerList" else listed.elts, [])
        pairs: list[ast.expr] = [ast.Tuple([ast.Constant(name), item], ast.Load()) for name, item in items.items()]
        return ast.Call(callee, pairs, [])

    # equal modules

    def _merge(self, paths: list[str]) -> None:
        groups: dict[tuple[str, str], list[str]] = {}
        for path in paths:
            instance = self.instances[path]
            groups.setdefault((instance.module.kind, instance.shape()), []).append(path)
        kinds: dict[str, list[list[Instance]]] = {}
        for (kind, _), members in groups.items():
            kinds.setdefault(kind, []).append([self.instances[path] for path in members])
        alike = [(kind, instances) for kind, some in kinds.items() for instances in joined(some, self._is_identity)]
        for kind, instances in alike:
            members = [instance.module.path for instance in instances]
            made, values = merged(instances, self._class_name(kind.rpartition(".")[2], instances[0]))
            self.order.append(made)
            for path, given in zip(members, values, strict=True):
                self.classes[path], self.given[path] = made, given

    def _is_identity(self, instance: Instance, name: str) -> bool:
        """Return whether the child ``name`` is an ``Identity`` in the reference's module."""
        path = instance.module.children.get(name)
        return path is not None and self.program.modules[path].kind == IDENTITY

    def _class_name(self, name: str, instance: Instance) -> str:
        name = class_name(name)
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


def _sayable(value: Any) -> bool:
    return isinstance(value, (int, float, str, bool, type(None), list, tuple))


def _held(held: Held) -> ast.stmt:
    shape = with_role(literal(list(held.shape)), "shape")
    if held.trainable:
        return set_attribute(held.name, filled("self.create_parameter(shape)", {"shape": shape}))
    dtype = ", dtype=dtype" if held.dtype != "working" else ""
    zeros = filled(f"paddle.zeros(shape{dtype})", {"shape": shape, "dtype": ast.Constant(held.dtype)})
    return ast.Expr(filled("self.register_buffer(name, zeros)", {"name": ast.Constant(held.name), "zeros": zeros}))
