"""A folder in the place of a weight file: a training checkpoint is taken, anything else is called what it is."""

import shutil

import pytest
from small_models import save_small

from convert.paddle2timm import run as paddle2timm
from convert.readers import read_source
from paddle_dla import info
from paddle_dla.loading import load_model
from paddle_dla.look_at_data import model_preprocessing
from paddle_dla.models.cards import CARD
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.training.checkpoints import MODEL

NAME = "dla46x_c"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "epoch-0001-batch-000000"
    folder.mkdir()
    save_small(folder / MODEL, NAME)
    return folder


def test_the_weights_of_a_training_checkpoint_are_taken(trained, tmp_path, capsys):
    loaded = load_model(None, str(trained))
    assert (loaded.name, loaded.source) == (NAME, str(trained / MODEL))
    assert model_preprocessing(None, str(trained)) == loaded.preprocessing
    assert paddle2timm(str(trained), str(tmp_path / "timm.safetensors")).is_file()
    assert info.main([str(trained)]) == 0 and NAME in capsys.readouterr().out


def port(folder):
    folder.mkdir()
    (folder / CARD).write_text("{}")
    return "--model"


def run_folder(folder):
    shutil.copytree(folder.parent / "trained", folder / "last")
    return str(folder / "last" / MODEL)


def empty(folder):
    folder.mkdir()
    return "name a weight file"


@pytest.mark.parametrize("make", [port, run_folder, empty], ids=lambda make: make.__name__)
@pytest.mark.parametrize("read", [lambda path: load_model(NAME, path), read_source], ids=["paddle", "timm"])
def test_any_other_folder_is_called_what_it_is(make, read, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "trained")
    folder = tmp_path / "folder"
    named = make(folder)
    with pytest.raises(CheckpointError) as error:
        read(str(folder))
    assert named in str(error.value)


@pytest.mark.parametrize("read", [lambda path: load_model(NAME, path), read_source], ids=["paddle", "timm"])
def test_an_export_is_called_one(exported, read):
    with pytest.raises(CheckpointError, match="--export"):
        read(str(exported[1]))


def test_paddles_weights_are_not_read_as_timms(trained):
    with pytest.raises(CheckpointError, match="Paddle's"):
        read_source(trained)
