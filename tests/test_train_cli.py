"""The command ``train``: what it prints, what it refuses, what it leaves behind, and how it fails."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_runs import (
    UPDATES,
    children,
    command,
    final_files,
    finish,
    kill,
    losses,
    make_images,
    pid_of,
    run,
    started,
    steps,
    wait_for,
    write_config,
)

from convert.paddle2timm import main as paddle2timm
from paddle_dla.config import load_config
from paddle_dla.evaluate import main as evaluate
from paddle_dla.launch import output_folder
from paddle_dla.loading import load_model
from paddle_dla.storage.manifest import describe
from paddle_dla.train import chosen_config, main, parser
from paddle_dla.weight_files import read, save

QUICK = ("data.workers=0", "train.epochs=1", "schedule.warmup_epochs=0")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Curves take longer than these runs."""
    monkeypatch.setattr("paddle_dla.training.curves.Curves.can_draw", lambda: False)


@pytest.fixture
def config(tmp_path, images):
    return write_config(tmp_path, images)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, images):
    """A run of one epoch, ended."""
    folder = tmp_path_factory.mktemp("trained")
    assert call(write_config(folder, images)) == 0
    return folder


def call(config, *overrides, options=()):
    """The command in this process; its exit code."""
    return main([*options, "--config", str(config), "-o", *QUICK, *overrides])


def entries(folder):
    return sorted(path.name for path in folder.glob("epoch-*"))


NAMES = [
    "run #3",
    " spaces ",
    "2024",
    "1e3",
    "a: b",
    "[x]",
    "null",
    "true",
    "*x",
    "!x",
    'it"s',
    "two\nlines",
    "\u202ex",
    "x\udcff",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_the_output_is_the_folder_of_that_name_whatever_yaml_makes_of_it(name, config):
    args = parser().parse_args(["--config", str(config), "--output", name, "--resume", f"{name}/last"])
    chosen = chosen_config(args)
    assert (chosen.train.output, chosen.train.resume) == (name, f"{name}/last")
    assert output_folder(["--config", str(config), "--output", name]) == Path(name)


def test_a_tilde_in_the_output_is_the_users_folder(config, monkeypatch):
    """``./~`` would be the alternative, and who finds that there removes too much."""
    monkeypatch.setenv("HOME", "/home/user")
    for said in (["--output=~/run"], ["-o", "train.output=~/run"]):
        chosen = chosen_config(parser().parse_args(["--config", str(config), *said]))
        assert chosen.train.output == "/home/user/run"
        assert output_folder(["--config", str(config), *said]) == Path("/home/user/run")


# --- what it says and leaves -----------------------------------------------------------------------------------------


def test_it_says_what_it_will_do(config, capsys):
    assert call(config) == 0
    text = capsys.readouterr().out
    for part in (
        "dla46x_c, 4 classes, images (3, 32, 32)",
        "40 images to train on, 12 to validate",
        "nesterov, lr 0.01",
        "global batch 8 = 4 x 1 processes x 2",
        "cpu, 1 threads",
        "1 epochs x 5 updates = 5 steps",
        "cost: 1 epochs x 40 images",
        "done; best top1: ",
    ):
        assert part in text


def test_the_resolved_config_is_written_beside_the_results(trained):
    written = load_config(trained / "run" / "config.yaml")
    assert written == load_config(trained / "config.yaml", QUICK)


def test_output_and_resume_are_options_of_their_own(config, tmp_path):
    assert call(config, options=("--output", str(tmp_path / "other"), "--resume", "never")) == 0
    assert load_config(tmp_path / "other" / "config.yaml").train.resume is False
    assert entries(tmp_path / "other" / "checkpoints")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["last/model.pdparams", "last/ema.pdparams", "best/model.pdparams"])
def test_any_checkpoint_is_a_converted_file_to_the_other_commands(trained, images, tmp_path, name):
    file = trained / "run" / "checkpoints" / name
    loaded = load_model(None, str(file))
    assert (loaded.name, loaded.num_classes) == ("dla46x_c", 4)
    assert loaded.preprocessing.input_size == (3, 32, 32)
    assert loaded.preprocessing.crop_pct == 1.0
    results = tmp_path / "results.json"
    assert evaluate(["--checkpoint", str(file), "--data", str(images / "val"), "--json", str(results)]) == 0
    state = json.loads((file.parent / "state.json").read_text())["content"]
    key = "ema_top1" if name.startswith("last/ema") else "top1"
    assert json.loads(results.read_text())["top1"] == pytest.approx(state["scores"][key])


def test_every_checkpoint_goes_back_to_timm(trained, tmp_path):
    for place in entries(trained / "run" / "checkpoints"):
        for name in ("model", "ema"):
            file = trained / "run" / "checkpoints" / place / f"{name}.pdparams"
            target = tmp_path / f"{place}.{name}.safetensors"
            assert paddle2timm(["--checkpoint", str(file), "--output", str(target)]) == 0
            assert target.exists()


def test_weights_that_were_trained_can_be_fine_tuned_with_a_new_head(trained, config, images, tmp_path):
    weights = trained / "run" / "checkpoints" / "last" / "model.pdparams"
    few = tmp_path / "few"
    for split in ("train", "val"):
        for label in (0, 1, 2):
            shutil.copytree(images / split / f"class{label}", few / split / f"class{label}")
    with pytest.warns(UserWarning, match="4 classes, the model 3"):
        code = call(
            config,
            f"model.pretrained={weights}",
            "model.num_classes=3",
            f"data.train={few / 'train'}",
            f"data.val={few / 'val'}",
            "transform.train.input_size=[3, 64, 64]",
            "train.freeze=[base_layer, level0]",
        )
    assert code == 0
    before, _ = read(weights)
    after, _ = read(tmp_path / "run" / "checkpoints" / "last" / "model.pdparams")
    assert after["fc.weight"].shape[0] == 3
    assert after["base_layer.0.weight"].tobytes() == before["base_layer.0.weight"].tobytes()
    assert after["level5.root.conv.weight"].tobytes() != before["level5.root.conv.weight"].tobytes()


def test_the_log_has_every_step_once(trained):
    assert [item["step"] for item in steps(trained / "run")] == list(range(1, 6))


# --- what it refuses, before anything is written ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optimizer.lerning_rate=1", "optimizer.lr"),
        ("data.batch_size=many", "data.batch_size"),
        ("train.amp=bfloat16", "no mixed precision on CPU"),
        ("train.sync_bn=true", "no CPU kernel"),
        ("data.train=nowhere", "nowhere"),
        ("data.batch_size=999", "fewer than data.batch_size"),
        ("transform.train.auto_augment=rand-q7", "rand-q7"),
        ("model.pretrained=nothing.pdparams", "nothing.pdparams"),
        ("train.resume=nothing", "there is no checkpoint of a training"),
        ("train.freeze=[level3.tree9]", "level3.tree9"),
        ("model.num_classes=3", "class"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(config, tmp_path, capsys, override, said):
    assert call(config, override) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_output_that_cannot_be_written_is_refused(config, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert call(config, f"train.output={tmp_path / 'file'}") == 1
    assert "file" in capsys.readouterr().err


# --- resuming --------------------------------------------------------------------------------------------------------


@pytest.fixture
def begun(trained, tmp_path, config):
    """A copy of the ended run."""
    shutil.copytree(trained / "run", tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def test_a_resume_with_another_config_says_what_differs(config, begun, capsys):
    assert call(config, "train.epochs=2", "optimizer.weight_decay=0.5", "data.batch_size=8") == 0
    text = capsys.readouterr().out
    assert "going on from" in text
    for line in ("train.epochs: 1 -> 2", "optimizer.weight_decay: 0.0001 -> 0.5", "data.batch_size: 4 -> 8"):
        assert f"not as before: {line}" in text


@pytest.mark.parametrize(
    ("override", "said"),
    [("model.name=dla46_c", "model.name: dla46x_c -> dla46_c"), ("optimizer.name=adamw", "optimizer.name: nesterov")],
)
def test_a_checkpoint_of_another_model_or_optimizer_is_refused(config, begun, capsys, override, said):
    before = final_files(begun)
    assert call(config, "train.epochs=2", override) == 1
    assert said in capsys.readouterr().err
    assert final_files(begun) == before


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_used(config, begun, capsys):
    expected = final_files(begun), losses(begun)
    newest = (begun / "checkpoints" / "last").resolve()
    with open(newest / "optimizer.pdopt", "r+b") as file:
        file.truncate(1000)
    assert call(config) == 0
    text = capsys.readouterr().out
    assert f"{newest.name}/optimizer.pdopt is not what was written" in text
    assert "going on from" in text
    assert (final_files(begun), losses(begun)) == expected


def test_never_does_not_overwrite(config, begun, capsys):
    assert call(config, options=("--resume", "never")) == 1
    assert "has checkpoints of an earlier run" in capsys.readouterr().err


def test_a_run_can_begin_with_the_checkpoint_of_another(config, trained, tmp_path):
    other = tmp_path / "other"
    assert call(config, "train.epochs=2", f"train.output={other}", options=("--resume", str(trained / "run"))) == 0
    assert [item["step"] for item in steps(other)] == list(range(6, 11))


# --- what fails while it runs ----------------------------------------------------------------------------------------


def left(output):
    """The name of the only checkpoint, and its weights."""
    (name,) = entries(output / "checkpoints")
    return name, read(output / "checkpoints" / name / "model.pdparams")[0]


def finite(weights):
    return all(np.isfinite(array).all() for array in weights.values())


def test_what_is_not_finite_names_step_and_layer_and_leaves_the_state_before_it(trained, config, tmp_path, capsys):
    weights, manifest = read(trained / "run" / "checkpoints" / "last" / "model.pdparams")
    large = weights["level4.tree1.tree1.conv1.weight"]
    # finite, but what it makes of an image is not
    weights = {**weights, "level4.tree1.tree1.conv1.weight": large / abs(large).max() * np.float32(3e38)}
    tensors = {name: describe(array) for name, array in weights.items()}
    save(tmp_path / "large.pdparams", weights, {**manifest, "tensors": tensors})
    assert call(config, f"model.pretrained={tmp_path / 'large.pdparams'}") == 1
    text = capsys.readouterr().err
    # ReLU makes a 0 of a NaN on a CPU, so that the loss may be a number; then the gradient of the whole update is not:
    # from the head on, or, as with Paddle 2.6, from the layer at fault on
    first = re.search(r"step 1 \(epoch 0, batch 1\): rank 0: the gradient is nan first at (\S+): ", text)[1]
    assert first in ("fc.weight", "level4.tree1.tree1.conv1.weight")
    assert "the first layer with an output that is not finite is level4.tree1.tree1.conv1 (Conv2D)" in text
    name, found = left(tmp_path / "run")
    assert name == "epoch-0000-batch-000000"
    assert all(found[key].tobytes() == weights[key].tobytes() for key in weights)
    assert f"goes on from {tmp_path / 'run' / 'checkpoints' / name}" in text


def test_a_loss_that_is_not_finite_stops_before_it_reaches_the_weights(trained, config, tmp_path, capsys):
    weights, manifest = read(trained / "run" / "checkpoints" / "last" / "model.pdparams")
    weights = {**weights, "fc.weight": np.full_like(weights["fc.weight"], 3e38)}
    tensors = {name: describe(array) for name, array in weights.items()}
    save(tmp_path / "large.pdparams", weights, {**manifest, "tensors": tensors})
    assert call(config, f"model.pretrained={tmp_path / 'large.pdparams'}") == 1
    text = capsys.readouterr().err
    assert "step 1 (epoch 0, batch 0): rank 0: the loss is nan: the first layer" in text
    assert "is fc (Conv2D), whose weights are finite" in text
    assert left(tmp_path / "run")[0] == "epoch-0000-batch-000000"


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(config, tmp_path, capsys):
    assert call(config, "optimizer.lr=1e30", "optimizer.clip_grad=null") == 1
    text = capsys.readouterr().err
    assert "step 2 (epoch 0, batch 3): rank 0: the gradient is nan first at level5" in text
    name, weights = left(tmp_path / "run")
    assert name == "epoch-0000-batch-000002"
    assert finite(weights)


def test_a_killed_worker_is_named_and_nothing_is_lost(tmp_path, config):
    with started(command(config, "train.recovery_interval=0", "train.epochs=50")) as process:
        wait_for(lambda: len(steps(tmp_path / "run")) >= 6)
        # the children are the loader's workers
        wait_for(lambda: [kill(pid, signal.SIGKILL) for pid in children(process.pid)])
        code, output = finish(process)
    assert code == 1
    assert "loader worker" in output
    assert "killed by SIGKILL" in output
    assert updates_saved(tmp_path / "run") == steps(tmp_path / "run")[-1]["step"]


def updates_saved(output):
    """In the last checkpoint."""
    return json.loads((output / "checkpoints" / "last" / "state.json").read_text())["content"]["updates"]


def test_a_full_disk_is_said_and_older_checkpoints_stay(tmp_path, images):
    place = tmp_path / "small"
    place.mkdir()
    # each checkpoint of this run takes 10 MB: room for the two that are kept, and not for a third beside them
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=25m", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small tmpfs here: {mounted.stderr.strip()}")
    try:
        config = write_config(tmp_path, images, place / "run")
        code, output = run(command(config, *QUICK))
        assert code == 1, output
        assert "No space left on device; free some space" in output
        kept = entries(place / "run" / "checkpoints")
        assert kept
        subprocess.run(["mount", "-o", "remount,size=200m", place], check=True)
        code, output = run(command(config, *QUICK))
        assert code == 0, output
        assert f"going on from {place / 'run' / 'checkpoints' / kept[-1]}" in output
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.heavy
def test_a_killed_first_rank_ends_the_job_and_nothing_is_lost(tmp_path, config):
    """Of another rank: test_train_dist.py."""
    # Paddle's own launcher names whichever rank it sees end first
    launch = [sys.executable, "-m", "paddle_dla.launch", "--nproc", "2", "train"]
    with started([*launch, *command(config, "train.epochs=100")[3:]]) as process:
        wait_for(lambda: len(steps(tmp_path / "run")) >= 4)
        pid = pid_of(tmp_path / "run", 0)
        kill(pid, signal.SIGKILL)
        code, output = finish(process, timeout=60)
    assert code == 128 + signal.SIGKILL
    assert f"error: rank 0 (pid {pid}, " in output
    assert entries(tmp_path / "run" / "checkpoints")
    code, output = run(command(config, "train.epochs=4", processes=2))
    assert code == 0, output
    assert "going on from" in output


@pytest.mark.heavy
def test_a_hanging_rank_is_named_by_the_launcher_and_nothing_is_lost(tmp_path, config):
    training = command(config, "train.epochs=100", "train.recovery_interval=0", "train.val_interval=0")[3:]
    launcher = [sys.executable, "-m", "paddle_dla.launch", "--nproc", "2", "--hang-timeout", "6"]
    with started([*launcher, "paddle_dla/train.py", *training]) as process:
        wait_for(lambda: len(steps(tmp_path / "run")) >= 4)
        hanging = pid_of(tmp_path / "run", 1)
        kill(hanging, signal.SIGSTOP)
        code, output = finish(process)
    assert code == 124, output
    assert f"rank 1 (pid {hanging}" in output
    assert "hangs" in output
    assert updates_saved(tmp_path / "run") == steps(tmp_path / "run")[-1]["step"]


@pytest.fixture(scope="module")
def as_one_and_as_two(trained, images, tmp_path_factory):
    """The same training by one process and by two that share its batches: ``{processes: (folder, output)}``.

    BatchNorm is in evaluation mode, and nothing is drawn for each batch and rank.
    """
    weights = trained / "run" / "checkpoints" / "last" / "model.pdparams"
    drawn = ("model.drop_rate=0", "mixing.mixup_alpha=0", "mixing.cutmix_alpha=0", "transform.train.re_prob=0")
    same = (f"model.pretrained={weights}", "train.linear_probe=true", "train.recovery_interval=0", *drawn)
    found = {}
    for processes, batch_size in ((1, 4), (2, 2)):
        folder = tmp_path_factory.mktemp(f"by{processes}")
        config = write_config(folder, images)
        code, output = run(command(config, *same, f"data.batch_size={batch_size}", processes=processes))
        assert code == 0, output
        found[processes] = folder / "run", output
    return found


@pytest.mark.slow
def test_two_processes_write_one_checkpoint_and_a_log_each(as_one_and_as_two):
    folder, output = as_one_and_as_two[2]
    assert losses(folder) == [
        (item["step"], item["loss"], item["lr"], item["grad_norm"]) for item in steps(folder, rank=1)
    ]
    assert "global batch 8 = 2 x 2 processes x 2" in output
    assert os.listdir(folder / "checkpoints" / "last")


@pytest.mark.slow
def test_two_processes_train_as_one_does_on_the_whole_batch(as_one_and_as_two):
    """Over accumulated batches, too: ranks exchange the sum of both."""
    one, two = (np.array(losses(folder)) for folder, _ in as_one_and_as_two.values())
    assert len(one) == UPDATES
    # rounding alone: float32 sums of 4 losses in another order, through 10 updates
    np.testing.assert_allclose(two, one, rtol=1e-5)


@pytest.mark.slow
def test_two_processes_exchange_gradients_that_were_recomputed(tmp_path, images):
    found = []
    for recompute in ("false", "true"):
        folder = tmp_path / recompute
        folder.mkdir()
        options = (*QUICK, f"train.recompute={recompute}", "optimizer.lr=1e-15", "train.recovery_interval=0")
        code, output = run(command(write_config(folder, images), *options, processes=2))
        assert code == 0, output  # weights that drift apart end the run
        found.append(np.array([line[3] for line in losses(folder / "run")]))
    # the norm of all gradients, at weights that do not move: of one rank's alone it would be off by tens of percent;
    # float32 sums in another order, magnified by BatchNorm over 4 images
    np.testing.assert_allclose(found[1], found[0], rtol=1e-3)


@pytest.mark.parametrize("pool", ["max", "catavgmax"])
def test_another_pooling_is_remembered_with_the_weights(config, tmp_path, pool):
    assert call(config, f"model.global_pool={pool}") == 0
    loaded = load_model(None, str(tmp_path / "run" / "checkpoints" / "last" / "model.pdparams"))
    assert loaded.layer.global_pool.pool_type == pool
