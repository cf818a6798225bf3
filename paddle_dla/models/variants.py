"""The DLA family as a table: one row per variant, no framework.

Source: Yu et al., "Deep Layer Aggregation", https://arxiv.org/abs/1707.06484, and Gao et al., "Res2Net",
https://arxiv.org/abs/1904.01169, as timm 1.0.31 defines them (``timm/models/dla.py``).

The table is pure data: code that needs only names and shapes, such as the converter, imports no framework.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from paddle_dla.errors import WrongValue
from paddle_dla.storage.shown import shown

WIDE = (16, 32, 128, 256, 512, 1024)
NARROW = (16, 32, 64, 64, 128, 256)


@dataclass(frozen=True)
class Variant:
    """What distinguishes one member of the family.

    ``levels``: depth of each of the six levels; the first two count convolutions, the others the levels of a tree.
    ``channels``: output channels of the six levels.
    ``block``: ``basic``, ``bottleneck`` or ``bottle2neck``.
    ``cardinality``, ``base_width``: groups of the 3x3 convolutions and their width, in ResNeXt's notation.
    ``shortcut_root``: whether aggregation nodes have a residual connection.
    """

    levels: tuple[int, ...]
    channels: tuple[int, ...]
    block: str
    cardinality: int = 1
    base_width: int = 64
    shortcut_root: bool = False


VARIANTS: dict[str, Variant] = {
    "dla34": Variant((1, 1, 1, 2, 2, 1), (16, 32, 64, 128, 256, 512), "basic"),
    "dla46_c": Variant((1, 1, 1, 2, 2, 1), NARROW, "bottleneck"),
    "dla46x_c": Variant((1, 1, 1, 2, 2, 1), NARROW, "bottleneck", cardinality=32, base_width=4),
    "dla60x_c": Variant((1, 1, 1, 2, 3, 1), NARROW, "bottleneck", cardinality=32, base_width=4),
    "dla60": Variant((1, 1, 1, 2, 3, 1), WIDE, "bottleneck"),
    "dla60x": Variant((1, 1, 1, 2, 3, 1), WIDE, "bottleneck", cardinality=32, base_width=4),
    "dla102": Variant((1, 1, 1, 3, 4, 1), WIDE, "bottleneck", shortcut_root=True),
    "dla102x": Variant((1, 1, 1, 3, 4, 1), WIDE, "bottleneck", 32, 4, shortcut_root=True),
    "dla102x2": Variant((1, 1, 1, 3, 4, 1), WIDE, "bottleneck", 64, 4, shortcut_root=True),
    "dla169": Variant((1, 1, 2, 3, 5, 1), WIDE, "bottleneck", shortcut_root=True),
    "dla60_res2net": Variant((1, 1, 1, 2, 3, 1), WIDE, "bottle2neck", cardinality=1, base_width=28),
    "dla60_res2next": Variant((1, 1, 1, 2, 3, 1), WIDE, "bottle2neck", cardinality=8, base_width=4),
}


def resolve_name(name: str) -> str:
    """Return the table's key for a name as timm or PaddleClas spells it.

    ``dla60``, ``dla60.in1k``, ``timm/dla60.in1k`` and ``DLA60`` are the same. Raises ``ValueError`` for an unknown
    name, with the nearest known ones.
    """
    key = name.removeprefix("hf-hub:").removeprefix("hf_hub:").removeprefix("timm/").split(".")[0]
    key = "dla" + key[3:] if key.startswith("DLA") else key
    if key not in VARIANTS:
        near = difflib.get_close_matches(key, VARIANTS, n=3, cutoff=0.4) or list(VARIANTS)
        raise WrongValue(
            f"unknown model '{shown(name)}'; nearest: {', '.join(near)} (list_models() names all {len(VARIANTS)})"
        )
    return key
