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
    MEAN,
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
    Run,
    Step,
    advance,
    doing,
    global_norm,
    update_average,
)
from alignment.engine.records.store import Store
from alignment.engine.records.tree import as_call, is_array, mapped, named_leaves

SIDE = "torch"

ROLES = {
    "momentum_buffer": MOMENTUM,
    "exp_avg": FIRST,
    "exp_avg_sq": SECOND,
    "max_exp_avg_sq": LARGEST,
    "square_avg": SECOND,
    "grad_avg": MEAN,
    "sum": SUM,
}
"""What torch's and timm's optimizers call their state. Other tensors keep their own name as their role."""

Batch = tuple[Any, Any]
"""Inputs, as ``as_call`` takes them, and labels: arrays, or lists, tuples and dicts of them."""


@dataclass(frozen=True)
class Recipe:
    """How to train: ``loss(output, labels)``; the others make an object from the module or from the optimizer.

    ``clip(parameters)`` is called between the backward pass and the step, on the parameters that have a gradient.
    """

    loss: Callable[[Any, Any], torch.Tensor]
    optimizer: Callable[[torch.nn.Module], torch.optim.Optimizer]
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None
    ema: Callable[[torch.nn.Module], Any] | None = None
    clip: Callable[[list[torch.nn.Parameter]], Any] | None = None


class Training:
    """One training of ``module``, in the mode and type that it is in.

    ``float32_settings``: the names of hyperparameters that the port keeps in float32, which are rounded here.
    ``kinds``: what is recorded of a step; everything unless it is set.
    """

    def __init__(self, module: torch.nn.Module, recipe: Recipe, float32_settings: Sequence[str] = ()):
        module.zero_grad(set_to_none=True)
        self.module, self.recipe = module, recipe
        self.kinds: frozenset[str] | None = None
        self.parameters = dict(module.named_parameters())
        self.scheduler = self.ema = None
        with doing(SIDE, 0, "making the optimizer"):
            self.optimizer = recipe.optimizer(module)
        self.settings = round_settings(self.optimizer, float32_settings)
        if recipe.scheduler:
            with doing(SIDE, 0, "making the scheduler"):
                self.scheduler = recipe.scheduler(self.optimizer)
        if recipe.ema:
            with doing(SIDE, 0, "making the average"):
                self.ema = recipe.ema(module)
        self.names = {id(parameter): name for name, parameter in self.parameters.items()}

    def given(self) -> frozenset[str]:
        """The parameters that the optimizer holds."""
        held = [p for group in self.optimizer.param_groups for p in group["params"]]
        return frozenset(self.names[id(p)] for p in held if id(p) in self.names)

    def frozen(self) -> frozenset[str]:
        """The parameters that are set not to be trained."""
        return frozenset(name for name, parameter in self.parameters.items() if not parameter.requires_grad)

    def run(self, batches: Sequence[Batch], store: Callable[[], Store]) -> Iterator[Step]:
        """The start, then each step as it was taken; each is kept in what ``store`` returns."""
        yield Step({}, Kept(store(), self.tensors() | self.averages(), self.kinds))
        for number, batch in enumerate(batches, 1):
            arrays = self.differentiate(number, batch)
            arrays |= self.gradients(GRADIENT)
            arrays |= self.clip(number)
            rates = self.rates()
            with doing(SIDE, number, "the optimizer's step"):
                self.optimizer.step()
            arrays |= state(self.optimizer, self.names) | self.tensors()
            arrays |= self.end(number)
            self.clear()
            yield Step(rates, Kept(store(), arrays, self.kinds))

    def differentiate(self, number: int, batch: Batch) -> dict[Key, np.ndarray]:
        """The outputs and the loss of a batch; gradients are left where the backward pass puts them."""
        dtype = next((p.dtype for p in self.parameters.values() if p.is_floating_point()), torch.float64)
        inputs, labels = (mapped(part, is_array, lambda array: _tensor(array, dtype)) for part in batch)
        args, kwargs = as_call(inputs)
        with doing(SIDE, number, "the model"):
            output = self.module(*args, **kwargs)
        with doing(SIDE, number, "the loss"):
            loss = self.recipe.loss(output, labels)
            if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
                raise ValueError(f"it must return one number, not {_described(loss)}")
        with doing(SIDE, number, "the backward pass"):
            loss.backward()
        found = named_leaves(output, lambda value: isinstance(value, torch.Tensor))
        outputs = {(OUTPUT, WHOLE[OUTPUT], path): array_of(tensor) for path, tensor in found}
        return {**outputs, (LOSS, WHOLE[LOSS], ""): array_of(loss).reshape(())}

    def clip(self, number: int) -> dict[Key, np.ndarray]:
        """What the recipe's clip leaves of the gradients, and the norm of what the optimizer is given."""
        kind = GRADIENT
        if self.recipe.clip:
            kind = GIVEN
            with doing(SIDE, number, "the clip"):
                self.recipe.clip([p for p in self.parameters.values() if p.grad is not None])
        arrays = self.gradients(kind)
        norm = {(NORM, WHOLE[NORM], ""): global_norm(arrays, kind)}
        return norm | arrays if kind == GIVEN else norm

    def end(self, number: int) -> dict[Key, np.ndarray]:
        """Average and schedule after a step; the averaged weights."""
        if self.ema is not None:
            with doing(SIDE, number, "the average"):
                update_average(self.ema, self.module, number)
        if self.scheduler is not None:
            with doing(SIDE, number, "the scheduler"):
                advance(self.scheduler, number)
        return self.averages()

    def clear(self) -> None:
        """As a training loop does, and what the optimizer does not hold as well."""
        self.optimizer.zero_grad()
        held = self.given()
        for name, parameter in self.parameters.items():
            if name not in held:
                parameter.grad = None

    def gradients(self, kind: str) -> dict[Key, np.ndarray]:
        """The gradients as they are now."""
        return {(kind, name, ""): array_of(p.grad) for name, p in self.parameters.items() if p.grad is not None}

    def rates(self) -> dict[str, float]:
        """The learning rate of each parameter."""
        groups = self.optimizer.param_groups
        return {self.names[id(p)]: float(g["lr"]) for g in groups for p in g["params"] if id(p) in self.names}

    def tensors(self) -> dict[Key, np.ndarray]:
        """Parameters and buffers as they are now."""
        found: dict[Key, np.ndarray] = {(kind, name, ""): array_of(value) for kind, name, value in own(self.module)}
        return found

    def averages(self) -> dict[Key, np.ndarray]:
        """The averaged weights as they are now."""
        found = average(self.ema).items() if self.ema is not None else ()
        return {(AVERAGE, name, ""): array_of(value) for name, value in found if value.is_floating_point()}


class Follower:
    """The reference beside another run: at each step it starts from the weights and statistics that the other had.

    So every quantity of every step is what the reference makes of the other run's own inputs: outputs, loss, gradients
    and statistics of its weights; the clip of its gradients; state and weights after the step of the gradients that
    its optimizer was given, and of its rates; the average of its weights. Nothing is inherited from earlier steps but
    the state of the optimizer and of the average. The learning rates alone are the reference's own.
    """

    def __init__(self, module: torch.nn.Module, recipe: Recipe, float32_settings: Sequence[str]):
        self.module, self.recipe, self.float32_settings = module, recipe, float32_settings
        self.settings: dict[str, list[float]] = {}
        self.given: frozenset[str] = frozenset()
        self.frozen: frozenset[str] = frozenset()

    def follow(self, other: Run, batches: Sequence[Batch], store: Callable[[], Store]) -> Iterator[Step]:
        """The reference's own start, then each step of ``other``.

        Raises ``ValueError`` where the recipe makes the same optimizer twice.
        """
        start: dict[Key, np.ndarray] = {(kind, name, ""): array_of(value) for kind, name, value in own(self.module)}
        self._take(other.steps[0])
        # it has the schedule, of the rate and of whatever else changes, and the average; it takes no step
        plan = Training(self.module, self.recipe, self.float32_settings)
        with doing(SIDE, 0, "making the optimizer"):
            optimizer = self.recipe.optimizer(self.module)
        if optimizer is plan.optimizer:
            raise ValueError("the callable for torch's optimizer returned the same one twice; it must make a new one")
        _split(optimizer, plan, other)
        self.settings, self.given, self.frozen = plan.settings, plan.given(), plan.frozen()
        yield Step({}, Kept(store(), start | plan.averages()))
        for number, batch in enumerate(batches, 1):
            self._take(other.steps[number - 1])
            yield self._step(number, batch, other.steps[number], plan, optimizer, store)

    def _step(
        self, number: int, batch: Batch, other: Step, plan: Training, optimizer: torch.optim.Optimizer,
        store: Callable[[], Store],
    ) -> Step:  # fmt: skip
        arrays = plan.differentiate(number, batch)
        mine = plan.gradients(GRADIENT)
        arrays |= mine
        self._give(mine, other, other.of(GRADIENT), plan)
        arrays |= plan.clip(number)
        rates = plan.rates()
        self._give(mine, other, other.of(GRADIENT) | other.of(GIVEN), plan)
        _as_planned(optimizer, plan, other.rates)
        round_settings(optimizer, self.float32_settings)
        with doing(SIDE, number, "the optimizer's step"):
            optimizer.step()
        arrays |= state(optimizer, plan.names) | plan.tensors()
        self.module.zero_grad(set_to_none=True)
        plan.optimizer.step()  # of no gradients: a scheduler asks for it
        self._take(other)
        arrays |= plan.end(number)
        return Step(rates, Kept(store(), arrays))

    def _take(self, other: Step) -> None:
        """The other run's weights and statistics, where it has them."""
        for kind, name, tensor in own(self.module):
            array = other.get(kind, name)
            if array is not None and array.size == tensor.numel():
                tensor.data.copy_(torch.tensor(array).view_as(tensor))

    def _give(
        self, mine: Mapping[Key, np.ndarray], other: Step, gradients: Mapping[str, np.ndarray], plan: Training
    ) -> None:
        """The other run's gradients; the reference's own where the other run has no such parameter."""
        for name, parameter in plan.parameters.items():
            paired = (PARAMETER, name, "") in other.arrays
            array = gradients.get(name) if paired else mine.get((GRADIENT, name, ""))
            parameter.grad = None
            if array is not None and parameter.requires_grad:
                parameter.grad = torch.tensor(array).to(parameter.dtype).view_as(parameter)


def _split(optimizer: torch.optim.Optimizer, plan: Training, other: Run) -> None:
    """Give each parameter a group of its own where the other run has several rates within a group."""
    groups = []
    for group in optimizer.param_groups:
        names = [plan.names[id(p)] for p in group["params"] if id(p) in plan.names]
        several = any(len({step.rates[name] for name in names if name in step.rates}) > 1 for step in other.steps)
        groups += [{**group, "params": [p]} for p in group["params"]] if several else [group]
    optimizer.param_groups[:] = groups


def _as_planned(optimizer: torch.optim.Optimizer, plan: Training, rates: Mapping[str, float]) -> None:
    """The other run's rates, and whatever else the reference's schedule has changed (OneCycle: the momentum, too)."""
    of = {id(p): group for group in plan.optimizer.param_groups for p in group["params"]}
    for group in optimizer.param_groups:
        planned = of[id(group["params"][0])]
        group.update({key: planned[key] for key in plan.optimizer.defaults if key in planned})
        theirs = [rates[name] for p in group["params"] if (name := plan.names.get(id(p))) in rates]
        group["lr"] = theirs[0] if theirs else planned["lr"]


def own(module: torch.nn.Module) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Kind, name and value of all parameters, each once, and of all buffers of real numbers."""
    yield from ((PARAMETER, name, value) for name, value in module.named_parameters())
    yield from ((BUFFER, name, value) for name, value in module.named_buffers() if value.is_floating_point())


def state(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[Key, np.ndarray]:
    """What the optimizer keeps of each parameter, whose ``names`` go by their identity."""
    found = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name, kept = names.get(id(parameter)), optimizer.state.get(parameter, {})
            if name is None:
                continue
            for key, value in kept.items():
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape and key != "step":
                    found[STATE, name, ROLES.get(key, key)] = array_of(value)
            taken = kept.get("step", group.get("step"))
            if taken is not None and "betas" in group:
                for role, beta in zip((POWER_1, POWER_2), group["betas"]):
                    found[STATE, name, role] = np.array(float(beta) ** int(taken))
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


def array_of(tensor: torch.Tensor) -> np.ndarray:
    """A copy; complex numbers as pairs of real ones, bfloat16 as float32."""
    tensor = tensor.detach().cpu()
    tensor = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy().copy()


def _tensor(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    tensor = torch.from_numpy(np.array(array))
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _described(value: Any) -> str:
    return f"a tensor of shape {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
