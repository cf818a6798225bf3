"""No command writes one file twice, replaces a file that it reads, or puts a picture among the images that it reads."""

import hashlib
import shutil

import numpy as np
import pytest
from PIL import Image
from timm_files import run, small_weights, write_safetensors

from alignment import compare, record
from convert import paddle2timm, timm2paddle
from paddle_dla import evaluate, features, look_at_data, predict
from paddle_dla.storage.apart import check_apart
from paddle_dla.storage.errors import CheckpointError

pytestmark = pytest.mark.any_paddle


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    from small_models import save_small

    folder = tmp_path_factory.mktemp("made")
    save_small(folder / "m.pdparams")
    write_safetensors(folder / "timm.safetensors", small_weights())
    for name in ("a", "b"):
        place = folder / "data" / name
        place.mkdir(parents=True)
        Image.fromarray(np.full((32, 32, 3), len(name) * 90, np.uint8)).save(place / "0.png")
    (folder / "list.txt").write_text("data/a/0.png 0\ndata/b/0.png 1\n")
    (folder / "names.txt").write_text("".join(f"c{number}\n" for number in range(10)))
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def content(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


EVALUATE = "--checkpoint m.pdparams --data list.txt --workers 0"
CONVERT = "--model dla46x_c --checkpoint timm.safetensors --no-verify"
CLASHES = {
    "a table twice": (evaluate, f"{EVALUATE} --predictions x.csv --per-class x.csv"),
    "a table twice, spelled otherwise": (evaluate, f"{EVALUATE} --predictions x.csv --per-class data/../x.csv"),
    "a matrix over its picture": (evaluate, f"{EVALUATE} --confusion x.png"),
    "a picture among the images": (
        evaluate, "--checkpoint m.pdparams --data data --workers 0 --confusion data/confusion.csv"
    ),
    "results over the weights": (evaluate, f"{EVALUATE} --json m.pdparams"),
    "results over the manifest": (evaluate, f"{EVALUATE} --json m.pdparams.manifest.json"),
    "results over the list": (evaluate, f"{EVALUATE} --json list.txt"),
    "results over the names": (evaluate, f"{EVALUATE} --classes names.txt --json names.txt"),
    "predictions over an image": (predict, "data/a/0.png --checkpoint m.pdparams --output data/a/0.png"),
    "a montage among the images": (predict, "data --checkpoint m.pdparams --montage data/montage.png"),
    "features over the weights": (features, "--data list.txt --checkpoint m.npy --output m.npy"),
    "a look over the list": (look_at_data, "--data list.txt --model dla60 --output list.txt"),
    "a look among the images": (look_at_data, "--data data --model dla60 --output data/look.png"),
    "weights over their source": (timm2paddle, f"{CONVERT} --output timm.safetensors"),
    "a report over the source": (timm2paddle, f"{CONVERT} --output x.pdparams --json timm.safetensors"),
    "a report over the weights": (timm2paddle, f"{CONVERT} --output x.pdparams --json x.pdparams"),
    "a report over the manifest": (timm2paddle, f"{CONVERT} --output x.pdparams --json x.pdparams.manifest.json"),
    "timm's weights over Paddle's": (paddle2timm, "--checkpoint p.safetensors --output p.safetensors --model dla46x_c"),
}  # fmt: skip


@pytest.mark.parametrize("clash", CLASHES)
def test_a_clash_is_refused_before_any_work(clash, here, capsys):
    shutil.copy("timm.safetensors", "p.safetensors")
    shutil.copy("m.pdparams", "m.npy")
    before, (command, arguments) = content(here), CLASHES[clash]
    assert run(command.main, *arguments.split()) == 1
    output = capsys.readouterr()
    assert any(part in output.err for part in ("are one file", "which is read", "among the images"))
    assert "END" not in output.out and content(here) == before


@pytest.mark.torch
@pytest.mark.parametrize("name", ["tape.json", "tensors.safetensors"])
def test_a_report_over_a_record_is_refused(name, here, capsys):
    (here / "out").mkdir()
    run(timm2paddle.main, *CONVERT.split(), "--output", "x.pdparams")
    options = ("--model", "dla46x_c", "--input-size", "32", "--forward-only")
    assert run(record.main, "paddle", *options, "--converted", "x.pdparams", "--output", "out") == 0
    before = content(here)
    assert run(compare.main, "out", "out", "--json", f"out/{name}") == 1
    assert "which is read" in capsys.readouterr().err and content(here) == before


def test_a_device_may_be_named_twice(tmp_path):
    check_apart({"--a": "/dev/null", "--b": "/dev/null"})


def test_a_link_to_a_file_that_is_read_is_that_file(tmp_path):
    (tmp_path / "x").touch()
    (tmp_path / "link").symlink_to("x")
    with pytest.raises(CheckpointError, match="--a would replace"):
        check_apart({"--a": tmp_path / "link"}, [tmp_path / "x"])
