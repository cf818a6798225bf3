"""The command line of the forward check: verdicts, exit codes, reports."""

import json

import numpy as np
import pytest
from numpy_weights import timm_weights

from alignment import check_backward, check_forward, check_weights
from convert.conversion import convert_source
from convert.readers import source_from_arrays
from paddle_dla import weight_files
from paddle_dla.storage.manifest import describe

SMALL = "dla46x_c"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "dla61"],
        ["--model", SMALL, "--input-size", "48"],
        ["--model", SMALL, "--batch-size", "0"],
        ["--model", SMALL, "--seed", "-1"],
        ["--model", "all", "--checkpoint", "x.pth"],
        ["--model", SMALL, "--use-ema"],
        ["--model", SMALL, "--dtype", "float16"],
        [],
    ],
)
def test_bad_usage_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        check_forward.main(arguments)
    assert ended.value.code == 2
    assert "usage: paddle-dla check-forward" in capsys.readouterr().err


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_correct_port_is_aligned(dtype, capsys, tmp_path):
    report = tmp_path / "report.json"
    assert check_forward.main(["--model", SMALL, "--dtype", dtype, "--json", str(report)]) == 0
    out, err = capsys.readouterr()
    assert out.strip().splitlines()[-1].startswith("ALIGNED: 191 tensors")
    assert "not compared: global_pool.pool" in out
    assert "weights seeded with 0" in err
    content = json.loads(report.read_text())
    assert content["passed"]
    assert content["compared"] == 191


@pytest.fixture
def weights(tmp_path):
    """A timm file and its converted twin."""
    from safetensors.numpy import save_file

    arrays = timm_weights(SMALL)
    save_file(arrays, tmp_path / "timm.safetensors")
    conversion = convert_source(source_from_arrays(arrays), SMALL)
    weight_files.save(tmp_path / "paddle.pdparams", conversion.arrays, conversion.manifest)
    return tmp_path


@pytest.mark.torch
def test_a_converted_file_with_one_wrong_value_is_caught_at_its_layer(weights, capsys):
    arrays, manifest = weight_files.read(weights / "paddle.pdparams")
    name = "level4.tree1.tree1.bn2._variance"
    arrays[name] = arrays[name] * (1 + 1e-6)
    manifest["tensors"][name] |= describe(arrays[name])
    weight_files.save(weights / "wrong.pdparams", arrays, manifest)
    files = ["--checkpoint", str(weights / "timm.safetensors"), "--converted", str(weights / "wrong.pdparams")]
    assert check_forward.main(["--model", SMALL, *files]) == 1
    assert "first level4.tree1.tree1.bn2:" in capsys.readouterr().out.splitlines()[-2]


@pytest.mark.torch
def test_images_go_through_the_transform_of_timm(weights, shared_data, capsys):
    images = sorted(str(path) for path in (shared_data / "imagenet_samples").glob("*.JPEG"))[:2]
    files = ["--checkpoint", str(weights / "timm.safetensors"), "--converted", str(weights / "paddle.pdparams")]
    assert check_forward.main(["--model", SMALL, *files, "--image", *images]) == 0
    assert "input: 2x3x224x224" in capsys.readouterr().out


@pytest.mark.torch
def test_weights_of_another_model_end_with_1(weights, capsys):
    assert check_forward.main(["--model", "dla60x_c", "--checkpoint", str(weights / "timm.safetensors")]) == 1
    assert "it fits dla46x_c: pass --model dla46x_c" in capsys.readouterr().err


@pytest.mark.torch
def test_a_file_that_is_no_image_ends_with_1(tmp_path, capsys):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    assert check_forward.main(["--model", SMALL, "--image", str(tmp_path / "broken.jpg")]) == 1
    assert "broken.jpg" in capsys.readouterr().err


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_short_weights_reach_both_models_as_the_same_values(dtype, tmp_path):
    import torch
    from safetensors.torch import save_file

    state = {k: torch.from_numpy(v) for k, v in timm_weights(SMALL).items()}
    short = {k: v.to(getattr(torch, dtype)) if v.is_floating_point() else v for k, v in state.items()}
    save_file(short, tmp_path / "short.safetensors")
    assert check_forward.main(["--model", SMALL, "--checkpoint", str(tmp_path / "short.safetensors")]) == 0


@pytest.mark.torch
def test_hooks_leave_both_models_as_they_were():
    from alignment.engine.sides.paddle import capture as capture_paddle
    from alignment.engine.sides.torch import capture as capture_torch
    from paddle_dla import create_model
    from torch_ref.model import create_model as create_timm

    x = np.zeros((1, 3, 32, 32), np.float32)
    reference, port = create_timm(SMALL), create_model(SMALL)
    port.eval()
    capture_torch.capture(reference, [x])
    capture_paddle.capture(port, [x])
    assert not any(module._forward_hooks for module in reference.modules())
    assert not any(layer._forward_post_hooks for layer in port.sublayers(include_self=True))


@pytest.mark.torch
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_gradients_of_a_correct_port_are_aligned(weights, mode, capsys):
    files = ["--checkpoint", str(weights / "timm.safetensors"), "--converted", str(weights / "paddle.pdparams")]
    assert check_backward.main(["--model", SMALL, *files, "--mode", mode]) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("ALIGNED: 521 tensors")


def test_the_weights_of_a_converted_file_are_those_of_timm(weights, capsys):
    files = ["--checkpoint", str(weights / "timm.safetensors"), "--converted", str(weights / "paddle.pdparams")]
    assert check_weights.main(["--model", SMALL, *files]) == 0
    assert "ALIGNED: 242 tensors" in capsys.readouterr().out


def test_one_bit_in_one_weight_is_named(weights, capsys):
    arrays, manifest = weight_files.read(weights / "paddle.pdparams")
    name = "level2.root.conv.weight"
    arrays[name] = arrays[name].copy()
    arrays[name].flat[7] = np.nextafter(arrays[name].flat[7], np.float32(1))
    weight_files.save(weights / "wrong.pdparams", arrays, manifest)
    files = ["--checkpoint", str(weights / "timm.safetensors"), "--converted", str(weights / "wrong.pdparams")]
    assert check_weights.main(["--model", SMALL, *files]) == 1
    assert "NOT ALIGNED: weights fault in level2.root.conv.weight" in capsys.readouterr().out
