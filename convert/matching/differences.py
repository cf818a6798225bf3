"""Describe the differences between two architectures, and ambiguous pairs. No framework."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from convert.matching.derive import Proposal
from convert.matching.items import AFFINE, PARAMETER, Item, Part
from convert.matching.sequence import NEAR, PARTLY, aligned, fit

MOST = 8
"""How many candidates are listed."""

NAMES = {"conv": "convolution", "convtranspose": "transposed convolution", "linear": "linear layer",
         "batchnorm": "BatchNorm", "layernorm": "LayerNorm", "groupnorm": "GroupNorm", "instancenorm": "InstanceNorm",
         "embedding": "embedding", "prelu": "PReLU", "lstm": "LSTM", "gru": "GRU"}  # fmt: skip
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


# --- ambiguous pairs --------------------------------------------------------------------------------------------------


def ambiguity(proposal: Proposal) -> list[str]:
    """Return one line for each item that could have several twins."""
    lines = [f"{key} could be {twin} (by order) or {other} (by name)" for key, twin, other in proposal.doubts]
    left, right = proposal.left()
    named = proposal.given | {proposal.twins[key] for key in proposal.given}
    lines += _could_be(left, [item for item in proposal.paddle.values() if item.key not in named], "torch")
    lines += _could_be(right, [item for item in proposal.torch.values() if item.key not in named], "Paddle")
    return lines


def could_be(item: Item, others: Sequence[Item]) -> list[str]:
    """Return the keys of ``others`` that could be the item's twin, by kind and shapes."""
    return [other.key for other in others if fit(item, other) >= PARTLY]


def _could_be(left: Sequence[Item], others: Sequence[Item], side: str) -> Iterator[str]:
    for item in left:
        candidates = could_be(item, others)
        if candidates:
            more = f" or one of {len(candidates) - MOST} more" if len(candidates) > MOST else ""
            yield f"{item.key} of {side} could be {' or '.join(candidates[:MOST])}{more}"


# --- differences ------------------------------------------------------------------------------------------------------


@dataclass
class _Gap:
    """The items without a twin between two neighbouring pairs."""

    before: str
    after: str
    torch: list[Item] = field(default_factory=list)
    paddle: list[Item] = field(default_factory=list)

    def lines(self) -> list[str]:
        near = aligned(self.torch, self.paddle, lambda a, b: NEAR if a.kind == b.kind or _affine(a, b) else 0.0)
        theirs = {item.key: item for item in self.paddle}
        lines = [_in_another_shape(item, theirs[near[item.key]]) for item in self.torch if item.key in near]
        mine = [item for item in self.torch if item.key not in near]
        yours = [item for item in self.paddle if item.key not in near.values()]
        lines += [f"the port has {_counted(yours)} more, {self._place()}: {_listed(yours)}"] if yours else []
        return lines + ([f"the port has {_counted(mine)} less, {self._place()}: {_listed(mine)}"] if mine else [])

    def _place(self) -> str:
        if not self.after:
            return f"after {self.before}" if self.before else "in a model without any other"
        if not self.before:
            return f"before {self.after}"
        return f"between {self.before} and {_block(self.after, self.before)}"


def _affine(a: Item, b: Item) -> bool:
    return {a.kind, b.kind} <= AFFINE


def differences(proposal: Proposal) -> list[str]:
    """Return the differences because of which no key map can account for every tensor, in the order of the layers.

    An additional parameter of a container of the port is not a difference: torch has no value for it.
    """
    return [line for gap in _gaps(proposal) for line in gap.lines()] + [*_lacking(proposal)]


def _gaps(proposal: Proposal) -> Iterable[_Gap]:
    back = {twin: key for key, twin in proposal.twins.items()}
    left, right = proposal.left()
    paired = [key for key in proposal.torch if key in proposal.twins]
    following = dict(zip(["", *paired], [*paired, ""]))
    gaps: dict[str, _Gap] = {}
    for side, items, anchor in (
        ("torch", proposal.torch, {key: key for key in paired}),
        ("paddle", proposal.paddle, back),
    ):
        without, before = {item.key for item in (left if side == "torch" else right)}, ""
        for key, item in items.items():
            before = anchor.get(key, before)
            if key in without and not (side == "paddle" and item.kind == PARAMETER):
                gap = gaps.setdefault(before, _Gap(before, following.get(before, "")))
                getattr(gap, side).append(item)
    place = {key: number for number, key in enumerate(["", *proposal.torch])}
    return sorted(gaps.values(), key=lambda gap: place[gap.before])


def _lacking(proposal: Proposal) -> Iterator[str]:
    """Yield parameters and statistics of torch layers that their twin lacks, or has in another size."""
    for key, twin in proposal.twins.items():
        item, other = proposal.torch[key], proposal.paddle[twin]
        if item.kind == PARAMETER:
            continue
        for role, part in item.parts.items():
            if role not in other.parts and not part.shared:
                yield f"{key}: {role} {_shape(part)} in torch, none in {twin} of the port"
            elif role in other.parts and part.size != other.parts[role].size:
                yield f"{key}: {role} {_shape(part)} in torch, {_shape(other.parts[role])} in {twin} of the port"


def _in_another_shape(item: Item, twin: Item) -> str:
    names = f"{item.key}" if item.key == twin.key else f"{item.key} ({twin.key} in the port)"
    pairs = [(role, part, twin.parts[role]) for role, part in item.parts.items()
             if role in twin.parts and part.shape != twin.parts[role].shape]  # fmt: skip
    if not pairs:
        mine, yours = ", ".join(item.parts) or "no tensors", ", ".join(twin.parts) or "no tensors"
        return f"{names}: {mine} in torch, {yours} in Paddle"
    role, part, other = pairs[0]
    if math.prod(part.shape[2:]) == math.prod(other.shape[2:]) == 1:
        part, other = (replace(p, shape=p.shape[:2]) for p in (part, other))
    return f"{names}: {_sizes(part, other, item.kind)}; {role} {_shape(part)} in torch, {_shape(other)} in Paddle"


def _sizes(part: Part, other: Part, kind: str) -> str:
    """Describe the dimension in which two weights differ."""
    unit = "outputs" if kind == "linear" else "channels"
    if len(part.shape) != len(other.shape) or not part.shape:
        return f"{len(part.shape)} dimensions in torch, {len(other.shape)} in Paddle"
    axis = next(i for i, (a, b) in enumerate(zip(part.shape, other.shape)) if a != b)
    if axis > 1:
        mine, yours = ("x".join(map(str, p.shape[2:])) for p in (part, other))
        return f"kernel {mine} in torch, {yours} in Paddle"
    words = unit if axis == 0 else "inputs" if kind == "linear" else "input channels of a group"
    return f"{part.shape[axis]} {words} in torch, {other.shape[axis]} in Paddle"


def _shape(part: Part) -> str:
    return f"{list(part.shape)}"


def _block(path: str, before: str) -> str:
    """Return a path up to where it departs from ``before``: ``blocks.0`` of ``blocks.0.conv1`` after ``stem.bn``."""
    parts, known = path.split("."), before.split(".")
    depth = next((i for i, part in enumerate(parts) if known[i : i + 1] != [part]), len(parts) - 1)
    if depth + 1 < len(parts) and parts[depth + 1].isdigit():
        depth += 1
    return ".".join(parts[: depth + 1])


def _counted(items: Sequence[Item]) -> str:
    counts = Counter(item.kind for item in items)
    return _joined([_number(number, kind) for kind, number in counts.items()])


def _number(number: int, kind: str) -> str:
    word = NUMBERS[number] if number < len(NUMBERS) else str(number)
    return f"{word} {NAMES.get(kind, kind)}{'s' if number > 1 else ''}"


def _joined(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _listed(items: Sequence[Item]) -> str:
    named = [f"{item.key} {_main_shape(item.parts)}".strip() for item in items[:MOST]]
    return ", ".join(named) + (f" and {len(items) - MOST} more" if len(items) > MOST else "")


def _main_shape(parts: Mapping[str, Part]) -> str:
    return _shape(parts["weight"] if "weight" in parts else next(iter(parts.values()))) if parts else ""
