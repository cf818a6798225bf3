"""``align_data``: compare two image pipelines stage by stage, every element.

No framework: a pipeline is a callable that takes the bytes of a file. To find a cause, the reference's recipe runs with
one step changed (``recipe_causes.py``), or the pixels alone are compared (``pixel_causes.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from alignment.engine.judging.error import compare
from alignment.engine.pixels.pixel_causes import explain_pixels, pattern
from alignment.engine.pixels.recipe import CROP, DECODE, STAGES, Recipe
from alignment.engine.pixels.recipe_causes import Explanation, as_made, explain, recipe_of
from alignment.engine.reporting.report import Report
from alignment.engine.result import COMPUTATION, Culprit, Row

WHOLE = "input"
"""The name of the single stage of a pipeline that returns an array."""

DIAGNOSED = 3
"""The number of differing samples of a stage that are searched for a cause: two kinds of image may have two causes."""

OF_A_LIBRARY = 48
"""Differences in levels of 255 that JPEG decoders (chroma upsampling) and resizes (filters) cause at edges."""

Pixels = np.ndarray | Mapping[str, np.ndarray]
Pipeline = Callable[[bytes], Pixels]


@dataclass
class Tally:
    """The comparison of one stage so far; ``differing`` are the names of samples that differ."""

    stage: str
    samples: int = 0
    elements: int = 0
    count: int = 0
    max_abs: float = 0.0
    relative: float = 0.0
    worst: tuple[int, ...] = ()
    kind: str = ""
    shapes: set[tuple[int, ...]] = field(default_factory=set)
    differing: list[str] = field(default_factory=list)
    remark: str = ""

    def add(self, name: str, reference: np.ndarray, port: np.ndarray, tolerance: float = 0.0) -> bool:
        """Compare one sample and return whether it is equal. ``tolerance`` is over the largest magnitude."""
        found = compare(reference, port)
        remark = found.mismatch
        if not remark and reference.dtype != port.dtype:
            remark = f"{port.dtype} instead of {reference.dtype}"
        same = not remark and found.relative <= tolerance
        if not same:
            self.fail(name, remark)
            self.count += reference.size if found.mismatch else _unequal(reference, port)
        if found.max_abs > self.max_abs or not self.samples:
            self.max_abs, self.worst = found.max_abs, (self.samples, *found.worst)
        self.relative = max(self.relative, found.relative)
        self.kind = self.kind or str(reference.dtype)
        self.shapes.add(reference.shape)
        self.samples += 1
        self.elements += reference.size
        return same

    def fail(self, name: str, remark: str) -> None:
        """Count a sample as differing for a reason other than its elements."""
        if name not in self.differing:
            self.differing.append(name)
        self.remark = self.remark or remark

    def row(self, depth: int, tolerance: float = 0.0, direction: str = "forward") -> Row:
        """Return the row of the report; its shape starts with the number of samples if all have one shape."""
        shape = (self.samples, *next(iter(self.shapes))) if len(self.shapes) == 1 else (self.elements,)
        return Row(
            layer=self.stage, twin=self.stage, kind=self.kind, direction=direction, call=0, depth=depth, leaf=True,
            shape=shape, max_abs=self.max_abs, relative=self.relative, worst=self.worst, floor=0.0, allowed=tolerance,
            note=self.note(),
        )  # fmt: skip

    def note(self) -> str:
        """Describe how much differs; empty if nothing does."""
        if not self.differing:
            return ""
        much = f"{self.count:,} of {self.elements:,} elements, by at most {self.max_abs:g}"
        where = f"in {len(self.differing)} of {self.samples} samples, first {self.differing[0]}"
        return f"{much}, {where}" + (f" ({self.remark})" if self.remark else "")


def _unequal(reference: np.ndarray, port: np.ndarray) -> int:
    both_nan = (reference != reference) & (port != port)
    return int(np.count_nonzero((reference != port) & ~both_nan))


def align_data(
    reference: Pipeline,
    port: Pipeline,
    samples: Mapping[str, bytes] | Iterable[tuple[str, bytes]],
    *,
    recipe: Recipe | None = None,
    tolerance: float = 0.0,
    title: str = "data, reference against port",
) -> Report:
    """Compare the results of two pipelines for the same files.

    ``reference`` and ``port`` take the bytes of a file and return an array, or several by stage in the order of
    computation. With the stages ``decode``, ``crop`` (both (H, W, C) uint8) and ``normalise`` ((C, H, W) float32) the
    first stage that differs is found directly. ``samples``: the bytes by name. ``recipe``: the reference's steps, for
    the search of causes; without it, known recipes are tried on the first sample that differs. ``tolerance``: allowed
    difference of floats over the largest magnitude (default: none, bit for bit).

    The result has one row for each stage; ``culprits`` holds the first stage that differs, with the name of the first
    such sample and a likely cause. Raises ``ValueError`` where the two return different stages.
    """
    tallies: dict[str, Tally] = {}
    kept: dict[str, list[Case]] = {}
    named = cast("Mapping[str, bytes]", samples).items() if isinstance(samples, Mapping) else samples
    for name, data in named:
        theirs, ours = by_stage(reference(data)), by_stage(port(data))
        if list(theirs) != list(ours):
            raise ValueError(f"the reference has the stages {list(theirs)}, the port {list(ours)}; return the same")
        for stage, expected in theirs.items():
            allowed = tolerance if expected.dtype.kind == "f" else 0.0
            same = tallies.setdefault(stage, Tally(stage)).add(name, expected, ours[stage], allowed)
            if not same and len(kept.setdefault(stage, [])) < DIAGNOSED:
                kept[stage].append(Case(name, data, stage, expected.copy(), ours[stage].copy()))
    rows = [tally.row(depth, _allowed(tally, tolerance)) for depth, tally in enumerate(tallies.values())]
    result = Report(title, "exact" if not tolerance else f"within {tolerance:g}", rows)
    first = next((tally for tally in tallies.values() if tally.differing), None)
    if first is not None:
        result.culprits.append(culprit(first, kept[first.stage], recipe))
    return result


def _allowed(tally: Tally, tolerance: float) -> float:
    return tolerance if tally.kind.startswith("float") else 0.0


def by_stage(made: Pixels) -> dict[str, np.ndarray]:
    """Return the result of a pipeline by stage."""
    stages = made if isinstance(made, Mapping) else {WHOLE: made}
    return {stage: np.asarray(array) for stage, array in stages.items()}


@dataclass(frozen=True)
class Case:
    """One sample of which a stage differs.

    Without ``data`` only the pixels are searched for a cause; a ``remark`` is the cause, and nothing is searched.
    """

    name: str
    data: bytes
    stage: str
    reference: np.ndarray
    port: np.ndarray
    remark: str = ""


def culprit(tally: Tally, cases: list[Case], recipe: Recipe | None) -> Culprit:
    """Return the culprit: the stage that differs, its first sample, and the most informative cause found."""
    found = [(case, *_cause(case, recipe)) for case in cases]
    _, explanation, words = min(found, key=lambda each: each[1].left if each[1] else math.inf)
    agreed = sum(_alike(other, explanation) or said == words for _, other, said in found)
    stage = explanation.stage if explanation and tally.stage == WHOLE else tally.stage
    evidence = [tally.note(), *(f"{each.name}: {said}" for each, _, said in found)]
    if agreed < len(found):
        evidence.append(f"{agreed} of the {len(found)} samples that were looked at have this cause")
    layer = f"{stage} of {cases[0].name}"
    return Culprit(layer, layer, COMPUTATION, words, tuple(evidence))


def _alike(first: Explanation | None, second: Explanation | None) -> bool:
    return first is not None and second is not None and first.cause == second.cause


def _cause(case: Case, recipe: Recipe | None) -> tuple[Explanation | None, str]:
    """Find a cause: exactly by the recipe, then by the pixels, then approximately by the recipe."""
    if case.remark:
        return None, case.remark
    by_recipe = _by_recipe(case, recipe)
    if by_recipe is not None and by_recipe.exact:
        return by_recipe, by_recipe.words()
    in_pixels = explain_pixels(case.reference, case.port)
    if in_pixels:
        return Explanation(case.stage, in_pixels, 0.0), in_pixels
    if by_recipe is not None:
        return by_recipe, by_recipe.words()
    return None, _unexplained(case)


def _unexplained(case: Case) -> str:
    words = pattern(case.reference, case.port)
    same_shape = case.reference.shape == case.port.shape
    if not (case.data and same_shape and case.reference.dtype == case.port.dtype == np.uint8):
        return f"unexplained: {words}"
    by = {DECODE: "decoded", CROP: "resized"}.get(case.stage, "decoded or resized")
    near = compare(case.reference, case.port).max_abs <= OF_A_LIBRARY
    return f"{by} with another library: {words}" if near else f"unexplained: {words}"


def _by_recipe(case: Case, recipe: Recipe | None) -> Explanation | None:
    stage, moved = case.stage, False
    if not case.data:
        return None
    if stage not in STAGES:
        known = recipe_of(case.reference, case.data)
        if known is None:
            return None
        found, stage, moved = known
        recipe = recipe or found
    elif recipe is None:
        return None
    reference, port = (as_made(array, stage, moved) for array in (case.reference, case.port))
    if stage != DECODE and reference.shape != port.shape:
        return None
    return explain(recipe, case.data, stage, reference, port)
