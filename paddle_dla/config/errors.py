"""What can be wrong with a config: one fault a sentence, and one error that holds them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paddle_dla.errors import WrongValue


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong. ``where``: file and line, or ``-o``; ``keys``: the options at fault, dotted."""

    where: str
    keys: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{', '.join(self.keys)}: {self.reason}" if self.keys else f"{place}{self.reason}"


class ConfigError(WrongValue):
    """A config that cannot be used; the message lists every fault that was found, ``faults`` holds them."""

    def __init__(self, faults: Sequence[Fault]):
        self.faults = tuple(faults)
        count = f"{len(self.faults)} faults" if len(self.faults) > 1 else "a fault"
        super().__init__(f"{count} in the config\n" + "\n".join(f"  {fault}" for fault in self.faults))
