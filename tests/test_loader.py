"""Batches are the same for any number of workers and any start, each sample comes once on any number of ranks."""

import os
import subprocess
import sys

import loader_parts as parts
import numpy as np
import pytest
from conftest import ROOT
from pictures import png, write_tree

from paddle_dla.data.folder import open_folder
from paddle_dla.data.loader import Loader
from paddle_dla.data.opening import open_source
from paddle_dla.data.plan import Plan, share
from paddle_dla.data.shard_writer import write_shards

UINT8 = dict(output_shape=parts.SHAPE, output_dtype="uint8")
MIXED = dict(output_shape=(3, 8, 8), output_dtype="float32", batch_transform=parts.mix, soft_labels=10)
WORKERS = (0, 1, 2, 3)


def collected(loader):
    """Copies of all batches, as (images, labels, indices)."""
    return [tuple(array.copy() for array in (b.images, b.labels, b.indices)) for b in loader]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        for a, b in zip(one, other):
            np.testing.assert_array_equal(a, b, strict=True)


def test_a_batch_holds_the_images_of_its_indices_in_order():
    batches = collected(Loader(parts.Made(10), parts.keep, 4, **UINT8))
    assert [indices.tolist() for _, _, indices in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    images, labels, indices = batches[1]
    assert images.dtype == np.uint8 and images.shape == (4, 8, 8, 3)
    assert images[2, 5, 5].tolist() == [6, 7, 8]
    assert labels.tolist() == [4, 5, 6, 7]
    assert labels.dtype == indices.dtype == np.int64


@pytest.mark.parametrize("options", [UINT8, MIXED], ids=["samples", "mixed"])
@pytest.mark.parametrize("workers", WORKERS[1:])
def test_batches_do_not_depend_on_workers(workers, options):
    order = np.random.default_rng(0).permutation(23)
    given = dict(transform=parts.noisy, batch_size=4, order=order, epoch=2, seed=5, **options)
    assert_same(collected(Loader(parts.Made(23), workers=workers, **given)), collected(Loader(parts.Made(23), **given)))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [0, 1, 4, 6])
def test_an_epoch_goes_on_in_its_middle(workers, start):
    given = dict(transform=parts.noisy, batch_size=4, order=np.arange(22, -1, -1), **MIXED)
    expected = collected(Loader(parts.Made(23), **given))[start:]
    loader = Loader(parts.Made(23), start_batch=start, workers=workers, **given)
    assert len(loader) == len(expected)
    assert_same(collected(loader), expected)


def first_value(**options):
    loader = Loader(parts.Made(3), parts.noisy, 3, **UINT8, **options)
    return collected(loader)[0][0][:, 0, 0, 0].tolist()


def test_sample_randomness_is_of_seed_epoch_sample_and_turn():
    """Six pairwise different draws of three bytes: two equal by chance once in a million."""
    changes = [{}, {"seed": 1}, {"epoch": 1}, {"order": [0, 1, 2], "turns": [1, 1, 1]}]
    assert len({tuple(first_value(**change)) for change in changes}) == 4
    assert first_value() == first_value(order=[0, 1, 2], turns=[0, 0, 0])
    assert first_value() == first_value(order=[2, 1, 0])[::-1]


def test_batch_randomness_is_of_seed_epoch_rank_and_batch():
    def labels(**options):
        return collected(Loader(parts.Made(4), parts.keep, 2, order=[0, 1, 0, 1], **MIXED, **options))

    plain = labels()
    values = [plain[0][1], plain[1][1], labels(seed=1)[0][1], labels(epoch=1)[0][1], labels(rank=1, ranks=2)[0][1]]
    assert len({value.tobytes() for value in values}) == 5


def test_repeats_of_a_sample_differ():
    images = collected(Loader(parts.Made(1), parts.noisy, 8, order=[0] * 8, turns=range(8), **UINT8))[0][0]
    # eight draws of one byte: all of them equal once in 256 ** 7
    assert len(set(images[:, 0, 0, 0].tolist())) > 1


@pytest.mark.parametrize("batch_size", [1, 3, 50])
@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 30])
def test_evaluation_has_each_sample_once_on_any_ranks(ranks, batch_size):
    source = parts.Made(23)
    indices = [
        index
        for rank in range(ranks)
        for batch in Loader(source, parts.keep, batch_size, rank=rank, ranks=ranks, **UINT8)
        for index in batch.indices.tolist()
    ]
    assert sorted(indices) == list(range(23))


def test_the_last_batch_is_dropped_where_asked():
    loader = Loader(parts.Made(10), parts.keep, 4, drop_last=True, **UINT8)
    assert len(loader) == 2
    assert [len(batch) for batch in loader] == [4, 4]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_transform_may_write_to_the_slot_itself(workers):
    options = dict(output_shape=(3, 8, 8), batch_transform=parts.floats, workers=workers)
    images, labels, _ = collected(Loader(parts.Made(5), parts.keep, 4, **options))[1]
    assert images.shape == (1, 3, 8, 8) and images.dtype == np.float32
    assert images[0, :, 0, 0].tolist() == [4, 5, 6] and labels.tolist() == [4]


def test_a_batch_is_valid_until_the_next_is_asked_for():
    """Long enough that every slot is written many times over."""
    kept = []
    for batch in Loader(parts.Made(200), parts.keep, 5, workers=2, **UINT8):
        assert (batch.images[:, 0, 0, 0] == batch.indices).all()
        kept.append(batch)
    # what is kept longer changes, but is memory that is still there: reading it would crash otherwise
    assert all(batch.images.sum() > 0 for batch in kept)


def test_batches_of_no_workers_are_the_callers_own():
    batches = list(Loader(parts.Made(200), parts.keep, 5, **UINT8))
    assert all((batch.images[:, 0, 0, 0] == batch.indices).all() for batch in batches)


def test_an_iteration_can_be_repeated_and_left():
    loader = Loader(parts.Made(20), parts.keep, 2, workers=2, **UINT8)
    for batch in loader:
        assert batch.indices.tolist() == [0, 1]
        break
    assert [batch.indices.tolist()[0] for batch in loader] == list(range(0, 20, 2))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_empty_share_gives_no_batch(workers):
    assert list(Loader(parts.Made(1), parts.keep, 2, rank=0, ranks=2, workers=workers, **UINT8)) == []
    assert list(Loader(parts.Made(3), parts.keep, 2, order=[], workers=workers, **UINT8)) == []


def test_real_files_come_as_they_are(tmp_path):
    source = open_folder(write_tree(tmp_path, {"0": 3, "1": 4}))
    images, labels, indices = collected(Loader(source, parts.keep, 7, workers=1, **UINT8))[0]
    assert images[:, 0, 0, 0].tolist() == indices.tolist() == list(range(7))
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 1]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    source = open_folder(write_tree(folder / "tree", {"0": 11, "1": 12}))
    write_shards(source, folder / "shards", 5)
    return open_source(folder / "shards")


@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("ranks", [1, 3])
def test_shards_have_each_sample_once_on_any_ranks_and_workers(shards, ranks, workers):
    found = {}
    for rank in range(ranks):
        for batch in Loader(shards, parts.keep, 3, rank=rank, ranks=ranks, workers=workers, **UINT8):
            for image, label, index in zip(batch.images, batch.labels, batch.indices):
                assert int(index) not in found
                found[int(index)] = (int(image[0, 0, 0]), int(label))
    assert found == {index: (index, int(index >= 11)) for index in range(23)}


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_batches_of_shards_are_the_same_whoever_makes_them(shards, workers):
    given = dict(transform=parts.noisy, batch_size=3, **MIXED)
    found = collected(Loader(shards, workers=workers, **given))
    expected = collected(Loader(parts.Made(23), **given))
    found.sort(key=lambda batch: batch[2][0])
    assert [b[2].tolist() for b in found] == [b[2].tolist() for b in expected]
    assert_same([b[:1] for b in found], [b[:1] for b in expected])


@pytest.mark.parametrize("start", [1, 5])
def test_shards_go_on_in_the_middle_with_the_same_workers(shards, start):
    given = dict(transform=parts.noisy, batch_size=3, workers=2, **UINT8)
    assert_same(collected(Loader(shards, start_batch=start, **given)), collected(Loader(shards, **given))[start:])


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_can_be_read_in_a_shuffled_order(shards, workers):
    order = shards.shuffled(seed=1, epoch=2, together=2)
    batches = collected(Loader(shards, parts.keep, 4, order=order, workers=workers, **UINT8))
    expected = [order[first : first + 4].tolist() for first in range(0, 23, 4)]
    assert sorted(indices.tolist() for _, _, indices in batches) == sorted(expected)
    assert all((images[:, 0, 0, 0] == indices).all() for images, _, indices in batches)


@pytest.mark.parametrize("runs", [False, True])
@pytest.mark.parametrize("workers", [1, 2, 3, 10])
@pytest.mark.parametrize("num_samples", [0, 1, 7, 40])
def test_every_batch_is_delivered_once_and_by_workers_in_turn(num_samples, workers, runs):
    plan = Plan(range(num_samples), None, 2, workers=workers, runs=runs)
    deliveries = plan.deliveries()
    assert sorted(number for number, _ in deliveries) == list(range(plan.num_batches))
    assert [worker for _, worker in deliveries] == [k % workers for k in range(plan.num_batches)]
    for worker in range(workers):
        numbers = [number for number, by in deliveries if by == worker]
        assert numbers == sorted(numbers)
        if runs and numbers:
            assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert plan.deliveries(start=plan.num_batches // 2) == deliveries[plan.num_batches // 2 :]


def test_shares_are_neighbours_and_differ_by_one_at_most():
    shares = [share(23, rank, 4) for rank in range(4)]
    assert [index for part in shares for index in part] == list(range(23))
    assert {len(part) for part in shares} == {5, 6}


def test_workers_import_no_framework_and_not_the_program():
    """The program that starts them has imported Paddle, and is not protected by ``__name__ == "__main__"``."""
    code = """
import sys, paddle, loader_parts as parts
from paddle_dla.data.loader import Loader
loader = Loader(parts.Made(4), parts.At(2, parts.refuse_paddle), 2, workers=2, output_shape=parts.SHAPE,
    output_dtype="uint8")
sys.exit(len(list(loader)) != 2)
"""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}
    )
    assert done.returncode == 0, done.stderr


def test_workers_do_not_import_what_lies_where_the_user_works(tmp_path, monkeypatch):
    for name in ("multiprocessing", "random", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert len(list(Loader(parts.Made(4), parts.keep, 2, workers=1, **UINT8))) == 2


BAD_OPTIONS = {
    "batch_size is 1 or more": dict(batch_size=0),
    "workers is 0 or more": dict(workers=-1),
    "rank is 0 to 1": dict(rank=2, ranks=2),
    "timeout is in seconds": dict(timeout=0),
    "start_batch is 0 to 5": dict(start_batch=6),
    "order has indices from 0 to 10; the source has 10": dict(order=[0, 10]),
    "order is a list of indices": dict(order=[0.5]),
    "turns belong to an order": dict(turns=[0]),
    "seed is 0 or more": dict(seed=-1),
}


@pytest.mark.parametrize(("message", "options"), BAD_OPTIONS.items(), ids=BAD_OPTIONS)
def test_options_that_make_no_sense_are_refused(message, options):
    with pytest.raises(ValueError, match=message):
        Loader(parts.Made(10), parts.keep, **{"batch_size": 2, **UINT8, **options})


def test_pictures_are_told_apart_by_their_colour():
    """What the tests above rely on."""
    assert len({png(k) for k in range(200)}) == 200
