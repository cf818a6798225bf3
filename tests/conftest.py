"""Shared by all tests: which of them can run here, and where real data lies."""

from __future__ import annotations

import importlib.util
import re
import shutil
import signal
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest

from paddle_dla.cpu import use_vector_kernels

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"


def pytest_configure():
    """What every process that a test starts inherits."""
    # before the first matrix product of any test, as in every command
    use_vector_kernels()
    # a shell starts jobs in the background with Ctrl-C ignored
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config, items):
    """Tests marked ``torch`` are skipped, with the reason, where there is no reference to compare with.

    Several processes take the files with the most slow tests first, lest one ends up alone with one of them.
    """
    if hasattr(config, "workerinput"):  # a process of pytest-xdist
        slow = Counter(item.path for item in items if "slow" in item.keywords)
        items.sort(key=lambda item: -slow[item.path])
    missing = [name for name in ("torch", "timm") if importlib.util.find_spec(name) is None]
    if missing:
        skip = pytest.mark.skip(reason=f"needs {' and '.join(missing)}")
        for item in items:
            if "torch" in item.keywords:
                item.add_marker(skip)
    else:
        installed = numbers(version("timm"))
        for item in items:
            for needed in item.iter_markers("timm"):
                if installed < numbers(needed.args[0]):
                    item.add_marker(pytest.mark.skip(reason=f"timm has it, or draws so, since {needed.args[0]}"))


def numbers(text: str) -> list[int]:
    """A version as what can be compared."""
    return [int(number) for number in re.findall(r"\d+", text)[:3]]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images and trained checkpoints that lies beside the project."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the shared data in {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """(a small network, its export in every format that there is); not to be changed."""
    from exports import make  # imports Paddle, which most tests do without

    folder = tmp_path_factory.mktemp("exports") / "made"
    return make(folder), folder


@pytest.fixture
def exported_copy(exported, tmp_path) -> Path:
    """A copy of the export, to be damaged."""
    return Path(shutil.copytree(exported[1], tmp_path / "copied"))


@pytest.fixture(scope="module")
def one_thread():
    """The models are so small that threads cost more than they bring, the more so on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
