"""The examples run as they are, and show what they promise."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
pytestmark = pytest.mark.torch
SHOWN = {
    "align_two_models": ["eval: ALIGNED", "train: NOT ALIGNED: state fault in norm"],
    "find_a_planted_fault": ["no mistake: ALIGNED", "only: NOT ALIGNED: config", "0.9 instead of 0.1"],
    "compare_training": ["T_max=10 in Paddle: ALIGNED", "cosine: steps 11 instead of 10"],
    "compare_offline": ["ALIGNED"],
    "port_and_fine_tune": ["eval: ALIGNED", "train: ALIGNED", "after 100%"],
}


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_shows_what_it_promises(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert [text for text in SHOWN[name] if text not in printed] == []


def test_every_example_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*SHOWN, "test_a_port"}


def test_the_example_of_a_test_passes():
    assert pytest.main(["-q", "-p", "no:cacheprovider", "-o", "addopts=", str(EXAMPLES / "test_a_port.py")]) == 0
