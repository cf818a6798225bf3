"""The output of a run: lines or a progress bar, records of everything, tables, a picture. One log per rank.

In the folder of a run::

    rank0.jsonl      of each rank: every update, validation and event, one JSON object a line
    train.csv        of rank 0: every update
    validation.csv   of rank 0: every validation
    curves.png       of rank 0: loss, accuracy and learning rate, refreshed while the run goes on
    visualdl/        of rank 0: the same for VisualDL, where it is installed

A run that resumes after a kill continues these files; each update appears in them once.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from copy import copy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TextIO

from paddle_dla.progress import Progress, StepClock
from paddle_dla.training.curves import Curves
from paddle_dla.training.memory import peak_gpu, peak_resident
from paddle_dla.training.records import Record, Records, Table, read_records
from paddle_dla.training.visual import VisualDL, is_installed

REFRESH = 60.0  # shortest time between two pictures
SHARE = 0.01  # largest share of a run's time for drawing pictures
MB = 2**20
RECORDS, PICTURE = "rank{}.jsonl", "curves.png"
TABLES = {"train": "train.csv", "validation": "validation.csv"}


class RunLog:
    """The log of one rank. Steps count updates since the start of the run; the first update is step 1.

    ``resumed_at``: number of updates in the checkpoint from which this process resumes; later records are dropped,
    because those updates are repeated. ``interval``: updates between two lines. ``stream``: where lines are printed
    (default: stderr); on a terminal there is a bar instead. ``refresh``: shortest time between two pictures, in
    seconds.

    Raises ``CheckpointError`` if a file cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        rank: int,
        ranks: int,
        total_steps: int,
        resumed_at: int = 0,
        interval: int = 10,
        stream: TextIO | None = None,
        refresh: float = REFRESH,
    ):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._rank, self._ranks, self._total, self._resumed_at = rank, ranks, total_steps, resumed_at
        self._records = Records(folder / RECORDS.format(rank), resumed_at)
        self._progress = Progress(total_steps, interval, stream, unit="step", done=resumed_at)
        self._views = _Views(folder, self._records, refresh) if rank == 0 else None
        self._began = time.monotonic()
        self._clock, self._seen = StepClock(), StepClock()
        place = {"rank": rank, "ranks": ranks, "pid": os.getpid(), "node": platform.node()}
        self._write({"kind": "start", **place, "resumed_at": resumed_at, "total_steps": total_steps})
        if self._views is not None and not Curves.can_draw():
            self.event("note", "no curves.png, matplotlib is missing: pip install 'paddle-dla[plots]'")

    def train_step(self, epoch: int, step: int, values: Mapping[str, float | None], clock: StepClock) -> None:
        """Record one update. ``values``: ``loss`` (mean over the batch), ``lr``, ``grad_norm`` if known, any other.

        ``clock`` measures the batches; each printed line starts a new interval of it.
        """
        values = _plain(values)
        self._write({"kind": "train", "epoch": epoch, "step": step, **values, **self._costs(clock)})
        shown = _shown(values)
        line = f"epoch:{epoch}, train step:{step}, {shown}, {clock.costs()}{self._outlook(step)}"
        if self._progress.step(1, shown, line):
            clock.reset()
            self._seen = StepClock()

    def validation(self, epoch: int, step: int, values: Mapping[str, float | None], seconds: float) -> None:
        """Record a validation after update ``step``: ``top1``, ``top5`` in %, ``loss``; the EMA's as ``ema_top1``."""
        values = _plain(values)
        self._write({"kind": "validation", "epoch": epoch, "step": step, **values, "seconds": seconds})
        self._progress.say(f"END epoch:{epoch} valid {_shown(values)}, {seconds:.1f} s")

    def event(self, kind: str, message: str) -> None:
        """Record any other event. ``kind`` is a keyword such as ``checkpoint``, ``resume`` or ``nan``."""
        self._write({"kind": "event", "event": kind, "message": message})
        self._progress.say(f"{kind}: {message}")

    def close(self) -> None:
        """Draw the last picture, restore the terminal and close the files. May be called again."""
        self._progress.close()
        if self._views is not None:
            self._views.close()
        self._records.close()

    def _write(self, record: Record) -> None:
        record["time"] = datetime.now(UTC).isoformat(timespec="milliseconds")
        again = self._records.append(record)
        if self._views is not None:
            self._views.add(record, again)

    def _costs(self, clock: StepClock) -> Record:
        """Return the mean costs of the batches finished since the last update; ``None`` if there are none."""
        if clock is not self._clock or clock.steps < self._seen.steps:
            self._clock, self._seen = clock, StepClock()
        steps, seconds = clock.steps - self._seen.steps, clock.batch_cost - self._seen.batch_cost
        waited, images = clock.reader_cost - self._seen.reader_cost, clock.images - self._seen.images
        self._seen = copy(clock)
        return {
            "batch_cost": seconds / steps if steps else None,
            "reader_cost": waited / steps if steps else None,
            "ips": images / seconds if seconds else None,
        }

    def _outlook(self, step: int) -> str:
        """Return the estimated remaining time at this process's speed so far, and the peak memory."""
        done = step - self._resumed_at
        left = (time.monotonic() - self._began) / done * (self._total - step) if done > 0 else 0.0
        text = f" eta: {timedelta(seconds=round(left))}, memory: {peak_resident() // MB} MB"
        gpu = peak_gpu()
        text += "" if gpu is None else f", GPU memory: {gpu // MB} MB"
        return text + (f", {self._ranks} ranks" if self._ranks > 1 else "")


class _Views:
    """The tables and the picture that are made from rank 0's records."""

    def __init__(self, folder: Path, records: Records, refresh: float):
        self._picture, self._refresh, self._path = folder / PICTURE, refresh, records.path
        self._tables = {kind: Table(folder / name, records, kind) for kind, name in TABLES.items()}
        self._dashboard = None
        self._due = time.monotonic() + refresh
        self._reread()

    def add(self, record: Record, again: bool) -> None:
        """Show one more record, which has already been written to the file."""
        kind = record["kind"]
        if kind in self._tables:
            self._tables[kind].append(record, again)
        if again:
            self._reread()
        else:
            self._show(record)
        if kind == "validation" or (kind == "train" and time.monotonic() >= self._due):
            self._draw()

    def _reread(self) -> None:
        """Rebuild the views that cannot drop a repeated update."""
        self._curves = Curves()
        if is_installed():
            self._close_dashboard()
            self._dashboard = VisualDL(self._path.parent / "visualdl")
        for record in read_records(self._path):
            self._show(record)

    def _show(self, record: Record) -> None:
        if self._dashboard is not None:
            self._dashboard.add(record)
        if record["kind"] == "train":
            self._curves.add_train(record)
        elif record["kind"] == "validation":
            self._curves.add_validation(record)
        elif record["kind"] == "start" and record["resumed_at"]:
            self._curves.add_resume(record["resumed_at"])

    def _draw(self) -> None:
        began = time.monotonic()
        if Curves.can_draw():
            self._curves.draw(self._picture)
        now = time.monotonic()
        self._due = now + max(self._refresh, (now - began) / SHARE)

    def close(self) -> None:
        self._draw()
        for table in self._tables.values():
            table.close()
        self._close_dashboard()

    def _close_dashboard(self) -> None:
        if self._dashboard is not None:
            self._dashboard.close()
            self._dashboard = None


def _plain(values: Mapping[str, float | None]) -> dict[str, float]:
    """Convert values of any numeric type to Python's numbers; unknown values are left out."""
    return {name: float(value) for name, value in values.items() if value is not None}


def _shown(values: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name}: {value:.6g}" for name, value in values.items())
