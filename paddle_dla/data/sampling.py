"""The samples of a rank in an epoch, and their order: pure functions of whole numbers.

An order is an array of indices into the source. The counterparts are torch 2.13's ``DistributedSampler`` and timm
1.0.31's ``OrderedDistributedSampler`` (``split_evenly``) and ``RepeatAugSampler`` (``repeat_augmented``), given the
same order. All functions raise ``ValueError`` for a rank that is not within [0, ranks).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from paddle_dla.errors import WrongValue


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Return the indices 0 to ``count - 1`` shuffled, (count,) int64; the same for the same seed and epoch.

    Seed and epoch (0 or above, below 2**32) are used as two separate numbers: seed 1 in epoch 2 shares nothing with
    seed 2 in epoch 1. ``RandomState`` is used because NumPy promises never to change its random numbers.
    """
    return np.random.RandomState([seed, epoch]).permutation(count)


def split_exactly(order: np.ndarray, rank: int, ranks: int) -> np.ndarray:
    """Return this rank's part of ``order`` for evaluation: over all ranks, each sample occurs exactly once.

    Parts differ by at most one sample in length, and may be empty.
    """
    _check_rank(rank, ranks)
    return order[rank::ranks]


def split_evenly(order: np.ndarray, rank: int, ranks: int, drop_last: bool = False) -> np.ndarray:
    """Return this rank's part of ``order`` for training: equally many on each rank, so that all make the same steps.

    The order is extended from its beginning until it divides evenly, or with ``drop_last`` cut short.
    """
    _check_rank(rank, ranks)
    each = len(order) // ranks if drop_last else math.ceil(len(order) / ranks)
    return order[np.arange(rank, each * ranks, ranks) % max(1, len(order))]


class Repeats(NamedTuple):
    """A rank's part under repeated augmentation: two arrays of the same length.

    ``indices``: indices into the source. ``turns``: the number of the repeat of that sample, from 0. An augmentation
    that is seeded by the sample must include the turn, or all repeats are the same.
    """

    indices: np.ndarray
    turns: np.ndarray


def repeat_augmented(
    order: np.ndarray,
    rank: int,
    ranks: int,
    num_repeats: float = 3,
    selected_round: int = 256,
    selected_ratio: float = 0,
) -> Repeats:
    """Repeated augmentation (arXiv:1901.09335, as in DeiT): each sample ``num_repeats`` times, on different ranks.

    Each sample is repeated in place, and ranks take turns. Each rank stops after 1 / ``selected_ratio`` (0: 1 / ranks)
    of the number of samples, which is rounded down to a multiple of ``selected_round`` before the division (0, or fewer
    samples than that: not rounded). An epoch is therefore about as long as without repeats, and sees about a
    ``num_repeats``-th of the samples. Raises ``ValueError`` for fewer than one repeat.
    """
    _check_rank(rank, ranks)
    if not num_repeats >= 1:
        raise WrongValue(f"num_repeats is 1 or above, not {num_repeats}")
    total = math.ceil(num_repeats * len(order))
    source = (np.arange(total) // num_repeats).astype(np.int64)
    # position of each sample's first repeat, for any ratio
    turns = np.arange(total) - np.searchsorted(source, source)
    each = math.ceil(len(order) * num_repeats / ranks)
    mine = np.arange(rank, each * ranks, ranks)[
        : min(each, _selected(len(order), ranks, selected_round, selected_ratio))
    ]
    mine %= max(1, total)
    return Repeats(order[source[mine]], turns[mine])


def _selected(count: int, ranks: int, selected_round: int, selected_ratio: float) -> int:
    ratio = selected_ratio or ranks
    if selected_round and count >= selected_round:
        return math.floor(count // selected_round * selected_round / ratio)
    return math.ceil(count / ratio)


def _check_rank(rank: int, ranks: int) -> None:
    if not 0 <= rank < ranks:
        raise WrongValue(f"rank {rank} is not within [0, {ranks}), the number of ranks being {ranks}")
