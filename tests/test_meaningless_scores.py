"""Scores that any model reaches are named or refused: top-5 of five classes, anything of one; numbers that vanish."""

import json
import warnings

import numpy as np
import pytest
from small_models import save_small

pytest.importorskip("yaml")

from small_runs import make_images, small_config

from paddle_dla import create_model, evaluate, predict, weight_files
from paddle_dla.config import ConfigError
from paddle_dla.metrics import certain
from paddle_dla.ranks import Ranks
from paddle_dla.storage.manifest import FORMAT, describe
from paddle_dla.training.errors import TrainingError
from paddle_dla.training.start import train
from paddle_dla.training.stopping import StopRequest

TINY = np.finfo(np.float32).tiny


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"))


def save_head(path, classes):
    """A seeded model of so many classes."""
    arrays = {
        name: tensor.numpy() for name, tensor in create_model("dla46x_c", num_classes=classes).state_dict().items()
    }
    tensors = {name: describe(array) for name, array in arrays.items()}
    weight_files.save(path, arrays, {"format": FORMAT, "model": "dla46x_c", "num_classes": classes, "tensors": tensors})
    return str(path)


@pytest.mark.parametrize(("classes", "notes"), [(4, 1), (5, 1), (6, 0), (1000, 0)])
def test_a_score_that_any_model_reaches_is_named(classes, notes):
    assert len(certain(classes, (1, 5))) == notes


def test_evaluate_says_that_top5_of_four_classes_says_nothing(tmp_path, images, capsys):
    weights = save_head(tmp_path / "four.pdparams", 4)
    words = ["--data", f"{images}/val", "--workers", "0", "--input-size", "32", "--json", f"{tmp_path}/r.json"]
    assert evaluate.main(["--checkpoint", weights, *words]) == 0
    assert "top-5 says nothing" in capsys.readouterr().out
    assert any("top-5 says nothing" in note for note in json.loads((tmp_path / "r.json").read_text())["notes"])


def test_one_class_is_refused_by_whoever_would_print_its_score(tmp_path, images, capsys):
    weights = save_head(tmp_path / "one.pdparams", 1)
    listed = tmp_path / "list.txt"
    listed.write_text(f"{images}/val/class0/0.png 0\n")
    assert evaluate.main(["--checkpoint", weights, "--data", str(listed), "--workers", "0"]) == 1
    assert predict.main([f"{images}/val/class0/0.png", "--checkpoint", weights]) == 1
    assert capsys.readouterr().err.count("one class") == 2


def test_a_choice_of_one_class_is_refused(tmp_path, images, capsys):
    save_small(tmp_path / "m.pdparams")
    (tmp_path / "list.txt").write_text(f"{images}/val/class0/0.png 0\n")
    (tmp_path / "valid.txt").write_text("3\n")
    words = ["--data", f"{tmp_path}/list.txt", "--valid-labels", f"{tmp_path}/valid.txt", "--workers", "0"]
    assert evaluate.main(["--checkpoint", f"{tmp_path}/m.pdparams", *words]) == 1
    assert "one class" in capsys.readouterr().err


@pytest.mark.parametrize("overrides", [("train.eval_metric=top5",), ("train.eval_metric=top5", "evaluate.topk=[5]")])
def test_top5_of_four_classes_makes_no_checkpoint_the_best(tmp_path, images, overrides):
    with pytest.raises(TrainingError, match="top5"):
        train(small_config(images, tmp_path / "run", *overrides), Ranks(), StopRequest())
    assert not (tmp_path / "run").exists()


def test_one_class_is_not_trained_on(tmp_path):
    images = make_images(tmp_path / "images")
    for split in ("train", "val"):
        for label in (1, 2, 3):
            (images / split / f"class{label}").rename(tmp_path / f"{split}{label}")
    mixing = ("mixing.mixup_alpha=0", "mixing.cutmix_alpha=0", "model.num_classes=1")
    with pytest.raises(TrainingError, match="one class"):
        train(small_config(images, tmp_path / "run", *mixing), Ranks(), StopRequest())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["optimizer.clip_grad", "optimizer.lr", "optimizer.weight_decay", "loss.smoothing"])
@pytest.mark.parametrize("value", ["1e-300", "1e-40", "5e-324"])
def test_a_setting_that_float32_takes_for_0_is_refused(tmp_path, option, value):
    with pytest.raises(ConfigError, match="float32"):
        small_config(tmp_path, tmp_path / "run", f"{option}={value}")


@pytest.mark.parametrize(
    ("value", "others", "named"), [(1e-40, 0, True), (1e-40, 1, False), (0, 0, False), (TINY, 0, False)]
)
def test_weights_that_an_engine_may_take_for_0_are_named(value, others, named):
    weight = np.full((2, 3), value, np.float32)
    weight[0, 0] = others or value
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        weight_files.check_fit({"fc.weight": weight}, {"fc.weight": (2, 3)}, "x.pdparams")
    assert [("fc.weight" in str(item.message)) for item in caught] == ([True] if named else [])
