"""Every command takes a port's folder where it takes the name of a DLA, and what one writes the others read."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
paddle = pytest.importorskip("paddle")
pytestmark = pytest.mark.torch

from each import each  # noqa: E402
from made_ports import make_port  # noqa: E402
from small_runs import ROOT, environment, make_images  # noqa: E402

from paddle_dla import cli, evaluate, export, features, info, predict  # noqa: E402
from paddle_dla.config import load_config  # noqa: E402
from paddle_dla.ranks import Ranks  # noqa: E402
from paddle_dla.training.start import train  # noqa: E402
from paddle_dla.training.stopping import StopRequest  # noqa: E402
from paddle_dla.weight_files import read  # noqa: E402

PORTS = {
    "test_resnet": ((), 32, "conv1"),
    "test_efficientnet": ((), 32, "conv_stem"),
    "test_convnext": ((), 32, "stem"),
    "vit_tiny_patch16_224": (("--img-size", "32"), 32, "patch_embed"),
    "resnet18": (("--input-shape", "3x64x64"), 32, "conv1"),
    "convnext_atto": (("--input-shape", "3x64x64"), 32, "stem"),
    "efficientnet_lite0": (("--input-shape", "3x64x64"), 32, "conv_stem"),
    "swin_tiny_patch4_window7_224": (("--img-size", "56"), 56, "patch_embed"),
}
"""What ``convert/port.py`` is told, the side of the images of these tests, and what of the network is the stem."""
QUICK = ("test_resnet", "vit_tiny_patch16_224")
"""A convolutional network with normalisation by batches, and a transformer."""
NOT_IN_PADDLE_INFERENCE = ("swin_tiny_patch4_window7_224",)
"""Paddle Inference 3.3.1 raises in a oneDNN kernel when it opens them; the command says so."""

CONFIG = """
model: {{name: {port}, pretrained: true, num_classes: 4, drop_rate: 0.2}}
data: {{train: {data}/train, val: {data}/val, batch_size: 8, workers: 0}}
transform:
  train: {{input_size: [3, {side}, {side}]}}
  eval: {{input_size: [3, {side}, {side}]}}
mixing: {{mixup_alpha: 0.4}}
optimizer: {{name: adamw, lr: 0.001, weight_decay: 0.05, layer_decay: 0.7}}
schedule: {{warmup_epochs: 0}}
ema: {{enabled: true, decay: 0.9}}
train: {{epochs: 2, threads: 1, output: {output}, freeze: [{stem}]}}
evaluate: {{topk: [1]}}
"""


class Tuned:
    """A port, its fine-tuned checkpoint and the images that it was tuned on."""

    def __init__(self, name, folder):
        options, self.side, self.stem = PORTS[name]
        self.name, self.port = name, make_port(name, folder, *options)
        self.data = make_images(folder / "data")
        self.config = folder / "config.yaml"
        self.output = folder / "run"
        text = CONFIG.format(port=self.port, data=self.data, output=self.output, side=self.side, stem=self.stem)
        self.config.write_text(text)
        train(load_config(self.config), Ranks(), StopRequest(), lambda line: None)
        self.checkpoint = str(self.output / "checkpoints" / "last" / "model.pdparams")
        self.arguments = ["--model", self.port, "--checkpoint", self.checkpoint]


@pytest.fixture(
    scope="module",
    params=each(PORTS, QUICK),
)
def tuned(request, tmp_path_factory):
    return Tuned(request.param, tmp_path_factory.mktemp(request.param))


def evaluated(tuned, *options, capsys):
    assert evaluate.main([*options, "--data", str(tuned.data / "val")]) == 0
    lines = capsys.readouterr().out.splitlines()
    return lines, next(line for line in lines if line.startswith("END")).split("loss")[0]


def test_training_records_what_the_other_commands_need(tuned):
    arrays, manifest = read(tuned.checkpoint)
    assert manifest["model"] == tuned.name and manifest["num_classes"] == 4
    assert manifest["preprocessing"]["input_size"] == [3, tuned.side, tuned.side]
    before = read(f"{tuned.port}/weights.pdparams")[0]
    for name in arrays:
        if name.startswith(f"{tuned.stem}."):
            assert np.array_equal(arrays[name], before[name]), f"{name} was frozen"
    changed = [name for name in arrays if arrays[name].shape == before[name].shape
               and not np.array_equal(arrays[name], before[name])]  # fmt: skip
    assert len(changed) > len(arrays) / 3


def test_evaluate_begins_with_the_preprocessing_and_engines_agree(tuned, capsys):
    lines, scores = evaluated(tuned, *tuned.arguments, capsys=capsys)
    assert lines[0] == f"model: {tuned.name}, weights {tuned.checkpoint}"
    assert lines[1].startswith(f"images: 3x{tuned.side}x{tuned.side}") and "assumed" not in lines[2]
    if tuned.name in NOT_IN_PADDLE_INFERENCE:
        assert evaluate.main([*tuned.arguments, "--engine", "inference", "--data", str(tuned.data / "val")]) == 1
        assert "cannot open" in capsys.readouterr().err
        return
    assert (
        evaluated(tuned, *tuned.arguments, "--engine", "inference", capsys=capsys)[1].split("images/sec")[0] == scores
    )


def test_an_export_scores_the_same(tuned, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    folder = str(tmp_path / "export")
    formats = ["onnx"] if tuned.name in NOT_IN_PADDLE_INFERENCE else ["onnx", "inference"]
    assert export.main([*tuned.arguments, "--output", folder, *(f"--format={one}" for one in formats)]) == 0
    capsys.readouterr()
    _, scores = evaluated(tuned, *tuned.arguments, capsys=capsys)
    for engine in ("onnxruntime", "inference")[: len(formats)]:
        assert evaluated(tuned, "--export", folder, "--engine", engine, capsys=capsys)[1] == scores
    assert info.main([folder, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["model"] == tuned.name and facts["preprocessing"]["input_size"] == [3, tuned.side, tuned.side]


def test_predict_names_the_classes_of_the_training(tuned, capsys):
    image = str(next((tuned.data / "val" / "class1").iterdir()))
    assert predict.main([image, *tuned.arguments, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)[0]["classes"]
    assert {entry["name"] for entry in found} == {f"class{label}" for label in range(4)}


def test_features_are_what_the_classifier_reads(tuned, tmp_path):
    from paddle_dla.loading import load_model

    target = tmp_path / "features.npy"
    assert features.main(["--data", str(tuned.data / "val"), *tuned.arguments, "--output", str(target)]) == 0
    width = load_model(tuned.port, tuned.checkpoint).layer.get_classifier().weight.shape
    assert np.load(target).shape == (12, width[0] if len(width) == 2 else width[1])


def test_a_probe_trains_the_classifier_alone(tuned, tmp_path):
    over = [f"train.output={tmp_path}", "train.freeze=[]", "train.linear_probe=true", "optimizer.layer_decay=null",
            "train.epochs=1"]  # fmt: skip
    train(load_config(tuned.config, over), Ranks(), StopRequest(), lambda line: None)
    arrays = read(tmp_path / "checkpoints" / "last" / "model.pdparams")[0]
    before, head = read(f"{tuned.port}/weights.pdparams")[0], json.loads(Path(tuned.port, "card.json").read_text())
    other = [name for name in arrays if not name.startswith(f"{head['classifier']}.")]
    assert all(np.array_equal(arrays[name], before[name]) for name in other)


def test_a_training_that_is_cut_goes_on_to_the_same_bits(tuned, tmp_path):
    command = [sys.executable, "-m", "paddle_dla.train", "--config", str(tuned.config), "-o"]
    first = [*command, f"train.output={tmp_path / 'run'}", "train.recovery_interval=1"]
    process = subprocess.Popen(first, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    for line in process.stdout:
        if b"END epoch:0" in line:
            break
    process.kill()
    process.wait()
    subprocess.run(first, cwd=ROOT, env=environment(), check=True, capture_output=True)
    cut, whole = (read(run / "checkpoints" / "last" / "model.pdparams")[0] for run in (tmp_path / "run", tuned.output))
    assert all(np.array_equal(cut[name], whole[name]) for name in whole)


def test_recomputation_changes_nothing_of_a_training(tuned, tmp_path):
    over = [f"train.output={tmp_path / 'run'}", "train.recompute=true"]
    assert cli.main(["train", "--config", str(tuned.config), "-o", *over]) == 0
    ours = read(tmp_path / "run" / "checkpoints" / "last" / "model.pdparams")[0]
    theirs = read(tuned.checkpoint)[0]
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_a_port_teaches_another(tuned, tmp_path):
    over = [f"train.output={tmp_path}", f"loss.distillation.teacher={tuned.port}", "train.epochs=1",
            f"loss.distillation.checkpoint={tuned.checkpoint}"]  # fmt: skip
    outcome = train(load_config(tuned.config, over), Ranks(), StopRequest(), lambda line: None)
    assert (outcome.folder / "last" / "model.pdparams").is_file()


def test_info_knows_a_port_without_running_it(tuned, capsys):
    assert info.main([tuned.port, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["model"] == tuned.name and facts["proved"] and facts["parameters"] > 1e4
    assert info.main([tuned.checkpoint, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_classes"] == 4


def test_a_checkpoint_without_a_record_says_what_is_assumed(tuned, tmp_path, capsys):
    alone = tmp_path / "alone.pdparams"
    alone.write_bytes(Path(tuned.checkpoint).read_bytes())
    with pytest.warns(UserWarning, match="unverified"):
        lines, _ = evaluated(
            tuned, "--model", tuned.port, "--checkpoint", str(alone), "--input-size", str(tuned.side), capsys=capsys
        )
    assert lines[2].startswith("  assumed: ") and "records none" in lines[2]


def test_no_published_figure_is_compared_with_a_ports(tuned, capsys):
    lines, _ = evaluated(tuned, *tuned.arguments, "--compare-published", capsys=capsys)
    assert lines[-1].startswith("not compared with published figures")
