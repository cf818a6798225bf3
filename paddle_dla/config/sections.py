"""The schema: one frozen dataclass a section, one line an option. No framework.

Names are those of timm 1.0.31 (``train.py``, ``timm.data.create_transform``, ``timm.data.Mixup``,
``timm.scheduler.create_scheduler_v2``) where it has one. Defaults add nothing unasked: no augmentation, no smoothing,
no EMA; a recipe says all that it does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from paddle_dla.config.option import option
from paddle_dla.preprocessing import INTERPOLATIONS, MAX_SIDE, Preprocessing

ADAPTIVE = ("adamw", "lamb")
WITH_MOMENTUM = ("momentum", "nesterov")


MOST_CLASSES = 2**20  # ImageNet-21k, the largest that networks of this family were trained on, has 21,843
MOST_PROCESSES = 1024  # no machine has as many cores for one process
MOST_REPEATS = 1000  # each takes time in every image, or a place in the order of an epoch


@dataclass(frozen=True)
class Model:
    """Which network, and what it starts from."""

    name: str = option(
        "dla60", "the variant, as timm or PaddleClas spells it, or a port's folder: one of `paddle_dla.list_models()`"
    )
    pretrained: bool | str = option(
        False,
        "`true`: timm's weights from the hub, or the port's own; a path: a converted file or a timm checkpoint; "
        "`false`: none",
    )
    num_classes: int | None = option(
        1000, "classes of the head; `null`: as many as the training data have", low=1, high=MOST_CLASSES
    )
    in_chans: int = option(3, "channels of an image: 3 (RGB) or 1 (grey)", low=1, high=3)
    global_pool: str = option(
        "avg", "how the last map becomes one vector", choices=("avg", "max", "avgmax", "catavgmax")
    )
    drop_rate: float = option(0.0, "dropout before the classifier", low=0, below=1)
    drop_path_rate: float | None = option(
        None, "stochastic depth of the last block, for ports that have it; `null`: as ported", low=0, below=1
    )


@dataclass(frozen=True)
class Data:
    """Where the images are, and how they are read."""

    train: str | None = option(None, "training images: a folder of class folders, a `path label` list, or tar shards")
    train_root: str | None = option(None, "the folder that the paths of the list `data.train` start from")
    val: str | None = option(None, "validation images, in the same forms; `null`: no validation")
    val_root: str | None = option(None, "the folder that the paths of the list `data.val` start from")
    class_map: str | None = option(None, "a file with one class name a line, in the order of their indices")
    batch_size: int = option(
        128, "images a step and process; the global batch is times processes and accumulation", low=1
    )
    workers: int = option(
        4, "loader processes of each process; 0 reads in the process itself", low=0, high=MOST_PROCESSES
    )
    max_skipped: int = option(0, "images that may turn out corrupt before the run ends with their list", low=0)
    timeout: float = option(120.0, "seconds after which a silent worker is reported as hung", above=0)


@dataclass(frozen=True)
class TrainTransform:
    """What is done to a training image, in this order."""

    input_size: tuple[int, int, int] | None = option(
        None, "channels, height, width that training crops to; `null`: as in evaluation", low=1, high=MAX_SIDE
    )
    scale: tuple[float, float] = option((0.08, 1.0), "share of the area that a random crop keeps", above=0, high=1)
    ratio: tuple[float, float] = option((3 / 4, 4 / 3), "aspect ratio, width to height, of a random crop", above=0)
    interpolation: str = option(
        "bilinear",
        "the filter that resizes the crop; `random`: bilinear or bicubic",
        choices=("random", *INTERPOLATIONS),
    )
    hflip: float = option(0.5, "probability of a horizontal flip", low=0, high=1)
    vflip: float = option(0.0, "probability of a vertical flip", low=0, high=1)
    auto_augment: str | None = option(
        None, "a policy as timm writes it: `rand-m7-mstd0.5-inc1`, `original`, `v0`, `augmix-m5-w4-d2`, `3a`, `ta-wide`"
    )
    color_jitter: float | tuple[float, ...] = option(
        0.0, "strength for brightness, contrast and saturation (timm's default is 0.4), or one value each", low=0
    )
    re_prob: float = option(0.0, "probability of random erasing", low=0, high=1)
    re_mode: str = option(
        "pixel", "what is erased with: zeros, one colour, or noise", choices=("const", "rand", "pixel")
    )
    re_count: int = option(1, "rectangles to erase, at most", low=1, high=MOST_REPEATS)
    aug_repeats: int = option(
        0, "repeated augmentation: copies of an image in an epoch's batches; 0 is none", low=0, high=MOST_REPEATS
    )


@dataclass(frozen=True)
class EvalTransform:
    """What is done to an image that is evaluated; ``null`` is the model's own value."""

    input_size: tuple[int, int, int] | None = option(
        None, "channels, height, width of the centre crop", low=1, high=MAX_SIDE
    )
    crop_pct: float | None = option(None, "share of the resized short side that the crop keeps", above=0, high=4)
    interpolation: str | None = option(None, "the filter of PIL that resizes", choices=INTERPOLATIONS)


@dataclass(frozen=True)
class Transform:
    """How an image becomes an input. Mean and deviation are the same in training and in evaluation."""

    mean: tuple[float, ...] | None = option(
        None, "one value a channel, on the scale of [0, 1]; `null`: the model's own"
    )
    std: tuple[float, ...] | None = option(
        None, "one value a channel, on the scale of [0, 1]; `null`: the model's own", above=0
    )
    train: TrainTransform = field(default_factory=TrainTransform)
    eval: EvalTransform = field(default_factory=EvalTransform)

    def preprocessing(self, own: Preprocessing) -> Preprocessing:
        """The model's ``own`` record with what this section sets instead.

        Raises ``ValueError`` where the two do not go together, as one channel with three means.
        """
        chosen = {
            "input_size": self.eval.input_size,
            "crop_pct": self.eval.crop_pct,
            "interpolation": self.eval.interpolation,
            "mean": self.mean,
            "std": self.std,
        }
        return Preprocessing(**{key: getattr(own, key) if value is None else value for key, value in chosen.items()})


@dataclass(frozen=True)
class Mixing:
    """Mixup and CutMix, as ``timm.data.Mixup`` defines them. Smoothing is ``loss.smoothing``."""

    mixup_alpha: float = option(0.0, "mixup's beta distribution; 0 is off", low=0)
    cutmix_alpha: float = option(0.0, "CutMix's beta distribution; 0 is off", low=0)
    cutmix_minmax: tuple[float, float] | None = option(
        None,
        "least and largest side of the box, as a share of the image's, instead of `mixing.cutmix_alpha`",
        above=0,
        high=1,
    )
    prob: float = option(1.0, "probability that a batch (pair, element) is mixed", low=0, high=1)
    switch_prob: float = option(0.5, "probability of CutMix where both are on", low=0, high=1)
    mode: str = option("batch", "what shares one draw", choices=("batch", "pair", "elem"))
    off_epoch: int = option(0, "the epoch from which on nothing is mixed; 0: to the end", low=0)

    @property
    def enabled(self) -> bool:
        """Whether anything is mixed at all."""
        return self.prob > 0 and bool(self.mixup_alpha or self.cutmix_alpha or self.cutmix_minmax)


@dataclass(frozen=True)
class Distillation:
    """A second network whose answers are learnt, too."""

    teacher: str | None = option(None, "the teacher's variant; `null`: no distillation")
    checkpoint: str | None = option(None, "the teacher's weights: a converted file, a timm checkpoint or a hub id")
    kind: str = option(
        "logits",
        "`logits`: KL divergence of softened logits; `ssld`: PaddleClas's symmetric form, without labels",
        choices=("logits", "ssld"),
    )
    temperature: float = option(1.0, "what the logits are divided by before the softmax; `logits` only", above=0)
    alpha: float = option(0.5, "weight of the teacher, 1 - alpha of the labels; `logits` only", above=0, high=1)


@dataclass(frozen=True)
class Loss:
    """What is minimised."""

    name: str = option(
        "cross_entropy",
        "softmax cross entropy, or binary cross entropy of each class",
        choices=("cross_entropy", "bce"),
    )
    smoothing: float = option(0.0, "label smoothing: the share that all classes divide", low=0, below=1)
    bce_target_thresh: float | None = option(
        None, "targets above it become 1, the others 0; `bce` only", low=0, below=1
    )
    bce_sum: bool = option(False, "sum over the classes instead of their mean; `bce` only")
    distillation: Distillation = field(default_factory=Distillation)


@dataclass(frozen=True)
class Optimizer:
    """How weights follow gradients."""

    name: str = option(
        "nesterov",
        "`momentum` and `nesterov` are SGD with one (timm's `sgd` is `nesterov`); `sgd` has none",
        choices=("sgd", *WITH_MOMENTUM, *ADAPTIVE),
    )
    lr: float | None = option(None, "learning rate, whatever the batch; `null`: from `optimizer.lr_base`", above=0)
    lr_base: float = option(0.1, "learning rate at a global batch of `optimizer.lr_base_size`", above=0)
    lr_base_size: int = option(256, "the global batch that `optimizer.lr_base` is meant for", low=1)
    lr_base_scale: str | None = option(
        None,
        "how the rate follows the global batch; `null`: sqrt for adamw and lamb, linear for the others",
        choices=("linear", "sqrt"),
    )
    momentum: float | None = option(None, "of momentum and nesterov; `null`: 0.9", low=0, below=1)
    betas: tuple[float, float] | None = option(None, "of adamw and lamb; `null`: 0.9, 0.999", low=0, below=1)
    eps: float | None = option(None, "of adamw and lamb; `null`: 1e-8 for adamw, 1e-6 for lamb", above=0)
    weight_decay: float = option(0.0, "added to the gradient (decoupled for adamw and lamb)", low=0)
    filter_bias_and_bn: bool = option(True, "no weight decay on biases and normalisation")
    layer_decay: float | None = option(
        None, "factor of the rate from each group of layers to the one below it", above=0, high=1
    )
    clip_grad: float | None = option(
        None, "what gradients are clipped to; `null`: they are not, but lamb clips to a norm of 1", above=0
    )
    clip_mode: str = option(
        "norm", "`norm`: of all gradients together; `value`: of each element", choices=("norm", "value")
    )

    def learning_rate(self, global_batch: int) -> float:
        """The highest rate of the schedule at ``global_batch`` images a step, over all processes and accumulation.

        timm 1.0.31 ``train.py``: ``lr``, or ``lr_base`` times the ratio of the batches, or its root.
        """
        if self.lr is not None:
            return self.lr
        ratio = global_batch / self.lr_base_size
        scale = self.lr_base_scale or ("sqrt" if self.name in ADAPTIVE else "linear")
        return self.lr_base * (ratio**0.5 if scale == "sqrt" else ratio)


@dataclass(frozen=True)
class Schedule:
    """How the learning rate goes over the epochs; lengths are in epochs."""

    name: str = option("cosine", "the curve", choices=("cosine", "poly", "step", "multistep", "constant"))
    per_epoch: bool = option(True, "the rate changes between epochs only; `false`: at each update")
    warmup_epochs: float = option(0.0, "epochs of linear warm-up", low=0)
    warmup_lr: float = option(1e-5, "the rate that warm-up starts from", low=0)
    warmup_prefix: bool = option(False, "warm-up comes before `train.epochs` instead of out of them")
    cooldown_epochs: int = option(0, "epochs at `schedule.min_lr` after `train.epochs`; cosine and poly", low=0)
    min_lr: float = option(0.0, "where cosine and poly end", low=0)
    decay_epochs: float | None = option(None, "epochs from one decay to the next; step", above=0)
    decay_milestones: tuple[float, ...] | None = option(
        None,
        "epochs of the decays, as timm counts: a milestone m acts from epoch m - 1 on; multistep",
        above=0,
        ascending=True,
    )
    decay_rate: float = option(0.1, "factor of each decay; the power of poly (1 is linear)", above=0)


@dataclass(frozen=True)
class Ema:
    """A moving average of the weights, evaluated beside them."""

    enabled: bool = option(False, "keep one")
    decay: float = option(0.9998, "what stays of the average at each update", above=0, below=1)
    warmup: bool = option(False, "let the decay grow from 0 in the first updates")


@dataclass(frozen=True)
class Train:
    """The run itself."""

    epochs: int = option(120, "epochs of the schedule; a warm-up prefix and a cool-down come on top, as in timm", low=1)
    seed: int = option(42, "of the weights, the order of the data and every random choice", low=0)
    device: str = option("auto", "`auto`: a GPU if Paddle sees one", choices=("auto", "cpu", "gpu"))
    grad_accum_steps: int = option(1, "batches whose gradients make one update", low=1)
    amp: str = option("none", "mixed precision, on GPU", choices=("none", "float16", "bfloat16"))
    recompute: bool = option(False, "forget activations and compute them again: less memory, a third more work")
    sync_bn: bool = option(False, "BatchNorm statistics over all processes, on GPU")
    freeze: tuple[str, ...] = option((), "layers that stay as they are, by the beginning of their names: `level0`")
    linear_probe: bool = option(False, "train the classifier alone, on fixed features")
    threads: int | None = option(
        None, "CPU threads for arithmetic; `null`: the cores that are there", low=1, high=MOST_PROCESSES
    )
    deterministic: bool = option(False, "the same bits from every run, at some cost on GPU")
    output: str = option("out/train", "the folder for checkpoints, logs and the resolved config")
    resume: bool | str = option(
        True, "`true`: go on from the last checkpoint in `train.output`, if any; a path: from that one; `false`: anew"
    )
    val_interval: int = option(1, "epochs from one validation to the next; 0: never", low=0)
    save_interval: int = option(1, "epochs from one checkpoint to the next", low=1)
    recovery_interval: int = option(0, "updates from one checkpoint to the next within an epoch; 0: none", low=0)
    checkpoint_hist: int = option(3, "best checkpoints to keep, beside the last one", low=1)
    eval_metric: str = option("top1", "what makes a checkpoint the best", choices=("top1", "top5", "loss"))
    log_interval: int = option(10, "steps from one log line to the next", low=1)


@dataclass(frozen=True)
class Evaluate:
    """How a model is scored."""

    engine: str = option(
        "auto",
        "what runs the model; auto is the fastest installed",
        choices=("auto", "paddle", "inference", "onnxruntime"),
    )
    batch_size: int | None = option(None, "images a step and process; `null`: `data.batch_size`", low=1)
    topk: tuple[int, ...] = option((1, 5), "which top-k accuracies to report", low=1, ascending=True)
    tta: str = option(
        "none", "test-time augmentation: `hflip` averages the image and its mirror", choices=("none", "hflip")
    )
    per_class: bool = option(False, "accuracy of each class, too")
    confusion: bool = option(False, "write the confusion matrix, as CSV and as a picture")
