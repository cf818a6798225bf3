"""What conversion promises of good files: every bit arrives, comes back, and is accounted for in the manifest."""

import argparse
import hashlib
import json
import pickle
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
from timm_files import (
    SMALL,
    convert,
    quick_weights,
    run,
    same_bits,
    small_weights,
    stored,
    torch_tensors,
    write_safetensors,
)

from convert import paddle2timm, timm2paddle
from convert.conversion import ConversionError, convert_source
from convert.key_map import to_paddle
from convert.paddle2timm import convert_back
from convert.readers import Source, read_source, source_from_arrays
from paddle_dla import weight_files
from paddle_dla.models.variants import VARIANTS
from paddle_dla.preprocessing import IMAGENET_MEAN, Preprocessing
from paddle_dla.storage.manifest import manifest_path
from paddle_dla.storage.pdparams import read_pdparams
from paddle_dla.storage.tensors import StoredTensor, read_safetensors
from paddle_dla.weight_files import CheckpointError

needs_torch = pytest.mark.torch
COUNTER = "base_layer.1.num_batches_tracked"


def raw(tensors):
    return {name: tensor.raw for name, tensor in tensors.items()}


def types(tensors):
    return {tensor.dtype for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}


@pytest.fixture
def source(tmp_path):
    """A float32 .safetensors file of the smallest model."""
    return write_safetensors(tmp_path / "model.safetensors", small_weights())


@pytest.fixture
def converted(source, tmp_path):
    """What it becomes, with its manifest."""
    target = tmp_path / "model.pdparams"
    assert convert(source, target) == 0
    return target


# --- there and back -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=VARIANTS)
def of_each_model(request):
    """timm's weights of each model, and their conversion."""
    weights = quick_weights(request.param)
    return weights, convert_source(source_from_arrays(weights), request.param)


def test_every_tensor_of_every_model_comes_back_bit_for_bit(of_each_model):
    weights, conversion = of_each_model
    assert list(conversion.arrays) == [to_paddle(name) for name in weights if to_paddle(name)]
    back = convert_back(conversion.arrays, conversion.model, conversion.manifest)
    assert list(back) == list(weights)
    assert same_bits(raw(back), weights)


@pytest.mark.parametrize("between", [".pdparams", ".safetensors"])
@pytest.mark.parametrize(
    ("dtype", "suffix"),
    [
        ("float32", ".safetensors"),
        ("float16", ".safetensors"),
        ("bfloat16", ".safetensors"),
        pytest.param("float32", ".pth", marks=needs_torch),
        pytest.param("float16", ".pth", marks=needs_torch),
        pytest.param("bfloat16", ".pth", marks=needs_torch),
    ],
)
def test_a_file_comes_back_bit_for_bit_in_its_own_type(dtype, suffix, between, tmp_path):
    original = stored(small_weights(), dtype)
    source = write_safetensors(tmp_path / "in.safetensors", original)
    port, back = tmp_path / f"port{between}", tmp_path / f"back{suffix}"
    assert convert(source, port) == 0
    assert run(paddle2timm.main, "--checkpoint", port, "--output", back) == 0
    tensors = read_source(back).tensors
    assert same_bits(raw(tensors), raw(original))
    assert types(tensors) == {dtype}


@needs_torch
def test_timm_loads_what_came_back(converted, tmp_path):
    import torch

    from torch_ref.model import create_model

    back = tmp_path / "back.safetensors"
    assert run(paddle2timm.main, "--checkpoint", converted, "--output", back) == 0
    model = create_model(SMALL, checkpoint_path=str(back))
    expected = torch_tensors(small_weights())
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_short_type_arrives_as_float32_of_the_same_value(dtype):
    weights = small_weights()
    arrays = convert_source(Source(stored(weights, dtype), {}), SMALL).arrays
    short = stored(weights, dtype)["fc.weight"].raw
    value = (short.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else short.astype(np.float32)
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(arrays["fc.weight"], value)


@pytest.mark.parametrize(
    ("dtype", "misfit"),
    [("float16", 1 + 2**-11), ("float16", 1 + 2**-23), ("bfloat16", 1 + 2**-8), ("bfloat16", 1 + 2**-23)],
)
def test_one_weight_that_no_longer_fits_the_short_type_makes_all_float32(dtype, misfit):
    conversion = convert_source(Source(stored(small_weights(), dtype), {}), SMALL)
    arrays = {name: array.copy() for name, array in conversion.arrays.items()}
    assert types(convert_back(arrays, SMALL, conversion.manifest)) == {dtype}
    arrays["fc.bias"][3] = misfit
    back = convert_back(arrays, SMALL, conversion.manifest)
    assert types(back) == {"float32"}
    assert all(back[name].raw.tobytes() == arrays[name].tobytes() for name in ("fc.weight", "fc.bias"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_trained_out_of_the_range_of_the_short_type_stay_float32(dtype):
    conversion = convert_source(Source(stored(small_weights(), dtype), {}), SMALL)
    arrays = {**conversion.arrays, "fc.bias": np.full(1000, 1.0001e5, np.float32)}
    assert types(convert_back(arrays, SMALL, conversion.manifest)) == {"float32"}


def special_bits(dtype):
    """One tensor's worth of every kind of value: both zeros, subnormals, infinities, quiet NaNs, and noise."""
    if dtype == "float32":
        named = np.array([0, 1 << 31, 1, 0x007FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC12345], np.uint32)
        noise = np.random.RandomState(0).randint(0, 1 << 23, 992, dtype=np.uint32)
        return np.concatenate([named, noise]).view(np.float32)
    shift = 10 if dtype == "float16" else 7
    every = np.arange(1 << 16, dtype=np.uint16)
    exponent = (1 << (15 - shift)) - 1
    is_signalling = ((every >> shift & exponent) == exponent) & (every & (1 << shift) - 1 > 0)
    is_signalling &= every >> (shift - 1) & 1 == 0
    return np.where(is_signalling, np.uint16(0), every).view(np.float16 if dtype == "float16" else np.uint16)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_zeros_subnormals_infinities_and_nans_keep_every_bit(dtype, tmp_path):
    tensors = stored(small_weights(), dtype)
    shape = tensors["fc.weight"].shape
    bits = np.resize(special_bits(dtype), shape)
    tensors["fc.weight"] = StoredTensor(bits, dtype)
    conversion = convert_source(Source(tensors, {}), SMALL)
    weight_files.save(tmp_path / "x.pdparams", conversion.arrays, conversion.manifest)
    arrays, manifest = weight_files.read(tmp_path / "x.pdparams")
    back = convert_back(arrays, SMALL, manifest)["fc.weight"]
    assert back.dtype == dtype
    assert back.raw.tobytes() == bits.tobytes()


def test_batch_counters_come_back_and_are_zero_without_a_manifest():
    weights = small_weights()
    conversion = convert_source(source_from_arrays(weights), SMALL)
    assert weights[COUNTER] > 0
    assert convert_back(conversion.arrays, SMALL, conversion.manifest)[COUNTER].raw == weights[COUNTER]
    assert convert_back(conversion.arrays, SMALL)[COUNTER].raw == 0


def test_weights_that_paddle_saved_after_training_go_back(converted, tmp_path):
    import paddle

    from paddle_dla import create_model

    model = create_model(SMALL, pretrained=converted, num_classes=7)
    trained, back = tmp_path / "trained.pdparams", tmp_path / "trained.safetensors"
    paddle.save(model.state_dict(), str(trained))
    assert run(paddle2timm.main, "--checkpoint", trained, "--model", SMALL, "--output", back) == 0
    tensors = raw(read_safetensors(back))
    expected = {name: value.numpy() for name, value in model.state_dict().items()}
    assert {to_paddle(name) for name in tensors} - {None} == expected.keys()
    assert all(np.array_equal(array, expected[to_paddle(n)]) for n, array in tensors.items() if to_paddle(n))


# --- the written file -----------------------------------------------------------------------------------------------


def test_paddle_and_pickle_read_the_file(converted):
    import paddle

    arrays, _ = weight_files.read(converted)
    with open(converted, "rb") as file:
        assert same_bits(pickle.load(file), arrays)  # noqa: S301 - written a moment ago
    assert same_bits(paddle.load(str(converted), return_numpy=True), arrays)


def test_a_paddle_model_takes_every_tensor_of_the_file(converted):
    import paddle

    from paddle_dla import create_model

    model = create_model(SMALL)
    missing, unexpected = model.set_state_dict(paddle.load(str(converted)))
    assert (list(missing), list(unexpected)) == ([], [])
    arrays, _ = weight_files.read(converted)
    assert same_bits({name: value.numpy() for name, value in model.state_dict().items()}, arrays)


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("kind", ["tensors", "arrays"])
def test_what_paddle_saved_is_read(kind, protocol, tmp_path):
    import paddle

    arrays = {
        "weight": np.random.RandomState(0).standard_normal((2, 3, 1, 1)).astype(np.float32),
        "half": np.arange(4, dtype=np.float16),
        "step": np.arange(3),
        "mask": np.array([True, False]),
    }
    content = arrays if kind == "arrays" else {name: paddle.to_tensor(array) for name, array in arrays.items()}
    paddle.save(content, str(tmp_path / "saved.pdparams"), protocol=protocol)
    assert same_bits(read_pdparams(tmp_path / "saved.pdparams"), arrays)


@pytest.mark.parametrize(
    "array", [np.arange(6.0).reshape(2, 3).T, np.arange(6, dtype=">f4"), np.float64(3), np.empty((0, 3))]
)
def test_order_byte_order_and_shape_of_a_pickled_array_are_respected(array, tmp_path):
    path = tmp_path / "x.pdparams"
    path.write_bytes(pickle.dumps({"x": np.asarray(array)}, protocol=4))
    np.testing.assert_array_equal(read_pdparams(path)["x"], array, strict=True)


def test_safetensors_hold_the_same_arrays(source, converted, tmp_path):
    target = tmp_path / "port.safetensors"
    assert convert(source, target) == 0
    arrays, manifest = weight_files.read(target)
    expected, record = weight_files.read(converted)
    assert manifest["tensors"] == record["tensors"]
    assert same_bits(arrays, expected)


def test_the_library_of_the_format_reads_the_safetensors(source, tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import load_file

    port, back = tmp_path / "port.safetensors", tmp_path / "back.safetensors"
    assert convert(source, port) == 0
    assert run(paddle2timm.main, "--checkpoint", port, "--output", back) == 0
    assert same_bits(load_file(port), weight_files.read(port)[0])
    assert same_bits(load_file(back), small_weights())
    for path, framework in ((port, "np"), (back, "pt")):
        with safe_open(path, framework="np") as file:
            assert file.metadata() == {"format": framework}


def test_a_type_that_no_weight_has_is_not_written(tmp_path):
    arrays = {"x": np.ones(3, np.complex64)}
    manifest = {"format": 1, "model": SMALL, "tensors": {}}
    with pytest.raises(CheckpointError, match="cannot write 'x': no supported weight is of type complex64"):
        weight_files.save(tmp_path / "x.safetensors", arrays, manifest)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".pdparams", ".safetensors"])
def test_converting_twice_writes_the_same_bytes(suffix, source, tmp_path):
    written = []
    for name in ("first", "second"):
        assert convert(source, tmp_path / f"{name}{suffix}") == 0
        written += [
            (tmp_path / f"{name}{suffix}").read_bytes(),
            manifest_path(tmp_path / f"{name}{suffix}").read_bytes(),
        ]
    assert written[:2] == written[2:]


def test_a_timm_file_loads_into_paddle_without_being_converted_first(source, converted):
    assert same_bits(weight_files.load_weights(str(source), SMALL), weight_files.read(converted)[0])


# --- the containers in which weights come ---------------------------------------------------------------------------


def prefixed(prefix):
    return lambda tensors: {f"{prefix}{name}": value for name, value in tensors.items()}


def training_checkpoint(tensors):
    arguments = argparse.Namespace(model=SMALL, lr=0.1, opt="sgd", mean=None, tags=["a"])
    return {
        "epoch": 3,
        "arch": SMALL,
        "state_dict": OrderedDict(tensors),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]},
        "version": 2,
        "args": arguments,
        "metric": np.float64(71.5),
        "loss": np.float32(2.5),
        "step": np.int64(7),
    }


CONTAINERS = {
    "plain": lambda tensors: tensors,
    "ordered": OrderedDict,
    "state_dict": lambda tensors: {"state_dict": tensors},
    "model": lambda tensors: {"model": tensors, "epoch": 1},
    "net": lambda tensors: {"net": tensors},
    "data parallel": prefixed("module."),
    "compiled": prefixed("_orig_mod."),
    "compiled and data parallel": prefixed("module._orig_mod."),
    "data parallel in a container": lambda tensors: {"state_dict": prefixed("module.")(tensors)},
    "timm's trainer": training_checkpoint,
}


@needs_torch
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_weights_are_found_in_every_container(container, zipped, tmp_path):
    import torch

    weights, path = small_weights(), tmp_path / "model.pth"
    torch.save(CONTAINERS[container](torch_tensors(weights)), path, _use_new_zipfile_serialization=zipped)
    assert same_bits(raw(read_source(path).tensors), weights)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "model.module.", "net.0."])
def test_a_prefix_that_all_names_bear_goes_and_is_named(prefix, tmp_path):
    weights = small_weights()
    read = read_source(write_safetensors(tmp_path / "x.safetensors", prefixed(prefix)(weights)))
    assert same_bits(raw(read.tensors), weights)
    assert len(read.notes) == 1 and repr(prefix) in read.notes[0]
    converted = convert_source(read, SMALL)
    assert same_bits(converted.arrays, convert_source(source_from_arrays(weights), SMALL).arrays)
    assert converted.warnings == read.notes


def test_a_prefix_of_names_that_are_not_of_the_model_is_named_in_few_lines(tmp_path):
    weights = {f"encoder.{name.replace('level', 'stage')}": array for name, array in small_weights().items()}
    weights = {name.replace("base_layer", "stem").replace("fc.", "head."): array for name, array in weights.items()}
    with pytest.raises(ConversionError) as error:
        convert_source(read_source(write_safetensors(tmp_path / "x.safetensors", weights)), SMALL)
    first, *rest = str(error.value).splitlines()
    assert "'encoder.'" in first and len(rest) < 30 < len(error.value.faults)


def test_a_part_of_a_model_is_not_taken_for_a_prefix(tmp_path):
    weights = {name: array for name, array in small_weights().items() if name.startswith("level5.")}
    read = read_source(write_safetensors(tmp_path / "x.safetensors", weights))
    assert read.tensors.keys() == weights.keys()
    with pytest.raises(ConversionError) as error:
        convert_source(read, SMALL)
    assert "begin with" not in str(error.value)


def test_a_prefix_that_only_some_names_bear_stays(tmp_path):
    weights = small_weights()
    weights["module.fc.weight"] = weights.pop("fc.weight")
    read = read_source(write_safetensors(tmp_path / "x.safetensors", weights))
    assert "module.fc.weight" in read.tensors


@needs_torch
@pytest.mark.parametrize("suffix", [".pth", ".pth.tar", ".pt", ".bin"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_suffix_and_type_of_torch_is_read_like_safetensors(suffix, dtype, tmp_path):
    import torch

    tensors = torch_tensors(small_weights())
    tensors = {name: t.to(getattr(torch, dtype)) if t.is_floating_point() else t for name, t in tensors.items()}
    torch.save(tensors, tmp_path / f"model{suffix}")
    from safetensors.torch import save_file

    save_file(tensors, tmp_path / "model.safetensors")
    pickled = read_source(tmp_path / f"model{suffix}").tensors
    assert types(pickled) == {dtype}
    assert same_bits(raw(pickled), raw(read_source(tmp_path / "model.safetensors").tensors))


@needs_torch
def test_tensors_that_are_parameters_or_views_are_read(tmp_path):
    import torch

    weights = small_weights()
    tensors = torch_tensors(weights)
    tensors["fc.weight"] = torch.nn.Parameter(tensors["fc.weight"])
    tensors["fc.bias"] = torch.stack([tensors["fc.bias"]] * 2, 1)[:, 0]
    torch.save(tensors, tmp_path / "model.pth")
    assert same_bits(raw(read_source(tmp_path / "model.pth").tensors), weights)


@needs_torch
@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_a_scalar_that_another_numpy_pickled_beside_the_weights_does_no_harm(module, tmp_path):
    import torch

    weights, path = small_weights(), tmp_path / "model.pth"
    torch.save(training_checkpoint(torch_tensors(weights)), path, _use_new_zipfile_serialization=False)
    ours = f"c{np.float64(0).__reduce__()[0].__module__}\nscalar\n".encode()
    content = path.read_bytes()
    assert ours in content
    path.write_bytes(content.replace(ours, f"c{module}\nscalar\n".encode()))
    assert same_bits(raw(read_source(path).tensors), weights)


@needs_torch
@pytest.mark.parametrize("container", ["state_dict_ema", "model_ema"])
def test_averaged_weights_are_taken_where_they_are_asked_for(container, tmp_path):
    import torch

    trained = small_weights()
    averaged = {name: array + array.dtype.type(1) for name, array in trained.items()}
    path = tmp_path / "model.pth"
    torch.save({"state_dict": torch_tensors(trained), container: torch_tensors(averaged)}, path)
    for options, expected in (((), trained), (("--use-ema",), averaged)):
        assert convert(path, tmp_path / "x.pdparams", *options) == 0
        arrays, manifest = weight_files.read(tmp_path / "x.pdparams")
        np.testing.assert_array_equal(arrays["fc.weight"], expected["fc.weight"])
        assert manifest["source"]["container"] == (container if options else "state_dict")


@needs_torch
def test_a_really_trained_checkpoint_is_the_same_in_both_formats(shared_data, tmp_path):
    written = []
    for suffix in (".pth.tar", ".safetensors"):
        source = shared_data / "checkpoints" / f"dla46_c_fashion_mnist{suffix}"
        target = tmp_path / f"{suffix.split('.')[1]}.pdparams"
        assert convert(source, target, "--num-classes", "10", model="dla46_c") == 0
        written.append(target.read_bytes())
    assert written[0] == written[1]


@needs_torch
def test_a_really_trained_checkpoint_passes_the_comparison_of_both_models(shared_data, tmp_path):
    report = tmp_path / "report.json"
    arguments = ["--checkpoint", shared_data / "checkpoints" / "dla46_c_fashion_mnist.safetensors"]
    arguments += ["--num-classes", 10, "--output", tmp_path / "x.pdparams", "--json", report]
    assert run(timm2paddle.main, "--model", "dla46_c", *arguments) == 0
    verification = json.loads(report.read_text())["verification"]
    assert verification["run"] is True
    assert verification["compared"] > 50


# --- another number of classes or channels --------------------------------------------------------------------------


@needs_torch
@pytest.mark.parametrize("in_chans", [1, 2, 4, 5, 6])
def test_the_stem_is_adapted_as_timm_does_it(in_chans, source):
    from torch_ref.model import create_model, import_timm

    overlay = dict(file=str(source), num_classes=1000)
    create_model(SMALL)
    model = import_timm().create_model(SMALL, pretrained=True, pretrained_cfg_overlay=overlay, in_chans=in_chans)
    conversion = convert_source(read_source(source), SMALL, in_chans=in_chans)
    expected = {to_paddle(name): value.numpy() for name, value in model.state_dict().items()}
    expected.pop(None)
    assert expected["base_layer.0.weight"].shape[1] == in_chans
    assert same_bits(conversion.arrays, expected)


def test_the_stem_for_grey_images_is_the_sum_over_rgb():
    weights = small_weights()
    arrays = convert_source(source_from_arrays(weights), SMALL, in_chans=1).arrays
    np.testing.assert_array_equal(arrays["base_layer.0.weight"], weights["base_layer.0.weight"].sum(1, keepdims=True))


@pytest.mark.parametrize("in_chans", [1, 2, 4, 5, 6])
def test_the_adapted_stem_is_marked_in_the_manifest(in_chans):
    conversion = convert_source(source_from_arrays(small_weights()), SMALL, in_chans=in_chans)
    entry = conversion.manifest["tensors"]["base_layer.0.weight"]
    assert conversion.manifest["in_chans"] == in_chans
    assert entry["made"] == f"adapted from 3 to {in_chans} input channels by timm's rule"
    assert entry["shape"] == [16, in_chans, 7, 7]
    assert [name for name, entry in conversion.manifest["tensors"].items() if "made" in entry] == [
        "base_layer.0.weight"
    ]


def test_a_stem_that_is_not_for_rgb_is_not_adapted():
    with pytest.raises(CheckpointError, match="is for 4 input channels; only weights for 3 can be adapted to 5"):
        convert_source(source_from_arrays(small_weights(in_chans=4)), SMALL, in_chans=5)


def test_other_sizes_are_refused_where_they_were_not_asked_for():
    with pytest.raises(ConversionError, match="differs from the published models") as caught:
        convert_source(source_from_arrays(small_weights(10, 1)), SMALL)
    classes, channels = caught.value.faults
    assert "it has 10 classes: pass --num-classes 10 to keep them" in classes
    assert "it takes 1 input channels: pass --in-chans 1 to keep them" in channels


def test_other_sizes_are_kept_where_they_were_asked_for():
    weights = small_weights(10, 1)
    conversion = convert_source(source_from_arrays(weights), SMALL, num_classes=10, in_chans=1)
    assert (conversion.manifest["num_classes"], conversion.manifest["in_chans"]) == (10, 1)
    assert same_bits(raw(convert_back(conversion.arrays, SMALL, conversion.manifest)), weights)


def test_a_new_head_depends_on_its_seed_alone():
    source = source_from_arrays(small_weights())
    heads = [convert_source(source, SMALL, 7, head_seed=seed).arrays for seed in (0, 0, 1)]
    for name in ("fc.weight", "fc.bias"):
        np.testing.assert_array_equal(heads[0][name], heads[1][name])
        assert not np.array_equal(heads[0][name], heads[2][name])


def test_a_new_head_is_initialised_as_timm_does_it():
    arrays = convert_source(source_from_arrays(small_weights()), SMALL, 500).arrays
    assert list(arrays)[-2:] == ["fc.weight", "fc.bias"]
    weight, bias = arrays["fc.weight"], arrays["fc.bias"]
    assert (weight.shape, bias.shape) == ((500, 256, 1, 1), (500,))
    # five standard errors of 128,000 samples
    assert weight.std() == pytest.approx((2 / 500) ** 0.5, rel=0.01)
    assert abs(weight.mean()) < 5 * weight.std() / weight.size**0.5
    assert 0.9 / 16 < np.abs(bias).max() <= 1 / 16


def test_a_replaced_head_is_dropped_by_name_and_the_new_one_marked():
    manifest = convert_source(source_from_arrays(small_weights()), SMALL, 7, head_seed=3).manifest
    for name in ("fc.weight", "fc.bias"):
        assert manifest["dropped"][name]["reason"] == "a head for 1000 classes where 7 were asked for"
        assert manifest["tensors"][name]["made"] == "new head for 7 classes, initialised with seed 3"
        assert manifest["tensors"][name]["from"] is None


# --- the manifest and the report ------------------------------------------------------------------------------------


def test_the_manifest_names_its_source_and_what_wrote_it(source, converted):
    manifest = json.loads(manifest_path(converted).read_text())
    content = source.read_bytes()
    assert manifest["source"] == {
        "file": source.name,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "container": "",
    }
    assert (manifest["format"], manifest["model"]) == (1, SMALL)
    assert (manifest["num_classes"], manifest["in_chans"]) == (1000, 3)
    assert manifest["preprocessing"]["mean"] == list(IMAGENET_MEAN)
    assert manifest["versions"].keys() >= {"paddle_dla", "python", "numpy", "safetensors"}


def test_the_manifest_carries_the_preprocessing_that_was_asked_for(source, tmp_path):
    target = tmp_path / "out.pdparams"
    assert convert(source, target, "--input-size", 32, "--crop-pct", 1, "--interpolation", "bicubic") == 0
    recorded = Preprocessing.from_dict(json.loads(manifest_path(target).read_text())["preprocessing"])
    assert recorded == Preprocessing((3, 32, 32), 1.0, "bicubic")


@pytest.mark.parametrize("wrong", [("--crop-pct", -1), ("--mean", 0.5), ("--input-size", 1, 2, 3)])
def test_preprocessing_that_makes_no_sense_is_refused_before_anything_is_read(wrong, tmp_path, capsys):
    assert convert(tmp_path / "absent.safetensors", tmp_path / "out.pdparams", *wrong) == 1
    assert wrong[0].strip("-").replace("-", "_")[:5] in capsys.readouterr().err.replace("-", "_")


def test_the_manifest_has_the_checksum_of_the_file(converted):
    content = converted.read_bytes()
    manifest = json.loads(manifest_path(converted).read_text())
    assert manifest["file"] == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_manifest_has_the_origin_and_checksum_of_every_tensor(dtype, tmp_path):
    source = write_safetensors(tmp_path / "in.safetensors", stored(small_weights(), dtype))
    assert convert(source, tmp_path / "x.pdparams") == 0
    arrays, manifest = weight_files.read(tmp_path / "x.pdparams")
    assert list(manifest["tensors"]) == list(arrays)
    for name, entry in manifest["tensors"].items():
        assert to_paddle(entry["from"]) == name
        assert entry["source_dtype"] == dtype
        assert (entry["dtype"], entry["shape"]) == ("float32", list(arrays[name].shape))
        assert entry["sha256"] == hashlib.sha256(arrays[name].astype("<f4").tobytes()).hexdigest()


def test_every_tensor_is_mapped_or_dropped_exactly_once(of_each_model):
    weights, conversion = of_each_model
    manifest = conversion.manifest
    mapped = [entry["from"] for entry in manifest["tensors"].values()]
    assert sorted([*mapped, *manifest["dropped"]]) == sorted(weights)
    for name, entry in manifest["dropped"].items():
        assert entry["value"] == int(weights[name])
        assert entry["reason"].startswith("a step counter that BatchNorm reads only with momentum=None")


def test_the_report_of_a_success_says_what_was_done(source, tmp_path):
    report = tmp_path / "report.json"
    assert convert(source, tmp_path / "x.pdparams", "--json", str(report)) == 0
    content = json.loads(report.read_text())
    assert content["status"] == "converted"
    assert content["output"] == str(tmp_path / "x.pdparams")
    assert content["mapped"] == len(weight_files.read(tmp_path / "x.pdparams")[0])
    assert content["verification"] == {"run": False, "why": "--no-verify"}
    assert content["source"]["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert content["warnings"] == []


def test_the_report_of_a_refusal_lists_every_fault(tmp_path):
    weights = small_weights()
    del weights["fc.bias"]
    weights["extra"] = np.zeros(1, np.float32)
    source = write_safetensors(tmp_path / "in.safetensors", weights)
    report = tmp_path / "report.json"
    assert convert(source, tmp_path / "x.pdparams", "--json", str(report)) == 1
    content = json.loads(report.read_text())
    assert content["status"] == "refused"
    assert [fault.split(":")[0] for fault in content["faults"]] == ["fc.bias", "extra"]
    assert all(fault in content["error"] for fault in content["faults"])


@needs_torch
def test_all_models_are_converted_into_a_folder_with_a_report_each(monkeypatch, tmp_path):
    models = ["dla46_c", "dla46x_c"]
    monkeypatch.setattr(timm2paddle, "VARIANTS", {name: VARIANTS[name] for name in models})
    report, folder = tmp_path / "report.json", tmp_path / "new" / "weights"
    arguments = ["--model", "all", "--seed", 0, "--output", folder, "--no-verify", "--json", report]
    assert run(timm2paddle.main, *arguments) == 0
    assert [entry["model"] for entry in json.loads(report.read_text())] == models
    assert all(weight_files.read(folder / f"{name}.pdparams")[1]["model"] == name for name in models)


# --- the command lines ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "required"),
        ("--model dla60 --output x.pdparams", "one of the arguments --checkpoint --hub --seed is required"),
        ("--model dla60 --checkpoint a --seed 0 --output x.pdparams", "not allowed with"),
        ("--model dla6 --checkpoint a --output x.pdparams", "unknown model 'dla6'; nearest: "),
        ("--model dla60 --seed 0 --use-ema --output x.pdparams", "--use-ema needs --checkpoint"),
        ("--model all --checkpoint a --output x", "--checkpoint and --hub ID belong to one model"),
        ("--model all --hub timm/dla60.in1k --output x", "--checkpoint and --hub ID belong to one model"),
        ("--model all --seed 0 --output x.pdparams", "--output is a folder"),
        ("--model dla60 --seed 0 --output x.pdparams --num-classes 0", "0 is less than 1"),
        ("--model dla60 --seed 0 --output x.pdparams --in-chans three", "invalid"),
    ],
)
def test_usage_errors_of_timm2paddle_exit_with_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        timm2paddle.main(arguments.split())
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "required"),
        ("--checkpoint x.pdparams", "required: --output"),
        ("--checkpoint x.pdparams --output y.pth --model dla6", "unknown model 'dla6'; nearest: "),
    ],
)
def test_usage_errors_of_paddle2timm_exit_with_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        paddle2timm.main(arguments.split())
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_what_was_written_is_said_in_one_line(source, tmp_path, capsys):
    assert convert(source, tmp_path / "x.pdparams") == 0
    expected = "242 tensors mapped, 48 dropped with a reason; wrote {} and x.pdparams.manifest.json\n"
    assert capsys.readouterr().err == f"{SMALL}: {expected.format(tmp_path / 'x.pdparams')}"


WITHOUT_FRAMEWORKS = """
import sys
frameworks = ("torch", "paddle", "timm", "torchvision")
sys.modules.update(dict.fromkeys(frameworks))
from {module} import main
code = main(sys.argv[1:])
assert not any(sys.modules[name] for name in frameworks)
sys.exit(code)
"""


def without_frameworks(module, *arguments):
    command = [sys.executable, "-c", WITHOUT_FRAMEWORKS.format(module=module), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("suffix", [".pdparams", ".safetensors"])
def test_safetensors_are_converted_there_and_back_without_any_framework(suffix, source, tmp_path):
    port, back = tmp_path / f"port{suffix}", tmp_path / "back.safetensors"
    done = without_frameworks("convert.timm2paddle", "--model", SMALL, "--checkpoint", source, "--output", port)
    assert done.returncode == 0, done.stderr
    assert "not verified by running both models: torch, timm, paddle not installed" in done.stderr
    done = without_frameworks("convert.paddle2timm", "--checkpoint", port, "--output", back)
    assert done.returncode == 0, done.stderr
    assert same_bits(raw(read_safetensors(back)), raw(read_safetensors(source)))


@needs_torch
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_files_of_torch_are_converted_without_any_framework(zipped, source, converted, tmp_path):
    import torch

    torch.save(torch_tensors(small_weights()), tmp_path / "model.pth", _use_new_zipfile_serialization=zipped)
    arguments = ("--model", SMALL, "--checkpoint", tmp_path / "model.pth", "--output", tmp_path / "x.pdparams")
    done = without_frameworks("convert.timm2paddle", *arguments)
    assert done.returncode == 0, done.stderr
    assert same_bits(weight_files.read(tmp_path / "x.pdparams")[0], weight_files.read(converted)[0])


def test_what_needs_torch_says_so_where_it_is_absent(source, converted, tmp_path):
    output = ("--output", tmp_path / "x.pdparams")
    writing = without_frameworks("convert.paddle2timm", "--checkpoint", converted, "--output", tmp_path / "x.pth")
    seeding = without_frameworks("convert.timm2paddle", "--model", SMALL, "--seed", 0, *output)
    assert [done.returncode for done in (writing, seeding)] == [1, 1]
    assert 'needs torch: pip install "paddle-dla[torch]", or name a .safetensors file' in writing.stderr
    assert "--seed lets timm initialise the model; torch, timm not installed" in seeding.stderr
