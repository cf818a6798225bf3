"""Errors in a config: one sentence per fault, and one error that holds all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paddle_dla.errors import WrongValue


@dataclass(frozen=True)
class Fault:
    """One fault. ``where``: file and line, or ``-o``; ``keys``: the dotted options that cause it."""

    where: str
    keys: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{', '.join(self.keys)}: {self.reason}" if self.keys else f"{place}{self.reason}"


class ConfigError(WrongValue):
    """A config cannot be used. The message lists every fault found; ``faults`` holds them."""

    def __init__(self, faults: Sequence[Fault]):
        self.faults = tuple(faults)
        count = f"{len(self.faults)} faults" if len(self.faults) > 1 else "a fault"
        super().__init__(f"{count} in the config\n" + "\n".join(f"  {fault}" for fault in self.faults))
