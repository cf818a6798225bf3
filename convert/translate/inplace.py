"""Express operators that change a tensor in place as operators that make a new one. No framework.

A changed tensor gets a new number. If a slice is changed, its base tensor changes too: ``slice_assign`` expresses
``x[:, 1:] = value``. Other views of a changed tensor are stale, and using one is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from convert.translate.plain import Op, Ref, Tensor, open_ended

SLICES = ("slice.Tensor", "select.int")
VIEWS = (
    *SLICES, "view.default", "permute.default", "transpose.int", "unsqueeze.default", "squeeze.dim", "expand.default",
    "unbind.int", "split.Tensor", "split_with_sizes.default", "chunk.default", "t.default",
    "detach.default",
)  # fmt: skip
ASSIGNED = "slice_assign"


@dataclass
class Mutations:
    """Current numbers of changed tensors; ``tensors`` are the program's, to which new ones are added."""

    tensors: dict[int, Tensor]
    now: dict[int, int] = field(default_factory=dict)
    source: dict[int, tuple[int, Op]] = field(default_factory=dict)  # a view -> its base and operator
    stale: set[int] = field(default_factory=set)
    held: dict[int, tuple[Any, int]] = field(default_factory=dict)  # what was last put into a tensor, and where

    def current(self, number: int) -> int:
        """Return the current number of the tensor ``number``."""
        while number in self.now:
            number = self.now[number]
        return number

    def made(self, op: Op) -> None:
        """Record the views that ``op`` made."""
        base = op.args.get("self")
        if op.name in VIEWS and isinstance(base, Ref):
            for output in op.outputs:
                self.source[output] = (base.number, op)
                if _whole(op) and op.name != "detach.default":
                    self.now[output] = base.number

    def changed(self, number: int, new: int) -> list[Op]:
        """Record that ``number`` was changed to ``new``; return the operators that update its base tensors."""
        number = self.current(number)
        if number == new:
            return []
        self.now[number] = new
        for view, (base, _) in self.source.items():
            if self.current(base) == new and view != new and view not in self.now:
                self.stale.add(view)
        if number not in self.source:
            return []
        base, op = self.source[number]
        base = self.current(base)
        if _whole(op):
            return self.changed(base, new)
        if op.name not in SLICES:
            self.stale.add(base)
            return []
        place = _place(op)
        if self.held.get(base) == (place, new):
            self.now[number] = new
            return []
        after = len(self.tensors)
        self.tensors[after] = self.tensors[base]
        self.held[after] = (place, new)
        written = Op(ASSIGNED, {"self": Ref(base), "place": place, "value": Ref(new)}, [after], op.place)
        return [written, *self.changed(base, after)]


def _whole(op: Op) -> bool:
    """Return whether the view covers its whole tensor: ``x[:]``, ``x.detach()``."""
    if op.name == "detach.default":
        return True
    if op.name != "slice.Tensor" or op.args["step"] != 1 or op.args["start"] not in (None, 0):
        return False
    return open_ended(op.args["end"])


def _place(op: Op) -> tuple[Any, ...]:
    if op.name == "select.int":
        return ("select", op.args["dim"], op.args["index"])
    return ("slice", op.args["dim"], op.args["start"], op.args["end"], op.args["step"])
