"""A traced torch program as plain values: modules, calls, operators, tensors. No framework.

A ``Call`` is one run of one module. Its ``body`` holds operators and the calls of modules inside it, in order. Tensors
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
    """A line of the reference's source, inside ``function``; ``offset`` is the instruction that runs there.

    The offset increases within one run of a statement. If it does not, the statement runs again.
    """

    file: str
    line: int
    function: str = ""
    offset: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Stop:
    """A reason why a module cannot be translated: its path, the line of its source, and the explanation ``why``."""

    path: str
    place: Place | None
    why: str

    def __str__(self) -> str:
        return ": ".join(str(part) for part in (self.path or "(model)", self.place, self.why) if part)


class TranslationError(WrongValue):
    """Raised if a module cannot be translated; ``stops`` lists every reason."""

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
    """An element type; ``working`` is the type in which the model computes."""

    name: str


WORKING = "working"


def open_ended(end: Any) -> bool:
    """Return whether ``end`` means no end of a torch slice: torch writes ``None``, or the largest integer."""
    return end is None or (isinstance(end, int) and end >= 2**62)


@dataclass(frozen=True)
class Tensor:
    """Shape (integers and ``Expression``) and type of a tensor."""

    shape: tuple[int | Expression, ...]
    dtype: str

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def floating(self) -> bool:
        """Whether the elements are floating-point numbers."""
        return self.dtype == WORKING or "float" in self.dtype

    @property
    def complex(self) -> bool:
        """Whether the elements are complex numbers."""
        return self.dtype.startswith("complex")


@dataclass
class Op:
    """One operator: its name in torch, arguments by name, the numbers of its output tensors, and its source line."""

    name: str
    args: dict[str, Any]
    outputs: list[int]
    place: Place | None = None
    several: bool = False  # whether it returns a sequence of tensors


@dataclass
class Call:
    """One run of the module at ``path``; ``inputs`` and ``outputs`` are the tensors that it takes and returns.

    ``returned`` lists the tensors in the order of the reference's ``return``, if it returns several.
    """

    path: str
    body: list[Op | Call] = field(default_factory=list)
    inputs: list[Ref | State] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    place: Place | None = None
    key: str = ""
    returned: list[int] = field(default_factory=list)

    def walk(self) -> Iterator[Op]:
        """Yield every operator inside, in order."""
        for step in self.body:
            if isinstance(step, Call):
                yield from step.walk()
            else:
                yield step


@dataclass(frozen=True)
class Held:
    """A parameter or buffer that a module owns directly."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    trainable: bool  # a parameter; a buffer otherwise
    saved: bool = True  # whether it is in torch's state dict


@dataclass
class Module:
    """A module of the reference: its class, plain attributes, children, parameters and buffers."""

    path: str
    kind: str  # qualified class name
    bases: tuple[str, ...]
    forward: str  # qualified name of its forward method
    parameters: tuple[str, ...]  # names of forward's arguments
    settings: dict[str, Any]  # plain attributes
    constructor: dict[str, Any]  # arguments as they were passed, if that was recorded
    children: dict[str, str]  # name -> path
    held: list[Held]
    doc: str = ""
    place: Place | None = None

    @property
    def name(self) -> str:
        """Name of the class."""
        return self.kind.rpartition(".")[2]


@dataclass(frozen=True)
class Limit:
    """The heights and widths for which a trace holds: multiples of ``multiple``, or only ``equal``.

    For others the reference takes another branch, or computes with other numbers.
    """

    multiple: int = 1
    equal: tuple[int, int] | None = None


@dataclass
class Program:
    """A traced model. ``result`` is its output: refs in tuples, lists and dicts."""

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
    training: Program | None = None  # the program in training mode, if modules take other steps there
    twofold: frozenset[str] = frozenset()  # the modules that take other steps in training
    limits_of_type: bool = False  # whether it calls ``torch.finfo`` for the type of the trace
    requires_grad: dict[str, bool] = field(default_factory=dict)  # of every parameter
    batches: tuple[int, ...] = ()  # batch sizes for which the reference may take a path other than the trace
