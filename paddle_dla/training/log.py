"""What is recorded of a run: the familiar line, and one JSON object a step."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from paddle_dla.progress import StepClock


class RunLog:
    """One rank's records in ``folder``; those beyond ``resumed_at`` are dropped, so that each step is there once.

    A step is an update of the optimizer, counted from 1 over the whole run of ``total_steps``.
    """

    def __init__(self, folder: Path, rank: int, ranks: int, total_steps: int, resumed_at: int = 0, interval: int = 10):
        self._rank, self._total, self._interval = rank, total_steps, interval
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"rank{rank}.jsonl"
        kept = [line for line in _lines(path) if json.loads(line).get("step", 0) <= resumed_at]
        path.write_text("".join(kept), encoding="utf-8")
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - closed by close()

    def train_step(self, epoch: int, step: int, values: dict[str, float], clock: StepClock) -> None:
        """Record one update."""
        self._write({"kind": "train", "epoch": epoch, "step": step, **values})
        if self._rank == 0 and step % self._interval == 0:
            shown = ", ".join(f"{name}: {value:.6g}" for name, value in values.items())
            print(f"epoch:{epoch}, train step:{step}, {shown}, {clock.costs()}", file=sys.stderr, flush=True)
            clock.reset()

    def validation(self, epoch: int, step: int, values: dict[str, float], seconds: float) -> None:
        """Record the scores after ``step``."""
        self._write({"kind": "valid", "epoch": epoch, "step": step, **values, "seconds": seconds})
        if self._rank == 0:
            shown = ", ".join(f"{name}: {value:.5f}" for name, value in values.items())
            print(f"epoch:{epoch}, valid, {shown}, {seconds:.1f} s", file=sys.stderr, flush=True)

    def event(self, kind: str, message: str) -> None:
        """Record and print what happened once."""
        self._write({"kind": kind, "message": message})
        if self._rank == 0:
            print(message, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, record: dict) -> None:
        self._file.write(json.dumps(record) + "\n")


def _lines(path: Path) -> list[str]:
    """The complete lines of a file that may have been cut off."""
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
