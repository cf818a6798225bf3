"""The protocol of a framework in a comparison, implemented by two modules. No framework.

``sides.torch.side`` and ``sides.paddle.side`` list the functions that exist on both sides. Functions of one side only
are not here: the reference computes with Paddle's constants and follows another training, the port is cut at its calls.
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
"""The tensors from which gradients start, and those gradients."""


class Side(Protocol):
    """One framework. A model and a layer are its modules or layers."""

    LABEL: str
    """The name in reports."""
    Model: type
    """The class of its models."""
    FUNCTIONS: ModuleType
    """The namespace of its losses."""

    # --- tensors ------------------------------------------------------------------------------------------------------

    def is_tensor(self, value: object) -> bool:
        """Return whether ``value`` is a tensor of this framework."""
        ...

    def is_trained(self, tensor: Any) -> bool:
        """Return whether a parameter is trained."""
        ...

    def to_numpy(self, tensor: Any) -> np.ndarray:
        """Return the tensor's values, possibly its own memory; bfloat16, which numpy lacks, as float32."""
        ...

    def array_of(self, tensor: Any) -> np.ndarray:
        """Return a copy of the tensor's values; complex numbers as pairs of real ones, bfloat16 as float32."""
        ...

    # --- a model ------------------------------------------------------------------------------------------------------

    def borrow(self, model: Any, mode: str) -> AbstractContextManager[Half]:
        """Put ``model`` into ``mode`` and read it, as ``Half.of`` does; at exit it is returned as it came."""
        ...

    def settings_kept(self) -> AbstractContextManager[None]:
        """Restore the framework's settings at exit that a model's code may change."""
        ...

    def in_type(self, model: Any, dtype: str) -> AbstractContextManager[None]:
        """Replace the tensors of ``model`` by copies in ``dtype`` inside the context."""
        ...

    def own_arrays(self, model: Any) -> Tensors:
        """Return all tensors of ``model``."""
        ...

    def own_tensors(self, layer: Any) -> dict[str, Any]:
        """Return the parameters and buffers that ``layer`` itself holds, by their own names."""
        ...

    def outputs(self, model: Any, inputs: Any) -> dict[str, np.ndarray]:
        """Return the outputs of ``model``, by the keys and positions that lead to each tensor."""
        ...

    def capture(
        self, model: Any, inputs: Any, store: Store | None = None, backward: Callable[[Any], Roots] | None = None,
        beside: Mapping[str, Any] | None = None, failed: Callable[[ModelRaised], None] | None = None,
        guide: Mapping[Key, Record] | None = None,
    ) -> Tape:  # fmt: skip
        """Record the tape of ``model(*inputs)``, in the model's current mode and dtype; hooks are removed again.

        ``inputs`` are one array, a sequence of them, or a mapping by the names of arguments; floating-point ones are
        cast to the dtype of the model's parameters. ``backward`` converts the output to the start of gradients; without
        it nothing is differentiated. Layers ``beside`` the model, by path, are recorded where ``backward`` calls them.
        Gradients of the parameters are cleared before and after. An exception of the model is a ``ModelRaised``; it
        goes to ``failed``, if that is given, and the tape contains the calls that had returned by then. ``guide`` maps
        this run's calls to the records of another run: the store receives the tensor that each output may repeat.
        """
        ...

    # --- where gradients start ----------------------------------------------------------------------------------------

    def in_random_directions(self, output: Any, seed: int) -> Roots:
        """Start at every output that has a gradient, in a random direction."""
        ...

    def at_loss(self, output: Any, loss: Any, labels: Any) -> Roots:
        """Start at ``loss``, a layer, of the model's output. Raises ``LossError`` if it is not one number."""
        ...

    def loss_layer(self, function: Callable[..., Any]) -> Any:
        """Wrap a loss as a layer without sublayers."""
        ...

    # --- a layer ------------------------------------------------------------------------------------------------------

    def describe(self, layer: Any) -> Settings:
        """Return the settings of ``layer``."""
        ...

    def prober(self, layer: Any) -> Probe:
        """Return a function that runs ``layer`` alone."""
        ...
