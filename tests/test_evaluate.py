"""Evaluation: each sample counts once, whatever the batches and ranks; outputs say what was found; errors are clear."""

import csv
import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from odd_images import drawing, encode
from pictures import photo, write_tree
from small_models import CLASSES, SIZE, save_small, small_model
from small_runs import environment

from paddle_dla import evaluate as command
from paddle_dla.data.class_names import read_class_names
from paddle_dla.data.crop import EvalTransform
from paddle_dla.data.decoding import decode
from paddle_dla.data.normalise import Normalise
from paddle_dla.data.opening import open_source
from paddle_dla.evaluation import evaluate
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.scores import label_names
from paddle_dla.subject import open_subject

MODEL = "dla46x_c"
COUNTS = {f"c{label}": 1 + label % 4 for label in range(CLASSES)}
IMAGES = sum(COUNTS.values())
PREPROCESSING = Preprocessing(SIZE, 1.0)


def colourful(seed):
    """Differs from image to image enough for predictions to differ."""
    return encode(drawing(40 + seed, 47, seed), "PNG")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("data") / "val", COUNTS, colourful)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_small(tmp_path_factory.mktemp("weights") / "small.pdparams", MODEL)


@pytest.fixture(scope="module")
def expected(tree):
    """Labels and logits, computed without the pipeline: one image at a time."""
    model, normalise, transform = small_model(MODEL), Normalise(PREPROCESSING), EvalTransform(PREPROCESSING)
    files = [file for label in range(CLASSES) for file in sorted((tree / f"c{label}").iterdir())]
    with paddle.no_grad():
        batches = [normalise(transform(decode(file.read_bytes()))[np.newaxis]) for file in files]
        logits = np.concatenate([model(paddle.to_tensor(batch)).numpy() for batch in batches])
    labels = np.array([int(file.parent.name[1:]) for file in files])
    return labels, logits


def subject_of(weights):
    """The checkpoint, opened as the command opens it."""
    return open_subject(command.parser().parse_args(["--checkpoint", weights, "--threads", "1"]))


def run(weights, data, *options):
    """The command line in this process, with the arguments that keep it small."""
    arguments = ["--checkpoint", weights, "--data", data, "--workers", 0, "--threads", 1, *options]
    return command.main([str(argument) for argument in arguments])


def results(weights, data, folder, *options):
    target = folder / "results.json"
    assert run(weights, data, "--json", target, *options) == 0
    return json.loads(target.read_text())


def test_the_figures_are_those_of_the_logits(weights, tree, tmp_path, expected):
    labels, logits = expected
    found = results(weights, tree, tmp_path)
    ranked = np.argsort(-logits, axis=1)
    assert found["images"] == IMAGES
    assert found["top1"] == pytest.approx(100 * np.mean(ranked[:, 0] == labels))
    assert found["top5"] == pytest.approx(100 * np.mean((ranked[:, :5] == labels[:, None]).any(axis=1)))
    exponentials = np.exp(logits.astype(np.float64))
    losses = -np.log(exponentials[np.arange(IMAGES), labels] / exponentials.sum(axis=1))
    # float32 logits of another batch size differ by rounding alone
    assert found["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert Preprocessing.from_dict(found["preprocessing"]) == PREPROCESSING


@pytest.mark.parametrize("batch_size", [1, 7, IMAGES, 100])
def test_the_batch_size_changes_nothing(weights, tree, tmp_path, expected, batch_size):
    table = tmp_path / "samples.jsonl"
    assert run(weights, tree, "--batch-size", batch_size, "--predictions", table) == 0
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    assert [row["index"] for row in rows] == list(range(IMAGES))
    assert [row["class1"] for row in rows] == expected[1].argmax(axis=1).tolist()


def launch(ranks, folder, *arguments):
    """The command in as many processes, by Paddle's launcher; returns what the first rank printed."""
    script = Path(command.__file__)
    launcher = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(ranks)]
    done = subprocess.run(
        [*launcher, "--log_dir", str(folder / "log"), str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment(),
    )
    logs = {log.name: log.read_text() for log in (folder / "log").glob("workerlog.*")}
    return done.returncode, logs


def classes_in(table):
    """The predicted class of each sample."""
    return [int(row["class1"]) for row in csv.DictReader(table.open())]


def test_ranks_that_choose_different_engines_are_told():
    assert command.differing(["onnxruntime", "paddle"]) == "engines: rank 0 onnxruntime, rank 1 paddle"


@pytest.mark.heavy
@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks_counts_each_sample_once(weights, tree, tmp_path, expected, ranks):
    """Three: the 25 samples do not divide evenly."""
    table = tmp_path / "samples.csv"
    options = ("--data", tree, "--workers", 0, "--threads", 1, "--batch-size", 4, "--predictions", table)
    code, logs = launch(ranks, tmp_path, "--checkpoint", weights, *options)
    assert code == 0, logs
    assert classes_in(table) == expected[1].argmax(axis=1).tolist()
    assert sum("END epoch:0 valid" in text for text in logs.values()) == 1


@pytest.mark.slow
def test_the_command_for_several_ranks_scores_what_one_process_does(weights, tree, tmp_path):
    """The same hits of the same images: not a rounding apart."""
    options = ["--checkpoint", weights, "--data", tree, "--workers", 0, "--threads", 1, "--batch-size", 4]
    outputs = ["--json", "results.json", "--predictions", "samples.csv"]
    done = subprocess.run(
        [sys.executable, "-m", "paddle_dla.launch", "--nproc", "2", "evaluate", *map(str, options), *outputs],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path,
        env=environment(),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{IMAGES} images, top-1" in done.stdout
    assert sorted(path.name for path in (tmp_path / "logs/evaluate/latest").iterdir()) == ["rank0.log", "rank1.log"]
    found, rows = json.loads((tmp_path / "results.json").read_text()), classes_in(tmp_path / "samples.csv")
    expected = results(weights, tree, tmp_path, "--predictions", tmp_path / "samples.csv")
    assert [found[key] for key in ("images", "top1", "top5")] == [expected[key] for key in ("images", "top1", "top5")]
    assert rows == classes_in(tmp_path / "samples.csv")


@pytest.mark.slow
def test_more_ranks_than_samples_are_no_mistake(weights, tmp_path):
    write_tree(tmp_path / "val", {"c0": 1}, colourful)
    (tmp_path / "list.txt").write_text("val/c0/0.png 0\n")
    target = tmp_path / "results.json"
    options = ("--data", tmp_path / "list.txt", "--workers", 0, "--threads", 1, "--json", target)
    code, logs = launch(2, tmp_path, "--checkpoint", weights, *options)
    assert code == 0, logs
    assert json.loads(target.read_text())["images"] == 1


class Fixed:
    """An engine whose logits are the images' first numbers."""

    name, num_classes = "fixed", 2

    def run(self, images):
        return images[:, 0, 0, :2].copy()


def test_flipping_averages_the_logits_of_both():
    from paddle_dla.data.batch import Batch

    images = np.zeros((1, 1, 1, 4), np.float32)
    images[..., :] = [3, 0, 4, 0]
    batch = Batch(images, np.array([0]), np.array([0]))
    plain, flipped = (evaluate(Fixed(), [batch], 2, flip=flip) for flip in (False, True))
    assert plain.classes[0, 0] == 0  # 3 against 0
    assert flipped.classes[0, 0] == 1  # (3 + 0) / 2 against (0 + 4) / 2
    assert flipped.probabilities[0, 0] == pytest.approx(1 / (1 + np.exp(-0.5)))


def test_lines_off_a_terminal_are_the_familiar_ones(weights, tree, capsys):
    assert run(weights, tree, "--batch-size", 5, "--log-interval", 2, "--compare-published") == 0
    shown = capsys.readouterr()
    number, percent = r"\d+\.\d{5}", r"\d+\.\d{3} %"
    line = (
        rf"epoch:0, valid step:2, top1: {percent}, top5: {percent}, loss: {number}, batch_cost: {number} s, "
        rf"reader_cost: {number} s, ips: {number} images/sec\."
    )
    assert re.fullmatch(line, shown.err.splitlines()[0])
    model, images, labels, end, summary, published = shown.out.splitlines()
    assert model == f"model: dla46x_c, weights {weights}"
    assert images.startswith("images: 3x32x32, crop 1, bilinear, mean 0.485 0.456 0.406")
    assert labels.startswith("labels: ")
    assert end.startswith("END epoch:0 valid top1: ")
    assert f"{IMAGES} images, top-1" in summary
    assert published.startswith("not compared with published figures")  # these weights have 10 classes


def test_tables_and_picture_are_written(weights, tree, tmp_path):
    pytest.importorskip("matplotlib")
    assert run(weights, tree, "--per-class", tmp_path / "c.csv", "--confusion", tmp_path / "m.csv") == 0
    rows = list(csv.DictReader((tmp_path / "c.csv").open()))
    assert [row["class"] for row in rows] == list(COUNTS)
    assert [int(row["samples"]) for row in rows] == list(COUNTS.values())
    matrix = list(csv.reader((tmp_path / "m.csv").open()))
    assert matrix[0][1:] == list(COUNTS)
    assert [sum(map(int, row[1:])) for row in matrix[1:]] == list(COUNTS.values())
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")


def test_a_subset_of_the_classes_is_scored_within_itself(weights, tree, tmp_path, expected):
    """The folders c1 and c3 alone, whose labels are 0 and 1 in the data."""
    labels, logits = expected
    for name in ("c1", "c3"):
        shutil.copytree(tree / name, tmp_path / "two" / name)
    (tmp_path / "subset.txt").write_text("1\n3\n")
    found = results(weights, tmp_path / "two", tmp_path, "--valid-labels", tmp_path / "subset.txt")
    rows = np.isin(labels, [1, 3])
    hits = logits[rows][:, [1, 3]].argmax(axis=1) == (labels[rows] == 3)
    assert found["top1"] == pytest.approx(100 * hits.mean())


@pytest.mark.parametrize("form", ["folder", "list"])
def test_classes_of_a_subset_keep_the_models_names(weights, tree, tmp_path, form):
    for name in ("c1", "c3"):
        shutil.copytree(tree / name, tmp_path / "two" / name)
    (tmp_path / "list.txt").write_text("two/c1/0.png 0\ntwo/c3/0.png 1\n")
    (tmp_path / "subset.txt").write_text("1\n3\n")
    (tmp_path / "names.txt").write_text("".join(f"name {label}, or so\n" for label in range(CLASSES)))
    model = dataclasses.replace(subject_of(weights), class_names=read_class_names(tmp_path / "names.txt"))
    source = open_source(tmp_path / {"folder": "two", "list": "list.txt"}[form])
    assert label_names(source, model, [1, 3]) == ["name 1", "name 3"]


def test_without_names_classes_are_called_as_the_data_calls_them(weights, tree):
    assert label_names(open_source(tree), subject_of(weights), None) == list(COUNTS)


def test_reassessed_labels_are_looked_up_by_file_name(weights, tmp_path, expected, tree):
    labels, logits = expected
    files = [file for label in range(CLASSES) for file in sorted((tree / f"c{label}").iterdir())]
    lines, real = [], {}
    for number, (file, label) in enumerate(zip(files, labels)):
        name = f"{number}.png"
        shutil.copy(file, tmp_path / name)
        lines.append(f"{name} {label}\n")
        real[name] = [] if number % 3 == 0 else [int(logits[number].argmax())] if number % 3 == 1 else [CLASSES]
    (tmp_path / "list.txt").write_text("".join(lines))
    (tmp_path / "real.json").write_text(json.dumps(real))
    found = results(weights, tmp_path / "list.txt", tmp_path, "--real-labels", tmp_path / "real.json")
    right, counted = (sum(number % 3 in rest for number in range(IMAGES)) for rest in ((1,), (1, 2)))
    assert found["real_images"] == counted
    assert found["real_top1"] == pytest.approx(100 * right / counted)


# --- wrong input ----------------------------------------------------------------------------------------------------


def with_damage(tree, folder, content):
    """A copy of the tree in which one image has this content."""
    shutil.copytree(tree, folder / "val")
    (folder / "val" / "c3" / "0.png").write_bytes(content)
    return folder / "val"


def claims_to_be_huge():
    data = bytearray(encode(drawing(8, 8), "PNG"))
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    data[29:33] = __import__("zlib").crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def missing_folder(tree, folder):
    return [folder / "absent"], "absent: is not there"


def empty_class(tree, folder):
    shutil.copytree(tree, folder / "val")
    (folder / "val" / "empty").mkdir()
    return [folder / "val"], "empty"


def label_out_of_range(tree, folder):
    (folder / "list.txt").write_text("c0/0.png 0\nc1/0.png 10\n")
    return [folder / "list.txt", "--data-root", tree], "line 2: 'c1/0.png 10': label 10 is out of range"


def bad_line(tree, folder):
    (folder / "list.txt").write_text("c0/0.png 0\nc1/0.png\n")
    return [folder / "list.txt", "--data-root", tree], "list.txt, line 2"


def no_such_file(tree, folder):
    (folder / "list.txt").write_text("c0/0.png 0\nc1/absent.png 1\n")
    return [folder / "list.txt", "--data-root", tree], "c1/absent.png"


def truncated_image(tree, folder):
    return [with_damage(tree, folder, colourful(0)[:200])], "c3/0.png: damaged image"


def bomb(tree, folder):
    return [
        with_damage(tree, folder, claims_to_be_huge())
    ], "c3/0.png: refused: Image size (10000000000 pixels) exceeds limit"


def no_image(tree, folder):
    return [with_damage(tree, folder, b"<html>")], "c3/0.png: no image of a known format"


def no_classes_file(tree, folder):
    return [tree, "--classes", folder / "absent.txt"], "absent.txt"


def too_few_class_names(tree, folder):
    (folder / "classes.txt").write_text("one\ntwo\n")
    return [tree, "--classes", folder / "classes.txt"], "classes.txt"


def too_many_classes(tree, folder):
    shutil.copytree(tree, folder / "val")
    shutil.copytree(tree / "c0", folder / "val" / "more")
    return [folder / "val"], "class folder more (10)"


def unwritable_output(tree, folder):
    return [tree, "--json", folder / "absent" / "r.json"], "absent"


def table_of_another_kind(tree, folder):
    return [tree, "--per-class", folder / "table.xlsx"], ".csv or .jsonl"


def wrong_number_of_classes(tree, folder):
    return [tree, "--num-classes", 7], "has 10 classes, not 7"


def wrong_model(tree, folder):
    return [tree, "--model", "dla34"], "holds dla46x_c, not dla34"


def unknown_model(tree, folder):
    return [tree, "--model", "dla61"], "nearest: dla60"


def not_an_export(tree, folder):
    return [tree, "--export", folder], "name one"


def nonsense_preprocessing(tree, folder):
    return [tree, "--crop-pct", 0], "crop_pct"


def odd_side(tree, folder):
    return [tree, "--input-size", 33], "multiple"


WRONG = [
    missing_folder,
    empty_class,
    label_out_of_range,
    bad_line,
    no_such_file,
    truncated_image,
    bomb,
    no_image,
    no_classes_file,
    too_few_class_names,
    too_many_classes,
    unwritable_output,
    table_of_another_kind,
    wrong_number_of_classes,
    wrong_model,
    unknown_model,
    not_an_export,
    nonsense_preprocessing,
    odd_side,
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_wrong_input_is_told_and_nothing_is_written(wrong, weights, tree, tmp_path, capsys):
    folder = tmp_path / "input"
    folder.mkdir()
    arguments, message = wrong(tree, folder)
    outputs = [] if "--json" in arguments else ["--json", tmp_path / "results.json"]
    assert run(weights, *arguments, *outputs) == 1
    shown = capsys.readouterr().err
    assert shown.splitlines()[-1].startswith(("error: ", "  "))
    assert message in shown
    assert "Traceback" not in shown
    assert list(tmp_path.iterdir()) == [folder]


def test_damaged_images_may_be_left_out_and_are_named(weights, tree, tmp_path, capsys):
    data = with_damage(tree, tmp_path, b"nothing")
    found = results(weights, data, tmp_path, "--max-skipped", 1)
    assert found["images"] == IMAGES - 1
    assert [name for name, _ in found["skipped"]] == ["c3/0.png"]
    assert "c3/0.png: no image of a known format" in capsys.readouterr().out


def test_a_checkpoint_of_another_network_does_not_fit(tmp_path, tree, capsys):
    """Without a manifest nothing says what a file holds, but its tensors."""
    weights = save_small(tmp_path / "other.pdparams", "dla34")
    Path(f"{weights}.manifest.json").unlink()
    with pytest.warns(UserWarning, match="loaded unverified"):
        assert run(weights, tree, "--model", MODEL) == 1
    assert "does not fit the model" in capsys.readouterr().err


def test_no_model_is_named_and_none_is_recorded(tmp_path, tree, capsys):
    weights = save_small(tmp_path / "other.pdparams")
    Path(f"{weights}.manifest.json").unlink()
    assert run(weights, tree) == 1
    assert "--model is required" in capsys.readouterr().err


def test_a_config_sets_what_the_command_line_does_not(weights, tree, tmp_path, capsys):
    config = tmp_path / "small.yaml"
    config.write_text(
        f"model: {{name: {MODEL}, num_classes: 10, pretrained: '{weights}'}}\n"
        f"data: {{val: '{tree}', workers: 0, batch_size: 7}}\n"
        f"evaluate: {{tta: hflip, per_class: true}}\n"
        f"transform: {{eval: {{input_size: [3, 64, 64]}}}}\n"
        f"train: {{output: '{tmp_path}'}}\n"
    )
    target = tmp_path / "r.json"
    assert command.main(["--config", str(config), "--json", str(target), "--log-interval", "1"]) == 0
    found = json.loads(target.read_text())
    assert (found["flip"], found["preprocessing"]["input_size"]) == (True, [3, 64, 64])
    assert (tmp_path / "per_class.csv").exists()
    assert f"valid step:{-(-IMAGES // 7)}, " in capsys.readouterr().err
    assert command.main(["--config", str(config), "-o", "evaluate.tta=none", "--json", str(target)]) == 0
    assert json.loads(target.read_text())["flip"] is False
    assert command.main(["--config", str(config), "--input-size", "32", "--json", str(target)]) == 0
    assert json.loads(target.read_text())["preprocessing"]["input_size"] == [3, 32, 32]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "evaluate.tat=none"], "evaluate.tta"),
        (["-o", "data.batch_size=many"], "data.batch_size"),
        ([], "--data"),
    ],
)
def test_a_config_that_makes_no_sense_is_told(arguments, message, tmp_path, capsys):
    config = tmp_path / "small.yaml"
    config.write_text(f"model: {{name: {MODEL}}}\n")
    assert command.main(["--config", str(config), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_photographs_are_evaluated_with_workers_as_without(weights, tmp_path):
    tree = write_tree(tmp_path / "val", {f"c{label}": 1 + label % 2 for label in range(CLASSES)}, photo, "jpg")
    tables = [tmp_path / f"{workers}.csv" for workers in (0, 2)]
    for workers, table in zip((0, 2), tables):
        assert run(weights, tree, "--workers", workers, "--batch-size", 3, "--predictions", table) == 0
    assert tables[0].read_text() == tables[1].read_text()
