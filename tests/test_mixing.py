"""Mixup and CutMix: timm's values for the same random numbers, and shares that are true."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from timm_draws import batch_draws

from paddle_dla.data import mixing
from paddle_dla.data.batch import Batch
from paddle_dla.data.errors import DataError
from paddle_dla.data.mixing import MODES, Box, Mixup, draw_box, draw_box_minmax, soft_targets

CLASSES = 7
SEEDS = range(25)
KINDS = {
    "mixup": {"mixup_alpha": 0.8},
    "cutmix": {"mixup_alpha": 0.0, "cutmix_alpha": 1.0},
    "both": {"mixup_alpha": 0.2, "cutmix_alpha": 1.0},
    "mostly cutmix": {"mixup_alpha": 1.0, "cutmix_alpha": 0.5, "switch_prob": 0.8},
    "at times": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "prob": 0.5},
    "minmax": {"mixup_alpha": 0.0, "cutmix_minmax": (0.2, 0.8)},
    "minmax and mixup": {"cutmix_minmax": (0.3, 0.9), "prob": 0.7},
    "lam as drawn": {"mixup_alpha": 0.5, "cutmix_alpha": 1.0, "correct_lam": False},
    "hard labels": {"mixup_alpha": 1.0, "cutmix_alpha": 1.0, "label_smoothing": 0.0},
}
CUTMIX = [kind for kind in KINDS if kind != "mixup"]


def batch_of(count=6, shape=(3, 17, 24), seed=0):
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((count, *shape), dtype=np.float32)
    return Batch(images, rng.integers(0, CLASSES, count), np.arange(count))


def mixed(transform, batch, seed, epoch=0):
    """The batch mixed; the images of ``batch`` stay. ``seed`` may be a generator."""
    return transform(replace(batch, images=batch.images.copy()), np.random.default_rng(seed), epoch)


def mixed_otherwise(ours, theirs, monkeypatch, epoch=0, **batch):
    """Seeds for which images or targets differ from timm's at all, or the generator ends elsewhere."""
    from torch_ref.model import import_timm

    import_timm()
    import torch
    from timm.data.mixup import Mixup as TimmMixup

    reference, found = TimmMixup(**theirs, num_classes=CLASSES), []
    reference.mixup_enabled = epoch == 0
    for seed in SEEDS:
        mine, timms, before = np.random.default_rng(seed), np.random.default_rng(seed), batch_of(seed=seed, **batch)
        batch_draws(monkeypatch, timms)
        images, labels = reference(torch.from_numpy(before.images.copy()), torch.from_numpy(before.labels))
        after = mixed(Mixup(**ours, num_classes=CLASSES), before, mine, epoch)
        same = np.array_equal(after.images, images.numpy()) and np.array_equal(after.labels, labels.numpy())
        if not same or mine.bit_generator.state != timms.bit_generator.state:
            found.append(seed)
    return found


# ---------------------------------------------------------------------------------------------- the same as timm


@pytest.mark.torch
@pytest.mark.parametrize("shape", [(3, 17, 24), (1, 28, 28), (3, 224, 3)])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["mixup", *(pytest.param(kind, marks=pytest.mark.timm("1.0.29")) for kind in CUTMIX)])
def test_mixing_makes_timms_values(kind, mode, shape, monkeypatch):
    options = {"mode": mode, **KINDS[kind]}
    assert mixed_otherwise(options, options, monkeypatch, shape=shape) == []


@pytest.mark.torch
@pytest.mark.parametrize("mode", MODES)
def test_off_epoch_is_timms_switch(mode, monkeypatch):
    options = {"mode": mode, "cutmix_alpha": 1.0}
    assert mixed_otherwise(options | {"off_epoch": 3}, options, monkeypatch, epoch=3) == []


OTHER_OPTIONS = [
    {"mixup_alpha": 0.81},
    {"cutmix_alpha": 0.9},
    {"cutmix_minmax": (0.2, 0.8)},
    {"prob": 0.8},
    {"switch_prob": 0.9},
    {"correct_lam": False},
    {"label_smoothing": 0.1001},
]


@pytest.mark.torch
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("changes", OTHER_OPTIONS, ids=str)
def test_another_option_is_seen(changes, mode, monkeypatch):
    options = {"mode": mode, "mixup_alpha": 0.8, "cutmix_alpha": 1.0}
    assert mixed_otherwise(options | changes, options, monkeypatch)


def short_box(height, width, lam, rng):
    """A box that lacks its last row."""
    top, bottom, left, right = draw_box(height, width, lam, rng)
    return Box(top, max(top, bottom - 1), left, right)


@pytest.mark.torch
@pytest.mark.parametrize("mode", MODES)
def test_a_box_without_its_last_row_is_seen(mode, monkeypatch):
    options = {"mode": mode, "mixup_alpha": 0.0, "cutmix_alpha": 1.0}
    monkeypatch.setattr(mixing, "draw_box", short_box)
    assert mixed_otherwise(options, options, monkeypatch)


def test_boxes_are_computed_in_the_precision_of_lam():
    """As timm does: in float32, where lam is drawn for each sample, the box may be a pixel smaller or larger."""
    lams = [np.float32(1 - (rows / 24) ** 2) for rows in range(1, 24)]
    assert any(
        draw_box(24, 24, lam, np.random.default_rng(0)) != draw_box(24, 24, np.float64(lam), np.random.default_rng(0))
        for lam in lams
    )


# ---------------------------------------------------------------------------------------------- by themselves


def share_kept(after, before):
    """For each image the share of its pixels that it kept; of CutMix, as nothing else keeps any."""
    return (after.images == before.images).all(1).mean((1, 2))


def share_of_label(after, before):
    """What the target gives to a sample's own label."""
    return after.labels[np.arange(len(before)), before.labels]


def distinct(count=8, size=32):
    """Every sample has a label of its own."""
    rng = np.random.default_rng(0)
    return Batch(rng.standard_normal((count, 3, size, size), np.float32), np.arange(count), np.arange(count))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("minmax", [None, (0.2, 0.8)])
def test_a_label_counts_as_much_as_pixels_stay(mode, minmax):
    cutmix = Mixup(0.0, 1.0, minmax, mode=mode, label_smoothing=0.0, num_classes=8)
    before = distinct()
    for seed in SEEDS:
        after = mixed(cutmix, before, seed)
        # one rounding of lam to float32, below 1
        assert np.abs(share_kept(after, before) - share_of_label(after, before)).max() <= 2**-24


@pytest.mark.parametrize("mode", MODES)
def test_lam_as_drawn_is_not_what_stays(mode):
    cutmix = Mixup(0.0, 1.0, correct_lam=False, mode=mode, label_smoothing=0.0, num_classes=8)
    before = distinct()
    afters = [mixed(cutmix, before, seed) for seed in SEEDS]
    # a corner cut off is more than 0.01 of the image in most batches
    assert max(np.abs(share_kept(after, before) - share_of_label(after, before)).max() for after in afters) > 0.01


@pytest.mark.parametrize("mode", MODES)
def test_an_image_is_mixed_as_its_label(mode):
    """The label's share, found again in the pixels: image = lam own + (1 - lam) partner, in float64."""
    before = distinct()
    after = mixed(Mixup(mode=mode, label_smoothing=0.0, num_classes=8), before, seed=1)
    lam = share_of_label(after, before).astype(np.float64)[:, np.newaxis, np.newaxis, np.newaxis]
    expected = lam * before.images + (1 - lam) * before.images[::-1].astype(np.float64)
    # two products, a sum, and 1 - lam, each rounded to float32: 4 halves of 2**-23 of values below 8
    assert np.abs(after.images - expected).max() <= 4 * 2**-24 * 8


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_targets_are_probabilities(kind, mode):
    labels = Mixup(**KINDS[kind], mode=mode, num_classes=CLASSES)(batch_of(), np.random.default_rng(0), 0).labels
    assert labels.shape == (6, CLASSES) and labels.dtype == np.float32
    assert labels.min() >= 0
    # seven float32 values below 1 are added, each rounded a few times
    assert np.abs(labels.sum(1) - 1).max() <= 7 * 4 * 2**-24


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_alone_decides(kind, mode):
    """Of a copy too, as worker processes get it."""
    transform, before = Mixup(**KINDS[kind], mode=mode, num_classes=CLASSES), batch_of()
    copy = pickle.loads(pickle.dumps(transform))  # noqa: S301 - the test's own
    for seed in range(5):
        one, other = mixed(transform, before, seed), mixed(copy, before, seed)
        assert np.array_equal(one.images, other.images) and np.array_equal(one.labels, other.labels)
        assert one.images.dtype == np.float32 and np.array_equal(one.indices, before.indices)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_images_are_mixed_in_place_and_labels_are_not(kind, mode):
    """A batch of ImageNet is large: the loader's own array is used again."""
    batch, fresh = batch_of(), batch_of()
    after = Mixup(**KINDS[kind], mode=mode, num_classes=CLASSES)(batch, np.random.default_rng(0), 0)
    assert after.images is batch.images
    assert np.array_equal(batch.labels, fresh.labels)


@pytest.mark.parametrize("mode", MODES)
def test_partners_share_a_lam_only_in_pairs(mode):
    before = distinct()
    after = mixed(Mixup(mode=mode, label_smoothing=0.0, num_classes=8), before, seed=0)
    lam = share_of_label(after, before)
    assert len(np.unique(lam)) == {"batch": 1, "pair": 4, "elem": 8}[mode]
    assert np.array_equal(lam, lam[::-1]) == (mode != "elem")


@pytest.mark.parametrize("mode", MODES)
def test_mixing_happens_as_often_as_asked(mode):
    transform = Mixup(1.0, 1.0, prob=0.3, mode=mode, num_classes=CLASSES)
    batches = 400 if mode == "batch" else 100
    rng, before = np.random.default_rng(0), batch_of(8, (1, 9, 9))
    changed = [(mixed(transform, before, rng).images != before.images).any((1, 2, 3)) for _ in range(batches)]
    # 4 standard deviations at p = 0.3 of 400 draws (batches; or 4 pairs in each of 100) are 0.092; a box of no
    # pixels, one in forty of these, is no change
    assert -0.092 - 0.3 / 20 < np.mean(changed) - 0.3 < 0.092


@pytest.mark.parametrize("mode", MODES)
def test_from_the_off_epoch_on_labels_are_only_smoothed(mode):
    transform, before = Mixup(mode=mode, off_epoch=2, num_classes=CLASSES), batch_of()
    early, late = (mixed(transform, before, 0, epoch) for epoch in (1, 2))
    assert not np.array_equal(early.images, before.images)
    assert np.array_equal(late.images, before.images)
    assert np.array_equal(late.labels, soft_targets(before.labels, CLASSES, smoothing=0.1))


def test_off_epoch_0_is_never():
    before = batch_of()
    after = mixed(Mixup(num_classes=CLASSES), before, 0, epoch=10**6)
    assert not np.array_equal(after.images, before.images)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_middle_of_an_odd_batch_is_its_own_partner(kind, mode):
    """A batch is odd where an image could not be read. The others are mixed as ever."""
    transform, before = Mixup(**KINDS[kind] | {"label_smoothing": 0.0}, mode=mode, num_classes=7), distinct(7)
    changed = False
    for seed in SEEDS:
        after = mixed(transform, before, seed)
        # lam x + (1 - lam) x: two products and a sum, each rounded, of values below 8
        assert np.abs(after.images[3] - before.images[3]).max() <= 3 * 2**-24 * 8
        assert abs(after.labels[3, 3] - 1) <= 3 * 2**-24
        assert np.array_equal(np.flatnonzero(after.labels[3]), [3])
        changed |= not np.array_equal(after.images[:3], before.images[:3])
    assert changed


def test_smoothing_spreads_over_all_classes():
    targets = soft_targets(np.array([1]), 4, smoothing=0.2)
    assert np.array_equal(targets, np.float32([[0.05, 0.85, 0.05, 0.05]]))


def test_boxes_stay_inside_and_are_of_the_size_asked_for():
    rng = np.random.default_rng(0)
    for _ in range(500):
        top, bottom, left, right = draw_box_minmax(40, 30, (0.25, 0.5), rng)
        assert top >= 0 and bottom <= 40 and left >= 0 and right <= 30
        assert 10 <= bottom - top < 20 and 7 <= right - left < 15
        top, bottom, left, right = draw_box(40, 30, np.float32(0.75), rng)
        assert 0 <= top <= bottom <= 40 and 0 <= left <= right <= 30
        assert bottom - top <= 20 and right - left <= 15


# ---------------------------------------------------------------------------------------------- wrong options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "element"}, "mode is one of batch, pair, elem, not 'element'"),
        ({"prob": 1.1}, r"prob is within \[0, 1\], not 1.1"),
        ({"switch_prob": -0.1}, "switch_prob is within"),
        ({"label_smoothing": 2}, "label_smoothing is within"),
        ({"mixup_alpha": 0.0}, "one of them above 0"),
        ({"mixup_alpha": -1.0}, "0 or above"),
        ({"cutmix_minmax": (0.8, 0.2)}, r"cutmix_minmax is \(lowest, highest\).*not \(0.8, 0.2\)"),
        ({"cutmix_minmax": (0.8,)}, "cutmix_minmax is"),
        ({"num_classes": 0}, "num_classes is 1 or above, not 0"),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Mixup(**options)


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_a_label_that_is_no_class_is_named(label):
    batch = batch_of()
    batch.labels[3] = label
    with pytest.raises(DataError, match=rf"sample 3 .*label {label}.*\[0, {CLASSES}\)"):
        Mixup(num_classes=CLASSES)(batch, np.random.default_rng(0), 0)


def test_labels_that_are_mixed_already_are_refused():
    batch = Mixup(num_classes=CLASSES)(batch_of(), np.random.default_rng(0), 0)
    with pytest.raises(DataError, match="class indices"):
        Mixup(num_classes=CLASSES)(batch, np.random.default_rng(0), 0)


def test_images_that_are_not_normalised_are_refused():
    batch = Batch(np.zeros((2, 8, 8, 3), np.uint8), np.arange(2), np.arange(2))
    with pytest.raises(ValueError, match="float32 images"):
        Mixup(num_classes=CLASSES)(batch, np.random.default_rng(0), 0)


def test_a_range_without_a_box_is_refused():
    with pytest.raises(ValueError, match="leaves no box in images of 3 x 24 pixels"):
        Mixup(cutmix_minmax=(0.4, 0.6), mixup_alpha=0.0, num_classes=CLASSES)(
            batch_of(shape=(1, 3, 24)), np.random.default_rng(0), 0
        )
