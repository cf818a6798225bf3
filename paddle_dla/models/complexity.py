"""The parameters of a variant, and the multiply-accumulates (MACs) of one forward pass. No framework.

Both were counted in the built networks; a test counts them again. MACs include the convolutions and the classifier.
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

# of the trunk without the stem's convolution; normalisation statistics are not counted
TRUNK_PARAMETERS = {
    "dla34": 15_226_752,
    "dla46_c": 1_042_048,
    "dla46x_c": 809_088,
    "dla60x_c": 1_060_480,
    "dla60": 21_009_280,
    "dla60x": 16_324_992,
    "dla102": 32_241_536,
    "dla102x": 25_281_920,
    "dla102x2": 40_254_848,
    "dla169": 52_362_368,
    "dla60_res2net": 19_820_720,
    "dla60_res2next": 16_005_632,
}


def parameters(name: str, in_chans: int = 3, num_classes: int = 1000) -> int:
    """Return the number of trainable parameters of the variant ``name``; with 0 classes it has no classifier.

    Raises ``ValueError`` for an unknown variant.

    >>> parameters("dla60")
    22036672
    """
    key = resolve_name(name)
    head = (VARIANTS[key].channels[-1] + 1) * num_classes
    return TRUNK_PARAMETERS[key] + STEM_TAPS * STEM_CHANNELS * in_chans + head


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
