"""Train a torch module step by step and record what every step did. torch only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from alignment.engine.records.run import (
    AVERAGE,
    BUFFER,
    FIRST,
    GIVEN,
    GRADIENT,
    LARGEST,
    LOSS,
    MOMENTUM,
    NORM,
    OUTPUT,
    PARAMETER,
    POWER_1,
    POWER_2,
    SECOND,
    STATE,
    SUM,
    WHOLE,
    Kept,
    Key,
    Step,
    advance,
    global_norm,
    update_average,
)
from alignment.engine.records.store import Store
from alignment.engine.records.tree import leaves

ROLES = {
    "momentum_buffer": MOMENTUM,
    "exp_avg": FIRST,
    "exp_avg_sq": SECOND,
    "max_exp_avg_sq": LARGEST,
    "square_avg": SECOND,
    "sum": SUM,
}
"""What torch's and timm's optimizers call their state. Other tensors keep their own name as their role."""

Batch = tuple[Sequence[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Recipe:
    """How to train: ``loss(output, labels)``; the others make an object from the module or from the optimizer.

    ``clip(parameters)`` is called between the backward pass and the step, on the parameters that have a gradient.
    """

    loss: Callable[[Any, torch.Tensor], torch.Tensor]
    optimizer: Callable[[torch.nn.Module], torch.optim.Optimizer]
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None
    ema: Callable[[torch.nn.Module], Any] | None = None
    clip: Callable[[list[torch.nn.Parameter]], Any] | None = None


class Training:
    """One training of ``module``, in the mode and type that it is in.

    ``float32_settings``: the names of hyperparameters that the port keeps in float32, which are rounded here.
    ``rounded``: round gradients, weights and statistics to float32 at each step. ``kinds``: what is recorded of a
    step; everything unless it is set.
    """

    def __init__(
        self, module: torch.nn.Module, recipe: Recipe, float32_settings: Sequence[str] = (), rounded: bool = False
    ):
        module.zero_grad(set_to_none=True)
        self.module, self.recipe, self.rounded = module, recipe, rounded
        self.kinds: frozenset[str] | None = None
        self.parameters = dict(module.named_parameters())
        self.optimizer = recipe.optimizer(module)
        self.settings = round_settings(self.optimizer, float32_settings)
        self.scheduler = recipe.scheduler(self.optimizer) if recipe.scheduler else None
        self.ema = recipe.ema(module) if recipe.ema else None
        self._names = {id(parameter): name for name, parameter in self.parameters.items()}

    def given(self) -> frozenset[str]:
        """The parameters that the optimizer holds."""
        held = [p for group in self.optimizer.param_groups for p in group["params"]]
        return frozenset(self._names[id(p)] for p in held if id(p) in self._names)

    def frozen(self) -> frozenset[str]:
        """The parameters that are set not to be trained."""
        return frozenset(name for name, parameter in self.parameters.items() if not parameter.requires_grad)

    def run(self, batches: Sequence[Batch], store: Callable[[], Store]) -> Iterator[Step]:
        """The start, then each step as it was taken; each is kept in what ``store`` returns."""
        yield Step({}, Kept(store(), self._after(), self.kinds))
        for number, (inputs, labels) in enumerate(batches, 1):
            arrays = self._differentiate(inputs, labels)
            if self.rounded:
                _round(p.grad for p in self.parameters.values() if p.grad is not None)
            arrays |= self._gradients(GRADIENT)
            if self.recipe.clip:
                self.recipe.clip([p for p in self.parameters.values() if p.grad is not None])
                arrays |= self._gradients(GIVEN)
            arrays[NORM, WHOLE[NORM], ""] = global_norm(arrays, GIVEN if self.recipe.clip else GRADIENT)
            yield self._finish(number, arrays, store)

    def replay(self, steps: Sequence[Step], store: Callable[[], Store]) -> Iterator[Step]:
        """The optimizer alone on another run's weights, gradients and learning rates: the start, then each step."""
        for name, array in steps[0].of(PARAMETER).items():
            self.parameters[name].data.copy_(torch.tensor(array).view_as(self.parameters[name]))
        # the port may have other rates within a group
        groups = self.optimizer.param_groups
        groups[:] = [{**group, "params": [parameter]} for group in groups for parameter in group["params"]]
        yield Step({}, Kept(store(), self._after(), self.kinds))
        for number, step in enumerate(steps[1:], 1):
            gradients = step.of(GIVEN) or step.of(GRADIENT)
            for name, parameter in self.parameters.items():
                grad = gradients.get(name)
                parameter.grad = None if grad is None else torch.tensor(grad).to(parameter.dtype).view_as(parameter)
            for group in self.optimizer.param_groups:
                group["lr"] = step.rates.get(self._names.get(id(group["params"][0]), ""), group["lr"])
            yield self._finish(number, {}, store)

    def _differentiate(self, inputs: Sequence[np.ndarray], labels: np.ndarray) -> dict[Key, np.ndarray]:
        dtype = next((p.dtype for p in self.parameters.values()), torch.float64)
        output = self.module(*(_tensor(array, dtype) for array in inputs))
        loss = self.recipe.loss(output, _tensor(labels, dtype))
        loss.backward()
        found = next(leaves(output, lambda value: isinstance(value, torch.Tensor)))
        return {(OUTPUT, WHOLE[OUTPUT], ""): _array(found), (LOSS, WHOLE[LOSS], ""): _array(loss)}

    def _finish(self, number: int, arrays: dict[Key, np.ndarray], store: Callable[[], Store]) -> Step:
        rates = self._rates()
        self.optimizer.step()
        arrays |= self._state()
        if self.rounded:
            _round(p.data for p in [*self.module.parameters(), *self.module.buffers()])
        if self.ema is not None:
            update_average(self.ema, self.module, number)
        if self.scheduler is not None:
            advance(self.scheduler, number)
        arrays |= self._after()
        self._clear()
        return Step(rates, Kept(store(), arrays, self.kinds))

    def _clear(self) -> None:
        """As a training loop does, and what the optimizer does not hold as well."""
        self.optimizer.zero_grad()
        held = self.given()
        for name, parameter in self.parameters.items():
            if name not in held:
                parameter.grad = None

    def _gradients(self, kind: str) -> dict[Key, np.ndarray]:
        return {(kind, name, ""): _array(p.grad) for name, p in self.parameters.items() if p.grad is not None}

    def _rates(self) -> dict[str, float]:
        groups = self.optimizer.param_groups
        return {self._names[id(p)]: float(g["lr"]) for g in groups for p in g["params"] if id(p) in self._names}

    def _state(self) -> dict[Key, np.ndarray]:
        found = {}
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                name, state = self._names.get(id(parameter)), self.optimizer.state.get(parameter, {})
                if name is None:
                    continue
                for key, value in state.items():
                    if isinstance(value, torch.Tensor) and value.shape == parameter.shape and key != "step":
                        found[STATE, name, ROLES.get(key, key)] = _array(value)
                taken = state.get("step", group.get("step"))
                if taken is not None and "betas" in group:
                    for role, beta in zip((POWER_1, POWER_2), group["betas"]):
                        found[STATE, name, role] = np.array(float(beta) ** int(taken))
        return found

    def _after(self) -> dict[Key, np.ndarray]:
        found: dict[Key, np.ndarray] = {(PARAMETER, name, ""): _array(p) for name, p in self.parameters.items()}
        found |= {(BUFFER, name, ""): _array(b) for name, b in self.module.named_buffers() if b.is_floating_point()}
        if self.ema is not None:
            found |= {(AVERAGE, name, ""): _array(v) for name, v in average(self.ema).items() if v.is_floating_point()}
        return found


def round_settings(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> dict[str, list[float]]:
    """Round hyperparameters to float32, in which the port keeps them; returns the values that were used."""
    used: dict[str, set[float]] = {}
    for group in optimizer.param_groups:
        for name in names:
            value = group.get(name)
            if isinstance(value, float):
                group[name] = float(np.float32(value))
                used.setdefault(name, set()).add(group[name])
            elif isinstance(value, tuple):
                group[name] = tuple(float(np.float32(item)) for item in value)
                used.setdefault(name, set()).update(group[name])
    return {name: sorted(values) for name, values in used.items()}


def average(ema: Any) -> Mapping[str, torch.Tensor]:
    """The averaged weights: of ``ema.module`` (timm's, torch's ``AveragedModel``), else ``ema.state_dict()``."""
    module = getattr(ema, "module", None)
    return (module if isinstance(module, torch.nn.Module) else ema).state_dict()


def _round(tensors: Iterator[torch.Tensor]) -> None:
    for tensor in tensors:
        if tensor.is_floating_point():
            tensor.copy_(tensor.float())


def _tensor(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    tensor = torch.from_numpy(np.array(array))
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().copy()
