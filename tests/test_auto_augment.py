"""Augmentation policies: the same images as timm's for the same random numbers, and strings that are understood."""

import math
import pickle
import random
from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from PIL import Image
from small_images import all_images, in_grey, made_images
from timm_draws import sample_draws

from paddle_dla.data import augment_op, image_ops, trivial_augment
from paddle_dla.data.augment_op import OPERATIONS, AugmentOp, OpSettings
from paddle_dla.data.auto_augment import RandAugment, auto_augment
from paddle_dla.data.policies import AUTO_AUGMENT_POLICIES, RAND_AUGMENT, RAND_AUGMENT_SETS
from paddle_dla.data.trivial_augment import TrivialAugment

SEEDS = range(12)
CONFIGS = (
    *AUTO_AUGMENT_POLICIES,
    *(f"{policy}-mstd0.5" for policy in AUTO_AUGMENT_POLICIES),
    "rand",
    "rand-m9-mstd0.5-inc1",
    "rand-m7-n3-p0.8",
    "rand-m5-inc1-mstd101",
    "rand-m15-mmax20-mstd1-inc0",
    "rand-n1-p1-t3a",
    "rand-n4-mstd0.5-t3aw",
    "rand-m8-n15-p0.9-tweights",
    "augmix",
    "augmix-m5-w4-d2",
    "augmix-m3-a0.5-mstd1",
    "augmix-m4-b1",
)


def import_timm():
    from torch_ref.model import import_timm

    return import_timm()


def timm_transform(config, hparams):
    import_timm()
    from timm.data import auto_augment as theirs

    known = {"rand": theirs.rand_augment_transform, "augmix": theirs.augment_and_mix_transform}
    return known.get(config.split("-")[0], theirs.auto_augment_transform)(config, dict(hparams))


def as_hparams(settings):
    """The settings as timm writes them."""
    named = {"translate_const": settings.translate_const, "translate_pct": settings.translate_pct}
    named |= {"img_mean": settings.fill, "magnitude_std": settings.magnitude_std}
    named |= {"magnitude_max": settings.magnitude_max}
    return named | ({} if settings.interpolation is None else {"interpolation": settings.interpolation})


def differing(ours, theirs, images, seeds, monkeypatch):
    """Where the two transforms, fed the same random numbers, differ in a byte, or leave the generator elsewhere."""
    found = []
    for name, image in images.items():
        for seed in seeds:
            mine, timms = random.Random(seed), random.Random(seed)
            sample_draws(monkeypatch, timms)
            same = ours(image, mine).tobytes() == theirs(image).tobytes()
            if not same or mine.getstate() != timms.getstate():
                found.append((name, seed))
    return found


@pytest.fixture(scope="module")
def images(shared_data):
    return all_images(shared_data)


# ---------------------------------------------------------------------------------------------- the same as timm


@pytest.mark.torch
@pytest.mark.parametrize("std", [0.0, 0.5, math.inf])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_makes_timms_bytes(name, std, images, monkeypatch):
    import_timm()
    from timm.data.auto_augment import AugmentOp as TimmOp

    for magnitude, interpolation in product((0, 3.7, 10), (None, Image.Resampling.NEAREST)):
        settings = OpSettings(100, 0.3, (124, 116, 104), interpolation, std)
        ours = AugmentOp(name, 0.8, magnitude, settings)
        theirs = TimmOp(name, 0.8, magnitude, as_hparams(settings))
        assert differing(ours, theirs, images, range(4), monkeypatch) == []


@pytest.mark.torch
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_makes_timms_bytes_of_one_channel(name, images, monkeypatch):
    import_timm()
    from timm.data.auto_augment import AugmentOp as TimmOp

    settings = OpSettings(fill=(124,))
    ours, theirs = AugmentOp(name, 1.0, 7, settings), TimmOp(name, 1.0, 7, as_hparams(settings))
    assert differing(ours, theirs, in_grey(images), range(4), monkeypatch) == []


@pytest.mark.torch
@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_makes_timms_bytes(config, images, monkeypatch):
    settings = OpSettings(translate_const=100, fill=(124, 116, 104))
    hparams = {"translate_const": 100, "img_mean": (124, 116, 104)}
    assert differing(auto_augment(config, settings), timm_transform(config, hparams), images, SEEDS, monkeypatch) == []


def all_operations(transform):
    """Every operation that may be drawn, with probability, magnitude and its spread; sequence by sequence."""
    sequences = transform.policy if hasattr(transform, "policy") else [transform.ops]

    def row(op):
        spread = op.settings if isinstance(op, AugmentOp) else op
        return (op.name, op.prob, op.magnitude, spread.magnitude_std, spread.magnitude_max)

    return [[row(op) for op in sequence] for sequence in sequences]


@pytest.mark.torch
@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_has_timms_operations(config):
    """All of them, where drawing finds some; with timm's options and weights."""
    ours, theirs = auto_augment(config), timm_transform(config, {"translate_const": 250})
    assert all_operations(ours) == all_operations(theirs)
    for name in ("num_layers", "alpha", "width", "depth", "blended"):
        assert getattr(ours, name, None) == getattr(theirs, name, None)
    weights = getattr(ours, "weights", None)
    shares = None if weights is None else (np.array(weights) / sum(weights)).tolist()
    expected = getattr(theirs, "choice_weights", None)
    assert shares == (None if expected is None else expected.tolist())


@pytest.mark.torch
def test_one_other_number_in_a_table_is_seen(monkeypatch):
    first, *rest = AUTO_AUGMENT_POLICIES["v0"]
    monkeypatch.setitem(AUTO_AUGMENT_POLICIES, "v0", ((first[0], ("ShearY", 0.8, 5)), *rest))
    assert all_operations(auto_augment("v0")) != all_operations(timm_transform("v0", {"translate_const": 250}))


def swap(name, **changes):
    return {name: replace(OPERATIONS[name], **changes)}


FAULTS = {
    "the sign is never drawn": swap("Rotate", level=lambda share, rng, _: share * 30),
    "the sign is drawn the other way": swap(
        "ShearX", level=lambda share, rng, _: share * (-0.3 if rng.random() < 0.5 else 0.3)
    ),
    "strength is reversed": swap("SolarizeIncreasing", level=augment_op._threshold),
    "another posterize": swap("Posterize", level=augment_op._original_bits),
    "up is left": swap("TranslateXRel", apply=image_ops.translate_y_relative),
    "pixels are shares": swap("TranslateYRel", apply=image_ops.translate_y),
    "one step of a factor": swap("Color", level=lambda share, rng, _: share * 1.8 + 0.11),
    "a radius that is not drawn": swap("GaussianBlurRand", level=augment_op._radius),
}


@pytest.mark.torch
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(fault, images, monkeypatch):
    import_timm()
    from timm.data.auto_augment import AugmentOp as TimmOp

    [name] = FAULTS[fault]
    monkeypatch.setitem(OPERATIONS, name, FAULTS[fault][name])
    ours, theirs = AugmentOp(name, 1.0, 7), TimmOp(name, 1.0, 7)
    assert differing(ours, theirs, images, SEEDS, monkeypatch)


class Script(random.Random):
    """Draws whole numbers as it is told."""

    def __init__(self, numbers):
        super().__init__(0)
        self.numbers = list(numbers)

    def randrange(self, count):
        assert self.numbers[0] < count
        return self.numbers.pop(0)


def all_draws(name):
    """Each operation's place, strength and sign, as far as it has them."""
    row = trivial_augment.OPERATIONS[name]
    place = list(trivial_augment.OPERATIONS).index(name)
    strengths = [()] if row.argument is None else [(strength,) for strength in range(31)]
    signs = [(0,), (1,)] if row.signed else [()]
    return [(place, *strength, *sign) for strength in strengths for sign in signs]


def trivially_otherwise(name, images, monkeypatch):
    """Draws and images for which the operation differs from torchvision's in a byte."""
    import_timm()
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.autoaugment import TrivialAugmentWide

    ours = TrivialAugment(Image.Resampling.BILINEAR)
    theirs = TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR)
    found = []
    for numbers in all_draws(name):
        for label, image in images.items():
            mine, torchs = Script(numbers), Script(numbers)
            sample_draws(monkeypatch, torchs)
            same = ours(image, mine).tobytes() == theirs(image).tobytes()
            if not same or mine.numbers or torchs.numbers:
                found.append((numbers, label))
    return found


@pytest.mark.torch
@pytest.mark.parametrize("name", trivial_augment.OPERATIONS)
def test_trivial_augment_makes_torchvisions_bytes(name, images, monkeypatch):
    """At every strength, with either sign."""
    assert trivially_otherwise(name, images, monkeypatch) == []


TRIVIAL_FAULTS = {
    "the other way": ("TranslateX", lambda strength, sign: sign * (32 * strength // 30)),
    "not by way of degrees": ("ShearX", lambda strength, sign: sign * 0.99 * strength / 30),
    "up to 1": ("Brightness", lambda strength, sign: 1 + sign * strength / 30),
    "rounded down": ("Posterize", lambda strength, sign: 8 - 6 * strength // 30),
}


@pytest.mark.torch
@pytest.mark.parametrize("fault", TRIVIAL_FAULTS)
def test_a_fault_of_trivial_augment_is_seen(fault, images, monkeypatch):
    name, argument = TRIVIAL_FAULTS[fault]
    row = replace(trivial_augment.OPERATIONS[name], argument=argument)
    monkeypatch.setitem(trivial_augment.OPERATIONS, name, row)
    assert trivially_otherwise(name, images, monkeypatch)


@pytest.mark.torch
def test_torchs_own_strengths_differ_by_rounding_alone():
    """Why they are not copied: float32, rounded as the processor's vectors have it; 2 units of the last place here."""
    torch = pytest.importorskip("torch")
    for end in (0.99, 32.0, 135.0):
        exact = np.array([end * step / 30 for step in range(31)])
        spacing = np.spacing(np.float32(end))
        assert np.abs(torch.linspace(0.0, end, 31).numpy() - exact).max() <= 2 * spacing


# ---------------------------------------------------------------------------------------------- by themselves


@pytest.mark.parametrize("config", [*CONFIGS, "ta-wide"])
def test_size_mode_and_source_stay(config):
    transform = auto_augment(config)
    for image in made_images().values():
        before = image.tobytes()
        for seed in SEEDS:
            result = transform(image, random.Random(seed))
            assert (result.size, result.mode) == (image.size, image.mode)
        assert image.tobytes() == before


@pytest.mark.parametrize("config", [*CONFIGS, "ta-wide"])
def test_the_generator_alone_decides(config):
    image = made_images()["odd"]
    transform = auto_augment(config)
    copy = pickle.loads(pickle.dumps(transform))  # noqa: S301 - the test's own
    results = [[each(image, random.Random(seed)).tobytes() for seed in range(30)] for each in (transform, copy)]
    assert results[0] == results[1]
    assert len(set(results[0])) > 2


def test_an_operation_is_left_out_as_often_as_asked():
    op, rng = AugmentOp("Invert", 0.3), random.Random(0)
    # 4 standard deviations of 4000 draws with p = 0.3 are 0.029
    assert abs(sum(op.draw(rng) is not None for _ in range(4000)) / 4000 - 0.3) < 0.029


def test_both_filters_are_drawn_where_none_is_set():
    rng = random.Random(0)
    drawn = {AugmentOp("Rotate", 1.0).draw(rng)[1] for _ in range(50)}
    assert drawn == set(augment_op.RANDOM_FILTERS)


def test_weighted_operations_come_once_and_by_their_weight():
    """The second in proportion to what is left, as numpy draws without replacement."""
    shares = {"Invert": 0.6, "Equalize": 0.3, "Rotate": 0.1}
    transform = RandAugment(tuple(AugmentOp(name) for name in shares), 2, tuple(shares.values()))
    rng = random.Random(0)
    pairs = Counter(tuple(op.name for op in transform.draw(rng)) for _ in range(6000))
    expected = {(a, b): p * q / (1 - p) for a, p in shares.items() for b, q in shares.items() if a != b}
    assert pairs.keys() == expected.keys()
    # 4 standard deviations at p = 0.5 are 0.026
    assert all(abs(pairs[pair] / 6000 - share) < 0.026 for pair, share in expected.items())


def test_the_weights_of_chains_are_dirichlet_distributed():
    """By mean 1/3 and variance (1/3)(2/3) / (3 alpha + 1), the moments of Dirichlet(alpha, alpha, alpha)."""
    transform, rng = auto_augment("augmix-a0.5"), random.Random(0)
    weights = np.array([transform._draw_weights(rng) for _ in range(4000)], np.float64)
    # a sum of three float32 values below 1, each rounded once
    assert np.abs(weights.sum(1) - 1).max() <= 3 * 2**-24
    # 4 standard deviations: 0.3 / sqrt(4000) of the mean, and no more of the variance, squares being below 1
    assert np.abs(weights.mean(0) - 1 / 3).max() < 0.019
    assert np.abs(weights.var(0) - 2 / 9 / 2.5).max() < 0.019


@pytest.mark.parametrize("config", [*CONFIGS, "ta-wide"])
def test_no_other_generator_is_touched(config):
    before = random.getstate(), np.random.get_state()[1].tolist()
    for seed in SEEDS:
        auto_augment(config)(made_images()["odd"], random.Random(seed))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


def test_unweighted_operations_are_alike():
    rng = random.Random(0)
    drawn = Counter(op.name for _ in range(3000) for op in auto_augment("rand").draw(rng))
    assert drawn.keys() == set(RAND_AUGMENT)
    # 4 standard deviations of 6000 draws at p = 1/15 are 0.013
    assert all(abs(count / 6000 - 1 / 15) < 0.013 for count in drawn.values())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("random-m9", "unknown scheme 'random'; known are original, originalr, v0, v0r, 3a, rand, augmix, ta-wide"),
        ("", "unknown scheme ''"),
        ("ta", "unknown scheme 'ta'"),
        ("rand-m9-x5", "section 'x5': unknown option 'x'; known here are m, n, p, mstd, mmax, inc, t"),
        ("rand-w0", "section 'w0': unknown option 'w'"),
        ("rand-m9-inc", "section 'inc': 'inc' takes 0 or 1, not ''"),
        ("rand-m9.5", "section 'm9.5': 'm' takes a whole number, not '9.5'"),
        ("rand-n0", "section 'n0': 'n' takes a whole number above 0, not '0'"),
        ("rand-p1.5", "section 'p1.5': 'p' takes a number within [0, 1], not '1.5'"),
        ("rand-m9-m10", "section 'm10': 'm' is given twice"),
        ("rand-tmine", "section 'tmine': 't' takes one of 3a, 3aw, weights, not 'mine'"),
        ("rand--m9", "section '': unknown option ''"),
        ("rand-n16-tweights", "16 of 15 weighted operations cannot be drawn"),
        ("original-m9", "section 'm9': unknown option 'm'; known here are mstd"),
        ("augmix-t3a", "section 't3a': unknown option 't'"),
        ("augmix-a0.0", "section 'a0.0': 'a' takes a number above 0, not '0.0'"),
        ("ta-wide-m9", "unknown scheme 'ta'"),
    ],
)
def test_a_wrong_string_names_the_wrong_part(config, message):
    with pytest.raises(ValueError) as error:
        auto_augment(config)
    assert message in str(error.value)


def test_a_filter_that_cannot_warp_is_refused():
    with pytest.raises(ValueError, match="with nearest, bilinear, bicubic, not with lanczos"):
        OpSettings(interpolation=Image.Resampling.LANCZOS)


def test_an_unknown_operation_is_refused():
    with pytest.raises(ValueError, match=r"unknown operation 'Cutout'; known are AutoContrast"):
        AugmentOp("Cutout")


def test_every_named_set_holds_known_operations():
    assert {name for names in RAND_AUGMENT_SETS.values() for name in names} <= OPERATIONS.keys()


def test_a_policy_that_keeps_no_bit_gives_black():
    """``ImageOps.posterize`` refuses 0 bits from Pillow 13 on; timm's ``v0`` and ``inc1`` ask for it."""
    image = made_images()["odd"]
    assert AugmentOp("PosterizeIncreasing", 1.0, 10)(image, random.Random(0)).getextrema() == ((0, 0),) * 3
