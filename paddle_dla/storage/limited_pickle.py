"""An unpickler for files of arrays: few opcodes, bounded steps, nesting and keys. It builds stand-ins and runs no code.

A pickle of a few hundred bytes can keep Python busy forever: the hash or ``repr`` of a tuple that contains another one
twice, which contains another one twice, takes 2**n steps, and that of a deeply nested one overflows the stack.
Therefore only texts, numbers and flat tuples of these are ever hashed, and no value from a file is shown in a message.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

from paddle_dla.storage.errors import CheckpointError

MOST_STEPS = 2_000_000
"""Opcodes per file. An array takes about 50, so this allows 40,000 arrays; a step makes at most some 150 bytes."""
DEEPEST = 8
"""Nesting depth of tuples. An array's state has one in one; torch nests them three deep."""

_OPCODES = (
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE "
    "BINUNICODE8 BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS GLOBAL STACK_GLOBAL REDUCE BUILD BINGET LONG_BINGET BINPUT "
    "LONG_BINPUT MEMOIZE"
)
_SCALARS = (str, int, float, bool, type(None))


class StandIn:
    """What a pickle may build instead of an object; ``__setstate__`` receives the object's state."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Ignore the state."""


class Budget:
    """Limit in bytes for copies made from a file. A valid file needs each byte once, so its size is enough."""

    def __init__(self, left: int):
        self.left = left

    def take(self, count: int) -> None:
        """Use ``count`` bytes. Raises ``CheckpointError`` if fewer are left."""
        self.left -= count
        if self.left < 0:
            raise refused("the arrays in it are larger than the file")


class LimitedUnpickler(pickle._Unpickler):
    """Read one pickle from ``file``; a subclass resolves the names in it by ``find_class``.

    This is the unpickler written in Python: the one in C allocates any memo that a damaged opcode requests. Protocols 2
    to
    5. Opcodes that a dict of arrays does not need are refused, including those of sets, whose elements would be hashed.

    Raises ``CheckpointError`` for refused content, and the ``UNPICKLING_ERRORS`` for invalid content.
    """

    # attributes of the Python unpickler that typeshed lacks
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: BinaryIO, size: int | None = None):
        """``size``: size of the file in bytes, if ``file`` is not a file of the system."""
        super().__init__(file, encoding="latin1")
        self.budget = Budget(2 * (os.fstat(file.fileno()).st_size if size is None else size))
        self._steps, self._depths, self._kept = 0, {}, []

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """Resolve a name to a function that returns plain values or a ``StandIn``."""
        raise refused(f"it names {module}.{name}")

    def count_step(self) -> None:
        """Count a step. Raises ``CheckpointError`` if the file has taken too many."""
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise refused(f"it has more than {MOST_STEPS:,} opcodes")

    # --- what could be hashed ----------------------------------------------------------------------------------------

    def set_items(self, target: Any, items: list[Any]) -> None:
        """Put alternating keys and values into ``target``; a stand-in ignores them."""
        if isinstance(target, StandIn):
            return
        if not isinstance(target, dict) or len(items) % 2:
            raise refused("it puts items into something that is no dict")
        for key, value in zip(items[::2], items[1::2]):
            self.check_key(key)
            target[key] = value

    def check_key(self, key: object) -> None:
        """Raise ``CheckpointError`` for a key that is not a text."""
        if type(key) is not str:
            raise refused(f"a key in it is a {type(key).__name__}, not a name")

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self.set_items(self.stack[-1], items)

    # --- nesting -----------------------------------------------------------------------------------------------------

    def _push_tuple(self, items: list[Any]) -> None:
        depth = 1 + max((self._depths.get(id(item), 1) for item in items if type(item) is tuple), default=0)
        if depth > DEEPEST:
            raise refused(f"tuples in it are nested more than {DEEPEST} deep")
        made = tuple(items)
        if depth > 1:
            self._depths[id(made)] = depth
            self._kept.append(made)  # or another object could get its id
        self.append(made)

    def load_tuple(self) -> None:
        self._push_tuple(self.pop_mark())

    def load_short_tuple(self, length: int) -> None:
        items = self.stack[-length:]
        if len(items) < length:
            raise pickle.UnpicklingError("a tuple in it has fewer items than it says")
        del self.stack[-length:]
        self._push_tuple(items)

    def load_append(self) -> None:
        self._extend([self.stack.pop()])

    def load_appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise refused("it appends to something that is no list")
        target.extend(items)

    # --- objects -----------------------------------------------------------------------------------------------------

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, StandIn):
            target.__setstate__(state)
        elif not isinstance(target, dict):  # attributes of a dict are not kept
            raise refused("it gives a state to something that has none")


def refused(why: str) -> CheckpointError:
    """Return the error for a file that no honest program wrote."""
    return CheckpointError(f"{why}: refused, nothing was run")


def is_flat(key: object) -> bool:
    """Return whether the hash of ``key`` is bounded: a text, a number, or a tuple of these."""
    return type(key) in _SCALARS or (type(key) is tuple and all(type(item) in _SCALARS for item in key))


def handlers(more: Iterable[str] = ()) -> dict[int, Callable[[Any], None]]:
    """Return the ``dispatch`` of an unpickler for the opcodes of arrays, and ``more``; all others are refused."""
    known = {getattr(pickle, name)[0] for name in (*_OPCODES.split(), *more)}
    own = {getattr(pickle, name)[0]: method for name, method in _OWN.items()}
    python = pickle._Unpickler.dispatch
    return {code: _counted(own.get(code) or python[code]) if code in known else _refusal(code) for code in range(256)}


# by name, so that a subclass can override them
_OWN: dict[str, Callable[[Any], None]] = {
    "SETITEM": lambda self: self.load_setitem(),
    "SETITEMS": lambda self: self.load_setitems(),
    "TUPLE": lambda self: self.load_tuple(),
    "TUPLE1": lambda self: self.load_short_tuple(1),
    "TUPLE2": lambda self: self.load_short_tuple(2),
    "TUPLE3": lambda self: self.load_short_tuple(3),
    "APPEND": lambda self: self.load_append(),
    "APPENDS": lambda self: self.load_appends(),
    "BUILD": lambda self: self.load_build(),
    "NEWOBJ": lambda self: self.load_newobj(),
}


def _counted(handler: Callable[[Any], None]) -> Callable[[Any], None]:
    def counted(self: LimitedUnpickler) -> None:
        self.count_step()
        handler(self)

    return counted


def _refusal(code: int) -> Callable[[Any], None]:
    def refuse(self: LimitedUnpickler) -> None:
        if code not in pickle._Unpickler.dispatch:
            raise pickle.UnpicklingError(f"byte {code} is no opcode")
        opcode = refused(f"it has the opcode {bytes([code])!r}, which no file of arrays needs")
        raise CheckpointError(f"{opcode}; it is truncated, damaged or of another format")

    return refuse


LimitedUnpickler.dispatch = handlers()
