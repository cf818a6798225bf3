"""Random erasing: timm's values for the same random numbers, and rectangles as they were asked for."""

import numpy as np
import pytest
from timm_draws import batch_draws

from paddle_dla.data.batch import Batch
from paddle_dla.data.erasing import RandomErasing

SEEDS = range(15)

ERASING = {
    "timm's defaults": {},
    "random colours": {"mode": "rand", "probability": 0.8},
    "random pixels": {"mode": "pixel", "probability": 1.0},
    "up to three": {"mode": "pixel", "max_count": 3},
    "always two": {"mode": "rand", "min_count": 2},
    "large and flat": {"min_area": 0.3, "max_area": 0.9, "min_aspect": 0.1, "max_aspect": 0.4, "mode": "pixel"},
}


def normalised(shape=(6, 3, 33, 20), seed=0):
    images = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return Batch(images, np.arange(len(images)), np.arange(len(images)))


def erased(batch, rng, **options):
    """The images erased; those of ``batch`` stay."""
    return RandomErasing(**options)(Batch(batch.images.copy(), batch.labels, batch.indices), rng, 0).images


def erased_otherwise(ours, theirs, shape, monkeypatch):
    """Seeds for which the two, fed the same random numbers, differ at all or leave the generator elsewhere."""
    from torch_ref.model import import_timm

    import_timm()
    import torch
    from timm.data.random_erasing import RandomErasing as TimmErasing

    reference, found = TimmErasing(**theirs, device="cpu"), []
    for seed in SEEDS:
        mine, timms = np.random.default_rng(seed), np.random.default_rng(seed)
        batch_draws(monkeypatch, timms)
        batch = normalised(shape)
        expected = reference(torch.from_numpy(batch.images.copy())).numpy()
        same = np.array_equal(erased(batch, mine, **ours), expected)
        if not same or mine.bit_generator.state != timms.bit_generator.state:
            found.append(seed)
    return found


@pytest.mark.torch
@pytest.mark.parametrize("shape", [(6, 3, 33, 20), (4, 1, 5, 7), (2, 3, 1, 1)])
@pytest.mark.parametrize("options", ERASING.values(), ids=ERASING)
def test_erasing_makes_timms_values(options, shape, monkeypatch):
    assert erased_otherwise(options, options, shape, monkeypatch) == []


@pytest.mark.torch
@pytest.mark.parametrize(
    "changes", [{"max_area": 0.34}, {"min_aspect": 0.31}, {"mode": "rand"}, {"probability": 0.6}, {"max_count": 2}]
)
def test_erasing_with_another_option_is_seen(changes, monkeypatch):
    assert erased_otherwise(changes, {}, (6, 3, 33, 20), monkeypatch)


# ---------------------------------------------------------------------------------------------- by themselves


def test_erasing_is_done_in_place():
    """A batch of ImageNet is large: it is not copied."""
    batch = normalised()
    after = RandomErasing(1.0)(batch, np.random.default_rng(0), 0)
    assert after.images is batch.images
    assert not np.array_equal(after.images, normalised().images)


def test_erasing_hits_as_many_images_as_asked():
    rng = np.random.default_rng(0)
    batch = normalised((1000, 1, 8, 8))
    hit = (erased(batch, rng, probability=0.3) != batch.images).any((1, 2, 3))
    # 4 standard deviations of 1000 draws with p = 0.3 are 0.058
    assert abs(hit.mean() - 0.3) < 0.058


def test_erased_areas_are_as_asked():
    batch = normalised((300, 1, 100, 100))
    images = erased(batch, np.random.default_rng(0), probability=1.0, min_area=0.1, max_area=0.2)
    areas = (images == 0).mean((1, 2, 3))
    # sides of up to 100 pixels are rounded: half a pixel on either is 0.005 of the image
    assert areas.min() >= 0.1 - 0.005 and areas.max() <= 0.2 + 0.005


@pytest.mark.parametrize(("mode", "values"), [("const", 1), ("rand", 1), ("pixel", None)])
def test_modes_fill_as_they_say(mode, values):
    """One value for each channel of a rectangle, or one for each pixel."""
    batch = normalised((20, 3, 40, 40))
    images = erased(batch, np.random.default_rng(0), probability=1.0, mode=mode)
    for before, after in zip(batch.images, images):
        changed = before != after
        assert np.array_equal(changed[0], changed[1]) and np.array_equal(changed[0], changed[2])
        found = len(np.unique(after[0][changed[0]]))
        assert found == (values or changed[0].sum())


@pytest.mark.parametrize(
    "options", [{"min_area": 0.5, "max_area": 0.1}, {"min_aspect": 2.0}, {"min_aspect": 0.0}, {"min_count": 0}]
)
def test_wrong_rectangles_are_refused(options):
    with pytest.raises(ValueError, match="random erasing's"):
        RandomErasing(**options)


def test_erasing_refuses_images_that_are_not_normalised():
    batch = Batch(np.zeros((2, 8, 8, 3), np.uint8), np.arange(2), np.arange(2))
    with pytest.raises(ValueError, match=r"float32 images \(B, C, H, W\), not uint8 of shape \(2, 8, 8, 3\)"):
        RandomErasing(1.0)(batch, np.random.default_rng(0), 0)
