"""Deep Layer Aggregation networks in Paddle: the classifier and the feature extractor.

Source: as for ``blocks.py``. The interface and the attribute names are those of ``timm.models.dla.DLA`` (timm 1.0.31);
a state dict differs only in the names of BN buffers.

Deviations from timm: ``output_stride`` 8 and 16 (timm: 32 only), recomputation of activations (timm refuses it),
validation of inputs before any computation.

Legend: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TypedDict

import paddle
from paddle import Tensor, nn

from paddle_dla.errors import WrongValue
from paddle_dla.models.blocks import DlaTree, conv_level
from paddle_dla.models.classifier import uniform_as_torch
from paddle_dla.models.grouping import STATISTICS, Matcher, layer_groups
from paddle_dla.models.layers import BatchNorm2D, SelectAdaptivePool2D
from paddle_dla.models.recomputation import recomputed
from paddle_dla.models.variants import Variant

LEVELS = ("level0", "level1", "level2", "level3", "level4", "level5")


class FeatureInfo(TypedDict):
    """A feature map: its channels, its reduction relative to the image, and the level that computes it."""

    num_chs: int
    reduction: int
    module: str


class DLABackbone(nn.Layer):
    """Stem and the six levels, shared by the classifier and the feature extractor.

    ``depth`` levels are built (all six by default). Raises ``ValueError`` for an ``output_stride`` other than 8, 16 or
    32.
    """

    def __init__(self, variant: Variant, in_chans: int = 3, output_stride: int = 32, depth: int = len(LEVELS)):
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise WrongValue(f"output_stride {output_stride!r} is not supported; one of 8, 16, 32")
        if in_chans < 1:
            raise WrongValue(f"in_chans must be at least 1, got {in_chans}")
        self.in_chans = in_chans
        self.output_stride = output_stride
        self.grad_checkpointing = False
        channels, levels = variant.channels, variant.levels
        self.base_layer = nn.Sequential(
            nn.Conv2D(in_chans, channels[0], 7, 1, padding=3, bias_attr=False), BatchNorm2D(channels[0]), nn.ReLU()
        )
        self.level0 = conv_level(channels[0], channels[0], levels[0])
        self.feature_info = [FeatureInfo(num_chs=channels[0], reduction=1, module="level0")]
        reduction, dilation = 1, 1
        for index in range(1, depth):
            name, sizes = LEVELS[index], (channels[index - 1], channels[index])
            stride = 2 if reduction < output_stride else 1
            after = dilation * 2 // stride
            if index == 1:
                level: nn.Layer = conv_level(*sizes, levels[1], stride)
            else:
                level = DlaTree(
                    levels[index],
                    variant,
                    *sizes,
                    stride=stride,
                    first_dilation=dilation,
                    dilation=after,
                    is_first=True,
                    level_root=index > 2,
                )
            self.add_sublayer(name, level)
            reduction, dilation = reduction * stride, after
            self.feature_info.append(FeatureInfo(num_chs=channels[index], reduction=reduction, module=name))
        # the trees halve the size by a pool and by a convolution in parallel; both agree only for even sizes
        self.side_multiple = reduction

    def check_input(self, x: Tensor) -> None:
        """Raise ``ValueError`` unless ``x`` is (B, in_chans, H, W) with sides that the levels can halve evenly."""
        shape = list(x.shape)
        if len(shape) != 4:
            raise WrongValue(f"expected a batch of images (B, {self.in_chans}, H, W), got shape {shape}")
        if shape[1] not in (self.in_chans, -1):
            raise WrongValue(f"expected {self.in_chans} input channels (B, C, H, W), got {shape[1]} in shape {shape}")
        for side in shape[2:]:
            # -1: unknown while a program is being exported
            if side != -1 and (side == 0 or side % self.side_multiple):
                raise WrongValue(
                    f"image sides must be multiples of {self.side_multiple}, got {shape[2]}x{shape[3]}; "
                    "resize, crop or pad the images"
                )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of storing them.

        Saves memory and costs nearly one more forward pass. The outputs of the stem, of each block, and of each root
        are still stored.
        """
        self.grad_checkpointing = enable
        for layer in self.sublayers():
            if isinstance(layer, DlaTree):
                layer.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> Matcher:
        """Return timm's regular expressions for sorting parameters into layer groups; see ``grouping.layer_groups``."""
        return dict(
            stem=r"^base_layer",
            blocks=r"^level(\d+)"
            if coarse
            else [
                (r"^level(\d+)\.tree(\d+)", None),
                (r"^level(\d+)\.root", (2,)),
                (r"^level(\d+)", (1,)),
            ],
        )

    def layer_groups(self) -> dict[str, int]:
        """Return ``{parameter: depth}`` for layer decay, 0 at the input, as timm groups them."""
        names = [name for name, _ in self.named_parameters() if not name.endswith(STATISTICS)]
        return layer_groups(names, self.group_matcher(coarse=False))

    def no_weight_decay(self) -> frozenset[str]:
        """Return the names of parameters without weight decay: none, as in timm."""
        return frozenset()

    def iter_levels(self, x: Tensor) -> Iterator[Tensor]:
        """Run the network and yield the output of each level: (B, num_chs, H / reduction, W / reduction)."""
        self.check_input(x)
        x = self._run(self.base_layer, x)
        for info in self.feature_info:
            x = self._run(getattr(self, info["module"]), x)
            yield x

    def _run(self, part: nn.Layer, x: Tensor) -> Tensor:
        # trees recompute their own activations
        if self.grad_checkpointing and not isinstance(part, DlaTree):
            return recomputed(part, x)
        return part(x)


class DLA(DLABackbone):
    """The classifier: images (B, in_chans, H, W) -> logits (B, num_classes).

    Raises ``ValueError`` for an unsupported ``output_stride``, ``global_pool`` or ``drop_rate`` and, in ``forward``,
    for images of the wrong shape, before any computation.
    """

    def __init__(
        self,
        variant: Variant,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        output_stride: int = 32,
    ):
        super().__init__(variant, in_chans, output_stride)
        if not 0 <= drop_rate < 1:
            raise WrongValue(f"drop_rate must be in [0, 1), got {drop_rate}")
        self.num_features = variant.channels[-1]
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)
        init_weights(self)

    def get_classifier(self) -> nn.Layer:
        """Return the 1x1 convolution that computes the logits, or an identity."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier, with torch's initialisation for a convolution; 0 classes return the features.

        ``global_pool=None`` keeps the pooling.
        """
        if num_classes < 0:
            raise WrongValue(f"num_classes must be 0 or more, got {num_classes}")
        pool_type = self.global_pool.pool_type if global_pool is None else global_pool
        self.num_classes = num_classes
        self.global_pool = SelectAdaptivePool2D(pool_type)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.fc = nn.Conv2D(self.head_hidden_size, num_classes, 1) if num_classes else nn.Identity()
        self.flatten = nn.Flatten(1) if pool_type else nn.Identity()
        if isinstance(self.fc, nn.Conv2D):
            uniform_as_torch(self.fc, self.head_hidden_size)
        for layer in (self.global_pool, self.fc, self.flatten):
            layer.train() if self.training else layer.eval()

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, C, H / output_stride, W / output_stride)."""
        # a deque of length one keeps only the last level's output alive
        return deque(self.iter_levels(x), maxlen=1).pop()

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (B, C, H, W) -> logits (B, num_classes), or the pooled features (B, C) with ``pre_logits``."""
        x = self.head_drop(self.global_pool(x))
        return self.flatten(x if pre_logits else self.fc(x))

    def pre_logits(self, x: Tensor) -> Tensor:
        """Return the input of the classifier: (B, in_chans, H, W) -> (B, C, 1, 1)."""
        return self.head_drop(self.global_pool(self.forward_features(x)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the last computed map and the outputs of the chosen levels, or only the latter.

        ``indices``: the last n levels, a selection (negative ones count from the end), or all. ``norm`` is accepted and
        ignored, as in timm: there is no final norm. Raises ``ValueError`` for an index out of range or an
        ``output_fmt`` other than ``NCHW``.
        """
        if output_fmt != "NCHW":
            raise WrongValue(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        take = take_indices(len(self.feature_info), indices)
        chosen = []
        for index, x in enumerate(self.iter_levels(x)):  # noqa: B020 - unchosen levels are not kept alive
            if index in take:
                chosen.append(x)
            if stop_early and index == max(take):
                break
        return chosen if intermediates_only else (x, chosen)

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop the levels after the last chosen one, and the head unless it still fits. Returns the indices kept."""
        take = take_indices(len(self.feature_info), indices)
        kept = self.feature_info[: max(take) + 1]
        pruned = self.feature_info[max(take) + 1 :]
        for info in pruned:
            setattr(self, info["module"], nn.Identity())
        self.feature_info = kept
        self.side_multiple = kept[-1]["reduction"]
        if pruned:
            self.num_features = self.head_hidden_size = kept[-1]["num_chs"]
        if prune_head or pruned:
            self.reset_classifier(0, "")
        return take


class DLAFeatures(DLABackbone):
    """The feature extractor: images (B, in_chans, H, W) -> the maps of the chosen levels, finest first.

    Levels after the last chosen one are not built. ``feature_info`` describes the chosen maps only.
    Raises ``ValueError`` for an index out of range and, in ``forward``, for images of the wrong shape.
    """

    def __init__(
        self, variant: Variant, out_indices: Sequence[int] = (1, 2, 3, 4, 5), in_chans: int = 3, output_stride: int = 32
    ):
        chosen = sorted(set(take_indices(len(LEVELS), list(out_indices))))
        super().__init__(variant, in_chans, output_stride, depth=chosen[-1] + 1)
        self.out_indices = chosen
        init_weights(self)

    @property
    def out_info(self) -> list[FeatureInfo]:
        """``num_chs``, ``reduction`` and ``module`` of each returned map."""
        return [self.feature_info[index] for index in self.out_indices]

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in_chans, H, W) -> n x (B, num_chs, H / reduction, W / reduction)."""
        return [x for index, x in enumerate(self.iter_levels(x)) if index in self.out_indices]


def take_indices(count: int, indices: int | Sequence[int] | None) -> list[int]:
    """Return absolute indices into ``count`` levels: the last n, a selection (negative from the end), or all.

    Raises ``ValueError`` for an index out of range or an empty selection.
    """
    if indices is None:
        return list(range(count))
    if isinstance(indices, int):
        if not 0 < indices <= count:
            raise WrongValue(f"the last {indices} of {count} levels were asked for; 1 to {count} can be")
        return list(range(count - indices, count))
    taken = [index + count if index < 0 else index for index in indices]
    wrong = [index for index, absolute in zip(indices, taken) if not 0 <= absolute < count]
    if wrong or not taken:
        raise WrongValue(f"level indices {wrong or list(indices)} are out of range; 0 to {count - 1}, or from -{count}")
    return taken


@paddle.no_grad()
def init_weights(model: nn.Layer) -> None:
    """Initialise DLA as timm does: convolutions N(0, sqrt(2 / (kernel area * out_channels))), biases as torch.

    BN starts with weight 1 and bias 0, which is also Paddle's default.
    """
    for layer in model.sublayers():
        if isinstance(layer, nn.Conv2D):
            out_channels, _, kh, kw = layer.weight.shape
            std = math.sqrt(2.0 / (kh * kw * out_channels))
            paddle.assign(paddle.normal(0.0, std, layer.weight.shape), layer.weight)
