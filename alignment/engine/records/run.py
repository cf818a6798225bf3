"""A recorded training, step by step, in terms that both frameworks share. No framework."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alignment.engine.records.store import Store

RATE, OUTPUT, LOSS, GRADIENT = "learning rate", "output", "loss", "gradient"
GIVEN, NORM, STATE = "clipped gradient", "gradient norm", "optimizer state"
PARAMETER, BUFFER, AVERAGE = "parameter", "buffer", "averaged weight"
KINDS = (RATE, OUTPUT, LOSS, GRADIENT, GIVEN, NORM, STATE, PARAMETER, BUFFER, AVERAGE)
"""The compared quantities of a step, in the order in which each determines the next."""

MOMENTUM, FIRST, SECOND, LARGEST = "momentum", "first moment", "second moment", "largest second moment"
SUM, MEAN, POWER_1, POWER_2 = "sum of squares", "mean gradient", "beta1 power", "beta2 power"
"""Roles of optimizer state, independent of the framework. State of no known role keeps its own name."""

MOMENTS = {MOMENTUM, FIRST, SECOND, LARGEST, SUM}
"""The roles that define an optimizer."""

WHOLE = {RATE: "(schedule)", OUTPUT: "(model)", LOSS: "(loss)", NORM: "(model)"}
"""The name of a quantity that belongs to the whole model."""

Key = tuple[str, str, str]
"""Kind, name and role of one quantity of a step."""


class Kept(Mapping[Key, np.ndarray]):
    """Arrays by key, of the given ``kinds`` or all, in a store that spills to a file."""

    def __init__(self, store: Store, arrays: Mapping[Key, np.ndarray], kinds: frozenset[str] | None = None):
        self._store = store
        kept = {key: array for key, array in arrays.items() if kinds is None or key[0] in kinds}
        self._refs = {key: store.put(np.asarray(array)) for key, array in kept.items()}

    def __getitem__(self, key: Key) -> np.ndarray:
        return self._store.get(self._refs[key])

    def __iter__(self) -> Iterator[Key]:
        return iter(self._refs)

    def __len__(self) -> int:
        return len(self._refs)


@dataclass
class Step:
    """One step of training. ``rates`` by parameter; ``arrays`` everything else, by kind, name and role.

    Names are the reference's. ``gradient`` is the result of the backward pass, ``clipped gradient`` the optimizer's
    input. State, parameters, buffers and averaged weights are those after the step.
    """

    rates: Mapping[str, float]
    arrays: Mapping[Key, np.ndarray]

    def of(self, kind: str, role: str = "") -> dict[str, np.ndarray]:
        """Return the arrays of one kind and role, by name."""
        return {key[1]: self.arrays[key] for key in self.arrays if key[0] == kind and key[2] == role}

    def get(self, kind: str, name: str, role: str = "") -> np.ndarray | None:
        """Return one array, or ``None`` if there is none."""
        return self.arrays.get((kind, name, role))

    def roles(self, name: str) -> set[str]:
        """Return the roles of the optimizer's state of a parameter."""
        return {role for kind, owner, role in self.arrays if kind == STATE and owner == name}

    @property
    def loss(self) -> float:
        """The loss before the step."""
        return float(self.arrays[LOSS, WHOLE[LOSS], ""])


@dataclass
class Run:
    """A whole training: ``steps[0]`` holds the weights and statistics at the start, ``steps[k]`` step k.

    ``frozen``: parameters that are not trained; ``given``: the optimizer's parameters; ``labels``: those of each step,
    unchanged.
    """

    steps: list[Step]
    given: frozenset[str] = frozenset()
    frozen: frozenset[str] = frozenset()
    labels: list[Any] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.steps) - 1


class StepError(RuntimeError):
    """An exception of a model or a callable of a recipe, its ``__cause__``; ``step`` 0 is before the first."""

    def __init__(self, side: str, step: int, part: str, error: Exception, advice: str = ""):
        when = f"step {step}" if step else "before the first step"
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        super().__init__(f"{side}, {when}, {part}: {what}{advice}")
        self.side, self.step, self.part = side, step, part


@contextmanager
def doing(side: str, step: int, part: str, advice: str = "") -> Iterator[None]:
    """Convert an exception in the context to a ``StepError`` with its place; ``advice`` follows the message."""
    try:
        yield
    except StepError:
        raise
    except Exception as error:
        raise StepError(side, step, part, error, advice) from error


def advance(scheduler: Any, number: int) -> None:
    """Advance the scheduler after update ``number`` (from 1): by ``step_update`` as timm's loop, else by ``step``."""
    if hasattr(scheduler, "step_update"):
        scheduler.step_update(num_updates=number)
    else:
        scheduler.step()


def update_average(ema: Any, model: Any, number: int) -> None:
    """Update the average after update ``number``.

    Calls ``update(model, step=number)`` as timm's loop does, or ``update(model)``, or torch's method.
    """
    update = ema.update if hasattr(ema, "update") else ema.update_parameters
    update(model, **({"step": number} if "step" in inspect.signature(update).parameters else {}))


def global_norm(arrays: Mapping[Key, np.ndarray], kind: str) -> np.ndarray:
    """Return the norm over all gradients of one kind."""
    return np.sqrt(np.array(sum(float(np.vdot(a, a)) for key, a in arrays.items() if key[0] == kind)))
