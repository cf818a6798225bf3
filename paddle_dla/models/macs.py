"""Multiply-accumulates (MACs) of one forward pass. No framework.

They include the convolutions and the classifier, and were counted in the built networks; a test counts them again.
Except in the stem, they depend on the image only through its number of 32x32 cells.
"""

from __future__ import annotations

from paddle_dla.errors import WrongValue
from paddle_dla.models.variants import VARIANTS, resolve_name

STEM_TAPS, STEM_CHANNELS, CELL = 7 * 7, 16, 32

# of the trunk, for each 32x32-pixel cell of an RGB image
TRUNK_MACS = {
    "dla34": 62_439_424,
    "dla46_c": 11_714_560,
    "dla46x_c": 10_866_688,
    "dla60x_c": 11_857_920,
    "dla60": 86_425_600,
    "dla60x": 71_745_536,
    "dla102": 146_194_432,
    "dla102x": 119_324_672,
    "dla102x2": 189_448_192,
    "dla169": 235_847_680,
    "dla60_res2net": 84_115_456,
    "dla60_res2next": 70_565_888,
}


def forward_macs(name: str, input_size: tuple[int, int, int], num_classes: int = 1000) -> int:
    """Return the MACs of one image through the variant ``name``; ``input_size`` is (C, H, W).

    Raises ``ValueError`` for an unknown variant, and for sides that are not multiples of 32, which DLA does not accept.
    """
    key = resolve_name(name)
    channels, height, width = input_size
    if height % CELL or width % CELL:
        raise WrongValue(f"the sides of an image are multiples of {CELL} for this family, not {height} x {width}")
    cells = (height // CELL) * (width // CELL)
    stem = STEM_TAPS * STEM_CHANNELS * height * width
    head = VARIANTS[key].channels[-1] * num_classes
    return TRUNK_MACS[key] * cells + (channels - 3) * stem + head
