"""The key map between two models: the Paddle tensor of each torch tensor, and the steps between them. No framework.

    key_map.save("key_map.txt")                  # an editable table
    arrays = KeyMap.load("key_map.txt").apply({name: value.numpy() for name, value in torch_model.state_dict().items()})

Each line of the table has one of these forms:

    stem.conv.weight -> features.0.weight
    fc.weight -> head.weight (reshape 10x512, transpose)
    attn.in_proj_weight -> attn.k_proj.weight (rows 16:32, transpose)
    q.weight -> qkv.weight (transpose, concatenate 1)      # the lines of one Paddle tensor are its parts, in order
    bn.num_batches_tracked -> dropped: why nothing is lost
    kept: why it needs no value of torch's -> gate
    fc.weight -> ?                                          # unresolved: the key map cannot be applied yet
    a.weight -> b.weight  # settled by running both         # a note

Every step is linear and only moves elements, so the same steps convert a gradient.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paddle_dla.errors import WrongValue
from paddle_dla.storage.atomic import atomic_path
from paddle_dla.storage.regular import read_text

Shape = tuple[int, ...]

UNKNOWN = "?"
ROOT = "(model)"
SHOWN = 28
"""How many faults an error message shows; ``faults`` holds all."""


class KeyMapError(WrongValue):
    """Raised if a key map is not found, cannot be read or does not account for all tensors; ``faults`` lists all."""

    def __init__(self, message: str, faults: Sequence[str] = ()):
        more = [f"... and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        super().__init__("\n  ".join([message, *faults[:SHOWN], *more]))
        self.faults = [*faults]


class AmbiguousMatch(KeyMapError):
    """Raised if names, structure and a run leave several possible pairs; name the right ones in the key map."""


def _rows(array: np.ndarray, numbers: Shape) -> np.ndarray:
    start, stop = numbers
    if not 0 <= start < stop <= len(array):
        raise ValueError(f"{list(array.shape)} has no rows {start}:{stop}")
    return array[start:stop]


def _reshape(array: np.ndarray, numbers: Shape) -> np.ndarray:
    if array.size != np.prod(numbers, dtype=int):
        raise ValueError(f"{list(array.shape)} cannot be reshaped to {list(numbers)}")
    return array.reshape(numbers)


def _permute(array: np.ndarray, numbers: Shape) -> np.ndarray:
    if sorted(numbers) != [*range(array.ndim)]:
        raise ValueError(f"{list(array.shape)} has no axes {list(numbers)}")
    return array.transpose(numbers)


# word -> (separator of its numbers, function of the array); ``concatenate`` is done once all parts are there
STEPS: dict[str, tuple[str, Callable[[np.ndarray, Shape], np.ndarray]]] = {
    "rows": (":", _rows),
    "reshape": ("x", _reshape),
    "permute": (" ", _permute),
    "transpose": ("", lambda array, numbers: array.T),
    "concatenate": ("", lambda array, numbers: array),
}


@dataclass(frozen=True)
class Step:
    """One change of layout: ``rows`` start:stop, ``reshape``, ``permute``, ``transpose``, or ``concatenate`` axis.

    If the lines of a Paddle tensor end in ``concatenate``, their results are joined in the order of the lines.
    """

    word: str
    numbers: Shape = ()

    def __str__(self) -> str:
        separator, _ = STEPS[self.word]
        return f"{self.word} {separator.join(map(str, self.numbers))}".strip()

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """Apply the step. Raises ``ValueError`` if the shape of the array does not allow it."""
        return STEPS[self.word][1](array, self.numbers)


TRANSPOSE = Step("transpose")


@dataclass(frozen=True)
class Line:
    """One line: the tensor ``torch`` becomes ``paddle`` by ``steps``; both are full names.

    ``dropped`` is the reason why a tensor that only one side has needs no counterpart. Without it, a line with one side
    is unresolved. ``note`` explains how the line was found if names and structure did not determine it.
    """

    torch: str | None
    paddle: str | None
    steps: tuple[Step, ...] = ()
    dropped: str = ""
    note: str = ""

    @property
    def resolved(self) -> bool:
        """Whether the line pairs or drops its tensor."""
        return bool(self.dropped or (self.torch and self.paddle))

    @property
    def transpose(self) -> bool:
        """Whether the tensor is transposed."""
        return TRANSPOSE in self.steps

    @property
    def part(self) -> Step | None:
        """The ``concatenate`` step, if the line makes only a part of its Paddle tensor."""
        return next((step for step in self.steps if step.word == "concatenate"), None)

    @property
    def rows(self) -> Shape | None:
        """The rows of the torch tensor that the line uses; ``None`` for all."""
        first = self.steps[0] if self.steps else None
        return first.numbers if first is not None and first.word == "rows" else None

    def __str__(self) -> str:
        note = f"  # {self.note}" if self.note else ""
        if self.dropped:
            alone = f"kept: {self.dropped} -> {self.paddle}"
            return (f"{self.torch} -> dropped: {self.dropped}" if self.torch else alone) + note
        steps = f" ({', '.join(map(str, self.steps))})" if self.steps else ""
        return f"{self.torch or UNKNOWN} -> {self.paddle or UNKNOWN}{steps}{note}"


@dataclass(frozen=True)
class KeyMap(Sequence[Line]):
    """The lines of a key map; several may share one torch tensor (rows of it) or one Paddle tensor (parts of it)."""

    lines: tuple[Line, ...]

    def __getitem__(self, index: int) -> Line:  # type: ignore[override]
        return self.lines[index]

    def __len__(self) -> int:
        return len(self.lines)

    def __iter__(self) -> Iterator[Line]:
        return iter(self.lines)

    def __str__(self) -> str:
        return "".join(f"{line}\n" for line in self.lines)

    @property
    def unresolved(self) -> list[Line]:
        """Lines that neither pair nor drop their tensor."""
        return [line for line in self.lines if not line.resolved]

    def layers(self) -> dict[str, str]:
        """Return ``{layer path in torch: layer path in Paddle}`` of the layers that correspond one to one.

        A layer that corresponds to several on the other side, or whose tensors belong to a container there, is not
        included. The model itself is ``(model)``.
        """
        first = {line.torch: line for line in reversed(self.lines) if line.torch and line.paddle and not line.dropped}
        pairs = dict.fromkeys((layer_of(line.torch), layer_of(line.paddle)) for line in self.lines
                              if line.torch and line.paddle and (first[line.torch] is line or line.steps))  # fmt: skip
        ours, theirs = Counter(path for path, _ in pairs), Counter(twin for _, twin in pairs)
        around, twin_around = _containers(ours), _containers(theirs)
        return {
            path: twin
            for path, twin in pairs
            if ours[path] == theirs[twin] == 1 and (path in around) == (twin in twin_around)
        }

    def apply(
        self, arrays: Mapping[str, np.ndarray], shapes: Mapping[str, Shape] | None = None, *, partial: bool = False
    ) -> dict[str, np.ndarray]:
        """Convert ``{torch name: array}`` to ``{Paddle name: array}``, in the order of the lines; arrays may be views.

        ``shapes`` is ``{name: shape}`` of the Paddle model, against which the result is checked. With ``partial``,
        ``arrays`` may lack tensors: gradients, for example, which buffers do not have.

        Raises ``KeyMapError``, which lists every tensor that is unresolved, missing, unaccounted for, or does not fit.
        """
        faults = [] if partial else self._unaccounted(arrays)
        parts: dict[str, list[np.ndarray]] = {}
        for line in self.lines:
            if line.torch in arrays and line.paddle and line.torch:
                try:
                    array = _stepped(arrays[line.torch], line.steps)
                except ValueError as error:
                    faults.append(f"{line.torch}: {error}")
                else:
                    parts.setdefault(line.paddle, []).append(array)
        made = self._joined(parts, faults)
        faults += self._misfits(made, shapes, partial) if shapes is not None else []
        if faults:
            raise KeyMapError("the key map does not account for every tensor (nothing was made):", faults)
        return made

    def _unaccounted(self, arrays: Mapping[str, np.ndarray]) -> list[str]:
        listed = [line.torch for line in self.lines if line.torch]
        known = {*listed}
        faults = [f"{line}: without a twin" for line in self.unresolved]
        faults += [f"{name}: in the key map, not among the tensors" for name in listed if name not in arrays]
        faults += [f"{name}: not in the key map" for name in arrays if name not in known]
        whole = Counter(line.paddle for line in self.lines if line.paddle and not line.part)
        faults += [f"{name}: more than once in the key map" for name, number in whole.items() if number > 1]
        return [*faults, *self._torn(), *self._lost_rows(arrays)]

    def _torn(self) -> list[str]:
        """Return a fault for each Paddle tensor whose parts are joined along several axes."""
        axes: dict[str | None, set[int]] = {}
        for line in self.lines:
            if line.part:
                axes.setdefault(line.paddle, set()).add(line.part.numbers[0])
        return [f"{name}: its parts are joined along several axes" for name, found in axes.items() if len(found) > 1]

    def _lost_rows(self, arrays: Mapping[str, np.ndarray]) -> list[str]:
        """Return a fault for each torch tensor with rows neither mapped nor dropped, or all mapped and also dropped."""
        dropped = {line.torch for line in self.lines if line.dropped}
        uses: dict[str, list[Line]] = {}
        for line in self.lines:
            if line.torch in arrays and line.torch and line.paddle:
                uses.setdefault(line.torch, []).append(line)
        faults = []
        for name, lines in uses.items():
            lost = _gap([line.rows for line in lines], arrays[name].shape)
            if lost is None and name in dropped:
                faults.append(f"{name}: dropped by one line, and all of it mapped by others")
            elif lost is not None and name not in dropped:
                faults.append(f"{name}: rows {lost[0]}:{lost[1]} reach no tensor; map them, or drop the rest in a line")
        return faults

    def _joined(self, parts: Mapping[str, Sequence[np.ndarray]], faults: list[str]) -> dict[str, np.ndarray]:
        axes = {line.paddle: line.part.numbers[0] for line in self.lines if line.part}
        wanted = Counter(line.paddle for line in self.lines if line.part)
        made = {}
        for name, arrays in parts.items():
            if name not in axes:
                made[name] = arrays[-1]
            elif len(arrays) == wanted[name]:
                try:
                    made[name] = np.concatenate(arrays, axes[name])
                except ValueError as error:
                    faults.append(f"{name}: {error}")
        return made

    def _misfits(self, made: Mapping[str, np.ndarray], shapes: Mapping[str, Shape], partial: bool) -> list[str]:
        kept = {line.paddle for line in self.lines if line.dropped}
        missing = [] if partial else [name for name in shapes if name not in made and name not in kept]
        faults = [f"{name}: the model needs it, but the key map does not make it" for name in missing]
        for name, array in made.items():
            if name not in shapes:
                faults.append(f"{name}: the model has no such tensor")
            elif array.shape != tuple(shapes[name]):
                faults.append(f"{name}: shape {list(array.shape)} instead of {list(shapes[name])}")
        return faults

    def save(self, path: str | Path) -> None:
        """Write the editable table. Raises ``CheckpointError`` if the file cannot be written."""
        with atomic_path(path) as part:
            part.write_text(str(self), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> KeyMap:
        """Read a table. Raises ``KeyMapError`` if the file cannot be read, and like ``from_text``."""
        try:
            return cls.from_text(read_text(path))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "no text in UTF-8"
            raise KeyMapError(f"cannot read {path}: {reason}", []) from error

    @classmethod
    def from_text(cls, text: str) -> KeyMap:
        """Parse a table. Empty lines and lines that begin with ``#`` are ignored.

        Raises ``KeyMapError``, which lists every line that cannot be read, with its number.
        """
        lines, faults = [], []
        for number, line in enumerate(map(str.strip, text.splitlines()), 1):
            if not line or line.startswith("#"):
                continue
            try:
                lines.append(_parsed(line))
            except ValueError as error:
                faults.append(f"line {number}: {error}: {line}")
        if faults:
            raise KeyMapError("the key map cannot be read:", faults)
        return cls(tuple(lines))


def layer_of(name: str) -> str:
    """Return the path of a tensor's layer; the tensors of a parametrization belong to the layer around it."""
    return re.sub(r"(^|\.)parametrizations\..*", "", name.rpartition(".")[0]) or ROOT


def _containers(paths: Mapping[str, int]) -> set[str]:
    """Return all ancestors of ``paths``, including the model itself."""
    around = {".".join(path.split(".")[:depth]) for path in paths for depth in range(1, path.count(".") + 1)}
    return around | {ROOT}


def _gap(taken: Sequence[Shape | None], shape: Shape) -> tuple[int, int] | None:
    """Return the first rows of a tensor that none of ``taken`` (start, stop) covers; ``None`` if all are covered."""
    if None in taken or not shape:
        return None
    end = 0
    for start, stop in sorted(filter(None, taken)):
        if start > end:
            return end, start
        end = max(end, stop)
    return (end, shape[0]) if end < shape[0] else None


def _stepped(array: np.ndarray, steps: Sequence[Step]) -> np.ndarray:
    for step in steps:
        array = step(array)
    return array


_TABLE_LINE = re.compile(
    r"(?:kept: (?P<kept>.+) -> (?P<alone>\S+)"
    r"|(?P<torch>\S+) -> (?:dropped: (?P<dropped>.+?)|(?P<paddle>\S+)(?: \((?P<steps>[^)]*)\))?))"
    r"(?:  # (?P<note>.+))?"
)
_STEP = re.compile(
    r"(?P<rows>rows \d+:\d+)|(?P<reshape>reshape \d+(?:x\d+)*)|(?P<permute>permute \d+(?: \d+)*)"
    r"|(?P<transpose>transpose)|(?P<concatenate>concatenate \d+)"
)


def _parsed(line: str) -> Line:
    found = _TABLE_LINE.fullmatch(line)
    if found is None:
        raise ValueError("not 'torch name -> Paddle name (reshape AxB, transpose)'")
    note = found["note"] or ""
    if found["kept"]:
        return Line(None, found["alone"], dropped=found["kept"], note=note)
    torch, paddle = (None if name in (UNKNOWN, None) else name for name in (found["torch"], found["paddle"]))
    steps = tuple(_step(text.strip()) for text in found["steps"].split(",")) if found["steps"] else ()
    if any(step.word == "concatenate" for step in steps[:-1]):
        raise ValueError("concatenate is the last step: it joins what the others made")
    return Line(torch, paddle, steps, found["dropped"] or "", note)


def parse_steps(texts: Sequence[str]) -> tuple[Step, ...]:
    """Parse steps written as by ``str(step)``. Raises ``ValueError`` for anything else."""
    return tuple(map(_step, texts))


def _step(text: str) -> Step:
    found = _STEP.fullmatch(text)
    if found is None:
        words = "rows A:B, reshape AxB, permute A B, transpose or concatenate A"
        raise ValueError(f"{text!r} is not a step; steps are {words}")
    return Step(found.lastgroup or "", tuple(map(int, re.findall(r"\d+", text))))
