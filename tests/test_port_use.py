"""A port is proved for what it is used for, not only along the path that was traced in float64."""

import os
import random
import signal
import sys
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")
paddle = pytest.importorskip("paddle")
pytestmark = pytest.mark.torch

from torch import nn  # noqa: E402

from convert.port import main  # noqa: E402
from convert.porting.porting import port_model  # noqa: E402
from convert.porting.proof import LoadError, ReferenceRaised  # noqa: E402
from convert.porting.reference import Reference, load_checkpoint  # noqa: E402
from convert.porting.usage import other_use  # noqa: E402
from convert.translate.plain import TranslationError  # noqa: E402
from convert.translate.translator import translate  # noqa: E402
from paddle_dla.models.cards import read_card  # noqa: E402
from paddle_dla.models.ported import open_port  # noqa: E402
from paddle_dla.models.registry import ModelError, users_code  # noqa: E402
from paddle_dla.storage.errors import CheckpointError  # noqa: E402

SIDE = 16


class Net(nn.Module):
    """A classifier of four classes; what is made of its logits is for those that inherit."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 4)

    def logits(self, x):
        return self.head(self.stem(x).relu().mean((2, 3)))

    def forward(self, x):
        return self.logits(x)


class OfFloat32(Net):
    def forward(self, x):
        return self.logits(x) * (3 if x.dtype == torch.float32 else 1)


class WithoutGradients(Net):
    def forward(self, x):
        return self.logits(x) * (1 if torch.is_grad_enabled() else 3)


class OfOne(Net):
    def forward(self, x):
        return self.logits(x) * (3 if len(x) == 1 else 1)


class OfMany(Net):
    def forward(self, x):
        return self.logits(x) * (3 if x.shape[0] > 64 else 1)


class OfLongBatches(Net):
    """As ``OfMany``; ``len`` is a number, so the trace has no guard, and holds for one batch."""

    def forward(self, x):
        return self.logits(x) * (3 if len(x) > 64 else 1)


class Counts(Net):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return self.logits(x) * (3 if self.calls > 1000 else 1)


class Alternates(Net):
    calls = [0]  # noqa: RUF012 - of the class, so that copies share it

    def forward(self, x):
        self.calls[0] += 1
        return self.logits(x) * (3 if self.calls[0] % 2 else 1)


class OverTheBatch(Net):
    def forward(self, x):
        logits = self.logits(x)
        return logits - logits.mean(0, keepdim=True)


class OfPairs(Net):
    """Takes no batch of an odd number."""

    def forward(self, x):
        logits = self.logits(x)
        return logits.reshape(len(x) // 2, 2, 4).mean(1)


class OfLargeImages(Net):
    def forward(self, x):
        return self.logits(x) * (3 if x.shape[2] > 5 * SIDE else 1)


def images(batch=2, side=SIDE):
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))


def ported(module, folder=None):
    torch.manual_seed(0)
    return port_model(module().eval(), (images(),), folder, eval_only=True)


@pytest.mark.parametrize("module", [OfFloat32, WithoutGradients, OfOne, OfMany, OfLongBatches, Counts, Alternates])
def test_a_reference_that_takes_another_path_as_it_is_used_is_not_aligned(module, tmp_path):
    port = ported(module, tmp_path / "port")
    assert not port.proved and port.folder is None and not (tmp_path / "port").exists()
    assert not port.results["eval"].verdict().startswith("ALIGNED")
    assert port.results["eval"].to_dict()["passed"] is False


class Padded(nn.Module):
    """torch's encoder leaves masked positions out where no gradients are asked for, and they count in the mean."""

    def __init__(self, **options):
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1, **options)

    def forward(self, x):
        return self.encoder(x, src_key_padding_mask=x[:, :, 0] == 0).mean(1)


def padded():
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    x[0, 3:] = x[1, 4:] = 0
    return x


def test_a_path_without_gradients_is_named():
    """The port is as the reference with gradients, and says so."""
    verdict = ported(WithoutGradients).results["eval"].verdict()
    assert "computes something else without gradients than with them" in verdict
    assert "something else" not in ported(OfFloat32).results["eval"].verdict()


def test_torchs_fast_path_for_masked_positions_is_named():
    torch.manual_seed(0)
    port = port_model(Padded().eval(), (padded(),), eval_only=True)
    assert "(encoder); give it enable_nested_tensor=False" in port.results["eval"].verdict()
    assert port_model(Padded(enable_nested_tensor=False).eval(), (padded(),), eval_only=True).proved


@pytest.mark.parametrize("module", [OverTheBatch, OfPairs])
def test_a_reference_that_computes_over_the_batch_is_ported(module):
    assert ported(module).proved


def test_a_port_refuses_images_that_are_much_larger_than_its_trace():
    namespace = {}
    exec(compile(translate(OfLargeImages().eval(), (images(),)).source, "model.py", "exec"), namespace)
    model = namespace["build_model"]()
    model(paddle.zeros([2, 3, SIDE, SIDE]))
    with pytest.raises(ValueError, match="height and width"):
        model(paddle.zeros([2, 3, 6 * SIDE, 6 * SIDE]))


def test_rounding_is_no_other_use():
    class Port(paddle.nn.Layer):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def forward(self, x):
            return (x * self.factor).sum([1, 2, 3])

    class Sum(nn.Module):
        def forward(self, x):
            return x.sum((1, 2, 3))

    arrays = [images().numpy()]
    assert other_use(Sum(), Port(1.0), arrays) == "" != other_use(Sum(), Port(1.001), arrays)


# --- what no port can be made of --------------------------------------------------------------------------------------


class OddNames(nn.Module):
    """Names that ``add_module`` takes and Python's grammar does not."""

    def __init__(self):
        super().__init__()
        self.add_module("class", nn.Conv2d(3, 8, 3, 2, 1))
        self.add_module("1 weird-name", nn.ModuleDict({"a-b": nn.ReLU()}))
        self.head = nn.Linear(8, 4)
        self.register_parameter("lambda", nn.Parameter(torch.ones(4)))
        self.register_buffer("from", torch.ones(4))

    def forward(self, x):
        features = getattr(self, "1 weird-name")["a-b"](getattr(self, "class")(x)).mean((2, 3))
        return self.head(features) * getattr(self, "lambda") + getattr(self, "from")


def test_names_that_are_no_identifiers_are_ported():
    assert ported(OddNames).proved


class ReturnsNothing(Net):
    def forward(self, x):
        self.logits(x)


def test_a_reference_that_returns_nothing_is_not_proved():
    assert not ported(ReturnsNothing).proved


class ChangesItsInput(Net):
    def forward(self, x):
        return self.logits(x.mul_(2))


def test_a_reference_that_cannot_be_run_for_gradients_is_named():
    with pytest.raises(ReferenceRaised):
        ported(ChangesItsInput)


class Lazy(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.LazyLinear(4)


class Meta(Net):
    def __init__(self):
        with torch.device("meta"):
            super().__init__()


@pytest.mark.parametrize("module", [Lazy, Meta])
def test_parameters_without_values_are_named(module):
    with pytest.raises(CheckpointError, match=r"head\.weight"):
        ported(module)


def test_a_source_that_cannot_be_built_is_an_error_with_its_reason(monkeypatch):
    monkeypatch.setattr("paddle_dla.models.ported.build_model", lambda source: 1 / 0)
    with pytest.raises(LoadError, match="ZeroDivisionError"):
        ported(Net)


# --- checkpoints of a reference ---------------------------------------------------------------------------------------


class Tied(Net):
    def __init__(self):
        super().__init__()
        self.norm, self.first, self.second = nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.head(self.second(self.first(self.norm(self.stem(x).mean((2, 3))))))


def saved(folder, **changes):
    state = {**Tied().state_dict(), **{name.replace("__", "."): value for name, value in changes.items()}}
    torch.save(state, folder / "weights.pth")
    return folder / "weights.pth"


@pytest.mark.parametrize(
    "changes",
    [
        {"head__weight": torch.ones(4, 8, dtype=torch.int8)},
        {"head__weight": torch.ones(4, 8, dtype=torch.bool)},
        {"head__weight": torch.ones(4, 8, dtype=torch.complex64)},
        {"head__weight": torch.full((4, 8), 0.1, dtype=torch.float64)},
        {"norm__num_batches_tracked": torch.tensor(float("nan"))},
        {"norm__num_batches_tracked": torch.tensor(1.5)},
        {"second__weight": torch.ones(8, 8)},
    ],
)
def test_a_checkpoint_of_other_types_or_with_two_values_of_one_tensor_is_refused(changes, tmp_path):
    (name,) = changes
    with pytest.raises(CheckpointError, match=name.replace("__", r"\.")):
        load_checkpoint(Tied(), saved(tmp_path, **changes))


@pytest.mark.parametrize(
    "changes",
    [{}, {"head__weight": torch.full((4, 8), 0.5, dtype=torch.float64)}, {"head__bias": torch.ones(4).half()}],
)
def test_a_checkpoint_whose_values_float32_holds_is_loaded(changes, tmp_path):
    module = Tied()
    load_checkpoint(module, saved(tmp_path, **changes))
    for name, value in changes.items():
        assert torch.equal(module.state_dict()[name.replace("__", ".")], value.float())


# --- outputs that are no numbers in floating point --------------------------------------------------------------------


class Labels(Net):
    """Classes beside the logits; ``other`` says where the classes are others."""

    def other(self, x):
        return False

    def beside(self, logits):
        return (logits > 0).long()

    def forward(self, x):
        logits = self.logits(x)
        return logits, self.beside(logits) * (2 if self.other(x) else 1)


class LabelsOfOne(Labels):
    def other(self, x):
        return len(x) == 1


class LabelsWithoutGradients(Labels):
    def other(self, x):
        return not torch.is_grad_enabled()


class SpectrumWithoutGradients(LabelsWithoutGradients):
    def beside(self, logits):
        return torch.fft.fft(logits)


class Length(Net):
    """``len`` is a plain number, which the trace keeps."""

    def forward(self, x):
        return self.logits(x), len(x)


class UnderOneName(Net):
    """Two tensors to which the same names lead, joined by points."""

    def forward(self, x):
        logits = self.logits(x)
        return {"a.b": logits, "a": {"b": logits * (1 if torch.is_grad_enabled() else 3)}}


@pytest.mark.parametrize(
    "module", [LabelsOfOne, LabelsWithoutGradients, SpectrumWithoutGradients, Length, UnderOneName]
)
def test_integers_complex_numbers_and_sizes_are_held_against_the_reference_as_it_is_used(module):
    assert not ported(module).proved


def test_integers_that_are_the_same_are_proved():
    assert ported(Labels).proved


class InHalf(Net):
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.logits(x)


def test_an_output_that_numpy_lacks_is_judged():
    assert ported(InHalf).results["eval"].verdict().startswith("NOT ALIGNED")


class Sizes(Net):
    def forward(self, x):
        return self.logits(x), x.shape[0] * 2 + 1, {"sides": x.shape[2:]}


class OfValues(Net):
    def forward(self, x):
        return self.logits(x), self.head.bias.sum().item()


def test_sizes_that_are_returned_are_those_of_the_inputs(tmp_path):
    assert ported(Sizes, tmp_path / "port").proved
    network = open_port(tmp_path / "port")
    for batch, side in ((1, SIDE), (5, 2 * SIDE)):
        _, size, sides = network(paddle.zeros([batch, 3, side, side]))
        assert size == 2 * batch + 1 and tuple(sides["sides"]) == (side, side)


def test_a_number_that_follows_from_values_is_refused():
    with pytest.raises(TranslationError, match="does not follow from the inputs"):
        ported(OfValues)


# --- what a module holds ----------------------------------------------------------------------------------------------


def held(**tensors):
    module = Net()
    for name, value in tensors.items():
        setattr(module, name, value) if isinstance(value, nn.Parameter) else module.register_buffer(name, value)
    return module


def hooked():
    module = Net()
    module.head.weight.register_hook(lambda gradient: gradient * 2)
    return module


@pytest.mark.parametrize(
    "module",
    [
        lambda: held(mask=torch.eye(4).to_sparse()),
        lambda: held(mask=torch.quantize_per_tensor(torch.eye(4), 0.1, 0, torch.qint8)),
        lambda: held(table=torch.arange(4).to(torch.uint16)),
        lambda: held(steps=nn.Parameter(torch.arange(4), requires_grad=False)),
        hooked,
    ],
)
def test_tensors_that_no_port_can_hold_are_named(module):
    with pytest.raises(CheckpointError, match=r"holds what no weight can be:\n  (mask|table|steps|head.weight): "):
        ported(module)


class Itself(nn.Linear):
    def __deepcopy__(self, memo):
        return self


class Locked(Net):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class Anything(Net):
    def __getattr__(self, name):
        return self.__dict__.get(name) or self.__dict__["_modules"].get(name) or (lambda *given: name)


def test_a_module_whose_copies_are_not_its_own_is_refused_and_left_as_it_was():
    module = Net().train()
    module.head = Itself(8, 4)
    with pytest.raises(CheckpointError, match=r"share what it holds:\n  head"):
        port_model(module, (images(),), eval_only=True)
    assert module.head.training and module.head.weight.dtype == torch.float32 and not module.head._forward_hooks


@pytest.mark.parametrize("module", [Locked, Anything])
def test_a_module_that_cannot_be_copied_is_refused(module):
    with pytest.raises(CheckpointError, match="cannot be copied"):
        port_model(module(), (images(),), eval_only=True)


class Doubled(Net):
    def forward(self, x):
        return self.logits(x) @ self.scale.float()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_what_a_forward_casts_to_float32_is_ported(dtype, tmp_path):
    module = Doubled()
    module.register_buffer("scale", torch.full((4, 4), 0.5, dtype=dtype))
    assert port_model(module.eval(), (images(),), tmp_path / "port", eval_only=True).proved


class Masked(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf, 0.0, 0.0]))

    def forward(self, x):
        return (self.logits(x) + self.mask).softmax(-1)


def test_a_mask_may_hold_infinity_and_its_port_opens(tmp_path):
    module = Masked().eval()
    assert port_model(module, (images(),), tmp_path / "port", eval_only=True).proved
    ours = open_port(tmp_path / "port")(paddle.to_tensor(images().numpy())).numpy()
    assert abs(ours - module(images()).detach().numpy()).max() < 1e-5


class Other(Net):
    """What timm's models say of themselves, with other meanings."""

    def __init__(self, **said):
        super().__init__()
        for name, value in said.items():
            setattr(self, name, value)

    @property
    def pretrained_cfg(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("said", "classes"),
    [
        ({"num_classes": torch.tensor(4)}, 4),
        ({"num_classes": "four"}, None),
        ({"num_classes": -1}, None),
        ({"num_classes": float("nan")}, None),
        ({"num_classes": 4, "feature_info": [{"module": print, "num_chs": "x"}]}, 4),
        ({"num_classes": 4, "no_weight_decay": lambda: {1, "head.bias"}}, 4),
        ({"num_classes": 4, "no_weight_decay": lambda missing: 0, "group_matcher": lambda: 1 / 0}, 4),
        ({"num_classes": 4, "group_matcher": lambda: {"stem": 3}}, 4),
    ],
)
def test_what_a_module_says_of_itself_with_another_meaning_hinders_no_port(said, classes, tmp_path):
    module = Other(**said).eval()
    assert port_model(module, (images(),), tmp_path / "port", eval_only=True).proved
    assert read_card(tmp_path / "port")["num_classes"] == classes
    open_port(tmp_path / "port")


# --- what a user's code leaves behind ---------------------------------------------------------------------------------


@pytest.fixture
def factories(tmp_path, monkeypatch):
    """A module of factories in the current folder."""
    (tmp_path / "leaves_behind.py").write_text(
        "import os, signal, warnings, torch\n"
        "def moves():\n    os.chdir('/')\n    return torch.nn.Linear(3, 2)\n"
        "def filters():\n    warnings.simplefilter('error')\n    return torch.nn.Linear(3, 2)\n"
        "def deaf():\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    return torch.nn.Linear(3, 2)\n"
    )
    monkeypatch.chdir(tmp_path)
    yield "leaves_behind"
    sys.modules.pop("leaves_behind", None)


def test_an_output_lies_where_the_command_was_called(factories, tmp_path):
    arguments = ["--torch", f"{factories}:moves", "--input-shape", "3", "--eval-only", "--output", "made"]
    assert main(arguments) == 0
    assert (tmp_path / "made" / "card.json").is_file()


def test_filters_of_warnings_and_handlers_of_signals_are_put_back(factories):
    import warnings

    before = [*warnings.filters], signal.getsignal(signal.SIGTERM)
    for name in ("filters", "deaf"):
        Reference(factory=f"{factories}:{name}").build()
    assert ([*warnings.filters], signal.getsignal(signal.SIGTERM)) == before


def test_what_a_users_code_raises_is_told_after_the_process_was_put_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError), users_code("it"):
        import os

        os.chdir("/")
        raise ValueError("no")
    assert tmp_path.samefile(".")


class Upsetting(Net):
    """A forward that leaves another process behind."""

    def forward(self, x):
        os.chdir("/")
        torch.set_default_dtype(torch.float16)
        torch.set_num_threads(2)
        torch.use_deterministic_algorithms(True)
        torch.set_autocast_enabled("cpu", True)
        torch.manual_seed(5), np.random.seed(5), random.seed(5)
        torch.set_grad_enabled(False)
        raise ValueError


def settings():
    return (
        os.getcwd(), torch.get_default_dtype(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(),
        torch.is_autocast_enabled("cpu"), torch.get_rng_state().sum(), np.random.get_state()[1].sum(),
        random.getstate(), torch.is_grad_enabled(),
    )  # fmt: skip


def test_what_a_forward_changes_of_the_process_is_put_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = settings()
    try:
        with pytest.raises(TranslationError):
            ported(Upsetting)
        assert settings()[:5] == before[:5] and settings()[6:] == before[6:]
    finally:
        torch.set_default_dtype(torch.float32), torch.set_num_threads(before[2]), torch.set_grad_enabled(True)
        torch.use_deterministic_algorithms(False), torch.set_autocast_enabled("cpu", False)


class Moving(Net):
    def forward(self, x):
        os.chdir("/")
        return self.logits(x)


def test_a_port_lies_where_it_was_named_whatever_its_reference_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ported(Moving, "made").proved
    assert (tmp_path / "made" / "card.json").is_file()


class Wordless(Exception):
    def __str__(self):
        raise RuntimeError


class RaisingWordless(Net):
    def forward(self, x):
        raise Wordless


def test_an_exception_whose_words_raise_is_told_by_its_class():
    with pytest.raises(TranslationError, match="Wordless"):
        port_model(RaisingWordless(), (images(),))
    with pytest.raises(ModelError, match="Wordless"), users_code("it"):
        raise Wordless
