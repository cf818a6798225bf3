"""What a user does wrong is one line; a defect keeps its traceback, in every command."""

import ast
import importlib
import inspect
import subprocess
import sys

import pytest
from conftest import ROOT
from test_cli import COMMANDS

from paddle_dla.errors import UserError, WrongValue

FILES = [path for folder in ("paddle_dla", "convert", "alignment") for path in sorted((ROOT / folder).rglob("*.py"))]
OTHERS = {"Stopped", "OutputError", "StepError", "ModelRaised", "NotApplicable"}
"""Not errors of a user: how a run can end, and what a model raised that is compared through Python."""


def test_every_error_that_is_made_for_a_user_is_a_user_error():
    found = {}
    for path in FILES:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        names = [node.name for node in ast.parse(path.read_bytes()).body
                 if isinstance(node, ast.ClassDef) and node.name.endswith("Error")]  # fmt: skip
        found |= {name: getattr(importlib.import_module(module), name) for name in names if name not in OTHERS}
    assert len(found) > 15
    internal = {"RecordError", "FormatError", "LossError"}  # turned into a user's where the file is known
    assert {name for name, error in found.items() if not issubclass(error, UserError)} <= internal


def test_a_wrong_value_is_a_value_error_for_those_who_call_from_python():
    assert issubclass(WrongValue, ValueError) and issubclass(WrongValue, UserError)


@pytest.mark.parametrize("name", ["evaluate", "predict", "features", "export", "info", "look-at-data", "train"])
def test_a_defect_keeps_its_traceback(name):
    """A ``ValueError`` that nobody meant, from the first thing that the command asks."""
    arguments = {
        "evaluate": ["--data", "x"], "predict": ["docs/montage.png"], "features": ["--data", "x", "--output", "y.npy"],
        "export": ["--output", "y"], "info": ["dla34"], "look-at-data": ["--data", "x"], "train": ["--config", "x"],
    }[name]  # fmt: skip
    entry = COMMANDS[name]
    code = f"""
import sys, {entry.module} as command
from paddle_dla.terminal import run_command
def broken(*_, **__): raise ValueError("a defect")
for name in ("check_writable", "check_target", "check_outputs", "subject_facts", "chosen_config", "open_images"):
    if hasattr(command, name): setattr(command, name, broken)
sys.exit(run_command(lambda: command.main({arguments!r})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == "ValueError: a defect"
    assert "Traceback" in done.stderr


@pytest.mark.torch  # the self-test imports it
def test_no_command_catches_a_value_error_as_a_users():
    caught = []
    for entry in COMMANDS.values():
        module = importlib.import_module(entry.module)
        for node in ast.walk(ast.parse(inspect.getsource(module.main))):
            if isinstance(node, ast.ExceptHandler) and node.type is not None:
                caught += [f"{entry.module}: {name}" for name in ("ValueError", "Exception") if name in
                           {each.id for each in ast.walk(node.type) if isinstance(each, ast.Name)}]  # fmt: skip
    assert [one for one in caught if not one.startswith("alignment.check_epoch")] == []
