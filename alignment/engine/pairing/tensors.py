"""Pairs of tensors of the reference and the port, and the unpaired ones. No framework."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from alignment.engine.result import Skipped
from convert.matching.key_map import TRANSPOSE, Line, Step

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """The part of a reference tensor that one tensor of the port holds: all of it or rows, by ``steps``.

    ``axis``, ``start`` and ``stop`` give the slice of the port's tensor, if that joins several.
    """

    paddle: str
    steps: tuple[Step, ...] = ()
    axis: int | None = None
    start: int = 0
    stop: int = 0

    def of(self, array: np.ndarray) -> np.ndarray:
        """Return the slice of the port's tensor."""
        if self.axis is None:
            return array
        return np.moveaxis(np.moveaxis(array, self.axis, 0)[self.start : self.stop], 0, self.axis)


@dataclass
class Layout:
    """The conversion of the port's tensors to the reference's layout: ``pieces`` and ``shapes`` by name in torch."""

    pieces: dict[str, list[Piece]] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)

    @classmethod
    def of_lines(cls, lines: Iterable[Line], shapes: Mapping[str, Shape]) -> Layout:
        """Return the layout that a key map describes, for torch tensors of these ``shapes``."""
        found, ends = cls(), dict[str, int]()
        for line in lines:
            if line.dropped or not line.torch or not line.paddle or line.torch not in shapes:
                continue
            steps = tuple(step for step in line.steps if step.word != "concatenate")
            piece = Piece(line.paddle, steps)
            if line.part:
                axis, start = line.part.numbers[0], ends.get(line.paddle, 0)
                ends[line.paddle] = start + _positions(shapes[line.torch], steps).shape[axis]
                piece = Piece(line.paddle, steps, axis, start, ends[line.paddle])
            found.pieces.setdefault(line.torch, []).append(piece)
            found.shapes[line.torch] = shapes[line.torch]
        return found

    def tensors(self) -> frozenset[str]:
        """Return the names in Paddle of all paired tensors."""
        return frozenset(piece.paddle for pieces in self.pieces.values() for piece in pieces)

    def names(self) -> dict[str, list[str]]:
        """Return ``{name in torch: its names in Paddle}``."""
        return {name: [piece.paddle for piece in pieces] for name, pieces in self.pieces.items()}

    def carried(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return ``{name in torch: array}`` from ``{name in Paddle: array}``; a missing part is zero.

        A scalar, and a tensor of another size than the reference's, stay unchanged.
        """
        found = {}
        for name, pieces in self.pieces.items():
            there = [piece for piece in pieces if piece.paddle in arrays]
            if there:
                found[name] = self._carried(self.shapes[name], there, arrays, whole=len(pieces) == 1)
        return found

    def _carried(
        self, shape: Shape, pieces: list[Piece], arrays: Mapping[str, np.ndarray], whole: bool
    ) -> np.ndarray:
        array = arrays[pieces[0].paddle]
        if not array.ndim:
            return array
        if whole and pieces[0].axis is None and all(step == TRANSPOSE for step in pieces[0].steps):
            array = array.T if len(pieces[0].steps) % 2 and array.ndim > 1 else array
            return array.reshape(shape) if array.size == int(np.prod(shape)) else array
        made = np.zeros(shape, array.dtype)
        for piece in pieces:
            made.reshape(-1)[_positions(shape, piece.steps)] = piece.of(arrays[piece.paddle])
        return made


def _positions(shape: Shape, steps: Iterable[Step]) -> np.ndarray:
    """Return the position of each element of a torch tensor after ``steps``."""
    positions = np.arange(int(np.prod(shape))).reshape(shape)
    for step in steps:
        positions = step(positions)
    return positions


@dataclass(frozen=True)
class Tie:
    """Tensors that are one on one side and several on the other: the two models separate with the first step."""

    reference: tuple[str, ...]
    port: tuple[str, ...]
    tied_in: str
    """The side that has the single tensor: ``torch`` or ``Paddle``."""


@dataclass
class TensorPairs:
    """The paired tensors, each once (``names``: ``{name in torch: in Paddle}``), and the unpaired ones with the reason.

    ``layers``: paths in Paddle by paths in torch; ``extra``: parameters that are trained and have no twin, by side;
    ``alone``: the other tensors without a twin.
    """

    layers: dict[str, str]
    layout: Layout = field(default_factory=Layout)
    ties: list[Tie] = field(default_factory=list)
    extra: dict[str, list[str]] = field(default_factory=dict)
    alone: dict[str, list[str]] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def names(self) -> dict[str, str]:
        """Return ``{name in torch: in Paddle}``; for several names in Paddle the first, with the number of others."""
        return {
            name: twins[0] + (f" and {len(twins) - 1} more" if len(twins) > 1 else "")
            for name, twins in self.layout.names().items()
        }

    def unequal(self) -> frozenset[str]:
        """Return the names in torch of tensors that are tied on one side only."""
        return frozenset(name for tie in self.ties for name in tie.reference)
