"""The script that turns Debian's Fashion-MNIST into class folders, lists and shards."""

import gzip
import io
import os
import signal
import struct
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from paddle_dla.data.opening import open_source
from paddle_dla.data.source import iterate

pytestmark = pytest.mark.any_paddle

SCRIPT = ROOT / "scripts/make_fashion_mnist.py"


def load_script():
    spec = spec_from_file_location("make_fashion_mnist", SCRIPT)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()


def idx(array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes())


@pytest.fixture
def original(tmp_path):
    """A folder as Debian's package has it: 30 images a split, image k full of k, label k modulo 10."""
    folder = tmp_path / "original"
    folder.mkdir()
    images = np.repeat(np.arange(30, dtype=np.uint8), 28 * 28).reshape(30, 28, 28)
    for start in ("train", "t10k"):
        (folder / f"{start}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (folder / f"{start}-labels-idx1-ubyte.gz").write_bytes(idx(np.arange(30, dtype=np.uint8) % 10))
    return folder


def pixels(data):
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "L"
        return np.asarray(image)


def test_folders_lists_and_shards_hold_the_same_images(original, tmp_path):
    out = tmp_path / "out"
    assert script.main([str(out), "--source", str(original), "--shards"]) == 0
    tree = open_source(out / "val")
    listed = open_source(out / "val.txt", classes=out / "classes.txt")
    shards = open_source(out / "shards/val")
    assert tree.classes == listed.classes == shards.classes == list(script.CLASSES)
    assert tree.num_samples == 30
    in_order = [(label, data) for _, _, label, data in iterate(listed)]
    assert [label for label, _ in in_order] == [k % 10 for k in range(30)]
    assert [(label, data) for _, _, label, data in iterate(shards)] == in_order
    assert sorted((label, data) for _, _, label, data in iterate(tree)) == sorted(in_order)


def test_an_image_is_the_original_with_two_pixels_of_zeros_around(original, tmp_path):
    script.make(original, tmp_path / "out", limit=8)
    data = open_source(tmp_path / "out/train.txt").read(7)
    assert np.array_equal(pixels(data), np.pad(np.full((28, 28), 7, np.uint8), 2))


def test_the_limit_is_of_each_split(original, tmp_path, capsys):
    assert script.main([str(tmp_path / "out"), "--source", str(original), "--limit", "12"]) == 0
    assert "12 images in train, 12 images in val" in capsys.readouterr().out


@pytest.mark.skipif(not script.DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_the_real_files_are_read(tmp_path):
    script.make(script.DEBIAN, tmp_path / "out", limit=20)
    images, labels = script.read_split(script.DEBIAN, "val")
    assert (len(images), labels[:5].tolist()) == (10000, [9, 2, 1, 1, 6])
    found = open_source(tmp_path / "out/val.txt")
    assert found.labels.tolist() == labels[:20].tolist()
    assert all(np.array_equal(pixels(found.read(k))[2:-2, 2:-2], images[k]) for k in range(20))


def damage_nothing_there(folder):
    (folder / "t10k-images-idx3-ubyte.gz").unlink()


def damage_cut(folder):
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])


def damage_no_gzip(folder):
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(b"not packed")


def damage_no_idx(folder):
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"not idx at all"))


def damage_short(folder):
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(gzip.decompress(idx(np.zeros(9, np.uint8)))[:-1]))


def damage_other_labels(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(idx(np.zeros(29, np.uint8)))


DAMAGES = {
    damage_nothing_there: "apt-get install dataset-fashion-mnist",
    damage_cut: "cannot be unpacked",
    damage_no_gzip: "cannot be unpacked",
    damage_no_idx: "is no idx file",
    damage_short: "is not an idx file of shape",
    damage_other_labels: "do not belong together",
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.items(), ids=[damage.__name__ for damage in DAMAGES])
def test_bad_originals_are_named_and_nothing_is_written(original, tmp_path, capsys, damage, message):
    damage(original)
    assert script.main([str(tmp_path / "out"), "--source", str(original)]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["original"]


def test_an_occupied_folder_is_left_alone(original, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("")
    assert script.main([str(tmp_path / "out"), "--source", str(original)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_killed_run_leaves_nothing_that_looks_finished(original, tmp_path):
    (original / "train-images-idx3-ubyte.gz").write_bytes(idx(np.zeros((20000, 28, 28), np.uint8)))
    (original / "train-labels-idx1-ubyte.gz").write_bytes(idx(np.zeros(20000, np.uint8)))
    out = tmp_path / "out"
    command = [sys.executable, SCRIPT, out, "--source", original]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=env) as run:
        while not (tmp_path / f".out.{run.pid}.part/train/0_t-shirt_top/00099.png").exists():
            assert run.poll() is None
        run.send_signal(signal.SIGKILL)
    assert not out.exists()
    script.make(original, out, limit=3)
    assert open_source(out / "train.txt").num_samples == 3
    assert not list(tmp_path.glob(".out.*"))
