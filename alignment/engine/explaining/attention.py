"""Hypotheses on attention: scale of the scores, swapped roles, split of heads, softmax axis, mask. numpy only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import combinations, permutations, product
from typing import Any

import numpy as np

from alignment.engine.explaining.activations import softmax
from alignment.engine.explaining.case import Case, factor
from alignment.engine.explaining.terms import as_root

ROLES = ("q", "k", "v")
FEW = 4
"""The number of queries of the first sample on which a form is tested first."""
MOST_HEADS = 64
MOST_ADDED = 4
"""The number of tensors in the shape of scores that may be added to them."""
PACKED = ("three, heads, width", "heads, three, width", "heads, width, three")
"""The layouts of the last axis of (B, N, 3 * C)."""

SCALES: dict[str, Callable[[int, int], float]] = {
    "by 1 / sqrt(width of a head)": lambda d, c: d**-0.5,
    "not at all": lambda d, c: 1.0,
    "by 1 / (width of a head), without the root": lambda d, c: 1 / d,
    "by 1 / sqrt(width of all heads)": lambda d, c: c**-0.5,
    "by sqrt(width of a head)": lambda d, c: d**0.5,
}


@dataclass(frozen=True)
class Form:
    """A form of attention. ``roles`` are the tensors used as q, k and v.

    ``scaled_as`` is the number of heads by which scores are scaled, if that is not ``heads``.
    """

    heads: int
    scale: str = "by 1 / sqrt(width of a head)"
    roles: tuple[int, ...] = (0, 1, 2)
    packed: str = "three, heads, width"
    softmax: str = "the keys"
    mask: str = "no mask"
    added: tuple[str, ...] = ()
    merged: str = "token by token"
    scaled_as: int = 0

    def differences(self, other: Form) -> str:
        """Describe how ``other``, the port's form, differs."""
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return "; ".join(_difference(name, right, wrong) for name, right, wrong in pairs if right != wrong)


def _difference(name: str, right: Any, wrong: Any) -> str:
    if name == "roles":
        moved = [f"{ROLES[took]} for {ROLES[role]}" for role, took in zip(right, wrong) if took != role]
        return f"roles exchanged: {', '.join(moved)}"
    if name == "added":
        left, more = ([one for one in a if one not in b] for a, b in ((right, wrong), (wrong, right)))
        return " and ".join([f"{one} is not added to the scores" for one in left] + [f"{one} is added" for one in more])
    return {
        "heads": f"{wrong} heads instead of {right}",
        "scale": f"scores are scaled {wrong} instead of {right}",
        "packed": f"q, k and v are cut out as ({wrong}) instead of ({right})",
        "softmax": f"softmax over {wrong} instead of {right}",
        "mask": f"{wrong} instead of {right}",
        "scaled_as": f"scores are scaled as for {wrong} heads",
        "merged": f"the output is joined {wrong} instead of {right}",
    }[name]


@dataclass(frozen=True)
class Source:
    """The inputs of attention: q, k and v, or one tensor of all three; and what may be added to the scores."""

    tensors: tuple[np.ndarray, ...]
    added: Mapping[str, np.ndarray]

    def first(self) -> Source:
        """Return the first sample only."""
        return Source(tuple(t[:1] for t in self.tensors), {name: bias[:1] for name, bias in self.added.items()})


def attention(case: Case) -> str:
    """Test for attention on known tensors in another form than the reference's."""
    if not case.same_shape or case.expected.ndim != 3:
        return ""
    for tensors in _sources(case):
        added = dict(_added(case, tensors))
        turned = {f"{name} transposed": bias.swapaxes(-1, -2) for name, bias in added.items()}
        source = Source(tensors, added | {name: bias for name, bias in turned.items() if _square(bias)})
        right = next((form for form in _usual(case, source) if _is(case, case.expected, form, source)), None)
        if right is None:
            continue
        wrong = next((form for form in _others(right, case) if _is(case, case.actual, form, source)), None)
        if wrong:
            return f"attention: {right.differences(wrong)}"
    return ""


def _sources(case: Case) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield known tensors that may be q, k and v: one of three times the width, or three with such names."""
    samples, tokens, width = case.expected.shape
    for array in case.known.values():
        if array.shape == (samples, tokens, 3 * width):
            yield (array,)
    named = [_role(name) for name in case.known]
    if all(role in named for role in ROLES):
        names = [*case.known]
        chosen = tuple(names[named.index(role)] for role in ROLES)
        arrays = tuple(case.known[name] for name in chosen)
        whole = all(array.ndim == 3 and array.shape[::2] == (samples, width) for array in arrays)
        if whole and arrays[0].shape[1] == tokens and arrays[1].shape == arrays[2].shape:
            yield arrays


def _role(name: str) -> str:
    """Return ``q``, ``k`` or ``v`` for "the output of attn.q_proj", "... query", "... to_k"; else nothing."""
    last = re.split(r"[ .]", name)[-1] if name.startswith("the output") else ""
    found = re.fullmatch(r"(?:to_|w|linear_)?(q|k|v|query|key|value)(?:s|_?proj|_?lin|_?linear|_?layer)?", last)
    return found[1][0] if found else ""


def _added(case: Case, tensors: tuple[np.ndarray, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what may be added to the scores, (B, heads or 1, queries, keys): masks, tables of relative positions."""
    samples, queries = tensors[0].shape[:2]
    square = queries, tensors[len(tensors) // 2].shape[1]
    for name, array in {**case.known, **case.parameters}.items():
        if array.ndim in (2, 3, 4) and array.shape[-2:] == square and array.dtype.kind == "f":
            if array.ndim == 4 and array.shape[0] in (1, samples):
                yield name, np.broadcast_to(array, (samples, *array.shape[1:]))
            elif array.ndim == 3 and samples % len(array) == 0 and len(array) > 1:  # of the windows of one image
                yield name, np.tile(array[:, None], (samples // len(array), 1, 1, 1))
            elif array.ndim == 2:
                yield name, np.broadcast_to(array, (samples, 1, *square))
        if array.ndim == 3 and array.shape[1:] == square and array.dtype.kind == "f":  # of the heads
            yield f"{name} (of each head)", np.broadcast_to(array, (samples, *array.shape))
    indices = [a for a in case.parameters.values() if a.dtype.kind in "iu" and a.size == square[0] * square[1]]
    for name, table in case.parameters.items():
        for index in indices if table.ndim == 2 and table.dtype.kind == "f" else ():
            if index.min() >= 0 and index.max() < len(table):
                bias = table[index.reshape(square)].transpose(2, 0, 1)
                yield name, np.broadcast_to(bias, (samples, *bias.shape))


def _square(scores: np.ndarray) -> bool:
    return scores.shape[-1] == scores.shape[-2]


def _usual(case: Case, source: Source) -> Iterator[Form]:
    """Yield the forms that the reference may have."""
    names = [name for name in source.added if not name.endswith(" transposed")][:MOST_ADDED]
    sums = [(), *((name,) for name in names), *combinations(names, 2)]
    width = case.expected.shape[-1]
    for heads in range(1, min(width, MOST_HEADS) + 1):
        if width % heads == 0:
            for packed in PACKED:
                for scale, added in product(("by 1 / sqrt(width of a head)", "not at all"), sums):
                    if all(source.added[name].shape[1] in (1, heads) for name in added):
                        for mask in ("no mask", "a causal mask"):
                            yield Form(heads, scale, packed=packed, mask=mask, added=added)


def _others(right: Form, case: Case) -> Iterator[Form]:
    """Yield the forms that a port may have instead; each differs in one way."""
    width = case.expected.shape[-1]
    yield from (replace(right, scale=scale) for scale in SCALES if scale != right.scale)
    yield from (replace(right, roles=roles) for roles in permutations(range(3)) if roles != right.roles)
    yield replace(right, softmax="the queries")
    for name in right.added:
        rest = tuple(other for other in right.added if other != name)
        yield replace(right, added=rest)
        yield replace(right, added=(*rest, f"{name} transposed"))
    yield replace(right, mask="no mask" if right.mask == "a causal mask" else "a causal mask")
    yield replace(right, merged="head by head")
    yield from (replace(right, packed=packed) for packed in PACKED if packed != right.packed)
    counts = [heads for heads in range(1, min(width, MOST_HEADS) + 1) if width % heads == 0 and heads != right.heads]
    yield from (replace(right, heads=heads) for heads in counts)
    yield from (replace(right, heads=heads, scaled_as=right.heads) for heads in counts)


def _is(case: Case, side: np.ndarray, form: Form, source: Source) -> bool:
    """Return whether attention in this form is ``side``; if possible a few queries are tested first."""
    tensors = source.tensors
    if any(name not in source.added or source.added[name].shape[1] not in (1, form.heads) for name in form.added):
        return False
    if len(tensors) == 3 and (form.packed != "three, heads, width" or not _alike(tensors, form.roles)):
        return False
    if form.softmax == "the keys" and form.merged == "token by token":
        few = side[:1, :FEW]
        near = np.abs(_attended(form, source.first(), few.shape[1]) - few)
        if not (near <= case.limit * np.abs(side).max()).all():
            return False
    return case.same(side, _attended(form, source))


def _alike(tensors: tuple[np.ndarray, ...], roles: tuple[int, ...]) -> bool:
    """Return whether tensors of these lengths can have these roles.

    There must be as many keys as values, and as many queries as before.
    """
    lengths = [tensors[role].shape[1] for role in roles]
    return lengths[1] == lengths[2] and lengths[0] == tensors[0].shape[1]


def _attended(form: Form, source: Source, queries: int | None = None) -> np.ndarray:
    """Compute attention, (B, N, C), of the first ``queries`` only if given."""
    tensors = source.tensors
    three = [_split(tensor, form.heads) for tensor in tensors] if len(tensors) == 3 else _unpacked(tensors[0], form)
    q, k, v = (three[role] for role in form.roles)  # (B, heads, N, width)
    width = q.shape[-1]
    scale = SCALES[form.scale](width * form.heads // (form.scaled_as or form.heads), width * form.heads)
    scores = q[:, :, :queries] @ k.swapaxes(-1, -2) * scale
    for name in form.added:
        scores = scores + source.added[name][:, :, :queries]
    if form.mask == "a causal mask":
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    axis = -1 if form.softmax == "the keys" else -2
    mixed = softmax(scores, axis) @ v
    if form.merged == "token by token":
        mixed = mixed.swapaxes(1, 2)
    return np.ascontiguousarray(mixed).reshape(len(q), -1, width * form.heads)


def _split(tensor: np.ndarray, heads: int) -> np.ndarray:
    return tensor.reshape(*tensor.shape[:2], heads, -1).swapaxes(1, 2)


def _unpacked(tensor: np.ndarray, form: Form) -> np.ndarray:
    """Unpack q, k and v, each (B, heads, N, width), from (B, N, 3 * C)."""
    samples, tokens, whole = tensor.shape
    sizes = {"three": 3, "heads": form.heads, "width": whole // 3 // form.heads}
    axes = form.packed.split(", ")
    parts = tensor.reshape(samples, tokens, *(sizes[axis] for axis in axes))
    at = {axis: 2 + number for number, axis in enumerate(axes)}
    return parts.transpose(at["three"], 0, at["heads"], 1, at["width"])


def masked(case: Case) -> str:
    """Test for a softmax with a mask on one side only, added to the scores before it."""
    if not case.same_shape or case.expected.ndim < 2:
        return ""
    for words, whole, part in (
        ("a mask is left out before", case.actual, case.expected),
        ("a mask is applied before", case.expected, case.actual),
    ):
        seen = np.where(part != 0, whole, 0)
        for axis in range(whole.ndim) if (part == 0).any() and (seen != whole).any() else ():
            sums = whole.sum(axis)
            if np.abs(sums - 1).max() <= 2.0**-40 and case.same(part, seen / seen.sum(axis, keepdims=True)):
                return f"{words} the softmax over axis {axis}"
    return ""


def softened(case: Case) -> str:
    """Test for a softmax whose scores are all scaled by one number, e.g. by the width of a head."""
    if not case.same_shape or case.expected.ndim < 2:
        return ""
    for axis in range(case.expected.ndim):
        right, wrong = (_logits(case, side, axis) for side in (case.expected, case.actual))
        if right is None or wrong is None:
            continue
        number = factor(wrong, right)
        if number > 0 and case.is_actual(softmax(number * right, axis)):
            return f"scores are {number:.6g} times the reference's before the softmax over axis {axis}{as_root(number)}"
    return ""


def _logits(case: Case, side: np.ndarray, axis: int) -> np.ndarray | None:
    """Return the scores whose softmax over ``axis`` is ``side``, with a mean of 0; ``None`` if it is not a softmax."""
    first = np.moveaxis(side, axis, -1).reshape(-1, side.shape[axis])[:1] if side.size else side.reshape(0, 1)
    if not (len(first) and side.shape[axis] > 2 and abs(first.sum() - 1) <= 2.0**-40):
        return None
    if not (side > 0).all() or (np.abs(side.sum(axis) - 1) > 2.0**-40).any():
        return None
    logits = np.log(side)
    return logits - logits.mean(axis, keepdims=True)
