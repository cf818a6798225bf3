"""Trace a torch module into a ``Program``: its modules, their calls and operators, as plain values. Imports torch.

``torch.export`` runs the module on tensors with shapes but no values, and records every operator with the module it ran
in. The module is traced in float64, even where it requests float32 (``x.float()``, which guards half precision): a port
computes in the type of its weights throughout.

    program = trace(timm.create_model("convnext_atto"), (torch.randn(2, 3, 224, 224),))

Layers with a mode or a state, which have rules in ``layers``, are recorded as one call each, even if they do nothing in
the traced mode (``DropPath`` in evaluation).
"""

from __future__ import annotations

import copy
import functools
import inspect
import io
import logging
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stderr
from typing import Any

import numpy as np
import torch
from torch.export.graph_signature import ConstantArgument
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from convert.translate import literals, modes
from convert.translate.inplace import Mutations
from convert.translate.linking import references
from convert.translate.plain import (
    Call,
    Held,
    Limit,
    Module,
    Op,
    Place,
    Program,
    Ref,
    State,
    Stop,
    Tensor,
    TranslationError,
    Type,
)
from convert.translate.reference import statement_at
from convert.translate.replacing import replaced
from convert.translate.symbols import expression_of, limit_of, refused_batch
from paddle_dla.errors import told

# the module's type while it is traced; it stands for the port's own type
WORKING = torch.float64
MARK, STRIDED, RETURNED = "port::mark", "port::strided", "port::returned"
PLAIN = (bool, int, float, str, type(None))
LIFTED = "lift_fresh_copy.default"
CALLED = ("_call_impl", "_wrapped_call_impl", "handle_torch_function")


@contextmanager
def constructors_recorded() -> Iterator[None]:
    """Context manager in which torch modules record their constructor's arguments, used to name those of a port."""

    original = torch.nn.Module.__init__

    def init(module: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        original(module, *args, **kwargs)
        module.__dict__["_constructed_with"] = _arguments_of(module, sys._getframe(1))

    with replaced(torch.nn.Module, "__init__", init):
        yield


def _arguments_of(module: torch.nn.Module, frame: Any) -> dict[str, Any]:
    """Return the constructor arguments of ``module``, from the outermost ``__init__`` above ``frame`` for it."""
    found: dict[str, Any] = {}
    while frame is not None and frame.f_code.co_name == "__init__":
        code = frame.f_code
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if not names or frame.f_locals.get(names[0]) is not module:
            break
        found = {name: frame.f_locals[name] for name in names[1:] if name in frame.f_locals}
        frame = frame.f_back
    return {name: value for name, value in found.items() if _plain(value)}


def trace(
    module: torch.nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    silent: Callable[[str], bool] = lambda name: False,
    whole: Callable[[str], bool] = lambda name: False,
    training: bool = True,
    same: Callable[[Module], bool] = lambda module: False,
) -> Program:
    """Trace the program that ``module(*args, **kwargs)`` runs in evaluation.

    ``whole`` returns whether a class, by qualified name, is translated as a whole. ``silent`` returns whether a class
    may do nothing in evaluation, so that its call must be recorded explicitly. ``same`` returns whether a layer that is
    translated as a whole pads its input so that the output has ceil(side / stride) positions.

    ``training`` also examines the other modules in training. Modules that draw random numbers there are traced in
    training mode, since the rules of ``F.dropout`` and the like query the port's own mode. If modules take other steps
    in training, ``Program.training`` is a second trace.

    Raises ``TranslationError`` if the module cannot be traced, for example because it branches on tensor values.
    """
    _check_real(module)
    _check_kept(module, training)
    given, named = tuple(args), dict(kwargs or {})
    draws, twofold = _otherwise(module, given, named, whole) if training else ([], [])
    given, named = _double(given), _double(named)
    program = _traced(module, given, named, silent, draws, same)
    parameters = module.named_parameters(remove_duplicate=False)
    program.requires_grad = {path: parameter.requires_grad for path, parameter in parameters}
    if twofold:
        program.training = _traced(module, given, named, silent, [*draws, *twofold], same)
        program.twofold = frozenset(twofold)
        _share_constants(program, program.training)
    return program


def _check_real(module: torch.nn.Module) -> None:
    """Raise ``TranslationError`` for complex parameters and buffers: a cast to float64 drops the imaginary part."""
    held = (*module.named_parameters(), *module.named_buffers())
    why = "complex numbers: register torch.view_as_real of them, and call torch.view_as_complex in the forward"
    stops = [Stop(path, None, why) for path, value in held if value.is_complex()]
    if stops:
        raise TranslationError(stops)


def _check_kept(module: torch.nn.Module, training: bool) -> None:
    """Raise ``TranslationError`` for modules whose forward changes their state in a way that no port supports."""
    stops = []
    for path, child in module.named_modules():
        place = _source_place(type(child))
        if getattr(child, "max_norm", None) is not None:
            why = "max_norm changes the rows of its weight in the forward: scale them once, and leave it out"
            stops.append(Stop(path, place, why))
        if training and _keeps_average(child):
            why = "momentum=None averages all batches so far: give a number, or port it for evaluation only"
            stops.append(Stop(path, place, why))
        if training and _normed_by_spectrum(child):
            why = "spectral_norm changes its vectors in training: port it for evaluation only"
            stops.append(Stop(path, place, why))
    if stops:
        raise TranslationError(stops)


def _keeps_average(module: torch.nn.Module) -> bool:
    norms = (torch.nn.modules.batchnorm._NormBase,)
    return isinstance(module, norms) and module.track_running_stats and module.momentum is None


def _normed_by_spectrum(module: torch.nn.Module) -> bool:
    hooked = any(type(hook).__name__ == "SpectralNorm" for hook in module._forward_pre_hooks.values())
    return hooked or isinstance(module, torch.nn.utils.parametrizations._SpectralNorm)


def _share_constants(evaluation: Program, training: Program) -> None:
    """Add the constants of ``training`` to ``evaluation``. Raises ``TranslationError`` if a name has two values."""
    known = evaluation.constants
    other = [path for path, value in training.constants.items() if not np.array_equal(known.get(path, value), value)]
    if other:
        why = "this constant of a forward method has another value in training than in evaluation"
        raise TranslationError([Stop(path, None, why) for path in other])
    known.update(training.constants)
    evaluation.states.update((path, training.states[path]) for path in training.constants)


def _traced(
    module: torch.nn.Module,
    args: tuple,
    kwargs: dict,
    silent: Callable[[str], bool],
    in_training: Sequence[str],
    same: Callable[[Module], bool],
) -> Program:
    """Trace a copy of ``module`` in evaluation mode, except for the modules ``in_training``."""
    model = copy.deepcopy(module).eval().to(WORKING)
    for path in in_training:
        model.get_submodule(path).training = True
    for path, child in model.named_modules():
        child.register_forward_hook(functools.partial(_returned, path))
        if silent(modes.qualified(type(child))):
            child.forward = functools.partial(_marked, path)
        elif path and same(_module(path, child)):
            child.forward = functools.partial(_strided, path, child)
    frames = _Frames()
    exported = _exported(model, args, kwargs, frames)
    return _Reader(model, exported, frames).program()


def _otherwise(
    module: torch.nn.Module, args: tuple, kwargs: dict, whole: Callable[[str], bool]
) -> tuple[list[str], list[str]]:
    """Return the modules that draw random numbers in training, and those that take other steps in training.

    A module that computes with random numbers itself, rather than by dropout functions, is only in the second list: no
    operator rule could query the port's mode for it. Raises ``TranslationError`` if the module cannot be run or draws
    random numbers in evaluation.
    """
    try:
        evaluation, training = (
            modes.run(module, args, kwargs, mode, lambda child: whole(modes.qualified(type(child))))
            for mode in (False, True)
        )
    except (Exception, SystemExit) as error:  # the module may raise anything
        raise TranslationError([_refusal(error, "it cannot be run")]) from error
    if evaluation.draws:
        why = "it draws random numbers in evaluation, so no two runs are the same"
        raise TranslationError([Stop(path, place, why) for path, place in evaluation.draws.items()])
    return [path for path in training.draws if path not in training.numbers], modes.differing(evaluation, training)


def _double(values: Any) -> Any:
    return pytree.tree_map(
        lambda value: value.to(WORKING) if isinstance(value, torch.Tensor) and value.is_floating_point() else value,
        values,
    )


@functools.cache
def _identity(name: str) -> Any:
    """Return an operator that returns its tensor; its ``name`` and ``path`` mark a place in the graph."""

    @torch.library.custom_op(name, mutates_args=())
    def identity(x: torch.Tensor, path: str) -> torch.Tensor:
        return x.clone()

    identity.register_fake(lambda x, path: torch.empty_like(x))
    return identity


def _marked(path: str, x: torch.Tensor) -> torch.Tensor:
    return _identity(MARK)(x, path)


@functools.cache
def _covering() -> Any:
    """Return an operator that stands for a layer whose output has ceil(side / stride) positions, marked by ``path``."""

    @torch.library.custom_op(STRIDED, mutates_args=())
    def covering(x: torch.Tensor, path: str, channels: int, stride: Sequence[int]) -> torch.Tensor:
        sides = [-(-side // step) for side, step in zip(x.shape[2:], stride, strict=True)]
        return x.new_empty([x.shape[0], channels, *sides])

    @covering.register_fake
    def _(x: torch.Tensor, path: str, channels: int, stride: Sequence[int]) -> torch.Tensor:
        sides = [(side + step - 1) // step for side, step in zip(x.shape[2:], stride, strict=True)]
        return x.new_empty([x.shape[0], channels, *sides])

    return covering


def _strided(path: str, layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    stride = layer.stride if isinstance(layer.stride, (tuple, list)) else (layer.stride, layer.stride)
    return _covering()(x, path, getattr(layer, "out_channels", x.shape[1]), list(stride))


def _returned(path: str, module: torch.nn.Module, args: Any, output: Any) -> Any:
    """Forward hook that marks the tensors of a returned tuple or list, whose order is not recorded otherwise.

    A hook is used rather than another ``forward`` because ``torch.export`` distinguishes the places of a shared module
    by the ``self`` that it passes.
    """
    if type(output) not in (tuple, list):
        return output
    return type(output)(_identity(RETURNED)(x, path) if isinstance(x, torch.Tensor) else x for x in output)


class Float64(TorchFunctionMode):
    """Mode in which requests for float32, ``x.float()`` or ``arange(dtype=float32)``, are computed in float64."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        function, args, kwargs = _in_float64(function, args, kwargs or {})
        return function(*args, **kwargs)


def _in_float64(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, tuple, dict[str, Any]]:
    function = torch.Tensor.double if function is torch.Tensor.float else function
    swapped = tuple(WORKING if value is torch.float32 else value for value in args)
    return function, swapped, {name: WORKING if value is torch.float32 else value for name, value in kwargs.items()}


def float64_throughout(module: torch.nn.Module) -> torch.nn.Module:
    """Make ``module`` compute in float64 throughout if its parameters or inputs are float64. Changes it in place."""
    inner = module.forward

    @functools.wraps(inner)
    def forward(*args: Any, **kwargs: Any) -> Any:
        tensors = (*module.parameters(), *pytree.tree_leaves((args, kwargs)))
        if any(isinstance(value, torch.Tensor) and value.dtype is WORKING for value in tensors):
            with Float64():
                return inner(*args, **kwargs)
        return inner(*args, **kwargs)

    module.forward = forward
    return module


@contextmanager
def _made_in_float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(WORKING)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class _Frames(Float64):
    """``Float64`` that also records where each torch function was called, counted by name as in ``torch.export``."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[Any, int] = {}
        self.stacks: dict[str, tuple[tuple[Place, ...], ...]] = {}
        self.limits = False  # whether the module calls torch.finfo of the type that it computes in

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[function] = self.counts.get(function, 0) + 1
        self.stacks[f"{function.__name__}_{self.counts[function]}"] = _segments(sys._getframe(1))
        return super().__torch_function__(function, types, args, kwargs)


def _segments(frame: Any) -> tuple[tuple[Place, ...], ...]:
    """Return the Python stack, outermost first, split where one module calls another, without the calling machinery."""
    segments: list[list[Place]] = [[]]
    while frame is not None:
        code = frame.f_code
        if code.co_name == "_call_impl":
            segments.append([])
        elif code.co_name not in CALLED and code.co_filename != __file__:
            segments[-1].append(Place(code.co_filename, frame.f_lineno, code.co_name, frame.f_lasti))
        frame = frame.f_back
    return tuple(tuple(reversed(segment)) for segment in reversed(segments))


def _exported(model: torch.nn.Module, args: tuple, kwargs: dict, frames: _Frames) -> torch.export.ExportedProgram:
    """Export ``model`` with as many dynamic sizes as it allows. Raises ``TranslationError``."""
    inner = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        frames.counts.clear()
        with frames:
            return inner(*args, **kwargs)

    functools.update_wrapper(forward, inner)
    forward.__signature__ = _with_names(inspect.signature(inner), kwargs)
    model.forward = forward
    failure: BaseException | None = None
    for free in (_all_free, _batch_free):
        try:
            limit = _at_most(LONGEST_S if free is _all_free else 0)
            with _quiet(), _made_in_float64(), _functions_refused(), _limits_seen(frames), _masks_as_given(), limit:
                shapes = _shapes(model, args, kwargs, free)
                return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - raised by the module, or by any part of torch
            failure = error
        except _TooLong:
            continue
    raise TranslationError([_refusal(failure)]) from failure


@contextmanager
def _quiet() -> Iterator[None]:
    """Context manager that silences torch's messages about a trace: a failed trace is reported by ``TranslationError``.

    torch logs the graph of a failed trace and also prints it to stderr.
    """
    loggers = [logging.getLogger(name) for name in ("torch.fx.experimental.symbolic_shapes", "torch._export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _limits_seen(frames: _Frames) -> Iterator[None]:
    """Context manager that records in ``frames`` that the module calls ``torch.finfo`` of float64.

    Where the module is used, this is the finfo of float32.
    """
    original = torch.finfo

    def finfo(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        frames.limits |= found.dtype == "float64" and modes.of_user(sys._getframe(1).f_code.co_filename)
        return found

    with replaced(torch, "finfo", finfo):
        yield


def _masks_as_given() -> AbstractContextManager[None]:
    """Context manager in which torch's transformers do not inspect whether the values of a mask are causal."""
    return replaced(torch.nn.modules.transformer, "_detect_is_causal_mask", _is_called_causal)


def _is_called_causal(mask: Any, is_causal: bool | None = None, size: int | None = None) -> bool:
    return bool(is_causal)


@contextmanager
def _functions_refused() -> Iterator[None]:
    """Context manager in which a ``torch.autograd.Function`` raises: a trace does not see its backward."""
    # from torch 2.14 on the method is written in C and has no __func__
    original = torch.autograd.Function.__dict__["apply"]

    def refuse(cls: type, *args: Any, **kwargs: Any) -> Any:
        if cls.__module__.split(".")[0] == "torch":
            return original.__get__(None, cls)(*args, **kwargs)
        raise ValueError(f"{cls.__qualname__} is a torch.autograd.Function, whose backward no trace sees; write it as "
                         "operators, or port it by hand")  # fmt: skip

    with replaced(torch.autograd.Function, "apply", classmethod(refuse)):
        yield


LONGEST_S = 90
"""Limit of CPU seconds for a trace with dynamic heights and widths, whose inequalities may take hours to solve."""


class _TooLong(BaseException):
    """Raised if a trace exceeds its time. Not an ``Exception``, which torch might handle as one of the module's."""


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise ``_TooLong`` in the block after ``seconds`` of CPU time, which is independent of other processes.

    This uses a signal, which only the main thread receives; in other threads the block is not limited.
    """
    if not seconds or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: Any) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


AUTO = torch.export.Dim.AUTO


def _all_free(rank: int) -> dict[int, Any]:
    return {axis: AUTO for axis in range(rank) if axis == 0 or (rank == 4 and axis > 1) or (rank < 4 and axis == 1)}


def _batch_free(rank: int) -> dict[int, Any]:
    return {0: AUTO} if rank else {}


def _shapes(model: torch.nn.Module, args: tuple, kwargs: dict, free: Callable[[int], dict[int, Any]]) -> Any:
    def of(value: Any) -> Any:
        return free(value.dim()) if isinstance(value, torch.Tensor) else None

    signature = inspect.signature(model.forward)
    if not kwargs and all(one.kind is not one.VAR_POSITIONAL for one in signature.parameters.values()):
        return pytree.tree_map(of, args)
    bound = signature.bind(*args, **kwargs)
    return {name: pytree.tree_map(of, value) for name, value in bound.arguments.items()}


def _with_names(signature: inspect.Signature, kwargs: Mapping[str, Any]) -> inspect.Signature:
    """Replace ``**kwargs`` of a ``signature`` by the given names: torch.export requires each to be named."""
    known = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
    further = kwargs.keys() - {one.name for one in known} if len(known) < len(signature.parameters) else ()
    named = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in kwargs if name in further]
    return signature.replace(parameters=[*known, *named])


def _refusal(error: BaseException, what: str = "torch.export cannot trace it") -> Stop:
    """Return the reason why the module cannot be traced, with the responsible line of its source."""
    place, traceback = None, error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if modes.of_user(code.co_filename):
            place = Place(code.co_filename, traceback.tb_lineno, code.co_name)
        traceback = traceback.tb_next
    text = told(error).splitlines()[0]
    if "data-dependent" in text:
        text = "it decides by the values of a tensor, which no trace can follow; torch.where serves for both cases"
    if found := re.search(r"Found <class '(.*?)'> in output", text):
        text = f"it returns a {found[1]}, whose tensors torch.export does not find; return these (use_cache=False)"
    return Stop("", place, f"{what}: {text}")


class _Reader:
    """Read an exported program into plain values."""

    def __init__(self, model: torch.nn.Module, exported: torch.export.ExportedProgram, frames: _Frames):
        self.exported, self.frames, self.forward = exported, frames, type(model).forward
        self.modules = {path: _module(path, module) for path, module in model.named_modules(remove_duplicate=False)}
        self.tensors: dict[int, Tensor] = {}
        self.values: dict[torch.fx.Node, Any] = {}
        self.parts: dict[torch.fx.Node, list[int]] = {}
        self.states: dict[str, Tensor] = {}
        self.constants: dict[str, Any] = {}
        self.stops: list[Stop] = []
        self.aliases = _aliases(model)
        self.shared = _shared(model)
        self.known_as = _known_as(self.aliases)
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
            self.shared, batches=self.batches, limits_of_type=self.frames.limits,
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

    def _segments(self, node: torch.fx.Node) -> tuple[tuple[Place, ...], ...]:
        """Return the source lines that led to ``node``, one tuple per module, outermost first."""
        known = self.frames.stacks.get(node.meta.get("torch_fn", ("",))[0], ())
        # the outermost frames are those of the export itself
        depth = len(_stack(node))
        return known[-depth:] if len(known) >= depth else ()

    def _enter(self, node: torch.fx.Node, segments: tuple[tuple[Place, ...], ...]) -> None:
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

    def _mark(self, node: torch.fx.Node, segments: tuple[tuple[Place, ...], ...]) -> Call:
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
            return Type(_type_name(value))
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
    return Tensor(tuple(_size(size) for size in value.shape), _type_name(value.dtype))


def _type_name(dtype: torch.dtype) -> str:
    return "working" if dtype is WORKING else str(dtype).removeprefix("torch.")


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


def _aliases(model: torch.nn.Module) -> dict[str, str]:
    """Return ``{other path: first path}`` of parameters and buffers with several paths."""
    first: dict[int, str] = {}
    found = {}
    for path, value in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        if first.setdefault(id(value), path) != path:
            found[path] = first[id(value)]
    return found


def _known_as(aliases: Mapping[str, str]) -> dict[str, list[str]]:
    """Return all names of each tensor with several names, by each of them."""
    groups: dict[str, list[str]] = {}
    for name, first in aliases.items():
        groups.setdefault(first, [first]).append(name)
    return {name: names for names in groups.values() for name in names}


def _shared(model: torch.nn.Module) -> dict[str, str]:
    """Return ``{second path: first path}`` of modules that are registered again, without the modules inside them."""
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        inside = any(path.startswith(f"{other}.") for other in found)
        if not inside and first.setdefault(id(module), path) != path:
            found[path] = first[id(module)]
    return found


def _module(path: str, module: torch.nn.Module) -> Module:
    kind = type(module)
    held = [Held(name, tuple(value.shape), _type_name(value.dtype), True)
            for name, value in module._parameters.items() if value is not None]  # fmt: skip
    unsaved = module._non_persistent_buffers_set
    held += [Held(name, tuple(value.shape), _type_name(value.dtype), False, name not in unsaved)
             for name, value in module._buffers.items() if value is not None]  # fmt: skip
    settings = {name: value for name, value in vars(module).items() if _plain(value) and not name.startswith("_")}
    forward = kind.forward
    return Module(
        path=path,
        kind=modes.qualified(kind),
        bases=tuple(modes.qualified(base) for base in kind.__mro__),
        forward=f"{forward.__module__}.{forward.__qualname__}",
        parameters=tuple(inspect.signature(forward).parameters)[1:],
        settings=settings,
        constructor=module.__dict__.get("_constructed_with", {}),
        children={name: f"{path}.{name}".lstrip(".") for name, child in module._modules.items() if child is not None},
        held=held,
        doc=next(iter(inspect.cleandoc(kind.__doc__ or "").splitlines()), ""),
        place=_source_place(kind),
    )


def _plain(value: Any) -> bool:
    return isinstance(value, PLAIN) or (isinstance(value, (tuple, list)) and all(isinstance(x, PLAIN) for x in value))


@functools.cache
def _source_place(kind: type) -> Place | None:
    try:
        return Place(inspect.getsourcefile(kind) or "", inspect.getsourcelines(kind)[1])
    except (OSError, TypeError):
        return None
