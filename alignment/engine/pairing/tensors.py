"""Tensors of the reference and of the port as they were paired, and what was not. No framework."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignment.engine.result import Skipped


@dataclass(frozen=True)
class Tie:
    """Tensors of which one side has one and the other several: they part with the first step."""

    reference: tuple[str, ...]
    port: tuple[str, ...]
    tied_in: str
    """``torch`` or ``Paddle``."""


@dataclass
class TensorPairs:
    """``names``: ``{name in torch: in Paddle}``, each tensor once; what is not among them, and why.

    ``extra``: parameters that are trained and have no twin, by side.
    """

    layers: dict[str, str]
    names: dict[str, str] = field(default_factory=dict)
    ties: list[Tie] = field(default_factory=list)
    extra: dict[str, list[str]] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)

    def unequal(self) -> frozenset[str]:
        """Names in torch of what is tied on one side alone."""
        return frozenset(name for tie in self.ties for name in tie.reference)
