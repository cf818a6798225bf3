"""A torch module becomes a port folder: source, weights, card and proof; what is refused before anything is written."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
paddle = pytest.importorskip("paddle")
pytestmark = pytest.mark.torch

import user_models  # noqa: E402

from convert.port import main  # noqa: E402
from convert.porting.porting import port_model  # noqa: E402
from convert.porting.reference import Reference  # noqa: E402
from convert.translate.plain import TranslationError  # noqa: E402
from convert.translate.translator import translate  # noqa: E402
from paddle_dla.models.cards import read_card, sealed  # noqa: E402
from paddle_dla.models.ported import open_port  # noqa: E402
from paddle_dla.storage.errors import CheckpointError  # noqa: E402

MODEL = "test_convnext"
FILES = {"model.py", "weights.pdparams", "weights.pdparams.manifest.json", "card.json", "report.html", "report.json",
         "report-train.html", "report-train.json", "test_port.py"}  # fmt: skip
HERE = Path(__file__).parent


def numbers(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("ports") / MODEL
    assert main(["--model", MODEL, "--num-classes", "10", "--output", str(target)]) == 0
    return target


# --- the folder -------------------------------------------------------------------------------------------------------


def test_a_port_is_a_whole_folder(folder):
    assert {path.name for path in folder.iterdir()} == FILES
    card = read_card(folder)
    assert card["proved"] and card["num_classes"] == 10 and card["classifier"] == "head.fc"
    assert card["preprocessing"]["input_size"] == [3, 160, 160]
    assert set(card["verdict"]) == {"eval", "train"}
    assert card["layer_groups"]["stem.0.weight"] == 0
    assert [level["stride"] for level in card["feature_levels"]] == [4, 8, 16, 32]


def test_the_source_imports_paddle_and_nothing_else(folder):
    tree = ast.parse((folder / "model.py").read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} == {"paddle"}


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_the_source_is_as_the_projects_own(folder, command):
    ruff = [sys.executable, "-m", "ruff", *command, "--config", str(HERE.parent / "pyproject.toml")]
    # a port is a user's file: annotations and docstrings are the project's own habit
    extra = ["--ignore", "ANN,D"] if command == ["check"] else []
    done = subprocess.run([*ruff, *extra, str(folder / "model.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def own_tests(folder, *options):
    """The exit code and the output of a port's own tests."""
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_port.py", *options]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(run, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def with_another_number(folder, target, place):
    """A copy of a port in which one number that torch gave is another."""
    record = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    record["golden"]["outputs"][0]["values"][place] += 1.0
    shutil.copytree(folder, target)
    del record["sha256"]
    (target / "card.json").write_text(json.dumps(sealed(record)), encoding="utf-8")
    return target


def test_its_own_test_passes_and_sees_a_changed_weight(folder, tmp_path):
    code, output = own_tests(folder)
    assert code == 0, output
    assert own_tests(with_another_number(folder, tmp_path / "changed", 0), "-k", "golden")[0] == 1


class Spectrum(torch.nn.Module):
    """Returns complex numbers."""

    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Linear(6, 6)

    def forward(self, x):
        return torch.fft.rfft(self.mix(x))


def test_its_own_test_sees_both_parts_of_complex_numbers(tmp_path):
    port = port_model(Spectrum().eval(), (numbers(2, 6),), tmp_path / "port")
    assert port.proved
    code, output = own_tests(port.folder, "-k", "golden")
    assert code == 0, output
    real, imaginary = (with_another_number(port.folder, tmp_path / f"{place}", place) for place in (2, 3))
    assert own_tests(real, "-k", "golden")[0] == own_tests(imaginary, "-k", "golden")[0] == 1


def test_a_port_computes_what_its_reference_computes(folder):
    reference = Reference(model=MODEL, options={"num_classes": 10}).build()
    x = numbers(3, 3, 96, 128)
    with torch.no_grad(), paddle.no_grad():
        ours, expected = open_port(folder)(paddle.to_tensor(x.numpy())).numpy(), reference(x).numpy()
    # float32 through 25 layers
    assert np.abs(ours - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_source_that_was_changed_is_refused(folder, tmp_path):
    changed = tmp_path / "changed"
    subprocess.run(["cp", "-r", str(folder), str(changed)], check=True)
    with (changed / "model.py").open("a", encoding="utf-8") as file:
        file.write("# mine\n")
    with pytest.raises(CheckpointError, match="changed"):
        open_port(changed)


def test_a_folder_that_exists_is_kept(folder):
    before = (folder / "model.py").read_bytes()
    assert main(["--model", MODEL, "--output", str(folder)]) == 1
    assert (folder / "model.py").read_bytes() == before


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    assert main(["--model", MODEL, "--output", str(tmp_path), "--overwrite"]) == 1
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_dropout_between_recurrent_layers_is_off_in_the_proof():
    assert port_model(torch.nn.GRU(4, 3, 2, dropout=0.5).eval(), (numbers(3, 4, 4),)).proved


def test_a_draft_that_is_not_proved_is_marked_and_refused(tmp_path):
    wrong = {"gelu.default": "F.relu(self)"}
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), _Gelu()).eval()
    assert not port_model(module, (numbers(2, 4),), tmp_path / "none", operators=wrong).proved
    assert not (tmp_path / "none").exists()
    port = port_model(module, (numbers(2, 4),), tmp_path / "draft", operators=wrong, keep_unproved=True)
    assert not port.proved
    with pytest.raises(CheckpointError, match="draft"):
        open_port(tmp_path / "draft")


class _Gelu(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.gelu(x)


def test_a_process_that_is_killed_leaves_no_half_of_a_port(tmp_path):
    target = tmp_path / "port"
    command = [sys.executable, str(HERE.parent / "convert" / "port.py"), "--model", MODEL, "--output", str(target)]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "writing" in line:
            break
    time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    found = [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    assert not found or {path.name for path in target.iterdir()} == FILES


# --- wrong input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--model", "resnet5"], 2, "resnet50"),
        (["--torch", "user_models:raising", "--input-shape", "4"], 2, "no such device"),
        (["--torch", "user_models:a_number", "--input-shape", "4"], 2, "int"),
        (["--torch", "user_models:nothing", "--input-shape", "4"], 2, "not found"),
        (["--torch", "user_models:exiting", "--input-shape", "4"], 2, "SystemExit"),
        (["--torch", "user_models:Exiting", "--input-shape", "4"], 1, "SystemExit"),
        (["--torch", "user_models:nn", "--input-shape", "4"], 2, "a module, not a function"),
        (["--torch", "torch.nn:Linear", "--input-shape", "4"], 2, "in_features"),
        (["--torch", "torch.nn:Linear", "--torch-args", '{"in": 1}', "--input-shape", "4"], 2, "in_features"),
        (["--torch", "user_models:nan", "--input-shape", "4"], 1, "fc.weight"),
        (["--torch", "user_models:UNet", "--input-shape", "5x16x16"], 1, "5 channels"),
        (["--torch", "user_models:UNet"], 2, "--input-shape"),
        (["--model", MODEL, "--checkpoint", "missing.pth"], 1, "missing.pth"),
    ],
)
def test_wrong_input_has_a_message_and_writes_nothing(arguments, code, said, tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    assert main([*arguments, "--output", str(tmp_path / "port")]) == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "port").exists()


@pytest.mark.parametrize("shape", ["3x20000x20000", "9" * 5000, "0", "axb"])
def test_a_shape_that_no_tensor_has_is_a_mistake_of_usage(shape):
    with pytest.raises(SystemExit) as ended:
        main(["--torch", "user_models:BySize", "--input-shape", shape, "--output", "port"])
    assert ended.value.code == 2


def test_a_checkpoint_of_another_model_is_refused_by_its_tensors(tmp_path, capsys):
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    arguments = ["--model", MODEL, "--checkpoint", str(tmp_path / "other.pth"), "--output", str(tmp_path / "port")]
    assert main(arguments) == 1
    assert "fc.weight" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "line"), [("Branching", "the values decide"), ("OwnBackward", "its own backward"),
                                            ("Unknown", "without a rule")])  # fmt: skip
def test_what_cannot_be_translated_is_refused_with_its_line_alone(name, line, capfd):
    with pytest.raises(TranslationError) as caught:
        translate(getattr(user_models, name)().eval(), (numbers(2, 4),))
    source = Path(user_models.__file__).read_text(encoding="utf-8").splitlines()
    places = [stop.place for stop in caught.value.stops]
    assert places and all(place.file == user_models.__file__ and line in source[place.line - 1] for place in places)
    assert capfd.readouterr() == ("", "")  # torch prints the graph of a trace that failed


# --- modules of one's own ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("TwoInputs", (numbers(2, 6), numbers(2, 5))),
        ("DictOutput", (numbers(2, 3, 9, 9),)),
        ("TiedEmbedding", (torch.arange(14).reshape(2, 7),)),
        ("UNet", (numbers(2, 3, 16, 16),)),
        ("InPlace", (numbers(2, 5, 6),)),
        ("Shared", (numbers(2, 3, 8, 8),)),
        ("Auxiliary", (numbers(2, 3, 8, 8),)),
    ],
)
def test_a_module_of_ones_own_is_aligned_in_both_modes(name, inputs):
    port = port_model(getattr(user_models, name)().eval(), inputs)
    assert port.proved and set(port.results) == {"eval", "train"}, [r.verdict() for r in port.results.values()]


class Scaled(torch.nn.Module):
    """Neither a third nor a tenth is a float32: a constant of its forward method, and a buffer of its own."""

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(4, 3)
        self.register_buffer("scale", torch.tensor([1 / 3, 0.1, 0.7], dtype=torch.float64))

    def forward(self, x):
        return self.fc(x) * self.scale.to(x.dtype) + torch.tensor([1 / 3, 0.1, 0.7], dtype=x.dtype)


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16, torch.float64])
def test_a_module_of_another_type_becomes_a_port_in_float32(dtype, tmp_path):
    module, x = Scaled(), numbers(2, 4)
    module, x = (module, x) if dtype is None else (module.to(dtype), x.to(dtype))
    said = []
    port = port_model(module, (x,), tmp_path / "port", progress=said.append)
    assert port.proved, [result.verdict() for result in port.results.values()]
    assert {value.dtype for value in open_port(tmp_path / "port").state_dict().values()} == {paddle.float32}
    rounded = [line for line in said if "float64 are rounded" in line]
    assert len(rounded) == (dtype in (None, torch.float64)) and {x.dtype} == {dtype or torch.float32}
    assert next(module.parameters()).dtype == (dtype or torch.float32), "the user's module was changed"


# --- the source -------------------------------------------------------------------------------------------------------


class _Masked(ast.NodeTransformer):
    """Without numbers and the lists of them."""

    def visit_Constant(self, node):
        return ast.Constant(0) if isinstance(node.value, (int, float)) else node

    def visit_List(self, node):
        self.generic_visit(node)
        plain = all(isinstance(item, (ast.Constant, ast.Tuple)) for item in node.elts)
        return ast.Constant(0) if plain and node.elts else node


def without_numbers(name):
    module = Reference(model=name, options={"num_classes": 10}).build()
    size = module.pretrained_cfg["input_size"]
    return ast.dump(_Masked().visit(ast.parse(translate(module, (numbers(2, *size),)).source)))


@pytest.mark.parametrize(
    ("small", "large"),
    [
        pytest.param("resnet50", "resnet101", marks=pytest.mark.heavy),
        pytest.param("convnext_atto", "convnext_femto", marks=pytest.mark.heavy),
        ("vit_tiny_patch16_224", "vit_small_patch16_224"),
    ],
)
def test_a_larger_model_has_the_same_source_but_for_numbers(small, large):
    assert without_numbers(small) == without_numbers(large)


@pytest.mark.parametrize("name", ["BySize", "AtOneSize"])
def test_a_port_refuses_the_sizes_for_which_its_reference_takes_another_branch(name, tmp_path):
    port = port_model(getattr(user_models, name)().eval(), (numbers(2, 3, 32, 32),), tmp_path / "port")
    assert port.proved
    model = open_port(tmp_path / "port")
    model(paddle.zeros([1, 3, 32, 32]))
    with pytest.raises(ValueError, match="height and width"):
        model(paddle.zeros([1, 3, 64, 64]))
