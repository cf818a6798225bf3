"""The result of a comparison, as plain values. No framework."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from alignment.engine.spread import Spread

ALIGNED, DIFFERS, UNDECIDED = "aligned", "differs", "undecided"
FORWARD, GRADIENT, INPUT, PARAMETER = "forward", "gradient", "input gradient", "parameter gradient"
INIT = "init"
"""The directions in which tensors are compared; ``init`` compares the distributions that they are drawn from."""


@dataclass(frozen=True)
class Terms:
    """The name of ``Row.relative``, its heading in a table, and the name of ``Row.floor``."""

    measured: str = "relative error"
    heading: str = "error"
    explained: str = "noise floor"


def measured(row: Row) -> str:
    """Return the measurement of a row as text: ``error 4.6e-15, limit 2.8e-11 (noise floor 2.9e-15)``."""
    words = terms(row.direction)
    return f"{words.heading} {row.relative:.1e}, limit {row.allowed:.1e} ({words.explained} {row.floor:.1e})"


def terms(direction: str) -> Terms:
    """Return the terms of a direction."""
    return Terms("distance of distributions", "distance", "chance") if direction == INIT else Terms()


@dataclass(frozen=True)
class Row:
    """One compared tensor.

    ``layer`` and ``twin`` are the paths in the reference and in the port, ``depth`` is the position in the order of
    execution, ``shape`` that of the reference. ``relative`` and ``floor`` are over the tensor's largest magnitude;
    ``allowed`` is the limit behind the verdict. ``worst`` is the index of the largest error. ``note`` names what could
    not be measured (another shape, a call that is missing on one side). ``undecided`` is the reason why the tensor
    cannot be judged, and empty otherwise. ``place`` is the tensor's position in the structure that a model returns.
    ``direction`` is ``forward``, ``gradient`` (of the output), ``input gradient`` (of the model's),
    ``parameter gradient`` or ``init``. For ``init``, ``relative`` is the Kolmogorov-Smirnov distance of two
    distributions, ``floor`` the distance that chance reaches every second time, and ``max_abs`` the difference of the
    means or of the standard deviations, whichever is larger.
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
        """Whether rounding explains the difference. NaN never counts as aligned."""
        return not self.note and not self.undecided and self.relative <= self.allowed

    @property
    def differs(self) -> bool:
        """Whether the difference exceeds what rounding explains."""
        return not self.aligned and not self.undecided

    @property
    def verdict(self) -> str:
        """``aligned``, ``differs`` or ``undecided``."""
        return UNDECIDED if self.undecided else ALIGNED if self.aligned else DIFFERS


@dataclass(frozen=True)
class Skipped:
    """A layer that was not compared, the ``side`` that has it, and the reason."""

    layer: str
    kind: str
    side: str
    reason: str


CONFIG, WEIGHTS, COMPUTATION, WIRING, STATE, MODE = "config", "weights", "computation", "wiring", "state", "mode"
"""The kinds of fault; an earlier kind explains the later ones."""


@dataclass(frozen=True)
class Culprit:
    """A layer that is itself at fault, apart from what it inherits from the layers before it.

    ``layer`` and ``twin`` are the paths in the reference and in the port. ``kind`` is one of ``config``, ``weights``,
    ``computation``, ``wiring``, ``state`` and ``mode``. ``cause`` describes what is wrong, ``unexplained`` if no cause
    was found. ``evidence`` lists the measurements. ``spread`` describes where in a tensor the difference sits, if that
    was measured.
    """

    layer: str
    twin: str
    kind: str
    cause: str
    evidence: tuple[str, ...] = ()
    spread: Spread | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the culprit as JSON-serialisable values."""
        spread = self.spread.to_dict() if self.spread else None
        return {**asdict(replace(self, spread=None)), "spread": spread}


@dataclass(frozen=True)
class Coverage:
    """How many tensors were ``compared`` (``leaves`` of layers without sublayers), their ``elements``, and the rest."""

    compared: int
    leaves: int
    elements: int
    skipped: tuple[Skipped, ...]


@dataclass
class Result:
    """The outcome of one comparison, in the order of execution. It fails if nothing was compared.

    ``alignment.engine.reporting.report.Report`` is the printable subclass.

    ``facts`` describe the run (model, weights, inputs, dtype, versions), in order. ``working`` is the same comparison
    at working precision, where it was asked for; it is informative and not judged.
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
    """What the verdict requires and could not be compared."""

    @property
    def passed(self) -> bool:
        """Whether something was compared, every row is aligned, nothing is missing, and no layer is at fault."""
        return bool(self.rows) and all(row.aligned for row in self.rows) and not self.culprits and not self.missing

    @property
    def undecided(self) -> bool:
        """Whether nothing is known to differ, but something that the verdict requires could not be judged."""
        nothing = not self.culprits and self.first_difference is None
        return nothing and not self.passed and bool(self.rows or self.missing)

    @property
    def first_difference(self) -> Row | None:
        """The first row, in the order of execution, whose difference exceeds what rounding explains."""
        return next((row for row in self.rows if row.differs), None)

    @property
    def first_divergence(self) -> str | None:
        """The layer of the first difference, by the reference's path."""
        return self.first_difference.layer if self.first_difference else None

    @property
    def layers(self) -> list[Row]:
        """The rows: one for each tensor of each layer and direction."""
        return self.rows

    @property
    def coverage(self) -> Coverage:
        """How much was compared, and what was not."""
        sizes = [math.prod(row.shape) for row in self.rows]
        return Coverage(len(self.rows), sum(row.leaf for row in self.rows), sum(sizes), tuple(self.skipped))

    @property
    def worst(self) -> Row | None:
        """The row with the largest ratio of error to limit."""
        return max(self.rows, key=lambda row: row.relative / row.allowed if row.allowed else row.relative, default=None)

    def __bool__(self) -> bool:
        """Return ``passed``."""
        return self.passed

    def by_cause(self) -> list[list[Culprit]]:
        """Group the culprits by kind and cause, in the order of the first of each group."""
        groups: dict[tuple[str, str], list[Culprit]] = {}
        for found in self.culprits:
            groups.setdefault((found.kind, found.cause), []).append(found)
        return [*groups.values()]

    def verdict(self) -> str:
        """Return one sentence: ``ALIGNED``, ``NOT ALIGNED`` or ``UNDECIDED``; the first difference, or the worst row.
        """
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
        """Return the first cause, the number of layers that have it, and the number of other causes."""
        first, *others = self.by_cause()
        found, more = first[0], len(first) - 1
        layers = f"{found.layer} and {more} more" if more else found.layer
        rest = sum(map(len, others))
        besides = f"; {rest} other{'s' * (rest > 1)} at fault, first {others[0][0].layer}" if others else ""
        return f"{found.kind} fault in {layers}: {found.cause}{besides}"

    def _lacks(self) -> str:
        """Return what could not be judged."""
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
        """Return everything as JSON-serialisable values; an infinite error is the string ``inf``."""
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
        """Return a sentence about the port at working precision; empty if that was not asked for."""
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
