"""What a fault is, and how it is made in a model and taken back. Paddle only."""

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
"""Where among the layers that qualify, in the order of the model: shallow, in between or deep."""
CODE = "code"
"""The kind of a fault in a layer's code: ``computation`` where the layer calls no other, ``wiring`` where it does."""


@dataclass(frozen=True)
class Fault:
    """One mistake: ``change`` is made to the layer that ``among`` chooses ``at`` a depth.

    ``kind`` and ``cause`` (a word that the cause must contain) are what must be reported of it, ``mode`` the mode of
    the comparison that shows it. ``operation`` is one of ``alignment.faults.operations`` that the code of the layer
    must call; ``needs_twin`` that the reference has this layer, too, as where no value shows a setting.
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
        """Whether ``kind`` is what must be reported."""
        return kind == self.kind or (self.kind == CODE and kind in (COMPUTATION, WIRING))

    def applies(self, path: str, layer: nn.Layer, seen: Seen | None) -> bool:
        """Whether it can be made in this layer; ``seen`` is what the model calls."""
        if seen is not None and not seen.calls[id(layer)]:
            return False
        called = not self.operation or (seen is not None and seen.number(layer, self.operation) > 0)
        return called and self.among(path, layer)


@contextmanager
def injected(
    fault: Fault, model: nn.Layer, path: str | None = None, seen: Seen | None = None
) -> Iterator[tuple[str, ...]]:
    """``model`` with the fault in it, at ``path`` or where the fault's rule puts it; yields the layers at fault.

    With ``seen``, of ``operations.seen``, only layers that the model calls are considered, and faults in operations
    apply. The model is in the fault's mode meanwhile, but for what the fault changes of that, and comes back as it
    was. Raises ``NotApplicable``.
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
    """Parameters and buffers, those that are not saved, too."""
    return [value for value in (*model.parameters(), *model.buffers()) if value is not None]


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, (dict, list)) else value
