"""Trainings of whole epochs, side by side from one seed, as plain values. No framework."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """One training: the loss of each update, and the accuracy in the end, in percent."""

    losses: list[float]
    top1: float


@dataclass(frozen=True)
class Seed:
    """Both trainings from one seed; ``again`` is timm's with each batch in reverse order, on the first seed."""

    seed: int
    torch: Run
    paddle: Run
    again: Run | None = None
