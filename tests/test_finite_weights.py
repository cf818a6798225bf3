"""No figure comes of numbers that are none: weights and preprocessing are checked by whoever loads them, logits too.

Paddle's ReLU makes 0 of NaN on a CPU: a network of which the first convolution is NaN has finite logits.
"""

import ast
import json
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from exports import ENGINE_NAMES, MODEL, needs_onnx, photograph, rewrite, wanted
from pictures import write_tree
from small_models import CLASSES, SIZE, save_small, small_model
from small_runs import make_images, small_config

from paddle_dla import create_model, evaluate, export, features, predict, weight_files
from paddle_dla.engines import open_engine
from paddle_dla.engines.base import EngineError
from paddle_dla.evaluation import evaluate as run_engine
from paddle_dla.exporting.exporter import export_model
from paddle_dla.exporting.folder import RECORD
from paddle_dla.exporting.stored_weights import mapped, onnx_weights, pdiparams
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.ranks import Ranks
from paddle_dla.storage.json_text import to_json
from paddle_dla.storage.manifest import describe, describe_file, manifest_path
from paddle_dla.training.stopping import StopRequest
from paddle_dla.weight_files import CheckpointError

FIRST = "base_layer.0.weight"
VARIANCE = "base_layer.1._variance"


def with_value(path, name, value, manifest=True):
    """A checkpoint of a small model, in which the first element of a tensor is ``value``."""
    save_small(path)
    arrays, record = weight_files.read(path)
    arrays = {key: array.copy() for key, array in arrays.items()}
    arrays[name].reshape(-1)[0] = value
    record["tensors"] = {key: describe(array) for key, array in arrays.items()}
    weight_files.save(path, arrays, {key: item for key, item in record.items() if key != "file"})
    if not manifest:
        manifest_path(path).unlink()
    return path


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    counts = {f"c{label}": 1 for label in range(CLASSES)}
    return write_tree(folder / "val", counts, lambda seed: photograph(folder / "x.png", seed=seed).read_bytes())


def commands(weights, tree, out):
    """Everything that loads a checkpoint to run it."""
    model = ["--checkpoint", str(weights), "--model", MODEL]
    data = ["--data", str(tree), "--workers", "0"]
    return {
        "evaluate": lambda: evaluate.main([*model, *data]),
        "evaluate inference": lambda: evaluate.main([*model, *data, "--engine", "inference"]),
        "predict": lambda: predict.main([*model, str(tree)]),
        "features": lambda: features.main([*model, *data, "--output", str(out / "f.npy")]),
        "export": lambda: export.main([*model, "--output", str(out / "exported")]),
    }


COMMANDS = list(commands("", "", Path()))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("name", "value"), [(FIRST, math.nan), (VARIANCE, math.inf), ("fc.bias", -math.inf)])
def test_weights_that_are_not_finite_are_refused_by_every_command(command, name, value, tree, tmp_path, capsys):
    weights = with_value(tmp_path / "bad.pdparams", name, value)
    before = sorted(tmp_path.iterdir())
    assert commands(weights, tree, tmp_path)[command]() == 1
    assert name in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("suffix", [".pdparams", ".safetensors"])
@pytest.mark.parametrize("manifest", [True, False])
@pytest.mark.parametrize("value", [math.nan, -1.0])
def test_a_variance_that_is_none_is_refused(suffix, manifest, value, tmp_path):
    """The root of a negative one is NaN."""
    path = with_value(tmp_path / f"bad{suffix}", VARIANCE, value, manifest or suffix == ".safetensors")
    with pytest.raises(CheckpointError, match=VARIANCE):
        create_model(MODEL, pretrained=path, num_classes=CLASSES)


def poison(layer):
    """Make one element of the first convolution NaN."""
    array = layer.state_dict()[FIRST].numpy().copy()
    array.reshape(-1)[0] = math.nan
    layer.state_dict()[FIRST].set_value(array)


@pytest.mark.parametrize("kind", ["paddle", "inference", pytest.param("onnxruntime", marks=needs_onnx)])
def test_a_layer_that_holds_nan_is_no_engine(kind):
    layer = small_model(MODEL)
    poison(layer)
    with pytest.raises(EngineError, match=FIRST):
        open_engine(kind, layer, threads=1, input_size=SIZE)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_an_export_that_holds_nan_is_not_opened(engine, value, exported_copy, tree, capsys):
    """As one may that was written before weights were checked."""
    path = exported_copy / ("model.onnx" if engine == "onnxruntime" else "model.pdiparams")
    name, weights = max(_stored(path), key=lambda pair: pair[1].nbytes)
    data = path.read_bytes()
    place = data.index(weights.tobytes())
    path.write_bytes(data[:place] + np.float32(value).tobytes() + data[place + 4 :])
    files = json.loads((exported_copy / RECORD).read_text())["files"]
    rewrite(exported_copy, files={**files, path.name: describe_file(path)})
    chosen = ["--export", str(exported_copy), "--engine", engine]
    assert predict.main([*chosen, str(tree)]) == 1
    assert evaluate.main([*chosen, "--data", str(tree), "--workers", "0"]) == 1
    assert capsys.readouterr().err.count(name) == 2


def _stored(path):
    return (pdiparams if path.suffix == ".pdiparams" else onnx_weights)(mapped(path))


def test_a_layer_that_holds_nan_is_not_exported(tmp_path):
    layer = small_model(MODEL)
    poison(layer)
    with pytest.raises(CheckpointError, match=FIRST):
        export_model(layer, tmp_path / "out", wanted())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [FIRST, VARIANCE])
def test_a_training_begins_and_goes_on_with_finite_weights_alone(name, tmp_path):
    from paddle_dla.training.start import train

    data = make_images(tmp_path / "data")
    weights = with_value(tmp_path / "bad.pdparams", name, math.nan)
    config = small_config(data, tmp_path / "run", f"model.pretrained={weights}", "data.workers=0")
    with pytest.raises(CheckpointError, match=name):
        train(config, Ranks(), StopRequest(), lambda line: None)
    assert not (tmp_path / "run").exists()


# --- logits ----------------------------------------------------------------------------------------------------------


class Broken:
    """An engine of which the logits of one image are not finite."""

    name, num_classes = "broken", 3

    def __init__(self, value):
        self._value = value

    def run(self, images):
        logits = np.zeros((len(images), 3), np.float32)
        logits[-1, 1] = self._value
        return logits


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_end_a_run(value):
    from paddle_dla.data.batch import Batch

    batch = Batch(np.zeros((2, *SIZE), np.float32), np.zeros(2, np.int64), np.array([5, 7]))
    with pytest.raises(EngineError, match="7"):
        run_engine(Broken(value), [batch], 3)
    with pytest.raises(EngineError, match="7"):
        features.embed(Broken(value).run, [batch], features.Progress(2, quiet=True))


def test_logits_that_overflow_end_the_command(tree, tmp_path, capsys):
    """Every weight is finite, and their products are not."""
    weights = with_value(tmp_path / "large.pdparams", "fc.bias", 3.4e38)
    arrays, record = weight_files.read(weights)
    arrays = {**arrays, "fc.weight": np.full_like(arrays["fc.weight"], 3e38)}
    record["tensors"] = {key: describe(array) for key, array in arrays.items()}
    weight_files.save(weights, arrays, {key: item for key, item in record.items() if key != "file"})
    assert evaluate.main(["--checkpoint", str(weights), "--data", str(tree), "--workers", "0"]) == 1
    assert predict.main(["--checkpoint", str(weights), str(tree)]) == 1
    assert "top-1" not in capsys.readouterr().out


# --- preprocessing ---------------------------------------------------------------------------------------------------

NONSENSE = {
    "mean nan": {"mean": (math.nan, 0.5, 0.5)},
    "mean inf": {"mean": (0.5, math.inf, 0.5)},
    "mean beyond float32's steps": {"mean": (1e30, 0.5, 0.5)},
    "std nan": {"std": (math.nan, 0.2, 0.2)},
    "std inf": {"std": (0.2, math.inf, 0.2)},
    "std denormal": {"std": (1e-45, 0.2, 0.2)},
    "std that overflows in the network": {"std": (1e-37, 0.2, 0.2)},
    "std that levels all pixels": {"std": (1e38, 0.2, 0.2)},
    "crop nan": {"crop_pct": math.nan},
    "crop of almost nothing": {"crop_pct": 1e-9},
    "huge sides": {"input_size": (3, 10**6, 10**6)},
    "huge side": {"input_size": (3, 10**9, 32)},
    "many channels": {"input_size": (10**6, 32, 32), "mean": (0.5,) * 10**6, "std": (0.5,) * 10**6},
    "sides that are no whole numbers": {"input_size": (3, 32.5, 32)},
    "sides as text": {"input_size": ("3", "32", "32")},
    "a side that is true": {"input_size": (3, True, 32)},
    "mean as text": {"mean": ("a", "b", "c")},
    "one mean": {"mean": 0.5},
    "crop as text": {"crop_pct": "0.9"},
    "an interpolation that is a list": {"interpolation": ["bilinear"]},
}


@pytest.mark.parametrize("change", NONSENSE.values(), ids=NONSENSE)
def test_preprocessing_that_no_image_can_go_through_is_refused(change):
    with pytest.raises(ValueError):
        Preprocessing(**{**Preprocessing(SIZE).as_dict(), **change})


@pytest.mark.parametrize("options", [("--mean", "nan"), ("--mean", "1e300"), ("--std", "1e-45"), ("--std", "inf")])
def test_preprocessing_of_the_command_line_is_checked(options, tree, tmp_path, capsys):
    weights = save_small(tmp_path / "good.pdparams")
    said = [options[0], *[options[1]] * 3]
    assert evaluate.main(["--checkpoint", weights, "--data", str(tree), "--workers", "0", *said]) == 1
    assert options[0].strip("-") in capsys.readouterr().err


@pytest.mark.parametrize("change", NONSENSE.values(), ids=NONSENSE)
def test_preprocessing_of_a_manifest_is_checked(change, tree, tmp_path, capsys):
    weights = save_small(tmp_path / "good.pdparams")
    record = json.loads(manifest_path(weights).read_text())
    record["preprocessing"] |= change
    manifest_path(weights).write_text(json.dumps(record))
    assert predict.main(["--checkpoint", weights, str(tree)]) == 1
    assert "manifest" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mean", "std"), [((0.0,) * 3, (1.0,) * 3), ((0.0,) * 3, (1 / 255,) * 3), ((127.5,) * 3, (50,) * 3)]
)
def test_statistics_that_people_use_are_taken(mean, std):
    assert Preprocessing(mean=mean, std=std).mean == mean


# --- JSON ------------------------------------------------------------------------------------------------------------


def test_json_holds_no_number_that_json_has_not():
    text = to_json({"a": math.nan, "b": [1.0, math.inf], "c": {"d": (-math.inf, 2)}}, indent=1)
    found = json.loads(text, parse_constant=pytest.fail)
    assert found == {"a": None, "b": [1.0, None], "c": {"d": [None, 2]}}


def test_everything_writes_json_through_one_function():
    """A call of ``json.dumps`` elsewhere says ``allow_nan=False``, or it could write a bare NaN."""
    found = []
    for folder in ("paddle_dla", "convert", "scripts"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                named = isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.dumps", "json.dump")
                if named and not any(word.arg == "allow_nan" for word in node.keywords):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []
