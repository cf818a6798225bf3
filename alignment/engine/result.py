"""What a comparison found, as plain values. No framework."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from alignment.engine.spread import Spread

ALIGNED, DIFFERS, UNDECIDED = "aligned", "differs", "undecided"
FORWARD, GRADIENT, INPUT, PARAMETER = "forward", "gradient", "input gradient", "parameter gradient"
INIT = "init"
"""The directions in which tensors are compared; in ``init`` it is the distributions that they are drawn from."""


@dataclass(frozen=True)
class Terms:
    """What the number ``Row.relative`` is called, its heading in a table, and what ``Row.floor`` is."""

    measured: str = "relative error"
    heading: str = "error"
    explained: str = "noise floor"


def measured(row: Row) -> str:
    """What was measured of a row, in words: ``error 4.6e-15, limit 2.8e-11 (noise floor 2.9e-15)``."""
    words = terms(row.direction)
    return f"{words.heading} {row.relative:.1e}, limit {row.allowed:.1e} ({words.explained} {row.floor:.1e})"


def terms(direction: str) -> Terms:
    """The terms of one direction."""
    return Terms("distance of distributions", "distance", "chance") if direction == INIT else Terms()


@dataclass(frozen=True)
class Row:
    """One tensor that was compared.

    ``layer`` and ``twin`` are the paths in the reference and in the port, ``depth`` is the position in the order of
    execution, ``shape`` that of the reference. ``relative`` and ``floor`` are over the tensor's largest magnitude;
    ``allowed`` is what the verdict was made with. ``worst`` is the index of the largest error. ``note`` says what
    could not be measured (another shape, a call that is missing on one side). ``undecided`` says why the tensor cannot
    be judged, and is empty where it can. ``place`` is where in a structure that a model returns the tensor stands.
    ``direction`` is ``forward``, ``gradient`` (of the output), ``input gradient`` (of the model's), ``parameter
    gradient`` or ``init``. There ``relative`` is the Kolmogorov-Smirnov distance of two distributions, ``floor`` what
    chance reaches every second time, and ``max_abs`` the difference of the means or of the standard deviations,
    whichever is larger.
    """

    layer: str
    twin: str
    kind: str
    call: int
    depth: int
    leaf: bool
    shape: tuple[int, ...]
    max_abs: float
    relative: float
    floor: float
    allowed: float
    worst: tuple[int, ...] = ()
    note: str = ""
    direction: str = FORWARD
    undecided: str = ""
    place: str = ""

    @property
    def aligned(self) -> bool:
        """Whether rounding explains the difference. A difference that is not a number is none that it explains."""
        return not self.note and not self.undecided and self.relative <= self.allowed

    @property
    def differs(self) -> bool:
        """Whether there is a difference that rounding does not explain."""
        return not self.aligned and not self.undecided

    @property
    def verdict(self) -> str:
        """``aligned``, ``differs`` or ``undecided``."""
        return UNDECIDED if self.undecided else ALIGNED if self.aligned else DIFFERS


@dataclass(frozen=True)
class Skipped:
    """A layer that was not compared, on which ``side`` it is, and why."""

    layer: str
    kind: str
    side: str
    reason: str


CONFIG, WEIGHTS, COMPUTATION, WIRING, STATE, MODE = "config", "weights", "computation", "wiring", "state", "mode"
"""The kinds of fault, in the order in which one explains the next."""


@dataclass(frozen=True)
class Culprit:
    """A layer that is itself at fault, whatever it inherits from the layers before it.

    ``layer`` and ``twin`` are the paths in the reference and in the port, ``kind`` is one of ``config``, ``weights``,
    ``computation``, ``wiring``, ``state`` and ``mode``, ``cause`` says in words what is wrong (``unexplained`` is an
    honest answer), ``evidence`` lists the measurements that show it. ``spread`` says where in a tensor the difference
    sits, where there is one that was measured.
    """

    layer: str
    twin: str
    kind: str
    cause: str
    evidence: tuple[str, ...] = ()
    spread: Spread | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        spread = self.spread.to_dict() if self.spread else None
        return {**asdict(replace(self, spread=None)), "spread": spread}


@dataclass(frozen=True)
class Coverage:
    """``compared`` tensors, ``leaves`` of them of layers without sublayers, with ``elements`` numbers; what was not."""

    compared: int
    leaves: int
    elements: int
    skipped: tuple[Skipped, ...]


@dataclass
class Result:
    """The outcome of one comparison, in the order of execution. Nothing compared is no success.

    ``alignment.engine.reporting.report.Report`` is one that can be printed.

    ``facts`` are what the reader should know of the run (model, weights, inputs, type, versions), in order.
    ``working`` is the same comparison at working precision, where it was asked for; it informs and judges nothing.
    """

    title: str
    dtype: str
    rows: list[Row] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    culprits: list[Culprit] = field(default_factory=list)
    working: Result | None = None
    accepted: str = ""
    missing: list[str] = field(default_factory=list)
    """What the verdict needs and could not be compared."""

    @property
    def passed(self) -> bool:
        """Whether something was compared, all of it is aligned, nothing is missing, and no layer is at fault."""
        return bool(self.rows) and all(row.aligned for row in self.rows) and not self.culprits and not self.missing

    @property
    def undecided(self) -> bool:
        """Whether nothing is known to differ, and yet not everything that decides could be judged."""
        nothing = not self.culprits and self.first_difference is None
        return nothing and not self.passed and bool(self.rows or self.missing)

    @property
    def first_difference(self) -> Row | None:
        """The first tensor in the order of execution that differs by more than rounding explains."""
        return next((row for row in self.rows if row.differs), None)

    @property
    def first_divergence(self) -> str | None:
        """The layer of the first difference, as the reference calls it."""
        return self.first_difference.layer if self.first_difference else None

    @property
    def layers(self) -> list[Row]:
        """One row for each tensor of each layer and direction."""
        return self.rows

    @property
    def coverage(self) -> Coverage:
        """How much was compared, and what was not."""
        sizes = [math.prod(row.shape) for row in self.rows]
        return Coverage(len(self.rows), sum(row.leaf for row in self.rows), sum(sizes), tuple(self.skipped))

    @property
    def worst(self) -> Row | None:
        """The row whose error comes nearest to its limit, or exceeds it most."""
        return max(self.rows, key=lambda row: row.relative / row.allowed if row.allowed else row.relative, default=None)

    def __bool__(self) -> bool:
        """Whether it passed."""
        return self.passed

    def by_cause(self) -> list[list[Culprit]]:
        """The culprits, those of one kind and cause together, in the order of the first of each."""
        groups: dict[tuple[str, str], list[Culprit]] = {}
        for found in self.culprits:
            groups.setdefault((found.kind, found.cause), []).append(found)
        return [*groups.values()]

    def verdict(self) -> str:
        """One sentence: ``ALIGNED``, ``NOT ALIGNED`` or ``UNDECIDED``; the first layer that differs, or the worst."""
        if not self.rows and not self.missing:
            return "NOT ALIGNED: nothing was compared"
        if self.culprits:
            return f"NOT ALIGNED: {self._first_cause()}"
        if self.undecided:
            return f"UNDECIDED: {self._lacks()}"
        first = self.first_difference
        if first is not None:
            faulty = sum(row.differs for row in self.rows)
            return (
                f"NOT ALIGNED: {faulty} of {len(self.rows)} tensors differ, first {first.layer}{first.place}: "
                f"{first.note or measured(first)}"
            )
        worst = self.worst
        assert worst is not None, "without rows nothing is aligned"
        but = f" but for what was accepted ({self.accepted})" if self.accepted else ""
        return f"ALIGNED{but}: {len(self.rows)} tensors ({self.dtype}), worst {worst.layer}: {measured(worst)}"

    def _first_cause(self) -> str:
        """The first cause, how many layers have it, and how many other causes there are."""
        first, *others = self.by_cause()
        found, more = first[0], len(first) - 1
        layers = f"{found.layer} and {more} more" if more else found.layer
        rest = sum(map(len, others))
        besides = f"; {rest} other{'s' * (rest > 1)} at fault, first {others[0][0].layer}" if others else ""
        return f"{found.kind} fault in {layers}: {found.cause}{besides}"

    def _lacks(self) -> str:
        """What could not be judged."""
        rows = [row for row in self.rows if row.undecided]
        words = [*self.missing]
        if rows:
            first = rows[0]
            words.append(
                f"{len(rows)} of {len(self.rows)} tensors cannot be judged, first {first.layer} ({first.direction}): "
                f"{first.undecided}"
            )
        return "; ".join(words)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it; an infinite error is written as the string ``inf``."""
        rows = [{**asdict(row), "verdict": row.verdict} for row in self.rows]
        for row in rows:
            for key in ("max_abs", "relative"):
                row[key] = row[key] if row[key] < float("inf") else "inf"
        return {
            "title": self.title,
            "passed": self.passed,
            "verdict": self.verdict(),
            "dtype": self.dtype,
            "first_divergence": self.first_divergence,
            "culprits": [culprit.to_dict() for culprit in self.culprits],
            "facts": self.facts,
            "missing": self.missing,
            "compared": len(self.rows),
            "rows": rows,
            "skipped": [asdict(item) for item in self.skipped],
            **({"working": self.working.to_dict()} if self.working else {}),
        }

    def at_work(self) -> str:
        """What working precision makes of the port, in one sentence; empty where it was not asked for."""
        if self.working is None or not self.working.rows:
            return ""
        rows = self.working.rows
        within = sum(row.aligned for row in rows)
        worst = max(rows, key=lambda row: row.relative / row.floor if row.floor else float("inf"))
        ratio = worst.relative / worst.floor if worst.floor else float("inf")
        return (
            f"{self.working.dtype} informs: {within} of {len(rows)} tensors within the noise of the reference's own "
            f"{self.working.dtype}; the farthest, {worst.layer} ({worst.direction}), has {ratio:.1f} times its error"
        )
