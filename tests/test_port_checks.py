"""Every check of ``alignment`` takes a port's folder, passes a correct port, and sees a fault in one."""

import shutil

import pytest

torch = pytest.importorskip("torch")
paddle = pytest.importorskip("paddle")
pytestmark = pytest.mark.torch

from each import each  # noqa: E402
from made_ports import make_port, sealed_again  # noqa: E402

from alignment import check_all, check_backward, check_forward, check_init, check_optimizer, check_weights  # noqa: E402
from convert import timm2paddle  # noqa: E402
from paddle_dla import weight_files  # noqa: E402
from paddle_dla.storage.manifest import describe  # noqa: E402
from torch_ref.model import import_timm  # noqa: E402

SMALL = ["--input-size", "64"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_port("test_resnet", tmp_path_factory.mktemp("ports"))


def test_all_checks_pass_a_correct_port(folder, tmp_path, capsys):
    report = tmp_path / "report.json"
    assert check_all.main(["--model", folder, *SMALL, "--json", str(report)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(folder)]
    assert len(lines) == len(check_all.CHECKS) - 1 and all("ALIGNED" in line for line in lines)


@pytest.mark.parametrize("model", each(("test_vit", "test_convnext", "test_efficientnet"), {"test_vit"}))
def test_other_families_pass(model, tmp_path):
    port = make_port(model, tmp_path)
    for check, arguments in ((check_backward, SMALL), (check_optimizer, ["--steps", "2"])):
        assert check.main(["--model", port, *arguments]) == 0


def test_a_converted_file_is_checked_against_its_checkpoint(folder, tmp_path):
    torch.manual_seed(4)
    model = import_timm().create_model("test_resnet", num_classes=6, in_chans=1)
    torch.save(model.state_dict(), tmp_path / "six.pth")
    files = ["--checkpoint", str(tmp_path / "six.pth"), "--converted", str(tmp_path / "six.pdparams")]
    convert = [*files[:2], "--output", files[3], "--num-classes", "6", "--in-chans", "1", "--no-verify"]
    assert timm2paddle.main(["--model", folder, *convert]) == 0
    for check in (check_weights, check_forward):
        assert check.main(["--model", folder, *files]) == 0
    arrays, manifest = weight_files.read(files[3])
    arrays = {name: array.copy() for name, array in arrays.items()}
    arrays["layer2.0.bn1._mean"] += 0.1
    manifest["tensors"]["layer2.0.bn1._mean"] |= describe(arrays["layer2.0.bn1._mean"])
    weight_files.save(files[3], arrays, manifest)
    for check in (check_weights, check_forward):
        assert check.main(["--model", folder, *files]) == 1


def test_a_changed_computation_is_found(folder, tmp_path, capsys):
    wrong = tmp_path / "wrong"
    shutil.copytree(folder, wrong)
    source = (wrong / "model.py").read_text()
    assert "nn.ReLU()" in source
    (wrong / "model.py").write_text(source.replace("nn.ReLU()", "nn.LeakyReLU(1e-3)", 1))
    sealed_again(wrong)
    assert check_forward.main(["--model", str(wrong), *SMALL]) == 1
    assert "NOT ALIGNED" in capsys.readouterr().out


def test_a_port_has_no_initialisation_of_timms(folder, capsys):
    assert check_init.main(["--model", folder, "--seeds", "2"]) == 1
    assert "NOT ALIGNED" in capsys.readouterr().out


def test_a_network_written_by_hand_has_nothing_to_be_compared_with(capsys):
    with pytest.raises(SystemExit) as caught:
        check_forward.main(["--model", "made_ports:ByHand"])
    assert caught.value.code == 2
    assert "no reference" in capsys.readouterr().err
