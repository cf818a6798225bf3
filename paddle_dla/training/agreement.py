"""What the ranks exchange in every step: a small sum over all of them."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor

from paddle_dla.ranks import Ranks


def total(values: Sequence[float], ranks: Ranks) -> list[float]:
    """Return the sum of ``values`` over all ranks, on every rank, each number in float32; all must call this."""
    if ranks.count == 1:
        return list(values)
    ranks.meet()
    sums = paddle.to_tensor([float(value) for value in values], dtype=paddle.float32)
    paddle.distributed.all_reduce(sums)
    return sums.numpy().tolist()


def from_first(tensors: Sequence[Tensor], ranks: Ranks) -> None:
    """Copy the tensors of the first rank to every rank; all must call this with tensors of the same shapes."""
    if ranks.count > 1:
        ranks.meet()
        for tensor in tensors:
            paddle.distributed.broadcast(tensor, src=0)
