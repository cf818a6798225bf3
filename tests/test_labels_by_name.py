"""A label is an index of the weights: names that are recorded with them decide, and without names the user is told.

A tree of class folders that lacks one is the sample of it: numbered in its own order, every later class is another one.
"""

import csv
import json

import numpy as np
import pytest
from pictures import photo, write_tree
from small_models import CLASSES, SIZE, save_small, small_model
from small_runs import CLASSES as FOUR
from small_runs import make_images, small_config

from paddle_dla import evaluate, features, look_at_data, predict, weight_files
from paddle_dla.data.class_names import NamedBy, imagenet_class_names, recorded_class_names
from paddle_dla.data.errors import DataError
from paddle_dla.data.labelling import open_labelled
from paddle_dla.data.opening import open_source
from paddle_dla.data.shard_writer import write_shards
from paddle_dla.exporting.exporter import Wanted, export_model
from paddle_dla.exporting.images import read_images
from paddle_dla.loading import load_model
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.ranks import Ranks
from paddle_dla.storage.manifest import manifest_path
from paddle_dla.training.assembly import create_criterion
from paddle_dla.training.errors import ResumeError, TrainingError
from paddle_dla.training.start import train
from paddle_dla.training.stopping import StopRequest
from paddle_dla.weight_files import CheckpointError

NAMES = ["zebra", "ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis"]  # in the order of no folder
MODEL = "dla46x_c"
assert len(NAMES) == CLASSES


def recorded(path, classes=NAMES):
    """A small model's checkpoint that records class names, as a training leaves it."""
    save_small(path)
    record = json.loads(manifest_path(path).read_text())
    manifest_path(path).write_text(json.dumps({**record, "classes": classes}))
    return str(path)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("weights") / "named.pdparams")


@pytest.fixture(scope="module")
def nameless(tmp_path_factory):
    return save_small(tmp_path_factory.mktemp("weights") / "nameless.pdparams")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("data") / "val", dict.fromkeys(NAMES, 2), photo)


def tree_without(whole, folder, *absent):
    """The tree less some of its classes."""
    folder.mkdir()
    for path in whole.iterdir():
        if path.name not in absent:
            (folder / path.name).symlink_to(path, target_is_directory=True)
    return folder


def scored(weights, data, folder, *options, kind="--checkpoint"):
    """Label and loss of each sample by its name, from the command."""
    table = folder / "samples.csv"
    arguments = [kind, weights, "--data", str(data), "--workers", "0", "--predictions", str(table), *map(str, options)]
    assert evaluate.main(arguments) == 0
    with table.open() as file:
        return {row["name"]: (int(row["label"]), row["loss"]) for row in csv.DictReader(file)}


def refused(weights, data, *options, kind="--checkpoint"):
    assert evaluate.main([kind, weights, "--data", str(data), "--workers", "0", *map(str, options)]) == 1


# --- evaluation ------------------------------------------------------------------------------------------------------


def test_a_folder_that_lacks_a_class_is_scored_as_it_is_within_the_whole(weights, whole, tmp_path, capsys):
    expected = scored(weights, whole, tmp_path)
    assert {label for label, _ in expected.values()} == set(range(CLASSES))
    assert expected["zebra/0.png"][0] == 0 and expected["ant/0.png"][0] == 1
    capsys.readouterr()
    found = scored(weights, tree_without(whole, tmp_path / "part", "bee", "gnu"), tmp_path)
    said = capsys.readouterr().out
    assert "bee" in said and "gnu" in said
    assert {name: label for name, (label, _) in found.items()} == {
        name: label for name, (label, _) in expected.items() if not name.startswith(("bee", "gnu"))
    }
    losses = [(float(found[name][1]), float(expected[name][1])) for name in found]
    assert np.allclose(*zip(*losses), rtol=1e-4)  # batches of another size are rounded otherwise


def test_a_folder_that_the_weights_do_not_know_is_refused(weights, whole, tmp_path, capsys):
    data = tree_without(whole, tmp_path / "other", "bee")
    (data / "wasp").symlink_to(whole / "bee", target_is_directory=True)
    refused(weights, data)
    assert "wasp" in capsys.readouterr().err


def test_without_names_a_count_that_does_not_fit_is_refused(nameless, whole, tmp_path, capsys):
    refused(nameless, tree_without(whole, tmp_path / "part", "bee"))
    said = capsys.readouterr()
    assert "9 class folders" in said.err and "10 classes" in said.err and "top-1" not in said.out


def test_without_names_it_is_said_how_labels_were_assigned(nameless, whole, tmp_path, capsys):
    found = scored(nameless, whole, tmp_path)
    assert found["ant/0.png"][0] == 0 and found["zebra/0.png"][0] == 9
    assert "natural order: 0 ant, 1 bee" in capsys.readouterr().out


@pytest.mark.parametrize("order", [sorted(NAMES), NAMES[::-1]], ids=["natural", "reversed"])
def test_a_class_file_that_contradicts_the_record_is_refused(order, weights, whole, tmp_path, capsys):
    (tmp_path / "classes.txt").write_text("\n".join(order))
    refused(weights, whole, "--classes", tmp_path / "classes.txt")
    assert "classes.txt" in capsys.readouterr().err


def test_a_class_file_may_say_what_people_call_the_recorded_classes(weights, whole, tmp_path):
    (tmp_path / "classes.txt").write_text("".join(f"{name}\ta {name}, or so\n" for name in NAMES))
    assert scored(weights, whole, tmp_path, "--classes", tmp_path / "classes.txt") == scored(weights, whole, tmp_path)


def test_a_class_file_names_the_classes_of_weights_that_do_not(nameless, whole, tmp_path):
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    data = tree_without(whole, tmp_path / "part", "bee")
    found = scored(nameless, data, tmp_path, "--classes", tmp_path / "classes.txt")
    assert found["zebra/0.png"][0] == 0 and found["cat/0.png"][0] == 3


def test_a_subset_is_numbered_by_name_too(weights, whole, tmp_path):
    (tmp_path / "subset.txt").write_text("cat\nzebra\nbee\n")
    data = tree_without(whole, tmp_path / "part", *(set(NAMES) - {"zebra", "bee"}))
    found = scored(weights, data, tmp_path, "--valid-labels", tmp_path / "subset.txt")
    assert {name: label for name, (label, _) in found.items()} == {
        "bee/0.png": 2,
        "bee/1.png": 2,
        "zebra/0.png": 1,
        "zebra/1.png": 1,
    }


def test_the_numbers_of_a_list_are_taken_as_they_are_and_said_so(weights, whole, tmp_path, capsys):
    (tmp_path / "1.png").write_bytes(photo(1))
    (tmp_path / "list.txt").write_text("1.png 7\n")
    found = scored(weights, tmp_path / "list.txt", tmp_path)
    assert found == {"1.png": (7, found["1.png"][1])}
    assert "labels: numbers of" in capsys.readouterr().out


def test_a_list_that_contradicts_the_folders_of_its_files_is_refused(weights, nameless, whole, tmp_path, capsys):
    """As one does that was written from a folder that lacks a class."""
    order = sorted(set(NAMES) - {"ant"})
    (tmp_path / "list.txt").write_text("".join(f"{name}/0.png {label}\n" for label, name in enumerate(order)))
    refused(weights, tmp_path / "list.txt", "--data-root", whole)
    assert "bee is 2" in capsys.readouterr().err
    scored(nameless, tmp_path / "list.txt", tmp_path, "--data-root", whole)


@pytest.mark.parametrize("kind", ["weights", "nameless"])
@pytest.mark.parametrize("absent", [(), ("zebra",), ("ibis",)], ids=["all", "without the first", "without the last"])
def test_shards_are_held_against_the_names(kind, absent, whole, tmp_path, request):
    """Their numbers are the order in which the names were when they were written."""
    file = tmp_path / "classes.txt"
    file.write_text("\n".join(name for name in NAMES if name not in absent))
    data = tree_without(whole, tmp_path / "tree", *absent)
    write_shards(open_source(data, classes=file), tmp_path / "shards")
    chosen = request.getfixturevalue(kind)
    if not absent or (absent == ("ibis",) and kind == "weights"):
        found = scored(chosen, tmp_path / "shards", tmp_path)
        assert {label for label, _ in found.values()} == set(range(CLASSES - len(absent)))
    else:
        refused(chosen, tmp_path / "shards")


def test_shards_numbered_in_their_own_order_are_refused(weights, whole, tmp_path, capsys):
    write_shards(open_source(whole), tmp_path / "shards")
    refused(weights, tmp_path / "shards")
    assert "0 is ant in the data, zebra in the model" in capsys.readouterr().err


# --- ImageNet --------------------------------------------------------------------------------------------------------


def test_imagenets_identifiers_decide_where_they_are_used(tmp_path):
    names = imagenet_class_names()
    tree = write_tree(tmp_path / "two", {"n01443537": 1, "n15075141": 1})
    source = open_labelled(tree, None, names, NamedBy.IMAGENET, 1000)
    assert source.labels.tolist() == [1, 999]
    with pytest.raises(DataError, match="2 class folders"):
        open_labelled(write_tree(tmp_path / "other", {"a": 1, "b": 1}), None, names, NamedBy.IMAGENET, 1000)


def test_identifiers_among_recorded_names_are_shown_as_people_call_them():
    names = recorded_class_names(["n01443537", "a thing"], 3)
    assert names.ids == ("n01443537", "a thing", "2")
    assert names.names == ("goldfish, Carassius auratus", "a thing", "2")


# --- other commands --------------------------------------------------------------------------------------------------


def test_predictions_bear_the_recorded_names(weights, whole, capsys):
    assert (
        predict.main(["--checkpoint", weights, str(whole / "ant" / "0.png"), "--format", "json", "--topk", "10"]) == 0
    )
    shown = json.loads(capsys.readouterr().out)[0]["classes"]
    assert {entry["label"]: entry["name"] for entry in shown} == dict(enumerate(NAMES))


def test_features_are_labelled_by_name_where_the_names_are_known(weights, whole, tmp_path):
    data = tree_without(whole, tmp_path / "part", "ant")
    assert features_of(weights, data, tmp_path)["bee/0.png"] == 2
    other = write_tree(tmp_path / "other", {"wasp": 1, "yak": 1}, photo)
    assert features_of(weights, other, tmp_path) == {"wasp/0.png": 0, "yak/0.png": 1}


def features_of(weights, data, folder):
    output = folder / "f.npy"
    assert features.main(["--checkpoint", weights, "--data", str(data), "--workers", "0", "--output", str(output)]) == 0
    with open(f"{output}.csv") as file:
        return {row["name"]: int(row["label"]) for row in csv.DictReader(file)}


def test_what_is_looked_at_has_the_labels_of_the_evaluation(weights, whole, tmp_path, capsys):
    data = tree_without(whole, tmp_path / "part", "zebra", "ant")
    args = look_at_data.parser().parse_args(["--data", str(data), "--checkpoint", weights])
    assert look_at_data.fed_as_told(args).source.labels.tolist() == [label for label in range(2, 10) for _ in range(2)]
    (data / "wasp").symlink_to(whole / "ant", target_is_directory=True)
    options = ["--data", str(data), "--checkpoint", weights, "--output", str(tmp_path / "batch.png")]
    assert look_at_data.main(options) == 1
    assert "wasp" in capsys.readouterr().err


def test_an_export_keeps_the_names_of_its_weights(weights, whole, tmp_path):
    loaded = load_model(None, weights)
    wanted = Wanted(
        MODEL, Preprocessing(SIZE, 1.0), class_names=loaded.class_names.names, class_ids=loaded.class_names.ids
    )
    export_model(loaded.layer, tmp_path / "exported", wanted)
    data = tree_without(whole, tmp_path / "part", "bee")
    found = scored(str(tmp_path / "exported"), data, tmp_path, "--engine", "inference", kind="--export")
    assert found["zebra/0.png"][0] == 0 and found["cat/0.png"][0] == 3


def test_images_for_calibration_are_labelled_by_name(weights, whole, tmp_path):
    loaded, said = load_model(None, weights), []
    data = tree_without(whole, tmp_path / "part", "zebra")
    names, named_by = loaded.class_names, loaded.named_by
    _, labels = read_images(str(data), loaded.preprocessing, 18, names, named_by, CLASSES, said.append)
    assert sorted(labels.tolist()) == [label for label in range(1, 10) for _ in range(2)]
    assert any("zebra" in line for line in said)


@pytest.mark.parametrize(
    "classes", [[*NAMES, "more"], ["a"] * 10, "names", 7, [1] * 10, {"a": 1}], ids=lambda value: type(value).__name__
)
def test_names_that_can_be_none_are_refused(classes, whole, tmp_path, capsys):
    path = recorded(tmp_path / "odd.pdparams", classes)
    with pytest.raises(CheckpointError, match="manifest"):
        load_model(None, path)
    refused(path, whole)


# --- training --------------------------------------------------------------------------------------------------------


def quietly(config):
    return train(config, Ranks(), StopRequest(), lambda line: None)


def test_a_training_does_not_go_on_with_classes_that_were_renamed(tmp_path):
    data = make_images(tmp_path)
    short = ("train.epochs=1", "schedule.warmup_epochs=0", "data.workers=0")
    quietly(small_config(data, tmp_path / "run", *short))
    for split in ("train", "val"):
        (data / split / "class1").rename(data / split / "x")
    with pytest.raises(ResumeError, match="class1"):
        quietly(small_config(data, tmp_path / "run", *short, "train.epochs=2"))


def test_a_list_of_validation_images_that_contradicts_the_training_is_refused(tmp_path):
    data = make_images(tmp_path)
    lines = [f"val/class{label}/0.png {number}\n" for number, label in enumerate((0, 2, 3))]
    (data / "list.txt").write_text("".join(lines))
    config = small_config(data, tmp_path / "run", f"data.val={data / 'list.txt'}", "data.workers=0")
    with pytest.raises(DataError, match=r"class2 is 2"):
        quietly(config)


def test_what_was_trained_is_evaluated_by_its_names(tmp_path, capsys):
    data = make_images(tmp_path)
    short = ("train.epochs=1", "schedule.warmup_epochs=0", "data.workers=0", "mixing.cutmix_alpha=0")
    folder = quietly(small_config(data, tmp_path / "run", *short)).folder
    for path in (data / "val" / "class1").iterdir():
        path.unlink()
    (data / "val" / "class1").rmdir()
    found = scored(str(folder / "last" / "model.pdparams"), data / "val", tmp_path)
    assert found["class2/0.png"][0] == 2 and {label for label, _ in found.values()} == {0, 2, 3}


def test_a_teacher_of_other_classes_is_refused(tmp_path):
    teacher = recorded(tmp_path / "teacher.pdparams")
    own = {"data": make_images(tmp_path), "output": tmp_path / "run"}
    taught = (
        f"loss.distillation.teacher={MODEL}",
        f"loss.distillation.checkpoint={teacher}",
        f"model.num_classes={CLASSES}",
    )
    config = small_config(own["data"], own["output"], *taught)
    assert create_criterion(config, CLASSES, NAMES).teacher is not None
    assert create_criterion(config, CLASSES, NAMES[:FOUR]).teacher is not None
    with pytest.raises(TrainingError, match="0 is ant in the data, zebra in the model"):
        create_criterion(config, CLASSES, sorted(NAMES))


def test_the_weights_of_this_test_are_a_models(weights):
    arrays = weight_files.read(weights)[0]
    assert np.array_equal(arrays["fc.bias"], small_model(MODEL).state_dict()["fc.bias"].numpy())
