"""All checks of a port in one command: what is right is green, and what is wrong is red in the checks that see it."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy_weights import timm_weights

from alignment import check_all
from alignment.check_all import CHECKS, AllOptions, Step
from alignment.command import CheckOptions
from alignment.engine.result import Result, Row
from convert.conversion import convert_source
from convert.readers import source_from_arrays
from paddle_dla import weight_files
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.manifest import describe

SMALL = "dla46x_c"
ROOT = Path(__file__).parent.parent
QUICK = ["--model", SMALL, "--seeds", "2", "--batch-size", "2", "--input-size", "32"]
NAMES = [check.name for check in CHECKS]


def verdicts(out):
    """Of the summary: ``{check: whether it is aligned}``."""
    lines = [line for line in out.splitlines() if line.startswith(f"{SMALL} ")]
    return {line[16:33].strip(): line.split(" s  ")[1].startswith("ALIGNED") for line in lines}


@pytest.fixture
def files(tmp_path):
    """The arguments that name a timm file and its converted twin with ``change`` made to one tensor."""
    from safetensors.numpy import save_file

    save_file(timm_weights(SMALL), tmp_path / "timm.safetensors")
    conversion = convert_source(source_from_arrays(timm_weights(SMALL)), SMALL)

    def make(name=None, change=None):
        arrays, manifest = dict(conversion.arrays), conversion.manifest
        if name:
            arrays[name] = change(arrays[name]).astype(np.float32)
            manifest["tensors"][name] |= describe(arrays[name])
        weight_files.save(tmp_path / "port.pdparams", arrays, manifest)
        return ["--checkpoint", str(tmp_path / "timm.safetensors"), "--converted", str(tmp_path / "port.pdparams")]

    return make


@pytest.mark.torch
def test_a_correct_port_passes_every_check(capsys, tmp_path):
    page, report = tmp_path / "page.html", tmp_path / "report.json"
    assert check_all.main([*QUICK, "--html", str(page), "--json", str(report)]) == 0
    out = capsys.readouterr().out
    assert verdicts(out) == dict.fromkeys(NAMES, True)
    assert len(out.splitlines()) == len(CHECKS)
    results = json.loads(report.read_text())
    assert [result["passed"] for result in results] == [True] * len(CHECKS)
    assert len({result["title"] for result in results}) == len(CHECKS)
    assert f"{len(CHECKS)} comparisons" in page.read_text()


@pytest.mark.torch
def test_changed_weights_fail_the_checks_that_read_them_and_are_named(files, capsys):
    name = "level4.tree1.tree1.bn2._variance"
    assert check_all.main([*QUICK, *files(name, lambda array: array * (1 + 1e-5))]) == 1
    out = capsys.readouterr().out
    found = verdicts(out)
    assert not any(found[check] for check in ("weights", "forward", "backward, eval"))
    assert found["init"]
    assert "weights fault in level4.tree1.tree1.bn2.running_var" in out


@pytest.mark.heavy
def test_another_initialisation_fails_its_own_check_alone(files, monkeypatch, capsys):
    from paddle_dla.models import dla

    monkeypatch.setattr(dla, "init_weights", lambda model: None)
    assert check_all.main([*QUICK, *files()]) == 1
    assert verdicts(capsys.readouterr().out) == {**dict.fromkeys(NAMES, True), "init": False}


# --- how outcomes are gathered, without a model ---------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MadeUp(CheckOptions):
    error: float = 0.0


def aligned(options, progress):
    row = Row("a", "a", "Tensor", 0, 0, True, (1,), 0.0, options.error, 0.0, 0.0)
    return Result(f"{options.model}: made up", "float64", [row])


def refusing(options, progress):
    raise CheckpointError("the file is damaged:\n  in one place")


def gathered(*checks):
    return list(check_all.check_all(AllOptions(model=SMALL, converted="x.pdparams"), lambda line: None, checks))


def test_the_options_of_a_check_are_its_own():
    right, wrong = gathered(Step("right", aligned, MadeUp), Step("wrong", aligned, MadeUp, {"error": 1.0}))
    assert right.passed
    assert not wrong.passed
    assert "wrong" in wrong.line()
    assert "NOT ALIGNED" in wrong.line()


def test_a_refusal_is_a_failure_that_does_not_stop_the_others():
    first, second = gathered(Step("first", refusing), Step("second", aligned, MadeUp))
    assert not first.passed
    assert "REFUSED: the file is damaged:" in first.line()
    assert second.passed


def test_a_refusal_is_in_every_report(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(check_all.check_all, "__defaults__", ((Step("first", refusing),),))
    (tmp_path / "x.pdparams").touch()
    reports = ["--json", str(tmp_path / "report.json"), "--html", str(tmp_path / "page.html")]
    assert check_all.main(["--model", SMALL, "--converted", str(tmp_path / "x.pdparams"), *reports]) == 1
    assert "REFUSED" in capsys.readouterr().out
    for name in ("report.json", "page.html"):
        assert "in one place" in (tmp_path / name).read_text()


def test_unreadable_weights_end_with_1(tmp_path, capsys):
    missing = str(tmp_path / "none.safetensors")
    assert check_all.main(["--model", SMALL, "--checkpoint", missing]) == 1
    assert "none.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [["--model", "dla61"], ["--model", "all", "--converted", "x"], ["--model", SMALL, "--input-size", "33"], []],
)
def test_bad_usage_ends_with_2(wrong):
    with pytest.raises(SystemExit) as ended:
        check_all.main(wrong)
    assert ended.value.code == 2


def test_every_check_has_a_name_of_its_own():
    assert len(set(NAMES)) == len(CHECKS)
