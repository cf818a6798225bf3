"""Only regular files are read, up to a stated size: nothing waits for a FIFO, reads a device without end or a hole.

Whatever waits is ended by an alarm after some seconds, which fails the test.
"""

import ast
import io
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from exports import photograph, rewrite
from pictures import photo, write_tar, write_tree
from small_models import CLASSES, save_small
from small_runs import make_images, small_config, write_config

from convert import paddle2timm, timm2paddle
from paddle_dla import evaluate, features, info, look_at_data, predict
from paddle_dla import train as train_command
from paddle_dla.config import ConfigError, load_config
from paddle_dla.data.errors import DataError, ImageError
from paddle_dla.data.image_files import open_images
from paddle_dla.data.shards import open_shards
from paddle_dla.data.source import iterate
from paddle_dla.exporting import runner
from paddle_dla.exporting.folder import RECORD
from paddle_dla.preprocessing import CROP_RANGE, MAX_MEAN, MAX_SIDE, STD_RANGE
from paddle_dla.ranks import Ranks
from paddle_dla.storage.manifest import manifest_path
from paddle_dla.storage.regular import MOST_IMAGE, open_regular, read_regular
from paddle_dla.training.start import train
from paddle_dla.training.stopping import StopRequest

pytestmark = pytest.mark.any_paddle

SECONDS = 60  # a test takes one or two: whoever waits for a FIFO waits for ever


@pytest.fixture(autouse=True)
def in_time():
    """Ends what hangs."""

    def late(number, frame):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def fifo(path):
    os.mkfifo(path)


def endless(path):
    """A link to a device that never ends: nothing is made or changed in /dev."""
    path.symlink_to("/dev/zero")


def bound(path):
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(path.parent)  # the path of a socket is short
        listener.bind(path.name)
        os.chdir(here)


def hole(path):
    """A terabyte that takes no place on the disk."""
    path.touch()
    os.truncate(path, 2**40)


ODD = [fifo, endless, bound]
odd = pytest.mark.parametrize("make", ODD, ids=lambda make: make.__name__)
odd_or_huge = pytest.mark.parametrize("make", [*ODD, hole], ids=lambda make: make.__name__)


@odd
def test_what_is_no_regular_file_is_an_error_of_the_system(make, tmp_path):
    make(tmp_path / "x")
    with pytest.raises(OSError, match="x"):
        open_regular(tmp_path / "x")


def test_a_file_is_read_up_to_its_limit(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    assert read_regular(tmp_path / "x", 5) == b"12345"
    with pytest.raises(OSError, match="4 bytes"):
        read_regular(tmp_path / "x", 4)
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path)


def test_files_are_opened_through_one_function():
    """Whoever opens a file otherwise is named here, and why."""
    own = {
        "cpu.py": "/proc",
        "training/memory.py": "/proc",
        "training/records.py": "appends",
        "training/hold.py": "the lock of a run's own folder, which no FIFO can make wait (O_RDWR)",
        "launching": "a folder of the launcher's own",
        "launch.py": "a folder of the launcher's own",
        "exporting/runner.py": "alone, without this package",
        "models/registry.py": "the current folder, to come back to it",
        "exporting/to_inference.py": "a file that was just written",
        "storage/regular.py": "the function itself",
        "storage/atomic.py": "a file that was just written, to be flushed",
        "storage/turn.py": "a folder, for its lock",
        "storage/folders.py": "files that were just written, to be flushed",
        "storage/destination.py": "a file that was just written; a device that the user names is written to",
        "terminal.py": "/dev/null",
        "data/crew.py": "a descriptor of its own",
    }
    found = []
    for path in sorted((ROOT / "paddle_dla").rglob("*.py")):
        name = path.relative_to(ROOT / "paddle_dla").as_posix()
        if name not in own and name.split("/")[0] not in own:
            calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            found += [f"{name}:{call.lineno}" for call in calls if _reads(call)]
    assert found == []


def _reads(call):
    name = ast.unparse(call.func)
    written = any(isinstance(word, ast.Constant) and str(word.value)[:1] in ("w", "a") for word in call.args[1:2])
    return name.endswith((".read_text", ".read_bytes")) or (name in ("open", "io.FileIO", "os.open") and not written)


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_small(tmp_path_factory.mktemp("weights") / "small.pdparams")


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path / "tree", {f"c{label}": 1 for label in range(CLASSES)}, photo)


def narrow(path):
    """80,000,000 x 1 pixels of one colour, in some kilobytes."""
    width = 80_000_000
    header = struct.pack(">IIBBBBB", width, 1, 8, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    data = packer.compress(b"\0") + b"".join(packer.compress(bytes(10**6)) for _ in range(80)) + packer.flush()
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    raw = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(raw))


odd_image = pytest.mark.parametrize("make", [*ODD, hole, narrow], ids=lambda make: make.__name__)


@odd_image
@pytest.mark.parametrize("workers", [0, 1])
def test_it_counts_as_a_skipped_image(make, workers, weights, tree, tmp_path, capsys):
    make(tree / "c3" / "x.png")
    options = ["--checkpoint", weights, "--data", str(tree), "--workers", str(workers)]
    assert evaluate.main(options) == 1
    assert "x.png" in capsys.readouterr().err
    assert evaluate.main([*options, "--max-skipped", "1"]) == 0
    said = capsys.readouterr().out
    assert f"{CLASSES} images" in said and "left out: 1" in said


@odd_image
def test_other_commands_go_on_without_it_or_refuse(make, weights, tree, tmp_path, capsys):
    make(tree / "c3" / "x.png")
    assert predict.main(["--checkpoint", weights, str(tree)]) == 1
    assert predict.main(["--checkpoint", weights, str(tree / "c3" / "x.png")]) == 1
    options = ["--data", str(tree), "--checkpoint", weights]
    assert features.main([*options, "--workers", "0", "--output", str(tmp_path / "f.npy")]) == 1
    assert look_at_data.main([*options, "--output", str(tmp_path / "batch.png")]) == 1
    assert capsys.readouterr().err.count("x.png") >= 4


@pytest.mark.parametrize("make", [fifo, narrow], ids=lambda make: make.__name__)
def test_a_training_skips_it(make, tmp_path):
    data = make_images(tmp_path)
    make(data / "train" / "class1" / "x.png")
    if make is narrow:
        make(data / "val" / "class1" / "x.png")
    short = ("train.epochs=1", "schedule.warmup_epochs=0", "data.workers=0", "data.max_skipped=1")
    train(small_config(data, tmp_path / "run", *short), Ranks(), StopRequest(), lambda line: None)


@odd_image
def test_the_runner_of_an_export_goes_on_without_it(make, exported, tmp_path):
    make(tmp_path / "x.png")
    good = photograph(tmp_path / "good.png")
    done = subprocess.run(
        [sys.executable, "-I", exported[1] / "run.py", tmp_path / "x.png", good],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 1 and done.stdout.startswith(str(good))
    assert "x.png" in done.stderr and "Traceback" not in done.stderr


def test_an_image_is_as_large_as_pixels_may_be():
    assert MOST_IMAGE == runner.MOST_BYTES and runner.MOST_PIXELS * 3 <= MOST_IMAGE < (runner.MOST_PIXELS + 1) * 3


# --- records, lists and configs --------------------------------------------------------------------------------------


@odd_or_huge
@pytest.mark.parametrize("option", ["--classes", "--valid-labels", "--real-labels", "--config", "--data"])
def test_a_file_that_an_option_of_evaluate_names(option, make, weights, tree, tmp_path, capsys):
    make(tmp_path / "x")
    data = [] if option == "--data" else ["--data", str(tree)]
    assert evaluate.main(["--checkpoint", weights, "--workers", "0", *data, option, str(tmp_path / "x")]) == 1
    assert str(tmp_path / "x") in capsys.readouterr().err


@odd_or_huge
def test_a_base_of_a_config(make, tmp_path, capsys):
    make(tmp_path / "base.yaml")
    config = write_config(tmp_path, make_images(tmp_path / "data"))
    config.write_text("base: base.yaml\n" + config.read_text())
    with pytest.raises(ConfigError, match=r"base\.yaml"):
        load_config(config)
    assert train_command.main(["--config", str(config)]) == 1
    assert "base.yaml" in capsys.readouterr().err


@odd_or_huge
def test_a_record_beside_weights(make, weights, tree, tmp_path, capsys):
    path = Path(shutil.copy(weights, tmp_path / "small.pdparams"))
    make(manifest_path(path))
    for command in (evaluate, features):
        output = ["--output", str(tmp_path / "f.npy")] if command is features else []
        assert command.main(["--checkpoint", str(path), "--data", str(tree), "--workers", "0", *output]) == 1
    assert info.main([str(path)]) == 1
    assert look_at_data.main(["--data", str(tree), "--checkpoint", str(path)]) == 1
    assert capsys.readouterr().err.count("manifest.json") >= 4


@odd_or_huge
@pytest.mark.parametrize("suffix", [".pdparams", ".safetensors"])
@pytest.mark.parametrize("manifest", [True, False])
def test_weights(make, suffix, manifest, weights, tmp_path, capsys):
    path = tmp_path / f"x{suffix}"
    make(path)
    if manifest:
        shutil.copy(manifest_path(weights), manifest_path(path))
    assert predict.main(["--checkpoint", str(path), "--model", "dla46x_c", str(ROOT / "docs")]) == 1
    assert (
        paddle2timm.main(["--checkpoint", str(path), "--model", "dla46x_c", "--output", str(tmp_path / "y.pth")]) == 1
    )
    arguments = ["--model", "dla46x_c", "--checkpoint", str(path), "--output", str(tmp_path / "y.pdparams")]
    assert timm2paddle.main(arguments) == 1
    assert capsys.readouterr().err.count(f"x{suffix}") >= 3


@odd_or_huge
def test_the_record_of_an_export(make, exported_copy, tmp_path, capsys):
    (exported_copy / RECORD).unlink()
    make(exported_copy / RECORD)
    assert info.main([str(exported_copy)]) == 1
    assert predict.main(["--export", str(exported_copy), "--engine", "inference", str(ROOT / "docs")]) == 1
    done = subprocess.run(
        [sys.executable, exported_copy / "run.py", "x"], capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 1 and RECORD in done.stderr and "Traceback" not in done.stderr


@odd_or_huge
def test_the_index_of_shards(make, tmp_path):
    write_tar(tmp_path / "s.tar", [("0.png", photo(0)), ("0.cls", b"0")])
    make(tmp_path / "shards.json")
    with pytest.raises(DataError, match=r"shards\.json"):
        open_shards(tmp_path)


@odd
def test_a_shard(make, tmp_path):
    make(tmp_path / "s.tar")
    with pytest.raises(DataError, match=r"s\.tar"):
        open_shards(tmp_path)


# --- sizes that a record claims --------------------------------------------------------------------------------------


def sparse_tar(path, name, size, label=b"0"):
    """A tar of which one member has ``size`` bytes of nothing."""
    with tarfile.open(path, "w") as tar:
        for member, data in (("0.cls", label),):
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        large = tarfile.TarInfo(name)
        large.size = size
        header = large.tobuf(tarfile.GNU_FORMAT)
        end = tar.offset
    with open(path, "r+b") as file:
        file.truncate(end)
        file.seek(end)
        file.write(header)
        file.truncate(end + 512 + size + 1024)


@pytest.mark.parametrize(("name", "label"), [("0.png", b"0"), ("1.cls", b"0")])
@pytest.mark.parametrize("counted", [False, True])
def test_a_member_of_eight_gigabytes_is_refused_unread(name, label, counted, tmp_path):
    sparse_tar(tmp_path / "s.tar", name, 8 * 2**30, label)
    if counted:
        entry = {"file": "s.tar", "samples": 1, "bytes": (tmp_path / "s.tar").stat().st_size}
        (tmp_path / "shards.json").write_text(json.dumps({"format": 1, "classes": None, "shards": [entry]}))
    with pytest.raises(DataError, match=name):
        list(iterate(open_shards(tmp_path)))


CLAIMS = {
    "huge sides": {"input_size": [3, 10**6, 10**6]},
    "one huge side": {"input_size": [3, 32, 10**9]},
    "a side that is text": {"input_size": ["3", "32", "32"]},
    "sides that are a text": {"input_size": "3 32 32"},
    "no sides": {"input_size": []},
    "a crop of nothing": {"crop_pct": 1e-12},
    "NaN": {"mean": [float("nan")] * 3},
    "a deviation of nothing": {"std": [1e-45] * 3},
    "no list": {"mean": 0.5},
    "nothing": None,
}


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_preprocessing_that_an_export_claims_is_checked_by_its_runner(claim, exported_copy, tmp_path, capsys):
    spec = json.loads((exported_copy / RECORD).read_text())["preprocessing"]
    rewrite(exported_copy, preprocessing=None if claim is None else spec | claim)
    image = photograph(tmp_path / "a.png")
    done = subprocess.run(
        [sys.executable, exported_copy / "run.py", image], capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr and RECORD in done.stderr
    assert predict.main(["--export", str(exported_copy), "--engine", "inference", str(image)]) == 1
    assert RECORD in capsys.readouterr().err


def test_the_runner_has_the_limits_of_the_package():
    assert runner.LIMITS == {
        "input_size": (1, MAX_SIDE),
        "mean": (-MAX_MEAN, MAX_MEAN),
        "std": STD_RANGE,
        "crop_pct": CROP_RANGE,
    }


def test_an_image_in_the_middle_of_others_is_the_only_one_left_out(tmp_path):
    tree = write_tree(tmp_path, {"a": 3}, photo)
    (tree / "a" / "1.png").unlink()
    fifo(tree / "a" / "1.png")
    source = open_images([str(tree)])
    reader = source.reader()
    assert [len(reader.sample(place).data) > 0 for place in (0, 2)] == [True, True]
    with pytest.raises(ImageError, match=r"1\.png"):
        reader.sample(1)
    assert np.array_equal(source.labels, [-1] * 3)
