"""Build the objects of a run from its config: network, loss, optimizer, schedule, average. Writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_dla.config import Config
from paddle_dla.config.sections import WITH_MOMENTUM
from paddle_dla.data.labelling import comparable, differences
from paddle_dla.data.source import shortened
from paddle_dla.ema import ModelEma
from paddle_dla.engines.eager import outputs_of
from paddle_dla.loading import load_model
from paddle_dla.losses import (
    SSLD,
    BinaryCrossEntropy,
    CrossEntropy,
    Distillation,
    LabelSmoothingCrossEntropy,
    Loss,
    SoftTargetCrossEntropy,
)
from paddle_dla.models.dla import DLABackbone
from paddle_dla.models.factory import create_model
from paddle_dla.optim import NamedOptimizer, create_optimizer
from paddle_dla.schedule import Schedule, create_schedule
from paddle_dla.training.errors import TrainingError
from paddle_dla.training.modes import Frozen, freeze, freeze_all_but_head
from paddle_dla.training.plan import Plan

# name in the config -> timm's name in create_optimizer
TIMM_OPTIMIZERS = {"nesterov": "sgd", "momentum": "momentum", "sgd": "momentum", "adamw": "adamw", "lamb": "lamb"}


def create_network(config: Config, num_classes: int, fresh: bool = True) -> nn.Layer:
    """Create the network, initialised from ``train.seed``, with its weights.

    ``fresh=False`` skips ``model.pretrained``. Raises ``CheckpointError`` for weights that are unavailable or do not
    fit, ``NetworkError`` for a user's network that returns no logits.
    """
    model = config.model
    paddle.seed(config.train.seed)
    network = create_model(
        model.name,
        pretrained=model.pretrained if fresh else False,
        num_classes=num_classes,
        in_chans=model.in_chans,
        global_pool=model.global_pool,
        drop_rate=model.drop_rate,
        drop_path_rate=model.drop_path_rate,
    )
    _try_out(network, config, num_classes)
    if config.train.recompute:
        network.set_grad_checkpointing()
    return nn.SyncBatchNorm.convert_sync_batchnorm(network) if config.train.sync_bn else network


def _try_out(network: nn.Layer, config: Config, num_classes: int) -> None:
    """Raise ``NetworkError`` if ``network`` does not return ``num_classes`` logits for an image of evaluation's size.

    The network may be a user's code and fail in any way; here, before the start, that is reported in one line.
    """
    if isinstance(network, DLABackbone):
        return
    network.eval()
    outputs_of(network, np.zeros((1, *config.preprocessing().input_size), np.float32), num_classes)
    network.train()


def freeze_as_told(config: Config, network: nn.Layer) -> Frozen:
    """Freeze the layers named by ``train.freeze`` or ``train.linear_probe``."""
    if config.train.linear_probe:
        return freeze_all_but_head(network)
    return freeze(network, config.train.freeze) if config.train.freeze else Frozen()


def create_loss(config: Config) -> Loss:
    """Create the loss of logits and labels. As in timm, mixing applies the smoothing if batches are mixed."""
    loss, mixed = config.loss, config.mixing.enabled
    if loss.name == "bce":
        return BinaryCrossEntropy(0.0 if mixed else loss.smoothing, loss.bce_target_thresh, loss.bce_sum)
    if mixed:
        return SoftTargetCrossEntropy()
    return LabelSmoothingCrossEntropy(loss.smoothing) if loss.smoothing else CrossEntropy()


@dataclass(frozen=True)
class Criterion:
    """The loss of a batch: from its labels and, if there is a teacher, from the teacher's logits."""

    loss: Loss
    teacher: nn.Layer | None = None
    distillation: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None

    def __call__(self, logits: Tensor, target: Tensor, images: Tensor) -> Tensor:
        """Return the scalar loss.

        ``logits`` (B, K); ``target`` as the loss takes it; ``images`` (B, C, H, W) for the teacher.
        """
        if self.teacher is None or self.distillation is None:
            return self.loss(logits, target)
        with paddle.no_grad():
            answers = self.teacher(images)
        return self.distillation(logits, target, answers)


def create_criterion(config: Config, num_classes: int, classes: Sequence[str] | None = None) -> Criterion:
    """Create the loss with the teacher of ``loss.distillation``; a timm checkpoint is converted in memory.

    Raises ``CheckpointError`` if the teacher is unavailable or has another number of classes, ``TrainingError`` if it
    expects another normalisation of images, or numbers the ``classes`` of the data differently.
    """
    loss, wanted = create_loss(config), config.loss.distillation
    if wanted.teacher is None:
        return Criterion(loss)
    teacher = load_model(wanted.teacher, wanted.checkpoint, num_classes)
    _try_out(teacher.layer, config, num_classes)
    teacher.layer.eval()
    own, its = config.preprocessing(), teacher.preprocessing
    if (own.mean, own.std) != (its.mean, its.std):
        raise TrainingError(
            f"the teacher {teacher.source} was trained on images normalised by mean {its.mean} and std {its.std}, the "
            f"student gets {own.mean} and {own.std}: set transform.mean and transform.std to the teacher's"
        )
    names = teacher.class_names
    if classes is not None and names is not None and comparable(classes, names, teacher.named_by):
        differing = differences(classes, names)
        if differing:
            raise TrainingError(
                f"the teacher {teacher.source} learnt other classes: {shortened(differing)}; number the data by its "
                "class names with data.class_map"
            )
    if wanted.kind == "ssld":
        return Criterion(loss, teacher.layer, SSLD())
    kind = Distillation(task_weight=1 - wanted.alpha, temperature=wanted.temperature, hard=loss)
    return Criterion(loss, teacher.layer, kind)


def build_optimizer(config: Config, network: nn.Layer, lr: float) -> NamedOptimizer:
    """Create the optimizer. Lamb clips its own gradients, to ``optimizer.clip_grad`` (null: to a norm of 1)."""
    wanted = config.optimizer
    momentum = 0.9 if wanted.momentum is None else wanted.momentum
    return create_optimizer(
        network,
        TIMM_OPTIMIZERS[wanted.name],
        lr,
        wanted.weight_decay,
        momentum if wanted.name in WITH_MOMENTUM else 0.0,
        betas=wanted.betas or (0.9, 0.999),
        eps=wanted.eps,
        max_grad_norm=wanted.clip_grad or 1.0,
        filter_bias_and_bn=wanted.filter_bias_and_bn,
        layer_decay=wanted.layer_decay,
    )


def build_schedule(config: Config, plan: Plan) -> Schedule:
    """Create the learning-rate schedule; its highest rate is ``optimizer.learning_rate`` for the global batch."""
    wanted = config.schedule
    lengths = {"decay_epochs": wanted.decay_epochs, "decay_milestones": wanted.decay_milestones}
    return create_schedule(
        wanted.name,
        config.optimizer.learning_rate(plan.images),
        config.train.epochs,
        plan.updates_per_epoch,
        per_epoch=wanted.per_epoch,
        warmup_epochs=wanted.warmup_epochs,
        warmup_lr=wanted.warmup_lr,
        warmup_prefix=wanted.warmup_prefix,
        cooldown_epochs=wanted.cooldown_epochs,
        min_lr=wanted.min_lr,
        decay_rate=wanted.decay_rate,
        **{name: value for name, value in lengths.items() if value is not None},
    )


def build_ema(config: Config, network: nn.Layer) -> ModelEma | None:
    """Create the moving average, starting with the current weights; ``None`` if the config has none."""
    return ModelEma(network, config.ema.decay, use_warmup=config.ema.warmup) if config.ema.enabled else None
