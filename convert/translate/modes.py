"""Find what a torch model does differently in training, by running it once in each mode. Imports torch.

A trace follows one mode. Dropout functions called in a forward method leave no trace in evaluation, and a model may
return more in training than in evaluation (the auxiliary classifiers of GoogLeNet).
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

NUMBERS = frozenset(("rand", "rand_like", "randn", "randn_like", "exponential_"))
"""Operators that return random numbers, which a module may use in any way."""
MASKS = frozenset(("bernoulli", "bernoulli_"))
"""Functions that return random numbers, whose names are also operators of dropout."""


@dataclass
class Seen:
    """Record of a run: where it draws random numbers, and what every module calls and returns, in order, by path.

    ``numbers`` are the modules that compute with random numbers themselves, not only by dropout functions.
    """

    draws: dict[str, Place | None] = field(default_factory=dict)
    numbers: set[str] = field(default_factory=set)
    steps: dict[str, list[str]] = field(default_factory=dict)


def run(
    model: torch.nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    training: bool,
    whole: Callable[[Any], bool],
) -> Seen:
    """Run a copy of ``model`` in one mode, without changing its type.

    ``whole`` returns whether a module is translated as a whole, so that its inside is not recorded.

    Neither ``model`` nor torch's generator is changed. Exceptions of the model are passed on.
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
    """Return the modules that call other functions or modules in training, or return something else."""
    both = (path for path in evaluation.steps if path in training.steps)
    return [path for path in both if evaluation.steps[path] != training.steps[path]]


ROWS = 512
"""Samples in a test of a module; at a rate of 0.02, no sample is dropped in one of 30,000 tests."""


def stochastic_depths(model: torch.nn.Module, known: Callable[[str], bool] = lambda kind: False) -> dict[str, str]:
    """Return ``{class: attribute}`` of classes that compute what ``timm.layers.DropPath`` does, with their rate.

    Many models have a copy of that class under another name, so it is recognised by its behaviour: the identity in
    evaluation, and in training each sample is dropped or divided by the share that is kept. A class qualifies if all of
    its modules do. Classes that are ``known`` are not tested.
    """
    found: dict[tuple[str, str], list[int | None]] = {}
    for module in model.modules():
        kind = qualified(type(module))
        rates = [name for name, value in vars(module).items() if isinstance(value, float) and 0 < value < 1]
        alone = not (module._modules or module._parameters or module._buffers)
        if len(rates) == 1 and alone and not known(kind):
            found.setdefault((kind, rates[0]), []).append(_left_out(module, getattr(module, rates[0])))
    return {kind: rate for (kind, rate), counts in found.items() if None not in counts and any(counts)}


def _left_out(module: torch.nn.Module, rate: float) -> int | None:
    """Return how many of ``ROWS`` samples ``module`` drops; ``None`` if it is not stochastic depth."""
    x = torch.arange(1.0, 2 * ROWS + 1, dtype=torch.float64).reshape(ROWS, 2, 1, 1)
    module = copy.deepcopy(module)
    try:
        with torch.no_grad(), _generator_kept():
            torch.manual_seed(0)
            same, dropped = module.eval()(x.clone()), module.train()(x.clone())
    except (Exception, SystemExit):  # noqa: BLE001 - a module of another kind may raise anything
        return None
    if not all(isinstance(y, torch.Tensor) and y.shape == x.shape for y in (same, dropped)):
        return None
    out = dropped.flatten(1)[:, 0] == 0
    expected = torch.where(out[:, None, None, None], 0.0, x / (1 - rate))
    # binomial: it is more than five standard deviations from the mean once in two million tests
    is_rate = abs(int(out.sum()) - ROWS * rate) <= 5 * (ROWS * rate * (1 - rate)) ** 0.5
    does = torch.equal(same, x) and torch.allclose(dropped, expected, rtol=1e-12, atol=0.0)  # rounding of a division
    return int(out.sum()) if is_rate and does else None


def qualified(kind: type) -> str:
    """Return the qualified name of a class, as used in the tables of ``layers``."""
    return f"{kind.__module__}.{kind.__qualname__}"


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
    """Record the torch functions that every module calls itself."""

    def __init__(self, open_modules: list[str | None], seen: Seen):
        super().__init__()
        self.open_modules, self.seen = open_modules, seen

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inside = self.open_modules[-1] if self.open_modules else None
        if inside is not None and function.__name__ != "__get__":  # reading an attribute of a tensor computes nothing
            self.seen.steps.setdefault(inside, []).append(function.__name__)
            if function.__name__ in MASKS:
                self.seen.numbers.add(inside)
        return function(*args, **(kwargs or {}))


class _Draws(TorchDispatchMode):
    """Record the modules and lines of the operators that change the state of torch's generator."""

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
            if function._schema.name.rpartition("::")[2] in NUMBERS:
                self.seen.numbers.add(self.open_modules[-1])
        return result


def _user_place(frame: Any) -> Place | None:
    """Return the innermost line outside torch's code."""
    while frame is not None:
        code = frame.f_code
        if of_user(code.co_filename):
            return Place(code.co_filename, frame.f_lineno, code.co_name)
        frame = frame.f_back
    return None


def of_user(file: str) -> bool:
    """Return whether ``file`` is the user's: not torch's, not the translator's, and not generated code."""
    own = file.startswith(os.path.dirname(__file__))
    return file != "<string>" and "/torch/" not in file.replace("\\", "/") and not own
