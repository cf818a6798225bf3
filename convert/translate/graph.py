"""Read the program that ``torch.export`` has recorded into plain values. Imports torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.export.graph_signature import ConstantArgument
from torch.utils import _pytree as pytree

from convert.translate import literals, modes
from convert.translate.inplace import Mutations
from convert.translate.linking import references
from convert.translate.modules import PLAIN, aliases_of, described, known_as, shared_in, type_name
from convert.translate.plain import Call, Limit, Op, Place, Program, Ref, State, Stop, Tensor, TranslationError, Type
from convert.translate.reference import statement_at
from convert.translate.symbols import expression_of, limit_of, refused_batch

LIFTED = "lift_fresh_copy.default"
Segments = tuple[tuple[Place, ...], ...]
"""Source lines, one tuple for each module that calls the next, outermost first."""


class GraphReader:
    """Reads the program ``exported`` of ``model`` into plain values.

    ``stacks``: the source lines of each torch function that was called. ``limits_of_type``: whether the model asks for
    the limits of the type that it computes in.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        exported: torch.export.ExportedProgram,
        stacks: Mapping[str, Segments],
        limits_of_type: bool,
    ):
        self.exported, self.forward = exported, type(model).forward
        self.stacks, self.limits_of_type = stacks, limits_of_type
        self.modules = {path: described(path, module) for path, module in model.named_modules(remove_duplicate=False)}
        self.tensors: dict[int, Tensor] = {}
        self.values: dict[torch.fx.Node, Any] = {}
        self.parts: dict[torch.fx.Node, list[int]] = {}
        self.states: dict[str, Tensor] = {}
        self.constants: dict[str, Any] = {}
        self.stops: list[Stop] = []
        self.aliases = aliases_of(model)
        self.shared = shared_in(model)
        self.known_as = known_as(self.aliases)
        self.mutations = Mutations(self.tensors)

    def program(self) -> Program:
        """Read the program. Raises ``TranslationError`` for a mutated buffer, an unknown region and the like."""
        inputs = self._inputs()
        root = Call("", key="")
        self.open: list[Call] = [root]
        result: Any = None
        for node in self.exported.graph.nodes:
            if node.op == "output":
                result = self._result(node)
            elif node.op == "call_function":
                self._operator(node)
        if self.stops:
            raise TranslationError(self.stops)
        for name, first in self.aliases.items():
            if first in self.states or name in self.states:
                known = self.states.get(first) or self.states[name]
                self.states[first] = self.states[name] = known
        program = Program(
            root, self.modules, self.tensors, self.states, inputs, result, self.constants, self.aliases, self.limits,
            self.shared, batches=self.batches, limits_of_type=self.limits_of_type,
        )  # fmt: skip
        root.outputs += [ref.number for ref in references(result) if isinstance(ref, Ref)]
        return program

    def _inputs(self) -> list[tuple[str, int]]:
        graph: torch.fx.Graph = self.exported.graph
        nodes = {node.name: node for node in graph.nodes if node.op == "placeholder"}
        inputs = []
        names = _argument_names(self.exported, self.forward)
        for spec in self.exported.graph_signature.input_specs:
            node = nodes[spec.arg.name] if hasattr(spec.arg, "name") else None
            if spec.kind.name == "USER_INPUT":
                if node is not None and isinstance(node.meta.get("val"), torch.Tensor):
                    inputs.append((next(names, "") or node.name, self._new(node)))
                continue
            path = spec.target
            assert node is not None and path is not None, f"{spec} is kept without a name"
            if spec.kind.name == "CONSTANT_TENSOR":
                constant = self.exported.constants[path]
                assert isinstance(constant, torch.Tensor)
                if _only_filled_in(node):
                    self.values[node] = constant.item()
                    continue
                path = self._constant_path(node, path)
                self.constants[path] = constant.detach().cpu().numpy()
            self.values[node] = State(path)
            self.states[path] = _tensor(node.meta["val"])
        for spec in self.exported.graph_signature.output_specs:
            if spec.kind.name != "USER_OUTPUT":
                self.stops.append(Stop("", None, f"the forward changes {spec.target or spec.arg}, which is kept"))
        self.limits = {number: limit for _, number in inputs if (limit := self._limit(number)) is not None}
        self.batches = _other_batches([self._shape(number) for _, number in inputs])
        return inputs

    def _shape(self, number: int) -> Sequence[Any]:
        """Return the sizes of the input ``number``; dynamic ones are symbols."""
        return next(node for node, value in self.values.items() if value == Ref(number)).meta["val"].shape

    def _constant_path(self, node: torch.fx.Node, path: str) -> str:
        """Return ``path``, renamed after the variable that the reference's statement assigns, if there is one."""
        owner, _, name = path.rpartition(".")
        user = next(iter(node.users), None)
        segments = self._segments(user) if user is not None else ()
        spoken = statement_at(_user_place(segments[-1])) if segments else None
        targets = spoken.targets if spoken else ()
        module = self.modules[owner]
        taken = {*module.children, *module.settings, *(held.name for held in module.held)}
        taken |= {known.rpartition(".")[2] for known in self.constants if known.rpartition(".")[0] == owner}
        if name.startswith("lifted_tensor"):
            name = (targets[0] if len(targets) == 1 else None) or "constant"
        return f"{owner}.{literals.free(name, taken)}".lstrip(".")

    def _limit(self, number: int) -> Limit | None:
        """Return the heights and widths for which the trace holds, for an input of four dimensions."""
        shape = self._shape(number)
        return _limit_of(shape[2], shape[3]) if len(shape) == 4 else None

    def _new(self, node: torch.fx.Node, value: Any = None) -> int:
        number = len(self.tensors)
        self.tensors[number] = _tensor(node.meta["val"] if value is None else value)
        if value is None:
            self.values[node] = Ref(number)
        return number

    def _operator(self, node: torch.fx.Node) -> None:
        value = node.meta.get("val")
        name = _operator_name(node.target)
        if name == "getitem" and node.args[0] in self.parts and isinstance(node.args[1], int):
            self.values[node] = Ref(self.parts[node.args[0]][node.args[1]])
            return
        if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool, int, float, bool)) or (
            value is None and not (name.startswith("wrap_with"))
        ):
            return  # sizes become expressions; assertions belong to the reference
        if name.startswith("wrap_with"):
            self._region(node)
            return
        if name == "alias.default" or (name == LIFTED and isinstance(self.values[_operand(node)], PLAIN)):
            self.values[node] = self._argument(node.args[0])
            return
        segments = self._segments(node)
        self._enter(node, segments)
        if _is_its_input(name, node):
            self.values[node] = self._argument(node.args[0])
            return
        if name == "port.returned.default":
            self.values[node] = self._argument(node.args[0])
            if isinstance(self.values[node], Ref):
                self.open[-1].returned.append(self.values[node].number)
            return
        if name in ("port.mark.default", "port.strided.default"):
            call = self._mark(node, segments)
            call.outputs.append(self._new(node))
            return
        op = Op(name, self._arguments(node), [], _user_place(segments[-1]) if segments else None)
        if isinstance(value, torch.Tensor):
            op.outputs.append(self._new(node))
        elif isinstance(value, (list, tuple)):
            op.several = True
            self.parts[node] = op.outputs = [self._new(node, part) for part in value if isinstance(part, torch.Tensor)]
        self.mutations.made(op)
        if _writes(node.target) and isinstance(op.args["self"], Ref):
            self._change(op)
        else:
            self.open[-1].body.append(op)

    def _change(self, op: Op) -> None:
        """Record ``op``, which changes its first argument in place."""
        changed, new = op.args["self"].number, op.outputs[0]
        if op.name == "copy_.default" and isinstance(op.args["src"], Ref):
            new = op.args["src"].number
            if self.tensors[new].shape == self.tensors[changed].shape:
                self.open[-1].body += self.mutations.changed(changed, new)
                self.mutations.now[op.outputs[0]] = new
                return
            op.name, op.args = "expand_as.default", {"self": Ref(new), "other": Ref(changed)}
            new = op.outputs[0]
        self.open[-1].body += [op, *self.mutations.changed(changed, new)]

    def _region(self, node: torch.fx.Node) -> None:
        """Inline a region under another setting, such as ``no_grad``; detach its outputs if gradients are off."""
        name, operands = _region_of(node)
        graph: torch.fx.Graph = getattr(self.exported.graph_module, name).graph
        holders = [inner for inner in graph.nodes if inner.op == "placeholder"]
        for holder, operand in zip(holders, operands, strict=True):
            if isinstance(operand, torch.fx.Node) and operand in self.values:
                self.values[holder] = self.values[operand]
        for inner in graph.nodes:
            if inner.op == "call_function":
                self._operator(inner)
            elif inner.op == "output":
                returned = inner.args[0]
                returned = list(returned) if isinstance(returned, (list, tuple)) else [returned]
                numbers = [self.values[value].number for value in returned]
                if node.args[0] is False and _operator_name(node.target) == "wrap_with_set_grad_enabled":
                    numbers = [self._detached(number) for number in numbers]
                self.parts[node] = numbers
                if isinstance(node.meta.get("val"), torch.Tensor):
                    self.values[node] = Ref(numbers[0])

    def _detached(self, number: int) -> int:
        new = len(self.tensors)
        self.tensors[new] = self.tensors[number]
        self.open[-1].body.append(Op("detach.default", {"self": Ref(number)}, [new]))
        return new

    def _segments(self, node: torch.fx.Node) -> Segments:
        """Return the source lines that led to ``node``, one tuple per module, outermost first."""
        known = self.stacks.get(node.meta.get("torch_fn", ("",))[0], ())
        # the outermost frames are those of the export itself
        depth = len(_stack(node))
        return known[-depth:] if len(known) >= depth else ()

    def _enter(self, node: torch.fx.Node, segments: Segments) -> None:
        """Open and close calls until the innermost open one is that of ``node``."""
        stack = _stack(node)
        keys = [key for key, _ in stack]
        depth = 0
        while depth < min(len(keys), len(self.open)) and self.open[depth].key == keys[depth]:
            depth += 1
        del self.open[depth:]
        for position in range(depth, len(stack)):
            key, path = stack[position]
            place = _user_place(segments[position - 1]) if segments and position else None
            call = Call(path, key=key, place=place)
            self.open[-1].body.append(call)
            self.open.append(call)

    def _mark(self, node: torch.fx.Node, segments: Segments) -> Call:
        path = node.args[1]
        assert isinstance(path, str)  # by the schema of the marks
        if self.open[-1].path == path:
            call = self.open[-1]
        else:
            call = Call(path, key=f"{path}@{node.name}")
            self.open[-1].body.append(call)
        call.inputs.append(self._argument(node.args[0]))
        return call

    def _arguments(self, node: torch.fx.Node) -> dict[str, Any]:
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            self.stops.append(Stop("", None, f"an unsupported region, {_operator_name(node.target)}"))
            return {}
        named = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
        named |= dict(zip((argument.name for argument in schema.arguments), node.args, strict=False))
        return {name: self._argument(value) for name, value in (named | node.kwargs).items()}

    def _argument(self, value: Any) -> Any:
        if isinstance(value, torch.fx.Node):
            found = self.values[value] if value in self.values else _size(value.meta["val"])
            return self._within(found) if isinstance(found, State) else self._current(found)
        if isinstance(value, (list, tuple)):
            return [self._argument(item) for item in value]
        if isinstance(value, torch.dtype):
            return Type(type_name(value))
        if isinstance(value, (torch.device, torch.layout, torch.memory_format)):
            return None
        return _size(value)

    def _current(self, found: Any) -> Any:
        """Return the current value of ``found``, after in-place changes."""
        if not isinstance(found, Ref):
            return found
        number = self.mutations.current(found.number)
        if number in self.mutations.stale:
            self.stops.append(Stop(self.open[-1].path, None, "a view of a tensor that was changed in place afterwards"))
        return Ref(number)

    def _within(self, state: State) -> State:
        """Return ``state`` by its name inside the running module, if it is shared and has several names."""
        for name in self.known_as.get(state.path, ()):
            if name.startswith(f"{self.open[-1].path}."):
                return State(name)
        return state

    def _result(self, node: torch.fx.Node) -> Any:
        kept = [spec.arg for spec in self.exported.graph_signature.output_specs if spec.kind.name == "USER_OUTPUT"]
        by_name = {value.name: value for value in self.exported.graph.nodes}
        leaves = [
            arg.value if isinstance(arg, ConstantArgument) and arg.name not in by_name
            else self._argument(by_name[arg.name]) for arg in kept
        ]  # fmt: skip
        structure = self.exported.call_spec.out_spec
        assert structure is not None
        return pytree.tree_unflatten(leaves, structure)


def _argument_names(exported: torch.export.ExportedProgram, forward: Callable[..., Any]) -> Iterator[str]:
    """Return the names of the tensor arguments in ``forward``; torch.export changes names to lower case.

    The names of ``*args`` are empty.
    """
    structure = exported.call_spec.in_spec
    assert structure is not None
    args, kwargs = structure.children()
    own = [one.name for one in inspect.signature(forward).parameters.values()
           if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)][1:]  # fmt: skip
    unnamed = [""] * (args.num_children - len(own))
    return iter((*own[: args.num_children], *unnamed, *kwargs.context))


def _stack(node: torch.fx.Node) -> list[tuple[str, str]]:
    """Return ``(key, path)`` of the modules that ``node`` ran in, outermost first; each call of a module has a key."""
    stack = node.meta.get("nn_module_stack") or {}
    found = [("", "")]
    for key, (path, _) in stack.items():
        clean = path.split("@")[0]
        if clean and clean != "_empty_nn_module_stack_from_metadata_hook":
            found.append((f"{key}|{path}", clean))
    return found


FILLING = {"fill_.Tensor", "index_put.default", "index_put_.default"}


def _only_filled_in(constant: torch.fx.Node) -> bool:
    """Return whether a constant is only used to fill tensors: ``mask[2:] = 5``, ``x[mask] = 0``."""
    copies = list(constant.users)
    users = [user for copy in copies for user in copy.users]
    names = {_operator_name(user.target) for user in users}
    return bool(names) and names <= FILLING and all(_operator_name(copy.target) == LIFTED for copy in copies)


def _region_of(node: torch.fx.Node) -> tuple[str, tuple[Any, ...]]:
    """Return the attribute of the exported module with the graph of a region, and the region's operands."""
    return next(
        (str(value.target), node.args[position + 1 :])
        for position, value in enumerate(node.args)
        if isinstance(value, torch.fx.Node) and value.op == "get_attr"
    )


def _operand(node: torch.fx.Node) -> torch.fx.Node:
    """Return the first argument of an operator, which must be a tensor."""
    first = node.args[0]
    assert isinstance(first, torch.fx.Node), f"{node} takes no tensor"
    return first


def _user_place(segment: Sequence[Place]) -> Place | None:
    """Return the innermost line outside torch's code."""
    for place in reversed(segment):
        if modes.of_user(place.file):
            return place
    return segment[-1] if segment else None


def _writes(target: Any) -> bool:
    """Return whether an operator changes its first argument in place."""
    schema = getattr(target, "_schema", None)
    alias = schema.arguments[0].alias_info if schema is not None and schema.arguments else None
    return alias is not None and alias.is_write


def _operator_name(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return str(target).removeprefix("aten.")
    return getattr(target, "__name__", str(target))


CASTS = ("to.dtype", "to.device", "to.dtype_layout", "to.other", "type_as.default")


def _is_its_input(name: str, node: torch.fx.Node) -> bool:
    """Return whether a cast returns its input, as torch does if the type is the same.

    Then later operators use that tensor itself, not an output of the module that contains the cast.
    """
    given = node.args[0].meta.get("val") if name in CASTS and isinstance(node.args[0], torch.fx.Node) else None
    return given is not None and given.dtype == node.meta["val"].dtype and not node.kwargs.get("copy")


def _tensor(value: torch.Tensor) -> Tensor:
    return Tensor(tuple(_size(size) for size in value.shape), type_name(value.dtype))


def _size(value: Any) -> Any:
    if isinstance(value, (torch.SymInt, torch.SymFloat)):
        return expression_of(value.node.expr, isinstance(value, torch.SymInt))
    return value


def _is_open(size: Any) -> bool:
    return isinstance(size, torch.SymInt) and bool(size.node.expr.free_symbols)


CLOSED = (9, 65)
"""Batch sizes to try if the trace fixes the batch, as after ``len(x)``, and there is no guard on it."""


def _other_batches(shapes: Sequence[Sequence[Any]]) -> tuple[int, ...]:
    """Return batch sizes for which the trace's guards do not hold, so that the reference may take another path."""
    free = [size.node for shape in shapes for size in shape if _is_open(size)]
    traced = {node.expr: int(node.hint) for node in free if node.expr.is_Symbol}
    found: set[int] = set()
    for batch in (shape[0] for shape in shapes if len(shape)):
        if not _is_open(batch):
            found.update(CLOSED)
            continue
        others = {symbol: size for symbol, size in traced.items() if symbol != batch.node.expr}
        refused = refused_batch([guard.expr for guard in batch.node.shape_env.guards], batch.node.expr, others)
        found.update(() if refused is None else (refused,))
    return tuple(sorted(found))


def _limit_of(height: Any, width: Any) -> Limit | None:
    """Return the heights and widths for which the guards of ``torch.export`` hold."""
    sides = (height, width)
    if not all(map(_is_open, sides)):
        return Limit(equal=tuple(side.node.hint if isinstance(side, torch.SymInt) else side for side in sides))
    symbols = (height.node.expr, width.node.expr)
    traced = (int(height.node.hint), int(width.node.hint))
    return limit_of([guard.expr for guard in height.node.shape_env.guards], symbols, traced)
