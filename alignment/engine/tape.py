"""The ordered record of one run of a model: what every layer returned, as arrays of its own. No framework."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

ROOT = "(model)"
"""How the model itself is called in a path of layers."""


@dataclass(frozen=True)
class Record:
    """One call of one layer.

    ``path`` is the layer's name in its model (``level2.tree1.conv1``; ``ROOT`` for the model), ``call`` counts its
    calls from 0, ``depth`` is how deep the call was nested, ``outputs`` are the arrays it returned, nested ones in
    order. ``leaf`` tells a layer without sublayers from a container.
    """

    path: str
    kind: str
    call: int
    leaf: bool
    outputs: tuple[np.ndarray, ...]

    @property
    def key(self) -> tuple[str, int]:
        """What identifies the record within its run."""
        return self.path, self.call


@dataclass
class Tape:
    """Records in the order in which the calls returned: children before their container.

    ``layers`` are the kinds of all layers by path, called or not.
    """

    layers: Mapping[str, str]
    records: list[Record] = field(default_factory=list)
    _calls: Counter[str] = field(default_factory=Counter, repr=False)

    def add(self, path: str, kind: str, leaf: bool, outputs: Sequence[np.ndarray]) -> None:
        """Append a call of ``path``."""
        self.records.append(Record(path, kind, self._calls[path], leaf, tuple(outputs)))
        self._calls[path] += 1

    def by_key(self) -> dict[tuple[str, int], Record]:
        """The records by ``(path, call)``."""
        return {record.key: record for record in self.records}

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)


def leaves(value: object, is_tensor: type) -> Iterator[object]:
    """The tensors in nested lists, tuples and dicts, in order; everything else is passed over."""
    if isinstance(value, is_tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from leaves(item, is_tensor)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves(item, is_tensor)
