"""A network of a user's own, or a port, that does what no classifier does: one sentence, and never a number."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn
from small_runs import make_images, small_config

from paddle_dla.engines.base import EngineError, NetworkError
from paddle_dla.engines.eager import EagerEngine, outputs_of
from paddle_dla.exporting.exporter import Wanted, export_model
from paddle_dla.models.factory import create_model
from paddle_dla.models.registry import ModelError
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.ranks import Ranks
from paddle_dla.training.start import train
from paddle_dla.training.stopping import StopRequest

ROOT = Path(__file__).parent.parent
CLASSES, SIZE = 4, (3, 8, 8)


class Net(nn.Layer):
    num_classes, in_chans = CLASSES, 3

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2D(3, 4, 3, 2, 1), nn.Linear(4, CLASSES)

    def logits(self, x):
        return self.head(nn.functional.relu(self.stem(x)).mean([2, 3]))

    def forward(self, x):
        return self.logits(x)


def returning(change):
    """A network that returns ``change`` of its logits."""

    class Changed(Net):
        def forward(self, x):
            return change(self.logits(x))

    return Changed()


def raised(error):
    raise error


class Shrinking(Net):
    """It changes its own weights."""

    def forward(self, x):
        self.head.weight.set_value(self.head.weight * 0.5)
        return self.logits(x)


WRONG = {
    "a tuple": lambda: returning(lambda logits: (logits, logits)),
    "a dict": lambda: returning(lambda logits: {"logits": logits}),
    "nothing": lambda: returning(lambda logits: None),
    "one number": lambda: returning(lambda logits: logits.mean()),
    "other classes": lambda: returning(lambda logits: paddle.concat([logits, logits], 1)),
    "another batch": lambda: returning(lambda logits: logits[:1]),
    "whole numbers": lambda: returning(lambda logits: logits.astype("int32")),
    "an exception": lambda: returning(lambda logits: raised(RuntimeError("a\nb"))),
    "the end of the program": lambda: returning(lambda logits: raised(SystemExit(0))),
    "chance": lambda: returning(lambda logits: logits + paddle.randn(logits.shape)),
    "other weights each time": Shrinking,
}


@pytest.fixture
def images():
    return np.random.RandomState(0).standard_normal((3, *SIZE)).astype(np.float32)


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_logits_ends_a_run(what, images):
    with pytest.raises(NetworkError):
        EagerEngine(WRONG[what](), 1).run(images)
    assert issubclass(NetworkError, EngineError) and issubclass(NetworkError, ValueError)


@pytest.mark.parametrize("what", ["a tuple", "other classes", "the end of the program"])
def test_what_is_no_logits_is_not_exported(what, tmp_path):
    with pytest.raises(NetworkError):
        export_model(WRONG[what](), tmp_path / "export", Wanted("mine", Preprocessing(SIZE), ("inference",)))
    assert not (tmp_path / "export").exists()


def test_logits_are_taken_and_so_are_features(images):
    assert EagerEngine(Net(), 1).run(images).shape == (3, CLASSES)
    assert outputs_of(returning(lambda logits: paddle.concat([logits] * 2, 1)), images).shape == (3, 2 * CLASSES)
    assert outputs_of(returning(lambda logits: logits.astype("float16")), images, CLASSES).dtype == np.float16


FACTORIES = """
import os, paddle
from paddle import nn

CARD = {card}


class Net(nn.Layer):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2D(3, 4, 3, 2, 1), nn.Linear(4, 4)

    def forward(self, x):
        return self.head(nn.functional.relu(self.stem(x)).mean([2, 3]))


def static():
    network = Net()
    paddle.enable_static()
    return network


def double():
    paddle.set_default_dtype("float64")
    return Net()


class Exiting(Net):
    def forward(self, x):
        raise SystemExit(0)


class Pair(Net):
    def forward(self, x):
        return super().forward(x), x
"""
CARD = {
    "num_classes": CLASSES,
    "classifier": "head",
    "first_conv": "stem",
    "preprocessing": {**Preprocessing(SIZE).as_dict(), "crop_pct": 1.0},
}


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "their_networks.py").write_text(FACTORIES.format(card=CARD))
    monkeypatch.chdir(tmp_path)
    yield "their_networks"
    sys.modules.pop("their_networks", None)


def test_what_a_factory_changes_of_paddle_is_put_back(factories):
    create_model(f"{factories}:static")
    assert paddle.in_dynamic_mode()
    with pytest.raises(ModelError, match="float64"):
        create_model(f"{factories}:double")
    assert paddle.get_default_dtype() == "float32"


@pytest.mark.parametrize("name", ["Exiting", "Pair"])
def test_a_training_of_what_returns_no_logits_does_not_begin(name, factories, tmp_path):
    config = small_config(make_images(tmp_path / "data"), tmp_path / "run", f"model={{name: '{factories}:{name}'}}")
    with pytest.raises(NetworkError):
        train(config, Ranks(), StopRequest(), lambda line: None)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_network_that_ends_the_program_is_no_success(factories, tmp_path):
    from PIL import Image

    paddle.save(create_model(f"{factories}:Net").state_dict(), str(tmp_path / "w.pdparams"))
    Image.new("RGB", SIZE[1:]).save(tmp_path / "a.png")
    command = ["paddle_dla.predict", "a.png", "--model", f"{factories}:Exiting", "--checkpoint", "w.pdparams"]
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False,
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1 and "SystemExit" in done.stderr and done.stdout == ""
