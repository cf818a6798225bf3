"""Which modules of a torch model draw random numbers, found by running it once. A torch file, as ``program`` is.

Dropout that a forward method calls as a function (``F.dropout(x, 0.1, self.training)``, the ``dropout_p`` of an
attention) leaves no trace in evaluation: the modules that do so are traced as they run in training.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from convert.translate.plain import Place


def drawing_modules(
    module: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], training: bool
) -> dict[str, Place | None]:
    """``{path: line}`` of the modules that draw random numbers in ``module(*args, **kwargs)``, by the first draw.

    Neither ``module`` nor torch's generator is changed. Raises what the module raises.
    """
    model = copy.deepcopy(module).train(training)
    with torch.no_grad(), _generator_kept(), _Draws(model) as draws:
        model(*copy.deepcopy(tuple(args)), **copy.deepcopy(dict(kwargs)))
    return draws.found


@contextmanager
def _generator_kept() -> Iterator[None]:
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


class _Draws(TorchDispatchMode):
    """Keeps the innermost module of every operator after which torch's generator is in another state."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.paths = {id(module): path for path, module in model.named_modules()}
        self.found: dict[str, Place | None] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded not in function.tags:
            return function(*args, **(kwargs or {}))
        before = torch.get_rng_state()
        result = function(*args, **(kwargs or {}))
        if not torch.equal(before, torch.get_rng_state()):
            path, place = self._innermost(sys._getframe(1))
            self.found.setdefault(path, place)
        return result

    def _innermost(self, frame: Any) -> tuple[str, Place | None]:
        """The module that runs in ``frame``, and the innermost line that is no code of torch."""
        place = None
        while frame is not None:
            code = frame.f_code
            if place is None and "/torch/" not in code.co_filename.replace("\\", "/"):
                place = Place(code.co_filename, frame.f_lineno, code.co_name)
            owner = frame.f_locals.get("self") if code.co_name == "_call_impl" else None
            if id(owner) in self.paths:
                return self.paths[id(owner)], place
            frame = frame.f_back
        return "", place
