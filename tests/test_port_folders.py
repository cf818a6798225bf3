"""A port folder is what was proved: no other source, weights or card is opened; nothing of the user's is replaced."""

import json
import os
import py_compile
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import paddle  # noqa: E402
from small_runs import environment  # noqa: E402

from convert.port import main  # noqa: E402
from convert.porting.folder import check_folder  # noqa: E402
from convert.porting.porting import port_model  # noqa: E402
from paddle_dla.models.ported import open_port  # noqa: E402
from paddle_dla.storage.errors import CheckpointError  # noqa: E402
from paddle_dla.storage.pdparams import read_pdparams, write_pdparams  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "port"
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 2))
    assert port_model(module, (torch.randn(2, 3, 6, 6),), folder).proved
    return folder


@pytest.fixture
def port(made, tmp_path):
    return shutil.copytree(made, tmp_path / "port")


def test_a_port_opens_and_leaves_its_folder_as_it_is(port):
    before = sorted(path.name for path in port.iterdir())
    assert open_port(port)(paddle.zeros([1, 3, 6, 6])).shape == [1, 2]
    assert sorted(path.name for path in port.iterdir()) == before


def test_code_that_was_compiled_beside_the_source_is_not_run(port, tmp_path):
    """Python would take it for the source's: it bears the time and the size of that."""
    source = port / "model.py"
    text, times = source.read_text(), source.stat()
    bad = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
    source.write_text((bad + text)[: len(text.encode())])
    source.write_text(bad + "#" * (len(text.encode()) - len(bad) - 1) + "\n")
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    py_compile.compile(str(source), doraise=True)
    source.write_text(text)
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert list((port / "__pycache__").iterdir())
    open_port(port)
    assert not (tmp_path / "ran").exists()


def other_weights(port):
    arrays = {name: array + np.float32(1) for name, array in read_pdparams(port / "weights.pdparams").items()}
    write_pdparams(port / "weights.pdparams", arrays)


def edited(key, value):
    def edit(port):
        card = json.loads((port / "card.json").read_text())
        card[key] = value
        (port / "card.json").write_text(json.dumps(card))

    return edit


def without_manifest(port):
    other_weights(port)
    (port / "weights.pdparams.manifest.json").unlink()


def replaced(name, content):
    def replace(port):
        (port / name).unlink()
        content(port / name)

    return replace


def fifo(path):
    os.mkfifo(path)


def device(path):
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # of the kind of /dev/zero
    except PermissionError:
        pytest.skip("only root makes device nodes")


def sparse(path):
    path.touch()
    os.truncate(path, 2**33)


ATTACKS = {
    "another source": lambda port: (port / "model.py").write_text("def build_model(): raise SystemExit"),
    "no source": lambda port: (port / "model.py").unlink(),
    "other weights": other_weights,
    "other weights without a manifest": without_manifest,
    "no weights": lambda port: (port / "weights.pdparams").unlink(),
    "a card that says otherwise": edited("proved", 1),
    "a card of another verdict": edited("verdict", {"eval": "ALIGNED"}),
    "a card of another reference": edited("reference", {"factory": "os:system", "options": {"command": "touch x"}}),
    "a card without sums": edited("files", {}),
    "a card of a later version": edited("format", 99),
    "a card of nested lists": lambda port: (port / "card.json").write_text("[" * 100_000),
    **{
        f"{name} is {kind.__name__}": replaced(name, kind)
        for name in ("model.py", "weights.pdparams", "card.json", "weights.pdparams.manifest.json")
        for kind in (fifo, device, sparse, os.mkdir)
    },
    **{
        f"{name} leads nowhere": replaced(name, lambda path: path.symlink_to("nothing"))
        for name in ("model.py", "weights.pdparams", "card.json")
    },
    "weights that lead to themselves": replaced("weights.pdparams", lambda path: path.symlink_to(path.name)),
}  # fmt: skip

OPENS = """
import resource, sys
from paddle_dla.models.ported import open_port
from paddle_dla.storage.errors import CheckpointError
resource.setrlimit(resource.RLIMIT_DATA, (4 * 2**30, 4 * 2**30))
for folder in sys.argv[1:]:
    try:
        open_port(folder)
        print("opened", folder)
    except CheckpointError as error:
        print("refused", error)
"""


def test_every_attack_on_a_port_is_refused_in_one_sentence(made, tmp_path):
    """In one process, for which memory and time are limited."""
    for number, attack in enumerate(ATTACKS.values()):
        attack(shutil.copytree(made, tmp_path / str(number)))
    folders = [str(tmp_path / str(number)) for number in range(len(ATTACKS))]
    done = subprocess.run(
        [sys.executable, "-c", OPENS, *folders], env=environment(), capture_output=True, text=True, timeout=120
    )
    said = dict(zip(ATTACKS, done.stdout.splitlines(), strict=True))
    assert not {attack: line for attack, line in said.items() if not line.startswith("refused")}, said


def test_a_draft_does_not_become_a_proof_by_its_card(made, tmp_path):
    draft = shutil.copytree(made, tmp_path / "draft")
    edited("proved", False)(draft)
    with pytest.raises(CheckpointError):
        open_port(draft)


def test_what_a_user_has_put_into_a_port_is_not_replaced(port):
    (port / "fine-tuned.pdparams").write_text("mine")
    with pytest.raises(CheckpointError, match=r"fine-tuned\.pdparams"):
        check_folder(port, overwrite=True)
    (port / "fine-tuned.pdparams").unlink()
    (port / "__pycache__").mkdir()
    check_folder(port, overwrite=True)


def test_a_report_does_not_replace_the_checkpoint_that_is_read(tmp_path, capsys):
    (tmp_path / "weights.pth").write_bytes(b"mine")
    words = ["--checkpoint", f"{tmp_path}/weights.pth", "--output", f"{tmp_path}/port"]
    assert main(["--model", "resnet18", *words, "--json", f"{tmp_path}/weights.pth"]) == 1
    assert "which is read" in capsys.readouterr().err
    assert (tmp_path / "weights.pth").read_bytes() == b"mine"


@pytest.mark.parametrize("report", ["port/model.py", "port", "."])
def test_a_report_and_a_port_are_not_in_each_others_way(made, tmp_path, report, capsys):
    shutil.copytree(made, tmp_path / "port")
    words = ["--output", f"{tmp_path}/port", "--overwrite", "--html", f"{tmp_path}/{report}"]
    assert main(["--model", "resnet18", *words]) == 1
    assert "building" not in capsys.readouterr().err
    open_port(tmp_path / "port")


def test_the_root_of_the_file_system_is_no_port(monkeypatch):
    monkeypatch.setattr("pathlib.Path.iterdir", lambda path: iter(()))
    with pytest.raises(CheckpointError, match="root"):
        check_folder(Path("/"), overwrite=False)
