"""Combinations of options that are not allowed: one table, each row with the reason and what to do.

A row names the options that it checks. It is skipped if one of them already has a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from paddle_dla.config.errors import Fault
from paddle_dla.config.schema import Config
from paddle_dla.config.sections import ADAPTIVE, WITH_MOMENTUM
from paddle_dla.errors import UserError
from paddle_dla.models.registry import find_model

LAYERS = ("base_layer", *(f"level{level}" for level in range(6)), "fc")
STRIDE = 32


@dataclass(frozen=True)
class Rule:
    """``broken(config)`` is true if ``keys`` exclude each other; ``reason`` states why, and what to do."""

    keys: tuple[str, ...]
    broken: Callable[[Config], bool]
    reason: str


def _unknown(name: str | None) -> bool:
    try:
        return bool(name) and not find_model(name)
    except UserError:
        return True


def _is_variant(config: Config) -> bool:
    """Return whether the model is a DLA, whose layers and strides are known; a port checks its own options."""
    return not _unknown(config.model.name) and find_model(config.model.name).published is not None


def _sizes(config: Config) -> list[tuple[int, int, int]]:
    sizes = (config.transform.train.input_size, config.transform.eval.input_size)
    return [size for size in sizes if size is not None]


def _channels(config: Config) -> set[int]:
    given = [len(values) for values in (config.transform.mean, config.transform.std) if values is not None]
    return {size[0] for size in _sizes(config)} | set(given) | {config.model.in_chans}


def _lacks_own_channels(config: Config) -> bool:
    size = config.transform.eval.input_size
    return config.model.in_chans != 3 and (None in (size, config.transform.mean, config.transform.std))


def _strange_layers(names: Iterable[str]) -> bool:
    return any(name.split(".")[0] not in LAYERS for name in names)


_SIZES = ("transform.train.input_size", "transform.eval.input_size")

RULES: tuple[Rule, ...] = (
    Rule(("model.in_chans",), lambda c: c.model.in_chans == 2, "an image has 1 channel (grey) or 3 (RGB)"),
    Rule(
        ("model.in_chans", "transform.mean", "transform.std", *_SIZES),
        lambda c: len(_channels(c)) > 1,
        "the number of channels differs; give all of them model.in_chans channels",
    ),
    Rule(
        ("model.in_chans", "transform.mean", "transform.std", "transform.eval.input_size"),
        _lacks_own_channels,
        "the model's own preprocessing is for RGB; set transform.mean, transform.std and transform.eval.input_size",
    ),
    Rule(
        ("model.global_pool", "model.name"),
        lambda c: c.model.global_pool != "avg" and not _unknown(c.model.name) and not _is_variant(c),
        "the pooling of a port is part of its source; leave model.global_pool at avg",
    ),
    Rule(
        ("model.drop_path_rate", "model.name"),
        lambda c: bool(c.model.drop_path_rate) and _is_variant(c),
        "DLA has no stochastic depth; leave it at null",
    ),
    Rule(
        _SIZES,
        lambda c: _is_variant(c) and any(side % STRIDE for size in _sizes(c) for side in size[1:]),
        f"height and width are multiples of {STRIDE}, the stride of the network",
    ),
    Rule(
        ("transform.train.scale",),
        lambda c: c.transform.train.scale[0] > c.transform.train.scale[1],
        "the smallest comes first",
    ),
    Rule(
        ("transform.train.ratio",),
        lambda c: c.transform.train.ratio[0] > c.transform.train.ratio[1],
        "the smallest comes first",
    ),
    Rule(
        ("transform.train.color_jitter",),
        lambda c: (
            isinstance(c.transform.train.color_jitter, tuple) and len(c.transform.train.color_jitter) not in (3, 4)
        ),
        "one number, or one each for brightness, contrast, saturation and, if wanted, hue",
    ),
    Rule(
        ("transform.train.color_jitter", "transform.train.auto_augment"),
        lambda c: bool(c.transform.train.color_jitter) and "3a" not in (c.transform.train.auto_augment or "3a"),
        "a policy takes the place of colour jitter, as in timm; set one of the two to 0 or null",
    ),
    Rule(
        ("mixing.cutmix_minmax",),
        lambda c: bool(c.mixing.cutmix_minmax) and c.mixing.cutmix_minmax[0] > c.mixing.cutmix_minmax[1],
        "the smallest comes first",
    ),
    Rule(
        ("model.num_classes", "mixing.mixup_alpha", "mixing.cutmix_alpha", "mixing.cutmix_minmax"),
        lambda c: c.mixing.enabled and c.model.num_classes is None,
        "mixing writes a probability for each class; set model.num_classes to their number",
    ),
    Rule(
        ("mixing.off_epoch", "train.epochs"),
        lambda c: c.mixing.off_epoch > 0 and c.mixing.off_epoch >= c.total_epochs,
        "it lies after the last epoch; leave it at 0 to mix to the end",
    ),
    Rule(
        ("loss.bce_target_thresh", "loss.name"),
        lambda c: c.loss.bce_target_thresh is not None and c.loss.name != "bce",
        "the threshold is binary cross entropy's; set loss.name: bce, or the threshold to null",
    ),
    Rule(
        ("loss.bce_sum", "loss.name"),
        lambda c: c.loss.bce_sum and c.loss.name != "bce",
        "the sum over classes is binary cross entropy's; set loss.name: bce",
    ),
    Rule(
        ("loss.distillation.teacher",),
        lambda c: _unknown(c.loss.distillation.teacher),
        "no such model; a teacher is a variant of DLA or the folder of a port",
    ),
    Rule(
        ("loss.distillation.teacher", "loss.distillation.checkpoint"),
        lambda c: (c.loss.distillation.teacher is None) != (c.loss.distillation.checkpoint is None),
        "a teacher and its checkpoint come together; set both, or both to null",
    ),
    Rule(
        ("loss.distillation.kind", "loss.distillation.teacher"),
        lambda c: c.loss.distillation.kind == "ssld" and c.loss.distillation.teacher is None,
        "ssld learns from a teacher; set loss.distillation.teacher and .checkpoint",
    ),
    Rule(
        ("loss.distillation.kind", "loss.smoothing"),
        lambda c: c.loss.distillation.kind == "ssld" and c.loss.smoothing > 0,
        "ssld uses no labels, so there are none to smooth; set loss.smoothing: 0",
    ),
    Rule(
        ("loss.distillation.kind", "loss.distillation.temperature"),
        lambda c: c.loss.distillation.kind == "ssld" and c.loss.distillation.temperature != 1,
        "ssld has no temperature; set it to 1, or loss.distillation.kind: logits",
    ),
    Rule(
        ("optimizer.momentum", "optimizer.name"),
        lambda c: c.optimizer.momentum is not None and c.optimizer.name not in WITH_MOMENTUM,
        "only momentum and nesterov have one; choose one of these, or set optimizer.momentum: null",
    ),
    Rule(
        ("optimizer.betas", "optimizer.name"),
        lambda c: c.optimizer.betas is not None and c.optimizer.name not in ADAPTIVE,
        "only adamw and lamb have them; choose one of these, or set optimizer.betas: null",
    ),
    Rule(
        ("optimizer.eps", "optimizer.name"),
        lambda c: c.optimizer.eps is not None and c.optimizer.name not in ADAPTIVE,
        "only adamw and lamb have it; choose one of these, or set optimizer.eps: null",
    ),
    Rule(
        ("schedule.min_lr", "optimizer.lr"),
        lambda c: c.optimizer.lr is not None and c.schedule.min_lr >= c.optimizer.lr,
        "the rate would not fall; set schedule.min_lr below optimizer.lr",
    ),
    Rule(
        ("schedule.decay_epochs", "schedule.name"),
        lambda c: (c.schedule.name == "step") != (c.schedule.decay_epochs is not None),
        "the schedule step requires it, and no other uses it; set it, or null with another schedule",
    ),
    Rule(
        ("schedule.decay_epochs", "train.epochs"),
        lambda c: (c.schedule.decay_epochs or 0) >= c.train.epochs,
        "the first decay lies after the last epoch; take schedule.name: constant for a rate that stays",
    ),
    Rule(
        ("schedule.decay_milestones", "schedule.name"),
        lambda c: (c.schedule.name == "multistep") != bool(c.schedule.decay_milestones),
        "the schedule multistep requires them, and no other uses them; set them, or null with another schedule",
    ),
    Rule(
        ("schedule.decay_milestones", "train.epochs"),
        lambda c: max(c.schedule.decay_milestones or (0,)) > c.train.epochs,
        "a milestone lies after the last epoch; leave it out, or train longer",
    ),
    Rule(
        ("schedule.cooldown_epochs", "schedule.name"),
        lambda c: c.schedule.cooldown_epochs > 0 and c.schedule.name not in ("cosine", "poly"),
        "only cosine and poly have an end to cool down at; set it to 0",
    ),
    Rule(
        ("schedule.warmup_epochs", "train.epochs"),
        lambda c: not c.schedule.warmup_prefix and c.schedule.warmup_epochs >= c.train.epochs,
        "warm-up takes all of the training; make it shorter, or set schedule.warmup_prefix: true",
    ),
    Rule(
        ("schedule.warmup_epochs", "schedule.warmup_prefix"),
        lambda c: c.schedule.warmup_prefix and c.schedule.warmup_epochs % 1 > 0,
        "a warm-up prefix adds whole epochs to the run; round schedule.warmup_epochs",
    ),
    Rule(("ema.warmup", "ema.enabled"), lambda c: c.ema.warmup and not c.ema.enabled, "set ema.enabled: true, too"),
    Rule(
        ("train.linear_probe", "model.pretrained"),
        lambda c: c.train.linear_probe and c.model.pretrained is False and not isinstance(c.train.resume, str),
        "a linear probe needs trained features; set model.pretrained",
    ),
    Rule(
        ("train.linear_probe", "train.freeze"),
        lambda c: c.train.linear_probe and bool(c.train.freeze),
        "a linear probe freezes everything but the classifier; leave train.freeze empty",
    ),
    Rule(
        ("train.linear_probe", "train.recompute"),
        lambda c: c.train.linear_probe and c.train.recompute,
        "a linear probe stores no activations, so there is nothing to recompute; set train.recompute: false",
    ),
    Rule(
        ("train.linear_probe", "optimizer.layer_decay"),
        lambda c: c.train.linear_probe and c.optimizer.layer_decay is not None,
        "a linear probe trains one layer; set optimizer.layer_decay: null",
    ),
    Rule(
        ("train.freeze",),
        lambda c: _is_variant(c) and _strange_layers(c.train.freeze),
        f"no such layer; names begin with one of {', '.join(LAYERS)}",
    ),
    Rule(
        ("train.freeze",),
        lambda c: set(LAYERS) <= set(c.train.freeze),
        "nothing is left to train; leave out at least the classifier, fc",
    ),
    Rule(
        ("data.train_root", "data.train"),
        lambda c: c.data.train_root is not None and c.data.train is None,
        "there is no list that it would be the root of; set data.train",
    ),
    Rule(
        ("data.val_root", "data.val"),
        lambda c: c.data.val_root is not None and c.data.val is None,
        "there is no list that it would be the root of; set data.val",
    ),
    Rule(
        ("train.eval_metric", "evaluate.topk"),
        lambda c: c.train.eval_metric == "top5" and 5 not in c.evaluate.topk,
        "top5 is not measured; add 5 to evaluate.topk",
    ),
)

CPU_RULES: tuple[Rule, ...] = (
    Rule(
        ("train.amp",),
        lambda c: c.train.amp != "none",
        "Paddle has no mixed precision on CPU; train on a GPU, or set train.amp: none",
    ),
    Rule(
        ("train.sync_bn",),
        lambda c: c.train.sync_bn,
        "Paddle's SyncBatchNorm has no CPU kernel; train on GPUs, or set train.sync_bn: false",
    ),
)


def faults_of(config: Config) -> list[Fault]:
    """Return all disallowed combinations in ``config``, however it was built."""
    rules = RULES + (CPU_RULES if config.train.device == "cpu" else ())
    broken = [Fault("", rule.keys, rule.reason) for rule in rules if rule.broken(config)]
    return _model_faults(config) + broken


def device_faults(config: Config, device: str) -> list[Fault]:
    """Return what cannot run on ``device`` (``cpu`` or ``gpu``); call it once ``train.device: auto`` is decided."""
    rules = CPU_RULES if device == "cpu" else ()
    return [Fault("", rule.keys, rule.reason) for rule in rules if rule.broken(config)]


def _model_faults(config: Config) -> list[Fault]:
    try:
        find_model(config.model.name)
    except UserError as error:
        return [Fault("", ("model.name",), str(error))]
    return []
