"""The examples run as they are, and show what they promise."""

import copy
import runpy
import sys
from pathlib import Path

import pytest
from each import each

EXAMPLES = Path(__file__).parent.parent / "examples"
pytestmark = pytest.mark.torch
SHOWN = {
    "align_two_models": ["eval: ALIGNED", "train: NOT ALIGNED: state fault in norm"],
    "find_a_planted_fault": ["no mistake: ALIGNED", "only: NOT ALIGNED: config", "0.9 instead of 0.1"],
    "compare_training": ["T_max=10 in Paddle: ALIGNED", "cosine: steps 11 instead of 10"],
    "compare_offline": ["ALIGNED"],
    "port_and_fine_tune": ["eval: ALIGNED", "train: ALIGNED", "after 100%"],
}


# "make release-check" runs all of them, too
@pytest.mark.parametrize("name", each(SHOWN, {*SHOWN} - {"port_and_fine_tune"}))
def test_an_example_shows_what_it_promises(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert [text for text in SHOWN[name] if text not in printed] == []


NOTEBOOKS = {
    "find_the_mistakes": [
        "NOT ALIGNED: config fault in norm: epsilon 1e-05 instead of 0.001; 2 others at fault, first act",
        "act: config: approximate False instead of True",
        "<Reference: torch against Paddle: NOT ALIGNED",
        "is missing (detached)",
        "and the shortcut: ALIGNED",
        "ALIGNED but for what was accepted",
        "the biased batch variance is used",
    ],
    "port_a_model": ["eval: ALIGNED", "train: ALIGNED", "class BasicBlock(nn.Layer)", "line 6: torch.export cannot"],
}


def said(notebook):
    """What the cells of a notebook print."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = [output.get("text", output.get("data", {}).get("text/plain", "")) for output in outputs]
    return "".join(shown)


@pytest.mark.parametrize("name", each(NOTEBOOKS, {"find_the_mistakes"}))
def test_a_notebook_shows_what_it_promises_as_it_stands_and_when_it_runs(name, tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    kept = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    there = {"metadata": {"path": tmp_path}}
    run = nbclient.NotebookClient(copy.deepcopy(kept), timeout=300, resources=there).execute()
    for notebook in (kept, run):
        assert [text for text in NOTEBOOKS[name] if text not in said(notebook)] == []
    assert not [cell for cell in kept.cells if "stderr" in str(cell.get("outputs"))]


def test_every_example_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*SHOWN, "test_a_port"}
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == NOTEBOOKS.keys()


def test_the_example_of_a_test_passes():
    assert pytest.main(["-q", "-p", "no:cacheprovider", "-o", "addopts=", str(EXAMPLES / "test_a_port.py")]) == 0
