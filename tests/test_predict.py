"""Prediction, montage, features and facts: what a user asks of a model without a labelled data set."""

import csv
import functools
import json

import numpy as np
import paddle
import pytest
from odd_images import drawing, encode
from pictures import write_tree
from PIL import Image
from small_models import CLASSES, SIZE, save_small, small_model

from paddle_dla import features, info, predict
from paddle_dla.data.class_names import imagenet_class_names, read_class_names
from paddle_dla.data.crop import EvalTransform
from paddle_dla.data.decoding import decode
from paddle_dla.data.errors import DataError
from paddle_dla.data.image_files import open_images
from paddle_dla.data.normalise import Normalise
from paddle_dla.models.pretrained import PRETRAINED
from paddle_dla.models.variants import VARIANTS
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.progress import Progress

MODEL = "dla46x_c"
NAMES = [f"class {label}, also {label}" for label in range(CLASSES)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_small(tmp_path_factory.mktemp("weights") / "small.pdparams", MODEL)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos" / "more"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.png").write_bytes(encode(drawing(50 + number, 40, number), "PNG"))
    (folder / "notes.txt").write_text("no image")
    return folder.parent


def batch_of(files):
    transform, normalise = EvalTransform(Preprocessing(SIZE, 1.0)), Normalise(Preprocessing(SIZE, 1.0))
    return paddle.to_tensor(np.concatenate([normalise(transform(decode(f.read_bytes()))[None]) for f in files]))


@pytest.fixture
def probabilities(photos):
    with paddle.no_grad():
        logits = small_model(MODEL)(batch_of(sorted(photos.rglob("*.png")))).numpy().astype(np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def test_of_images_without_labels_no_score_and_no_loss_is_shown(weights, photos, capsys, monkeypatch):
    monkeypatch.setattr(predict, "MANY", 1)
    monkeypatch.setattr(predict, "Progress", functools.partial(Progress, interval=1))
    assert run(predict.main, weights, photos) == 0
    printed = capsys.readouterr()
    assert "images/sec" in printed.err
    assert not any(word in printed.out + printed.err for word in ("loss", "top1"))


def run(main, weights, *arguments):
    return main([str(argument) for argument in (*arguments, "--checkpoint", weights, "--threads", 1)])


def test_json_names_the_likeliest_classes(weights, photos, probabilities, tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    target = tmp_path / "out.json"
    options = ("--format", "json", "--output", target, "--classes", tmp_path / "names.txt", "--topk", 3)
    assert run(predict.main, weights, photos, *options) == 0
    found = json.loads(target.read_text())
    assert [record["image"].rsplit("/", 1)[1] for record in found] == ["0.png", "1.png", "2.png"]
    for record, expected in zip(found, probabilities):
        ranked = np.argsort(-expected)[:3]
        assert [entry["label"] for entry in record["classes"]] == ranked.tolist()
        assert [entry["name"] for entry in record["classes"]] == [NAMES[label] for label in ranked]
        # written with six decimals; float32 logits are good for five
        assert np.allclose([entry["probability"] for entry in record["classes"]], expected[ranked], atol=1e-5)


def test_a_table_and_csv_say_the_same(weights, photos, capsys):
    assert run(predict.main, weights, photos) == 0
    table = capsys.readouterr().out.splitlines()
    assert run(predict.main, weights, photos, "--format", "csv") == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [line for line in table if not line.startswith(" ")] == [rows[i]["image"] for i in (0, 5, 10)]
    labels = [line.split("%")[1].split()[0] for line in table if line.startswith(" ")]
    assert labels == [row["label"] for row in rows]


@pytest.mark.parametrize("named", ["folder", "pattern", "files"])
def test_images_are_named_in_three_ways(named, photos):
    files = sorted(photos.rglob("*.png"))
    paths = {"folder": [photos], "pattern": [photos / "**" / "*"], "files": files}[named]
    source = open_images([str(path) for path in paths])
    assert [source.name(index) for index in range(3)] == [str(file) for file in files]


@pytest.mark.parametrize("path", ["absent", "absent/*.png", "empty"])
def test_a_path_that_names_no_image_is_told(path, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"absent|empty"):
        open_images([str(tmp_path / path)])


def test_unreadable_images_are_named_and_the_others_predicted(weights, photos, capsys):
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    assert run(predict.main, weights, photos) == 1
    shown = capsys.readouterr()
    assert "broken.jpg: " in shown.err
    assert sum(not line.startswith(" ") for line in shown.out.splitlines()) == 3


@pytest.mark.parametrize("images", [1, 3, 7])
def test_a_montage_shows_each_image(weights, tmp_path, images, capsys):
    pytest.importorskip("matplotlib")
    for number in range(images):
        (tmp_path / f"{number}.png").write_bytes(encode(drawing(40, 40, number), "PNG"))
    target = tmp_path / "montage" / "out.png"
    target.parent.mkdir()
    assert run(predict.main, weights, tmp_path / "*.png", "--montage", target) == 0
    with Image.open(target) as picture:
        width, height = picture.size
    assert (width, height) == (320 * min(images, 5), 440 * -(-images // 5))
    assert f"{images} of {images} images" in capsys.readouterr().err


def test_features_are_those_before_the_classifier(weights, photos, tmp_path):
    model = small_model(MODEL)
    with paddle.no_grad():
        images = batch_of(sorted(photos.rglob("*.png")))
        expected = model.forward_head(model.forward_features(images), pre_logits=True).numpy()
    target = tmp_path / "out.npy"
    assert run(features.main, weights, "--data", photos / "more", "--output", target, "--workers", 0) == 0
    found = np.load(target)
    assert found.shape == (3, 256)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    rows = list(csv.DictReader((tmp_path / "out.npy.csv").open()))
    assert [row["name"].rsplit("/", 1)[1] for row in rows] == ["0.png", "1.png", "2.png"]


def test_features_of_labelled_data_keep_labels(weights, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    tree = write_tree(tmp_path / "tree", {"a": 2, "b": 3}, lambda k: encode(drawing(40, 40, k), "PNG"))
    target = tmp_path / "out.parquet"
    assert run(features.main, weights, "--data", tree, "--output", target, "--workers", 0) == 0
    table = parquet.read_table(target).to_pydict()
    assert table["label"] == [0, 0, 1, 1, 1]
    assert table["name"][3] == "b/1.png"
    assert np.array(table["features"]).shape == (5, 256)


def test_features_of_another_kind_are_refused_before_the_work(weights, tmp_path, capsys):
    assert run(features.main, weights, "--data", tmp_path, "--output", tmp_path / "out.h5") == 1
    assert ".npy or .parquet" in capsys.readouterr().err


# --- what is known --------------------------------------------------------------------------------------------------

PARAMETERS = {  # millions, as timm's results-imagenet.csv states them
    "dla34": 15.74,
    "dla46_c": 1.30,
    "dla46x_c": 1.07,
    "dla60x_c": 1.32,
    "dla60": 22.04,
    "dla60x": 17.35,
    "dla102": 33.27,
    "dla102x": 26.31,
    "dla102x2": 41.28,
    "dla169": 53.39,
    "dla60_res2net": 20.85,
    "dla60_res2next": 17.03,
}


def known(capsys, *arguments):
    assert info.main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_parameters_and_accuracy_are_the_published_ones(capsys):
    found = {facts["model"]: facts for facts in known(capsys)}
    assert found.keys() == VARIANTS.keys()
    for name, facts in found.items():
        assert round(facts["parameters"] / 1e6, 2) == PARAMETERS[name]
        assert facts["published"]["top1"] == PRETRAINED[name].top1


def test_a_checkpoint_says_what_it_is(weights, capsys):
    facts = known(capsys, weights)
    assert (facts["model"], facts["num_classes"], facts["verified"]) == (MODEL, CLASSES, True)
    assert Preprocessing.from_dict(facts["preprocessing"]) == Preprocessing(SIZE, 1.0)
    assert facts["parameters"] == sum(int(p.size) for p in small_model(MODEL).parameters() if not p.stop_gradient)


def test_a_smaller_input_costs_less(capsys):
    large, small = (known(capsys, "dla60", "--input-size", side)["macs"] for side in (448, 224))
    # all but the classifier's million shrinks to a quarter
    assert (large - 1024e3) / (small - 1024e3) == pytest.approx(4, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "message"),
    [("dla61", "nearest: dla60"), ("x.pdparams", "unknown model"), ("dla60 --input-size 112", "multiples of 32")],
)
def test_an_unknown_subject_is_told(name, message, capsys):
    assert info.main(name.split()) == 1
    assert message in capsys.readouterr().err


def test_a_damaged_checkpoint_is_told(tmp_path, capsys):
    path = tmp_path / "small.pdparams"
    save_small(path)
    path.write_bytes(path.read_bytes()[:-1])
    assert info.main([str(path)]) == 1
    assert "is not what was written" in capsys.readouterr().err


# --- class names ----------------------------------------------------------------------------------------------------


@pytest.mark.torch
def test_imagenets_classes_are_timms():
    from torch_ref.model import import_timm

    import_timm()
    from timm.data import ImageNetInfo

    theirs, ours = ImageNetInfo(), imagenet_class_names()
    assert list(ours.ids) == theirs.label_names()
    assert [ours.names[label] for label in range(1000)] == [theirs.index_to_description(i) for i in range(1000)]


@pytest.mark.parametrize(("text", "message"), [("", "names no classes"), ("a\nb\na\n", "names 'a' twice")])
def test_class_names_that_make_no_sense_are_refused(text, message, tmp_path):
    (tmp_path / "names.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_class_names(tmp_path / "names.txt")
