"""Every bad input is refused with a message that says what to do, and whatever was there before stays as it was.

A refusal means: exit code 1, no output, no leftover beside it, and an older output still whole with its manifest.
"""

import argparse
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import numpy as np
import pytest
from timm_files import SMALL, convert, run, same_bits, small_weights, stored, torch_tensors, write_safetensors

from convert import paddle2timm, timm2paddle
from convert.conversion import ConversionError, convert_source
from convert.readers import source_from_arrays
from paddle_dla import weight_files
from paddle_dla.storage.manifest import describe, manifest_path
from paddle_dla.storage.pdparams import read_pdparams, write_pdparams
from paddle_dla.weight_files import CheckpointError

pytestmark = pytest.mark.any_paddle

needs_torch = pytest.mark.torch
SUFFIXES = [".pdparams", ".safetensors"]


def content(folder):
    """Every file of a folder with its bytes, hidden ones included."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    """A folder with good files: timm's weights, and what they are converted to in both formats."""
    folder = tmp_path_factory.mktemp("pristine")
    source = write_safetensors(folder / "timm.safetensors", small_weights())
    for suffix in SUFFIXES:
        assert convert(source, folder / f"port{suffix}") == 0
    return folder


@pytest.fixture
def refused(pristine, tmp_path, capsys):
    """A check that a command refuses: ``refused(main, options, suffix)`` returns the message.

    The command runs twice, with a new output and with one that is there already; neither may change anything.
    """

    def check(main, options, suffix):
        folder = tmp_path / "outputs"
        folder.mkdir()
        for name in (f"old{suffix}", f"old{suffix}.manifest.json"):
            origin = pristine / name.replace("old.pth", "old.pdparams").replace("old", "port")
            shutil.copy(origin, folder / name)
        before = content(folder)
        capsys.readouterr()
        for name in ("new", "old"):
            assert run(main, *options, "--output", folder / f"{name}{suffix}") == 1
            assert content(folder) == before
        message = capsys.readouterr().err
        assert "Traceback" not in message
        first, second = message.split("error: ")[1:]
        assert first.replace("/new.", "/old.") == second
        return second

    return check


@pytest.fixture
def refused_source(refused):
    """The message with which a source of timm's is refused."""

    def check(source, *options, model=SMALL, suffix=".pdparams"):
        return refused(timm2paddle.main, ["--model", model, "--checkpoint", source, "--no-verify", *options], suffix)

    return check


@pytest.fixture
def refused_port(refused):
    """The message with which a converted file is refused on its way back."""

    def check(port, *options, suffix=".safetensors"):
        return refused(paddle2timm.main, ["--checkpoint", port, *options], suffix)

    return check


@pytest.fixture
def altered(tmp_path):
    """Writes timm's weights with some tensors changed, or left out where the value is ``None``."""

    def write(**changes):
        weights = {**small_weights(), **{name.replace("__", "."): value for name, value in changes.items()}}
        kept = {name: value for name, value in weights.items() if value is not None}
        return write_safetensors(tmp_path / "altered.safetensors", kept)

    return write


@pytest.fixture
def port(pristine, tmp_path):
    """Copies of a converted file and its manifest that a test may damage: ``port(suffix)``."""

    def copy(suffix):
        path = tmp_path / f"port{suffix}"
        shutil.copy(pristine / path.name, path)
        shutil.copy(manifest_path(pristine / path.name), manifest_path(path))
        return path

    return copy


# --- files that are not there, or not what they say -----------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pth.tar"])
def test_a_missing_checkpoint_is_named(suffix, tmp_path, refused_source):
    assert f"cannot read {tmp_path / 'none'}{suffix}: no such file" in refused_source(tmp_path / f"none{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_port_is_named(suffix, tmp_path, refused_port):
    assert f"cannot read {tmp_path / 'none'}{suffix}: no such file" in refused_port(tmp_path / f"none{suffix}").lower()


def test_a_folder_is_no_checkpoint(tmp_path, refused_source):
    (tmp_path / "folder.safetensors").mkdir()
    assert "folder.safetensors is a folder; name a weight file" in refused_source(tmp_path / "folder.safetensors")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_folder_is_no_port(suffix, tmp_path, refused_port):
    (tmp_path / f"folder{suffix}").mkdir()
    assert f"folder{suffix} is a folder; name a weight file" in refused_port(tmp_path / f"folder{suffix}")


JUNK = {
    "empty": b"",
    "one byte": b"P",
    "text": b"hello, this is no weight file\n",
    "a pointer of git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n",
    "a web page": b"<!DOCTYPE html><html><body>404</body></html>",
    "zeros": bytes(4096),
    "ones": b"\xff" * 4096,
}


@pytest.mark.parametrize("suffix", [".safetensors", pytest.param(".pth", marks=needs_torch)])
@pytest.mark.parametrize("junk", JUNK)
def test_junk_is_no_checkpoint(junk, suffix, tmp_path, refused_source):
    path = tmp_path / f"junk{suffix}"
    path.write_bytes(JUNK[junk])
    message = refused_source(path)
    assert f"{path} is no readable " in message
    assert "damaged" in message


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("junk", JUNK)
def test_junk_is_no_port(junk, suffix, tmp_path, refused_port):
    path = tmp_path / f"junk{suffix}"
    path.write_bytes(JUNK[junk])
    message = refused_port(path, "--model", SMALL)
    assert str(path) in message
    assert "truncated, damaged" in message or "truncated or damaged" in message or "not a dict" in message


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999999])
def test_a_truncated_safetensors_is_refused(share, pristine, tmp_path, refused_source):
    whole, path = (pristine / "timm.safetensors").read_bytes(), tmp_path / "cut.safetensors"
    path.write_bytes(whole[: int(share * len(whole))])
    assert "is no readable safetensors file" in refused_source(path)


@needs_torch
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("share", [0.001, 0.5, 0.999999])
def test_a_truncated_pth_is_refused(share, zipped, tmp_path, refused_source):
    import torch

    path = tmp_path / "cut.pth"
    torch.save(torch_tensors(small_weights()), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    message = refused_source(path)
    assert f"{path} is no readable torch file" in message
    assert "weights_only" not in message


@pytest.mark.parametrize("with_manifest", [True, False])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.001, 0.5, 0.999999])
def test_a_truncated_port_is_refused(share, suffix, with_manifest, port, refused_port):
    path = port(suffix)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    if not with_manifest:
        manifest_path(path).unlink()
    message = refused_port(path, "--model", SMALL)
    expected = f"bytes {len(whole)} became {int(share * len(whole))}" if with_manifest else "truncated"
    assert expected in message


# --- one byte that changed ------------------------------------------------------------------------------------------

TINY = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.bias": np.ones((2, 2), np.float32),
    "c": np.asarray(3, np.float32),
}


def tiny_manifest(model=SMALL, arrays=TINY):
    return {"format": 1, "model": model, "tensors": {name: describe(array) for name, array in arrays.items()}}


def flips(whole, positions, masks):
    """Each byte changed on its own: position, mask, and the damaged content."""
    for position in positions:
        for mask in masks:
            damaged = bytearray(whole)
            damaged[position] ^= mask
            yield position, mask, bytes(damaged)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_flipped_byte_in_a_converted_file_is_refused(suffix, port):
    path = port(suffix)
    whole = path.read_bytes()
    rng = np.random.RandomState(0)
    # anywhere, which is mostly weights, and in the first kilobyte, which is mostly structure
    positions = [*rng.randint(0, len(whole), 40), *rng.randint(0, 1024, 40)]
    weight_files.read(path)
    for _, _, damaged in flips(whole, positions, [int(rng.randint(1, 256))]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"is not what was written.*sha256 \w+ became \w+"):
            weight_files.read(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_flip_of_any_byte_of_a_file_is_refused(suffix, tmp_path):
    path = tmp_path / f"tiny{suffix}"
    weight_files.save(path, TINY, tiny_manifest())
    whole = path.read_bytes()
    weight_files.read(path)
    for position, mask, damaged in flips(whole, range(len(whole)), [1, 0x80]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            pytest.fail(f"byte {position} ^ {mask} was read: {weight_files.read(path)}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_without_a_manifest_a_flip_is_refused_or_read_as_arrays(suffix, tmp_path):
    path = tmp_path / f"tiny{suffix}"
    weight_files.WRITERS[suffix](path, TINY)
    for _, _, damaged in flips(path.read_bytes(), range(path.stat().st_size), [2, 0x7F, 0xFF]):
        path.write_bytes(damaged)
        with suppress(CheckpointError):
            arrays, manifest = weight_files.read(path)
            assert manifest is None
            assert all(array.dtype.kind in "biufc" for array in arrays.values())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_port_is_refused_on_its_way_back(suffix, port, refused_port):
    path = port(suffix)
    damaged = bytearray(path.read_bytes())
    damaged[-1000] ^= 1
    path.write_bytes(damaged)
    message = refused_port(path)
    assert "is not what was written" in message
    assert "Convert or copy it again, or remove the manifest to load it unverified" in message


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_bytes_after_the_end_are_refused(suffix, port):
    path = port(suffix)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="is not what was written"):
        weight_files.read(path)


# --- weights that do not account for the model ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "held"), [("dla60x_c", SMALL), ("dla46_c", SMALL), ("dla60", SMALL), ("dla60_res2net", SMALL)]
)
def test_the_wrong_model_is_refused_and_the_fitting_one_suggested(asked, held, pristine, refused_source):
    message = refused_source(pristine / "timm.safetensors", model=asked)
    assert f"timm.safetensors does not account for {asked} (nothing was written)" in message
    assert f"it fits {held}: pass --model {held}" in message


def test_no_model_is_suggested_where_none_fits(altered, refused_source):
    assert "it fits" not in refused_source(altered(extra=np.ones(3, np.float32)))


def test_an_extra_tensor_is_named(altered, refused_source):
    message = refused_source(altered(extra__weight=np.ones((2, 3), np.float32)))
    assert "extra.weight: left over in the file (shape [2, 3]), the model has no such tensor" in message


def test_a_missing_tensor_is_named(altered, refused_source):
    message = refused_source(altered(level2__tree1__bn1__bias=None))
    assert "level2.tree1.bn1.bias: missing in the file, the model needs shape [64]" in message


def test_a_missing_batch_counter_is_no_fault(altered, tmp_path):
    source = altered(base_layer__1__num_batches_tracked=None)
    assert convert(source, tmp_path / "x.pdparams") == 0


def test_a_missing_head_is_named_and_no_model_suggested(altered, refused_source):
    message = refused_source(altered(fc__weight=None, fc__bias=None))
    assert "fc.weight: missing in the file, the model needs shape [1000, 256, 1, 1]" in message
    assert "fc.bias: missing in the file, the model needs shape [1000]" in message
    assert "it fits" not in message


def test_a_wrong_shape_shows_both_sides(altered, refused_source):
    message = refused_source(altered(base_layer__1__weight=np.ones(17, np.float32)))
    assert "base_layer.1.weight: the file has shape [17], the model [16]" in message


@pytest.mark.parametrize("shape", [(1000, 256), (1000, 1, 256, 1), (1000, 256, 1, 1, 1), (256, 1000, 1, 1)])
def test_a_classifier_of_another_layout_is_refused(shape, altered, refused_source):
    message = refused_source(altered(fc__weight=np.ones(shape, np.float32)), "--num-classes", str(shape[0]))
    assert f"fc.weight: the file has shape {list(shape)}, the model [{shape[0]}, 256, 1, 1]" in message


@pytest.mark.parametrize("dtype", ["float64", "int64", "int32"])
def test_a_wrong_type_shows_both_sides(dtype, altered, refused_source):
    message = refused_source(altered(base_layer__1__weight=np.ones(16, dtype)))
    assert f"base_layer.1.weight: the file has type {dtype}, the model one of float32, float16, bfloat16" in message


def test_a_batch_counter_of_another_shape_is_refused(altered, refused_source):
    message = refused_source(altered(base_layer__1__num_batches_tracked=np.ones(2, np.int64)))
    assert "base_layer.1.num_batches_tracked: the file has shape [2], the model []" in message


@pytest.mark.parametrize("value", [1.5, np.nan, np.inf, -1e30], ids=str)
def test_a_batch_counter_that_counts_nothing_is_refused(value, altered, refused_source):
    message = refused_source(altered(base_layer__1__num_batches_tracked=np.asarray(value, np.float32)))
    assert "base_layer.1.num_batches_tracked: is" in message


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_a_batch_counter_in_floating_point_keeps_its_value(dtype, altered, tmp_path):
    """As ``{name: tensor.half() ...}`` leaves it: the file that is written can be read, and goes back to the number."""
    counter = stored({"x": np.asarray(1000, np.float32)}, dtype)["x"]
    source = altered(base_layer__1__num_batches_tracked=counter)
    assert convert(source, tmp_path / "x.pdparams") == 0
    arrays, manifest = weight_files.read(tmp_path / "x.pdparams")
    back = paddle2timm.convert_back(arrays, SMALL, manifest)
    assert back["base_layer.1.num_batches_tracked"].raw.item() == 1000


def test_all_faults_are_listed_in_one_error(altered, refused_source):
    changes = dict(
        level0__0__weight=None,
        base_layer__1__bias=None,
        extra=np.ones(1, np.float32),
        base_layer__1__weight=np.ones(17, np.float32),
        level1__1__bias=np.ones(32, np.float64),
    )
    lines = refused_source(altered(**changes)).strip().split("\n")[1:]
    assert sorted(line.strip().split(":")[0] for line in lines) == sorted(name.replace("__", ".") for name in changes)


def test_weights_that_do_not_fit_raise_one_error_with_a_line_for_each_fault():
    weights = {**small_weights(), "extra": np.ones(1, np.float32)}
    del weights["fc.bias"]
    with pytest.raises(ConversionError) as caught:
        convert_source(source_from_arrays(weights), SMALL)
    assert len(caught.value.faults) == 2
    assert str(caught.value).count("\n  ") == 2


def test_a_file_that_differs_in_classes_and_channels_is_refused_with_the_options_to_pass(tmp_path, refused_source):
    source = write_safetensors(tmp_path / "small.safetensors", small_weights(10, 1))
    message = refused_source(source)
    assert "pass --num-classes 10 to keep them" in message
    assert "pass --in-chans 1 to keep them" in message


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_port_of_another_model_is_refused(suffix, pristine, refused_port):
    message = refused_port(pristine / f"port{suffix}", "--model", "dla60")
    assert f"port{suffix} holds {SMALL}, not dla60" in message


def test_a_port_without_manifest_needs_its_model_named(port, refused_port):
    path = port(".pdparams")
    manifest_path(path).unlink()
    assert "--model is required: this checkpoint has no manifest that names its model" in refused_port(path)


def test_a_tensor_under_the_names_of_both_worlds_is_refused_on_its_way_back(pristine):
    arrays = dict(weight_files.read(pristine / "port.pdparams")[0])
    arrays["base_layer.1.running_mean"] = arrays["base_layer.1._mean"] + 1
    with pytest.raises(ConversionError) as refusal:
        paddle2timm.convert_back(arrays, SMALL)
    assert [fault for fault in refusal.value.faults if fault.startswith("base_layer.1._mean: left over")]


def test_a_port_that_does_not_account_for_the_model_is_refused(tmp_path, refused_port):
    path = tmp_path / "odd.pdparams"
    write_pdparams(path, TINY)
    message = refused_port(path, "--model", SMALL)
    assert f"these weights do not account for {SMALL} (nothing was written)" in message
    assert "a.weight: left over in the file" in message
    assert "base_layer.0.weight: missing in the file" in message
    assert len(message.splitlines()) < 30


def test_a_type_that_no_weight_has_is_refused(pristine, tmp_path, refused_source):
    path = tmp_path / "odd.safetensors"
    path.write_bytes((pristine / "timm.safetensors").read_bytes().replace(b'"I64"', b'"U64"', 1))
    assert "is of type U64, which no supported weight has" in refused_source(path)


@needs_torch
@pytest.mark.parametrize("kind", ["sparse", "meta", "float8"])
def test_a_tensor_that_is_not_plain_is_named(kind, tmp_path, refused_source):
    import torch

    tensors = torch_tensors(small_weights())
    change = {
        "sparse": torch.Tensor.to_sparse,
        "meta": lambda t: t.to("meta"),
        "float8": lambda t: t.to(torch.float8_e4m3fn),
    }
    tensors["fc.bias"] = change[kind](tensors["fc.bias"])
    torch.save(tensors, tmp_path / "odd.pth")
    assert "entry 'fc.bias' is no plain dense tensor" in refused_source(tmp_path / "odd.pth")


@needs_torch
@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ([1, 2], "holds a list, not a state dict; save model.state_dict()"),
        ({"epoch": 3}, "entry 'epoch' is a int, not a tensor; is this a state dict?"),
        ({"state_dict": {"fc.weight": "text"}}, "entry 'fc.weight' is a str, not a tensor"),
    ],
)
def test_a_pth_without_a_state_dict_is_refused(saved, message, tmp_path, refused_source):
    import torch

    torch.save(saved, tmp_path / "odd.pth")
    assert message in refused_source(tmp_path / "odd.pth")


@needs_torch
def test_averaged_weights_that_are_not_there_are_refused(tmp_path, refused_source):
    import torch

    torch.save({"state_dict": torch_tensors(small_weights())}, tmp_path / "plain.pth")
    message = refused_source(tmp_path / "plain.pth", "--use-ema")
    assert "has no averaged weights (state_dict_ema or model_ema); leave --use-ema out" in message


@needs_torch
def test_averaged_weights_alone_are_refused_with_the_option_that_takes_them(tmp_path, refused_source):
    import torch

    torch.save({"state_dict_ema": torch_tensors(small_weights())}, tmp_path / "averaged.pth")
    assert "take them with --use-ema" in refused_source(tmp_path / "averaged.pth")


@needs_torch
def test_averaged_weights_beside_others_are_named(tmp_path, capsys):
    import torch

    weights = torch_tensors(small_weights())
    torch.save({"state_dict": weights, "state_dict_ema": weights}, tmp_path / "both.pth")
    assert convert(tmp_path / "both.pth", tmp_path / "x.pdparams") == 0
    assert "averaged weights, too ('state_dict_ema'), which --use-ema takes" in capsys.readouterr().err


@needs_torch
@pytest.mark.parametrize("key", [5, (1, 2)], ids=str)
def test_an_entry_without_a_name_is_refused(key, tmp_path, refused_source):
    import torch

    torch.save({**torch_tensors(small_weights()), key: torch.zeros(1)}, tmp_path / "odd.pth")
    assert "has an entry that is called" in refused_source(tmp_path / "odd.pth")


def test_averaged_weights_are_not_looked_for_in_safetensors(pristine, refused_source):
    message = refused_source(pristine / "timm.safetensors", "--use-ema")
    assert "a .safetensors file holds one set of weights; use it without --use-ema" in message


# --- values -------------------------------------------------------------------------------------------------------


def test_values_that_are_not_finite_are_named_and_converted(altered, tmp_path, capsys):
    bias, weight = np.zeros(1000, np.float32), small_weights()["base_layer.1.weight"].copy()
    bias[[1, 5]], bias[7], weight[0] = np.nan, -np.inf, np.inf
    report = tmp_path / "report.json"
    source = altered(fc__bias=bias, base_layer__1__weight=weight)
    assert convert(source, tmp_path / "x.pdparams", "--json", str(report)) == 0
    warnings = [
        "base_layer.1.weight: 0 NaN and 1 infinite of 16 values",
        "fc.bias: 2 NaN and 1 infinite of 1000 values",
    ]
    assert json.loads(report.read_text())["warnings"] == warnings
    shown = capsys.readouterr().err
    assert all(f"warning: {warning}" in shown for warning in warnings)
    assert weight_files.read(tmp_path / "x.pdparams")[0]["fc.bias"].tobytes() == bias.tobytes()


def test_a_sum_that_overflows_is_no_warning():
    weights = small_weights()
    weights["fc.bias"] = np.full(1000, 3e38, np.float32)
    assert convert_source(source_from_arrays(weights), SMALL).warnings == []


# --- code in pickles --------------------------------------------------------------------------------------------------


class Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *arguments):
        self.parts = function, arguments

    def __reduce__(self):
        return self.parts


def touch(marker):
    return Call(os.system, f"touch {marker}")


def weight():
    return np.ones((2, 2), np.float32)


# each makes an object that runs something when it is unpickled; the argument is the file that would then exist
PAYLOADS = {
    "os.system": touch,
    "eval": lambda marker: Call(eval, f"open({str(marker)!r}, 'w')"),
    "exec": lambda marker: Call(exec, f"open({str(marker)!r}, 'w')"),
    "open": lambda marker: Call(open, str(marker), "w"),
    "an import": lambda marker: Call(__import__, "this"),
    "a subprocess": lambda marker: Call(subprocess.call, ["touch", str(marker)]),
    "getattr": lambda marker: Call(getattr, Call(__import__, "os"), "system"),
    "beside weights": lambda marker: {"fc.weight": weight(), "extra": touch(marker)},
    "as a key": lambda marker: {("fc.weight", 1): {touch(marker): weight()}},
    "as Paddle's named tensor": lambda marker: {"fc.weight": ("conv_0.w_0", touch(marker))},
    "in an array of objects": lambda marker: {"fc.weight": np.array([touch(marker)], dtype=object)},
    "in a list": lambda marker: [{"fc.weight": weight()}, touch(marker)],
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("payload", PAYLOADS)
def test_code_in_a_pdparams_is_refused_and_not_run(payload, protocol, tmp_path, refused_port):
    path, marker = tmp_path / "bad.pdparams", tmp_path / "marker"
    path.write_bytes(pickle.dumps(PAYLOADS[payload](marker), protocol=protocol))
    message = refused_port(path, "--model", SMALL)
    assert "refused, nothing was run" in message
    assert not marker.exists()


@needs_torch
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("payload", PAYLOADS)
def test_code_in_a_pth_is_refused_and_not_run(payload, zipped, tmp_path, refused_source):
    import torch

    path, marker = tmp_path / "bad.pth", tmp_path / "marker"
    torch.save(PAYLOADS[payload](marker), path, _use_new_zipfile_serialization=zipped)
    message = refused_source(path)
    assert f"{path} names code (" in message
    assert "beside weights: refused, nothing was run" in message
    assert not marker.exists()


@needs_torch
def test_code_in_the_arguments_of_a_training_checkpoint_is_named(tmp_path, refused_source):
    import torch

    path, marker = tmp_path / "bad.pth", tmp_path / "marker"
    arguments = argparse.Namespace(model=SMALL, hook=touch(marker))
    torch.save({"state_dict": torch_tensors(small_weights()), "args": arguments}, path)
    assert f"names code ({os.system.__module__}.system)" in refused_source(path)
    assert not marker.exists()


@needs_torch
def test_a_whole_pickled_model_is_refused(tmp_path, refused_source):
    import torch

    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pth")
    assert "names code (torch.nn.modules.linear.Linear)" in refused_source(tmp_path / "model.pth")


@needs_torch
def test_a_plain_pickle_under_the_name_of_a_pth_is_refused_and_not_run(tmp_path, refused_source):
    path, marker = tmp_path / "bad.pth", tmp_path / "marker"
    path.write_bytes(pickle.dumps(touch(marker), protocol=4))
    refused_source(path)
    assert not marker.exists()


def test_the_payload_would_run_if_it_were_let(tmp_path):
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(touch(marker)))  # noqa: S301 - the point of it
    assert marker.exists()


def test_a_scalar_of_objects_is_refused(tmp_path):
    scalar = np.float64(0).__reduce__()[0]
    path = tmp_path / "bad.pdparams"
    path.write_bytes(pickle.dumps({"x": Call(scalar, np.dtype("O"), b"12345678")}))
    with pytest.raises(CheckpointError, match=r"multiarray\.scalar, which is no numpy array: refused"):
        read_pdparams(path)


def names(module, name):
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


ARRAY, RECONSTRUCT, DTYPE = (
    names("numpy", "ndarray"),
    names("numpy.core.multiarray", "_reconstruct"),
    names("numpy", "dtype"),
)
MADE = RECONSTRUCT + b"(" + ARRAY + b"(K\0tC\x01btR"

# opcodes that only an attacker writes, around the names that are allowed
FORGERIES = {
    "an array of objects over raw bytes": ARRAY + b"((K\x01t" + DTYPE + b"(U\x01OtRU\x08AAAAAAAAtR",
    "a dtype of objects": MADE + b"(K\x01(K\x01t" + DTYPE + b"(U\x02O8tR\x89U\x08AAAAAAAAtb",
    "a structured dtype": MADE + b"(K\x01(K\x01t" + DTYPE + b"(U\x05f4,f4tR\x89U\x08AAAAAAAAtb",
    "a dtype of text": MADE + b"(K\x01(K\x01t" + DTYPE + b"(U\x02U2tR\x89U\x08AAAAAAAAtb",
    "fewer bytes than the shape needs": MADE + b"(K\x01(K\x05t" + DTYPE + b"(U\x02f4tR\x89U\x08AAAAAAAAtb",
    "more bytes than the shape needs": MADE + b"(K\x01(K\x01t" + DTYPE + b"(U\x02f4tR\x89U\x08AAAAAAAAtb",
    "an array that was never filled": MADE,
    "an array's class": ARRAY,
    "an attribute of an allowed name": b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93",
    "a state for a class": ARRAY + b"(NV__init__\nd\x86b",
    "an item put into an array": MADE + b"K\0K\x01s",
    "an element appended to an array": MADE + b"K\x01a",
    "a persistent id": b"K\x01Q",
    "an extension": b"\x82\x01",
    "an instance": b"(ios\nsystem\n",
    "an object by its class": b"(" + names("os", "system") + b"o",
    "a memo of four billion entries": b"K\x01r\xff\xff\xff\xff",
    "another encoding": names("_codecs", "encode") + b"(Vx\nVrot13\ntR",
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_pickle_is_refused(forgery, tmp_path):
    path = tmp_path / "bad.pdparams"
    path.write_bytes(b"}V" + b"x\n" + FORGERIES[forgery] + b"s.")
    with pytest.raises(CheckpointError):
        pytest.fail(str(read_pdparams(path)))


# --- manifests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_manifest_is_a_warning(suffix, tmp_path, port):
    path = port(suffix)
    expected, _ = weight_files.read(path)
    manifest_path(path).unlink()
    assert weight_files.read(path)[1] is None
    if suffix == ".pdparams":
        with pytest.warns(UserWarning, match=r"manifest.json is absent: .* is loaded unverified"):
            assert same_bits(weight_files.load_weights(str(path), SMALL), expected)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "null", '{"format": 1}', '{"format": 1, "model": 3, "tensors": {}, "file": {}}', "\udcff"],
)
def test_a_damaged_manifest_is_refused(text, port, refused_port):
    path = port(".pdparams")
    manifest_path(path).write_text(text, errors="surrogateescape")
    message = refused_port(path)
    assert "port.pdparams.manifest.json is no readable manifest" in message
    assert "convert again, or remove it to load unverified" in message


def test_a_manifest_that_lost_any_of_its_keys_is_refused(port):
    path = port(".pdparams")
    manifest = json.loads(manifest_path(path).read_text())
    for key in ("format", "model", "tensors", "file"):
        manifest_path(path).write_text(json.dumps({k: v for k, v in manifest.items() if k != key}))
        with pytest.raises(CheckpointError, match="is no readable manifest"):
            weight_files.read(path)


def test_a_flipped_byte_in_a_manifest_is_never_a_crash(tmp_path):
    path = tmp_path / "tiny.pdparams"
    weight_files.save(path, TINY, tiny_manifest())
    whole = manifest_path(path).read_bytes()
    for _, _, damaged in flips(whole, range(len(whole)), [1, 0x10]):
        manifest_path(path).write_bytes(damaged)
        with suppress(CheckpointError):
            assert same_bits(weight_files.read(path)[0], TINY)


def test_a_manifest_of_a_newer_format_is_refused(port, refused_port):
    path = port(".pdparams")
    manifest = json.loads(manifest_path(path).read_text())
    manifest_path(path).write_text(json.dumps({**manifest, "format": 2}))
    assert "has format 2; this version reads 1" in refused_port(path)


def test_the_manifest_of_another_file_is_refused(port, tmp_path, refused_port):
    path, other = port(".pdparams"), tmp_path / "other.pdparams"
    weight_files.save(other, TINY, tiny_manifest("dla60"))
    shutil.copy(manifest_path(other), manifest_path(path))
    assert "is not what was written" in refused_port(path)


def test_weights_of_another_model_are_not_loaded(pristine):
    with pytest.raises(CheckpointError, match=f"holds {SMALL}, not dla60"):
        weight_files.load_weights(str(pristine / "port.pdparams"), "dla60")


# --- outputs that cannot be written ----------------------------------------------------------------------------------


def refuses_output(pristine, output, capsys, *options):
    code = convert(pristine / "timm.safetensors", output, *options)
    message = capsys.readouterr().err
    assert code == 1
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize("suffix", ["", ".npz", ".pth", ".pdopt"])
def test_another_suffix_is_refused(suffix, pristine, tmp_path, capsys):
    message = refuses_output(pristine, tmp_path / f"x{suffix}", capsys)
    assert f"cannot write {tmp_path / 'x'}{suffix}: the suffix must be one of .pdparams, .safetensors" in message
    assert content(tmp_path) == {}


@pytest.mark.parametrize("suffix", ["", ".pdparams", ".npz"])
def test_another_suffix_is_refused_on_the_way_back(suffix, pristine, tmp_path, capsys):
    output = tmp_path / f"x{suffix}"
    assert run(paddle2timm.main, "--checkpoint", pristine / "port.pdparams", "--output", output) == 1
    assert f"cannot write {output}: the suffix must be one of .safetensors, .pth" in capsys.readouterr().err
    assert content(tmp_path) == {}


def test_a_folder_as_output_is_refused(pristine, tmp_path, capsys):
    (tmp_path / "x.pdparams").mkdir()
    assert "x.pdparams: it is a folder; name a file in it" in refuses_output(pristine, tmp_path / "x.pdparams", capsys)
    assert list((tmp_path / "x.pdparams").iterdir()) == []


def test_a_folder_that_does_not_exist_is_made(pristine, tmp_path):
    output = tmp_path / "none" / "x.pdparams"
    assert convert(pristine / "timm.safetensors", output) == 0
    assert output.is_file()


def test_a_file_in_the_place_of_a_folder_is_refused(pristine, tmp_path, capsys):
    (tmp_path / "file").write_bytes(b"here")
    message = refuses_output(pristine, tmp_path / "file" / "x.pdparams", capsys)
    assert "Not a directory; a part of the path is a file" in message
    assert (tmp_path / "file").read_bytes() == b"here"


def test_a_name_that_is_too_long_is_refused(pristine, tmp_path, capsys):
    assert "File name too long" in refuses_output(pristine, tmp_path / f"{'x' * 300}.pdparams", capsys)


def test_a_report_that_cannot_be_written_is_refused_before_anything_is_done(pristine, tmp_path, capsys):
    report = tmp_path / "none" / "report.json"
    message = refuses_output(pristine, tmp_path / "x.pdparams", capsys, "--json", str(report))
    assert f"cannot write {report}" in message
    assert content(tmp_path) == {}


@contextmanager
def mounted(folder, options):
    """A file system of its own at ``folder``; skips where mounting is not permitted."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs to mount a file system: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB, less than half of what the weights take."""
    if not shutil.which("mount"):
        pytest.skip("needs mount")
    with mounted(tmp_path / "disk", "size=2m") as folder:
        yield folder


@pytest.fixture
def read_only_disk(tmp_path):
    """A file system that nothing can be written to, not even by root."""
    if not shutil.which("mount"):
        pytest.skip("needs mount")
    with mounted(tmp_path / "disk", "ro") as folder:
        yield folder


def test_a_read_only_file_system_is_refused(read_only_disk, pristine, capsys):
    message = refuses_output(pristine, read_only_disk / "x.pdparams", capsys)
    assert "Read-only file system; choose a folder in which you may write" in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(pristine, tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert "choose a folder in which you may write" in refuses_output(pristine, tmp_path / "x.pdparams", capsys)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_refused_and_the_old_file_survives(suffix, small_disk, pristine, capsys):
    weight_files.save(small_disk / f"x{suffix}", TINY, tiny_manifest())
    before = content(small_disk)
    message = refuses_output(pristine, small_disk / f"x{suffix}", capsys)
    assert f"cannot write {small_disk / 'x'}{suffix}: No space left on device; free some space" in message
    assert content(small_disk) == before


@pytest.mark.parametrize("suffix", [".safetensors", pytest.param(".pth", marks=needs_torch)])
def test_a_full_disk_is_refused_on_the_way_back(suffix, small_disk, pristine, capsys):
    (small_disk / f"x{suffix}").write_bytes(b"old")
    before = content(small_disk)
    port, output = pristine / "port.pdparams", small_disk / f"x{suffix}"
    assert run(paddle2timm.main, "--checkpoint", port, "--output", output) == 1
    assert "No space left on device; free some space" in capsys.readouterr().err
    assert content(small_disk) == before


def limited(module, *arguments):
    """A command that may write no file of more than 1 MiB."""
    code = f"import sys; from {module} import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_limit_on_the_size_of_files_is_refused_and_the_old_file_survives(suffix, pristine, tmp_path):
    weight_files.save(tmp_path / f"x{suffix}", TINY, tiny_manifest())
    before = content(tmp_path)
    options = ("--model", SMALL, "--checkpoint", pristine / "timm.safetensors", "--no-verify")
    done = limited("convert.timm2paddle", *options, "--output", tmp_path / f"x{suffix}")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"cannot write {tmp_path / 'x'}{suffix}: File too large; the limit on the size of a file" in done.stderr
    assert "Traceback" not in done.stderr
    assert content(tmp_path) == before


@pytest.mark.parametrize("suffix", [".safetensors", pytest.param(".pth", marks=needs_torch)])
def test_a_limit_on_the_size_of_files_is_refused_on_the_way_back(suffix, pristine, tmp_path):
    output = tmp_path / f"x{suffix}"
    done = limited("convert.paddle2timm", "--checkpoint", pristine / "port.pdparams", "--output", output)
    assert done.returncode == 1
    assert "File too large; the limit on the size of a file" in done.stderr
    assert "Traceback" not in done.stderr
    assert content(tmp_path) == {}


# --- writers that are killed ----------------------------------------------------------------------------------------

WRITE_FOREVER = """
import itertools, sys
import numpy as np
from paddle_dla import weight_files
from paddle_dla.storage.manifest import describe

for generation in itertools.count(1):
    arrays = {f"tensor{i}": np.full(40_000, generation, np.float32) for i in range(5)}
    tensors = {name: describe(array) for name, array in arrays.items()}
    weight_files.save(sys.argv[1], arrays, {"format": 1, "model": str(generation), "tensors": tensors})
    print(generation, flush=True)
"""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_writer_killed_at_any_moment_leaves_the_old_file_or_the_new_one(suffix, tmp_path):
    path, rng = tmp_path / f"x{suffix}", np.random.RandomState(0)
    for _ in range(10):
        command = [sys.executable, "-c", WRITE_FOREVER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            first = int(writer.stdout.readline())
            time.sleep(rng.uniform(0, 0.05))
            writer.kill()
            finished = [first, *map(int, writer.stdout.read().split())]
        arrays, manifest = weight_files.read(path)
        generation = int(manifest["model"])
        assert generation in (finished[-1], finished[-1] + 1)
        assert len(arrays) == 5
        assert all(np.array_equal(array, np.full(40_000, generation)) for array in arrays.values())
    weight_files.save(path, TINY, tiny_manifest())
    assert sorted(content(tmp_path)) == [path.name, manifest_path(path).name]
    assert same_bits(weight_files.read(path)[0], TINY)


# kills itself instead of, or right after, the n-th rename; each save renames the manifest, the file, the manifest
WRITE_AND_DIE = """
import os, signal, sys
import numpy as np
from paddle_dla import weight_files
from paddle_dla.storage.manifest import describe

path, value, wanted, moment = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
renames, rename = 0, os.replace

def replace(source, target):
    global renames
    renames += 1
    if renames == wanted and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)
    if renames == wanted and moment == "after":
        os.kill(os.getpid(), signal.SIGKILL)

os.replace = replace
arrays = {"tensor": np.full(1000, value, np.float32)}
weight_files.save(path, arrays, {"format": 1, "model": str(value), "tensors": {"tensor": describe(arrays["tensor"])}})
"""


def write(path, value, renames=0, moment="never"):
    done = subprocess.run([sys.executable, "-c", WRITE_AND_DIE, path, str(value), str(renames), moment])
    assert done.returncode == (0 if moment == "never" else -signal.SIGKILL)


def stands(path):
    """The one value that the file holds, which its manifest confirms."""
    arrays, manifest = weight_files.read(path)
    value = arrays["tensor"][0]
    assert np.array_equal(arrays["tensor"], np.full(1000, value))
    assert manifest["model"] == str(float(value))
    return value


@pytest.mark.parametrize(
    ("renames", "moment", "survivor"),
    [(1, "before", 1), (1, "after", 1), (2, "before", 1), (2, "after", 2), (3, "before", 2), (3, "after", 2)],
)
def test_a_writer_killed_at_a_rename_leaves_the_old_file_or_the_new_one(renames, moment, survivor, tmp_path):
    path = tmp_path / "x.pdparams"
    write(path, 1)
    write(path, 2, renames, moment)
    assert stands(path) == survivor
    write(path, 3)
    assert stands(path) == 3
    assert sorted(content(tmp_path)) == [path.name, manifest_path(path).name]


def test_writers_killed_one_after_the_other_leave_the_old_file(tmp_path):
    path = tmp_path / "x.pdparams"
    write(path, 1)
    for value in (2, 3):
        write(path, value, 2, "before")
        assert stands(path) == 1


def test_a_killed_writer_leaves_an_old_file_without_manifest_unverified_but_guarded(tmp_path):
    path = tmp_path / "x.pdparams"
    write_pdparams(path, TINY)
    write(path, 2, 2, "before")
    arrays, manifest = weight_files.read(path)
    assert manifest is None
    assert same_bits(arrays, TINY)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="is not what was written"):
        weight_files.read(path)


def test_a_writer_killed_before_the_first_file_stands_leaves_none(tmp_path):
    path = tmp_path / "x.pdparams"
    write(path, 1, 2, "before")
    with pytest.raises(CheckpointError, match=r"cannot read .*No such file"):
        weight_files.read(path)
    write(path, 2)
    assert stands(path) == 2


@pytest.mark.parametrize("name", ["x.pdparams", "epoch[1] *?.pdparams"])
def test_the_next_write_removes_what_the_dead_left_and_nothing_else(name, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getppid()):
        (tmp_path / f".{name}.{pid}.part").write_bytes(b"half")
    (tmp_path / f".other.{dead.pid}.part").write_bytes(b"half")
    weight_files.save(tmp_path / name, TINY, tiny_manifest())
    expected = {name, f"{name}.manifest.json", f".{name}.{os.getppid()}.part", f".other.{dead.pid}.part"}
    assert content(tmp_path).keys() == expected
