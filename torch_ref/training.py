"""How timm trains: the parts of a recipe, and batches as its loader hands them on after mixup. torch and timm only."""

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
    """One callable for each part of a training; each makes a new object."""

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
    """timm's soft-target cross entropy, ``optimizer``, cosine per update with warm-up, EMA with warm-up, norm clip."""
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
    """Random images (B, C, H, W) and labels through timm's mixup: float32 images, targets (B, K) of float64.

    numpy's and torch's random states stay as they were.
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
