"""A further checkpoint of a port's reference becomes Paddle's, and comes home; what does not fit is named."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
paddle = pytest.importorskip("paddle")
pytestmark = pytest.mark.torch

from made_ports import make_port  # noqa: E402

from convert import paddle2timm, timm2paddle  # noqa: E402
from convert.matching.key_map import KeyMap, Line  # noqa: E402
from convert.outcome import ConversionError  # noqa: E402
from convert.port_weights import convert_for_port, key_map_of  # noqa: E402
from convert.porting.porting import port_model  # noqa: E402
from convert.readers import read_source, source_from_arrays  # noqa: E402
from paddle_dla import create_model  # noqa: E402
from paddle_dla.models.registry import find_model  # noqa: E402
from paddle_dla.weight_files import read  # noqa: E402
from torch_ref.model import import_timm  # noqa: E402

SWIN = "swin_tiny_patch4_window7_224"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_port("test_resnet", tmp_path_factory.mktemp("ports"))


@pytest.fixture(scope="module")
def further():
    """timm's model with other weights than the port's."""
    torch.manual_seed(7)
    model = import_timm().create_model("test_resnet").eval()
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2.0), norm.num_batches_tracked.fill_(11)
    return model


@pytest.fixture
def file(further, tmp_path):
    torch.save(further.state_dict(), tmp_path / "further.pth")
    return str(tmp_path / "further.pth")


def state(model):
    return {name: value.numpy() for name, value in model.state_dict().items()}


def test_a_further_checkpoint_is_converted_verified_and_runs(folder, further, file, tmp_path):
    output = str(tmp_path / "further.pdparams")
    report = tmp_path / "report.json"
    command = ["--model", folder, "--checkpoint", file, "--output", output, "--json", str(report)]
    assert timm2paddle.main(command) == 0
    assert json.loads(report.read_text())["verification"]["run"]
    manifest = read(output)[1]
    assert manifest["model"] == "test_resnet" and manifest["preprocessing"]["input_size"] == [3, 160, 160]
    x = np.random.RandomState(0).standard_normal((2, 3, 64, 64)).astype("float32")
    model = create_model(folder, pretrained=output)
    model.eval()
    with torch.no_grad(), paddle.no_grad():
        ours, expected = model(paddle.to_tensor(x)).numpy(), further(torch.from_numpy(x)).numpy()
    assert np.abs(ours - expected).max() <= 1e-5 * np.abs(expected).max()
    direct = create_model(folder, pretrained=file)
    assert all(np.array_equal(direct.state_dict()[name].numpy(), value) for name, value in read(output)[0].items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_goes_there_comes_home_the_same(folder, further, tmp_path, dtype):
    state = {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in further.state_dict().items()
    }
    torch.save(state, tmp_path / "there.pth")
    there, back = str(tmp_path / "there.pdparams"), str(tmp_path / "back.pth")
    assert timm2paddle.main(["--model", folder, "--checkpoint", str(tmp_path / "there.pth"), "--output", there,
                             "--no-verify"]) == 0  # fmt: skip
    assert paddle2timm.main(["--model", folder, "--checkpoint", there, "--output", back]) == 0
    found = torch.load(back, weights_only=True)
    assert [*found] == [*state]
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in state.items())


def test_every_fault_is_named(folder, further):
    arrays = state(further)
    del arrays["bn1.running_var"]
    arrays["extra.weight"] = arrays["bn1.bias"]
    arrays["bn1.weight"] = np.ones(3, np.float32)
    with pytest.raises(ConversionError) as caught:
        convert_for_port(source_from_arrays(arrays), find_model(folder))
    faults = " ".join(caught.value.faults)
    assert "bn1.running_var" in faults and "extra.weight" in faults and "bn1.weight" in faults
    whole = {**state(further), "fc.bias": np.arange(1000)}
    with pytest.raises(ConversionError, match="int64"):
        convert_for_port(source_from_arrays(whole), find_model(folder))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.5, 1e30, 1j])
def test_a_batch_counter_that_counts_nothing_is_named(value, folder, further):
    arrays = state(further) | {"bn1.num_batches_tracked": np.asarray(value)}
    with pytest.raises(ConversionError) as error:
        convert_for_port(source_from_arrays(arrays), find_model(folder))
    (fault,) = error.value.faults
    assert fault.startswith("bn1.num_batches_tracked")


def test_other_classes_and_channels_are_asked_for(folder):
    torch.manual_seed(1)
    arrays = state(import_timm().create_model("test_resnet", num_classes=5, in_chans=1))
    with pytest.raises(ConversionError, match="--num-classes 5"):
        convert_for_port(source_from_arrays(arrays), find_model(folder))
    kept = convert_for_port(source_from_arrays(arrays), find_model(folder), 5, 1)
    assert np.array_equal(kept.arrays["fc.weight"], arrays["fc.weight"].T) and kept.in_chans == 1
    new = convert_for_port(source_from_arrays(arrays), find_model(folder), 8, 1)
    assert new.arrays["fc.weight"].shape[1] == 8 and "made" in new.manifest["tensors"]["fc.weight"]


def test_another_naming_goes_through_a_saved_key_map(folder, further, tmp_path):
    renamed = {f"net/{place}": value for place, value in enumerate(further.state_dict().values())}
    names = dict(zip(further.state_dict(), renamed, strict=True))
    recorded = key_map_of(read(f"{folder}/weights.pdparams")[1])
    lines = [Line(names[line.torch], line.paddle, line.steps) for line in recorded]
    lines += [Line(names[name], None, dropped="a counter") for name in names if name.endswith("tracked")]
    KeyMap(tuple(lines)).save(tmp_path / "map.txt")
    torch.save(renamed, tmp_path / "renamed.pth")
    output = str(tmp_path / "renamed.pdparams")
    assert timm2paddle.main(["--model", folder, "--checkpoint", str(tmp_path / "renamed.pth"), "--output", output,
                             "--key-map", str(tmp_path / "map.txt")]) == 0  # fmt: skip
    expected = convert_for_port(source_from_arrays(state(further)), find_model(folder)).arrays
    assert all(np.array_equal(array, expected[name]) for name, array in read(output)[0].items())


def test_weights_that_do_not_account_for_the_port_stay_where_they_are(folder, file, tmp_path, capsys):
    output = tmp_path / "x.pdparams"
    assert timm2paddle.main(["--model", folder, "--checkpoint", file, "--output", str(output), "--no-verify"]) == 0
    assert paddle2timm.main(["--checkpoint", str(output), "--output", str(tmp_path / "y.pth")]) == 1
    assert "port" in capsys.readouterr().err
    assert not (tmp_path / "y.pth").exists()


@pytest.mark.slow
def test_tables_of_indices_are_the_ports_own(tmp_path):
    torch.manual_seed(3)
    model = import_timm().create_model(SWIN, img_size=56, embed_dim=24, depths=(1, 1), num_heads=(1, 2))
    folder = str(tmp_path / "port")
    assert port_model(model, (torch.randn(2, 3, 56, 56),), folder, eval_only=True).proved
    torch.save(model.state_dict(), tmp_path / "swin.pth")
    conversion = convert_for_port(read_source(tmp_path / "swin.pth"), find_model(folder))
    assert conversion.arrays["layers.0.blocks.0.attn.relative_position_index"].dtype == np.int64
    tables = dict(model.named_buffers())
    name = "layers.0.blocks.0.attn.relative_position_index"
    with_table = {**state(model), name: tables[name].numpy()}
    assert convert_for_port(source_from_arrays(with_table), find_model(folder))
    with pytest.raises(ConversionError, match="another table"):
        convert_for_port(source_from_arrays({**with_table, name: with_table[name] + 1}), find_model(folder))


def test_what_a_wrapper_puts_before_every_name_goes(folder, further, tmp_path):
    torch.save(
        {"state_dict": {f"model.{name}": value for name, value in further.state_dict().items()}}, tmp_path / "l.ckpt"
    )
    found = convert_for_port(read_source(tmp_path / "l.ckpt"), find_model(folder))
    expected = convert_for_port(source_from_arrays(state(further)), find_model(folder)).arrays
    assert all(np.array_equal(found.arrays[name], array) for name, array in expected.items())
    assert any("model." in note for note in found.warnings)


def test_a_folder_that_is_not_there_is_made(folder, file, tmp_path):
    output = tmp_path / "new" / "folder" / "x.pdparams"
    assert timm2paddle.main(["--model", folder, "--checkpoint", file, "--output", str(output), "--no-verify"]) == 0
    assert output.is_file()
