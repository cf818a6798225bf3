"""Compute the names and shapes of a timm DLA state dict from the table of variants. No framework, no weights.

This is a second, independent description of the architecture: a file is audited against it before any model is built.
The tests check for every variant that it equals timm's (same names, shapes and order).

Source: ``timm/models/dla.py``, timm 1.0.31; for the unused projections https://github.com/ucbdrive/dla, ``dla.py``.
"""

from __future__ import annotations

from collections.abc import Iterator

from paddle_dla.models.variants import VARIANTS, Variant

Shape = tuple[int, ...]
Entry = tuple[str, Shape]

EXPANSION = 2  # of both bottlenecks
SCALE = 4  # groups of the Res2Net cascade


def state_layout(model: str, num_classes: int = 1000, in_chans: int = 3) -> dict[str, Shape]:
    """Return ``{timm name: shape}`` of every tensor, in timm's order. Convolutions are (out, in / groups, K, K)."""
    variant = VARIANTS[model]
    entries = [*_stem(variant, in_chans)]
    for index in range(2, 6):
        entries += _tree(f"level{index}", variant.levels[index], variant, *_sizes(variant, index), index > 2)
    if num_classes:
        entries += [("fc.weight", (num_classes, variant.channels[-1], 1, 1)), ("fc.bias", (num_classes,))]
    return dict(entries)


def unused_projections(model: str) -> dict[str, Shape]:
    """Return ``{name: shape}`` of tensors that are in the original authors' checkpoints but unused in any forward pass.

    The authors' code builds a projection in every tree whose channels change, but uses it only in trees of one level.
    """
    variant = VARIANTS[model]
    entries: list[Entry] = []
    for index in range(2, 6):
        inputs, outputs = _sizes(variant, index)
        for depth in range(variant.levels[index] - 1):
            entries += _projection(f"level{index}" + ".tree1" * depth, inputs, outputs)
    return dict(entries)


def _sizes(variant: Variant, index: int) -> tuple[int, int]:
    return variant.channels[index - 1], variant.channels[index]


def _conv(path: str, inputs: int, outputs: int, kernel: int, groups: int = 1) -> Iterator[Entry]:
    yield f"{path}.weight", (outputs, inputs // groups, kernel, kernel)


def _bn(path: str, channels: int) -> Iterator[Entry]:
    for name in ("weight", "bias", "running_mean", "running_var"):
        yield f"{path}.{name}", (channels,)
    yield f"{path}.num_batches_tracked", ()


def _projection(path: str, inputs: int, outputs: int) -> Iterator[Entry]:
    if inputs != outputs:
        yield from _conv(f"{path}.project.0", inputs, outputs, 1)
        yield from _bn(f"{path}.project.1", outputs)


def _stem(variant: Variant, in_chans: int) -> Iterator[Entry]:
    channels = variant.channels
    yield from _conv("base_layer.0", in_chans, channels[0], 7)
    yield from _bn("base_layer.1", channels[0])
    for level, inputs in ((0, channels[0]), (1, channels[0])):
        for i in range(variant.levels[level]):
            yield from _conv(f"level{level}.{3 * i}", inputs if i == 0 else channels[level], channels[level], 3)
            yield from _bn(f"level{level}.{3 * i + 1}", channels[level])


def _tree(
    path: str, levels: int, variant: Variant, inputs: int, outputs: int, level_root: bool = False, root_dim: int = 0
) -> Iterator[Entry]:
    root_dim = (root_dim or 2 * outputs) + (inputs if level_root else 0)
    if levels > 1:
        yield from _tree(f"{path}.tree1", levels - 1, variant, inputs, outputs)
        yield from _tree(f"{path}.tree2", levels - 1, variant, outputs, outputs, root_dim=root_dim + outputs)
        return
    yield from _projection(path, inputs, outputs)
    yield from _block(f"{path}.tree1", variant, inputs, outputs)
    yield from _block(f"{path}.tree2", variant, outputs, outputs)
    yield from _conv(f"{path}.root.conv", root_dim, outputs, 1)
    yield from _bn(f"{path}.root.bn", outputs)


def _block(path: str, variant: Variant, inputs: int, outputs: int) -> Iterator[Entry]:
    if variant.block == "basic":
        yield from _conv(f"{path}.conv1", inputs, outputs, 3)
        yield from _bn(f"{path}.bn1", outputs)
        yield from _conv(f"{path}.conv2", outputs, outputs, 3)
        yield from _bn(f"{path}.bn2", outputs)
        return
    width = int(outputs * (variant.base_width / 64)) * variant.cardinality // EXPANSION
    middle = width * SCALE if variant.block == "bottle2neck" else width
    yield from _conv(f"{path}.conv1", inputs, middle, 1)
    yield from _bn(f"{path}.bn1", middle)
    if variant.block == "bottle2neck":
        for i in range(SCALE - 1):
            yield from _conv(f"{path}.convs.{i}", width, width, 3, variant.cardinality)
        for i in range(SCALE - 1):
            yield from _bn(f"{path}.bns.{i}", width)
    else:
        yield from _conv(f"{path}.conv2", width, width, 3, variant.cardinality)
        yield from _bn(f"{path}.bn2", width)
    yield from _conv(f"{path}.conv3", middle, outputs, 1)
    yield from _bn(f"{path}.bn3", outputs)
