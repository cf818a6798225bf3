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
    """The network and its initial weights."""

    name: str = option(
        "dla60",
        "a name from `paddle_dla.list_models()`: a DLA, as timm or PaddleClas spells it, or the folder of a port",
    )
    pretrained: bool | str = option(
        False,
        "`true`: timm's weights from the hub, or the port's own; a path: a converted file or a timm checkpoint; "
        "`false`: random weights",
    )
    num_classes: int | None = option(
        1000, "number of classes; `null`: as in the training data", low=1, high=MOST_CLASSES
    )
    in_chans: int = option(3, "image channels: 3 (RGB) or 1 (grey)", low=1, high=3)
    global_pool: str = option("avg", "pooling of the last feature map", choices=("avg", "max", "avgmax", "catavgmax"))
    drop_rate: float = option(0.0, "dropout rate before the classifier", low=0, below=1)
    drop_path_rate: float | None = option(
        None,
        "stochastic depth rate of the last block, for ports that have one; `null`: the rate in the port",
        low=0,
        below=1,
    )


@dataclass(frozen=True)
class Data:
    """Where the images are and how they are read."""

    train: str | None = option(
        None, "training images: a folder with one subfolder per class, a list of `path label` lines, or tar shards"
    )
    train_root: str | None = option(None, "base folder of the paths in the list `data.train`")
    val: str | None = option(None, "validation images, in the same formats; `null`: no validation")
    val_root: str | None = option(None, "base folder of the paths in the list `data.val`")
    class_map: str | None = option(None, "file with one class name per line, in the order of the class indices")
    batch_size: int = option(
        128, "images per step and process; the global batch is this x processes x `train.grad_accum_steps`", low=1
    )
    workers: int = option(
        4, "loader processes per training process; 0: load in the training process", low=0, high=MOST_PROCESSES
    )
    max_skipped: int = option(
        0, "largest number of corrupt images to skip; with more, the run ends and lists them", low=0
    )
    timeout: float = option(120.0, "seconds without a sign of life after which a worker is reported as hung", above=0)


@dataclass(frozen=True)
class TrainTransform:
    """Transforms of a training image, in this order."""

    input_size: tuple[int, int, int] | None = option(
        None, "channels, height and width of the training crop; `null`: as in evaluation", low=1, high=MAX_SIDE
    )
    scale: tuple[float, float] = option((0.08, 1.0), "area of a random crop, as a share of the image", above=0, high=1)
    ratio: tuple[float, float] = option((3 / 4, 4 / 3), "aspect ratio (width / height) of a random crop", above=0)
    interpolation: str = option(
        "bilinear",
        "filter that resizes the crop; `random`: bilinear or bicubic",
        choices=("random", *INTERPOLATIONS),
    )
    hflip: float = option(0.5, "probability of a horizontal flip", low=0, high=1)
    vflip: float = option(0.0, "probability of a vertical flip", low=0, high=1)
    auto_augment: str | None = option(
        None, "policy in timm's notation: `rand-m7-mstd0.5-inc1`, `original`, `v0`, `augmix-m5-w4-d2`, `3a`, `ta-wide`"
    )
    color_jitter: float | tuple[float, ...] = option(
        0.0, "strength for brightness, contrast and saturation (timm's default: 0.4), or one value for each", low=0
    )
    re_prob: float = option(0.0, "probability of random erasing", low=0, high=1)
    re_mode: str = option(
        "pixel",
        "fill of the erased area: `const` zeros, `rand` one random colour, `pixel` noise",
        choices=("const", "rand", "pixel"),
    )
    re_count: int = option(1, "largest number of rectangles to erase", low=1, high=MOST_REPEATS)
    aug_repeats: int = option(
        0, "repeated augmentation: copies of each image in an epoch; 0: off", low=0, high=MOST_REPEATS
    )


@dataclass(frozen=True)
class EvalTransform:
    """Transforms of an image in evaluation; ``null``: the model's own value."""

    input_size: tuple[int, int, int] | None = option(
        None, "channels, height and width of the centre crop; `null`: the model's own", low=1, high=MAX_SIDE
    )
    crop_pct: float | None = option(
        None, "crop size / short side after resizing; `null`: the model's own", above=0, high=4
    )
    interpolation: str | None = option(
        None, "PIL filter that resizes the image; `null`: the model's own", choices=INTERPOLATIONS
    )


@dataclass(frozen=True)
class Transform:
    """Image preprocessing. Mean and standard deviation apply to training and evaluation."""

    mean: tuple[float, ...] | None = option(
        None, "one value per channel, for pixels in [0, 1]; `null`: the model's own"
    )
    std: tuple[float, ...] | None = option(
        None, "one value per channel, for pixels in [0, 1]; `null`: the model's own", above=0
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
    """Mixup and CutMix, as ``timm.data.Mixup`` defines them. Label smoothing is ``loss.smoothing``."""

    mixup_alpha: float = option(0.0, "alpha of mixup's beta distribution; 0: off", low=0)
    cutmix_alpha: float = option(0.0, "alpha of CutMix's beta distribution; 0: off", low=0)
    cutmix_minmax: tuple[float, float] | None = option(
        None,
        "smallest and largest side of the CutMix box, as a share of the image side; replaces `mixing.cutmix_alpha`",
        above=0,
        high=1,
    )
    prob: float = option(1.0, "probability that a batch (or pair, or element) is mixed", low=0, high=1)
    switch_prob: float = option(0.5, "probability of CutMix instead of mixup if both are on", low=0, high=1)
    mode: str = option("batch", "unit that is mixed with the same random parameters", choices=("batch", "pair", "elem"))
    off_epoch: int = option(0, "first epoch without mixing; 0: mix until the end", low=0)

    @property
    def enabled(self) -> bool:
        """Whether anything is mixed at all."""
        return self.prob > 0 and bool(self.mixup_alpha or self.cutmix_alpha or self.cutmix_minmax)


@dataclass(frozen=True)
class Distillation:
    """Distillation: the network also learns from the outputs of a teacher."""

    teacher: str | None = option(None, "teacher model: a DLA or the folder of a port; `null`: no distillation")
    checkpoint: str | None = option(None, "weights of the teacher: a converted file, a timm checkpoint or a hub id")
    kind: str = option(
        "logits",
        "`logits`: KL divergence of softened logits; `ssld`: PaddleClas's symmetric form, without labels",
        choices=("logits", "ssld"),
    )
    temperature: float = option(1.0, "the logits are divided by this before the softmax; `logits` only", above=0)
    alpha: float = option(
        0.5, "weight of the teacher's loss; the labels' loss has weight 1 - alpha; `logits` only", above=0, high=1
    )


@dataclass(frozen=True)
class Loss:
    """The loss that training minimises."""

    name: str = option(
        "cross_entropy",
        "softmax cross entropy, or binary cross entropy of each class",
        choices=("cross_entropy", "bce"),
    )
    smoothing: float = option(
        0.0, "label smoothing: the share of the target that is spread over all classes", low=0, below=1
    )
    bce_target_thresh: float | None = option(
        None, "targets above this become 1, the others 0; `bce` only", low=0, below=1
    )
    bce_sum: bool = option(False, "sum over the classes instead of their mean; `bce` only")
    distillation: Distillation = field(default_factory=Distillation)


@dataclass(frozen=True)
class Optimizer:
    """The optimizer and its learning rate."""

    name: str = option(
        "nesterov",
        "`momentum` and `nesterov` are SGD with momentum (timm's `sgd` is `nesterov` here); `sgd` has no momentum",
        choices=("sgd", *WITH_MOMENTUM, *ADAPTIVE),
    )
    lr: float | None = option(
        None, "learning rate, independent of the batch size; `null`: computed from `optimizer.lr_base`", above=0
    )
    lr_base: float = option(0.1, "learning rate at a global batch of `optimizer.lr_base_size`", above=0)
    lr_base_size: int = option(256, "global batch to which `optimizer.lr_base` refers", low=1)
    lr_base_scale: str | None = option(
        None,
        "how the learning rate scales with the global batch; `null`: sqrt for adamw and lamb, linear otherwise",
        choices=("linear", "sqrt"),
    )
    momentum: float | None = option(None, "for momentum and nesterov; `null`: 0.9", low=0, below=1)
    betas: tuple[float, float] | None = option(None, "for adamw and lamb; `null`: 0.9, 0.999", low=0, below=1)
    eps: float | None = option(None, "for adamw and lamb; `null`: 1e-8 for adamw, 1e-6 for lamb", above=0)
    weight_decay: float = option(0.0, "weight decay, added to the gradient (decoupled for adamw and lamb)", low=0)
    filter_bias_and_bn: bool = option(True, "no weight decay on biases and normalisation layers")
    layer_decay: float | None = option(
        None, "learning rate of a group of layers relative to the group above it", above=0, high=1
    )
    clip_grad: float | None = option(
        None,
        "limit for gradient clipping; `null`: no clipping, except for lamb, which clips to a norm of 1",
        above=0,
    )
    clip_mode: str = option(
        "norm", "`norm`: clip the norm of all gradients together; `value`: clip each element", choices=("norm", "value")
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
    """The learning rate over the epochs. Lengths are in epochs."""

    name: str = option("cosine", "shape of the schedule", choices=("cosine", "poly", "step", "multistep", "constant"))
    per_epoch: bool = option(True, "`true`: change the learning rate between epochs; `false`: at each update")
    warmup_epochs: float = option(0.0, "length of the linear warm-up", low=0)
    warmup_lr: float = option(1e-5, "learning rate at the start of the warm-up", low=0)
    warmup_prefix: bool = option(False, "`true`: the warm-up comes before `train.epochs`; `false`: it is part of them")
    cooldown_epochs: int = option(0, "epochs at `schedule.min_lr` after `train.epochs`; for cosine and poly", low=0)
    min_lr: float = option(0.0, "final learning rate of cosine and poly", low=0)
    decay_epochs: float | None = option(None, "epochs between two decays; for step", above=0)
    decay_milestones: tuple[float, ...] | None = option(
        None,
        "epochs of the decays, in timm's counting: milestone m takes effect from epoch m - 1; for multistep",
        above=0,
        ascending=True,
    )
    decay_rate: float = option(0.1, "factor of each decay; for poly the power (1: linear)", above=0)


@dataclass(frozen=True)
class Ema:
    """A moving average of the weights, evaluated in addition to them."""

    enabled: bool = option(False, "keep a moving average")
    decay: float = option(0.9998, "weight of the previous average at each update", above=0, below=1)
    warmup: bool = option(False, "increase the decay from 0 during the first updates")


@dataclass(frozen=True)
class Train:
    """The run itself."""

    epochs: int = option(120, "epochs of the schedule; a warm-up prefix and a cool-down are added, as in timm", low=1)
    seed: int = option(42, "random seed of the weights, the data order and every random choice", low=0)
    device: str = option("auto", "`auto`: a GPU if Paddle finds one", choices=("auto", "cpu", "gpu"))
    grad_accum_steps: int = option(1, "batches per update: their gradients are accumulated", low=1)
    amp: str = option("none", "mixed precision, on GPU", choices=("none", "float16", "bfloat16"))
    recompute: bool = option(False, "recompute activations in the backward pass: less memory, a third more computation")
    sync_bn: bool = option(False, "BatchNorm statistics over all processes, on GPU")
    freeze: tuple[str, ...] = option((), "layers that are not trained, by the beginning of their names: `level0`")
    linear_probe: bool = option(False, "train only the classifier, on fixed features")
    threads: int | None = option(
        None, "CPU threads for computation; `null`: all available cores", low=1, high=MOST_PROCESSES
    )
    deterministic: bool = option(False, "bit-for-bit reproducible runs, at some cost on GPU")
    output: str = option("out/train", "folder for checkpoints, logs and the resolved config")
    resume: bool | str = option(
        True,
        "`true`: resume from the last checkpoint in `train.output`, if any; a path: from that one; `false`: start anew",
    )
    val_interval: int = option(1, "epochs between two validations; 0: no validation", low=0)
    save_interval: int = option(1, "epochs between two checkpoints", low=1)
    recovery_interval: int = option(
        0, "updates between two checkpoints within an epoch; 0: none within an epoch", low=0
    )
    checkpoint_hist: int = option(3, "number of best checkpoints to keep, in addition to the last one", low=1)
    eval_metric: str = option("top1", "metric that selects the best checkpoint", choices=("top1", "top5", "loss"))
    log_interval: int = option(10, "steps between two log lines", low=1)


@dataclass(frozen=True)
class Evaluate:
    """How a model is evaluated."""

    engine: str = option(
        "auto",
        "engine that runs the model; `auto`: the fastest one installed",
        choices=("auto", "paddle", "inference", "onnxruntime"),
    )
    batch_size: int | None = option(None, "images per step and process; `null`: `data.batch_size`", low=1)
    topk: tuple[int, ...] = option((1, 5), "top-k accuracies to report", low=1, ascending=True)
    tta: str = option(
        "none", "test-time augmentation: `hflip` averages the image and its mirror", choices=("none", "hflip")
    )
    per_class: bool = option(False, "also report the accuracy of each class")
    confusion: bool = option(False, "write the confusion matrix, as CSV and as a picture")
