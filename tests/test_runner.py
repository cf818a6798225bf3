"""The runner of an export: alone in a process, it says what the network says, of images that timm would feed it."""

import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from exports import ENGINE_NAMES, NAMES, SPEC, photograph, rewrite
from PIL import Image, features

from paddle_dla.engines import open_engine
from paddle_dla.exporting import folder, runner
from paddle_dla.preprocessing import Preprocessing

# the runner, in a process of its own


def run_alone(folder, *arguments):
    """``run.py`` isolated: no PYTHONPATH, no user site, not the folder of the tests."""
    return subprocess.run(
        [sys.executable, "-I", folder / "run.py", *map(str, arguments)], capture_output=True, text=True, cwd="/"
    )


BLOCKED = """
import runpy, sys
for name in ("paddle_dla", "torch", "timm", "torchvision", "convert", "alignment"):
    sys.modules[name] = None
sys.argv = [{script!r}, *{arguments!r}]
runpy.run_path({script!r}, run_name="__main__")
"""


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_the_runner_says_what_the_network_says_without_this_package(exported, tmp_path, engine):
    model, folder = exported
    paths = [photograph(tmp_path / f"{seed}.png", seed=seed) for seed in range(3)]
    arguments = ["--json", "--engine", engine, *map(str, paths)]
    code = BLOCKED.format(script=str(folder / "run.py"), arguments=arguments)
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    images = np.stack([runner.preprocess(path, SPEC.as_dict()) for path in paths])
    expected = np.argsort(-open_engine("paddle", model).run(images), axis=1)[:, :5]
    assert [[item["class"] for item in line["top"]] for line in found] == expected.tolist()
    assert found[0]["top"][0]["name"] == NAMES[expected[0, 0]]


def test_the_runner_imports_neither_this_package_nor_torch():
    import ast

    tree = ast.parse(Path(runner.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {name.split(".")[0] for name in names}
    assert roots - sys.stdlib_module_names == {"numpy", "PIL", "onnxruntime", "paddle"}


def test_the_runner_reads_the_format_that_is_written():
    assert runner.FORMAT == folder.FORMAT


def test_the_runner_prints_a_table(exported, tmp_path):
    done = run_alone(exported[1], photograph(tmp_path / "a.png"))
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[0] == str(tmp_path / "a.png") and len(lines) == 6
    assert all("%" in line and "class " in line for line in lines[1:])


def test_the_runner_goes_on_past_an_image_that_it_cannot_read(exported, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    done = run_alone(exported[1], tmp_path / "bad.jpg", photograph(tmp_path / "a.png"))
    assert done.returncode == 1
    assert f"error: {tmp_path / 'bad.jpg'}: cannot identify image file" in done.stderr
    assert done.stdout.startswith(str(tmp_path / "a.png"))


def damaged_avif():
    """A real AVIF whose planes cannot be decoded, which Pillow tells by an error that no other format has."""
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(file, "AVIF")
    content = file.getvalue()
    planes = content.index(b"mdat") + 4
    return content[:planes] + b"\xff" * (len(content) - planes)


@pytest.mark.skipif(not features.check("avif"), reason="Pillow was built without AVIF")
def test_the_runner_goes_on_past_an_image_of_any_damage(exported, tmp_path):
    (tmp_path / "bad.png").write_bytes(damaged_avif())
    good = photograph(tmp_path / "good.png")
    done = run_alone(exported[1], tmp_path / "bad.png", good)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"{tmp_path / 'bad.png'}: damaged image" in done.stderr and str(good) in done.stdout


def test_the_runner_runs_no_program_that_calls_itself_an_image(exported, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "program.eps")
    (tmp_path / "program.eps").rename(tmp_path / "program.png")
    assert "EPS is a program" in run_alone(exported[1], tmp_path / "program.png").stderr


@pytest.mark.parametrize("threads", ["0", "-1", "100000", "9" * 20])
def test_the_runner_refuses_threads_that_no_machine_has(threads, exported, tmp_path):
    assert run_alone(exported[1], photograph(tmp_path / "x.png"), "--threads", threads).returncode == 2


@pytest.mark.parametrize(("shell", "code", "word"), [
    ("{run} >&-", 0, ""), ("{run} | true; exit ${{PIPESTATUS[0]}}", 141, ""),
    ("{run} >{full}", 1, "error: [Errno 28] No space left on device\n"),
])  # fmt: skip
def test_the_runner_says_in_one_line_where_it_cannot_print(shell, code, word, exported, tmp_path):
    if "{full}" in shell:
        try:
            os.mknod(tmp_path / "full", stat.S_IFCHR | 0o666, os.makedev(1, 7))
        except PermissionError:
            pytest.skip("only root makes device nodes")
    run = f"{sys.executable} -I {exported[1] / 'run.py'} {photograph(tmp_path / 'x.png')}"
    command = shell.format(run=run, full=tmp_path / "full")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, word)


def test_the_runner_refuses_a_later_format(exported_copy, tmp_path):
    rewrite(exported_copy, format=2)
    done = run_alone(exported_copy, photograph(tmp_path / "a.png"))
    assert done.returncode == 1 and "has format 2; this runner reads 1" in done.stderr


def test_the_runner_gives_no_score_that_any_image_gets(exported_copy, tmp_path):
    rewrite(exported_copy, num_classes=1, class_names=["one"])
    done = run_alone(exported_copy, photograph(tmp_path / "a.png"))
    assert (done.returncode, done.stdout) == (1, "") and "one class" in done.stderr


def test_the_runner_refuses_an_engine_without_a_network(exported_copy, tmp_path):
    rewrite(exported_copy, formats=["inference"])
    done = run_alone(exported_copy, "--engine", "onnxruntime", photograph(tmp_path / "a.png"))
    assert done.returncode == 1 and "has no network for onnxruntime; it has: inference" in done.stderr


# preprocessing: timm's, to the byte

SPECS = [
    Preprocessing((3, 32, 32)),
    Preprocessing((3, 64, 64), crop_pct=0.95, interpolation="bicubic"),
    Preprocessing((3, 32, 32), crop_pct=1.0, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
    Preprocessing((3, 64, 32), crop_pct=0.9),
    Preprocessing((3, 32, 32), crop_pct=1.3),
]
IMAGES = [
    ("RGB", (50, 40)), ("RGB", (33, 301)), ("RGB", (500, 375)), ("RGB", (7, 9)), ("L", (41, 60)), ("P", (41, 60)),
    ("RGBA", (41, 60)), ("CMYK", (41, 61)), ("1", (40, 60)), ("I;16", (40, 60)),
]  # fmt: skip


def timm_input(spec, path):
    from torch_ref.model import import_timm

    import_timm()
    from timm.data import create_transform

    transform = create_transform(
        spec.input_size, interpolation=spec.interpolation, mean=spec.mean, std=spec.std, crop_pct=spec.crop_pct
    )
    with Image.open(path) as image:
        return transform(image.convert("RGB")).numpy()


@pytest.mark.torch
@pytest.mark.parametrize(("mode", "size"), IMAGES, ids=str)
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_runner_feeds_the_network_what_timm_would(tmp_path, spec, mode, size):
    path = photograph(tmp_path / ("a.tif" if mode in ("CMYK", "I;16") else "a.png"), size, mode)
    actual = runner.preprocess(path, spec.as_dict())
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(actual, timm_input(spec, path))


@pytest.mark.torch
@pytest.mark.parametrize("change", [{"mean": (0.485, 0.456, 0.407)}, {"crop_pct": 0.9}, {"interpolation": "bicubic"}])
def test_a_runner_that_prepares_images_otherwise_is_seen(tmp_path, change):
    path = photograph(tmp_path / "a.png")
    wrong = {**SPEC.as_dict(), **change}
    assert (runner.preprocess(path, wrong) != timm_input(SPEC, path)).any()


# what is in a folder that a hand has changed


def preprocessing(**changes):
    return {"preprocessing": {**SPEC.as_dict(), **changes}}


@pytest.mark.parametrize(
    "changes",
    [
        {"formats": []},
        {"formats": ["tensorrt"]},
        {"format": 1.0},
        {"class_names": [None] * len(NAMES)},
        {"class_names": None, "num_classes": len(NAMES) + 1},
        {"class_names": [f"{index}" for index in range(2)], "num_classes": 2},
        preprocessing(interpolation="unknown"),
        preprocessing(interpolation=5),
        preprocessing(input_size=[1, 32, 32], mean=[0.5], std=[0.5]),
        preprocessing(input_size=[3, 33, 33]),
    ],
)
def test_a_record_that_does_not_fit_the_network_is_one_line(changes, exported_copy, tmp_path):
    rewrite(exported_copy, **changes)
    done = run_alone(exported_copy, photograph(tmp_path / "a.png"))
    assert (done.returncode, done.stdout) == (1, "")
    assert sum(line.startswith("error: ") for line in done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr


def test_a_key_that_is_named_twice_is_refused(exported_copy, tmp_path):
    text = (exported_copy / "preprocessing.json").read_text().rstrip().removesuffix("}")
    other = json.dumps({**SPEC.as_dict(), "crop_pct": 0.5})
    (exported_copy / "preprocessing.json").write_text(f'{text}, "preprocessing": {other}}}')
    done = run_alone(exported_copy, photograph(tmp_path / "a.png"))
    assert (done.returncode, done.stdout) == (1, "") and "twice" in done.stderr


def test_the_mark_of_windows_editors_is_no_part_of_the_record(exported_copy, tmp_path):
    (exported_copy / "preprocessing.json").write_text(
        (exported_copy / "preprocessing.json").read_text(), encoding="utf-8-sig"
    )
    assert run_alone(exported_copy, photograph(tmp_path / "a.png")).returncode == 0


def test_a_network_that_is_a_pipe_is_not_waited_for(exported_copy, tmp_path):
    (exported_copy / "model.pdiparams").unlink()
    os.mkfifo(exported_copy / "model.pdiparams")
    done = subprocess.run(
        [sys.executable, "-I", exported_copy / "run.py", photograph(tmp_path / "a.png")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "no regular file" in done.stderr


def test_names_are_one_line_and_move_no_cursor(exported_copy, tmp_path):
    rewrite(exported_copy, class_names=[f"{name}\x1b[2J\nerror: {name}\u202e\ud800" for name in NAMES])
    done = run_alone(exported_copy, photograph(tmp_path / "a\nb\x1b.png"), tmp_path / "c\nerror: d.png")
    assert done.stdout.splitlines()[0] == str(tmp_path / "a\\nb\\x1b.png") and len(done.stdout.splitlines()) == 6
    assert "\x1b" not in done.stdout + done.stderr and "\u202e" not in done.stdout
    assert [line for line in done.stderr.splitlines() if line.startswith("error: d")] == []
