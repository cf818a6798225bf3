"""``paddle-dla`` and its command lines: what is listed, suggested, completed, and what a missing extra does."""

import configparser
import importlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from paddle_dla import __version__, cli
from paddle_dla.command_parser import CommandParser
from paddle_dla.extras import EXTRAS
from paddle_dla.models.variants import VARIANTS

ROOT = Path(__file__).parent.parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
COMMANDS = {
    entry.name: entry
    for line in SETUP["options.entry_points"]["paddle_dla.commands"].strip().splitlines()
    for entry in [EntryPoint(*line.split(" = "), cli.GROUP)]
}


@pytest.fixture
def commands(monkeypatch):
    """Those of setup.cfg, whatever is installed."""
    monkeypatch.setattr(cli, "entry_points", lambda group: COMMANDS.values() if group == cli.GROUP else [])


def test_all_commands_are_listed_in_groups_with_a_line_each(commands, capsys):
    assert cli.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split(maxsplit=1) for line in lines if line.startswith("  ") and "paddle-dla" not in line]
    assert {name for name, _ in listed} == {*COMMANDS}
    assert all(20 < len(text) < 120 for _, text in listed)
    assert sum(line.endswith(":") for line in lines) == len({entry.module.split(".")[0] for entry in COMMANDS.values()})


def test_the_version_and_the_module(capsys):
    done = subprocess.run([sys.executable, "-m", "paddle_dla", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["paddle-dla", __version__]


@pytest.mark.parametrize(("word", "meant"), [("evalute", "evaluate"), ("check_forward", "check-forward")])
def test_a_wrong_command_suggests_the_nearest(commands, capsys, word, meant):
    assert cli.main([word]) == 2
    assert meant in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "meant"),
    [("--modle", "--model"), ("--modle=x", "--model"), ("--dump", "--output"), ("--size", "--input-size")],
)
def test_a_wrong_or_older_option_names_todays(capsys, word, meant):
    parser = CommandParser("x", "")
    for option in ("--model", "--output", "--seed", "--input-size"):
        parser.add_argument(option)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args([word, "y"])
    assert ended.value.code == 2 and meant in capsys.readouterr().err.splitlines()[-1]


BARE = f"""
import sys, importlib
sys.modules.update(dict.fromkeys({sorted(EXTRAS)}))
from paddle_dla.terminal import run_command
module, function, *arguments = sys.argv[1:]
sys.exit(run_command(lambda: getattr(importlib.import_module(module), function)(arguments)))
"""


def bare(name, *arguments):
    """The command, where no package of any extra is installed."""
    entry = COMMANDS[name]
    command = [sys.executable, "-c", BARE, entry.module, entry.attr, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_needs_no_extra_and_bears_the_name_of_the_command():
    with ThreadPoolExecutor(2) as pool:
        printed = [one.stdout.split(" [")[0] for one in pool.map(lambda name: bare(name, "--help"), COMMANDS)]
    assert printed == [f"usage: paddle-dla {name}" for name in COMMANDS]


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["config", "--config", "configs/dla34.yaml"], "train"),
        (["check-forward", "--model", "dla34"], "cpu"),
        (["predict", "docs/montage.png", "--model", "dla34"], "cpu"),
    ],
)
def test_a_missing_extra_is_one_line_that_names_it(arguments, extra):
    done = bare(*arguments)
    assert done.returncode == 1 and f"[{extra}]" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def test_a_module_that_is_missing_by_our_own_mistake_keeps_its_traceback():
    body = "from paddle_dla.terminal import run_command\ndef main(): import paddle_dla.absent\nrun_command(main)"
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" in done.stderr


def completed(line, folder):
    """What bash offers at the end of ``line``, by the function that argcomplete registers."""
    shell = f"""
        eval "$(register-python-argcomplete paddle-dla)"
        COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}; COMP_TYPE=9
        read -ra COMP_WORDS <<< "$COMP_LINE"; [[ "$COMP_LINE" == *" " ]] && COMP_WORDS+=("")
        COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
        _python_argcomplete paddle-dla "${{COMP_WORDS[COMP_CWORD]}}"; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    console = folder / "bin" / "paddle-dla"
    console.parent.mkdir()
    console.write_text(f"#!{sys.executable}\nimport sys\nfrom paddle_dla.cli import main\nsys.exit(main())\n")
    console.chmod(0o755)
    path = os.pathsep.join([str(console.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, check=True, cwd=folder, env=environment
    )
    return {word.strip() for word in done.stdout.splitlines()}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("paddle-dla eva", {"evaluate"}),
        ("paddle-dla evaluate --chec", {"--checkpoint"}),
        ("paddle-dla evaluate --model dla60x", {name for name in VARIANTS if name.startswith("dla60x")}),
        ("paddle-dla check-forward --model ports/", {"ports/mine"}),
        ("paddle-dla evaluate --engine inf", {"inference"}),
    ],
)
def test_bash_completes_commands_options_models_and_ports(line, expected, tmp_path):
    pytest.importorskip("argcomplete")
    (tmp_path / "ports" / "mine").mkdir(parents=True)
    (tmp_path / "ports" / "mine" / "card.json").write_text("{}")
    assert completed(line, tmp_path) == expected


@pytest.mark.parametrize("name", ["convert", "alignment"])
def test_a_folder_that_hides_a_package_is_named_before_anything_of_it_runs(name, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("print('ran')")
    code = "from paddle_dla import create_model; create_model('dla46_c', pretrained='x.safetensors')"
    for command in (["-m", "paddle_dla", "timm2paddle", "--help"], ["-c", code]):
        (tmp_path / "x.safetensors").touch()
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 1 and done.stdout == "", done
        assert f"{tmp_path / name} hides" in done.stderr.splitlines()[-1]


@pytest.mark.torch  # the self-test imports it
def test_every_command_is_a_function():
    for entry in COMMANDS.values():
        assert callable(getattr(importlib.import_module(entry.module), entry.attr))
