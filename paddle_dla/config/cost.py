"""What a training costs, before it runs: epochs, images and multiply-accumulates (MACs). No framework.

MACs are those of the convolutions, the classifier among them, counted in the built networks (a test counts them again).
An update costs three times the forward pass: once forward, once for the gradients of the activations, once for those of
the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from paddle_dla.config.schema import Config
from paddle_dla.models.variants import VARIANTS, resolve_name

IMAGENET_IMAGES = 1_281_167
STEM_TAPS, STEM_CHANNELS, CELL = 7 * 7, 16, 32

# of the trunk, for each cell of 32x32 pixels of an RGB image
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


@dataclass(frozen=True)
class Cost:
    """``macs``: multiply-accumulates of the whole training, validation apart; ``image_macs``: of one forward pass."""

    epochs: int
    images: int
    image_macs: int
    passes: float

    @property
    def macs(self) -> float:
        return self.epochs * self.images * self.image_macs * self.passes

    def __str__(self) -> str:
        seen = f"{self.epochs} epochs x {self.images:,} images"
        return f"{seen} x {self.passes:g} x {self.image_macs / 1e9:.4g} GMACs = {self.macs:.3g} MACs"


def forward_macs(name: str, input_size: tuple[int, int, int], num_classes: int = 1000) -> int:
    """MACs of one image through the variant ``name``; ``input_size`` is (C, H, W), sides multiples of 32."""
    key = resolve_name(name)
    channels, height, width = input_size
    cells = (height // CELL) * (width // CELL)
    stem = STEM_TAPS * STEM_CHANNELS * height * width
    head = VARIANTS[key].channels[-1] * num_classes
    return TRUNK_MACS[key] * cells + (channels - 3) * stem + head


def cost(config: Config, images: int = IMAGENET_IMAGES) -> Cost:
    """What training by ``config`` on ``images`` images an epoch takes.

    A pass counts 3 (forward, and two backward), 4 with recomputation, 1 for a linear probe, whose classifier alone is
    trained. The teacher of a distillation is not counted.
    """
    passes = 1 if config.train.linear_probe else 4 if config.train.recompute else 3
    macs = forward_macs(config.model.name, config.train_input_size(), config.model.num_classes or 1000)
    return Cost(config.total_epochs, images, macs, passes)
