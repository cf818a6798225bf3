"""Attention: another scale of the scores, roles exchanged, heads split otherwise, another axis or mask. numpy only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import permutations

import numpy as np

from alignment.engine.explaining.case import Case, factor, is_real

ROLES = ("q", "k", "v")
FEW = 4
"""Queries of the first sample on which a form is tried before all are computed."""
MOST_HEADS = 64
PACKED = ("three, heads, width", "heads, three, width", "heads, width, three")
"""How the last axis of (B, N, 3 * C) is laid out."""

SCALES: dict[str, Callable[[int, int], float]] = {
    "by 1 / sqrt(width of a head)": lambda d, c: d**-0.5,
    "not at all": lambda d, c: 1.0,
    "by 1 / (width of a head), without the root": lambda d, c: 1 / d,
    "by 1 / sqrt(width of all heads)": lambda d, c: c**-0.5,
    "by sqrt(width of a head)": lambda d, c: d**0.5,
}


@dataclass(frozen=True)
class Form:
    """How attention is computed. ``roles`` are what q, k and v are taken from."""

    heads: int
    scale: str = "by 1 / sqrt(width of a head)"
    roles: tuple[int, ...] = (0, 1, 2)
    packed: str = "three, heads, width"
    softmax: str = "the keys"
    mask: str = "no mask"
    merged: str = "put back in the order of the tokens"

    def differences(self, other: Form, names: tuple[str, ...]) -> str:
        """In what ``other``, the port, differs, in words; its scale and heads with their numbers."""
        words = []
        for name in (f.name for f in fields(self)):
            right, wrong = getattr(self, name), getattr(other, name)
            if right != wrong:
                words.append(_difference(name, right, wrong, names))
        return "; ".join(words)


def _difference(name: str, right: object, wrong: object, names: tuple[str, ...]) -> str:
    if name == "roles":
        moved = [f"{names[took]} for {names[role]}" for role, took in zip(right, wrong) if took != role]
        return f"roles exchanged: {', '.join(moved)}"
    return {
        "heads": f"{wrong} heads instead of {right}",
        "scale": f"scores are scaled {wrong} instead of {right}",
        "packed": f"q, k and v are cut out as ({wrong}) instead of ({right})",
        "softmax": f"softmax over {wrong} instead of {right}",
        "mask": f"{wrong} instead of {right}",
        "merged": f"heads are {wrong} instead of {right}",
    }[name]


def attention(case: Case) -> str:
    """Softmax of q and k times v, of known tensors, in another form than the reference's."""
    if not case.same_shape or case.expected.ndim != 3:
        return ""
    for names, tensors in _sources(case):
        right = next((form for form in _usual(case) if _is(case, case.expected, form, tensors)), None)
        if right is None:
            continue
        wrong = next((form for form in _others(right, case) if _is(case, case.actual, form, tensors)), None)
        if wrong:
            return f"attention: {right.differences(wrong, names)}"
    return ""


def _sources(case: Case) -> Iterator[tuple[tuple[str, ...], tuple[np.ndarray, ...]]]:
    """Known tensors that may be q, k and v: one of three times the width, or three that are named so."""
    samples, tokens, width = case.expected.shape
    for array in case.known.values():
        if array.shape == (samples, tokens, 3 * width) and is_real(array):
            yield ROLES, (array,)
    named = [_role(name) for name in case.known]
    if all(role in named for role in ROLES):
        names = [*case.known]
        chosen = tuple(names[named.index(role)] for role in ROLES)
        arrays = tuple(case.known[name] for name in chosen)
        whole = all(array.ndim == 3 and array.shape[::2] == (samples, width) for array in arrays)
        if whole and arrays[0].shape[1] == tokens and arrays[1].shape == arrays[2].shape:
            yield ROLES, arrays


def _role(name: str) -> str:
    """``q``, ``k`` or ``v`` of "the output of attn.q_proj", "... query", "... to_k"; else nothing."""
    last = re.split(r"[ .]", name)[-1] if name.startswith("the output") else ""
    found = re.fullmatch(r"(?:to_|w|linear_)?(q|k|v|query|key|value)(?:s|_?proj|_?lin|_?linear|_?layer)?", last)
    return found[1][0] if found else ""


def _usual(case: Case) -> Iterator[Form]:
    """The forms that the reference may have."""
    width = case.expected.shape[-1]
    for heads in range(1, min(width, MOST_HEADS) + 1):
        if width % heads == 0:
            for packed in PACKED:
                for scale in ("by 1 / sqrt(width of a head)", "not at all"):
                    for mask in ("no mask", "a causal mask"):
                        yield Form(heads, scale, packed=packed, mask=mask)


def _others(right: Form, case: Case) -> Iterator[Form]:
    """What a port may do instead: each differs in one thing."""
    width = case.expected.shape[-1]
    yield from (replace(right, scale=scale) for scale in SCALES if scale != right.scale)
    yield from (replace(right, roles=roles) for roles in permutations(range(3)) if roles != right.roles)
    yield replace(right, softmax="the queries")
    yield replace(right, mask="no mask" if right.mask == "a causal mask" else "a causal mask")
    yield replace(right, merged="joined without that")
    yield from (replace(right, packed=packed) for packed in PACKED if packed != right.packed)
    counts = (heads for heads in range(1, min(width, MOST_HEADS) + 1) if width % heads == 0)
    yield from (replace(right, heads=heads) for heads in counts if heads != right.heads)


def _is(case: Case, side: np.ndarray, form: Form, tensors: tuple[np.ndarray, ...]) -> bool:
    """Whether attention in this form is ``side``; a few queries are tried first where they can be computed alone."""
    if len(tensors) == 3 and (form.packed != "three, heads, width" or not _alike(tensors, form.roles)):
        return False
    if form.softmax == "the keys" and form.merged == "put back in the order of the tokens":
        few = side[:1, :FEW]
        near = np.abs(_attended(form, [t[:1] for t in tensors], few.shape[1]) - few)
        if not (near <= case.limit * np.abs(side).max()).all():
            return False
    return case.same(side, _attended(form, tensors))


def _alike(tensors: tuple[np.ndarray, ...], roles: tuple[int, ...]) -> bool:
    """Whether tensors of these lengths can have these roles: as many keys as values, as many queries as there were."""
    lengths = [tensors[role].shape[1] for role in roles]
    return lengths[1] == lengths[2] and lengths[0] == tensors[0].shape[1]


def _attended(form: Form, tensors: tuple[np.ndarray, ...] | list[np.ndarray], queries: int | None = None) -> np.ndarray:
    """(B, N, C), of the first ``queries`` alone where these are given."""
    three = [_split(tensor, form.heads) for tensor in tensors] if len(tensors) == 3 else _unpacked(tensors[0], form)
    q, k, v = (three[role] for role in form.roles)  # (B, heads, N, width)
    width = q.shape[-1]
    scores = q[:, :, :queries] @ k.swapaxes(-1, -2) * SCALES[form.scale](width, width * form.heads)
    if form.mask == "a causal mask":
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    axis = -1 if form.softmax == "the keys" else -2
    powers = np.exp(scores - scores.max(axis, keepdims=True))
    mixed = powers / powers.sum(axis, keepdims=True) @ v
    if form.merged == "put back in the order of the tokens":
        mixed = mixed.swapaxes(1, 2)
    return np.ascontiguousarray(mixed).reshape(len(q), -1, width * form.heads)


def _split(tensor: np.ndarray, heads: int) -> np.ndarray:
    return tensor.reshape(*tensor.shape[:2], heads, -1).swapaxes(1, 2)


def _unpacked(tensor: np.ndarray, form: Form) -> np.ndarray:
    """q, k and v, each (B, heads, N, width), out of (B, N, 3 * C)."""
    samples, tokens, whole = tensor.shape
    sizes = {"three": 3, "heads": form.heads, "width": whole // 3 // form.heads}
    axes = form.packed.split(", ")
    parts = tensor.reshape(samples, tokens, *(sizes[axis] for axis in axes))
    at = {axis: 2 + number for number, axis in enumerate(axes)}
    return parts.transpose(at["three"], 0, at["heads"], 1, at["width"])


def softened(case: Case) -> str:
    """Shares of a softmax whose scores are all scaled by one number, as attention's are by the width of a head."""
    if not case.same_shape or case.expected.ndim < 2:
        return ""
    for axis in range(case.expected.ndim):
        right, wrong = (_logits(case, side, axis) for side in (case.expected, case.actual))
        if right is None or wrong is None:
            continue
        number = factor(wrong, right)
        powers = np.exp(number * right - (number * right).max(axis, keepdims=True))
        if number > 0 and case.is_actual(powers / powers.sum(axis, keepdims=True)):
            return f"scores are {number:.6g} times the reference's before the softmax over axis {axis}{_root(number)}"
    return ""


def _root(number: float) -> str:
    """A factor that is the root of a whole number, or one over it: attention scores are scaled by that of a width."""
    square = max(number, 1 / number) ** 2
    return f" (the root of {round(square)}, or one over it)" if abs(square - round(square)) < 1e-6 * square else ""


def _logits(case: Case, side: np.ndarray, axis: int) -> np.ndarray | None:
    """The scores whose softmax over ``axis`` is ``side``, with a mean of 0; ``None`` where it is no softmax."""
    first = np.moveaxis(side, axis, -1).reshape(-1, side.shape[axis])[:1] if side.size else side.reshape(0, 1)
    if not (len(first) and side.shape[axis] > 2 and abs(first.sum() - 1) <= 2.0**-40):
        return None
    if not (side > 0).all() or (np.abs(side.sum(axis) - 1) > 2.0**-40).any():
        return None
    logits = np.log(side)
    return logits - logits.mean(axis, keepdims=True)
