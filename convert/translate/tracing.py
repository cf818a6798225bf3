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
from torch.utils import _pytree as pytree

from convert.translate import float64, marks, modes
from convert.translate.float64 import WORKING, Float64, double, made_in_float64
from convert.translate.graph import GraphReader, Segments
from convert.translate.marks import marked, returned, strided
from convert.translate.modules import described, source_place
from convert.translate.plain import Module, Place, Program, Stop, TranslationError
from convert.translate.replacing import replaced
from paddle_dla.errors import told

# what stands between two modules in the stack: torch's machinery, and what this package puts around a forward
OWN = (__file__, float64.__file__, marks.__file__)
CALLED = ("_call_impl", "_wrapped_call_impl", "handle_torch_function")


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
    given, named = double(given), double(named)
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
        place = source_place(type(child))
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
        child.register_forward_hook(functools.partial(returned, path))
        if silent(modes.qualified(type(child))):
            child.forward = functools.partial(marked, path)
        elif path and same(described(path, child)):
            child.forward = functools.partial(strided, path, child)
    frames = _Frames()
    exported = _exported(model, args, kwargs, frames)
    return GraphReader(model, exported, frames.stacks, frames.limits).program()


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


class _Frames(Float64):
    """``Float64`` that also records where each torch function was called, counted by name as in ``torch.export``."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[Any, int] = {}
        self.stacks: dict[str, Segments] = {}
        self.limits = False  # whether the module calls torch.finfo of the type that it computes in

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[function] = self.counts.get(function, 0) + 1
        self.stacks[f"{function.__name__}_{self.counts[function]}"] = _segments(sys._getframe(1))
        return super().__torch_function__(function, types, args, kwargs)


def _segments(frame: Any) -> Segments:
    """Return the Python stack, outermost first, split where one module calls another, without the calling machinery."""
    segments: list[list[Place]] = [[]]
    while frame is not None:
        code = frame.f_code
        if code.co_name == "_call_impl":
            segments.append([])
        elif code.co_name not in CALLED and code.co_filename not in OWN:
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
            with _quiet(), made_in_float64(), _functions_refused(), _limits_seen(frames), _masks_as_given(), limit:
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
