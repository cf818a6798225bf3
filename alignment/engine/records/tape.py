"""The ordered record of one run of a model: every layer's inputs, outputs and gradients. No framework.

Arrays are in a ``Store``; a record holds handles (``Ref``) in the structure in which the layer was called.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from alignment.engine.records.store import Ref, Store
from alignment.engine.records.tree import leaves

ROOT = "(model)"
"""The path of the model itself among the layers."""

Key = tuple[str, int]


@dataclass
class Slot:
    """The place of a gradient, filled by the backward pass; ``None`` if it never arrives."""

    ref: Ref | None = None


@dataclass
class Record:
    """One call of one layer.

    ``path`` is the layer's name in its model (``level2.tree1.conv1``; ``ROOT`` for the model), ``call`` counts its
    calls from 0, ``leaf`` distinguishes a layer without sublayers from a container, ``parent`` is the call around this
    one. ``args``, ``kwargs`` and ``outputs`` are the structures that were passed, with tensors replaced by ``Ref``.
    ``input_grads`` belong to the tensors of ``args`` and ``kwargs`` in order, and contain this call's share only.
    ``output_grads`` belong to the tensors of ``outputs`` and are complete. ``outer_grads`` contain the part that comes
    from outside, which differs where a layer computes one of its outputs from another.
    """

    path: str
    kind: str
    call: int
    leaf: bool
    parent: Key | None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Any = None
    input_grads: list[Slot | None] = field(default_factory=list)
    output_grads: list[Slot | None] = field(default_factory=list)
    outer_grads: list[Slot | None] = field(default_factory=list)

    @property
    def key(self) -> Key:
        """The key of the record within its run."""
        return self.path, self.call

    def seeds(self) -> list[Slot | None]:
        """The gradients with which the backward pass of this call alone starts."""
        outer = self.outer_grads or self.output_grads
        return [part if part and part.ref else whole for part, whole in zip(outer, self.output_grads)]

    def input_refs(self) -> list[Ref]:
        """Return the handles of the input tensors, in order."""
        return [*leaves((self.args, dict(self.kwargs)), is_ref)]

    def output_refs(self) -> list[Ref]:
        """Return the handles of the output tensors, in order."""
        return [*leaves(self.outputs, is_ref)]


def is_ref(value: object) -> bool:
    """Return whether ``value`` is a handle."""
    return isinstance(value, Ref)


@dataclass
class Tape:
    """Records in the order in which the calls returned: children before their container.

    ``layers`` are the kinds of all layers by path, called or not. ``param_grads`` and ``buffers`` are by name, after
    the run.
    """

    layers: Mapping[str, str]
    store: Store
    records: list[Record] = field(default_factory=list)
    param_grads: dict[str, Ref] = field(default_factory=dict)
    buffers: dict[str, Ref] = field(default_factory=dict)
    _calls: Counter[str] = field(default_factory=Counter, repr=False)

    def next_call(self, path: str) -> int:
        """Return the number of the call of ``path`` that begins now."""
        self._calls[path] += 1
        return self._calls[path] - 1

    def get(self, ref: Ref) -> np.ndarray:
        """Return the array of a handle."""
        return self.store.get(ref)

    def outputs(self, record: Record) -> list[np.ndarray]:
        """Return the arrays that a call returned."""
        return [self.get(ref) for ref in record.output_refs()]

    def by_key(self) -> dict[Key, Record]:
        """Return the records by ``(path, call)``."""
        return {record.key: record for record in self.records}

    def children(self) -> dict[Key, list[Record]]:
        """Return the calls made within each call, in the order in which they returned."""
        found: dict[Key, list[Record]] = defaultdict(list)
        for record in self.records:
            if record.parent is not None:
                found[record.parent].append(record)
        return found

    def begun(self) -> list[Key]:
        """Return the calls in the order in which they began: a container before the calls inside it."""
        inside, returned = self.children(), {record.key for record in self.records}
        # after an exception the containers around it have no record
        waiting = [record for record in reversed(self.records) if record.parent not in returned]
        order = []
        while waiting:
            record = waiting.pop()
            order.append(record.key)
            waiting += reversed(inside[record.key])
        return order

    def own(self, record: Record, calls: list[Record]) -> tuple[list[Ref], list[Slot | None]]:
        """Return what a layer with weights and inner layers computes itself: the input of the first inner layer.

        ``calls`` are those made within it. Such a layer is a normalisation with its activation inside; its twin may be
        the normalisation alone. Without inner calls these are the layer's outputs.
        """
        if not calls:
            return record.output_refs(), record.seeds()
        first = calls[0]
        return first.input_refs(), first.input_grads

    def within(self, record: Record, calls: Container[Key], partial: Container[str]) -> list[Record]:
        """Return the calls among ``calls`` that a container's own code makes, at any depth, none inside another.

        A ``partial`` layer appears with what it computes itself, and the calls within it appear next to it.
        """
        inside, found = self.children(), []

        def visit(outer: Record) -> None:
            for call in inside[outer.key]:
                if call.key not in calls:
                    visit(call)
                elif call.path in partial and inside[call.key]:
                    refs, grads = self.own(call, inside[call.key])
                    outputs = refs[0] if len(refs) == 1 else tuple(refs)
                    found.append(replace(call, outputs=outputs, output_grads=grads, outer_grads=[]))
                    visit(call)
                else:
                    found.append(call)

        visit(record)
        return found

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)
