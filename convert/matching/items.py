"""The items that are paired: layers with weights, and parameters that containers own directly. No framework.

The layers of both models become ``Item``s in a common form: tensors by torch's roles, shapes in torch's layout, and
packed tensors (q, k and v) split if the other model has separate ones.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from convert.key_map import DROPPED, RENAMED
from convert.matching.layers import Layer, Shape

# Paddle's name of a layer's tensor -> torch's: for all layers, and for one kind of layer
ROLES = {paddle: torch for torch, paddle in RENAMED.items()} | {"_weight": "weight"}
ROLES_OF = {"instancenorm": {"scale": "weight"}}

# kinds that can be each other's twin; the weight then has another shape and the same elements
AFFINE = {"conv", "linear"}
NORMS = {"batchnorm", "layernorm", "groupnorm", "instancenorm", "rmsnorm"}
RECURRENT = {"lstm", "gru", "rnn", "lstmcell", "grucell", "rnncell"}
KNOWN = AFFINE | NORMS | RECURRENT | {"convtranspose", "embedding", "prelu", "bilinear"}
PARAMETER = "parameter"
CUSTOM = "layer with weights of its own"

# buffers that are state of a layer; others are constants, which each model may compute by itself
STATE = {"running_mean", "running_var", "weight_u", "weight_v"}
# parameters of a linear layer that Paddle stores transposed if they have two dimensions
TURNED = {"weight", "weight_v", "weight_orig"}

WORDS = {"query": "q", "key": "k", "value": "v", "bn": "norm", "ln": "norm", "fc": "linear", "dense": "linear",
         "lin": "linear", "short": "shortcut", "downsample": "shortcut", "skip": "shortcut", "residual": "shortcut",
         "tok": "token", "class": "cls", "distillation": "dist", "position": "pos", "positional": "pos",
         "embedding": "embed", "emb": "embed", "classifier": "head", "project": "proj",
         "projection": "proj"}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A tensor of an item.

    ``shape`` is in torch's layout; ``turned`` means that the framework stores the tensor transposed. ``matrix`` marks
    the two-dimensional weight of a linear layer. ``rows`` are the item's rows of a packed tensor. ``shared`` is the
    tensor's first name if it has several.
    """

    name: str
    shape: Shape
    turned: bool = False
    matrix: bool = False
    buffer: bool = False
    shared: str = ""
    rows: tuple[int, int] | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Item:
    """A layer with its tensors by torch's roles, or one parameter of a container.

    ``extra`` holds constants. ``packed`` names the part of a packed layer.
    """

    path: str
    kind: str
    parts: Mapping[str, Part]
    extra: Mapping[str, Part]
    packed: str = ""

    @property
    def key(self) -> str:
        """Unique name among the items of the model."""
        return f"{self.path}[{self.packed}]" if self.packed else self.path

    @property
    def shared(self) -> bool:
        """Whether all tensors belong to another item too."""
        return bool(self.parts) and all(part.shared for part in self.parts.values())

    @property
    def signature(self) -> tuple[tuple[str, int, int], ...]:
        """Roles with outputs and sizes; equal for a convolution and a linear layer that can be twins."""
        if self.kind == PARAMETER:
            return tuple(("", n, n) for n in self.squeezed)
        return tuple((r, p.shape[0] if p.shape else 0, p.size) for r, p in sorted(self.parts.items()))

    @property
    def squeezed(self) -> Shape:
        """Shape of the first tensor without dimensions of 1."""
        part = next(iter(self.parts.values()), None)
        return tuple(n for n in part.shape if n != 1) if part else ()


@cache
def words(name: str) -> tuple[str, ...]:
    """Split a name into normalised words without numbers: ``blocks.3.attn.query_proj`` gives blocks attn q proj."""
    found: list[str] = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    return tuple(WORDS.get(word.lower(), word.lower()) for word in found)


def items_of(layers: Sequence[Layer], transposed: bool = False) -> list[Item]:
    """Return the items of a model, in the order of ``layers``; ``transposed``: linear weights are as in Paddle."""
    return [item for layer in layers for item in _items(layer, transposed and layer.kind == "linear")]


def _items(layer: Layer, transposed: bool) -> list[Item]:
    parts, extra = {}, {}
    for role, shape in layer.shapes.items():
        if role not in DROPPED:
            part = _part(layer, role, shape, transposed)
            name = ROLES_OF.get(layer.kind, {}).get(role) or ROLES.get(role, role)
            (extra if part.buffer and name not in STATE and name != "weight" else parts)[name] = part
    if layer.kind == "multiheadattention" and "in_proj_weight" in parts:
        packed = {role.removeprefix("in_proj_"): parts.pop(role) for role in ("in_proj_weight", "in_proj_bias")
                  if role in parts}  # fmt: skip
        return [Item(layer.path, "linear", packed, extra), *_parameters(layer.path, parts, {})]
    if layer.kind not in KNOWN:
        if not {"weight", "weight_g", "weight_orig"} & {*parts}:
            return _parameters(layer.path, parts, extra)
        return [Item(layer.path, CUSTOM, parts, extra)]
    if parts or layer.kind in NORMS:
        return [Item(layer.path, layer.kind, parts, extra)]
    return _parameters(layer.path, {}, extra)


def _parameters(path: str, parts: Mapping[str, Part], extra: Mapping[str, Part]) -> list[Item]:
    found = [Item(part.name, PARAMETER, {role: part}, {}) for role, part in parts.items()]
    return found + ([Item(path, PARAMETER, {}, extra)] if extra else [])


def _part(layer: Layer, role: str, shape: Shape, transposed: bool) -> Part:
    matrix = layer.kind == "linear" and role in TURNED and len(shape) == 2
    turned = matrix and transposed
    shape = shape[::-1] if turned else shape
    return Part(layer.name(role), shape, turned, matrix, role in layer.buffers, layer.shared.get(role, ""))


# --- packed tensors ---------------------------------------------------------------------------------------------------


def unpacked(ours: Sequence[Item], theirs: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Return both lists, with a linear layer split if its outputs correspond to several layers of the other model."""
    excess = Counter(map(_width, ours))
    excess.subtract(Counter(map(_width, theirs)))
    return (
        [part for item in ours for part in _split(item, theirs, excess, 1)],
        [part for item in theirs for part in _split(item, ours, excess, -1)],
    )


def _width(item: Item) -> tuple[int, int] | None:
    """Return outputs and inputs of a linear layer or a 1x1 convolution; ``None`` for other items."""
    weight = item.parts.get("weight")
    if item.kind not in AFFINE or weight is None or len(weight.shape) < 2 or math.prod(weight.shape[2:]) != 1:
        return None
    return weight.shape[0], weight.shape[1]


def _split(item: Item, others: Sequence[Item], excess: Counter[tuple[int, int] | None], sign: int) -> list[Item]:
    width = _width(item)
    if width is None or sign * excess[width] <= 0:
        return [item]
    sizes = _sizes(width, others, excess, sign)
    if not sizes:
        return [item]
    letters = {3: "qkv", 2: "kv"}.get(len(sizes), "")
    parts, start = [], 0
    for number, size in enumerate(sizes):
        rows = (start, start + size)
        cut = {
            role: replace(part, shape=(size, *part.shape[1:]), rows=rows) if part.shape[0] == width[0] else part
            for role, part in item.parts.items()
        }
        packed = letters[number] if letters else f"{start}:{rows[1]}"
        parts.append(Item(item.path, item.kind, cut, {} if number else item.extra, packed))
        start += size
    return parts


def _sizes(
    width: tuple[int, int], others: Sequence[Item], excess: Counter[tuple[int, int] | None], sign: int
) -> tuple[int, ...]:
    """Return the outputs of adjacent layers of the other model that have the same inputs and the same total outputs."""
    widths = [w for w in map(_width, others) if w is not None and w[1] == width[1] and sign * excess[w] < 0]
    for number in (3, 2, 4):
        for i in range(len(widths) - number + 1):
            sizes = tuple(outputs for outputs, _ in widths[i : i + number])
            if sum(sizes) == width[0]:
                return sizes
    return ()
