"""Hypotheses on the same elements in other places: permuted, flattened, shifted, joined differently. numpy only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, permutations, product

import numpy as np

from alignment.engine.explaining.case import Case, is_float, varied

SHIFTS = (1, -1, 2, -2)
"""The shifts that are tried along one axis of a map."""


def rearranged(case: Case) -> str:
    """Test for the same elements in another shape."""
    if case.expected.size != case.actual.size or case.same_shape:
        return ""
    if case.same(case.expected.ravel(), case.actual.ravel()):
        return f"shape {list(case.actual.shape)} instead of {list(case.expected.shape)}, the same elements"
    return ""


def moved(case: Case) -> str:
    """Test for the same map rotated, mirrored or shifted, or the batch in another order."""
    if not case.same_shape or not case.may_be_rearranged:
        return ""
    return next((words for words, other in _moves(case.expected) if case.is_actual(other)), "")


def _moves(array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    if array.ndim >= 4:
        yield "height and width exchanged", array.swapaxes(-1, -2)
    for axis in range(2, array.ndim):
        yield f"mirrored along axis {axis}", np.flip(array, axis)
    for axis, step in product(range(array.ndim), SHIFTS):
        if array.shape[axis] > 2:  # with two entries, a shift, a flip and a swap are equal
            yield f"shifted by {step} along axis {axis}", np.roll(array, step, axis)


def rolled(case: Case) -> str:
    """Test for a map shifted along two axes, as windows with another offset."""
    if not case.same_shape or not case.may_be_rearranged:
        return ""
    for axes in combinations(range(1, case.expected.ndim), 2):
        steps = [_roll_along(case.expected, case.actual, axis, axes) for axis in axes]
        if all(steps) and case.is_actual(np.roll(case.expected, steps, axes)):
            return f"shifted by {steps} along axes {list(axes)}"
    return ""


def _roll_along(expected: np.ndarray, actual: np.ndarray, axis: int, axes: tuple[int, ...]) -> int:
    """Return the shift of ``actual`` along one of two ``axes``; the other is summed, the rest randomly projected."""
    partner = next(other for other in axes if other != axis)
    ours, theirs = (np.moveaxis(a.sum(partner, keepdims=True), axis, 0) for a in (expected, actual))
    direction = np.random.RandomState(0).standard_normal(ours[0].size)
    ours, theirs = (array.reshape(len(array), -1) @ direction for array in (ours, theirs))
    distances = [np.abs(np.roll(ours, step) - theirs).max() for step in range(len(ours))]
    step = int(np.argmin(distances))
    return step - len(ours) if step > len(ours) // 2 else step


def permuted(case: Case) -> str:
    """Test for the same slices in another order along one axis; channels first."""
    if not case.same_shape or not case.may_be_rearranged:
        return ""
    rank = case.expected.ndim
    axes = sorted((axis for axis, size in enumerate(case.expected.shape) if size > 1), key=lambda axis: axis != 1)
    for axis in axes:
        order = _order(case.expected, case.actual, axis)
        # several slices of the port may match one of the reference's: that is no permutation
        if len({*order.tolist()}) == len(order) and case.is_actual(np.take(case.expected, order, axis)):
            # with three axes, the second is that of the tokens or of the channels
            channels = "positions along axis 1" if rank == 3 else "channels"
            name = {0: "entries of axis 0", 1: channels}.get(axis, f"positions along axis {axis}")
            if np.array_equal(order, np.arange(len(order))[::-1]):
                return f"{name} reversed (permuted)"
            return f"{name} permuted: {runs(order)}"
    return ""


def _order(expected: np.ndarray, actual: np.ndarray, axis: int) -> np.ndarray:
    """Return the slice of ``expected`` nearest to each slice of ``actual``, by a random projection."""
    direction = np.random.RandomState(0).standard_normal(expected.size // expected.shape[axis])
    ours, theirs = (
        np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) @ direction for array in (expected, actual)
    )
    by_value = np.argsort(ours, kind="stable")
    right = np.clip(np.searchsorted(ours[by_value], theirs), 1, len(ours) - 1)
    left_is_nearer = np.abs(ours[by_value][right - 1] - theirs) <= np.abs(ours[by_value][right] - theirs)
    return by_value[np.where(left_is_nearer, right - 1, right)]


def runs(order: np.ndarray, shown: int = 6) -> str:
    """Format an order as runs of neighbours: ``0-63, 128-191, 64-127``."""
    breaks = np.flatnonzero(np.diff(order) != 1) + 1
    found = [f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in np.split(order, breaks)]
    return ", ".join(found[:shown]) + (", ..." if len(found) > shown else "")


def reordered(case: Case) -> str:
    """Test for a known tensor whose axes are permuted before it is flattened or reshaped."""
    if not case.same_shape or not case.may_be_rearranged:
        return ""
    for name, array in case.known.items():
        if array.size != case.expected.size or not 3 <= array.ndim <= 5 or not varied(array):
            continue
        right = _order_of_axes(case, case.expected, array)
        wrong = _order_of_axes(case, case.actual, array) if right else None
        if right and wrong and wrong != right:
            return f"{name} is reshaped with its axes in the order {list(wrong)} instead of {list(right)}"
    return ""


def _order_of_axes(case: Case, side: np.ndarray, array: np.ndarray) -> tuple[int, ...] | None:
    """Return the order of axes in which ``array``, read element by element, is ``side``; the batch stays first."""
    first = side.reshape(-1)[: array.shape[-1]]
    for order in permutations(range(array.ndim)):
        turned = array.transpose(order)
        # compare the first few elements before copying all
        begin = turned[(0,) * (array.ndim - 1)][: len(first)]
        near = np.abs(begin - first[: len(begin)]) <= case.limit * max(1e-300, float(np.abs(side).max()))
        if near.all() and case.same(side.reshape(-1), turned.reshape(-1)):
            return order
    return None


def turned(case: Case) -> str:
    """Test for permuted axes whose elements are reshaped to the original shape, or the reverse."""
    if not case.same_shape or not case.may_be_rearranged or not 3 <= case.expected.ndim <= 5:
        return ""
    shape = case.expected.shape
    for order in permutations(range(1, len(shape))):
        if case.is_actual(case.expected.transpose(0, *order).reshape(shape)):
            return f"its axes are taken in the order {[0, *order]} and reshaped to {list(shape)}"
        moved_shape = [shape[axis] for axis in (0, *order)]
        if case.is_actual(case.expected.reshape(moved_shape).transpose(np.argsort((0, *order)))):
            return f"it is reshaped from {moved_shape}, whose axes are [0, {', '.join(map(str, order))}]"
    return ""


def moved_before_it_is_flattened(case: Case) -> str:
    """Test for a rotated, shifted or permuted map, in the shape of a known tensor that was flattened to this one."""
    if not case.same_shape or not case.may_be_rearranged:
        return ""
    shapes = dict.fromkeys(array.shape for array in case.known.values() if array.size == case.expected.size)
    for shape in shapes:
        if len(shape) > max(case.expected.ndim, 2):
            inner = replace(case, expected=case.expected.reshape(shape), actual=case.actual.reshape(shape))
            words = next(filter(None, (moves(inner) for moves in (moved, rolled, permuted))), "")
            if words:
                return f"as {list(shape)}, before it is flattened: {words}"
    return ""


def moved_before_a_parameter_is_added(case: Case) -> str:
    """Test for another order of the term to which a parameter, e.g. a position embedding, is added."""
    if not case.same_shape:
        return ""
    for name, array in case.parameters.items():
        fits = 2 <= array.ndim <= case.expected.ndim and case.expected.shape[-array.ndim + 1 :] == array.shape[1:]
        if not fits or array.shape[0] not in (1, case.expected.shape[-array.ndim]) or array.dtype.kind != "f":
            continue
        inner = replace(case, expected=case.expected - array, actual=case.actual - array)
        words = next(filter(None, (moves(inner) for moves in (moved, rolled, permuted, concatenated))), "")
        if words:
            return f"{words}, before {name} is added"
    return ""


def concatenated(case: Case) -> str:
    """Test for known tensors joined along one axis in another order, or with others among them."""
    for axis in sorted(range(1, case.expected.ndim), key=lambda axis: axis != 1):
        right = _blocks(case.expected, case, axis)
        wrong = _blocks(case.actual, case, axis) if right else []
        if right and wrong and right != wrong:
            along = "" if axis == 1 else f" along axis {axis}"
            return f"concatenates {', '.join(wrong)} instead of {', '.join(right)}{along}"
    return ""


def _blocks(array: np.ndarray, case: Case, axis: int) -> list[str]:
    """Return the known tensors that make up ``array`` along ``axis``; empty if they do not, or it is a single one."""
    if array.ndim <= axis:
        return []
    found, start = [], 0
    while start < array.shape[axis]:
        for name, part in case.known.items():
            width = part.shape[axis] if part.ndim == array.ndim else 0
            if width and case.same(array[(slice(None),) * axis + (slice(start, start + width),)], part):
                found.append(name)
                start += width
                break
        else:
            return []
    return found if len(found) > 1 else []


def another_tensor(case: Case) -> str:
    """Test whether the value is another known tensor."""
    name = next((name for name, array in case.known.items() if case.is_actual(array)), "")
    right = next((n for n, array in case.known.items() if case.is_expected(array)), "") if name else ""
    return f"is {name}" + (f" instead of {right}" if right else "") if name else ""


def partly(case: Case) -> str:
    """Describe where along an axis the difference is, if only at some positions."""
    if not (case.same_shape and is_float(case.actual) and is_float(case.expected)):
        return ""
    scale = float(np.abs(case.expected).max(initial=0.0)) * case.limit
    wrong = ~(np.abs(case.actual - case.expected) <= scale)
    for axis in sorted(range(wrong.ndim), key=lambda a: a != 1):
        places = np.flatnonzero(wrong.any(axis=tuple(a for a in range(wrong.ndim) if a != axis)))
        if 0 < len(places) * 2 <= wrong.shape[axis]:
            return f"unexplained; only at {runs(places)} of {wrong.shape[axis]} along axis {axis}"
    return ""
