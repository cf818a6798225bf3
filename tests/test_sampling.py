"""The order of an epoch: torch's and timm's samplers, given the same order; and what each rank may rely on."""

from collections import Counter

import numpy as np
import pytest

from paddle_dla.data.sampling import epoch_order, repeat_augmented, split_evenly, split_exactly

COUNTS = (1, 2, 7, 64, 255, 256, 257, 1000)
RANKS = (1, 2, 3, 8)


def parts(split, order, ranks, **options):
    return [split(order, rank, ranks, **options) for rank in range(ranks)]


# ---------------------------------------------------------------------------------------------- the same as torch


@pytest.fixture
def torch_order(monkeypatch):
    """Makes ``torch.randperm`` return the order of ``epoch_order(count, 5, epoch)``, the epoch being its seed."""
    torch = pytest.importorskip("torch")

    def randperm(count, generator):
        return torch.from_numpy(epoch_order(count, 5, generator.initial_seed()))

    monkeypatch.setattr(torch, "randperm", randperm)


@pytest.mark.torch
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("count", COUNTS)
def test_even_parts_are_those_of_torch(count, ranks, drop_last, torch_order):
    from torch.utils.data.distributed import DistributedSampler

    for rank in range(ranks):
        sampler = DistributedSampler(range(count), ranks, rank, seed=0, drop_last=drop_last)
        sampler.set_epoch(3)
        assert split_evenly(epoch_order(count, 5, 3), rank, ranks, drop_last).tolist() == list(sampler)


@pytest.mark.torch
@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("count", COUNTS)
def test_parts_in_order_are_those_of_timm(count, ranks):
    from torch_ref.model import import_timm

    import_timm()
    from timm.data.distributed_sampler import OrderedDistributedSampler

    for rank in range(ranks):
        sampler = OrderedDistributedSampler(range(count), ranks, rank)
        assert split_evenly(np.arange(count), rank, ranks).tolist() == list(sampler)
        # timm's own samples, without what pads them, are the exact part
        exact = split_exactly(np.arange(count), rank, ranks)
        assert exact.tolist() == list(sampler)[: sampler.num_valid_samples]


REPEATS = {
    "as DeiT": {},
    "twice": {"num_repeats": 2},
    "one and a half": {"num_repeats": 1.5},
    "a tenth more": {"num_repeats": 1.1},
    "three, written as a float": {"num_repeats": 3.0},
    "not rounded": {"selected_round": 0},
    "all repeats": {"selected_round": 0, "selected_ratio": 0.25},
    "a quarter": {"selected_round": 64, "selected_ratio": 4},
}


def repeated_otherwise(ours, theirs, count, ranks):
    """Ranks for which the samples differ from those of timm's sampler."""
    from torch_ref.model import import_timm

    import_timm()
    from timm.data.distributed_sampler import RepeatAugSampler

    found = []
    for rank in range(ranks):
        sampler = RepeatAugSampler(range(count), ranks, rank, **theirs)
        sampler.set_epoch(4)
        if repeat_augmented(epoch_order(count, 5, 4), rank, ranks, **ours).indices.tolist() != list(sampler):
            found.append(rank)
    return found


@pytest.mark.torch
@pytest.mark.parametrize("options", REPEATS.values(), ids=REPEATS)
@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("count", COUNTS)
def test_repeated_samples_are_those_of_timm(count, ranks, options, torch_order):
    assert repeated_otherwise(options, options, count, ranks) == []


@pytest.mark.torch
@pytest.mark.parametrize("changes", [{"num_repeats": 4}, {"selected_round": 255}, {"selected_ratio": 3}], ids=str)
def test_repeats_with_another_option_are_seen(changes, torch_order):
    assert repeated_otherwise(changes, {}, 300, 2)


# ---------------------------------------------------------------------------------------------- by themselves


@pytest.mark.parametrize("count", COUNTS)
def test_an_epoch_holds_every_sample_once(count):
    assert sorted(epoch_order(count, 0, 0)) == list(range(count))


def test_seed_and_epoch_decide_the_order():
    """The numbers themselves are pinned: they must not depend on versions."""
    assert epoch_order(10, 0, 0).tolist() == [3, 7, 6, 4, 1, 0, 2, 8, 5, 9]
    orders = {(seed, epoch): tuple(epoch_order(100, seed, epoch)) for seed in range(5) for epoch in range(5)}
    # were they added, seed 1 would repeat in epoch 0 what seed 0 did in epoch 1
    assert len(set(orders.values())) == 25


def test_places_are_evenly_spread():
    """Each sample comes first, and last, about equally often over the epochs."""
    orders = np.array([epoch_order(10, 1, epoch) for epoch in range(2000)])
    for place in (0, 9):
        # 4 standard deviations of 2000 draws at p = 0.1 are 0.027
        assert np.abs(np.bincount(orders[:, place], minlength=10) / 2000 - 0.1).max() < 0.027


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("count", (0, *COUNTS))
def test_exact_parts_hold_every_sample_once(count, ranks):
    each = parts(split_exactly, epoch_order(count, 0, 0), ranks)
    assert sorted(np.concatenate(each)) == list(range(count))
    assert max(map(len, each)) - min(map(len, each)) <= 1


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("count", COUNTS)
def test_even_parts_are_equally_long_and_miss_no_sample(count, ranks):
    each = parts(split_evenly, epoch_order(count, 0, 0), ranks)
    assert len(set(map(len, each))) == 1
    assert set(np.concatenate(each)) == set(range(count))
    assert sum(map(len, each)) - count < ranks


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("count", (0, *COUNTS))
def test_parts_without_the_last_are_equally_long_and_repeat_no_sample(count, ranks):
    each = parts(split_evenly, epoch_order(count, 0, 0), ranks, drop_last=True)
    assert {len(part) for part in each} == {count // ranks}
    assert len(set(np.concatenate(each))) == sum(map(len, each))


@pytest.mark.parametrize("num_repeats", [1, 1.1, 1.5, 2, 3, 3.0])
@pytest.mark.parametrize("ranks", RANKS)
def test_repeats_of_a_sample_are_told_apart(ranks, num_repeats):
    """No (sample, turn) comes twice, but for what makes the ranks even; a sample's turns are 0, 1, ..."""
    order = epoch_order(100, 0, 0)
    each = [repeat_augmented(order, rank, ranks, num_repeats, selected_ratio=1 / num_repeats) for rank in range(ranks)]
    seen = Counter((index, turn) for part in each for index, turn in zip(*map(np.ndarray.tolist, part)))
    assert sum(seen.values()) - len(seen) < ranks
    for index in range(100):
        turns = sorted(turn for known, turn in seen if known == index)
        assert turns == list(range(len(turns)))
        assert len(turns) in (int(num_repeats), int(np.ceil(num_repeats)))


def test_repeats_go_to_different_ranks():
    order = epoch_order(256, 0, 0)
    holders = Counter()
    for rank in range(3):
        holders.update(set(repeat_augmented(order, rank, 3).indices.tolist()))
    # an epoch is as long as without repeats, so a third of the samples is seen, but for the last that is cut off
    assert set(holders.values()) <= {3, 1}
    assert list(holders.values()).count(3) == 256 // 3


@pytest.mark.parametrize("function", [split_exactly, split_evenly, repeat_augmented])
@pytest.mark.parametrize(("rank", "ranks"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_that_is_none_is_refused(function, rank, ranks):
    with pytest.raises(ValueError, match=rf"rank {rank} is not within \[0, {ranks}\)"):
        function(epoch_order(4, 0, 0), rank, ranks)


def test_less_than_one_repeat_is_refused():
    with pytest.raises(ValueError, match=r"num_repeats is 1 or above, not 0.5"):
        repeat_augmented(epoch_order(4, 0, 0), 0, 1, 0.5)
