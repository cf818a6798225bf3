"""A run that is killed at any moment and started again is, to the bit, the run that was never interrupted.

``test_kills.py`` kills more often, and whatever process it hits.
"""

from __future__ import annotations

import json
import random
import signal
import time

import pytest
from small_runs import (
    UPDATES,
    UPDATES_OF_TWO,
    command,
    final_files,
    finish,
    losses,
    make_images,
    run,
    small_config,
    started,
    steps,
    wait_for,
    write_config,
)

from paddle_dla.data.opening import open_source
from paddle_dla.data.shard_writer import write_shards
from paddle_dla.ranks import Ranks
from paddle_dla.training import state, step
from paddle_dla.training.errors import Stopped
from paddle_dla.training.start import train
from paddle_dla.training.stopping import StopRequest
from paddle_dla.training.trainer import Trainer
from paddle_dla.training.validation import Validator


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"))


def uninterrupted(folder, images, processes):
    config = write_config(folder, images)
    code, output = run(command(config, processes=processes))
    assert code == 0, output
    assert len(steps(folder / "run")) == {1: UPDATES, 2: UPDATES_OF_TWO}[processes]
    return folder / "run"


@pytest.fixture(scope="module")
def reference(images, tmp_path_factory):
    """The run of one process that was never interrupted."""
    return uninterrupted(tmp_path_factory.mktemp("reference"), images, 1)


@pytest.fixture(scope="module")
def reference_of_two(images, tmp_path_factory):
    """The run of two processes that was never interrupted."""
    return uninterrupted(tmp_path_factory.mktemp("reference2"), images, 2)


def run_with_kills(folder, images, kills, processes=1, seed=0):
    """Kill the command at random moments, each time after at least one more update, then let it end."""
    rng, config = random.Random(seed), write_config(folder, images)
    arguments = command(config, processes=processes)
    for _ in range(kills):
        with started(arguments) as process:
            let_it_make_more(process, folder / "run", rng.uniform(0, 0.5))
    code, output = run(arguments)
    assert code == 0, output
    return folder / "run"


def let_it_make_more(process, output, seconds):
    """Wait until the log has changed, which it does with the first update, and for ``seconds``."""
    before = len(steps(output))
    wait_for(lambda: process.poll() is not None or len(steps(output)) != before)
    time.sleep(seconds)


def check_same(found, reference):
    assert losses(found) == losses(reference)
    assert final_files(found) == final_files(reference)


def test_killed_runs_go_on_to_the_same_bits(tmp_path, images, reference):
    check_same(run_with_kills(tmp_path, images, kills=2), reference)


@pytest.mark.heavy
def test_two_processes_go_on_to_the_same_bits(tmp_path, images, reference_of_two):
    check_same(run_with_kills(tmp_path, images, kills=1, processes=2), reference_of_two)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_and_leaves(tmp_path, images, number):
    """That the run goes on from there to the same bits is shown below, for any update."""
    # no other checkpoint than the one that the signal leaves
    arguments = command(write_config(tmp_path, images), "train.recovery_interval=0", "train.val_interval=0")
    with started(arguments) as process:
        wait_for(lambda: len(steps(tmp_path / "run")) >= 2)
        process.send_signal(number)
        # seconds: a step of this run takes 0.05 s, and its checkpoint as much; 10 s are for a busy machine
        code, output = finish(process, timeout=10)
    assert code == 3, output
    assert signal.Signals(number).name in output
    assert "the same command goes on from" in output
    saved = json.loads((tmp_path / "run" / "checkpoints" / "last" / "state.json").read_text())["content"]
    assert saved["updates"] == steps(tmp_path / "run")[-1]["step"]


# --- in this process: stopped after some updates, and what if something were forgotten ------------------------------


def train_until(config, updates):
    """Stop after ``updates`` updates, as a signal would."""
    stop = StopRequest()
    told = Trainer._update

    def counting(trainer, batches, clock):
        told(trainer, batches, clock)
        if trainer._plan.updates(trainer.at.position) >= updates:
            stop.reason = "SIGTERM"

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Trainer, "_update", counting)
        train(config, Ranks(), stop, say=lambda line: None)


def train_to_the_end(config):
    return train(config, Ranks(), StopRequest(), say=lambda line: None)


@pytest.fixture
def no_pictures(monkeypatch):
    """Curves take longer than these runs."""
    monkeypatch.setattr("paddle_dla.training.curves.Curves.can_draw", lambda: False)


def interrupted(tmp_path, images, *overrides, after=7):
    """Stopped and gone on with, without workers: that their number changes no bit is part of what is shown."""
    config = small_config(images, tmp_path / "run", "train.recovery_interval=0", "data.workers=0", *overrides)
    train_until(config, after)
    train_to_the_end(config)
    return tmp_path / "run"


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("after", [1, 5, 7, UPDATES - 1], ids=["early", "end of an epoch", "within", "late"])
def test_stopped_anywhere_it_goes_on_to_the_same_bits(tmp_path, images, reference, after):
    check_same(interrupted(tmp_path, images, after=after), reference)


@pytest.mark.usefixtures("no_pictures")
def test_stopped_while_it_validates_it_goes_on_with_the_validation(tmp_path, images, reference):
    config = small_config(images, tmp_path / "run", "train.recovery_interval=0", "data.workers=0")
    stop, scores = StopRequest(), Validator.scores

    def stopping(validator, network, epoch=0):
        stop.reason = "SIGTERM"
        return scores(validator, network, epoch)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Validator, "scores", stopping)
        train(config, Ranks(), stop, say=lambda line: None)
    # 10 batches are all of an epoch
    assert (tmp_path / "run" / "checkpoints" / "last").resolve().name == "epoch-0000-batch-000010"
    train_to_the_end(config)
    check_same(tmp_path / "run", reference)


def forget_average(patch):
    restore = state.restore
    patch.setattr(
        "paddle_dla.training.start.restore",
        lambda learner, snapshot, source: restore(
            learner, type(snapshot)(snapshot.model, None, snapshot.optimizer, snapshot.record, {}), source
        ),
    )


def forget_velocity(patch):
    restore = state.restore

    def without(learner, snapshot, source):
        zeros = {name: array * 0 for name, array in snapshot.optimizer.items()}
        restore(learner, type(snapshot)(snapshot.model, snapshot.ema, zeros, snapshot.record, {}), source)

    patch.setattr("paddle_dla.training.start.restore", without)


def forget_randomness(patch):
    """Dropout goes on from whatever the generator holds."""
    patch.setattr(step.paddle, "seed", lambda seed: None)


def forget_statistics(patch):
    """The batch at which the run was stopped has gone through BatchNorm once already."""
    patch.setattr(step.TrainStep, "rewind", lambda self: self._learner.optimizer.clear_grad())


def forget_place_in_epoch(patch):
    from paddle_dla.training import resuming, start
    from paddle_dla.training.plan import Position

    patch.setattr(start, "position_in", lambda plan, found: Position(resuming.position_in(plan, found).epoch))


FORGOTTEN = [forget_average, forget_velocity, forget_randomness, forget_statistics, forget_place_in_epoch]


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("forget", FORGOTTEN)
def test_whatever_is_forgotten_is_seen(tmp_path, images, reference, forget):
    with pytest.MonkeyPatch.context() as patch:
        forget(patch)
        found = interrupted(tmp_path, images)
    assert final_files(found) != final_files(reference)


def falling_scores(patch):
    """The first validation is the best."""

    def scores(trainer, epoch):
        trainer._learner.network.eval()
        return {"top1": 90.0 - epoch, "top5": 100.0, "loss": 1.0}

    patch.setattr(Trainer, "_scores", scores)


@pytest.mark.usefixtures("no_pictures")
def test_the_best_score_is_kept(tmp_path, images, monkeypatch):
    falling_scores(monkeypatch)
    output = interrupted(tmp_path, images, "train.checkpoint_hist=1")
    assert final_files(output)["best"] == {"score": 90.0, "epoch": 1}
    assert (output / "checkpoints" / "best").resolve().name == "epoch-0001-batch-000000"


@pytest.mark.usefixtures("no_pictures")
def test_a_forgotten_best_score_is_seen(tmp_path, images, monkeypatch):
    falling_scores(monkeypatch)
    monkeypatch.setattr("paddle_dla.training.start.Best", lambda **best: None)
    assert final_files(interrupted(tmp_path, images))["best"]["epoch"] != 1


@pytest.mark.usefixtures("no_pictures")
def test_shards_go_on_to_the_same_bits_with_as_many_workers(tmp_path, images):
    """Which batches are left out depends on the workers there: each reads files of its own."""
    write_shards(open_source(images / "train"), tmp_path / "shards", samples_per_shard=7)
    found = []
    for name in ("whole", "stopped"):
        output = tmp_path / name
        config = small_config(images, output, f"data.train={tmp_path / 'shards'}", "train.recovery_interval=0")
        if name == "stopped":
            train_until(config, 7)
        train_to_the_end(config)
        found.append((losses(output), final_files(output)))
    assert found[0] == found[1]


@pytest.mark.usefixtures("no_pictures")
def test_a_finished_run_does_nothing_more(tmp_path, images):
    config = small_config(images, tmp_path / "run", "data.workers=0")
    train_to_the_end(config)
    before = final_files(tmp_path / "run"), losses(tmp_path / "run")
    train_to_the_end(config)
    assert (final_files(tmp_path / "run"), losses(tmp_path / "run")) == before
