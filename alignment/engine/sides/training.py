"""The framework-independent part of a recorded training, step by step. No framework.

``TorchTraining`` and ``PaddleTraining`` define how their framework makes an optimizer, clips, steps and keeps its
state.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from alignment.engine.records.run import (
    AVERAGE,
    GIVEN,
    GRADIENT,
    LOSS,
    NORM,
    OUTPUT,
    WHOLE,
    Kept,
    Key,
    Step,
    advance,
    doing,
    global_norm,
    update_average,
)
from alignment.engine.records.store import Store
from alignment.engine.records.tree import as_call, is_array, mapped, named_leaves

Batch = tuple[Any, Any]
"""Inputs, as ``as_call`` takes them, and labels: arrays, or lists, tuples and dicts of them."""


@dataclass(frozen=True)
class Recipe:
    """The recipe of one framework: ``loss(output, labels)``; the others make an object from the model.

    ``scheduler`` makes it from the optimizer; if it is left out in Paddle, the optimizer's ``LRScheduler`` is used, if
    its learning rate is one. ``clip(parameters)`` is called between the backward pass and the step, on the parameters
    that have a gradient, before any clip of the optimizer itself.
    """

    loss: Callable[[Any, Any], Any]
    optimizer: Callable[[Any], Any]
    scheduler: Callable[[Any], Any] | None = None
    ema: Callable[[Any], Any] | None = None
    clip: Callable[[list[Any]], Any] | None = None


class Training(ABC):
    """One training of ``model``, in its current mode and dtype.

    ``kinds``: the recorded quantities of a step; everything unless it is set.
    """

    label: ClassVar[str]
    model_class: ClassVar[type]
    tensor_class: ClassVar[type]

    def __init__(self, model: Any, recipe: Recipe):
        self.model, self.recipe = model, recipe
        self.kinds: frozenset[str] | None = None
        self.ema: Any = None
        with doing(self.label, 0, "making the optimizer"):
            self.optimizer = self.make_optimizer()
        with doing(self.label, 0, "making the scheduler"):
            self.scheduler = self.make_scheduler()
        if recipe.ema:
            with doing(self.label, 0, "making the average"):
                self.ema = recipe.ema(model)

    # --- what a framework says ----------------------------------------------------------------------------------------

    @abstractmethod
    def make_optimizer(self) -> Any:
        """Return the recipe's optimizer."""

    @abstractmethod
    def make_scheduler(self) -> Any:
        """Return the learning rate scheduler, or ``None``."""

    @abstractmethod
    def cast(self, array: np.ndarray) -> Any:
        """Return a tensor, in the dtype of the model if it is floating point."""

    @staticmethod
    @abstractmethod
    def array_of(tensor: Any) -> np.ndarray:
        """Return a copy of a tensor; complex numbers as pairs of real ones, bfloat16 as float32."""

    @abstractmethod
    def trained(self) -> Mapping[str, Any]:
        """Return the tensors that may have a gradient, by name."""

    @abstractmethod
    def tensors(self) -> dict[Key, np.ndarray]:
        """Return the current parameters and buffers."""

    @abstractmethod
    def is_averaged(self, name: str, value: Any) -> bool:
        """Return whether a tensor of the average is recorded."""

    @abstractmethod
    def rates(self) -> dict[str, float]:
        """Return the learning rate of each parameter."""

    @abstractmethod
    def update(self, number: int) -> dict[Key, np.ndarray]:
        """Clip and step; return the clipped gradients that the optimizer received, if there is a clip."""

    @abstractmethod
    def state(self, rates: Mapping[str, float]) -> dict[Key, np.ndarray]:
        """Return the optimizer's state of each parameter."""

    @abstractmethod
    def clear(self) -> None:
        """Clear all gradients, as a training loop does, including those that the optimizer does not hold."""

    def as_reference(self, arrays: dict[Key, np.ndarray]) -> dict[Key, np.ndarray]:
        """Rename arrays from this side's names to the reference's."""
        return arrays

    def rates_as_reference(self, rates: dict[str, float]) -> dict[str, float]:
        """Rename learning rates from this side's names to the reference's."""
        return rates

    # --- the training -------------------------------------------------------------------------------------------------

    def run(self, batches: Sequence[Batch], store: Callable[[], Store]) -> Iterator[Step]:
        """Yield the start, then each step as it was taken; each is stored in a new ``store()``."""
        yield Step({}, Kept(store(), self.as_reference(self.tensors() | self.averages()), self.kinds))
        for number, batch in enumerate(batches, 1):
            whole, arrays = self.differentiate(number, batch), self.gradients(GRADIENT)
            rates = self.rates()
            arrays |= (given := self.update(number))
            whole[NORM, WHOLE[NORM], ""] = global_norm(arrays, GIVEN if given else GRADIENT)
            arrays |= self.state(rates) | self.tensors()
            self.end(number)
            arrays |= self.averages()
            self.clear()
            yield Step(self.rates_as_reference(rates), Kept(store(), whole | self.as_reference(arrays), self.kinds))

    def differentiate(self, number: int, batch: Batch) -> dict[Key, np.ndarray]:
        """Return the outputs and the loss of a batch; the gradients stay on the tensors."""
        inputs, labels = (mapped(part, is_array, self.cast) for part in batch)
        args, kwargs = as_call(inputs)
        with doing(self.label, number, "the model"):
            output = self.model(*args, **kwargs)
        with doing(self.label, number, "the loss"):
            loss = self.recipe.loss(output, labels)
            if not self._is_tensor(loss) or math.prod(loss.shape) != 1:
                raise ValueError(f"it must return one number, not {self._described(loss)}")
        with doing(self.label, number, "the backward pass"):
            loss.backward()
        found = named_leaves(output, self._is_tensor)
        outputs = {(OUTPUT, WHOLE[OUTPUT], path): self.array_of(tensor) for path, tensor in found}
        return {**outputs, (LOSS, WHOLE[LOSS], ""): self.array_of(loss).reshape(())}

    def gradients(self, kind: str) -> dict[Key, np.ndarray]:
        """Return the current gradients."""
        found = self.trained().items()
        return {(kind, name, ""): self.array_of(value.grad) for name, value in found if value.grad is not None}

    def clip(self, number: int, advice: str = "") -> dict[Key, np.ndarray]:
        """Clip the gradients by the recipe and return them; nothing if there is no clip."""
        if not self.recipe.clip:
            return {}
        with doing(self.label, number, "the clip", advice):
            self.recipe.clip([parameter for parameter in self.model.parameters() if parameter.grad is not None])
        return self.gradients(GIVEN)

    def end(self, number: int) -> None:
        """Update the average and the schedule after a step."""
        if self.ema is not None:
            with doing(self.label, number, "the average"):
                update_average(self.ema, self.model, number)
        if self.scheduler is not None:
            with doing(self.label, number, "the scheduler"):
                advance(self.scheduler, number)

    def averages(self) -> dict[Key, np.ndarray]:
        """Return the current averaged weights: of ``ema.module``, else ``ema.state_dict()``."""
        if self.ema is None:
            return {}
        module = getattr(self.ema, "module", self.ema)
        found = (module if isinstance(module, self.model_class) else self.ema).state_dict().items()
        return {(AVERAGE, name, ""): self.array_of(value) for name, value in found if self.is_averaged(name, value)}

    def _is_tensor(self, value: object) -> bool:
        return isinstance(value, self.tensor_class)

    def _described(self, value: Any) -> str:
        return f"a tensor of shape {list(value.shape)}" if self._is_tensor(value) else type(value).__name__
