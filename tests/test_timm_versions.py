"""Which versions of timm are served is said once, and an older one is not served silently."""

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.torch, pytest.mark.any_paddle]

from torch_ref import model  # noqa: E402

ROOT = Path(__file__).parent.parent


def test_the_oldest_is_the_one_that_pip_installs():
    bound = re.search(r"^\s*timm>=([0-9.]+),<", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    oldest = ".".join(map(str, model.OLDEST_TIMM))
    assert bound[1] == oldest
    assert all(f"timm {oldest} " in (ROOT / page).read_text() for page in ("README.md", "README.zh-CN.md"))


@pytest.mark.parametrize(("version", "warned"), [("1.0.23", 1), ("0.9.16", 1), ("1.0.24", 0), ("1.1.0.dev0", 0)])
def test_an_older_timm_is_warned_of(version, warned, monkeypatch, recwarn):
    monkeypatch.setattr(model.import_timm(), "__version__", version)
    recwarn.clear()
    model.import_timm()
    assert len(recwarn) == warned
