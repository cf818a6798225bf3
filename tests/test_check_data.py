"""The check of what a model is fed: ours is timm's, and each wrong part of it is found in its own rows."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from odd_images import odd_images
from PIL import Image, ImageOps

from alignment import align_data, check_data, data_comparison, training_transforms
from alignment.command import parser
from alignment.drawn_images import drawing, drawn_files
from alignment.engine.pixels.recipe import CROP, DECODE, NORMALISE, Recipe
from paddle_dla import list_models
from paddle_dla.data import pipeline
from paddle_dla.data.crop import EvalTransform
from paddle_dla.data.erasing import RandomErasing
from paddle_dla.data.loader import Loader
from paddle_dla.data.mixing import Mixup
from paddle_dla.data.normalise import Normalise
from paddle_dla.data.transforms import training_transform
from paddle_dla.options import options_of

SMALL = "dla46x_c"

RECIPES = {
    "dla": Recipe(),
    "bicubic": Recipe((160, 160), 3, 0.95, "bicubic"),
    "not square": Recipe((192, 256)),
    "grey": Recipe((64, 64), 1, 0.9, mean=(0.5,), std=(0.25,)),
    "padded": Recipe((96, 96), crop_pct=1.25),
    "lanczos": Recipe((128, 128), interpolation="lanczos"),
}


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_timms(name):
    """By default, and of every odd image: otherwise hypotheses would be about something else."""
    from torch_ref.data import eval_stages

    recipe = RECIPES[name]
    config = {"input_size": (recipe.channels, *recipe.size)}
    config |= {name: getattr(recipe, name) for name in ("interpolation", "crop_pct", "mean", "std")}

    def stages(data):
        return {stage: recipe.run(data, stage) for stage in (DECODE, CROP, NORMALISE)}

    result = align_data(eval_stages(config), stages, odd_images())
    assert result.passed, result.verdict()


@pytest.mark.torch
@pytest.mark.parametrize("model", list_models())
def test_every_model_has_timms_configuration(model):
    from paddle_dla.models.pretrained import PRETRAINED
    from torch_ref.data import eval_config

    preprocessing = PRETRAINED[model].preprocessing
    assert data_comparison.recipe_of(eval_config(model)) == data_comparison.recipe_of(preprocessing.as_dict())


@pytest.fixture
def few(monkeypatch):
    """Only some of the drawn images and recipes of training."""
    names = ("colours.jpg", "turned_by_exif.jpg", "alpha.png", "thumbnail.jpg")
    chosen = {name: data for name, data in drawn_files().items() if name in names}
    monkeypatch.setattr("alignment.drawn_images.drawn_files", lambda: chosen)
    monkeypatch.setattr(training_transforms, "SEEDS", 2)
    monkeypatch.setattr(training_transforms, "SAMPLE_CASES", {"colour jitter": {"color_jitter": (0.4, 0.4, 0.4, 0.2)}})


def check(*words):
    usage = parser("check_data", "")
    usage.add_argument("--image", nargs="+")
    check_data.add_data(usage)
    options = options_of(check_data.SampleOptions, usage.parse_args(["--model", SMALL, *words]))
    return check_data.check_data(options, lambda line: None)


def red(result):
    return {row.layer for row in result.rows if not row.aligned}


@pytest.mark.torch
@pytest.mark.slow
def test_our_pipeline_feeds_a_model_what_timm_does():
    result = check()
    assert result.passed, result.verdict()
    assert {row.max_abs for row in result.rows} == {0.0}
    layers = {row.layer for row in result.rows}
    assert {"list of samples", DECODE, CROP, NORMALISE, data_comparison.LOADER} < layers
    assert layers > training_transforms.SAMPLE_CASES.keys() | training_transforms.MIXING_CASES.keys()


def wrong_decode(data):
    """Turned as EXIF says."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def wrong_transform(preprocessing):
    return EvalTransform(replace(preprocessing, crop_pct=0.9))


def wrong_normalise(preprocessing):
    return Normalise(replace(preprocessing, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))


PIPELINE_FAULTS = {
    "decode": (wrong_decode, DECODE, "EXIF orientation applied", {DECODE, CROP, NORMALISE}),
    "EvalTransform": (wrong_transform, CROP, "crop_pct 0.9 instead of 0.875", {CROP, NORMALISE}),
    "Normalise": (wrong_normalise, NORMALISE, "mean and std of another model: Inception's", {NORMALISE}),
}


@pytest.mark.torch
@pytest.mark.parametrize("part", PIPELINE_FAULTS)
def test_a_wrong_part_of_our_pipeline_is_found(part, few, monkeypatch):
    wrong, stage, words, rows = PIPELINE_FAULTS[part]
    monkeypatch.setattr(data_comparison, part, wrong)
    result = check()
    assert red(result) == rows
    assert result.culprits[0].layer.startswith(f"{stage} of ")
    assert result.culprits[0].cause == words


TRAINING_FAULTS = {
    "training_transform": (lambda *args, **options: training_transform(*args, **options, hflip=0.4), "colour jitter"),
    "RandomErasing": (lambda **options: RandomErasing(**options, max_area=0.3), "erasing, pixel"),
    "Mixup": (lambda **options: Mixup(**options, correct_lam=False), "cutmix, by pair"),
}


@pytest.mark.torch
@pytest.mark.parametrize("part", TRAINING_FAULTS)
def test_a_wrong_part_of_training_is_found(part, few, monkeypatch):
    wrong, row = TRAINING_FAULTS[part]
    monkeypatch.setattr(training_transforms, part, wrong)
    result = check()
    found = red(result)
    assert row in found
    assert result.culprits[0].layer.startswith(f"{result.first_divergence} of ")
    assert not found & {DECODE, CROP, NORMALISE, data_comparison.LOADER}


class Repeating(Loader):
    """Fills the last batch up with samples from the beginning, as samplers of several ranks do."""

    def __init__(self, *args, order, **options):
        super().__init__(*args, order=[*order, *order[:1]], **options)


class Mislabelled(Loader):
    """Hands on the labels of the neighbours."""

    def __iter__(self):
        for batch in super().__iter__():
            yield replace(batch, labels=np.roll(batch.labels, 1))


@pytest.mark.torch
@pytest.mark.parametrize(
    ("wrong", "words"),
    [(Repeating, "5 samples where 4 were asked for"), (Mislabelled, "(label 2 instead of 0)")],
)
def test_a_loader_that_hands_on_something_else_is_found(wrong, words, few, monkeypatch):
    monkeypatch.setattr(pipeline, "Loader", wrong)
    result = check()
    assert red(result) == {data_comparison.LOADER}
    assert words in result.first_difference.note
    assert not result.passed


@pytest.mark.torch
def test_a_loader_that_crops_otherwise_is_found(few, monkeypatch):
    monkeypatch.setattr(pipeline, "EvalTransform", wrong_transform)
    assert red(check()) == {data_comparison.LOADER}


@pytest.mark.torch
def test_timm_draws_for_itself_again_afterwards():
    import random

    from torch_ref.draws import batch_draws, batch_replacements, sample_draws, sample_replacements

    places = sample_replacements(random.Random(0)) + batch_replacements(np.random.default_rng(0))
    before = [getattr(module, name) for module, name, _ in places]
    with pytest.raises(KeyError), sample_draws(random.Random(0)), batch_draws(np.random.default_rng(0)):
        assert all(getattr(module, name) is not value for (module, name, _), value in zip(places, before))
        raise KeyError
    assert all(getattr(module, name) is value for (module, name, _), value in zip(places, before))


@pytest.mark.parametrize(("there", "wanted", "indices"), [(5, 9, [0, 1, 2, 3, 4]), (9, 3, [0, 4, 8]), (9, 1, [0])])
def test_samples_are_taken_from_all_of_the_data(there, wanted, indices):
    assert data_comparison.spread_over(there, wanted) == indices


# --- command line -----------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    for place, name in enumerate(("10", "9")):
        (tmp_path / "data" / name).mkdir(parents=True)
        drawing(60, 50, place).save(tmp_path / "data" / name / "a.png")
    return tmp_path / "data"


@pytest.mark.torch
def test_a_folder_is_checked_and_reported(tree, few, tmp_path, capsys):
    report = tmp_path / "report.json"
    assert check_data.main(["--model", SMALL, "--data", str(tree), "--json", str(report)]) == 0
    assert f"samples: 2 of 2 of {tree}" in capsys.readouterr().out
    assert json.loads(report.read_text())["passed"]


@pytest.mark.torch
def test_images_have_no_list_to_compare(tree, few):
    result = check("--image", str(tree / "9" / "a.png"))
    assert result.passed
    assert [item.layer for item in result.skipped] == ["list of samples"]


@pytest.mark.torch
def test_a_difference_ends_with_1(tree, few, monkeypatch, capsys):
    monkeypatch.setattr(data_comparison, "Normalise", wrong_normalise)
    assert check_data.main(["--model", SMALL, "--data", str(tree)]) == 1
    assert "computation fault in normalise of 9/a.png: mean and std" in capsys.readouterr().out


@pytest.mark.torch
def test_a_damaged_image_is_named(tree, capsys):
    (tree / "9" / "a.png").write_bytes(b"no image")
    assert check_data.main(["--model", SMALL, "--data", str(tree)]) == 1
    assert "error: 9/a.png: no image of a known format" in capsys.readouterr().err


@pytest.mark.torch
def test_data_that_is_missing_ends_with_1(tmp_path, capsys):
    assert check_data.main(["--model", SMALL, "--data", str(tmp_path / "none")]) == 1
    assert "none: is not there" in capsys.readouterr().err


@pytest.mark.torch
def test_data_that_is_missing_is_a_refusal_among_all_checks(tmp_path):
    from alignment.check_all import AllOptions, Step, check_all

    options = AllOptions(model=SMALL, converted="none.pdparams", data=str(tmp_path / "none"), samples=1)
    step = Step("data", check_data.check_data, check_data.SampleOptions)
    [outcome] = check_all(options, lambda line: None, [step])
    assert not outcome.passed
    assert "none: is not there" in outcome.line()


@pytest.mark.parametrize("wrong", [["--samples", "0"], ["--samples", "x"], ["--model", "dla61"]])
def test_bad_usage_ends_with_2(wrong):
    with pytest.raises(SystemExit) as ended:
        check_data.main(["--model", SMALL, *wrong])
    assert ended.value.code == 2
