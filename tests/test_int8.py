"""An export in 8 bits: the same network but for rounding, calibrated, measured, and refused where it loses too much."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from small_models import CLASSES, SIZE, noise, small_model

from paddle_dla import create_model
from paddle_dla.engines import EngineError, base, open_engine
from paddle_dla.errors import WrongValue
from paddle_dla.export import ExportOptions, export, held_out
from paddle_dla.exporting import export_int8 as exporting
from paddle_dla.exporting import int8
from paddle_dla.exporting.check import run_in_batches
from paddle_dla.exporting.errors import ExportError
from paddle_dla.exporting.export_int8 import check_batches, export_int8
from paddle_dla.exporting.exporter import Wanted
from paddle_dla.exporting.opening import load_export, open_files
from paddle_dla.exporting.to_onnx import write_onnx
from paddle_dla.preprocessing import Preprocessing

onnx = pytest.importorskip("onnx")
pytest.importorskip("paddle2onnx")
needs_ml_dtypes = pytest.mark.skipif(
    base.find_spec("ml_dtypes") is None, reason="onnxruntime.quantization needs ml_dtypes"
)
# plain, grouped, split into scales, and both
KINDS = [
    "dla46_c",
    "dla46x_c",
    pytest.param("dla60_res2net", marks=pytest.mark.heavy),
    pytest.param("dla60_res2next", marks=pytest.mark.heavy),
]
WANTED = Wanted("dla46x_c", Preprocessing(SIZE), ("onnx",))
UNLABELLED = np.full(16, -1)


@pytest.fixture
def float_network(tmp_path):
    def write(name):
        write_onnx(small_model(name), tmp_path / "float32.onnx", SIZE)
        return tmp_path / "float32.onnx"

    return write


def engine(path):
    return open_files(path.with_suffix(""), "onnxruntime", SIZE)


def batches(images):
    return (images[start : start + 4] for start in range(0, len(images), 4))


# groups


def group_widths(model):
    """Input channels of a group, for each grouped convolution."""
    widths = {tensor.name: tensor.dims[1] for tensor in model.graph.initializer if len(tensor.dims) == 4}
    grouped = [node for node in model.graph.node if any(a.name == "group" and a.i > 1 for a in node.attribute)]
    return [widths[node.input[1]] for node in grouped]


@pytest.mark.parametrize("channels", [2, 8, int8.GROUP_CHANNELS, 10_000])
def test_merged_groups_compute_the_same(float_network, tmp_path, channels):
    path = float_network("dla46x_c")
    model = onnx.load(path)
    int8.merge_groups(model, channels)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "merged.onnx")
    expected, actual = (engine(file).run(noise(3)) for file in (path, tmp_path / "merged.onnx"))
    # zeros are added; only the order of the sums may change: rounding of float32, through 49 convolutions
    assert np.abs(actual - expected).max() <= 2.0**-24 * 2**6 * np.abs(expected).max()


def test_groups_become_as_wide_as_asked_and_no_wider(float_network):
    model = onnx.load(float_network("dla46x_c"))
    assert set(group_widths(model)) == {2, 4, 8}
    int8.merge_groups(model, 32)
    assert set(group_widths(model)) == {32}


def test_plain_convolutions_are_left(float_network):
    model = onnx.load(float_network("dla46_c"))
    before = model.SerializeToString()
    int8.merge_groups(model)
    assert model.SerializeToString() == before


def test_a_merge_that_mixes_up_groups_is_seen():
    weight = np.random.RandomState(0).standard_normal((8, 2, 1, 1)).astype(np.float32)
    merged = int8._block_diagonal(weight, 4, 2)  # (8, 4, 1, 1)
    blocks = merged.reshape(2, 2, 2, 2, 2)  # new group, old group within it, output, old group of the input, input
    for group in range(2):
        for own in range(2):
            np.testing.assert_array_equal(blocks[group, own, :, own], weight.reshape(2, 2, 2, 2)[group, own])
            assert not blocks[group, own, :, 1 - own].any()


# quantisation


@needs_ml_dtypes
@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_block_is_quantised_and_agrees(float_network, tmp_path, name):
    path, images = float_network(name), noise(16)
    int8.quantise(path, tmp_path / "int8.onnx", batches(images))
    exact, rounded = (run_in_batches(engine(file), images, 8) for file in (path, tmp_path / "int8.onnx"))
    # noise through random weights: far from what 8 bits do to a trained network, near enough to be the same network
    assert np.corrcoef(exact.ravel(), rounded.ravel())[0, 1] > 0.95


@needs_ml_dtypes
def test_every_convolution_runs_in_8_bits(float_network, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    int8.quantise(float_network("dla46x_c"), tmp_path / "int8.onnx", batches(noise(8)))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(tmp_path / "int8.onnx"), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") == 49
    assert not {"Conv", "FusedConv", "Relu"} & set(kinds)


@needs_ml_dtypes
def test_calibration_without_images_is_refused(float_network, tmp_path):
    with pytest.raises(ExportError, match="needs images to calibrate on"):
        int8.quantise(float_network("dla46x_c"), tmp_path / "int8.onnx", iter([]))
    assert not (tmp_path / "int8.onnx").exists()


@pytest.mark.parametrize("options", [{"int8": True}, {"calibration": "images"}])
def test_int8_and_its_calibration_come_together(options, tmp_path):
    with pytest.raises(WrongValue, match="int8 needs"):
        export(ExportOptions(model="dla46x_c", output=str(tmp_path / "out"), **options))
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    there = base.find_spec
    monkeypatch.setattr(base, "find_spec", lambda name: None if name == "ml_dtypes" else there(name))
    with pytest.raises(EngineError, match=r'ml_dtypes is not installed: pip install "paddle-dla\[onnx\]"'):
        export_int8(small_model("dla46x_c"), tmp_path / "out", WANTED, noise(8), (noise(16), UNLABELLED))
    assert not (tmp_path / "out").exists()


# the export


@needs_ml_dtypes
def test_an_int8_export_opens_as_any_other_and_tells_what_it_is(tmp_path):
    images = noise(16)
    _, measured = export_int8(small_model("dla46x_c"), tmp_path / "out", WANTED, images, (images, UNLABELLED))
    export = load_export(tmp_path / "out")
    assert (export.record.precision, export.engine.name, export.engine.num_classes) == ("int8", "onnxruntime", CLASSES)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.onnx", "preprocessing.json", "run.py"]
    assert export.record.check["int8"]["same_top1"] == measured.same_top1


def upside_down(source, target, batches, right=int8.quantise):
    """Quantise a network whose classifier has its sign wrong."""
    model = onnx.load(source)
    classifier = [node for node in model.graph.node if node.op_type == "Conv"][-1]
    for tensor in model.graph.initializer:
        if tensor.name in classifier.input:
            tensor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(tensor), tensor.name))
    onnx.save(model, source)
    right(source, target, batches)


@needs_ml_dtypes
def test_an_int8_network_that_loses_too_much_is_not_put_in_place(tmp_path, monkeypatch):
    model, images = small_model("dla46x_c"), noise(16)
    labels = run_in_batches(open_engine("paddle", model), images, 8).argmax(1)
    monkeypatch.setattr(exporting, "quantise", upside_down)
    with pytest.raises(ExportError, match="more than 5 points"):
        export_int8(model, tmp_path / "out", WANTED, images, (images, labels))
    assert list(tmp_path.iterdir()) == []


class Fixed:
    """An engine that returns given logits, of as many images as it gets."""

    name, num_classes = "fixed", 2

    def __init__(self, logits):
        self._logits = np.asarray(logits, np.float32)

    def run(self, images):
        return self._logits[images[:, 0, 0, 0].astype(int)]


def numbered(count):
    return np.arange(count, dtype=np.float32)[:, None, None, None]


def test_loss_and_agreement_are_those_of_the_images():
    exact, rounded = Fixed([[1, 0], [1, 0], [0, 1], [0, 1]]), Fixed([[1, 0], [0, 1], [0, 1], [1, 0]])
    measured = int8.measure_int8(exact, rounded, numbered(4), np.array([0, 0, 1, -1]))
    assert (measured.labelled, measured.top1_float32, measured.same_top1) == (3, 100.0, 50.0)
    assert measured.loss == pytest.approx(100 / 3)


def test_without_labels_the_loss_is_said_to_be_unknown():
    engine = Fixed([[1, 0]] * 4)
    measured = int8.measure_int8(engine, engine, numbered(4), np.full(4, -1))
    assert np.isnan(measured.loss) and "the loss of top-1 is unknown" in str(measured)


class DependsOnBatch:
    name, num_classes = "depends", 2

    def run(self, images):
        return np.full((len(images), 2), len(images), np.float32)


def test_a_network_that_depends_on_the_size_of_the_batch_is_caught():
    with pytest.raises(ExportError, match="depend on the size of the batch"):
        check_batches(DependsOnBatch(), numbered(7))


# a trained network

DATASET = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist


def read_idx(name):
    """An array in MNIST's idx format: a header of four bytes and a 32-bit size for each dimension."""
    with gzip.open(DATASET / f"{name}.gz") as file:
        content = file.read()
    sides = np.frombuffer(content, ">i4", content[3], 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(sides)).reshape(sides)


def normalised(grey):
    """(N, 28, 28) uint8 -> (N, 3, 32, 32) float32, as the checkpoint was trained."""
    padded = np.pad(grey, ((0, 0), (2, 2), (2, 2)))[:, None].astype(np.float32) / 255
    mean, std = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (padded - mean) / std


@needs_ml_dtypes
@pytest.mark.heavy
def test_a_trained_network_keeps_its_accuracy(shared_data, tmp_path):
    if not DATASET.is_dir():
        pytest.skip("needs Debian's package dataset-fashion-mnist")
    checkpoint = shared_data / "checkpoints/dla46_c_fashion_mnist.safetensors"
    model = create_model("dla46_c", pretrained=checkpoint, num_classes=10)
    calibration = normalised(read_idx("train-images-idx3-ubyte")[:256])
    images, labels = normalised(read_idx("t10k-images-idx3-ubyte")), read_idx("t10k-labels-idx1-ubyte").astype(int)
    wanted = Wanted("dla46_c", Preprocessing(SIZE, crop_pct=1.0), ("onnx",))
    _, measured = export_int8(model, tmp_path / "out", wanted, calibration, (images, labels))
    assert measured.top1_float32 == 87.11
    # one standard deviation of a score of 87 % on 10,000 images is 0.34 points
    assert measured.loss < 0.34


def test_int8_is_measured_on_images_that_it_was_not_calibrated_on():
    images, labels = np.arange(10.0)[:, None, None, None], np.arange(10)
    calibration, measured = held_out((images, labels))
    assert measured[1].tolist() == [3, 7] and calibration[1].tolist() == [0, 1, 2, 4, 5, 6, 8, 9]
    assert measured[0].ravel().tolist() == [3, 7] and not {*calibration[1].tolist()} & {3, 7}
    with pytest.raises(ValueError, match="--check"):
        held_out((images[:3], labels[:3]))
