"""The cost of a training, computed in advance: epochs, images and multiply-accumulates (MACs). No framework.

MACs are counted as in ``models/complexity.py``.
An update costs three times the forward pass: one forward pass, one for the gradients of the activations, and one for
those of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from paddle_dla.config.schema import Config
from paddle_dla.models.complexity import forward_macs
from paddle_dla.models.registry import find_model

IMAGENET_IMAGES = 1_281_167


@dataclass(frozen=True)
class Cost:
    """Cost of a training.

    ``macs``: multiply-accumulates of the whole training without validation; ``image_macs``: those of one forward pass,
    known only for DLA.
    """

    epochs: int
    images: int
    image_macs: int | None
    passes: float

    @property
    def macs(self) -> float | None:
        """Multiply-accumulates of the training; ``None`` for a port, whose forward pass is not counted."""
        return None if self.image_macs is None else self.epochs * self.images * self.image_macs * self.passes

    def __str__(self) -> str:
        seen = f"{self.epochs} epochs x {self.images:,} images"
        if self.image_macs is None:
            return f"{seen} x {self.passes:g} x the forward pass of a port, which is not counted"
        return f"{seen} x {self.passes:g} x {self.image_macs / 1e9:.4g} GMACs = {self.macs:.3g} MACs"


def cost(config: Config, images: int = IMAGENET_IMAGES) -> Cost:
    """Compute the cost of training with ``config`` on ``images`` images per epoch.

    An image costs 3 passes (forward, and two backward), 4 with recomputation, 1 for a linear probe, which trains only
    the classifier. The teacher of a distillation is not counted.
    """
    passes = 1 if config.train.linear_probe else 4 if config.train.recompute else 3
    entry, size = find_model(config.model.name), config.train_input_size()
    macs = forward_macs(entry.name, size, config.model.num_classes or 1000) if entry.published else None
    return Cost(config.total_epochs, images, macs, passes)
