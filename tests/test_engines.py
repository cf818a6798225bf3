"""Four engines, one network: the same logits to rounding, for any batch, and clear words where one cannot be had."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import paddle
import pytest
from each import each
from small_models import CLASSES, SIZE, noise, small_model

from paddle_dla import list_models
from paddle_dla.cpu import usable_threads
from paddle_dla.engines import ENGINES, EngineError, base, open_engine
from paddle_dla.exporting import check
from paddle_dla.exporting.errors import ExportError

PACKAGE = {"paddle": "paddle", "inference": "paddle", "onnxruntime": "paddle2onnx", "openvino": "openvino"}


def engine(kind, model=None, **options):
    pytest.importorskip(PACKAGE[kind])
    return open_engine(kind, small_model("dla46x_c") if model is None else model, input_size=SIZE, **options)


@cache
def opened_once(kind):
    """For tests that only run it."""
    return engine(kind)


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("name", each(list_models(), {"dla46x_c"}))
def test_each_engine_agrees_with_the_network_to_rounding_in_any_batch(name, kind):
    model = small_model(name)
    agreement = check.compare(engine(kind, model), check.measure(model, noise(7)))
    assert agreement.error <= agreement.limit
    assert agreement.same_top5 == 7


@pytest.mark.parametrize("kind", ENGINES)
def test_an_engine_tells_its_name_and_its_classes(kind):
    opened = opened_once(kind)
    assert (opened.name, opened.num_classes) == (kind, CLASSES)


@pytest.mark.parametrize("kind", ENGINES)
def test_logits_are_float32_one_row_for_each_image(kind):
    logits = opened_once(kind).run(noise(3))
    assert logits.dtype == np.float32 and logits.shape == (3, CLASSES)


@pytest.mark.parametrize("kind", ENGINES)
def test_a_network_in_training_mode_is_evaluated(kind):
    model = small_model("dla46x_c")
    expected = open_engine("paddle", model).run(noise(3))
    model.train()
    scale = np.abs(expected).max()
    # far below what statistics of the batch would change, far above rounding
    assert np.abs(engine(kind, model).run(noise(3)) - expected).max() < 1e-4 * scale


@pytest.mark.parametrize("kind", ["inference", "onnxruntime", "openvino"])
def test_an_exported_network_leaves_the_model_in_its_mode(kind):
    model = small_model("dla46x_c")
    model.train()
    engine(kind, model)
    assert all(layer.training for layer in model.sublayers(include_self=True))


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize(
    "images",
    [noise(2, (1, 32, 32)), noise(2)[0], noise(2).astype(np.float64), noise(2)[:0]],
    ids=["channels", "no batch", "float64", "empty"],
)
def test_images_of_another_shape_or_type_are_refused(kind, images):
    with pytest.raises(ValueError, match=r"expected float32 images \(B, 3, "):
        opened_once(kind).run(images)


@pytest.mark.parametrize("kind", ENGINES)
def test_images_that_are_no_contiguous_array_are_taken(kind):
    opened, images = opened_once(kind), noise(2)
    np.testing.assert_array_equal(opened.run(images[:, :, ::-1]), opened.run(images[:, :, ::-1].copy()))


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="unknown engine 'tensorrt'; one of paddle, inference, onnxruntime, openvino"):
        open_engine("tensorrt", "folder")


def test_the_eager_engine_takes_no_folder(tmp_path):
    with pytest.raises(EngineError, match="a model and its checkpoint, not the export"):
        open_engine("paddle", tmp_path)


def test_a_folder_that_is_no_export_is_refused(tmp_path):
    with pytest.raises(ExportError, match="is no export"):
        open_engine("inference", tmp_path)


@pytest.mark.parametrize(
    ("kind", "package"), [("inference", "paddle"), ("onnxruntime", "paddle2onnx"), ("openvino", "openvino")]
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(kind, package, monkeypatch):
    if package == "openvino":
        pytest.importorskip("paddle2onnx")  # the first that it needs
    there = base.find_spec
    monkeypatch.setattr(base, "find_spec", lambda name: None if name == package else there(name))
    with pytest.raises(EngineError, match=rf'{package} is not installed: .*\[(cpu|onnx|openvino)\]"'):
        open_engine(kind, small_model("dla46x_c"), input_size=SIZE)


def test_threads_are_the_cores_that_the_process_may_use():
    assert usable_threads() == int(
        subprocess.run(
            [sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"], capture_output=True, check=True
        ).stdout
    )


@pytest.mark.parametrize(("threads", "expected"), [(None, usable_threads()), (3, 3)])
def test_paddle_is_told_how_many_threads_to_use(threads, expected, monkeypatch):
    told = []
    monkeypatch.setattr(paddle.base.core, "set_num_threads", told.append)
    open_engine("paddle", small_model("dla46x_c"), threads=threads)
    assert told == [expected]


def test_no_framework_is_imported_before_an_engine_is_opened():
    code = "import sys, paddle_dla.engines, paddle_dla.exporting.opening, paddle_dla.export; " \
        "sys.exit(bool({'paddle', 'onnx', 'onnxruntime', 'openvino', 'torch'} & sys.modules.keys()))"  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def with_tests_importable():
    root = Path(__file__).parent
    return {**os.environ, "PYTHONPATH": f"{root}:{root.parent}"}


def test_stdout_belongs_to_the_results():
    code = (
        "from small_models import SIZE, noise, small_model; from paddle_dla.engines import open_engine; "
        "open_engine('inference', small_model('dla46x_c'), input_size=SIZE).run(noise(2))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=with_tests_importable())
    assert (done.returncode, done.stdout) == (0, b"")


class Wrong:
    """An engine that returns ``change(logits)`` of the right ones."""

    name, num_classes = "wrong", CLASSES

    def __init__(self, right, change):
        self._right, self._change = right, change

    def run(self, images):
        return self._change(self._right.run(images).copy())


def nan(logits):
    logits[0, 0] = np.nan
    return logits


def off_by_rounding_times_a_hundred(logits):
    logits[-1, -1] += 1e-4 * np.abs(logits).max()
    return logits


def wrong_in_the_remainder(logits):
    # 7 images in fives leave two
    return logits + 1 if len(logits) == 2 else logits


def one_row(logits):
    return logits[:1]


def reversed_classes(logits):
    return logits[:, ::-1]


@pytest.mark.parametrize(
    "change", [nan, off_by_rounding_times_a_hundred, wrong_in_the_remainder, one_row, reversed_classes]
)
def test_an_engine_that_computes_something_else_is_caught(change):
    model = small_model("dla46x_c")
    with pytest.raises(ExportError, match="wrong"):
        check.compare(Wrong(open_engine("paddle", model), change), check.measure(model, noise(7)))


def test_broken_weights_are_not_the_fault_of_the_engine():
    model = small_model("dla46x_c")
    model.fc.bias.set_value(np.full(CLASSES, np.inf, np.float32))
    with pytest.raises(ExportError, match="own logits are not finite"):
        check.measure(model, noise(2))


@pytest.mark.parametrize("kind", ["inference", "onnxruntime", "openvino"])
def test_an_engine_that_computes_something_else_is_refused(kind, monkeypatch):
    pytest.importorskip(PACKAGE[kind])
    from paddle_dla.exporting import opening

    write = opening.write_model
    monkeypatch.setattr(opening, "write_model", lambda layer, *rest: write(small_model("dla46x_c", seed=1), *rest))
    with pytest.raises(ExportError, match="does not compute"):
        engine(kind)
