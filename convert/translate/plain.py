"""What a traced torch program is, as plain values: modules, calls, operators, tensors. No framework.

A ``Call`` is one run of one module; its ``body`` holds operators and the calls of modules inside it, in order. Tensors
are numbered; ``Program.tensors`` has their shapes and types.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from convert.translate.sizes import Expression
from paddle_dla.errors import WrongValue


@dataclass(frozen=True)
class Place:
    """A line of the reference's source, inside ``function``; ``offset``: the instruction that runs there.

    Within one statement the offset grows; where it does not, the statement runs again.
    """

    file: str
    line: int
    function: str = ""
    offset: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Stop:
    """What cannot be translated: the module's path, the line of its source, and what a rule must say."""

    path: str
    place: Place | None
    why: str

    def __str__(self) -> str:
        return ": ".join(str(part) for part in (self.path or "(model)", self.place, self.why) if part)


class TranslationError(WrongValue):
    """A module that cannot be translated; ``stops`` lists every reason."""

    def __init__(self, stops: list[Stop]):
        super().__init__("\n  ".join(["cannot be translated:", *map(str, stops)]))
        self.stops = stops


@dataclass(frozen=True)
class Ref:
    """A tensor of the program, by number."""

    number: int


@dataclass(frozen=True)
class State:
    """A parameter, buffer or constant of the model, by its path."""

    path: str


@dataclass(frozen=True)
class Type:
    """A type of elements; ``working`` is the one that the model itself computes in."""

    name: str


WORKING = "working"


def open_ended(end: Any) -> bool:
    """Whether a slice of torch with this end has none: torch writes ``None``, or the largest whole number."""
    return end is None or (isinstance(end, int) and end >= 2**62)


@dataclass(frozen=True)
class Tensor:
    """Shape (whole numbers and ``Expression``) and type of a tensor."""

    shape: tuple[int | Expression, ...]
    dtype: str

    @property
    def rank(self) -> int:
        """How many dimensions it has."""
        return len(self.shape)

    @property
    def floating(self) -> bool:
        """Whether its elements are real numbers."""
        return self.dtype == WORKING or "float" in self.dtype

    @property
    def complex(self) -> bool:
        """Whether its elements are complex numbers."""
        return self.dtype.startswith("complex")


@dataclass
class Op:
    """One operator: its name in torch, arguments by name, the numbers of the tensors it returns, its line."""

    name: str
    args: dict[str, Any]
    outputs: list[int]
    place: Place | None = None
    several: bool = False  # whether it returns a sequence of tensors


@dataclass
class Call:
    """One run of the module at ``path``; ``inputs`` and ``outputs`` are what it shares with its surroundings.

    ``returned``: the tensors in the order of the reference's ``return``, where it returns several.
    """

    path: str
    body: list[Op | Call] = field(default_factory=list)
    inputs: list[Ref | State] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    place: Place | None = None
    key: str = ""
    returned: list[int] = field(default_factory=list)

    def walk(self) -> Iterator[Op]:
        """Every operator inside, in order."""
        for step in self.body:
            if isinstance(step, Call):
                yield from step.walk()
            else:
                yield step


@dataclass(frozen=True)
class Held:
    """A parameter or buffer that a module holds itself."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    trainable: bool  # a parameter; a buffer otherwise
    saved: bool = True  # whether torch's state dict has it


@dataclass
class Module:
    """A module of the reference: its class, numbers that it remembers, and what it holds."""

    path: str
    kind: str  # qualified class name
    bases: tuple[str, ...]
    forward: str  # qualified name of its forward method
    parameters: tuple[str, ...]  # names of forward's arguments
    settings: dict[str, Any]  # plain attributes, and those of its constructor
    constructor: dict[str, Any]  # arguments as they were given, where that was recorded
    children: dict[str, str]  # name -> path
    held: list[Held]
    doc: str = ""
    place: Place | None = None

    @property
    def name(self) -> str:
        """The class's own name."""
        return self.kind.rpartition(".")[2]


@dataclass(frozen=True)
class Limit:
    """The heights and widths for which a trace holds: multiples of ``multiple``, or ``equal`` alone.

    For others the reference takes another branch, or computes with other numbers.
    """

    multiple: int = 1
    equal: tuple[int, int] | None = None


@dataclass
class Program:
    """A traced model. ``result`` is what it returns: refs in tuples, lists and dicts."""

    root: Call
    modules: dict[str, Module]
    tensors: dict[int, Tensor]
    states: dict[str, Tensor]
    inputs: list[tuple[str, int]]  # names of forward's arguments and their tensors
    result: Any
    constants: dict[str, Any] = field(default_factory=dict)  # path -> array, of tensors made in the forward
    aliases: dict[str, str] = field(default_factory=dict)  # tensors that have a second name -> the first
    limits: dict[int, Limit] = field(default_factory=dict)  # input -> the heights and widths that the trace holds for
    shared: dict[str, str] = field(default_factory=dict)  # modules that are registered twice -> where first
    training: Program | None = None  # what runs in training, where modules take other steps there
    twofold: frozenset[str] = frozenset()  # the modules that do
    limits_of_type: bool = False  # whether it calls ``torch.finfo`` for the type of the trace
    requires_grad: dict[str, bool] = field(default_factory=dict)  # of every parameter
    batches: tuple[int, ...] = ()  # for which the trace may not hold: the reference may take another path there
