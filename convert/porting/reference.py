"""Build the reference of a port from its name: a timm model or any factory. torch only.

A factory is written ``package.module:function``. It is called with keyword arguments and returns a
``torch.nn.Module``.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from convert.readers import Source, no_count, read_source
from paddle_dla.errors import WrongValue
from paddle_dla.models.registry import ModelError, import_named, users_code
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.values import widened
from paddle_dla.weight_files import untied

SHOWN = 8
"""How many tensors of each kind an error lists."""


class BuildError(WrongValue):
    """Raised if a reference cannot be built: the model is unknown, or the factory is not found or raises."""


@dataclass(frozen=True)
class Reference:
    """Recipe of a reference: a timm ``model`` or a ``factory``, keyword ``options``, and the ``seed`` of its weights.

    ``Reference(model="convnext_atto", options={"num_classes": 10})``
    """

    model: str = ""
    factory: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def name(self) -> str:
        """Name of the port."""
        return self.model or self.factory.rpartition(":")[2]

    def build(self) -> Any:
        """Build the module, in evaluation mode. Raises ``BuildError``."""
        import torch

        from convert.translate.modules import constructors_recorded

        function = self._timm() if self.model else self._function()
        with torch.random.fork_rng(devices=[]), constructors_recorded():
            torch.manual_seed(self.seed)
            try:
                with users_code(self.name):
                    module = function(**self.options)
            except ModelError as error:
                raise BuildError(str(error)) from error
        if not isinstance(module, torch.nn.Module):
            raise BuildError(f"{self.name} returns a {type(module).__name__}, not a torch.nn.Module")
        return module.eval()

    def _timm(self) -> Any:
        from functools import partial

        from torch_ref.model import import_timm

        timm = import_timm()
        if self.model not in timm.list_models():
            near = difflib.get_close_matches(self.model, timm.list_models(), 5)
            hint = f"; near: {', '.join(near)}" if near else ""
            raise BuildError(f"timm {timm.__version__} has no model {self.model!r}{hint}")
        return partial(timm.create_model, self.model, pretrained=False)

    def _function(self) -> Any:
        try:
            function = import_named(self.factory)[1]
        except ModelError as error:
            raise BuildError(str(error)) from error
        if not callable(function):
            raise BuildError(f"{self.factory} is a {type(function).__name__}, not a function or a class")
        self._refuse_arguments(function)
        return function

    def _refuse_arguments(self, function: Callable[..., Any]) -> None:
        """Raise ``BuildError`` if the signature of ``function``, where it has one, does not accept the options."""
        try:
            taken = inspect.signature(function)
        except (TypeError, ValueError):  # a builtin may have no signature
            return
        try:
            taken.bind(**self.options)
        except TypeError as error:
            raise BuildError(f"{self.name}{taken} {error}; --torch-args names its arguments") from None

    def as_dict(self) -> dict[str, Any]:
        """Return the entry of a port's card, from which the port's test builds the reference again."""
        return {"model": self.model, "factory": self.factory, "options": dict(self.options), "seed": self.seed}


def load_checkpoint(module: Any, path: Path, use_ema: bool = False) -> dict[str, Any]:
    """Load a torch checkpoint into ``module``, strictly; return the origin of the weights.

    Raises ``CheckpointError``, which lists the tensors that are missing, left over, or of another shape or type.
    """
    import torch

    source = read_source(path, use_ema)
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    found = {name: tensor.shape for name, tensor in source.tensors.items()}
    counters = "num_batches_tracked"
    missing = [f"{name}: missing" for name in expected if name not in found and not name.endswith(counters)]
    faults = [f"{name}: the model has no such tensor" for name in found if name not in expected]
    faults += [f"{name}: {list(found[name])} in the file, {list(expected[name])} in the model"
               for name in found if name in expected and tuple(found[name]) != expected[name]]  # fmt: skip
    faults += _other_types(module, source) if not faults and not missing else []
    if faults or missing:
        # show missing and other tensors, so that both spellings of a renamed tensor appear
        shown = [*missing[:SHOWN], *faults[:SHOWN]]
        left = len(missing) + len(faults) - len(shown)
        more = [f"... and {left} more"] if left else []
        raise CheckpointError("\n  ".join([f"{path} is not a checkpoint of this model:", *shown, *more]))
    module.load_state_dict({name: torch.from_numpy(tensor.array().copy()) for name, tensor in source.tensors.items()},
                           strict=False)  # fmt: skip
    return dict(source.origin)


def _other_types(module: Any, source: Source) -> list[str]:
    """Return faults for tensors of ``source`` whose type cannot hold weights, and for tied weights that differ.

    torch's own loading would accept such types: it would load quantised codes or the real part of a complex number.
    """
    state, counters = module.state_dict(), "num_batches_tracked"
    faults, arrays = [], {}
    for name, tensor in source.tensors.items():
        found, wanted = tensor.dtype, str(state[name].dtype).removeprefix("torch.")
        if name.endswith(counters):
            faults += [f"{name}: is {count}, which counts no batches"] if (count := no_count(tensor)) else []
        elif state[name].is_floating_point():
            whole = widened({name: tensor.array()})[name]
            faults += [] if whole.dtype == np.float32 else [f"{name}: {found} in the file, which float32 does not hold"]
            arrays[name] = whole
        elif found != wanted:
            faults.append(f"{name}: {found} in the file, {wanted} in the model")
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return faults or untied(arrays, names.values())


def origin_of(kind: type) -> dict[str, str]:
    """Return the package of a module's class, with its version and licence."""
    from importlib.metadata import PackageNotFoundError, metadata

    package = kind.__module__.split(".")[0]
    try:
        found = metadata(package)
    except PackageNotFoundError:
        return {"package": package}
    return {"package": package, "version": found["Version"], "licence": found["License-Expression"] or found["License"]}
