"""Ports whose layers are cut otherwise than the reference's: the layer at fault is named, and no other."""

from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn as pnn
from wired import PaddleModel, TorchModel, numbers, paddle_parameter, tnn, torch, torch_parameter

from alignment import align, transfer

pytestmark = pytest.mark.torch


def culprits(reference, port, inputs, break_port=lambda port: None, **options):
    """``(layer, kind, cause)`` of each, after the port got the weights and then its fault; the verdict too."""
    torch.manual_seed(0)
    reference.eval(), port.eval()
    with torch.no_grad():
        for tensor in reference.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.3 * torch.rand(tensor.shape))
    transfer(reference, port, inputs)
    assert align(reference, port, inputs).passed
    break_port(port)
    return [(c.layer, c.kind, c.cause) for c in align(reference, port, inputs, **options).culprits]


def scaled(layer):
    layer.weight.set_value(layer.weight * 1.5)


def test_an_identity_between_a_normalisation_and_an_activation_hides_neither():
    reference = TorchModel(
        conv=tnn.Conv2d(3, 4, 3), bn=tnn.BatchNorm2d(4), drop=tnn.Identity(), act=tnn.ReLU(), head=tnn.Conv2d(4, 2, 1)
    )
    port = PaddleModel(conv=pnn.Conv2D(3, 4, 3), bn=pnn.BatchNorm(4, act="relu"), head=pnn.Conv2D(4, 2, 1))
    found = culprits(reference, port, numbers(2, 3, 6, 6), lambda port: scaled(port.head))
    assert [layer for layer, *_ in found] == ["head"]


class Gate(tnn.Module):
    """A layer of no known kind, as timm has its own."""

    def forward(self, x):
        return x.sigmoid()


def test_activations_of_values_of_other_sizes_are_no_twins():
    def gated(model, x):
        y = model.conv(x)
        return model.head(model.act(y * model.gate(model.fc(y.mean((2, 3))))[:, :, None, None] + y))

    def gated_port(model, x):
        y = model.conv(x)
        return model.head(F.relu(y * model.gate(model.fc(y.mean((2, 3)))).unsqueeze((2, 3)) + y))

    def layers(nn, conv, linear, gate):
        return dict(conv=conv(3, 4, 3), fc=linear(4, 4), gate=gate, head=conv(4, 2, 1))

    reference = TorchModel(gated, act=tnn.ReLU(), **layers(tnn, tnn.Conv2d, tnn.Linear, Gate()))
    port = PaddleModel(gated_port, **layers(pnn, pnn.Conv2D, pnn.Linear, pnn.Sigmoid()))
    found = culprits(reference, port, numbers(2, 3, 6, 6), lambda port: scaled(port.head))
    assert [layer for layer, *_ in found] == ["head"]


def test_a_container_is_not_acquitted_by_a_layer_that_does_not_depend_on_it():
    def gated(model, x):
        return x * model.fc(x)

    def block(model, x):
        y = model.gate(model.conv(x))
        return y + model.short(x)  # called after the gate, and takes nothing of it

    def layers(conv):
        return dict(conv=conv(3, 4, 1), short=conv(3, 4, 1))

    reference = TorchModel(
        block=TorchModel(block, gate=TorchModel(gated, fc=tnn.Conv2d(4, 4, 1)), **layers(tnn.Conv2d)),
        head=tnn.Conv2d(4, 2, 1),
    )
    port = PaddleModel(
        block=PaddleModel(block, gate=PaddleModel(gated, fc=pnn.Conv2D(4, 4, 1)), **layers(pnn.Conv2D)),
        head=pnn.Conv2D(4, 2, 1),
    )

    def left_out(port):
        port.block.gate.wiring = lambda model, x: x + 0 * model.fc(x)

    found = culprits(reference, port, numbers(2, 3, 6, 6), left_out)
    assert [(layer, kind) for layer, kind, _ in found] == [("block.gate", "wiring")]


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_dropout_without_a_twin_that_stays_in_another_mode_is_found(mode):
    reference = TorchModel(a=tnn.Linear(4, 4), b=tnn.Linear(4, 2))
    port = PaddleModel(a=pnn.Linear(4, 4), drop=pnn.Dropout(0.5), b=pnn.Linear(4, 2))

    def stuck(port):
        port.train() if mode == "train" else port.eval()
        port.drop.training = mode == "eval"

    ((layer, kind, cause),) = culprits(reference, port, numbers(3, 4), stuck, mode=mode)
    assert (layer, kind) == ("(model)", "mode")
    assert f"training of drop {mode == 'eval'}" in cause


def test_a_square_weight_as_torch_lays_it_out_is_transposed():
    reference, port = TorchModel(a=tnn.Linear(4, 4)), PaddleModel(a=pnn.Linear(4, 4))
    found = culprits(reference, port, numbers(3, 4), lambda port: port.a.weight.set_value(port.a.weight.numpy().T))
    assert [(layer, "transposed" in cause) for layer, _, cause in found] == [("a", True)]


def test_a_list_of_layers_that_are_called_one_by_one_is_not_missing():
    reference = TorchModel(stem=tnn.Linear(4, 4), blocks=tnn.Sequential(tnn.Linear(4, 4), tnn.Linear(4, 4)))

    def one_by_one(model, x):
        x = model.stem(x)
        for block in model.blocks:
            x = block(x)
        return x

    port = PaddleModel(one_by_one, stem=pnn.Linear(4, 4), blocks=pnn.LayerList([pnn.Linear(4, 4), pnn.Linear(4, 4)]))

    def scales_between(port):
        port.wiring = lambda model, x: model.blocks[1](model.blocks[0](2 * model.stem(x)))

    ((layer, _, cause),) = culprits(reference, port, numbers(3, 4), scales_between)
    assert layer == "(model)"
    assert "scaled by 2" in cause and "missing" not in cause


def test_another_number_of_heads_is_named_where_the_scale_stays():
    def in_torch(model, x):
        q, k, v = model.qkv(x).reshape(2, 5, 3, 2, 6).permute(2, 0, 3, 1, 4)
        return model.proj(((q @ k.mT * 6**-0.5).softmax(-1) @ v).transpose(1, 2).reshape(2, 5, 12))

    def in_paddle(heads):
        def forward(model, x):
            q, k, v = model.qkv(x).reshape([2, 5, 3, heads, 12 // heads]).transpose([2, 0, 3, 1, 4]).unbind(0)
            shares = F.softmax(paddle.matmul(q, k, transpose_y=True) * 6**-0.5, -1)
            return model.proj((shares @ v).transpose([0, 2, 1, 3]).reshape([2, 5, 12]))

        return forward

    reference = TorchModel(attn=TorchModel(in_torch, qkv=tnn.Linear(12, 36), proj=tnn.Linear(12, 12)))
    port = PaddleModel(attn=PaddleModel(in_paddle(2), qkv=pnn.Linear(12, 36), proj=pnn.Linear(12, 12)))
    ((layer, _, cause),) = culprits(
        reference, port, numbers(2, 5, 12), lambda port: setattr(port.attn, "wiring", in_paddle(4))
    )
    assert layer == "attn"
    assert "4 heads instead of 2" in cause and "scaled as for 2 heads" in cause


def test_a_parameter_of_a_container_that_is_handed_something_else_is_not_at_fault():
    def inner(model, x, mask=None):
        y = model.fc(x) + model.bias
        return model.proj((y if mask is None else y + mask).tanh())

    def block(model, x):
        return x + model.inner(x, 2 * x)

    def layers(linear, bias):
        return dict(fc=linear(4, 4), proj=linear(4, 4), bias=bias)

    reference = TorchModel(
        block=TorchModel(block, inner=TorchModel(inner, **layers(tnn.Linear, torch_parameter(4)))),
        head=tnn.Linear(4, 2),
    )
    port = PaddleModel(
        block=PaddleModel(block, inner=PaddleModel(inner, **layers(pnn.Linear, paddle_parameter(4)))),
        head=pnn.Linear(4, 2),
    )

    def without_mask(port):
        port.block.wiring = lambda model, x: x + model.inner(x.flip(0))

    found = culprits(reference, port, numbers(3, 4), without_mask)
    assert [(layer, kind) for layer, kind, _ in found] == [("block", "wiring")]


# --- what a model returns ---------------------------------------------------------------------------------------------


@dataclass
class Output:
    logits: object


class Loose:
    def __init__(self, logits):
        self.logits = logits


def returning(made, scale=2):
    """The verdict of models that return what ``made`` makes of a number of the reference, and ``scale`` times it."""
    reference, port = TorchModel(fc=tnn.Linear(4, 4)).eval(), PaddleModel(fc=pnn.Linear(4, 4))
    transfer(reference, port)
    reference.wiring, port.wiring = lambda model, x: made(model.fc(x)), lambda model, x: made(model.fc(x) * scale)
    return align(reference, port, numbers(3, 4))


@pytest.mark.parametrize(
    "made",
    [Output, Loose, lambda y: {y}, lambda y: (y.shape[0], Output(y)), lambda y: y[:0], lambda y: (y[:0], y[:, :0])],
)
def test_nothing_passes_in_which_nothing_is_compared(made):
    result = returning(made)
    assert not result.passed and result.verdict().startswith("NOT ALIGNED")


def test_arrays_that_are_returned_are_compared():
    def beside(y):
        return y * 0, y.detach().numpy()

    assert not returning(beside).passed
    assert returning(lambda y: (y, y.detach().numpy() * 0), scale=1).passed


def test_no_elements_are_compared_beside_others():
    assert returning(lambda y: (y, y[:0]), scale=1).passed


def test_infinity_of_the_other_sign_is_a_difference():
    reference, port = TorchModel(fc=tnn.Linear(4, 4)).eval(), PaddleModel(fc=pnn.Linear(4, 4))
    transfer(reference, port)
    reference.wiring = lambda model, x: (model.fc(x), x * float("inf"))
    port.wiring = lambda model, x: (model.fc(x), -x * float("inf"))
    assert not align(reference, port, numbers(3, 4)).passed


class Wordless(Exception):
    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize("error", [SystemExit(0), Wordless()])
def test_a_port_that_ends_the_program_or_raises_without_a_word_is_at_fault(error):
    def raises(model, x):
        raise error

    reference, port = TorchModel(fc=tnn.Linear(4, 4)).eval(), PaddleModel(fc=pnn.Linear(4, 4))
    transfer(reference, port)
    port.wiring = raises
    assert type(error).__name__ in align(reference, port, numbers(3, 4)).verdict()


def test_a_word_that_is_no_key_map_is_refused():
    reference, port = TorchModel(fc=tnn.Linear(4, 4)).eval(), PaddleModel(fc=pnn.Linear(4, 4))
    with pytest.raises(ValueError, match="key_map"):
        align(reference, port, numbers(3, 4), key_map="automatic")


def test_what_the_models_change_of_their_frameworks_is_put_back():
    def upset(model, x):
        torch.set_num_threads(2)
        torch.use_deterministic_algorithms(True)
        return model.fc(x)

    def upset_port(model, x):
        paddle.set_default_dtype("float64")
        return model.fc(x)

    reference, port = TorchModel(fc=tnn.Linear(4, 4)).eval(), PaddleModel(fc=pnn.Linear(4, 4))
    transfer(reference, port)
    threads = torch.get_num_threads()
    reference.wiring, port.wiring = upset, upset_port
    try:
        align(reference, port, numbers(3, 4))
        assert torch.get_num_threads() == threads and not torch.are_deterministic_algorithms_enabled()
        assert paddle.get_default_dtype() == "float32"
    finally:
        torch.set_num_threads(threads), torch.use_deterministic_algorithms(False), paddle.set_default_dtype("float32")


@pytest.mark.parametrize(
    "wiring",
    [
        lambda model, x: model.head(model.fc(x).detach()),
        lambda model, x: model.head(model.fc(x.detach())),
        lambda model, x: model.head(model.fc(x)).detach(),
    ],
)
def test_a_gradient_that_the_reference_does_not_make_is_a_difference(wiring):
    layers = {"fc": 4, "head": 3}
    reference = TorchModel(wiring, **{name: tnn.Linear(4, size) for name, size in layers.items()}).eval()
    port = PaddleModel(**{name: pnn.Linear(4, size) for name, size in layers.items()})
    transfer(reference, port)
    result = align(reference, port, numbers(3, 4))
    assert not result.passed and "none in the reference" in result.verdict()
    port.wiring = wiring
    assert align(reference, port, numbers(3, 4)).passed


def test_a_parameter_that_only_the_port_trains_is_a_difference():
    reference = TorchModel(lambda model, ids: model.head(model.fc(ids).detach()), fc=tnn.Embedding(5, 4),
                           head=tnn.Linear(4, 3)).eval()  # fmt: skip
    port = PaddleModel(fc=pnn.Embedding(5, 4), head=pnn.Linear(4, 3))
    transfer(reference, port)
    result = align(reference, port, np.array([[0, 1], [2, 4]]))
    assert [row.layer for row in result.rows if row.differs] == ["fc.weight"]
