"""Ports of modules as users write them: each proved, or refused in words."""

import copy

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from convert import port_model  # noqa: E402
from convert.porting.proof import drawn  # noqa: E402
from convert.translate.naming import OF_LAYERS  # noqa: E402
from convert.translate.plain import TranslationError  # noqa: E402
from paddle_dla.storage.errors import CheckpointError  # noqa: E402
from torch_ref.model import draw_constants  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread")]


class Cells(nn.Module):
    """The last call of the cell is asked for one of its two results."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(4, 6)

    def forward(self, x):
        hidden = cell = x.new_zeros(x.shape[0], 6)
        outputs = []
        for step in range(x.shape[1]):
            hidden, cell = self.cell(x[:, step], (hidden, cell))
            outputs.append(hidden)
        return torch.stack(outputs, 1)


class Quantised(nn.Module):
    """Losses between a tensor and a detached one, and a straight-through gradient, as VQ-VAE has them."""

    def __init__(self):
        super().__init__()
        self.codes, self.fc = nn.Embedding(7, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = self.fc(x)
        found = (x.unsqueeze(-2) - self.codes.weight).square().sum(-1).argmin(-1)
        quantised = self.codes(found)
        loss = F.mse_loss(quantised, x.detach()) + 0.25 * F.mse_loss(x, quantised.detach())
        return x + (quantised - x).detach(), loss, found


class Listed(nn.Module):
    """Parameters in a list, of which a loop takes all and another some."""

    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(5, 5)) for _ in range(4)])

    def forward(self, x):
        for weight in self.weights:
            x = torch.tanh(x @ weight)
        for weight in self.weights[1:3]:
            x = x * weight.sum(0)
        return x


class Normed(nn.Module):
    """Weight normalisation in torch's old form and in the new one."""

    def __init__(self):
        super().__init__()
        self.old = nn.utils.weight_norm(nn.Conv1d(4, 5, 3, padding=1))
        self.new = nn.utils.parametrizations.weight_norm(nn.Conv1d(5, 4, 1))

    def forward(self, x):
        return self.new(self.old(x).relu())


class Decoding(nn.Module):
    """torch looks at the values of the mask to see whether it is causal."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), 1)

    def forward(self, x, memory):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.layer(x, memory, tgt_mask=mask)


class Gumbel(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 6)

    def forward(self, x):
        x = self.fc(x)
        return F.gumbel_softmax(x, hard=True) if self.training else x.softmax(-1)


@pytest.mark.parametrize(
    ("module", "shapes"),
    [
        (Cells, [(2, 5, 4)]),
        (Quantised, [(2, 5, 4)]),
        (Listed, [(2, 5)]),
        (Normed, [(2, 4, 9)]),
        (Decoding, [(2, 5, 8), (2, 3, 8)]),
        (Gumbel, [(3, 4)]),
    ],
)
def test_a_module_is_ported_and_proved(module, shapes):
    torch.manual_seed(0)
    port = port_model(module(), [torch.randn(*shape) for shape in shapes])
    assert port.proved, {mode: result.verdict() for mode, result in port.results.items()}


class Doubly(nn.Module):
    """Two draws of one shape, which are not the same numbers."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        x = self.fc(x)
        return x + torch.rand(4) - torch.rand(4) * x if self.training else x


def test_two_draws_of_one_shape_are_proved_to_be_two():
    port = port_model(Doubly(), [torch.randn(3, 4)])
    assert port.proved and port.source.count("paddle.rand([4]") == 2
    once = {"rand.default": "paddle.full(size, 0.5, dtype=dtype)"}  # no draw at all
    assert not port_model(Doubly(), [torch.randn(3, 4)], operators=once).proved


def test_a_proof_leaves_the_functions_that_draw_as_they_were():
    import paddle

    before = torch.rand, torch.bernoulli, torch.Tensor.bernoulli_, paddle.rand, F.dropout, {**vars(torch.Tensor)}
    port_model(Doubly(), [torch.randn(3, 4)])
    assert before == (
        torch.rand, torch.bernoulli, torch.Tensor.bernoulli_, paddle.rand, F.dropout, {**vars(torch.Tensor)}
    )  # fmt: skip


class Nested(nn.Linear):
    def forward(self, x):
        return super().forward(x["values"])


def test_an_argument_that_is_no_tensor_is_named():
    with pytest.raises(CheckpointError, match="tensors alone:\n  input 0 is a dict"):
        port_model(Nested(4, 2), [{"values": torch.randn(2, 4)}])


class Gathered(nn.Linear):
    """Takes as many tensors as it is given."""

    def forward(self, *inputs):
        return sum(super(Gathered, self).forward(x) for x in inputs)


class Named(nn.Linear):
    """Takes whatever is named."""

    def forward(self, x, **further):
        return super().forward(x) * further["mask"] + further["bias"]


def test_arguments_without_names_of_their_own_are_ported():
    assert port_model(Gathered(4, 4), [torch.randn(2, 4), torch.randn(2, 4)]).proved
    port = port_model(Named(4, 4), {"x": torch.randn(2, 4), "bias": torch.randn(2, 4), "mask": torch.randn(2, 4)})
    assert port.proved and "def forward(self, x, bias, mask)" in port.source


class InFloat32(nn.LayerNorm):
    """Casts what may be in half precision."""

    def forward(self, x):
        return super().forward(x.float()).to(x.dtype)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.fc = InFloat32(4), nn.Linear(4, 4)

    def forward(self, x):
        return x + self.fc(self.norm(x))


def test_what_a_layer_casts_in_vain_stays_outside():
    port = port_model(Residual(), [torch.randn(2, 4)])
    assert port.proved and "norm = self.norm(x)" in port.source


# --- the weights of a proof -------------------------------------------------------------------------------------------


class Deep(nn.Module):
    """Convolutions that make values larger, each in front of a normalisation."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)) for _ in range(20)))
        for block in self.blocks:
            nn.init.orthogonal_(block[0].weight, gain=4.0)

    def forward(self, x):
        return self.blocks(x)


def test_the_statistics_of_a_proof_fit_what_they_normalise():
    torch.manual_seed(0)
    module, x = Deep().eval(), torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        assert draw_constants(copy.deepcopy(module), seed=0)(x).abs().max() > 1e6
        settled = drawn(module, (x,))
        assert settled(x).abs().max() < 10
    assert all(block[1].running_var.std() > 0 and block[1].running_mean.std() > 0 for block in settled.blocks)
    assert module.blocks[0][1].running_var.equal(torch.ones(4))  # the module itself keeps its own


# --- names ------------------------------------------------------------------------------------------------------------


def test_the_names_of_paddles_layers_are_those_that_it_has():
    paddle = pytest.importorskip("paddle")
    own = set(dir(paddle.nn.Layer())) - set(dir(nn.Module()))
    known = set(dir(paddle.nn.Layer)) - set(dir(nn.Module))
    assert known <= OF_LAYERS and own | known >= OF_LAYERS


class Called(nn.Module):
    """A parameter and a layer that a test gives names."""

    def __init__(self, parameter, layer):
        super().__init__()
        self.register_parameter(parameter, nn.Parameter(torch.randn(4)))
        self.add_module(layer, nn.Linear(4, 4))
        self.parameter, self.layer = parameter, layer

    def forward(self, x):
        return getattr(self, self.layer)(x) * getattr(self, self.parameter)


@pytest.mark.parametrize("names", [("sublayers", "fc"), ("scale", "full_name"), ("_sub_layers", "fc")])
def test_a_name_that_paddles_layers_use_is_refused(names):
    with pytest.raises(TranslationError, match="is an attribute of all of Paddle's layers"):
        port_model(Called(*names), (torch.randn(2, 4),), eval_only=True)


@pytest.mark.parametrize("names", [("__private", "fc"), ("_dtype", "weight_attr"), ("paddle", "nn")])
def test_other_names_are_kept(names):
    assert port_model(Called(*names), (torch.randn(2, 4),), eval_only=True).proved


@pytest.mark.parametrize("name", ["nn", "super", "class", "None", "1st", "\\", "Block"])
def test_a_class_of_any_name_is_ported(name):
    def init(self):
        nn.Module.__init__(self)
        self.fc = nn.Linear(4, 4)

    inner = type(name, (nn.Module,), {"__init__": init, "forward": lambda self, x: self.fc(x).relu()})
    module = nn.Sequential(inner(), nn.Linear(4, 4))
    assert port_model(module, (torch.randn(2, 4),), eval_only=True).proved


@pytest.mark.parametrize("names", [("layer1", "layer2", "layer3"), ("layer01", "layer02", "layer03"), ("a0", "a00")])
def test_layers_with_numbers_in_their_names_are_ported(names):
    class Numbered(nn.Module):
        def __init__(self):
            super().__init__()
            for name in names:
                setattr(self, name, nn.Sequential(nn.Linear(3, 3), nn.ReLU()))

        def forward(self, x):
            for name in names:
                x = getattr(self, name)(x)
            return x

    assert port_model(Numbered(), (torch.randn(2, 3),), eval_only=True).proved
