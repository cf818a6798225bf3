"""What either framework does for a comparison: one protocol, which two modules have. No framework.

``sides.torch.side`` and ``sides.paddle.side`` list the functions of their rooms that are the same on both sides. What
one side alone does is not here: the reference computes with Paddle's constants and follows another training, the port
is run cut at its calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from alignment.engine.records.store import Store
from alignment.engine.records.tape import Key, Record, Tape
from alignment.engine.sides.model import Half, ModelRaised, Tensors
from alignment.engine.sides.probed import Probe
from alignment.engine.sides.settings import Settings

Roots = tuple[list[Any], list[Any]]
"""Tensors from which gradients start, and those gradients."""


class Side(Protocol):
    """One framework. A model is one of its modules or layers, and so is a layer."""

    LABEL: str
    """What reports call it."""
    Model: type
    """The class of its models."""
    FUNCTIONS: ModuleType
    """Where it has its losses by name."""

    # --- tensors ------------------------------------------------------------------------------------------------------

    def is_tensor(self, value: object) -> bool:
        """Whether ``value`` is one of its tensors."""
        ...

    def is_trained(self, tensor: Any) -> bool:
        """Whether a parameter is trained."""
        ...

    def to_numpy(self, tensor: Any) -> np.ndarray:
        """The tensor's numbers, which may be its own memory; bfloat16, which numpy lacks, as float32."""
        ...

    def array_of(self, tensor: Any) -> np.ndarray:
        """A copy of the tensor's numbers; complex ones as pairs of real ones, bfloat16 as float32."""
        ...

    # --- a model ------------------------------------------------------------------------------------------------------

    def borrow(self, model: Any, mode: str) -> AbstractContextManager[Half]:
        """Within it ``model`` is in ``mode`` and read, as ``Half.of`` has it; then it is given back as it came."""
        ...

    def settings_kept(self) -> AbstractContextManager[None]:
        """What a model's code changes of the framework within it is put back."""
        ...

    def in_type(self, model: Any, dtype: str) -> AbstractContextManager[None]:
        """Within it the tensors of ``model`` are copies in ``dtype``."""
        ...

    def own_arrays(self, model: Any) -> Tensors:
        """All tensors of ``model``."""
        ...

    def own_tensors(self, layer: Any) -> dict[str, Any]:
        """The parameters and buffers that ``layer`` itself holds, by their own names."""
        ...

    def outputs(self, model: Any, inputs: Any) -> dict[str, np.ndarray]:
        """What ``model`` returns, by the keys and positions that lead to each tensor."""
        ...

    def capture(
        self, model: Any, inputs: Any, store: Store | None = None, backward: Callable[[Any], Roots] | None = None,
        beside: Mapping[str, Any] | None = None, failed: Callable[[ModelRaised], None] | None = None,
        guide: Mapping[Key, Record] | None = None,
    ) -> Tape:  # fmt: skip
        """The tape of ``model(*inputs)``, in the mode and type that the model is in; hooks are removed again.

        ``inputs`` are one array, a sequence of them, or a mapping by the names of arguments; floating-point ones are
        cast to the type of the model's parameters. ``backward`` turns the output into where gradients start; without it
        nothing is differentiated. Layers ``beside`` the model, by path, are recorded where ``backward`` calls them.
        Gradients of the parameters are cleared before and after. What the model raises is a ``ModelRaised``; it goes to
        ``failed``, where that is given, and the tape holds what had returned by then. ``guide`` are the records of
        another run by the calls of this one: the store learns which of their tensors each output might be again.
        """
        ...

    # --- where gradients start ----------------------------------------------------------------------------------------

    def in_random_directions(self, output: Any, seed: int) -> Roots:
        """At every output that has a gradient, in a random direction."""
        ...

    def at_loss(self, output: Any, loss: Any, labels: Any) -> Roots:
        """At ``loss``, a layer, of what the model returned. Raises ``LossError`` where it is not one number."""
        ...

    def loss_layer(self, function: Callable[..., Any]) -> Any:
        """A loss as a layer without sublayers, whatever it is made of."""
        ...

    # --- a layer ------------------------------------------------------------------------------------------------------

    def describe(self, layer: Any) -> Settings:
        """What ``layer`` is set to do."""
        ...

    def prober(self, layer: Any) -> Probe:
        """Runs ``layer`` alone."""
        ...
