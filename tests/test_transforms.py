"""Training transforms: timm's bytes for the same random numbers, and what they promise by themselves."""

import math
import pickle
import random
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image
from small_images import SIZES, all_images, in_grey, made_images
from timm_draws import Overlay, sample_draws

from paddle_dla.data import transforms
from paddle_dla.data.transforms import (
    ColorJitter,
    Compose,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomVerticalFlip,
    training_transform,
)
from paddle_dla.data.trivial_augment import TrivialAugment
from paddle_dla.preprocessing import Preprocessing

SEEDS = range(15)
SIZE = (24, 31)  # height and width that are not the same, and odd
RECIPES = {
    "timm's defaults": {},
    "nothing but a crop": {"hflip": 0.0, "color_jitter": None},
    "both flips": {"hflip": 0.3, "vflip": 0.7, "color_jitter": None},
    "other crops": {"scale": (0.5, 0.6), "ratio": (0.2, 5.0)},
    "bicubic": {"interpolation": "bicubic"},
    "lanczos": {"interpolation": "lanczos"},
    "three jitters": {"color_jitter": (0.1, 0.8, 1.5)},
    "hue too": {"color_jitter": (0.4, 0.4, 0.4, 0.5)},
    "hue alone, at times": {"color_jitter": (0.0, 0.0, 0.0, 0.2), "color_jitter_prob": 0.5},
    "ranges of factors": {"color_jitter": ((0.5, 0.9), (1.0, 1.0), 0.2, (-0.1, 0.3))},
    "grey at times": {"grayscale_prob": 0.5},
    "RandAugment": {"auto_augment": "rand-m9-mstd0.5-inc1"},
    "RandAugment, one filter": {"auto_augment": "rand-m9-mstd0.5-inc1", "interpolation": "bilinear"},
    "RandAugment and jitter": {"auto_augment": "rand-m9-n1", "force_color_jitter": True},
    "AutoAugment": {"auto_augment": "original"},
    "3-Augment": {"auto_augment": "3a", "color_jitter": 0.3},
    "3-Augment by RandAugment": {"auto_augment": "rand-t3aw", "color_jitter": 0.3},
    "AugMix": {"auto_augment": "augmix-m5-w2"},
}
SINCE = [pytest.param(name, marks=pytest.mark.timm("1.0.30") if name == "AugMix" else []) for name in RECIPES]


def import_timm():
    from torch_ref.model import import_timm

    return import_timm()


def timm_transform(preprocessing, recipe):
    """timm's composition, up to where its loader takes over."""
    import_timm()
    from timm.data.transforms_factory import transforms_imagenet_train

    size, mean = preprocessing.input_size[1:], preprocessing.mean
    return transforms_imagenet_train(size, mean=mean, use_prefetcher=True, **recipe)


def preprocessing_of(channels):
    return Preprocessing((channels, *SIZE), mean=(0.485, 0.456, 0.406)[:channels], std=(0.2,) * channels)


def channels_first(image):
    """(C, H, W)."""
    array = np.asarray(image)
    return array[np.newaxis] if array.ndim == 2 else array.transpose(2, 0, 1)


def differing(ours, theirs, images, monkeypatch, seeds=SEEDS):
    """Where the transforms differ in a byte, or leave the generator elsewhere."""
    found = []
    for name, image in images.items():
        for seed in seeds:
            mine, timms = random.Random(seed), random.Random(seed)
            sample_draws(monkeypatch, timms)
            same = np.array_equal(channels_first(ours(image, mine)), theirs(image).numpy())
            if not same or mine.getstate() != timms.getstate():
                found.append((name, seed))
    return found


@pytest.fixture(scope="module")
def images(shared_data):
    # in an image of one pixel timm may crop nothing; see below
    return {name: image for name, image in all_images(shared_data).items() if name != "pixel"}


# ---------------------------------------------------------------------------------------------- the same as timm


@pytest.mark.torch
@pytest.mark.parametrize("recipe", SINCE)
def test_training_transforms_make_timms_bytes(recipe, images, monkeypatch):
    preprocessing, options = preprocessing_of(3), RECIPES[recipe]
    ours, theirs = training_transform(preprocessing, **options), timm_transform(preprocessing, options)
    assert differing(ours.sample, theirs, images, monkeypatch) == []


@pytest.mark.torch
@pytest.mark.parametrize("recipe", SINCE)
def test_training_transforms_make_timms_bytes_of_one_channel(recipe, images, monkeypatch):
    preprocessing, options = preprocessing_of(1), RECIPES[recipe]
    ours, theirs = training_transform(preprocessing, **options), timm_transform(preprocessing, options)
    assert differing(ours.sample, theirs, in_grey(images), monkeypatch, range(4)) == []


@dataclass(frozen=True)
class OneGoResize(RandomResizedCrop):
    """Resizes within a box of the image instead of cropping first."""

    def __call__(self, image, rng):
        left, top, width, height = self.draw(*image.size, rng)
        box = (left, top, left + width, top + height)
        return image.resize(self.size[::-1], self._draw_filter(rng), box=box)


class FixedOrder(ColorJitter):
    """Brightness first, always."""

    def draw(self, rng):
        return sorted(super().draw(rng))


CROP = RandomResizedCrop(SIZE, interpolation="random")
FAULTY_CROPS = {
    "one filter": RandomResizedCrop(SIZE, interpolation="bilinear"),
    "resized in one go": OneGoResize(SIZE, interpolation="random"),
    "other scale": RandomResizedCrop(SIZE, (0.081, 1.0), interpolation="random"),
    "other ratio": RandomResizedCrop(SIZE, ratio=(0.74, 4 / 3), interpolation="random"),
}
FAULTY = {name: (crop, RandomHorizontalFlip(0.5), ColorJitter(0.4, 0.4, 0.4)) for name, crop in FAULTY_CROPS.items()}
FAULTY |= {
    "jitter in a fixed order": (CROP, RandomHorizontalFlip(0.5), FixedOrder(0.4, 0.4, 0.4)),
    "jitter before the flip": (CROP, ColorJitter(0.4, 0.4, 0.4), RandomHorizontalFlip(0.5)),
    "flip upside down": (CROP, RandomVerticalFlip(0.5), ColorJitter(0.4, 0.4, 0.4)),
    "hue as well": (CROP, RandomHorizontalFlip(0.5), ColorJitter(0.4, 0.4, 0.4, 0.01)),
}


@pytest.mark.torch
@pytest.mark.parametrize("fault", FAULTY)
def test_a_fault_is_seen(fault, images, monkeypatch):
    theirs = timm_transform(preprocessing_of(3), {})
    assert differing(Compose(FAULTY[fault]), theirs, images, monkeypatch)


@pytest.fixture
def linear_ratio(monkeypatch):
    """Crops' ratios are drawn uniformly themselves, not their logarithms."""
    monkeypatch.setattr(transforms, "math", Overlay(math, log=float, exp=float))


@pytest.mark.torch
def test_a_linear_ratio_is_seen(linear_ratio, images, monkeypatch):
    preprocessing = preprocessing_of(3)
    ours, theirs = training_transform(preprocessing), timm_transform(preprocessing, {})
    assert differing(ours.sample, theirs, images, monkeypatch)


@pytest.mark.torch
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.9, 3.0), (1.0, 1.0)])
@pytest.mark.parametrize("size", [*SIZES.values(), (500, 375), (4, 4)])
def test_crops_are_timms(size, scale, monkeypatch):
    """For every size that gives timm a crop of at least one pixel: also where all attempts fail."""
    import_timm()
    from timm.data.transforms import RandomResizedCropAndInterpolation

    crop, image = RandomResizedCrop(SIZE, scale), Image.new("L", size)
    for seed in range(100):
        sample_draws(monkeypatch, random.Random(seed))
        top, left, height, width = RandomResizedCropAndInterpolation.get_params(image, scale, crop.ratio)
        if width and height:
            assert crop.draw(*size, random.Random(seed)) == (left, top, width, height)


# ---------------------------------------------------------------------------------------------- by themselves


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_generator_alone_decides(recipe):
    """Of a copy too, as worker processes get it."""
    transform = training_transform(preprocessing_of(3), re_prob=0.5, **RECIPES[recipe])
    copy = pickle.loads(pickle.dumps(transform))  # noqa: S301 - the test's own
    assert copy == transform
    image = made_images()["odd"]
    results = [[each.sample(image, random.Random(seed)).tobytes() for seed in SEEDS] for each in (transform, copy)]
    assert results[0] == results[1]
    assert len(set(results[0])) > 1


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_other_generator_is_touched(recipe):
    before = random.getstate(), np.random.get_state()[1].tolist()
    for seed in SEEDS:
        training_transform(preprocessing_of(3), **RECIPES[recipe]).sample(made_images()["odd"], random.Random(seed))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_image_becomes_one_of_the_right_size(recipe, name):
    transform, image = training_transform(preprocessing_of(3), **RECIPES[recipe]).sample, made_images()[name]
    before = image.tobytes()
    for seed in SEEDS:
        result = transform(image, random.Random(seed))
        assert (result.size, result.mode) == (SIZE[::-1], "RGB")
    assert image.tobytes() == before


def test_an_image_of_one_pixel_keeps_its_colour():
    """timm crops no pixel at all there, more often than not, and resizes nothing to black."""
    image = Image.new("RGB", (1, 1), (200, 100, 50))
    crop = RandomResizedCrop(SIZE)
    assert {crop(image, random.Random(seed)).getpixel((0, 0)) for seed in range(50)} == {(200, 100, 50)}


def share_of_wide_crops(count=4000):
    rng, crop = random.Random(0), RandomResizedCrop(SIZE, scale=(0.08, 0.5))
    wide = 0
    for _ in range(count):
        _, _, width, height = crop.draw(400, 400, rng)
        wide += (width > height) + (width == height) / 2
    return wide / count


def test_as_many_crops_are_wide_as_high():
    # 4 standard deviations of 4000 draws at p = 0.5 are 0.032
    assert abs(share_of_wide_crops() - 0.5) < 0.032


def test_a_linear_ratio_makes_more_crops_wide(linear_ratio):
    # a ratio uniform within [3/4, 4/3] is above 1 in 4/7 of all cases; 0.032 as above
    assert abs(share_of_wide_crops() - 4 / 7) < 0.032
    assert share_of_wide_crops() > 0.532


def test_crops_cover_the_scale_asked_for():
    rng, crop = random.Random(0), RandomResizedCrop(SIZE, scale=(0.2, 0.4))
    areas = [width * height / 1000**2 for _, _, width, height in (crop.draw(1000, 1000, rng) for _ in range(2000))]
    # the sides are rounded to whole pixels of about 450: half a pixel on either is 0.0011 of the image
    assert 0.2 - 0.0011 <= min(areas) < 0.201
    assert 0.399 < max(areas) <= 0.4 + 0.0011


def test_crops_stay_inside():
    rng = random.Random(0)
    for size in SIZES.values():
        for _ in range(200):
            left, top, width, height = RandomResizedCrop(SIZE).draw(*size, rng)
            assert left >= 0 and top >= 0 and width > 0 and height > 0
            assert left + width <= size[0] and top + height <= size[1]


@pytest.mark.parametrize("transform", [RandomHorizontalFlip, RandomVerticalFlip, RandomGrayscale])
def test_a_probability_is_that_of_a_change(transform):
    image, rng = made_images()["odd"], random.Random(0)
    changed = sum(transform(0.3)(image, rng).tobytes() != image.tobytes() for _ in range(4000))
    # 4 standard deviations of 4000 draws with p = 0.3 are 0.029
    assert abs(changed / 4000 - 0.3) < 0.029


def test_flips_mirror():
    image = made_images()["odd"]
    array, rng = np.asarray(image), random.Random(0)
    assert np.array_equal(np.asarray(RandomHorizontalFlip(1.0)(image, rng)), array[:, ::-1])
    assert np.array_equal(np.asarray(RandomVerticalFlip(1.0)(image, rng)), array[::-1])


def test_jitter_draws_within_its_ranges_and_in_any_order():
    jitter, rng = ColorJitter(0.4, 2.0, (0.5, 0.6), 0.1), random.Random(0)
    assert (jitter.brightness, jitter.contrast) == ((0.6, 1.4), (0.0, 3.0))
    drawn = [jitter.draw(rng) for _ in range(600)]
    assert len({tuple(place for place, _ in changes) for changes in drawn}) == math.factorial(4)
    for place, (low, high) in enumerate([(0.6, 1.4), (0.0, 3.0), (0.5, 0.6), (-0.1, 0.1)]):
        factors = [dict(changes)[place] for changes in drawn]
        # of 600 uniform draws, one within a tenth of either end fails to come once in 10**27
        assert low <= min(factors) < low + (high - low) / 10
        assert high - (high - low) / 10 < max(factors) <= high


def test_jitter_of_nothing_changes_nothing():
    image = made_images()["odd"]
    assert ColorJitter()(image, random.Random(0)).tobytes() == image.tobytes()


def test_auto_augment_takes_the_place_of_jitter():
    def kinds(**options):
        return {type(step) for step in training_transform(preprocessing_of(3), **options).sample.transforms}

    assert ColorJitter in kinds()
    assert ColorJitter not in kinds(auto_augment="rand-m9")
    assert ColorJitter in kinds(auto_augment="rand-m9", force_color_jitter=True)
    assert ColorJitter in kinds(auto_augment="3a")


@pytest.mark.parametrize(
    ("interpolation", "expected"), [("random", "BILINEAR"), ("bicubic", "BICUBIC"), ("nearest", "NEAREST")]
)
def test_trivial_augment_is_known_by_name(interpolation, expected):
    options = {"auto_augment": "ta-wide", "interpolation": interpolation}
    steps = training_transform(preprocessing_of(3), **options).sample.transforms
    assert steps[-1] == TrivialAugment(Image.Resampling[expected])


# ---------------------------------------------------------------------------------------------- wrong options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": (1.0, 0.08)}, r"scale is \(lowest, highest\), not \(1.0, 0.08\)"),
        ({"scale": (0.0, 1.0)}, "scale is two numbers above 0"),
        ({"ratio": (1.0,)}, "ratio is two numbers above 0"),
        ({"interpolation": "cubic"}, "interpolation is one of nearest, .*, random; not 'cubic'"),
        ({"interpolation": "lanczos", "auto_augment": "rand-m9"}, "not with lanczos"),
        ({"hflip": 1.5}, r"hflip is a probability within \[0, 1\], not 1.5"),
        ({"vflip": -0.5}, "vflip is a probability"),
        ({"grayscale_prob": 2}, "grayscale_prob is a probability"),
        ({"color_jitter_prob": 2}, "color_jitter_prob is a probability"),
        ({"color_jitter": (0.4, 0.4)}, r"color_jitter is one amount, three, or four with hue; not \(0.4, 0.4\)"),
        ({"color_jitter": ((0.4,), 0.4, 0.4)}, r"brightness is an amount or a range \(lowest, highest\), not \(0.4,\)"),
        ({"color_jitter": -0.1}, "brightness -0.1 gives factors from 1.1 to 0.9"),
        ({"color_jitter": (0.1, 0.1, 0.1, 0.6)}, r"hue 0.6 gives factors from -0.6 to 0.6.*\(-0.5, 0.5\)"),
        ({"auto_augment": "rand-m9-x1"}, "unknown option 'x'"),
        ({"re_prob": 1.5}, "random erasing's probability"),
        ({"re_prob": 0.1, "re_mode": "noise"}, "random erasing's mode is one of const, rand, pixel, not 'noise'"),
        ({"re_prob": 0.1, "re_count": 0}, "random erasing's min_count and max_count are above 0 and rise, not 1, 0"),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        training_transform(preprocessing_of(3), **options)
