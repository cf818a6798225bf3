"""Define a fault, inject it into a model and remove it again. Paddle only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from paddle import nn

from alignment.engine.result import COMPUTATION, WIRING
from alignment.faults import changes as do
from alignment.faults import targets as among
from alignment.faults.operations import Seen
from alignment.faults.targets import ROOT, NotApplicable, Target

FIRST, MIDDLE, LAST = 0.0, 0.5, 1.0
"""The position among the matching layers, in the order of the model: shallow, in between or deep."""
CODE = "code"
"""The kind of a fault in a layer's code: ``computation`` if the layer calls no other, else ``wiring``."""


@dataclass(frozen=True)
class Fault:
    """One mistake: ``change`` is made to the layer that ``among`` selects ``at`` a depth.

    ``kind`` and ``cause`` (a word that the cause must contain) must be reported; ``mode`` is the mode of the comparison
    that shows the fault. ``operation`` is one of ``alignment.faults.operations`` that the code of the layer must call.
    ``needs_twin``: the reference must have this layer, too, as for a setting that no value shows.
    """

    name: str
    description: str
    among: among.Among
    at: float
    change: do.Change
    kind: str
    cause: str
    mode: str = "eval"
    operation: str = ""
    needs_twin: bool = False

    def is_kind(self, kind: str) -> bool:
        """Return whether ``kind`` is the kind to be reported."""
        return kind == self.kind or (self.kind == CODE and kind in (COMPUTATION, WIRING))

    def applies(self, path: str, layer: nn.Layer, seen: Seen | None) -> bool:
        """Return whether the fault can be made in this layer; ``seen`` are the calls of the model."""
        if seen is not None and not seen.calls[id(layer)]:
            return False
        called = not self.operation or (seen is not None and seen.number(layer, self.operation) > 0)
        return called and self.among(path, layer)


@contextmanager
def injected(
    fault: Fault, model: nn.Layer, path: str | None = None, seen: Seen | None = None
) -> Iterator[tuple[str, ...]]:
    """Inject the fault into ``model``, at ``path`` or by the fault's rule; yield the layers at fault.

    With ``seen``, from ``operations.seen``, only layers that the model calls are considered, and faults in operations
    apply. Inside the context the model is in the fault's mode, except where the fault changes it; at exit it is
    restored. Raises ``NotApplicable``.
    """
    chosen = [
        (name or ROOT, layer)
        for name, layer in model.named_sublayers(include_self=True)
        if (path is None and fault.applies(name or ROOT, layer, seen)) or (name or ROOT) == path
    ]
    if not chosen:
        raise NotApplicable("no such layer")
    name, layer = chosen[round(fault.at * (len(chosen) - 1))]
    target = Target(model, name, layer, seen)
    with _restored(model):
        model.train() if fault.mode == "train" else model.eval()
        more = fault.change(target)
        yield tuple(more) if more else (target.path,)


@contextmanager
def _restored(model: nn.Layer) -> Iterator[None]:
    layers = model.sublayers(include_self=True)
    attributes = [{k: _copied(v) for k, v in layer.__dict__.items()} for layer in layers]
    values = [(value, value.numpy().copy(), value.stop_gradient) for value in _values(model)]
    try:
        yield
    finally:
        for layer, kept in zip(layers, attributes):
            layer.__dict__.clear()
            layer.__dict__.update(kept)
        for value, array, stop in values:
            value.set_value(array)
            value.stop_gradient = stop


def _values(model: nn.Layer) -> list[Any]:
    """Return parameters and buffers, including those that are not saved."""
    return [value for value in (*model.parameters(), *model.buffers()) if value is not None]


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, (dict, list)) else value
