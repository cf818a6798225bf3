"""Train whole epochs as timm's ``train.py`` does, on batches that the caller provides. torch and timm only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from torch_ref.model import import_timm


@dataclass(frozen=True)
class Options:
    """timm's options, with timm's names (``train.py`` of 1.0.31).

    ``adaptive`` holds the optimizer's own options, such as ``betas``. ``freeze`` lists prefixes of the names of
    modules and parameters to freeze.
    """

    opt: str
    lr: float
    weight_decay: float
    momentum: float
    sched: str
    epochs: int
    warmup_epochs: float
    warmup_lr: float
    min_lr: float
    sched_on_updates: bool
    smoothing: float = 0.0
    clip_grad: float | None = None
    layer_decay: float | None = None
    filter_bias_and_bn: bool = True
    adaptive: Mapping[str, Any] = field(default_factory=dict)
    freeze: Sequence[str] = ()


def train_epochs(
    model: torch.nn.Module,
    epochs: Iterable[Iterable[tuple[np.ndarray, np.ndarray]]],
    options: Options,
    updates_per_epoch: int,
) -> Iterator[float]:
    """Train ``model`` in place and yield the loss of each update, computed before the update.

    ``epochs`` yields the batches of each epoch: images (B, C, H, W) float32 and labels, (B,) classes or (B, K)
    probabilities. The arrays may be reused once the next batch is requested.
    """
    import_timm()
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.utils import dispatch_clip_grad

    frozen = _freeze(model, tuple(options.freeze))
    optimizer = create_optimizer_v2(
        model,
        options.opt,
        lr=options.lr,
        weight_decay=options.weight_decay,
        momentum=options.momentum,
        filter_bias_and_bn=options.filter_bias_and_bn,
        layer_decay=options.layer_decay,
        **options.adaptive,
    )
    schedule, _ = create_scheduler_v2(
        optimizer,
        options.sched,
        options.epochs,
        warmup_epochs=options.warmup_epochs,  # pyright: ignore[reportArgumentType] - timm takes parts of an epoch, too
        warmup_lr=options.warmup_lr,
        min_lr=options.min_lr,
        step_on_epochs=not options.sched_on_updates,
        updates_per_epoch=updates_per_epoch,
    )
    if schedule is None:
        raise ValueError(f"timm has no schedule {options.sched!r}")
    updates = 0
    for epoch, batches in enumerate(epochs):
        model.train()
        for module in frozen:
            module.eval()
        for images, labels in batches:
            targets = torch.from_numpy(labels)
            loss = _criterion(targets, options.smoothing)(model(torch.from_numpy(images)), targets)
            loss.backward()
            if options.clip_grad is not None:
                dispatch_clip_grad(model.parameters(), options.clip_grad)
            optimizer.step()
            optimizer.zero_grad()
            updates += 1
            schedule.step_update(num_updates=updates)
            yield loss.item()
        schedule.step(epoch + 1)


def _freeze(model: torch.nn.Module, prefixes: tuple[str, ...]) -> list[torch.nn.Module]:
    """Freeze all parameters whose names begin with one of ``prefixes``.

    Returns the modules whose names do; they must stay in evaluation mode.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not (prefixes and name.startswith(prefixes)))
    return [module for name, module in model.named_modules() if prefixes and name.startswith(prefixes)]


def _criterion(targets: torch.Tensor, smoothing: float) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Choose the loss as timm's ``train.py`` does; mixed labels already include the smoothing."""
    from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

    if targets.ndim == 2:
        return SoftTargetCrossEntropy()
    return LabelSmoothingCrossEntropy(smoothing) if smoothing else torch.nn.CrossEntropyLoss()


class TorchEngine:
    """A model in evaluation mode with the interface that the evaluation expects."""

    def __init__(self, model: torch.nn.Module):
        self._model = model.eval()

    def run(self, images: np.ndarray) -> np.ndarray:
        """Compute (B, K) float32 logits of (B, C, H, W) float32 normalised images."""
        with torch.inference_mode():
            return self._model(torch.from_numpy(images)).numpy()
