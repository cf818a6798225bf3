"""What a torch model does otherwise in training: it is run once in each mode. A torch file, as ``program`` is.

A trace follows one mode. Dropout that a forward method calls as a function leaves nothing in evaluation, and a model
may return more in training than in evaluation (the auxiliary classifiers of GoogLeNet).
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from convert.translate.plain import Place


@dataclass
class Seen:
    """A run of a model: where it draws random numbers, and what every module calls and returns, in order, by path."""

    draws: dict[str, Place | None] = field(default_factory=dict)
    steps: dict[str, list[str]] = field(default_factory=dict)


def run(
    model: torch.nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    training: bool,
    whole: Callable[[Any], bool],
) -> Seen:
    """Run a copy of ``model`` in one mode, in the type that it has.

    ``whole``: whether a module is taken as it is, whatever happens inside.

    Neither ``model`` nor torch's generator is changed. Raises what the model raises.
    """
    model = copy.deepcopy(model).train(training)
    seen = Seen()
    open_modules: list[str | None] = []
    for path, module in model.named_modules():
        module.register_forward_pre_hook(_opened(path, whole(module), open_modules, seen))
        module.register_forward_hook(_closed(path, open_modules, seen))
    with torch.no_grad(), _generator_kept(), _Functions(open_modules, seen), _Draws(open_modules, seen):
        model(*copy.deepcopy(tuple(args)), **copy.deepcopy(dict(kwargs)))
    return seen


def differing(evaluation: Seen, training: Seen) -> list[str]:
    """The modules that call other functions or modules in training, or return something else."""
    both = (path for path in evaluation.steps if path in training.steps)
    return [path for path in both if evaluation.steps[path] != training.steps[path]]


@contextmanager
def _generator_kept() -> Iterator[None]:
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _opened(path: str, whole: bool, open_modules: list[str | None], seen: Seen) -> Callable[..., None]:
    def hook(module: torch.nn.Module, args: Any) -> None:
        inside = open_modules[-1] if open_modules else ""
        if inside is not None:
            seen.steps.setdefault(inside, []).append(f"call {path}")
        open_modules.append(None if whole or inside is None else path)

    return hook


def _closed(path: str, open_modules: list[str | None], seen: Seen) -> Callable[..., None]:
    def hook(module: torch.nn.Module, args: Any, output: Any) -> None:
        open_modules.pop()
        inside = open_modules[-1] if open_modules else ""
        if inside is not None:
            returned = str(pytree.tree_structure(output))
            for owner in (inside, path):
                seen.steps.setdefault(owner, []).append(f"{path} returns {returned}")

    return hook


class _Functions(TorchFunctionMode):
    """Keeps the torch functions that every module calls itself."""

    def __init__(self, open_modules: list[str | None], seen: Seen):
        super().__init__()
        self.open_modules, self.seen = open_modules, seen

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inside = self.open_modules[-1] if self.open_modules else None
        if inside is not None and function.__name__ != "__get__":  # reading an attribute of a tensor computes nothing
            self.seen.steps.setdefault(inside, []).append(function.__name__)
        return function(*args, **(kwargs or {}))


class _Draws(TorchDispatchMode):
    """Keeps the modules and lines of the operators after which torch's generator is in another state."""

    def __init__(self, open_modules: list[str | None], seen: Seen):
        super().__init__()
        self.open_modules, self.seen = open_modules, seen

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded not in function.tags:
            return function(*args, **(kwargs or {}))
        before = torch.get_rng_state()
        result = function(*args, **(kwargs or {}))
        if self.open_modules and self.open_modules[-1] is not None and not torch.equal(before, torch.get_rng_state()):
            self.seen.draws.setdefault(self.open_modules[-1], _user_place(sys._getframe(1)))
        return result


def _user_place(frame: Any) -> Place | None:
    """The innermost line that is no code of torch."""
    while frame is not None:
        code = frame.f_code
        if of_user(code.co_filename):
            return Place(code.co_filename, frame.f_lineno, code.co_name)
        frame = frame.f_back
    return None


def of_user(file: str) -> bool:
    """Whether ``file`` is neither torch's nor one of the translator's."""
    return "/torch/" not in file.replace("\\", "/") and not file.startswith(os.path.dirname(__file__))
