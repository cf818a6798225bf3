"""timm's training: the parts of a recipe, and batches as its loader yields them after mixup. torch and timm only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from torch_ref.model import import_timm

Batch = tuple[list[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class TimmParts:
    """The parts of a training: the loss, the clipping, and callables that make a new optimizer, scheduler and EMA."""

    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    optimizer: Callable[[torch.nn.Module], torch.optim.Optimizer]
    scheduler: Callable[[torch.optim.Optimizer], Any]
    ema: Callable[[torch.nn.Module], Any]
    clip: Callable[[list[torch.nn.Parameter]], Any]


def timm_parts(
    optimizer: str,
    lr: float,
    weight_decay: float,
    epochs: int,
    updates_per_epoch: int,
    warmup_epochs: int,
    ema_decay: float,
    clip_grad: float,
) -> TimmParts:
    """Return timm's parts of a recipe.

    These are soft-target cross entropy, ``optimizer``, a cosine schedule per update with warm-up, an EMA with warm-up,
    and clipping by norm.
    """
    import_timm()
    from timm.loss import SoftTargetCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.utils import ModelEmaV3, dispatch_clip_grad

    def schedule(made: torch.optim.Optimizer) -> Any:
        return create_scheduler_v2(
            made,
            "cosine",
            epochs,
            warmup_epochs=warmup_epochs,
            step_on_epochs=False,
            updates_per_epoch=updates_per_epoch,
        )[0]

    return TimmParts(
        loss=SoftTargetCrossEntropy(),
        optimizer=lambda model: create_optimizer_v2(model, optimizer, lr=lr, weight_decay=weight_decay),
        scheduler=schedule,
        ema=lambda model: ModelEmaV3(model, decay=ema_decay, use_warmup=True),
        clip=lambda parameters: dispatch_clip_grad(parameters, clip_grad),
    )


def mixed_batches(
    number: int, shape: tuple[int, int, int, int], classes: int, seed: int, alpha: float = 0.2, smoothing: float = 0.1
) -> list[Batch]:
    """Apply timm's mixup to random images (B, C, H, W) and labels; return float32 images and float64 targets (B, K).

    numpy's and torch's random states are unchanged afterwards.
    """
    import_timm()
    from timm.data import Mixup

    rng, before = np.random.RandomState(seed), np.random.get_state()
    mixup = Mixup(mixup_alpha=alpha, label_smoothing=smoothing, num_classes=classes)
    batches = []
    try:
        np.random.seed(seed)
        for _ in range(number):
            images = torch.from_numpy(rng.standard_normal(shape).astype(np.float32))
            images, targets = mixup(images, torch.from_numpy(rng.randint(0, classes, shape[0])))
            batches.append(([images.numpy()], targets.double().numpy()))
    finally:
        np.random.set_state(before)
    return batches
