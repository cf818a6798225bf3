"""Compare two lists of samples and labels, including their order, and explain the difference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alignment.engine.result import CONFIG, Culprit, Row

LIST = "list of samples"
Listed = Sequence[tuple[str, int]]


def compare_lists(reference: Listed, port: Listed) -> tuple[Row, Culprit | None]:
    """Return the row of the report, and the culprit if the lists differ in a name, a label or the order."""
    differing = sum(a != b for a, b in zip(reference, port)) + abs(len(reference) - len(port))
    cause, evidence = "", ()
    if differing:
        place, pair = _first(reference, port)
        cause = list_cause(reference, port)
        evidence = (f"{differing} of {len(reference)} samples differ, first number {place}: {pair}",)
    share = differing / max(len(reference), 1)
    row = Row(LIST, LIST, "(name, label)", 0, 0, True, (len(reference),), float(differing), share, 0.0, 0.0, note=cause)
    where = f"{LIST} from {_named(reference, _first(reference, port)[0])} on" if differing else ""
    return row, Culprit(where, where, CONFIG, cause, evidence) if differing else None


def list_cause(reference: Listed, port: Listed) -> str:
    """Describe the difference of two lists that are not the same."""
    ours, theirs = dict(port), dict(reference)
    missing, extra = theirs.keys() - ours.keys(), ours.keys() - theirs.keys()
    if missing or extra:
        example = min(missing or extra)
        return f"{len(missing)} samples missing, {len(extra)} that the reference has not, such as {example}"
    if len(reference) != len(port):
        return f"{len(port)} samples instead of {len(reference)}: some are listed more than once"
    relabelled = [name for name, label in reference if ours[name] != label]
    if not relabelled:
        return "the same samples in another order"
    classes = {(theirs[name], ours[name]) for name in theirs}
    if len(classes) == len({before for before, _ in classes}) == len({after for _, after in classes}):
        return "classes numbered in another order" + _order(reference, ours)
    nested = all(len(Path(name).parts) > 2 for name in relabelled)
    where = " (in folders within class folders, of which the reference makes classes)" if nested else ""
    return f"{len(relabelled)} samples with another label{where}"


def _order(reference: Listed, ours: dict[str, int]) -> str:
    """Describe whether the port's classes are in alphabetical order, where digits are not numbers."""
    folders = {Path(name).parts[0]: ours[name] for name, _ in reference}
    in_letters = {folder: label for label, folder in enumerate(sorted(folders))}
    return " (that of the letters: '10' before '9')" if folders == in_letters else ""


def _first(reference: Listed, port: Listed) -> tuple[int, str]:
    shortest = min(len(reference), len(port))
    place = next((i for i in range(shortest) if reference[i] != port[i]), shortest)
    ours, theirs = (listed[place] if place < len(listed) else "nothing" for listed in (port, reference))
    return place, f"{ours} instead of {theirs}"


def _named(listed: Listed, place: int) -> str:
    return listed[place][0] if place < len(listed) else "its end"
