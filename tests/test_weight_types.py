"""Weights of other types than float32: taken where no value changes, else refused by a sentence that names them."""

import pickle

import numpy as np
import paddle
import pytest
from small_models import CLASSES, save_small
from timm_files import stored, write_safetensors

from paddle_dla import create_model, evaluate, predict
from paddle_dla.models.cards import Described
from paddle_dla.models.expected_tensors import shapes_of, tied_in
from paddle_dla.models.factory import load_arrays
from paddle_dla.models.interface import offer
from paddle_dla.storage.pdparams import write_pdparams
from paddle_dla.storage.tensors import write_safetensors as write_plain
from paddle_dla.weight_files import CheckpointError, check_fit, read

MODEL = "dla46x_c"


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """A small model's, each value such that float16 and bfloat16 hold it, too."""
    path = save_small(tmp_path_factory.mktemp("weights") / "small.pdparams")
    return {name: _short(array) for name, array in read(path)[0].items()}


def _short(array):
    bits = array.astype(np.float16).astype(np.float32).view(np.uint32) & 0xFFFF0000
    return bits.view(np.float32)


def loaded(path):
    model = create_model(MODEL, pretrained=path, num_classes=CLASSES)
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("suffix", [".pdparams", ".safetensors"])
@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.filterwarnings("ignore:.*unverified")
def test_types_that_change_no_value_are_taken(suffix, dtype, arrays, tmp_path):
    written = {name: array.astype(dtype) for name, array in arrays.items()}
    path = tmp_path / f"other{suffix}"
    (write_pdparams if suffix == ".pdparams" else write_plain)(path, written)
    if suffix == ".safetensors":
        path = as_converted(path, arrays)
    found = loaded(path)
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)


def as_converted(path, arrays):
    """A manifest beside it, by which a .safetensors file is known to be converted."""
    from paddle_dla.storage.json_text import to_json
    from paddle_dla.storage.manifest import FORMAT, describe, describe_file, manifest_path

    record = {"format": FORMAT, "model": MODEL, "num_classes": CLASSES, "source": {"file": "made"}}
    record |= {"tensors": {name: describe(array) for name, array in arrays.items()}, "file": describe_file(path)}
    manifest_path(path).write_text(to_json(record))
    return path


def test_bfloat16_is_read_as_the_numbers_that_it_holds(arrays, tmp_path):
    """numpy has no bfloat16: its patterns, taken for whole numbers, would be other weights."""
    path = write_safetensors(tmp_path / "short.safetensors", stored(arrays, "bfloat16"))
    found = loaded(as_converted(path, arrays))
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)


@pytest.mark.filterwarnings("ignore:.*unverified")
def test_numbers_of_the_other_byte_order_are_read_as_such(arrays, tmp_path):
    """As pickled on a machine of that order."""
    content = {name: array.astype(">f4") for name, array in arrays.items()}
    (tmp_path / "other.pdparams").write_bytes(pickle.dumps(content, protocol=4))
    found = loaded(tmp_path / "other.pdparams")
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)


def third(array):
    return array.astype(np.float64) / 3


def large(array):
    return array.astype(np.float64) * 1e300


WRONG = {
    "float64 that float32 rounds": third,
    "float64 beyond float32": large,
    "int64": lambda array: array.astype(np.int64),
    "int8": lambda array: array.astype(np.int8),
    "bool": lambda array: array > 0,
    "complex": lambda array: array.astype(np.complex64),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
@pytest.mark.filterwarnings("ignore:.*unverified")
def test_other_types_are_refused_by_name(change, arrays, tmp_path, capsys):
    path = tmp_path / "other.pdparams"
    write_pdparams(path, {**arrays, "fc.bias": change(arrays["fc.bias"] + np.float32(0.1))})
    with pytest.raises(CheckpointError, match=r"fc\.bias"):
        loaded(path)
    for command, data in ((evaluate, ["--data", str(tmp_path)]), (predict, [str(tmp_path)])):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / "0.png").write_bytes(b"")
        assert command.main(["--checkpoint", str(path), "--model", MODEL, *data]) == 1
        assert "fc.bias" in capsys.readouterr().err


# --- one tensor under two names ---------------------------------------------------------------------------------------


class Tied(paddle.nn.Layer):
    """A classifier whose weight is its embedding's."""

    def __init__(self):
        super().__init__()
        self.embed, self.other = paddle.nn.Embedding(5, 3), paddle.nn.Embedding(5, 3)
        self.other.weight = self.embed.weight


@pytest.mark.parametrize("value", [2.0, np.nan])
def test_two_values_of_one_tensor_are_refused(value):
    network, ones = Tied(), np.ones((5, 3), np.float32)
    assert tied_in(network) == [["embed.weight", "other.weight"]]
    arrays = {"embed.weight": ones, "other.weight": ones.copy()}
    check_fit(arrays, shapes_of(network), "x.pdparams", tied=tied_in(network))
    arrays["other.weight"][4, 2] = value
    with pytest.raises(CheckpointError, match=r"other\.weight"):
        check_fit(arrays, shapes_of(network), "x.pdparams", tied=tied_in(network))


def test_a_tied_network_is_not_loaded_with_two_values():
    arrays = {"embed.weight": np.ones((5, 3), np.float32), "other.weight": np.zeros((5, 3), np.float32)}
    with pytest.raises(CheckpointError, match=r"other\.weight"):
        load_arrays(offer(Tied(), Described("tied")), arrays, "x.pdparams")
