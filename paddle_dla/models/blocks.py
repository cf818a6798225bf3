"""The building blocks of Deep Layer Aggregation: residual blocks, aggregation nodes and trees.

Source: Yu et al., "Deep Layer Aggregation", https://arxiv.org/abs/1707.06484, and Gao et al., "Res2Net",
https://arxiv.org/abs/1904.01169, as timm 1.0.31 defines them (``timm/models/dla.py``), with its attribute names.

Deviation: dilation can replace the stride of a level. The result is exactly dense: sampled at the grid of the strided
level, it equals the output of the strided level.

Legend: B batch, C channels, H height, W width; ``s`` is the stride of a block or tree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import paddle
from paddle import Tensor, nn

from paddle_dla.models.layers import AvgPool2D, BatchNorm2D, DenseMaxPool2D
from paddle_dla.models.recomputation import recomputed
from paddle_dla.models.variants import Variant


def conv2d(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Conv2D:
    """Create a convolution without bias that keeps the size at stride 1.

    Its weights are 0 until ``init_weights`` of the whole network draws them: random numbers are most of the time in
    which a network is built.
    """
    return nn.Conv2D(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        groups=groups,
        weight_attr=nn.initializer.Constant(0.0),
        bias_attr=False,
    )


class DlaBasic(nn.Layer):
    """Two 3x3 convolutions and a residual (DLA-34).

    ``first_dilation`` is the dilation of the strided convolution, ``dilation`` that of the later one. They differ only
    in the first block of a level whose stride was replaced by dilation.
    """

    def __init__(self, inplanes: int, planes: int, stride: int, first_dilation: int, dilation: int, variant: Variant):
        super().__init__()
        self.conv1 = conv2d(inplanes, planes, 3, stride, first_dilation)
        self.bn1 = BatchNorm2D(planes)
        self.relu = nn.ReLU()
        self.conv2 = conv2d(planes, planes, 3, 1, dilation)
        self.bn2 = BatchNorm2D(planes)

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, planes, H/s, W/s)."""
        shortcut = x if shortcut is None else shortcut
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + shortcut)


class DlaBottleneck(nn.Layer):
    """1x1, grouped 3x3, 1x1 and a residual (DLA and DLA-X)."""

    expansion = 2

    def __init__(
        self, inplanes: int, outplanes: int, stride: int, first_dilation: int, dilation: int, variant: Variant
    ):
        super().__init__()
        mid = bottleneck_width(outplanes, variant, self.expansion)
        self.conv1 = conv2d(inplanes, mid, 1)
        self.bn1 = BatchNorm2D(mid)
        self.conv2 = conv2d(mid, mid, 3, stride, first_dilation, variant.cardinality)
        self.bn2 = BatchNorm2D(mid)
        self.conv3 = conv2d(mid, outplanes, 1)
        self.bn3 = BatchNorm2D(outplanes)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, outplanes, H/s, W/s)."""
        shortcut = x if shortcut is None else shortcut
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + shortcut)


class DlaBottle2neck(nn.Layer):
    """The Res2Net bottleneck: the 3x3 is a cascade over ``scale`` groups of channels.

    In the first block of a level (``is_first``) the groups are independent and the last one is pooled. This belongs to
    the architecture, not to the stride, so it remains when dilation replaces the stride.
    """

    expansion = 2
    scale = 4

    def __init__(
        self,
        inplanes: int,
        outplanes: int,
        stride: int,
        first_dilation: int,
        dilation: int,
        variant: Variant,
        is_first: bool = False,
    ):
        super().__init__()
        self.width = bottleneck_width(outplanes, variant, self.expansion)
        self.is_first = is_first
        total = self.width * self.scale
        self.conv1 = conv2d(inplanes, total, 1)
        self.bn1 = BatchNorm2D(total)
        self.convs = nn.LayerList(
            [
                conv2d(self.width, self.width, 3, stride, first_dilation, variant.cardinality)
                for _ in range(self.scale - 1)
            ]
        )
        self.bns = nn.LayerList([BatchNorm2D(self.width) for _ in range(self.scale - 1)])
        if is_first:
            self.pool = AvgPool2D(stride, first_dilation)
        self.conv3 = conv2d(total, outplanes, 1)
        self.bn3 = BatchNorm2D(outplanes)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, outplanes, H/s, W/s)."""
        shortcut = x if shortcut is None else shortcut
        out = self.relu(self.bn1(self.conv1(x)))
        groups = paddle.split(out, self.scale, 1)  # scale x (B, width, H, W)
        outs: list[Tensor] = []
        for group, conv, bn in zip(groups, self.convs, self.bns):
            cascaded = group if self.is_first or not outs else outs[-1] + group
            outs.append(self.relu(bn(conv(cascaded))))
        outs.append(self.pool(groups[-1]) if self.is_first else groups[-1])
        out = self.bn3(self.conv3(paddle.concat(outs, 1)))
        return self.relu(out + shortcut)


def bottleneck_width(outplanes: int, variant: Variant, expansion: int) -> int:
    """Return the number of channels of the grouped 3x3 convolution(s) in a bottleneck."""
    return math.floor(outplanes * (variant.base_width / 64)) * variant.cardinality // expansion


BLOCKS: dict[str, Callable[..., nn.Layer]] = {
    "basic": DlaBasic,
    "bottleneck": DlaBottleneck,
    "bottle2neck": DlaBottle2neck,
}


class DlaRoot(nn.Layer):
    """The aggregation node: concatenation, 1x1 convolution, optionally a residual from the last child."""

    def __init__(self, in_channels: int, out_channels: int, shortcut: bool):
        super().__init__()
        self.conv = conv2d(in_channels, out_channels, 1)
        self.bn = BatchNorm2D(out_channels)
        self.relu = nn.ReLU()
        self.shortcut = shortcut

    def forward(self, x_children: Sequence[Tensor]) -> Tensor:
        """n x (B, C_i, H, W) -> (B, out_channels, H, W)."""
        x = self.bn(self.conv(paddle.concat(list(x_children), 1)))
        return self.relu(x + x_children[0] if self.shortcut else x)


class DlaTree(nn.Layer):
    """A tree of ``levels`` levels: two blocks and a root, or two trees, the second of which aggregates.

    ``first_dilation`` is the dilation of the incoming grid. If ``stride`` is 1 although the tree is the first of its
    level (``is_first``), dilation has replaced its stride: everything after the formerly strided operation uses
    ``dilation = 2 * first_dilation``.
    """

    def __init__(
        self,
        levels: int,
        variant: Variant,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        first_dilation: int = 1,
        dilation: int = 1,
        is_first: bool = False,
        level_root: bool = False,
        root_dim: int = 0,
    ):
        super().__init__()
        root_dim = (root_dim or 2 * out_channels) + (in_channels if level_root else 0)
        grid = dict(stride=stride, first_dilation=first_dilation, dilation=dilation)
        self.downsample = _downsample(stride, first_dilation) if is_first else nn.Identity()
        self.project: nn.Layer = nn.Identity()
        if levels == 1:
            block = BLOCKS[variant.block]
            first = dict(is_first=is_first) if block is DlaBottle2neck else {}
            if in_channels != out_channels:
                self.project = nn.Sequential(conv2d(in_channels, out_channels, 1), BatchNorm2D(out_channels))
            self.tree1 = block(in_channels, out_channels, variant=variant, **grid, **first)
            self.tree2 = block(out_channels, out_channels, 1, dilation, dilation, variant)
            self.root = DlaRoot(root_dim, out_channels, variant.shortcut_root)
        else:
            self.tree1 = DlaTree(
                levels - 1,
                variant,
                in_channels,
                out_channels,
                stride=stride,
                first_dilation=first_dilation,
                dilation=dilation,
                is_first=is_first,
            )
            self.tree2 = DlaTree(
                levels - 1,
                variant,
                out_channels,
                out_channels,
                first_dilation=dilation,
                dilation=dilation,
                root_dim=root_dim + out_channels,
            )
        self.levels = levels
        self.level_root = level_root
        self.grad_checkpointing = False

    def forward(self, x: Tensor, shortcut: Tensor | None = None, children: list[Tensor] | None = None) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, H/s, W/s).

        ``children`` are the outputs that the root of this tree aggregates besides its own. ``shortcut`` is unused, as
        in timm: a tree computes its own.
        """
        children = [] if children is None else children
        bottom = self.downsample(x)
        shortcut = self._run(self.project, bottom)
        if self.level_root:
            children = [*children, bottom]
        if self.levels > 1:
            x1 = self.tree1(x, shortcut)
            return self.tree2(x1, None, [*children, x1])
        x1 = self._run(self.tree1, x, shortcut)
        x2 = self._run(self.tree2, x1)
        return self._run(self.root, [x2, x1, *children])

    def _run(self, part: nn.Layer, *inputs: Tensor | Sequence[Tensor]) -> Tensor:
        keep = not self.grad_checkpointing or isinstance(part, nn.Identity)
        return part(*inputs) if keep else recomputed(part, *inputs)


def _downsample(stride: int, first_dilation: int) -> nn.Layer:
    return nn.MaxPool2D(stride, stride) if stride > 1 else DenseMaxPool2D(first_dilation)


def conv_level(inplanes: int, planes: int, convs: int, stride: int = 1) -> nn.Sequential:
    """Create ``convs`` times 3x3 convolution, BN, ReLU; the first one strided."""
    layers: list[nn.Layer] = []
    for i in range(convs):
        layers += [conv2d(inplanes, planes, 3, stride if i == 0 else 1), BatchNorm2D(planes), nn.ReLU()]
        inplanes = planes
    return nn.Sequential(*layers)
