"""Positions and plans; checkpoints on disk: whole or absent, damaged ones named, rotated; what a run goes on from."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_runs import make_images, small_config

from paddle_dla.config import to_yaml
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.json_text import json_sha256
from paddle_dla.storage.manifest import describe_file
from paddle_dla.training.checkpoints import Snapshot, found, newest, read, rotate, verify, write
from paddle_dla.training.errors import ResumeError
from paddle_dla.training.plan import Plan, Position, step_seed
from paddle_dla.training.resuming import FOLDER, changes, choose, position_in

PLAN = Plan(epochs=3, batches=10, accumulation=4, batch_size=8, ranks=2)
FILES = ("model.pdparams", "model.pdparams.manifest.json", "ema.pdparams", "optimizer.pdopt")


# --- positions -------------------------------------------------------------------------------------------------------


def test_the_last_update_of_an_epoch_takes_what_is_left():
    assert [PLAN.group(batch) for batch in (0, 4, 8)] == [4, 4, 2]
    assert PLAN.updates_per_epoch == 3
    assert PLAN.total_updates == 9


@pytest.mark.parametrize(
    ("position", "updates"),
    [(Position(), 0), (Position(0, 4), 1), (Position(0, 10), 3), (Position(1, 0), 3), (Position(2, 8), 8)],
)
def test_updates_follow_from_the_position(position, updates):
    assert PLAN.updates(position) == updates


@pytest.mark.parametrize("batch", [0, 4, 8, 10])
def test_the_same_plan_moves_nothing(batch):
    assert PLAN.moved(Position(1, batch), PLAN) == Position(1, batch)


@pytest.mark.parametrize(
    ("plan", "batch"),
    [
        # 8 batches of 8 on 2 ranks are 128 images: 16 batches on one rank, 5 of 24 on each of 1, less a broken update
        (Plan(3, 20, 4, 8, 1), 16),
        (Plan(3, 6, 4, 24, 1), 4),
        (Plan(3, 3, 1, 8, 8), 2),
    ],
)
def test_another_plan_goes_on_after_as_many_images(plan, batch):
    assert plan.moved(Position(1, 8), PLAN) == Position(1, batch)


def test_a_finished_epoch_stays_finished():
    assert Plan(3, 7, 3).moved(Position(2, 10), PLAN) == Position(2, 7)


def test_every_rank_and_batch_has_a_seed_of_its_own():
    places = [(rank, Position(epoch, batch)) for rank in range(3) for epoch in range(3) for batch in range(50)]
    assert len({step_seed(0, *place) for place in places}) == len(places)


# --- on disk ---------------------------------------------------------------------------------------------------------


def snapshot(epoch=0, batch=0, score=None, value=1.0, config=None, **record):
    arrays = {"weight": np.full((2, 3), value, np.float32), "count": np.asarray(7, np.int64)}
    plan = {"epochs": 3, "batches": 10, "accumulation": 4, "batch_size": 8, "ranks": 2}
    content = {
        "position": {"epoch": epoch, "batch": batch},
        "score": score,
        "best": None,
        "plan": plan,
        "num_classes": 4,
        "config": "" if config is None else to_yaml(config),
        "environment": {"threads": 1},
        **record,
    }
    facts = {"format": 1, "model": "dla46x_c", "num_classes": 4, "source": {}}
    return Snapshot(arrays, {"weight": arrays["weight"] / 3}, {"weight.velocity": arrays["weight"] / 7}, content, facts)


def names(folder):
    return [path.name for path in found(folder)]


def test_what_is_written_is_read_to_the_bit(tmp_path):
    given = snapshot(1, 4, score=81.25, best={"score": 1 / 3, "epoch": 1})
    back = read(verify(write(tmp_path, given)))
    for before, after in ((given.model, back.model), (given.ema, back.ema), (given.optimizer, back.optimizer)):
        assert before.keys() == after.keys()
        assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    assert {key: back.record[key] for key in given.record} == given.record


def test_the_newest_comes_first_whatever_the_number_of_digits(tmp_path):
    for place in ((0, 4), (9, 999999), (10, 0), (9, 1000000), (10000, 0)):
        write(tmp_path, snapshot(*place))
    expected = [Position(10000), Position(10), Position(9, 1000000), Position(9, 999999), Position(0, 4)]
    assert [verify(path).position for path in found(tmp_path)] == expected


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip, cut, os.remove], ids=["one bit", "cut off", "missing"])
@pytest.mark.parametrize("name", [*FILES, "state.json"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_is_used(tmp_path, name, damage):
    write(tmp_path, snapshot(0, 4))
    damage(write(tmp_path, snapshot(0, 8)) / name)
    best, faults = newest(tmp_path)
    assert best.position == Position(0, 4)
    (fault,) = faults
    assert "epoch-0000-batch-000008" in fault
    assert name.removesuffix(".json") in fault


def test_any_changed_digit_of_the_record_is_noticed(tmp_path):
    path = write(tmp_path, snapshot(0, 8)) / "state.json"
    text = path.read_text()
    path.write_text(text.replace('"batch": 8', '"batch": 4'))
    assert path.read_text() != text
    with pytest.raises(CheckpointError, match="damaged"):
        verify(path.parent)


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.mark.parametrize("name", ["model.pdparams", "ema.pdparams", "optimizer.pdopt"])
def test_reading_executes_nothing(tmp_path, name, monkeypatch):
    """Also where the sums are right: whoever can write the folder can write those."""
    monkeypatch.chdir(tmp_path)
    place = write(tmp_path / "run", snapshot())
    (place / name).write_bytes(pickle.dumps(Bomb()))
    content = json.loads((place / "state.json").read_text())["content"]
    content["files"][name] = describe_file(place / name)
    (place / "state.json").write_text(json.dumps({"sha256": json_sha256(content), "content": content}))
    saved = verify(place)
    with pytest.raises(CheckpointError, match="refused, nothing was run"):
        read(saved)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "at", ["training.checkpoints._write_files", "storage.folders._take_place", "storage.folders._reach_disk"]
)
def test_an_interrupted_write_leaves_what_was_there(tmp_path, monkeypatch, at):
    write(tmp_path, snapshot(0, 4))

    def fails(*arguments):
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"paddle_dla.{at}", fails)
        with pytest.raises(CheckpointError, match=r"epoch-0000-batch-000008.*No space left"):
            write(tmp_path, snapshot(0, 8))
    assert verify(tmp_path / "epoch-0000-batch-000004").position == Position(0, 4)
    assert names(tmp_path) == ["epoch-0000-batch-000004"]
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-0000-batch-000004"]


def test_leftovers_of_killed_writers_are_removed(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    leftover = tmp_path / f".epoch-0000-batch-000008.{gone.pid}.part"
    leftover.mkdir()
    (leftover / "model.pdparams").write_bytes(b"half")
    assert newest(tmp_path) == (None, [])
    write(tmp_path, snapshot(0, 8))
    assert not leftover.exists()


def test_a_checkpoint_of_the_same_position_is_replaced(tmp_path):
    write(tmp_path, snapshot(0, 8, value=1.0))
    place = write(tmp_path, snapshot(0, 8, value=2.0))
    assert read(verify(place)).model["weight"][0, 0] == 2.0
    assert len(list(tmp_path.iterdir())) == 1


def test_rotation_keeps_the_newest_two_and_the_best(tmp_path):
    scores = {1: 10.0, 2: 50.0, 3: 30.0, 4: 40.0, 5: None, 6: 20.0, 7: None}
    for epoch, score in scores.items():
        write(tmp_path, snapshot(epoch, score=score))
        rotate(tmp_path, best=2)
    # 2 and 4 are best; 6 and 7 newest
    assert names(tmp_path) == [f"epoch-{epoch:04d}-batch-000000" for epoch in (7, 6, 4, 2)]
    assert (tmp_path / "best").resolve().name == "epoch-0002-batch-000000"
    assert (tmp_path / "last").resolve().name == "epoch-0007-batch-000000"
    assert (tmp_path / "best" / "model.pdparams").exists()


def test_of_equal_scores_the_older_is_best(tmp_path):
    for epoch in (1, 2, 3):
        write(tmp_path, snapshot(epoch, score=50.0))
    rotate(tmp_path, best=1)
    assert (tmp_path / "best").resolve().name == "epoch-0001-batch-000000"


DIES_BETWEEN_RENAMES = """
import os, signal, sys
from paddle_dla.storage import folders
folders._take_place = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
sys.path.insert(0, sys.argv[1])
from test_training_state import *
write(Path(sys.argv[2]), snapshot(0, 8, value=2.0))
"""


def test_a_writer_killed_between_its_renames_leaves_the_checkpoint_that_was_there(tmp_path):
    folder = tmp_path / FOLDER
    write(folder, snapshot(0, 8, value=1.0))
    command = [sys.executable, "-c", DIES_BETWEEN_RENAMES, str(Path(__file__).parent), str(folder)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert names(folder) == []  # set aside, and not yet replaced
    choice = choose(tmp_path, True)
    assert choice.checkpoint.position == Position(0, 8)
    assert read(choice.checkpoint).model["weight"][0, 0] == 1.0
    assert [path.name for path in folder.iterdir()] == ["epoch-0000-batch-000008"]


STRANGE = (
    "epoch-0000-batch-000001-keep",
    "epoch-0000-batch-000002.bak",
    "epoch-x-batch-y",
    "epoch-1-batch-2",
    "epoch-00000-batch-000003",
    "epoch--001-batch-000004",
    "epoch-0000-batch-" + "9" * 100,
    ".epoch-0000-batch-000005",
    ".epoch-mine",
    ".epoch-0000-batch-000006.mine.part",
)


def test_folders_of_other_names_are_left_alone(tmp_path):
    for name in STRANGE:
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").touch()
    for epoch in range(1, 5):
        write(tmp_path, snapshot(epoch))
        rotate(tmp_path, best=0)
    assert names(tmp_path) == ["epoch-0004-batch-000000", "epoch-0003-batch-000000"]
    assert newest(tmp_path)[0].position == Position(4)
    assert all((tmp_path / name / "mine").exists() for name in STRANGE)


def test_a_copy_that_a_user_keeps_under_another_name_is_left_alone(tmp_path):
    kept = tmp_path / "epoch-0001-batch-000000-keep"
    shutil.copytree(write(tmp_path, snapshot(1)), kept)
    for epoch in range(2, 5):
        write(tmp_path, snapshot(epoch))
        rotate(tmp_path, best=0)
    assert read(verify(kept)).model["weight"][0, 0] == 1.0


@pytest.mark.parametrize("name", ["epoch-0000-batch-000004", "epoch-0002-batch-000000", "epoch-0009-batch-000000"])
@pytest.mark.parametrize("way", ["rename", "copy"])
@pytest.mark.parametrize("at", [1, 3])
def test_the_record_says_how_new_a_checkpoint_is_and_not_its_name(tmp_path, name, way, at):
    """Of epochs 1 to 3 one was renamed, or copied, to an older or a later position."""
    folder = tmp_path / FOLDER
    places = {epoch: write(folder, snapshot(epoch, value=epoch)) for epoch in (1, 2, 3)}
    other = folder / name
    shutil.rmtree(other, ignore_errors=True)
    places[at].rename(other) if way == "rename" else shutil.copytree(places[at], other)
    choice = choose(tmp_path, True)
    assert choice.checkpoint.position == Position(3)
    assert read(choice.checkpoint).model["weight"][0, 0] == 3.0
    assert (choice.checkpoint.path == other) == any("renamed" in note for note in choice.notes)
    write(folder, snapshot(4))
    write(folder, snapshot(5))
    rotate(folder, best=0)
    assert newest(folder)[0].position == Position(5)
    assert names(folder) == ["epoch-0005-batch-000000", "epoch-0004-batch-000000", name]
    assert read(verify(other)).model["weight"][0, 0] == at


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 kB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small tmpfs here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_said_and_older_checkpoints_stay(small_disk):
    write(small_disk, snapshot(0, 4))
    large = snapshot(0, 8)
    large = Snapshot({"weight": np.zeros(20000, np.float32)}, None, {}, large.record, large.facts)
    with pytest.raises(CheckpointError, match=r"epoch-0000-batch-000008.*No space left on device.*free some space"):
        write(small_disk, large)
    assert newest(small_disk)[0].position == Position(0, 4)
    assert names(small_disk) == ["epoch-0000-batch-000004"]
    write(small_disk, snapshot(0, 8))


# --- which one to go on from -----------------------------------------------------------------------------------------


def filled(output, *places):
    for place in places:
        write(output / FOLDER, snapshot(*place))
    return output


def test_nothing_is_gone_on_from_where_there_is_nothing(tmp_path):
    assert choose(tmp_path, True).checkpoint is None
    assert choose(tmp_path, False).checkpoint is None


def test_the_newest_is_gone_on_from(tmp_path):
    assert choose(filled(tmp_path, (0, 4), (0, 8)), True).checkpoint.position == Position(0, 8)


def test_passing_over_a_damaged_one_is_noted(tmp_path):
    filled(tmp_path, (0, 4), (0, 8))
    flip(tmp_path / FOLDER / "epoch-0000-batch-000008" / "model.pdparams")
    choice = choose(tmp_path, True)
    assert choice.checkpoint.position == Position(0, 4)
    assert "passed over" in choice.notes[0]
    assert "epoch-0000-batch-000008/model.pdparams" in choice.notes[0]


def test_where_all_are_damaged_nothing_begins_anew_by_itself(tmp_path):
    filled(tmp_path, (0, 4))
    flip(tmp_path / FOLDER / "epoch-0000-batch-000004" / "optimizer.pdopt")
    with pytest.raises(ResumeError, match=r"no checkpoint is whole(?s:.)*optimizer\.pdopt"):
        choose(tmp_path, True)


def test_a_run_does_not_begin_in_the_folder_of_another(tmp_path):
    with pytest.raises(ResumeError, match=r"remove them, name another train\.output"):
        choose(filled(tmp_path, (0, 4)), False)


@pytest.mark.parametrize("inside", ["", FOLDER, f"{FOLDER}/last", f"{FOLDER}/last/model.pdparams"])
def test_a_checkpoint_is_named_by_any_of_its_places(tmp_path, inside):
    other = filled(tmp_path / "other", (0, 4), (0, 8))
    rotate(other / FOLDER, 1)
    assert choose(tmp_path / "run", str(other / inside)).checkpoint.position == Position(0, 8)


def test_a_run_that_has_begun_goes_before_the_checkpoint_that_it_began_with(tmp_path):
    other, own = filled(tmp_path / "other", (2, 0)), filled(tmp_path / "run", (0, 4))
    choice = choose(own, str(other))
    assert choice.checkpoint.position == Position(0, 4)
    assert "go before" in choice.notes[0]


def test_a_path_without_checkpoint_is_an_error(tmp_path):
    with pytest.raises(ResumeError, match=r"weights alone go into model\.pretrained"):
        choose(tmp_path / "run", str(tmp_path / "nothing"))


# --- what has changed since ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"))


def changed(tmp_path, images, *overrides, classes=4, plan=PLAN, threads=1):
    before = verify(write(tmp_path, snapshot(1, 8, config=small_config(images, tmp_path))))
    return changes(before, small_config(images, tmp_path, *overrides), classes, plan, threads)


def test_the_same_config_has_no_changes(tmp_path, images):
    assert changed(tmp_path, images, "train.output=elsewhere", "train.resume=true") == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"overrides": ["optimizer.lr=0.5"]}, r"optimizer\.lr: 0\.01 -> 0\.5"),
        ({"overrides": ["data.batch_size=2"]}, r"data\.batch_size: 4 -> 2"),
        ({"plan": Plan(3, 20, 4, 8, 1)}, "processes: 2 -> 1.*order of images"),
        ({"threads": 2}, "threads: 1 -> 2.*rounded"),
    ],
)
def test_a_change_is_said(tmp_path, images, options, said):
    lines = changed(tmp_path, images, *options.pop("overrides", ()), **options)
    assert any(re.search(said, line) for line in lines)


@pytest.mark.parametrize(
    ("overrides", "classes", "said"),
    [
        (["model.name=dla46_c"], 4, "model.name: dla46x_c -> dla46_c"),
        ([], 5, "classes: 4 -> 5"),
        (["optimizer.name=adamw"], 4, "optimizer.name: nesterov -> adamw"),
        (["train.freeze=[level0]"], 4, "train.freeze"),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused(tmp_path, images, overrides, classes, said):
    with pytest.raises(ResumeError, match=said):
        changed(tmp_path, images, *overrides, classes=classes)


def test_all_that_is_refused_is_said_at_once(tmp_path, images):
    with pytest.raises(ResumeError, match=r"model\.name(?s:.)*optimizer\.name(?s:.)*classes"):
        changed(tmp_path, images, "model.name=dla46_c", "optimizer.name=lamb", classes=5)


def test_another_number_of_ranks_goes_on_after_as_many_images(tmp_path):
    saved = verify(write(tmp_path, snapshot(1, 8)))
    assert position_in(Plan(3, 20, 4, 8, 1), saved) == Position(1, 16)
