"""Wrong wirings of residual blocks, aggregation nodes and trees. Paddle only.

The right wiring is that of DLA (``paddle_dla/models/blocks.py``); it is reproduced here from the layers that a block, a
root or a tree holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import Tensor, nn

from alignment.faults.changes import Change, computes
from alignment.faults.targets import NotApplicable, Target


@dataclass
class Block:
    """The parts of a residual block for a wrong ``forward``; each may be replaced."""

    block: Any
    between: Callable[[Tensor, int], Tensor] | None = None
    cascade: Callable[[Tensor, Tensor], Tensor] = lambda last, group: last + group
    order: Callable[[list[Tensor]], list[Tensor]] = lambda outs: outs

    def branch(self, x: Tensor) -> Tensor:
        """Compute everything except the addition and the last activation."""
        return self._cascaded(x) if hasattr(self.block, "convs") else self._sequence(x)

    def activated(self, x: Tensor, number: int) -> Tensor:
        """Apply the activation behind the convolution of this number."""
        return self.between(x, number) if self.between else self.block.relu(x)

    def _sequence(self, x: Tensor) -> Tensor:
        count = 3 if hasattr(self.block, "conv3") else 2
        for number in range(1, count + 1):
            x = getattr(self.block, f"bn{number}")(getattr(self.block, f"conv{number}")(x))
            x = self.activated(x, number) if number < count else x
        return x

    def _cascaded(self, x: Tensor) -> Tensor:
        block = self.block
        groups = paddle.split(self.activated(block.bn1(block.conv1(x)), 1), block.scale, 1)
        outs: list[Tensor] = []
        for group, conv, bn in zip(groups, block.convs, block.bns):
            outs.append(block.relu(bn(conv(group if block.is_first or not outs else self.cascade(outs[-1], group)))))
        outs.append(block.pool(groups[-1]) if block.is_first else groups[-1])
        return block.bn3(block.conv3(paddle.concat(self.order(outs), 1)))


def joined(join: Callable[[Tensor, Tensor, Tensor], Tensor], **parts: Any) -> Change:
    """End a residual block in the activation of ``join(branch, shortcut, input)``."""

    def make(block: Any, right: Callable[..., Any]) -> Callable[..., Tensor]:
        wrong = Block(block, **parts)

        def forward(x: Tensor, shortcut: Tensor | None = None) -> Tensor:
            return block.relu(join(wrong.branch(x), x if shortcut is None else shortcut, x))

        return forward

    return computes(make)


def add(out: Tensor, shortcut: Tensor, x: Tensor) -> Tensor:
    """Join branch and residual correctly."""
    return out + shortcut


def from_within(target: Target) -> None:
    """Use the output of the first activation as the residual, where the shapes allow it."""
    block = target.layer
    kept: list[Tensor] = []

    def keep(x: Tensor, number: int) -> Tensor:
        kept.append(block.relu(x))
        return kept[-1]

    def forward(x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        kept.clear()
        out = Block(block, keep).branch(x)
        return block.relu(out + kept[0])

    block.forward = forward


def unactivated(x: Tensor, number: int) -> Tensor:
    """Apply no activation."""
    return x


def rooted(join: Callable[[Any, list[Tensor]], Tensor]) -> Change:
    """End a root in the activation of ``join(root, children)``."""
    return computes(lambda root, right: lambda children: root.relu(join(root, list(children))))


def aggregated(root: Any, children: Sequence[Tensor]) -> Tensor:
    """Compute a root before its activation."""
    return root.bn(root.conv(paddle.concat(list(children), 1)))


def planted(join: Callable[[Any, Tensor, Tensor, list[Tensor]], Tensor]) -> Change:
    """Wire the blocks and root of a tree by ``join(tree, x, shortcut, children)``."""

    def make(tree: Any, right: Callable[..., Any]) -> Callable[..., Tensor]:
        def forward(x: Tensor, shortcut: Tensor | None = None, children: list[Tensor] | None = None) -> Tensor:
            bottom = tree.downsample(x)
            above = [*(children or []), *([bottom] if tree.level_root else [])]
            return join(tree, x, tree.project(bottom), above)

        return forward

    return computes(make)


def shortcut_twice(tree: Any, x: Tensor, shortcut: Tensor, above: list[Tensor]) -> Tensor:
    """Give both blocks the projected input as their residual."""
    x1 = tree.tree1(x, shortcut)
    return tree.root([tree.tree2(x1, shortcut), x1, *above])


def children_exchanged(tree: Any, x: Tensor, shortcut: Tensor, above: list[Tensor]) -> Tensor:
    """Give the root the two blocks in another order."""
    x1 = tree.tree1(x, shortcut)
    return tree.root([x1, tree.tree2(x1), *above])


def last_child(tree: Any, x: Tensor, shortcut: Tensor, above: list[Tensor]) -> Tensor:
    """Leave out the root."""
    x1 = tree.tree1(x, shortcut)
    return tree.tree2(x1)


def same_child(tree: Any, x: Tensor, shortcut: Tensor, above: list[Tensor]) -> Tensor:
    """Give the root the first block twice."""
    x1 = tree.tree1(x, shortcut)
    tree.tree2(x1)
    return tree.root([x1, x1, *above])


def forgotten(tree: Any, right: Callable[..., Any]) -> Callable[..., Tensor]:
    """Pass the second subtree its children in another order: the first one's output comes first."""

    def forward(x: Tensor, shortcut: Tensor | None = None, children: list[Tensor] | None = None) -> Tensor:
        bottom = tree.downsample(x)
        above = [*(children or []), *([bottom] if tree.level_root else [])]
        x1 = tree.tree1(x, tree.project(bottom))
        return tree.tree2(x1, None, [x1, *above])

    if not tree.level_root:
        raise NotApplicable("nothing else is aggregated")
    return forward


def sequence(order: Callable[[list[nn.Layer]], list[nn.Layer]]) -> Change:
    """Leave out layers of a sequence, or call them again."""

    def make(sequence: Any, right: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            for layer in order([*sequence.children()]):
                x = layer(x)
            return x

        return forward

    return computes(make)


def half_detached(out: Tensor, shortcut: Tensor, x: Tensor) -> Tensor:
    """Return the right value with twice the gradient of the residual."""
    return out + shortcut * 2 - shortcut.detach()
