"""Where results may go is asked before any work: nobody's files are replaced, no image folder is written into."""

import os
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("yaml")

from small_runs import command, environment, make_images, run, write_config
from timm_files import run as run_main
from timm_files import small_weights, write_safetensors

from convert import paddle2timm, timm2paddle
from paddle_dla import evaluate, export, features, look_at_data, predict
from paddle_dla.data.errors import DataError
from paddle_dla.data.walk import refuse_folder_in
from paddle_dla.storage.atomic import atomic_path, check_writable
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.folders import atomic_folder, check_folder
from paddle_dla.training.place import MARK, refuse_place

pytestmark = pytest.mark.any_paddle


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"))


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def immutable(path):
    """``chattr +i``, taken back by the fixture ``unlocked``; skips where the file system or the user cannot."""
    if shutil.which("chattr") is None or subprocess.run(["chattr", "+i", path], capture_output=True).returncode:
        pytest.skip("no immutable files here")
    return path


@pytest.fixture
def unlocked(tmp_path):
    yield tmp_path
    if shutil.which("chattr"):
        subprocess.run(["chattr", "-R", "-i", tmp_path], capture_output=True)


# --- files of somebody else in the folder of a run -------------------------------------------------------------------


@pytest.mark.slow
def test_a_training_leaves_a_config_of_ones_own_in_its_output_folder_alone(tmp_path, images):
    config = write_config(tmp_path, images, tmp_path)
    before = config.read_bytes()
    code, output = run(command(config))
    assert code == 1 and "config.yaml that no run has written" in output
    assert config.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.slow
def test_a_run_goes_on_beside_the_files_that_it_wrote_itself(tmp_path, images):
    config = write_config(tmp_path, images)
    for epochs in (2, 3):
        code, output = run(command(config, f"train.epochs={epochs}"))
        assert code == 0, output
    assert (tmp_path / "run" / "config.yaml").read_text().startswith(MARK)


@pytest.mark.parametrize("name", ["train.csv", "validation.csv", "curves.png", "config.yaml"])
def test_files_that_no_run_has_written_are_not_replaced(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(CheckpointError) as refusal:
        refuse_place(tmp_path, ())
    assert name in str(refusal.value) and contents(tmp_path) == {name: b"mine"}


def test_what_a_run_wrote_before_it_was_killed_is_replaced(tmp_path):
    (tmp_path / "config.yaml").write_text(f"{MARK}train: {{}}\n")
    refuse_place(tmp_path, ())
    (tmp_path / "rank0.jsonl").write_text('{"kind": "start", "resumed_at": 0}\n')
    for name in ("train.csv", "validation.csv", "curves.png"):
        (tmp_path / name).write_text("of the run")
    refuse_place(tmp_path, ())


# --- image folders ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("within", ["train", "train/class0/out", "val/out"])
@pytest.mark.slow
def test_no_run_writes_into_the_images_that_it_reads(tmp_path, within):
    images = make_images(tmp_path / "images")
    before = contents(images)
    code, output = run(command(write_config(tmp_path, images, images / within)))
    assert code == 1 and "within the images" in output
    assert contents(images) == before and not (images / "train" / "out").exists()


def test_a_link_into_the_images_is_seen_through_and_a_list_is_no_folder(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tmp_path / "link").symlink_to(tree)
    with pytest.raises(DataError):
        refuse_folder_in(str(tree), tmp_path / "link" / "out", "train.output")
    (tmp_path / "list.txt").touch()
    for data, folder in [(None, tree), ("list.txt", tmp_path), (str(tree), tmp_path), (str(tree), tmp_path / "tree2")]:
        refuse_folder_in(data, folder, "train.output")


@pytest.mark.parametrize("option", ["--check", "--calibration"])
def test_an_export_is_no_class_of_the_images_that_it_is_checked_on(tmp_path, option, capsys):
    images = make_images(tmp_path / "images")
    before = sorted(images.rglob("*"))
    words = ["--checkpoint", "absent.pdparams", "--output", f"{images}/val/exported", option, f"{images}/val"]
    assert run_main(export.main, *words, *(["--int8"] if option == "--calibration" else [])) == 1
    assert "within the images" in capsys.readouterr().err and sorted(images.rglob("*")) == before


@pytest.mark.parametrize("program", ["train", "evaluate"])
def test_a_launch_puts_no_logs_among_the_images(tmp_path, program):
    images = make_images(tmp_path / "images")
    config = write_config(tmp_path, images, images / "train" / "out")
    arguments = ["--config", str(config)] if program == "train" else ["--data", str(images / "val")]
    before = contents(images), sorted(images.rglob("*"))
    ended = subprocess.run(
        [sys.executable, "-m", "paddle_dla.launch", "--nproc", "2", program, *arguments],
        cwd=images / "val", env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 1 and "within the images" in ended.stderr, ended.stderr
    assert (contents(images), sorted(images.rglob("*"))) == before


# --- places that cannot be written -----------------------------------------------------------------------------------


def test_a_file_that_cannot_be_replaced_is_refused_before_the_work_and_stays(unlocked):
    target = unlocked / "results.json"
    target.write_text("old")
    immutable(target)
    with pytest.raises(CheckpointError):
        check_writable(target)
    assert contents(unlocked) == {"results.json": b"old"}


@pytest.mark.parametrize("what", ["itself", "its parent"])
def test_a_folder_that_cannot_be_replaced_is_refused_before_the_work_and_stays(unlocked, what):
    target = unlocked / "parent" / "export"
    target.mkdir(parents=True)
    (target / "network.json").write_text("old")
    immutable(target if what == "itself" else target.parent)
    with pytest.raises(CheckpointError):
        check_folder(target)
    assert contents(unlocked) == {"parent/export/network.json": b"old"}


def test_what_can_be_replaced_is_left_as_it_is(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inner").write_text("old")
    check_writable(tmp_path / "file")
    check_folder(tmp_path / "folder")
    check_folder(tmp_path / "not" / "yet" / "there", parents=True)
    assert contents(tmp_path) == {"file": b"old", "folder/inner": b"old"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_look_has_left_is_removed_by_the_next_write(tmp_path, kind):
    """It looks with a folder in a file's place, and with a file in a folder's."""
    if kind == "file":
        (tmp_path / f".x.{2**22 + 1}.part").mkdir()
        with atomic_path(tmp_path / "x") as part:
            part.write_text("new")
    else:
        (tmp_path / f".x.{2**22 + 1}.part").touch()
        with atomic_folder(tmp_path / "x", replace=True) as part:
            (part / "inner").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_file_of_another_user_in_a_sticky_folder_is_refused_before_the_work(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    folder = tmp_path / "sticky"
    folder.mkdir()
    (folder / "results.json").write_text("another's")
    folder.chmod(0o1777)
    for path in (folder, *folder.parents):
        if path.is_relative_to(tmp_path.parent.parent.parent):
            os.chmod(path, path.stat().st_mode | 0o055)
    script = (
        "import os, sys; from paddle_dla.storage.atomic import check_writable\n"
        "from paddle_dla.storage.errors import CheckpointError\n"
        "os.setgid(12345); os.setuid(12345)\n"
        "try: check_writable(sys.argv[1])\n"
        "except CheckpointError as error: print('refused', error)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(folder / "results.json")], env=environment(), capture_output=True, text=True
    )
    assert ended.stdout.startswith("refused"), ended
    assert contents(folder) == {"results.json": b"another's"}


@pytest.fixture
def made(unlocked, images):
    from small_models import save_small

    save_small(unlocked / "m.pdparams")
    write_safetensors(unlocked / "timm.safetensors", small_weights())
    (unlocked / "data").symlink_to(images / "val")
    (unlocked / "list.txt").write_text("".join(f"data/class{label}/0.png {label}\n" for label in range(4)))
    (unlocked / "locked").mkdir()
    return unlocked


EVALUATE = "--checkpoint m.pdparams --data list.txt --workers 0"
COMMANDS = {
    "evaluate --json": (evaluate, EVALUATE + " --json {}/x.json"),
    "evaluate --predictions": (evaluate, EVALUATE + " --predictions {}/x.csv"),
    "evaluate --confusion": (evaluate, EVALUATE + " --confusion {}/x.csv"),
    "predict --output": (predict, "data/class0/0.png --checkpoint m.pdparams --output {}/x.json"),
    "features --output": (features, "--data list.txt --checkpoint m.pdparams --workers 0 --output {}/x.npy"),
    "look-at-data --output": (look_at_data, "--data list.txt --model dla60 --output {}/x.png"),
    "export --output": (export, "--checkpoint m.pdparams --output {}/x"),
    "timm2paddle --output": (timm2paddle, "--model dla46x_c --checkpoint timm.safetensors --output {}/x.pdparams"),
    "timm2paddle --json": (
        timm2paddle, "--model dla46x_c --checkpoint timm.safetensors --output y.pdparams --json {}/x.json"
    ),
    "paddle2timm --output": (paddle2timm, "--checkpoint m.pdparams --output {}/x.safetensors"),
}  # fmt: skip


def deny(*arguments, **named):
    raise AssertionError("work was done before the place was looked at")


@pytest.mark.parametrize("case", COMMANDS)
def test_every_command_looks_at_its_place_before_it_reads_weights(case, made, monkeypatch, capsys):
    monkeypatch.chdir(made)
    for where in ("paddle_dla.loading.load_weights", "paddle_dla.weight_files.read", "convert.timm2paddle.read_source",
                  "paddle_dla.look_at_data.look"):  # fmt: skip
        monkeypatch.setattr(where, deny, raising=False)
    immutable(made / "locked")
    command_, arguments = COMMANDS[case]
    assert run_main(command_.main, *arguments.format("locked").split()) == 1
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.parametrize("which", ["checkpoints", "train.csv", "config.yaml", "."])
def test_a_training_looks_at_its_folder_before_it_begins(unlocked, which):
    run_folder = unlocked / "run"
    (run_folder / "checkpoints").mkdir(parents=True)
    (run_folder / "config.yaml").write_text(MARK)
    (run_folder / "rank0.jsonl").write_text('{"kind": "start", "resumed_at": 0}\n')
    (run_folder / "train.csv").touch()
    immutable(run_folder / which)
    with pytest.raises(CheckpointError):
        refuse_place(run_folder, ())


@pytest.mark.torch
def test_a_record_and_a_port_look_at_their_places_before_they_begin(unlocked, monkeypatch):
    pytest.importorskip("torch")
    from alignment.engine.records.files import check_dump
    from convert.porting.folder import check_folder as check_port

    (unlocked / "tape").mkdir()
    (unlocked / "tape" / "tape.json").write_text("old")
    immutable(unlocked / "tape" / "tape.json")
    with pytest.raises(CheckpointError):
        check_dump(unlocked / "tape")
    (unlocked / "ports").mkdir()
    immutable(unlocked / "ports")
    with pytest.raises(CheckpointError):
        check_port(unlocked / "ports" / "mine", overwrite=False)
