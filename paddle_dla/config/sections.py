"""The schema: one frozen dataclass per section, one line per option. No framework.

Names are those of timm 1.0.31 (``train.py``, ``timm.data.create_transform``, ``timm.data.Mixup``,
``timm.scheduler.create_scheduler_v2``) where timm has one. Defaults switch nothing on: no augmentation, no smoothing,
no EMA; a recipe states everything that it uses.
"""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from paddle_dla.config.kinds import (
    STRICT,
    NonNegativeFloat,
    NonNegativeInt,
    Number,
    PositiveFloat,
    PositiveInt,
    Probability,
    Rate,
    Share,
    Text,
    ascending,
)
from paddle_dla.preprocessing import MAX_SIDE, Interpolation, Preprocessing

ADAPTIVE = ("adamw", "lamb")
WITH_MOMENTUM = ("momentum", "nesterov")


MOST_CLASSES = 2**20  # ImageNet-21k, the largest that networks of this family were trained on, has 21,843
MOST_PROCESSES = 1024  # no machine has as many cores for one process
MOST_REPEATS = 1000  # each costs time for every image, or an entry in the order of an epoch

Side = Annotated[int, Ge(1), Le(MAX_SIDE)]
ImageSize = tuple[Side, Side, Side]


@dataclass(frozen=True, config=STRICT)
class Model:
    """The network and its initial weights."""

    name: Text = Field(
        default="dla60",
        description="a name from `paddle_dla.list_models()`: a DLA, as timm or PaddleClas spells it, or the folder of "
        "a port",
    )
    pretrained: bool | Text = Field(
        default=False,
        description="`true`: timm's weights from the hub, or the port's own; a path: a converted file or a timm "
        "checkpoint; `false`: random weights",
    )
    num_classes: Annotated[int, Ge(1), Le(MOST_CLASSES)] | None = Field(
        default=1000, description="number of classes; `null`: as in the training data"
    )
    in_chans: Annotated[int, Ge(1), Le(3)] = Field(default=3, description="image channels: 3 (RGB) or 1 (grey)")
    global_pool: Literal["avg", "max", "avgmax", "catavgmax"] = Field(
        default="avg", description="pooling of the last feature map"
    )
    drop_rate: Rate = Field(default=0.0, description="dropout rate before the classifier")
    drop_path_rate: Rate | None = Field(
        default=None,
        description="stochastic depth rate of the last block, for ports that have one; `null`: the rate in the port",
    )


@dataclass(frozen=True, config=STRICT)
class Data:
    """Where the images are and how they are read."""

    train: Text | None = Field(
        default=None,
        description="training images: a folder with one subfolder per class, a list of `path label` lines, or tar "
        "shards",
    )
    train_root: Text | None = Field(default=None, description="base folder of the paths in the list `data.train`")
    val: Text | None = Field(default=None, description="validation images, in the same formats; `null`: no validation")
    val_root: Text | None = Field(default=None, description="base folder of the paths in the list `data.val`")
    class_map: Text | None = Field(
        default=None, description="file with one class name per line, in the order of the class indices"
    )
    batch_size: PositiveInt = Field(
        default=128,
        description="images per step and process; the global batch is this x processes x `train.grad_accum_steps`",
    )
    workers: Annotated[int, Ge(0), Le(MOST_PROCESSES)] = Field(
        default=4, description="loader processes per training process; 0: load in the training process"
    )
    max_skipped: NonNegativeInt = Field(
        default=0, description="largest number of corrupt images to skip; with more, the run ends and lists them"
    )
    timeout: PositiveFloat = Field(
        default=120.0, description="seconds without a sign of life after which a worker is reported as hung"
    )


@dataclass(frozen=True, config=STRICT)
class TrainTransform:
    """Transforms of a training image, in this order."""

    input_size: ImageSize | None = Field(
        default=None, description="channels, height and width of the training crop; `null`: as in evaluation"
    )
    scale: tuple[Share, Share] = Field(
        default=(0.08, 1.0), description="area of a random crop, as a share of the image"
    )
    ratio: tuple[PositiveFloat, PositiveFloat] = Field(
        default=(3 / 4, 4 / 3), description="aspect ratio (width / height) of a random crop"
    )
    interpolation: Literal["random", Interpolation] = Field(
        default="bilinear", description="filter that resizes the crop; `random`: bilinear or bicubic"
    )
    hflip: Probability = Field(default=0.5, description="probability of a horizontal flip")
    vflip: Probability = Field(default=0.0, description="probability of a vertical flip")
    auto_augment: Text | None = Field(
        default=None,
        description="policy in timm's notation: `rand-m7-mstd0.5-inc1`, `original`, `v0`, `augmix-m5-w4-d2`, `3a`, "
        "`ta-wide`",
    )
    color_jitter: NonNegativeFloat | tuple[NonNegativeFloat, ...] = Field(
        default=0.0,
        description="strength for brightness, contrast and saturation (timm's default: 0.4), or one value for each",
    )
    re_prob: Probability = Field(default=0.0, description="probability of random erasing")
    re_mode: Literal["const", "rand", "pixel"] = Field(
        default="pixel", description="fill of the erased area: `const` zeros, `rand` one random colour, `pixel` noise"
    )
    re_count: Annotated[int, Ge(1), Le(MOST_REPEATS)] = Field(
        default=1, description="largest number of rectangles to erase"
    )
    aug_repeats: Annotated[int, Ge(0), Le(MOST_REPEATS)] = Field(
        default=0, description="repeated augmentation: copies of each image in an epoch; 0: off"
    )


@dataclass(frozen=True, config=STRICT)
class EvalTransform:
    """Transforms of an image in evaluation; ``null``: the model's own value."""

    input_size: ImageSize | None = Field(
        default=None, description="channels, height and width of the centre crop; `null`: the model's own"
    )
    crop_pct: Annotated[Number, Gt(0), Le(4)] | None = Field(
        default=None, description="crop size / short side after resizing; `null`: the model's own"
    )
    interpolation: Interpolation | None = Field(
        default=None, description="PIL filter that resizes the image; `null`: the model's own"
    )


@dataclass(frozen=True, config=STRICT)
class Transform:
    """Image preprocessing. Mean and standard deviation apply to training and evaluation."""

    mean: tuple[Number, ...] | None = Field(
        default=None, description="one value per channel, for pixels in [0, 1]; `null`: the model's own"
    )
    std: tuple[PositiveFloat, ...] | None = Field(
        default=None, description="one value per channel, for pixels in [0, 1]; `null`: the model's own"
    )
    train: TrainTransform = Field(default_factory=TrainTransform)
    eval: EvalTransform = Field(default_factory=EvalTransform)

    def preprocessing(self, own: Preprocessing) -> Preprocessing:
        """Return the model's ``own`` record with the values that this section overrides.

        Raises ``ValueError`` if the two are inconsistent, for example one channel with three means.
        """
        chosen = {
            "input_size": self.eval.input_size,
            "crop_pct": self.eval.crop_pct,
            "interpolation": self.eval.interpolation,
            "mean": self.mean,
            "std": self.std,
        }
        return Preprocessing(**{key: getattr(own, key) if value is None else value for key, value in chosen.items()})


@dataclass(frozen=True, config=STRICT)
class Mixing:
    """Mixup and CutMix, as ``timm.data.Mixup`` defines them. Label smoothing is ``loss.smoothing``."""

    mixup_alpha: NonNegativeFloat = Field(default=0.0, description="alpha of mixup's beta distribution; 0: off")
    cutmix_alpha: NonNegativeFloat = Field(default=0.0, description="alpha of CutMix's beta distribution; 0: off")
    cutmix_minmax: tuple[Share, Share] | None = Field(
        default=None,
        description="smallest and largest side of the CutMix box, as a share of the image side; replaces "
        "`mixing.cutmix_alpha`",
    )
    prob: Probability = Field(default=1.0, description="probability that a batch (or pair, or element) is mixed")
    switch_prob: Probability = Field(default=0.5, description="probability of CutMix instead of mixup if both are on")
    mode: Literal["batch", "pair", "elem"] = Field(
        default="batch", description="unit that is mixed with the same random parameters"
    )
    off_epoch: NonNegativeInt = Field(default=0, description="first epoch without mixing; 0: mix until the end")

    @property
    def enabled(self) -> bool:
        """Whether batches are mixed."""
        return self.prob > 0 and bool(self.mixup_alpha or self.cutmix_alpha or self.cutmix_minmax)


@dataclass(frozen=True, config=STRICT)
class Distillation:
    """Distillation: the network also learns from the outputs of a teacher."""

    teacher: Text | None = Field(
        default=None, description="teacher model: a DLA or the folder of a port; `null`: no distillation"
    )
    checkpoint: Text | None = Field(
        default=None, description="weights of the teacher: a converted file, a timm checkpoint or a hub id"
    )
    kind: Literal["logits", "ssld"] = Field(
        default="logits",
        description="`logits`: KL divergence of softened logits; `ssld`: PaddleClas's symmetric form, without labels",
    )
    temperature: PositiveFloat = Field(
        default=1.0, description="the logits are divided by this before the softmax; `logits` only"
    )
    alpha: Share = Field(
        default=0.5, description="weight of the teacher's loss; the labels' loss has weight 1 - alpha; `logits` only"
    )


@dataclass(frozen=True, config=STRICT)
class Loss:
    """The loss that training minimises."""

    name: Literal["cross_entropy", "bce"] = Field(
        default="cross_entropy", description="softmax cross entropy, or binary cross entropy of each class"
    )
    smoothing: Rate = Field(
        default=0.0, description="label smoothing: the share of the target that is spread over all classes"
    )
    bce_target_thresh: Rate | None = Field(
        default=None, description="targets above this become 1, the others 0; `bce` only"
    )
    bce_sum: bool = Field(default=False, description="sum over the classes instead of their mean; `bce` only")
    distillation: Distillation = Field(default_factory=Distillation)


@dataclass(frozen=True, config=STRICT)
class Optimizer:
    """The optimizer and its learning rate."""

    name: Literal["sgd", "momentum", "nesterov", "adamw", "lamb"] = Field(
        default="nesterov",
        description="`momentum` and `nesterov` are SGD with momentum (timm's `sgd` is `nesterov` here); `sgd` has no "
        "momentum",
    )
    lr: PositiveFloat | None = Field(
        default=None,
        description="learning rate, independent of the batch size; `null`: computed from `optimizer.lr_base`",
    )
    lr_base: PositiveFloat = Field(
        default=0.1, description="learning rate at a global batch of `optimizer.lr_base_size`"
    )
    lr_base_size: PositiveInt = Field(default=256, description="global batch to which `optimizer.lr_base` refers")
    lr_base_scale: Literal["linear", "sqrt"] | None = Field(
        default=None,
        description="how the learning rate scales with the global batch; `null`: sqrt for adamw and lamb, linear "
        "otherwise",
    )
    momentum: Rate | None = Field(default=None, description="for momentum and nesterov; `null`: 0.9")
    betas: tuple[Rate, Rate] | None = Field(default=None, description="for adamw and lamb; `null`: 0.9, 0.999")
    eps: PositiveFloat | None = Field(
        default=None, description="for adamw and lamb; `null`: 1e-8 for adamw, 1e-6 for lamb"
    )
    weight_decay: NonNegativeFloat = Field(
        default=0.0, description="weight decay, added to the gradient (decoupled for adamw and lamb)"
    )
    filter_bias_and_bn: bool = Field(default=True, description="no weight decay on biases and normalisation layers")
    layer_decay: Share | None = Field(
        default=None, description="learning rate of a group of layers relative to the group above it"
    )
    clip_grad: PositiveFloat | None = Field(
        default=None,
        description="limit for gradient clipping; `null`: no clipping, except for lamb, which clips to a norm of 1",
    )
    clip_mode: Literal["norm", "value"] = Field(
        default="norm", description="`norm`: clip the norm of all gradients together; `value`: clip each element"
    )

    def learning_rate(self, global_batch: int) -> float:
        """Return the highest rate of the schedule for ``global_batch`` images per step.

        These are counted over all processes and accumulated batches.
        timm 1.0.31 ``train.py``: ``lr``, or ``lr_base`` times the ratio of the batches, or its root.
        """
        if self.lr is not None:
            return self.lr
        ratio = global_batch / self.lr_base_size
        scale = self.lr_base_scale or ("sqrt" if self.name in ADAPTIVE else "linear")
        return self.lr_base * (ratio**0.5 if scale == "sqrt" else ratio)


@dataclass(frozen=True, config=STRICT)
class Schedule:
    """The learning rate over the epochs. Lengths are in epochs."""

    name: Literal["cosine", "poly", "step", "multistep", "constant"] = Field(
        default="cosine", description="shape of the schedule"
    )
    per_epoch: bool = Field(
        default=True, description="`true`: change the learning rate between epochs; `false`: at each update"
    )
    warmup_epochs: NonNegativeFloat = Field(default=0.0, description="length of the linear warm-up")
    warmup_lr: NonNegativeFloat = Field(default=1e-5, description="learning rate at the start of the warm-up")
    warmup_prefix: bool = Field(
        default=False, description="`true`: the warm-up comes before `train.epochs`; `false`: it is part of them"
    )
    cooldown_epochs: NonNegativeInt = Field(
        default=0, description="epochs at `schedule.min_lr` after `train.epochs`; for cosine and poly"
    )
    min_lr: NonNegativeFloat = Field(default=0.0, description="final learning rate of cosine and poly")
    decay_epochs: PositiveFloat | None = Field(default=None, description="epochs between two decays; for step")
    decay_milestones: Annotated[tuple[PositiveFloat, ...], AfterValidator(ascending)] | None = Field(
        default=None,
        description="epochs of the decays, in timm's counting: milestone m takes effect from epoch m - 1; for "
        "multistep",
    )
    decay_rate: PositiveFloat = Field(default=0.1, description="factor of each decay; for poly the power (1: linear)")


@dataclass(frozen=True, config=STRICT)
class Ema:
    """A moving average of the weights, evaluated in addition to them."""

    enabled: bool = Field(default=False, description="keep a moving average")
    decay: Annotated[Number, Gt(0), Lt(1)] = Field(
        default=0.9998, description="weight of the previous average at each update"
    )
    warmup: bool = Field(default=False, description="increase the decay from 0 during the first updates")


@dataclass(frozen=True, config=STRICT)
class Train:
    """The run itself."""

    epochs: PositiveInt = Field(
        default=120, description="epochs of the schedule; a warm-up prefix and a cool-down are added, as in timm"
    )
    seed: NonNegativeInt = Field(
        default=42, description="random seed of the weights, the data order and every random choice"
    )
    device: Literal["auto", "cpu", "gpu"] = Field(default="auto", description="`auto`: a GPU if Paddle finds one")
    grad_accum_steps: PositiveInt = Field(default=1, description="batches per update: their gradients are accumulated")
    amp: Literal["none", "float16", "bfloat16"] = Field(default="none", description="mixed precision, on GPU")
    recompute: bool = Field(
        default=False, description="recompute activations in the backward pass: less memory, a third more computation"
    )
    sync_bn: bool = Field(default=False, description="BatchNorm statistics over all processes, on GPU")
    freeze: tuple[Text, ...] = Field(
        default=(), description="layers that are not trained, by the beginning of their names: `level0`"
    )
    linear_probe: bool = Field(default=False, description="train only the classifier, on fixed features")
    threads: Annotated[int, Ge(1), Le(MOST_PROCESSES)] | None = Field(
        default=None, description="CPU threads for computation; `null`: all available cores"
    )
    deterministic: bool = Field(default=False, description="bit-for-bit reproducible runs, at some cost on GPU")
    output: Text = Field(default="out/train", description="folder for checkpoints, logs and the resolved config")
    resume: bool | Text = Field(
        default=True,
        description="`true`: resume from the last checkpoint in `train.output`, if any; a path: from that one; "
        "`false`: start anew",
    )
    val_interval: NonNegativeInt = Field(default=1, description="epochs between two validations; 0: no validation")
    save_interval: PositiveInt = Field(default=1, description="epochs between two checkpoints")
    recovery_interval: NonNegativeInt = Field(
        default=0, description="updates between two checkpoints within an epoch; 0: none within an epoch"
    )
    checkpoint_hist: PositiveInt = Field(
        default=3, description="number of best checkpoints to keep, in addition to the last one"
    )
    eval_metric: Literal["top1", "top5", "loss"] = Field(
        default="top1", description="metric that selects the best checkpoint"
    )
    log_interval: PositiveInt = Field(default=10, description="steps between two log lines")


@dataclass(frozen=True, config=STRICT)
class Evaluate:
    """How a model is evaluated."""

    engine: Literal["auto", "paddle", "inference", "onnxruntime", "openvino"] = Field(
        default="auto", description="engine that runs the model; `auto`: the fastest one installed"
    )
    batch_size: PositiveInt | None = Field(
        default=None, description="images per step and process; `null`: `data.batch_size`"
    )
    topk: Annotated[tuple[PositiveInt, ...], AfterValidator(ascending)] = Field(
        default=(1, 5), description="top-k accuracies to report"
    )
    tta: Literal["none", "hflip"] = Field(
        default="none", description="test-time augmentation: `hflip` averages the image and its mirror"
    )
    per_class: bool = Field(default=False, description="also report the accuracy of each class")
    confusion: bool = Field(default=False, description="write the confusion matrix, as CSV and as a picture")
