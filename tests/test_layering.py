"""Who may import whom: read from the source, and shown by importing every room with the other frameworks blocked."""

import subprocess
import sys
from pathlib import Path

import pytest
from rooms import Layers, Tree, read_rooms

ROOT = Path(__file__).parent.parent
FOLDERS = ("paddle_dla", "torch_ref", "convert", "alignment", "scripts", "benchmarks", "docs", "examples", "setup.py")

# The rooms, from the top down. ``files``: without ``.py``; a file belongs to the room with the longest name that fits.
# ``frameworks``: what the files may import, also inside functions (``timm`` includes torchvision). ``loads``: what an
# import of the files loads, directly or through other modules. ``imports``: which of the rooms below may be imported.
ROOMS = read_rooms("""
room                 | files                                      | frameworks        | loads        | imports
---------------------|--------------------------------------------|-------------------|--------------|------------------
scripts              | scripts benchmarks docs examples setup     | torch timm paddle | torch paddle | *
checks               | alignment/check_* record selftest          | torch timm paddle | -            | *
checks.files         | alignment/compare                          | -                 | -            | alignment.*
                     |                                            |                   |              | engine.* plain
                     |                                            |                   |              | storage tables
convert.commands     | convert/timm2paddle paddle2timm port       | torch             | -            | *
convert.public       | convert/__init__                           | -                 | -            | convert.porting
alignment.data       | alignment/data_comparison                  | torch timm        | -            | *
alignment.shared     | alignment/command drawn_images             | -                 | -            | *
                     | epoch_picture epoch_runs equivalence       |                   |              |
                     | pytest_plugin training_transforms          |                   |              |
alignment.bench      | alignment/bench                            | torch paddle      | torch paddle | *
alignment.dla        | alignment/pairs ported models              | torch paddle      | torch paddle | *
convert.porting      | convert/porting                            | torch timm paddle | -            | *
alignment.faults     | alignment/faults                           | paddle            | paddle       | engine*
                     |                                            |                   |              | sides.paddle
alignment.reprod     | alignment/reprod_files                     | -                 | -            | engine.* storage
alignment.public     | alignment/__init__                         | -                 | -            | engine*
engine               | alignment/engine/accounts borrowed folding | -                 | torch paddle | engine.* sides.*
                     | layer_settings lockstep runs search        |                   |              | convert.matching
                     | session training_pairs training_session    |                   |              | convert.dla
                     | transfer blame derived_map                 |                   |              |
engine.recording     | alignment/engine/recording                 | torch paddle      | -            | engine.* sides.*
engine.offline       | alignment/engine/offline                   | -                 | -            | engine.*
sides.torch          | alignment/engine/sides/torch               | torch             | torch        | engine.*
                     |                                            |                   |              | convert.matching
                     |                                            |                   |              | convert.dla
sides.paddle         | alignment/engine/sides/paddle              | paddle            | paddle       | engine.*
                     |                                            |                   |              | convert.matching
engine.pixels        | alignment/engine/pixels                    | -                 | -            | engine.*
engine.reporting     | alignment/engine/reporting                 | -                 | -            | engine.result
                     |                                            |                   |              | engine.records
                     |                                            |                   |              | storage
engine.explaining    | alignment/engine/explaining                | -                 | -            | engine.*
engine.locating      | alignment/engine/locating                  | -                 | -            | engine.*
engine.distributions | alignment/engine/distributions             | -                 | -            | engine.*
engine.judging       | alignment/engine/judging                   | -                 | -            | engine.*
engine.pairing       | alignment/engine/pairing                   | -                 | -            | engine.*
                     |                                            |                   |              | convert.matching
engine.result        | alignment/engine/result spread             | -                 | -            | -
engine.sides         | alignment/engine/sides                     | -                 | -            | engine.records
                     |                                            |                   |              | storage
engine.records       | alignment/engine/__init__ records          | -                 | -            | storage
torch_ref            | torch_ref                                  | torch timm        | torch        | -
convert.translator   | convert/translate/translator               | -                 | -            | convert.*
convert.program      | convert/translate/tracing graph modules    | torch             | torch        | convert.* storage
                     | float64 marks modes                        |                   |              |
convert.symbols      | convert/translate/symbols                  | torch             | torch        | convert.*
convert.parts        | convert/translate/parts                    | paddle            | paddle       | -
convert.translate    | convert/translate                          | -                 | -            | convert.* storage
convert.conversion   | convert/conversion hub layout outcome      | -                 | -            | convert.dla
                     | port_weights readers torch_file            |                   |              | convert.matching
                     |                                            |                   |              | paddle_dla tables
                     |                                            |                   |              | plain storage
convert.matching     | convert/matching automap                   | -                 | -            | convert.dla
                     |                                            |                   |              | storage
convert.dla          | convert/audit key_map                      | -                 | -            | -
commands             | paddle_dla/__main__ cli evaluate export    | -                 | -            | *
                     | features info launch look_at_data predict  |                   |              |
                     | train paddle_dla/config/show               |                   |              |
                     | paddle_dla/launching/one_rank              |                   |              |
runner               | paddle_dla/exporting/runner                | paddle            | -            | -
scoring              | paddle_dla/montage reports scores subject  | -                 | -            | *
engines.open         | paddle_dla/engines/__init__                | paddle            | -            | exporting*
                     |                                            |                   |              | engines* storage
exporting.to_int8    | paddle_dla/exporting/export_int8           | paddle            | paddle       | *
exporting.open       | paddle_dla/exporting/exporter opening      | paddle            | -            | *
exporting.int8       | paddle_dla/exporting/int8                  | -                 | paddle       | *
exporting.onnx       | paddle_dla/exporting/fold to_onnx          | paddle            | paddle       | *
exporting.run        | paddle_dla/exporting/check to_inference    | paddle            | -            | *
exporting.folder     | paddle_dla/exporting/__init__ errors       | -                 | -            | data ranks plain
                     | folder images stored_weights               |                   |              | storage
training             | paddle_dla/training                        | paddle            | paddle       | *
training.records     | paddle_dla/training/__init__ checkpoints   | -                 | -            | *
                     | curves datasets errors hold log place plan |                   |              |
                     | records resuming stopping visual           |                   |              |
training.memory      | paddle_dla/training/memory                 | paddle            | -            | -
loading              | paddle_dla/loading                         | paddle            | paddle       | *
paddle_dla           | paddle_dla/__init__                        | -                 | -            | models
models               | paddle_dla/models                          | paddle            | paddle       | tables plain
                     |                                            |                   |              | storage
optim                | paddle_dla/optim ema losses                | paddle            | paddle       | tables storage
evaluation           | paddle_dla/evaluation                      | -                 | -            | data engines.base
                     |                                            |                   |              | plain
engines              | paddle_dla/engines/auto eager              | paddle            | -            | engines.base
                     | paddle_inference                           |                   |              | plain storage
engines.base         | paddle_dla/engines/base onnx_runtime       | -                 | -            | plain storage
                     | open_vino                                  |                   |              |
config               | paddle_dla/config                          | -                 | -            | tables plain
                     |                                            |                   |              | storage
data                 | paddle_dla/data                            | -                 | -            | ranks plain
                     |                                            |                   |              | storage
ranks                | paddle_dla/ranks                           | paddle            | -            | launching
launching            | paddle_dla/launching                       | -                 | -            | storage
tables               | paddle_dla/models/__init__ adapt_weights   | -                 | -            | plain storage
                     | cards complexity grouping pretrained       |                   |              |
                     | registry variants                          |                   |              |
                     | paddle_dla/command_parser                  |                   |              |
plain                | paddle_dla/cpu drawing extras metrics      | -                 | -            | storage
                     | options preprocessing progress schedule    |                   |              |
                     | siblings terminal weight_files             |                   |              |
storage              | paddle_dla/storage errors                  | -                 | -            | -
""")

COMMANDS_IMPORTED = {
    "alignment.check_all": "runs the checks one after the other, each as its own command does",
}
"""Who imports what runs as a program, and why."""

IMPORTED_LATE: dict[tuple[str, str], str] = {}
"""Imports in functions that close a circle, and why."""

NOT_YET = {"examples"}
"""What has its room before it is there."""

TORCH, PADDLE = ("torch", "timm", "torchvision", "sympy"), ("paddle",)  # sympy comes with torch


@pytest.fixture(scope="module")
def house():
    return Layers(Tree(ROOT, FOLDERS), ROOMS)


def test_every_file_is_in_a_room(house):
    assert house.strays() == []


def test_the_table_names_what_there_is(house):
    assert house.unknown() == []
    assert {*house.unused()} <= NOT_YET


def test_every_room_imports_only_what_stands_below_it(house):
    assert house.wrong_ways() == []


def test_frameworks_are_imported_only_where_the_table_has_them(house):
    assert house.foreign() == []


def test_no_two_modules_import_one_another(house):
    assert house.circles(in_functions=False) == []


def test_no_two_modules_import_one_another_in_functions_but_for_those_that_are_listed(house):
    assert house.circles(in_functions=True, without=IMPORTED_LATE) == []
    there = {(module, one.module) for module, imports in house.tree.imports.items() for one in imports}
    assert there >= {*IMPORTED_LATE}


def test_nobody_imports_a_command(house):
    assert [found for found in house.imported_commands() if found.split()[0] not in COMMANDS_IMPORTED] == []


def test_a_script_shadows_no_module_of_python(house):
    # a script is run with its folder first on sys.path
    folders = {house.tree.files[command].parent for command in house.tree.commands}
    assert [path for folder in folders for path in folder.glob("*.py") if path.stem in sys.stdlib_module_names] == []


@pytest.mark.parametrize("blocked", [TORCH, PADDLE, TORCH + PADDLE], ids=["torch", "paddle", "both"])
def test_rooms_live_without_the_frameworks_that_they_do_not_load(house, blocked):
    if blocked == PADDLE:
        pytest.importorskip("torch")
    modules = house.living_without(blocked)
    assert len(modules) > 100
    code = f"import importlib, sys; sys.modules.update(dict.fromkeys({blocked}))\n"
    code += f"for module in {modules}: importlib.import_module(module)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_imports_no_framework():
    code = "import sys, paddle_dla; sys.exit(bool({'paddle', 'numpy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- faults that it finds ---------------------------------------------------------------------------------------------

SMALL = read_rooms("""
room    | files         | frameworks | loads | imports
--------|---------------|------------|-------|--------
command | a/run         | -          | -     | *
upper   | a/upper       | paddle     | -     | lower
lower   | a/lower       | -          | -     | -
""")

SOUND = {
    "a/run.py": 'from a.upper import layer\n\nif __name__ == "__main__":\n    print(layer)\n',
    "a/upper/layer.py": "import a.lower.plain\n\ndef f():\n    from paddle import nn\n",
    "a/lower/plain.py": "import os\nfrom dataclasses import field\n",
}


def found(tmp_path, **changed):
    """Everything that a small house, with files of it ``changed``, does wrong."""
    for path, text in (SOUND | {f"a/{name}.py": text for name, text in changed.items()}).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    small = Layers(Tree(tmp_path, ["a"]), SMALL)
    lists = small.strays(), small.unknown(), small.unused(), small.wrong_ways(), small.foreign()
    return sum(
        lists, [*small.imported_commands(), *small.circles(in_functions=False), *small.circles(in_functions=True)]
    )


def test_a_sound_house_is_left_alone(tmp_path):
    assert found(tmp_path) == []


def test_a_file_in_no_room_is_found(tmp_path):
    assert found(tmp_path, stray="") == ["a/stray.py"]


def test_a_name_in_the_table_of_a_file_that_is_gone_is_found(tmp_path):
    assert found(tmp_path) == []
    (tmp_path / "a/run.py").unlink()
    assert Layers(Tree(tmp_path, ["a"]), SMALL).unused() == ["a/run"]


@pytest.mark.parametrize(
    ("text", "module"),
    [
        ("from a.upper import layer", "a.upper.layer"),
        ("def f():\n    import a.upper.layer", "a.upper.layer"),
        ("from ..upper.layer import f", "a.upper.layer"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a.upper.layer import f", "a.upper.layer"),
    ],
)
def test_an_import_of_what_stands_above_is_found(tmp_path, text, module):
    lines = found(tmp_path, **{"lower/other": text})
    assert f"a.lower.other (lower) imports {module} (upper)" in lines


def test_a_room_that_the_row_does_not_name_is_found(tmp_path):
    rooms = read_rooms("room | files | frameworks\n-\none | a/one | - | - | -\ntwo | a/two | - | - | -")
    for name, text in (("one", "import a.two"), ("two", "")):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / f"{name}.py").write_text(text)
    assert Layers(Tree(tmp_path, ["a"]), rooms).wrong_ways() == ["a.one (one) imports a.two (two)"]


@pytest.mark.parametrize(
    ("name", "text", "framework"),
    [
        ("upper/other", "import torch.nn", "torch"),
        ("upper/other", "import torchvision", "torchvision"),
        ("lower/other", "def f():\n    from paddle.nn import Layer", "paddle"),
    ],
)
def test_a_framework_in_the_wrong_room_is_found(tmp_path, name, text, framework):
    assert [line.rpartition(" ")[2] for line in found(tmp_path, **{name: text})] == [framework]


def test_a_circle_is_found(tmp_path):
    lines = found(tmp_path, **{"lower/one": "import a.lower.two", "lower/two": "from a.lower.one import f"})
    assert lines == ["a.lower.one -> a.lower.two -> a.lower.one"] * 2


def test_a_circle_through_a_function_is_found_apart(tmp_path):
    texts = {"lower/one": "import a.lower.two", "lower/two": "def f():\n    from a.lower import one"}
    assert found(tmp_path, **texts) == ["a.lower.one -> a.lower.two -> a.lower.one"]


def test_an_import_for_types_makes_no_circle(tmp_path):
    late = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a.lower.one import f"
    assert found(tmp_path, **{"lower/one": "import a.lower.two", "lower/two": late}) == []


def test_an_imported_command_is_found(tmp_path):
    assert "a.other imports a.run" in found(tmp_path, other="import a.run")
