"""What all optimizers here share: named state, groups, and constants that are not rounded to float32.

Paddle's own optimizers keep state under automatic names (``conv2d_0.w_0_velocity_0``), which count what was built
before in the process, and hand hyperparameters to kernels as float32: 2.6e-8 of momentum 0.9, whatever the type of
the weights. They write weight decay and rate of a group on the parameters, where the next optimizer finds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import paddle
from paddle import Tensor

from paddle_dla.errors import WrongValue
from paddle_dla.optim.groups import ParamGroup


class NamedOptimizer(paddle.optimizer.Optimizer):
    """Parameters and state by the names that they have in the model.

    ``state_dict`` has ``"{parameter}.{slot}"`` for each of ``slots``, and counts of steps; it is complete from the
    beginning. Learning rate and hyperparameters are not in it: they belong to whoever makes the optimizer.

    ``step``, ``clear_grad``, ``get_lr``, ``set_lr`` and Paddle's ``GradScaler`` work as with any optimizer of Paddle's.
    There is no static graph and no ``LRScheduler``: ``set_lr`` before each step, see ``paddle_dla.schedule``.
    """

    slots: tuple[str, ...] = ()

    def __init__(self, groups: Sequence[ParamGroup], lr: float):
        """Raises ``ValueError`` where there is nothing to train, or parameters of another type than float32 and 64."""
        _refuse(groups, lr)
        super().__init__(
            learning_rate=float(lr),
            # their rate is written on the parameters for tools that ask Paddle's way; nothing here reads it
            parameters=[{"params": [*g.parameters.values()], "learning_rate": g.lr_scale} for g in groups],
        )
        self.groups = tuple(groups)
        self.counts: dict[str, int] = {}
        self.state: dict[str, dict[str, Tensor]] = {}
        for name, parameter in self.named_parameters():
            self.state[name] = {slot: paddle.zeros_like(parameter).detach() for slot in self.slots}
            for slot, tensor in self.state[name].items():
                self._accumulators[slot][parameter.name] = tensor  # where tools look for Paddle's
        self._constants: dict[tuple[float, paddle.dtype], Tensor] = {}

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """All that is optimized, by name."""
        for group in self.groups:
            yield from group.parameters.items()

    @paddle.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient; none where the loss scaler found an infinite one."""
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
        """Once in each step, before any update."""

    def update(self, name: str, parameter: Tensor, gradient: Tensor, lr: float, weight_decay: float) -> None:
        """Change ``parameter`` and its state in place; ``lr`` is the parameter's own."""
        raise NotImplementedError

    def clear_grad(self, set_to_zero: bool = False) -> None:
        """Forget all gradients. Paddle's default would leave zeros, which move what has momentum or decay."""
        super().clear_grad(set_to_zero)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs, by name; the tensors are the optimizer's own."""
        return self.state_tensors() | {name: paddle.to_tensor(count) for name, count in self.counts.items()}

    def set_state_dict(self, state_dict: Mapping[str, Tensor | np.ndarray]) -> None:
        """Load what ``state_dict`` returned, tensors or arrays.

        Raises ``ValueError``, and changes nothing, where a name is missing or unknown, or a shape or type differs.
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
        """``value`` in the type of ``like``: a number that is added to a tensor is rounded to float32 by Paddle 2.6."""
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
