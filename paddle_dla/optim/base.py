"""Shared parts of all optimizers here: named state, groups, and constants that are not rounded to float32.

Paddle's own optimizers store state under automatic names (``conv2d_0.w_0_velocity_0``), which depend on what was built
before in the process. They pass hyperparameters to kernels as float32: an error of 2.6e-8 for momentum 0.9, whatever
the type of the weights. They also store weight decay and rate of a group on the parameters, where the next optimizer
finds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import paddle
from paddle import Tensor

from paddle_dla.errors import WrongValue
from paddle_dla.optim.groups import ParamGroup


class NamedOptimizer(paddle.optimizer.Optimizer):
    """An optimizer whose parameters and state have the names of the model's parameters.

    ``state_dict`` has ``"{parameter}.{slot}"`` for each of ``slots``, and step counts; it is complete from the start.
    The learning rate and hyperparameters are not included: they belong to the code that creates the optimizer.

    ``step``, ``clear_grad``, ``get_lr``, ``set_lr`` and Paddle's ``GradScaler`` work as with any optimizer of Paddle.
    Static graphs and ``LRScheduler`` are not supported: call ``set_lr`` before each step, see ``paddle_dla.schedule``.
    """

    slots: tuple[str, ...] = ()

    def __init__(self, groups: Sequence[ParamGroup], lr: float):
        """Raises ``ValueError`` if there is nothing to train, or for parameters that are not float32 or float64."""
        _refuse(groups, lr)
        super().__init__(
            learning_rate=float(lr),
            # the rate is stored on the parameters for tools that read Paddle's attributes; nothing here reads it
            parameters=[{"params": [*g.parameters.values()], "learning_rate": g.lr_scale} for g in groups],
        )
        self.groups = tuple(groups)
        self.counts: dict[str, int] = {}
        self.state: dict[str, dict[str, Tensor]] = {}
        for name, parameter in self.named_parameters():
            self.state[name] = {slot: paddle.zeros_like(parameter).detach() for slot in self.slots}
            for slot, tensor in self.state[name].items():
                self._accumulators[slot][parameter.name] = tensor  # where tools look for Paddle's state
        self._constants: dict[tuple[float, paddle.dtype], Tensor] = {}

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Yield all optimized parameters, by name."""
        for group in self.groups:
            yield from group.parameters.items()

    @paddle.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient; none if the loss scaler found an infinite one."""
        skip = self._get_auxiliary_var("found_inf")
        if skip is not None:
            self._set_auxiliary_var("found_inf", bool(skip))
            if bool(skip):
                return
        self.begin()
        for group in self.groups:
            lr = self.get_lr() * group.lr_scale
            for name, parameter in group.parameters.items():
                if parameter.grad is not None and not parameter.stop_gradient:
                    self.update(name, parameter, parameter.grad, lr, group.weight_decay)

    def begin(self) -> None:
        """Prepare a step; called once before its updates."""

    def update(self, name: str, parameter: Tensor, gradient: Tensor, lr: float, weight_decay: float) -> None:
        """Change ``parameter`` and its state in place; ``lr`` is the parameter's own rate."""
        raise NotImplementedError

    def clear_grad(self, set_to_zero: bool = False) -> None:
        """Clear all gradients. Paddle's default sets them to 0, which still moves parameters with momentum or decay."""
        super().clear_grad(set_to_zero)

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that a resumed run needs, by name; the tensors are not copied."""
        return self.state_tensors() | {name: paddle.to_tensor(count) for name, count in self.counts.items()}

    def set_state_dict(self, state_dict: Mapping[str, Tensor | np.ndarray]) -> None:
        """Load the result of ``state_dict``, tensors or arrays.

        Raises ``ValueError``, and changes nothing, if a name is missing or unknown, or if a shape or type differs.
        """
        own = self.state_tensors()
        given = {name: np.asarray(value) for name, value in state_dict.items()}
        _refuse_state(own, set(self.counts), given)
        for name, tensor in own.items():
            tensor.set_value(given[name])
        self.counts = {name: int(given[name]) for name in self.counts}

    def state_tensors(self) -> dict[str, Tensor]:
        return {f"{name}.{slot}": tensor for name, slots in self.state.items() for slot, tensor in slots.items()}

    def constant(self, value: float, like: Tensor) -> Tensor:
        """Return ``value`` in the type of ``like``: Paddle 2.6 rounds a number that is added to a tensor to float32."""
        key = (value, like.dtype)
        if key not in self._constants:
            self._constants[key] = paddle.full([], value, like.dtype)
        return self._constants[key]


def _refuse(groups: Sequence[ParamGroup], lr: float) -> None:
    names = [name for group in groups for name in group.parameters]
    if not names:
        raise WrongValue("there is nothing to optimize: every parameter of the model is frozen (stop_gradient)")
    if len(names) != len(set(names)):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise WrongValue(f"in more than one group: {', '.join(twice)}")
    if not (np.isfinite(lr) and lr >= 0):
        raise WrongValue(f"the learning rate is finite and not negative, unlike {lr}")
    for group in groups:
        for name, parameter in group.parameters.items():
            if parameter.dtype not in (paddle.float32, paddle.float64):
                raise WrongValue(
                    f"{name} is {parameter.dtype}: weights are kept in float32; use auto_cast for mixed precision"
                )


def _refuse_state(own: Mapping[str, Tensor], counts: set[str], given: Mapping[str, np.ndarray]) -> None:
    wrong = [f"missing: {name}" for name in sorted(own.keys() | counts) if name not in given]
    wrong += [f"unknown: {name}" for name in given if name not in own and name not in counts]
    for name, tensor in own.items():
        found = given.get(name)
        expected = (list(tensor.shape), tensor.numpy().dtype)
        if found is not None and (list(found.shape), found.dtype) != expected:
            wrong.append(f"{name}: {list(found.shape)} {found.dtype} instead of {expected[0]} {expected[1]}")
    if wrong:
        shown = "\n  ".join(wrong[:10]) + (f"\n  and {len(wrong) - 10} more" if len(wrong) > 10 else "")
        raise WrongValue(f"this state is of another model or optimizer:\n  {shown}")
