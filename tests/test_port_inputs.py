"""Ports of modules that take something else than images: token ids, masks, arguments by name."""

import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import paddle  # noqa: E402
import user_models  # noqa: E402

from convert.port import main  # noqa: E402
from convert.porting.inputs import read_inputs  # noqa: E402
from convert.porting.porting import port_model  # noqa: E402
from convert.translate.modes import stochastic_depths  # noqa: E402
from convert.translate.plain import TranslationError  # noqa: E402
from convert.translate.tracing import trace  # noqa: E402
from paddle_dla.models.cards import read_card  # noqa: E402
from paddle_dla.models.ported import open_port  # noqa: E402
from paddle_dla.storage.errors import CheckpointError  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread")]
HERE = Path(__file__).parent
IDS = np.array([[3, 5, 19, 0], [7, 1, 0, 0], [2, 2, 4, 6]])
MASK = (IDS != 0).astype("float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("ports")
    np.savez(target / "tokens.npz", ids=IDS, mask=MASK)
    command = ["--torch", "user_models:Tagger", "--inputs", str(target / "tokens.npz"), "--output"]
    assert main([*command, str(target / "tagger")]) == 0
    return target / "tagger"


# --- what is ported ---------------------------------------------------------------------------------------------------


def test_arguments_go_by_name_and_its_own_test_passes(folder):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(HERE.parent), str(HERE)))}
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_port.py"]
    done = subprocess.run(run, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout


def test_what_requires_no_gradient_gets_none(folder):
    fixed = {name for name, parameter in open_port(folder).named_parameters() if parameter.stop_gradient}
    assert fixed == {"positions.weight"}


def test_a_copy_of_stochastic_depth_is_one(folder):
    source = (folder / "model.py").read_text(encoding="utf-8")
    assert "DropPath(0.25)" in source and "OwnDropPath" not in source


@pytest.mark.parametrize("frozen", [["tokens", "positions"], ["tokens", "positions", "blocks", "head"], ["blocks"]])
def test_any_part_may_be_frozen(tmp_path, frozen):
    module = user_models.Tagger()
    for name in frozen:
        module.get_submodule(name).requires_grad_(False)
    inputs = {"ids": torch.from_numpy(IDS), "mask": torch.from_numpy(MASK)}
    assert port_model(module, inputs, tmp_path / "port").proved
    fixed = {name for name, parameter in open_port(tmp_path / "port").named_parameters() if parameter.stop_gradient}
    assert fixed == {name for name, parameter in module.named_parameters() if not parameter.requires_grad}


def test_one_sample_makes_a_port_for_any_batch():
    inputs = {"ids": torch.from_numpy(IDS[:1]), "mask": torch.from_numpy(MASK[:1])}
    assert port_model(user_models.Tagger(), inputs, eval_only=True).proved


def test_limits_of_the_type_are_those_of_the_type_in_which_the_port_runs():
    """A trace in float64 has its limits, which are infinite in float32: a row without any score is NaN then."""
    inputs = [torch.randn(3, 4), torch.tensor([[True, False, True, False], [False] * 4, [True] * 4])]
    port = port_model(user_models.Masking(), inputs)
    assert port.proved
    for limit in ("finfo(x.dtype).min", "finfo(x.dtype).max * -0.5", "finfo(x.dtype).eps"):
        assert port.source.count(f"paddle.{limit}") == 1


def test_a_number_stays_where_nobody_asks_for_the_limits_of_a_type():
    class Adding(torch.nn.Linear):
        def forward(self, x):
            return torch.log(super().forward(x).relu() + 2.0**-52)

    assert "2.220446049250313e-16" in port_model(Adding(4, 4), [torch.randn(3, 4)], eval_only=True).source


def test_random_numbers_of_a_forward_method_are_drawn_in_training_alone():
    port = port_model(user_models.Noisy(), [torch.randn(6, 4)])
    assert port.proved
    assert "if self.training:" in port.source and "paddle.rand([" in port.source and "paddle.randn(" in port.source


def test_a_layer_whose_copy_is_in_another_mode_does_not_hinder_the_proof():
    assert port_model(user_models.WithCopied(), [torch.randn(2, 2, 4)]).proved


def test_instance_norm_keeps_its_epsilon_as_paddle_does():
    assert port_model(user_models.SmallVariance(), [torch.randn(2, 3, 6, 6)]).proved


def test_outputs_of_a_class_of_ones_own_are_refused_in_words():
    with pytest.raises(
        TranslationError, match=r"\(model\): torch.export cannot trace it: it returns a user_models.Cache"
    ):
        port_model(user_models.Caching(), [torch.randn(2, 4)])


class Difference(torch.nn.Module):
    """Arguments that are not in the order of their names, one with a capital."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

    def forward(self, X, left, *, mask=None):
        return self.first(X) - 2 * self.second(left) if mask is None else self.first(X) - 2 * self.second(left) + mask


@pytest.mark.parametrize("names", [("left", "X"), ("X", "left"), ("mask", "left", "X")])
def test_a_port_declares_its_arguments_as_its_reference_does(names, tmp_path):
    module = Difference().eval()
    inputs = {name: torch.randn(3, 4) for name in names}
    assert port_model(module, inputs, tmp_path / "port", eval_only=True).proved
    assert [one["name"] for one in read_card(tmp_path / "port")["inputs"]] == ["X", "left", "mask"][: len(names)]
    x, left = torch.randn(2, 4), torch.randn(2, 4)
    rest = [torch.zeros(2, 4)] * (len(names) - 2)
    ours = open_port(tmp_path / "port")(*(paddle.to_tensor(value.numpy()) for value in (x, left, *rest))).numpy()
    assert abs(ours - module(x, left).detach().numpy()).max() < 1e-5


class Variadic(torch.nn.Module):
    def forward(self, *parts, mask):
        return parts[0] - parts[1].relu() + mask


def test_arguments_behind_those_without_a_name_keep_theirs():
    inputs = {"mask": torch.randn(3, 4)}
    program = trace(Variadic(), [torch.randn(3, 4), torch.randn(3, 4)], inputs)
    names = [name for name, _ in program.inputs]
    assert names[2] == "mask" and len({*names}) == 3


class Imported(torch.nn.Module):
    def forward(self, x, F):
        return (x * F).relu()


def test_an_argument_with_the_name_of_an_import_is_refused():
    with pytest.raises(TranslationError, match="an argument called F"):
        port_model(Imported(), [torch.randn(3, 4), torch.randn(3, 4)])


# --- stochastic depth by what it does ---------------------------------------------------------------------------------


class Scaling(user_models.OwnDropPath):
    """It leaves out nothing."""

    def forward(self, x):
        return x / (1 - self.rate) if self.training else x


class ByElement(user_models.OwnDropPath):
    def forward(self, x):
        return torch.nn.functional.dropout(x, self.rate, self.training)


class AtTwiceTheRate(user_models.OwnDropPath):
    def forward(self, x):
        keep = 1 - 2 * self.rate
        return x / (1 - self.rate) * torch.floor(keep + torch.rand(len(x), 1, 1, 1)) if self.training else x


class InEvaluation(user_models.OwnDropPath):
    def forward(self, x):
        return super().forward(x) + 1


class Raising(user_models.OwnDropPath):
    def forward(self, x):
        raise ValueError


@pytest.mark.parametrize("kind", [Scaling, ByElement, AtTwiceTheRate, InEvaluation, Raising])
def test_what_does_something_else_is_no_stochastic_depth(kind):
    assert stochastic_depths(torch.nn.Sequential(kind(0.25), kind(0.0))) == {}


def test_stochastic_depth_is_told_by_what_it_does_and_leaves_the_generator():
    before = torch.get_rng_state()
    module = torch.nn.Sequential(user_models.OwnDropPath(0.001), user_models.OwnDropPath(0.25))
    assert stochastic_depths(module) == {"user_models.OwnDropPath": "rate"}
    assert torch.equal(before, torch.get_rng_state())


# --- the file ---------------------------------------------------------------------------------------------------------


def test_arrays_come_by_name_or_in_order(tmp_path):
    np.savez(tmp_path / "named.npz", ids=IDS, mask=MASK)
    np.savez(tmp_path / "plain.npz", IDS, MASK)
    np.save(tmp_path / "one.npy", IDS)
    assert {name: array.dtype.kind for name, array in read_inputs(tmp_path / "named.npz").items()} == {
        "ids": "i",
        "mask": "f",
    }
    assert [array.dtype.kind for array in read_inputs(tmp_path / "plain.npz")] == ["i", "f"]
    assert np.array_equal(read_inputs(tmp_path / "one.npy"), [IDS])


def test_a_file_that_holds_no_inputs_is_refused_before_the_module_is_built(tmp_path, capsys):
    (tmp_path / "text.npz").write_text("no arrays")
    command = ["--torch", "user_models:raising", "--inputs", str(tmp_path / "text.npz"), "--output"]
    assert main([*command, str(tmp_path / "port")]) == 1
    assert "cannot read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array(["a"]), "is no type of an input"),
        (np.array([1j]), "complex128 is no type of an input"),
        (np.zeros((2, 0)), "it has no elements"),
        (np.array([np.nan]), "it holds NaN"),
    ],
)
def test_an_array_that_is_no_input_is_named(tmp_path, array, message):
    np.savez(tmp_path / "in.npz", good=IDS, bad=array)
    with pytest.raises(CheckpointError, match=f"bad: .*{message}"):
        read_inputs(tmp_path / "in.npz")


def test_nothing_is_unpickled_and_nothing_endless_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("paddle_dla.storage.npy.MOST", 10_000)
    np.save(tmp_path / "objects.npy", np.array([print], dtype=object), allow_pickle=True)
    np.savez_compressed(tmp_path / "bomb.npz", np.zeros(2_000))
    os.mkfifo(tmp_path / "pipe.npy")
    for name, words in (("objects.npy", "Python objects"), ("bomb.npz", "more than"), ("pipe.npy", "FIFO")):
        with pytest.raises(CheckpointError, match=words):
            read_inputs(tmp_path / name)


def test_arrays_without_a_name_go_by_their_numbers(tmp_path):
    np.savez(tmp_path / "in.npz", arr_1=MASK, arr_0=IDS)
    assert [array.dtype.kind for array in read_inputs(tmp_path / "in.npz")] == ["i", "f"]
    np.savez(tmp_path / "gap.npz", arr_2=MASK, arr_0=IDS)
    with pytest.raises(CheckpointError, match="arr_1: missing"):
        read_inputs(tmp_path / "gap.npz")


@pytest.mark.parametrize("array", [IDS.astype(">i8"), MASK.astype(">f4"), np.asfortranarray(MASK)])
def test_an_array_of_another_layout_has_the_same_values(tmp_path, array):
    np.save(tmp_path / "in.npy", array)
    (found,) = read_inputs(tmp_path / "in.npy")
    assert np.array_equal(torch.from_numpy(found).numpy(), array)


@pytest.mark.parametrize("dtype", [np.longdouble, np.uint16, np.uint32, np.uint64])
def test_types_that_the_frameworks_lack_are_refused(tmp_path, dtype):
    np.save(tmp_path / "in.npy", IDS.astype(dtype))
    with pytest.raises(CheckpointError, match="is no type of an input"):
        read_inputs(tmp_path / "in.npy")


@pytest.mark.parametrize(
    "members",
    [("ids.npy", "ids.npy"), ("ids.npy", "ids"), ("ids.npy", "readme.txt"), ("ids.npy", "folder/")],
)
def test_an_archive_with_anything_twice_or_with_anything_else_is_refused(tmp_path, members):
    np.save(tmp_path / "ids.npy", IDS)
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "in.npz", "w") as archive:
        warnings.simplefilter("ignore")
        for name in members:
            archive.writestr(name, (tmp_path / "ids.npy").read_bytes() if "ids" in name else b"")
    with pytest.raises(CheckpointError, match=r"cannot read .*(twice|is no array)"):
        read_inputs(tmp_path / "in.npz")


def test_an_array_is_read_whatever_stands_behind_it(tmp_path):
    np.save(tmp_path / "in.npy", IDS)
    np.savez(tmp_path / "more.npz", MASK)
    with open(tmp_path / "in.npy", "ab") as file:
        file.write((tmp_path / "more.npz").read_bytes())
    assert np.array_equal(read_inputs(tmp_path / "in.npy"), [IDS])


def test_an_option_of_the_reference_that_no_card_can_hold_is_refused():
    with pytest.raises(SystemExit) as ended:
        main(["--torch", "user_models:Tagger", "--torch-args", '{"rate": NaN}', "--output", "nowhere"])
    assert ended.value.code == 2
