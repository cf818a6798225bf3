"""Train a torch module step by step and record what every step did. torch only."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from alignment.engine.records.run import (
    BUFFER,
    FIRST,
    GIVEN,
    GRADIENT,
    LARGEST,
    MEAN,
    MOMENTUM,
    NORM,
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
    doing,
    global_norm,
)
from alignment.engine.records.store import Store
from alignment.engine.records.tree import as_call, is_array, mapped, named_leaves
from alignment.engine.sides.torch.arrays import array_of, is_tensor
from alignment.engine.sides.torch.borrow import made_in
from alignment.engine.sides.training import Batch, Recipe, Training

LABEL: str = "torch"

ROLES = {
    "momentum_buffer": MOMENTUM,
    "exp_avg": FIRST,
    "exp_avg_sq": SECOND,
    "max_exp_avg_sq": LARGEST,
    "square_avg": SECOND,
    "grad_avg": MEAN,
    "sum": SUM,
}
"""The names of optimizer state in torch and timm. Other tensors keep their own name as their role."""


class TorchTraining(Training):
    """One training of ``module``; ``float32_settings`` are hyperparameters that the port keeps in float32."""

    label, model_class, tensor_class = LABEL, torch.nn.Module, torch.Tensor
    array_of = staticmethod(array_of)

    def __init__(self, module: torch.nn.Module, recipe: Recipe, float32_settings: Sequence[str] = ()):
        module.zero_grad(set_to_none=True)
        self.parameters = dict(module.named_parameters())
        self.names = {id(parameter): name for name, parameter in self.parameters.items()}
        self.float32_settings = float32_settings
        self.settings: dict[str, list[float]] = {}
        super().__init__(module, recipe)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Return the recipe's optimizer, with hyperparameters rounded as the port's."""
        optimizer = self.recipe.optimizer(self.model)
        self.settings = round_settings(optimizer, self.float32_settings)
        return optimizer

    def make_scheduler(self) -> Any:
        """Return the recipe's scheduler, if it has one."""
        return self.recipe.scheduler(self.optimizer) if self.recipe.scheduler else None

    def cast(self, array: np.ndarray) -> torch.Tensor:
        """Return a tensor, in the dtype of the module if it is floating point."""
        return _tensor(array, self.model)

    def given(self) -> frozenset[str]:
        """Return the parameters that the optimizer holds."""
        held = [p for group in self.optimizer.param_groups for p in group["params"]]
        return frozenset(self.names[id(p)] for p in held if id(p) in self.names)

    def frozen(self) -> frozenset[str]:
        """Return the parameters that are set not to be trained."""
        return frozenset(name for name, parameter in self.parameters.items() if not parameter.requires_grad)

    def trained(self) -> Mapping[str, torch.Tensor]:
        """Return all parameters; frozen ones have no gradient."""
        return self.parameters

    def tensors(self) -> dict[Key, np.ndarray]:
        """Return the current parameters and buffers."""
        return {(kind, name, ""): array_of(value) for kind, name, value in own(self.model)}

    def is_averaged(self, name: str, value: torch.Tensor) -> bool:
        """Return whether a value is a number that can be averaged."""
        return value.is_floating_point()

    def rates(self) -> dict[str, float]:
        """Return the learning rate of each parameter."""
        groups = self.optimizer.param_groups
        return {self.names[id(p)]: float(g["lr"]) for g in groups for p in g["params"] if id(p) in self.names}

    def update(self, number: int) -> dict[Key, np.ndarray]:
        """Run the recipe's clip and the optimizer's step."""
        given = self.clip(number)
        with doing(LABEL, number, "the optimizer's step"):
            self.optimizer.step()
        return given

    def state(self, rates: Mapping[str, float]) -> dict[Key, np.ndarray]:
        """Return the optimizer's state of each parameter."""
        return state(self.optimizer, self.names)

    def clear(self) -> None:
        """Clear gradients as a training loop does, including those that the optimizer does not hold."""
        self.optimizer.zero_grad()
        held = self.given()
        for name, parameter in self.parameters.items():
            if name not in held:
                parameter.grad = None


class Follower:
    """The reference following another run: at each step it starts from the other run's weights and statistics.

    Every quantity of every step is therefore the reference's result for the other run's inputs: outputs, loss,
    gradients and statistics of its weights; the clip of its gradients; state and weights after the step with the
    gradients and rates of its optimizer; the average of its weights. Only the state of the optimizer and of the average
    carries over from earlier steps. The learning rates are the reference's own.
    """

    def __init__(self, module: torch.nn.Module, recipe: Recipe, float32_settings: Sequence[str]):
        self.module, self.recipe, self.float32_settings = module, recipe, float32_settings
        self.settings: dict[str, list[float]] = {}
        self.given: frozenset[str] = frozenset()
        self.frozen: frozenset[str] = frozenset()

    def follow(self, other: Run, batches: Sequence[Batch], store: Callable[[], Store]) -> Generator[Step, None, None]:
        """Yield the reference's own start, then each step of ``other``.

        Raises ``ValueError`` where the recipe makes the same optimizer twice.
        """
        start: dict[Key, np.ndarray] = {(kind, name, ""): array_of(value) for kind, name, value in own(self.module)}
        self._take(other.steps[0])
        # holds the schedule of the rate and other values, and the average; it takes no step
        plan = TorchTraining(self.module, self.recipe, self.float32_settings)
        with doing(LABEL, 0, "making the optimizer"):
            optimizer = self.recipe.optimizer(self.module)
        if optimizer is plan.optimizer:
            raise ValueError("torch's callable for the optimizer returned the same object twice; make a new one")
        _split(optimizer, plan, other)
        self.settings, self.given, self.frozen = plan.settings, plan.given(), plan.frozen()
        yield Step({}, Kept(store(), start | plan.averages()))
        for number, batch in enumerate(batches, 1):
            self._take(other.steps[number - 1])
            yield self._step(number, batch, other.steps[number], plan, optimizer, store)

    def _step(
        self, number: int, batch: Batch, other: Step, plan: TorchTraining, optimizer: torch.optim.Optimizer,
        store: Callable[[], Store],
    ) -> Step:  # fmt: skip
        arrays = plan.differentiate(number, batch)
        mine = plan.gradients(GRADIENT)
        arrays |= mine
        self._give(mine, other, other.of(GRADIENT), plan)
        given = plan.clip(number)
        # parameters that both runs have
        shared = {key: array for key, array in (mine | given).items() if (PARAMETER, key[1], "") in other.arrays}
        arrays[NORM, WHOLE[NORM], ""] = global_norm(shared, GIVEN if self.recipe.clip else GRADIENT)
        arrays |= given
        rates = plan.rates()
        self._give(mine, other, other.of(GRADIENT) | other.of(GIVEN), plan)
        _as_planned(optimizer, plan, other.rates)
        round_settings(optimizer, self.float32_settings)
        # an optimizer's own scalars matter too: the product of momenta of NAdam depends on the dtype
        with doing(LABEL, number, "the optimizer's step"), made_in("float64"):
            optimizer.step()
        arrays |= state(optimizer, plan.names) | plan.tensors()
        self.module.zero_grad(set_to_none=True)
        plan.optimizer.step()  # without gradients; a scheduler requires it
        self._take(other)
        plan.end(number)
        arrays |= plan.averages()
        return Step(rates, Kept(store(), arrays))

    def _take(self, other: Step) -> None:
        """Load the other run's weights and statistics, if it has them."""
        for kind, name, tensor in own(self.module):
            array = other.get(kind, name)
            if array is not None and array.size == tensor.numel():
                tensor.data.copy_(torch.tensor(array).view_as(tensor))

    def _give(
        self, mine: Mapping[Key, np.ndarray], other: Step, gradients: Mapping[str, np.ndarray], plan: TorchTraining
    ) -> None:
        """Set the other run's gradients; the reference's own if the other run lacks the parameter."""
        for name, parameter in plan.parameters.items():
            paired = (PARAMETER, name, "") in other.arrays
            array = gradients.get(name) if paired else mine.get((GRADIENT, name, ""))
            parameter.grad = None
            if array is not None and parameter.requires_grad:
                parameter.grad = torch.tensor(array).to(parameter.dtype).view_as(parameter)


def _split(optimizer: torch.optim.Optimizer, plan: TorchTraining, other: Run) -> None:
    """Give each parameter its own group if the other run has several rates within a group."""
    groups = []
    for group in optimizer.param_groups:
        names = [plan.names[id(p)] for p in group["params"] if id(p) in plan.names]
        several = any(len({step.rates[name] for name in names if name in step.rates}) > 1 for step in other.steps)
        groups += [{**group, "params": [p]} for p in group["params"]] if several else [group]
    optimizer.param_groups[:] = groups


def _as_planned(optimizer: torch.optim.Optimizer, plan: TorchTraining, rates: Mapping[str, float]) -> None:
    """Set the other run's rates, and whatever else the reference's schedule changes (OneCycle: the momentum)."""
    of = {id(p): group for group in plan.optimizer.param_groups for p in group["params"]}
    for group in optimizer.param_groups:
        planned = of[id(group["params"][0])]
        group.update({key: planned[key] for key in plan.optimizer.defaults if key in planned})
        names = [plan.names[id(p)] for p in group["params"] if id(p) in plan.names]
        theirs = [rates[name] for name in names if name in rates]
        group["lr"] = theirs[0] if theirs else planned["lr"]


def own(module: torch.nn.Module) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Yield kind, name and value of all parameters, each once, and of all buffers of real numbers."""
    yield from ((PARAMETER, name, value) for name, value in module.named_parameters())
    yield from ((BUFFER, name, value) for name, value in module.named_buffers() if value.is_floating_point())


def outputs(model: torch.nn.Module, inputs: Any) -> dict[str, np.ndarray]:
    """Return the outputs of ``model``, by the keys and positions that lead to each tensor."""
    args, kwargs = as_call(mapped(inputs, is_array, lambda array: _tensor(array, model)))
    with doing(LABEL, 1, "the model"), torch.no_grad():
        output = model(*args, **kwargs)
    return {path: array_of(value) for path, value in named_leaves(output, is_tensor)}


def state(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[Key, np.ndarray]:
    """Return the optimizer's state of each parameter; ``names`` maps their ids to names."""
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
    """Round hyperparameters to float32, as the port keeps them; return the values used."""
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


def _tensor(array: np.ndarray, module: torch.nn.Module) -> torch.Tensor:
    tensor = torch.from_numpy(np.array(array))
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float64)
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
