"""The picture of a batch shows exactly what the model is given."""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from pictures import photo, write_tree
from PIL import Image
from small_runs import make_images, small_config, write_config

from paddle_dla.data.batch import Batch
from paddle_dla.data.crop import EvalTransform
from paddle_dla.data.decoding import decode
from paddle_dla.data.folder import open_folder
from paddle_dla.data.normalise import Normalise
from paddle_dla.data.picture import GAP, LINE, _font, fitted, grid
from paddle_dla.look_at_data import (
    caption,
    chosen_samples,
    fed_as_told,
    fed_in_training,
    look,
    main,
    model_preprocessing,
    parser,
)
from paddle_dla.models.pretrained import PRETRAINED
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.ranks import Ranks
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.manifest import describe, write_with_manifest
from paddle_dla.training.start import train
from paddle_dla.training.step import TrainStep
from paddle_dla.training.stopping import StopRequest

SIDE = 128  # large enough not to be enlarged


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path / "tree", {"cat": 3, "dog": 2}, lambda k: photo(k, (150, 140), "PNG"))


def looked(tree, *options):
    output = tree.parent / "batch.png"
    assert main(["--data", str(tree), "--input-size", str(SIDE), "--output", str(output), *options]) == 0
    with Image.open(output) as picture:
        return np.asarray(picture)


def cell(picture, row, column):
    top, left = GAP + row * (SIDE + GAP + 2 * LINE), GAP + column * (SIDE + GAP)
    return picture[top : top + SIDE, left : left + SIDE]


def test_each_cell_is_the_models_input_to_the_bit(tree):
    picture = looked(tree, "--columns", "2")
    crop = EvalTransform(Preprocessing((3, SIDE, SIDE)))
    source = open_folder(tree)
    assert picture.shape[0] == GAP + 3 * (SIDE + GAP + 2 * LINE)
    for place in range(5):
        np.testing.assert_array_equal(cell(picture, *divmod(place, 2)), crop(decode(source.read(place))))


def test_captions_are_drawn_below_each_image(tree):
    picture = looked(tree, "--columns", "5")
    below = picture[GAP + SIDE + 1 :]
    for column in range(5):
        left = GAP + column * (SIDE + GAP)
        lines = below[: 2 * LINE, left : left + SIDE].reshape(2, LINE, SIDE, 3)
        assert all((line < 128).any() for line in lines)
    assert (below[2 * LINE :] == 255).all()


def test_samples_are_the_first_or_drawn_with_a_seed(tree):
    assert chosen_samples(5, 3, None).tolist() == [0, 1, 2]
    assert chosen_samples(5, 9, None).tolist() == [0, 1, 2, 3, 4]
    drawn = chosen_samples(1000, 5, 0)
    assert drawn.tolist() == chosen_samples(1000, 5, 0).tolist() != chosen_samples(1000, 5, 1).tolist()


def test_training_shows_images_of_more_than_one_class(tmp_path):
    # a folder's first images are all of one class
    tree = write_tree(tmp_path / "tree", {"cat": 20, "dog": 20}, lambda k: photo(k, (40, 40), "PNG"))
    given = ["--data", str(tree), "--output", "unused.png", "--input-size", "32", "--images", "8"]
    shown = [fed_as_told(parser().parse_args([*given, *more])) for more in (["--train"], [])]
    labels = [{label for batch in feed.loader for label in batch.labels.tolist()} for feed in shown]
    assert labels == [{0, 1}, {0}]


TRAINING = {
    "crops": [],
    "a policy": ["--auto-augment", "rand-m9-mstd0.5-inc1"],
    "erasing": ["--re-prob", "1"],
    "mixup": ["--mixup", "1"],
    "cutmix": ["--cutmix", "1"],
}


@pytest.mark.parametrize("options", TRAINING.values(), ids=TRAINING)
def test_training_is_looked_at_through_all_its_transforms(tree, options):
    evaluated, plain = looked(tree), looked(tree, "--train")
    shown = looked(tree, "--train", *options)
    assert shown.shape == evaluated.shape
    assert (cell(shown, 0, 0) != cell(evaluated, 0, 0)).any()
    assert (cell(shown, 0, 0) != cell(plain, 0, 0)).any() or not options
    np.testing.assert_array_equal(shown, looked(tree, "--train", *options, "--seed", "0"))
    assert (shown != looked(tree, "--train", *options, "--seed", "1")).any()


# --- what a config feeds ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def config_file(tmp_path, images):
    return str(write_config(tmp_path, images))


class Enough(BaseException):
    """Ends a training at once."""


def first_of_training(images, folder, overrides):
    """The batch that the first step of a real training is given."""
    taken = []

    def accumulate(step, batch, *others):
        taken.append(Batch(*(array.copy() for array in (batch.images, batch.labels, batch.indices))))
        raise Enough

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Enough):
        patch.setattr(TrainStep, "accumulate", accumulate)
        train(small_config(images, folder / "run", *overrides), Ranks(), StopRequest(), say=lambda line: None)
    return taken[0]


CONFIGS = {
    "mixing and erasing, read by workers": [],
    "a policy, no mixing": ["mixing.mixup_alpha=0", "mixing.cutmix_alpha=0", "transform.train.auto_augment=rand-m9"],
    "repeated augmentation, another seed": ["transform.train.aug_repeats=3", "train.seed=5", "data.workers=0"],
}


@pytest.mark.parametrize("overrides", CONFIGS.values(), ids=CONFIGS)
def test_a_config_shows_the_first_batch_of_its_training_to_the_bit(images, config_file, tmp_path, overrides):
    shown = look(fed_in_training(config_file, overrides), 100).batch
    fed = first_of_training(images, tmp_path, overrides)
    assert len(shown) == 4
    for name in ("images", "labels", "indices"):
        np.testing.assert_array_equal(getattr(shown, name), getattr(fed, name), strict=True)


def test_the_picture_of_a_config_is_drawn_from_that_batch(images, config_file, tmp_path):
    output = tmp_path / "batch.png"
    assert main(["--config", config_file, "-o", "train.seed=3", "--images", "3", "--output", str(output)]) == 0
    fed = first_of_training(images, tmp_path, ["train.seed=3"])
    expected = Normalise(Preprocessing((3, 32, 32))).undo(fed.images)
    with Image.open(output) as picture:
        pixels = np.asarray(picture)
    for place in range(3):  # each pixel is drawn as a block of 4 x 4
        np.testing.assert_array_equal(cell(pixels, *divmod(place, 2))[::4, ::4], expected[place])
    assert (cell(pixels, 1, 1) == 255).all()


@pytest.mark.parametrize("override", ["train.seed=1", "mixing.cutmix_alpha=0", "transform.train.re_prob=0"])
def test_another_config_shows_another_batch(config_file, override):
    shown, other = (look(fed_in_training(config_file, overrides), 4).batch for overrides in ([], [override]))
    assert (shown.images != other.images).any()


def test_looking_leaves_nothing_but_the_picture(config_file, tmp_path):
    before = set(tmp_path.rglob("*"))
    assert main(["--config", config_file, "--output", str(tmp_path / "batch.png")]) == 0
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "batch.png"}


BESIDE = {
    "other data": (["--data", "elsewhere"], "leave out --data"),
    "two that say otherwise": (["--mixup", "1", "--seed", "3"], "leave out --mixup, --seed"),
    "a mistake in the config": (["-o", "train.seeds=1"], "train.seed"),
    "data that are not there": (["-o", "data.train=nowhere"], "nowhere: is not there"),
    "a batch that is too large": (["-o", "data.batch_size=50"], "make the batch smaller"),
}


@pytest.mark.parametrize(("options", "message"), BESIDE.values(), ids=BESIDE)
def test_what_does_not_go_with_a_config_is_told(config_file, tmp_path, capsys, options, message):
    output = tmp_path / "batch.png"
    assert main(["--config", config_file, "--output", str(output), *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert not output.exists()


UNNAMED = [([], "which images?"), (["-o", "train.seed=1"], "-o changes a config")]


@pytest.mark.parametrize(("options", "message"), UNNAMED)
def test_without_a_config_images_are_named(capsys, options, message):
    with pytest.raises(SystemExit) as ended:
        main(options)
    assert ended.value.code == 2 and message in capsys.readouterr().err


# --- captions and cells ----------------------------------------------------------------------------------------------

CAPTIONS = [
    (np.int64(1), ["cat", "hound dog, hound"], "1: hound dog"),
    (np.int64(1), None, "1"),
    (np.int64(7), ["cat"], "7"),
    (np.int64(-1), ["cat"], "no label"),
    (np.float32([0.25, 0, 0.75]), ["a", "b", "c"], "0.75 c, 0.25 a"),
    (np.float32([0, 1, 0]), ["a", "b", "c"], "1.00 b"),
]


@pytest.mark.parametrize(("label", "classes", "expected"), CAPTIONS)
def test_a_caption_tells_the_label(label, classes, expected):
    assert caption(label, classes) == expected


@pytest.mark.parametrize("keep_end", [False, True])
def test_a_caption_is_cut_to_its_image(keep_end):
    font, text = _font(), "abcdefghij" * 20
    cut = fitted(text, 100, font, keep_end)
    assert font.getlength(cut) <= 100 < font.getlength(cut + "ab")
    assert cut == ("..." + text[-len(cut) + 3 :] if keep_end else text[: len(cut) - 3] + "...")
    assert fitted("short", 100, font, keep_end) == "short"


@pytest.mark.parametrize("channels", [1, 3])
def test_small_images_are_enlarged_without_a_change(channels):
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, channels), np.uint8)
    picture = np.asarray(grid(image, [["x"]]))
    shown = picture[GAP : GAP + 128 : 4, GAP : GAP + 128 : 4]
    np.testing.assert_array_equal(shown, np.broadcast_to(image[0], (32, 32, 3)))


def test_a_checkpoint_brings_its_own_preprocessing(tmp_path):
    own = Preprocessing((3, 32, 32), crop_pct=1.0)
    bare, recorded = tmp_path / "bare.pdparams", tmp_path / "recorded.pdparams"
    bare.write_bytes(b"weights")
    tensors = {"fc.bias": describe(np.zeros(1000, np.float32))}
    record = {"format": 1, "model": "dla34", "tensors": tensors, "preprocessing": own.as_dict()}
    write_with_manifest(recorded, {}, record, lambda part, arrays: part.write_bytes(b"weights"))
    assert model_preprocessing(None, str(recorded)) == own
    assert model_preprocessing("dla34", str(bare)) == PRETRAINED["dla34"].preprocessing
    with pytest.raises(CheckpointError, match="name the --model"):
        model_preprocessing(None, str(bare))
    with pytest.raises(CheckpointError, match="there is no such file"):
        model_preprocessing("dla34", str(tmp_path / "nowhere.pdparams"))


WRONG = {
    "no data": (["--data", "nowhere"], "nowhere: is not there"),
    "an unknown model": (["--model", "resnet50"], "resnet50"),
    "no such folder": (["--output", "nowhere/batch.png"], "cannot write nowhere"),
    "training that is not looked at": (["--mixup", "1"], "--train only"),
    "no policy": (["--train", "--auto-augment", "rnd"], "rnd"),
    "no size": (["--input-size", "1", "2", "3"], "--input-size takes"),
}


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_done_is_told(tree, capsys, options, message):
    assert main(["--data", str(tree), "--output", str(tree.parent / "batch.png"), *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert not (tree.parent / "batch.png").exists()


def test_a_corrupt_image_is_named(tree, capsys):
    (tree / "cat/1.png").write_bytes(b"x")
    assert main(["--data", str(tree), "--output", str(tree.parent / "batch.png")]) == 1
    assert "cat/1.png" in capsys.readouterr().err


def test_it_imports_no_framework(tree):
    code = "import sys; sys.modules.update(dict.fromkeys(['paddle', 'torch'])); "
    code += "from paddle_dla.look_at_data import main; sys.exit(main(sys.argv[1:]))"
    arguments = [sys.executable, "-c", code, "--data", tree, "--output", tree.parent / "batch.png"]
    done = subprocess.run(arguments, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
