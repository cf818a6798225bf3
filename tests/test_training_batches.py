"""A loader with all of training's transforms: the same batches whoever makes them, and each stage in its place."""

import random

import numpy as np
import pytest
from pictures import photo, write_tree
from PIL import Image

from paddle_dla.data.batch import Batch
from paddle_dla.data.erasing import RandomErasing
from paddle_dla.data.folder import open_folder
from paddle_dla.data.loader import Loader
from paddle_dla.data.mixing import Mixup
from paddle_dla.data.normalise import Normalise
from paddle_dla.data.sampling import epoch_order, repeat_augmented
from paddle_dla.data.training import FromPixels, TrainingBatch
from paddle_dla.data.transforms import training_transform
from paddle_dla.preprocessing import Preprocessing

COUNTS = {"a": 4, "b": 5}
PREPROCESSING = Preprocessing((3, 16, 20))
GREY = Preprocessing((1, 16, 20), mean=(0.5,), std=(0.25,))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return open_folder(write_tree(tmp_path_factory.mktemp("tree") / "train", COUNTS, photo, "jpg"))


def loader(source, preprocessing=PREPROCESSING, **options):
    """Everything at once: RandAugment, erasing and CutMix of pairs."""
    transform = training_transform(preprocessing, auto_augment="rand-m9-mstd0.5-inc1", re_prob=0.5, re_mode="pixel")
    mix = Mixup(0.8, 1.0, mode="pair", num_classes=2)
    return Loader(
        source,
        FromPixels(transform.sample, preprocessing.input_size[0]),
        4,
        output_shape=preprocessing.input_size,
        batch_transform=TrainingBatch(Normalise(preprocessing), transform.erase, mix),
        soft_labels=2,
        **{"order": epoch_order(9, 0, 0), **options},
    )


def collected(batches):
    return [(batch.images.copy(), batch.labels.copy(), batch.indices.copy()) for batch in batches]


def same(ours, theirs):
    return len(ours) == len(theirs) and all(map(np.array_equal, sum(ours, ()), sum(theirs, ())))


@pytest.mark.parametrize("preprocessing", [PREPROCESSING, GREY], ids=["RGB", "grey"])
def test_batches_do_not_depend_on_workers(source, preprocessing):
    """And the last, of one sample, is a batch as well."""
    here = collected(loader(source, preprocessing))
    assert [images.shape for images, _, _ in here] == [(count, *preprocessing.input_size) for count in (4, 4, 1)]
    assert same(collected(loader(source, preprocessing, workers=2)), here)


@pytest.mark.parametrize("changes", [{"epoch": 1}, {"seed": 1}], ids=str)
def test_another_epoch_or_seed_makes_other_batches(source, changes):
    assert not same(collected(loader(source, **changes)), collected(loader(source)))


def test_repeats_of_a_sample_do_not_look_the_same(source):
    indices, turns = repeat_augmented(np.arange(9), 0, 1, num_repeats=2)
    transform = FromPixels(training_transform(PREPROCESSING).sample)
    shape = (*PREPROCESSING.input_size[1:], 3)
    options = dict(output_shape=shape, output_dtype="uint8", order=indices)
    for given, expected in ((turns, False), (np.zeros_like(turns), True)):
        [(images, _, found), *_] = collected(Loader(source, transform, 4, turns=given, **options))
        assert found.tolist() == [0, 0, 1, 1]
        assert np.array_equal(images[0], images[1]) == expected


@pytest.mark.parametrize("policy", [None, "rand-m9-mstd0.5-inc1"])
@pytest.mark.parametrize("size", [(224, 224), (40, 24)])
@pytest.mark.parametrize("interpolation", ["random", "bilinear", "bicubic"])
def test_a_crop_of_pixels_is_that_of_the_picture(policy, size, interpolation):
    preprocessing = Preprocessing((3, *size))
    transform = training_transform(preprocessing, auto_augment=policy, interpolation=interpolation).sample
    for seed, shape in enumerate([(333, 500), (500, 333), (9, 7), (224, 224), (40, 300), (300, 40)]):
        pixels = np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)
        expected = np.asarray(transform(Image.fromarray(pixels), random.Random(seed)))
        assert np.array_equal(FromPixels(transform)(pixels, random.Random(seed)), expected)


def test_stages_follow_one_another():
    """Normalised, then erased (with the mean: 0), then mixed."""
    normalise, mix, erase = Normalise(PREPROCESSING), Mixup(num_classes=4), RandomErasing(1.0)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 20, 3), np.uint8)
    labels = np.arange(4)
    out = np.empty((4, 3, 16, 20), np.float32)
    result = TrainingBatch(normalise, erase, mix)(Batch(pixels, labels, labels), np.random.default_rng(1), 0, out)
    rng = np.random.default_rng(1)
    expected = mix(erase(Batch(normalise(pixels), labels, labels), rng, 0), rng, 0)
    assert result.images is out
    assert np.array_equal(out, expected.images) and np.array_equal(result.labels, expected.labels)


def test_without_erasing_and_mixing_a_batch_is_normalised():
    normalise = Normalise(PREPROCESSING)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 20, 3), np.uint8)
    result = TrainingBatch(normalise)(Batch(pixels, np.arange(2), np.arange(2)), np.random.default_rng(0), 0)
    assert np.array_equal(result.images, normalise(pixels))
    assert result.labels.tolist() == [0, 1]


def test_grey_is_made_before_the_transform():
    """As timm reads images in mode L: colours cannot be changed any more."""
    image = np.random.default_rng(0).integers(0, 256, (33, 40, 3), np.uint8)
    transform = training_transform(GREY, color_jitter=(0.4, 0.4, 0.4, 0.1)).sample
    result = FromPixels(transform, 1)(image, random.Random(3))
    expected = np.asarray(transform(Image.fromarray(image).convert("L"), random.Random(3)))
    assert result.shape == (16, 20, 1)
    assert np.array_equal(result[..., 0], expected)
