"""``align_data``: equal pipelines are aligned, and each way of preparing images otherwise is found and named."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image, ImageOps

from alignment import align_data
from alignment.drawn_images import drawn_files
from alignment.engine.pixels.images import WHOLE
from alignment.engine.pixels.pixel_causes import explain_pixels
from alignment.engine.pixels.recipe import CROP, DECODE, NORMALISE, Recipe
from alignment.engine.pixels.recipe_causes import variations
from alignment.engine.pixels.sample_lists import compare_lists

MEAN, STD = np.float32((0.485, 0.456, 0.406)), np.float32((0.229, 0.224, 0.225))

# --- pipelines that are not ours, and their faults --------------------------------------------------------------------


def opened(data, **_):
    return Image.open(io.BytesIO(data)).convert("RGB")


def turned(data):
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


def swapped(data):
    return Image.fromarray(np.ascontiguousarray(np.asarray(opened(data))[..., ::-1]))


def on_white(data):
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def averaged(data):
    grey = np.asarray(opened(data), float).mean(-1).round().astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def short_side(image, side=256):
    scale = side / min(image.size)
    return tuple(side if edge == min(image.size) else int(side * edge / min(image.size)) for edge in image.size), scale


def resized(image, side=256, **options):
    return image.resize(short_side(image, side)[0], options.pop("filter", Image.Resampling.BILINEAR), **options)


def squashed(image):
    return image.resize((256, 256), Image.Resampling.BILINEAR)


def as_cv2(image):
    """Bilinear between four pixels in integers of 11 bits, rows first, as cv2's INTER_LINEAR of 8 bits."""
    (width, height), _ = short_side(image)
    pixels = np.asarray(image).astype(np.int64)

    def weights(there, wanted):
        places = ((np.arange(wanted) + 0.5) * there / wanted - 0.5).clip(0, there - 1)
        first = np.floor(places).astype(int)
        return first, np.minimum(first + 1, there - 1), np.rint((places - first) * 2048).astype(np.int64)

    left, right, across = weights(pixels.shape[1], width)
    across = across[:, np.newaxis]
    rows = pixels[:, left] * (2048 - across) + pixels[:, right] * across
    upper, lower, down = weights(pixels.shape[0], height)
    down = down[:, np.newaxis, np.newaxis]
    mixed = ((rows[upper] >> 4) * (2048 - down) >> 16) + ((rows[lower] >> 4) * down >> 16)
    return Image.fromarray(((mixed + 2) >> 2).clip(0, 255).astype(np.uint8))


def centre(image, shift=(0, 0)):
    left, top = (round((edge - 224) / 2) + step for edge, step in zip(image.size, shift[::-1]))
    return np.asarray(image.crop((left, top, left + 224, top + 224)))


def normalised(pixels, mean=MEAN, std=STD, levels=255):
    return ((pixels.astype(np.float32) / np.float32(levels) - mean) / std).transpose(2, 0, 1)


def pipeline(decode=opened, resize=resized, crop=centre, normalise=normalised):
    """Bytes -> what each stage makes of them."""

    def run(data):
        image = decode(data)
        cropped = crop(resize(image))
        return {DECODE: np.asarray(image), CROP: cropped, NORMALISE: normalise(cropped)}

    return run


def alone(made, stage):
    """A pipeline that only shows its last stage."""
    return lambda data: made(data)[stage]


HALF = np.float32((0.5, 0.5, 0.5))
# fault -> what is done otherwise, the stage that is at fault, the samples that show it first, and what must be said
FAULTS = {
    "BGR": (dict(decode=swapped), DECODE, "colours.jpg", r"channels swapped \(BGR\)"),
    "EXIF": (dict(decode=turned), DECODE, "turned_by_exif.jpg", "EXIF orientation applied"),
    "alpha on white": (dict(decode=on_white), DECODE, "alpha.png", "transparency laid on white"),
    "grey weights": (dict(decode=averaged), DECODE, "colours.jpg", "grey by average weights"),
    "bicubic": (
        dict(resize=partial(resized, filter=Image.Resampling.BICUBIC)),
        CROP,
        "colours.jpg",
        "resized with bicubic instead of bilinear",
    ),
    "reducing gap": (dict(resize=partial(resized, reducing_gap=2.0)), CROP, "large.jpg", "reducing_gap=2.0"),
    "cv2": (dict(resize=as_cv2), CROP, "colours.jpg", "nearest to: antialias off / cv2 bilinear"),
    "squash": (dict(resize=squashed), CROP, "colours.jpg", "squashed instead of the ratio kept"),
    "shift": (dict(crop=partial(centre, shift=(0, 1))), CROP, "colours.jpg", r"crop shifted by \(0, 1\) pixels"),
    "far shift": (dict(crop=partial(centre, shift=(-5, 3))), CROP, "colours.jpg", r"crop shifted by \(-5, 3\) pixels"),
    "crop_pct": (dict(resize=partial(resized, side=224)), CROP, "colours.jpg", "crop_pct 1 instead of 0.875"),
    "mean and std": (
        dict(normalise=partial(normalised, mean=HALF, std=HALF)),
        NORMALISE,
        "colours.jpg",
        "mean and std of another model: Inception's",
    ),
    "unscaled": (dict(normalise=partial(normalised, levels=1)), NORMALISE, "colours.jpg", "not scaled to"),
    "256 levels": (
        dict(normalise=partial(normalised, levels=256)),
        NORMALISE,
        "colours.jpg",
        r"the scale, of another model: each channel times 0\.99609",
    ),
}
CASES = [pytest.param(fault, marks=pytest.mark.slow) if fault == "cv2" else fault for fault in FAULTS]
UNNAMED = {"far shift", "256 levels"}  # found in the pixels, which do not tell the stage


@pytest.fixture(scope="module")
def files():
    chosen = ("colours.jpg", "turned_by_exif.jpg", "alpha.png", "large.jpg", "portrait.jpg")
    return {name: data for name, data in drawn_files().items() if name in chosen}


def test_the_same_pipeline_is_aligned(files):
    result = align_data(pipeline(), pipeline(), files)
    assert result.passed
    assert [(row.layer, row.kind, row.max_abs) for row in result.rows] == [
        (DECODE, "uint8", 0.0),
        (CROP, "uint8", 0.0),
        (NORMALISE, "float32", 0.0),
    ]


@pytest.mark.parametrize("fault", CASES)
def test_a_fault_is_found_in_its_stage_and_named(fault, files):
    changes, stage, sample, words = FAULTS[fault]
    result = align_data(pipeline(), pipeline(**changes), files, recipe=Recipe())
    assert not result.passed
    assert result.first_divergence == stage
    [found] = result.culprits
    assert found.layer == f"{stage} of {sample}"
    assert re.search(words, found.cause), found.cause


@pytest.mark.parametrize("fault", CASES)
def test_a_fault_is_named_where_only_the_models_input_is_seen(fault, files):
    """Without a recipe: that of the reference is found out."""
    changes, stage, sample, words = FAULTS[fault]
    result = align_data(alone(pipeline(), NORMALISE), alone(pipeline(**changes), NORMALISE), files)
    [found] = result.culprits
    assert found.layer == f"{WHOLE if fault in UNNAMED else stage} of {sample}"
    assert re.search(words, found.cause), found.cause


def test_two_faults_are_named_together(files):
    changes = FAULTS["BGR"][0] | FAULTS["mean and std"][0]
    result = align_data(alone(pipeline(), NORMALISE), alone(pipeline(**changes), NORMALISE), files)
    assert result.culprits[0].cause == "channels swapped (BGR); and mean and std of another model: Inception's"


@pytest.mark.slow
def test_two_faults_are_named_together_where_one_is_only_near(files):
    changes = {"decode": swapped, "resize": as_cv2}
    result = align_data(alone(pipeline(), NORMALISE), alone(pipeline(**changes), NORMALISE), files)
    [found] = result.culprits
    assert found.cause.startswith("nearest to: channels swapped (BGR); and antialias off / cv2 bilinear (leaves ")


def test_noise_has_no_cause_that_is_made_up(files):
    def noisy(data):
        made = pipeline()(data)
        noise = np.random.default_rng(0).integers(0, 2, made[CROP].shape, np.uint8)
        return made | {CROP: made[CROP] ^ noise}

    result = align_data(pipeline(), noisy, files, recipe=Recipe())
    cause = result.culprits[0].cause
    assert cause.startswith("resized with another library: differs in 50% of the elements by at most 1")


def test_a_row_counts_what_differs(files):
    def one_wrong(data):
        made = pipeline()(data)
        wrong = made[CROP].copy()
        wrong[3, 4, 1] ^= 7
        return made | {CROP: wrong}

    rows = {row.layer: row for row in align_data(pipeline(), one_wrong, files).rows}
    assert rows[CROP].note.startswith(f"5 of {5 * 224 * 224 * 3:,} elements, by at most ")
    assert rows[DECODE].aligned and rows[NORMALISE].aligned


def test_another_shape_or_type_is_a_difference(files):
    larger = align_data(alone(pipeline(), CROP), lambda data: np.zeros((225, 224, 3), np.uint8), files)
    assert not larger.passed and "shape 225x224x3 instead of 224x224x3" in larger.culprits[0].cause
    floats = align_data(alone(pipeline(), CROP), lambda data: pipeline()(data)[CROP].astype(np.float32), files)
    assert not floats.passed and "float32 instead of uint8" in floats.culprits[0].cause


def test_other_stages_are_refused(files):
    with pytest.raises(ValueError, match=r"the reference has the stages \['input'\], the port \['decode'"):
        align_data(alone(pipeline(), CROP), pipeline(), files)


def test_a_tolerance_is_for_floats_alone(files):
    def nearly(data):
        made = pipeline()(data)
        return made | {NORMALISE: made[NORMALISE] * np.float32(1 + 1e-6)}

    assert not align_data(pipeline(), nearly, files).passed
    assert align_data(pipeline(), nearly, files, tolerance=1e-5).passed
    assert not align_data(pipeline(), pipeline(**FAULTS["cv2"][0]), files, tolerance=1.0).passed


def test_nothing_compared_is_no_success():
    assert not align_data(pipeline(), pipeline(), {}).passed


@pytest.mark.parametrize("channels", [1, 3])
def test_every_variation_is_another_recipe_in_other_words(channels):
    recipe = Recipe(channels=channels, mean=(0.5,) * channels, std=(0.3,) * channels)
    causes = [each.cause for each in variations(recipe)]
    assert len(set(causes)) == len(causes)
    assert all(replace(recipe, **each.changes) != recipe for each in variations(recipe))


PIXELS = np.random.default_rng(0).integers(0, 256, (12, 12, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda image: image.transpose(2, 0, 1), "channels first instead of last"),
        (lambda image: image[..., [2, 1, 0]], "channels swapped (BGR)"),
        (lambda image: image[..., [1, 2, 0]], "channels in the order (1, 2, 0)"),
        (lambda image: image[:, ::-1], "mirrored left to right"),
        (lambda image: image[::-1], "upside down"),
        (lambda image: image.transpose(1, 0, 2), "height and width swapped"),
        (lambda image: np.rot90(image, -1), "turned by 90 degrees to the right"),
        (lambda image: np.roll(image, (-1, 2), (0, 1)), "crop shifted by (1, -2) pixels (down, right)"),
        (lambda image: image.astype(np.float32), "float32 instead of uint8, the values are the same"),
        (lambda image: image ^ 1, ""),
    ],
)
def test_what_was_done_to_pixels_is_said(change, words):
    assert explain_pixels(PIXELS, change(PIXELS)) == words


# --- lists of samples -------------------------------------------------------------------------------------------------

LISTED = [("9/a.jpg", 0), ("9/b.jpg", 0), ("10/a.jpg", 1), ("b/a.jpg", 2)]
LISTS = {
    "order of letters": ([("10/a.jpg", 0), ("9/a.jpg", 1), ("9/b.jpg", 1), ("b/a.jpg", 2)], "that of the letters"),
    "other order": (LISTED[::-1], "the same samples in another order"),
    "one missing": (LISTED[:-1], "1 samples missing, 0 that the reference has not, such as b/a.jpg"),
    "one more": ([*LISTED, ("b/c.jpg", 2)], "0 samples missing, 1 that the reference has not, such as b/c.jpg"),
    "one twice": ([*LISTED, LISTED[-1]], "5 samples instead of 4"),
    "one label": ([("9/a.jpg", 2), *LISTED[1:]], "1 samples with another label"),
}


def test_a_folder_within_a_class_folder_is_said():
    reference = [("a/a.jpg", 0), ("a/inner/a.jpg", 1)]
    _, found = compare_lists(reference, [("a/a.jpg", 0), ("a/inner/a.jpg", 0)])
    assert found.cause.startswith("1 samples with another label (in folders within class folders")


def test_the_same_list_is_aligned():
    row, found = compare_lists(LISTED, list(LISTED))
    assert row.aligned and found is None


@pytest.mark.parametrize("fault", LISTS)
def test_another_list_is_found_and_said(fault):
    port, words = LISTS[fault]
    row, found = compare_lists(LISTED, port)
    assert not row.aligned
    assert words in found.cause
