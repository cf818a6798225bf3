"""What ``align`` says of mistakes that are made in porting code by hand: the layer, and the cause in words."""

import numpy as np
import pytest

pytestmark = pytest.mark.torch


def drawn(*shape):
    return np.random.RandomState(3).standard_normal(shape).astype(np.float32)


def pair(layers, forward, twin, parameters=(), inner=False):
    """A torch model and a Paddle one, wired by ``forward`` and ``twin``, with the same weights.

    ``layers(nn, linear, conv)`` are made in either framework, ``parameters`` are vectors of the model's own. ``inner``
    puts a linear layer in front and one behind.
    """
    import paddle
    import torch

    class Reference(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name, layer in layers(torch.nn, torch.nn.Linear, torch.nn.Conv2d).items():
                setattr(self, name, layer)
            for name, shape in dict(parameters).items():
                setattr(self, name, torch.nn.Parameter(0.5 + torch.rand(shape)))

        def forward(self, *inputs):
            return forward(self, *inputs)

    class Port(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            for name, layer in layers(paddle.nn, paddle.nn.Linear, paddle.nn.Conv2D).items():
                setattr(self, name, layer)
            for name, shape in dict(parameters).items():
                setattr(self, name, self.create_parameter([*shape] if isinstance(shape, tuple) else [shape]))

        def forward(self, *inputs):
            return twin(self, *inputs)

    torch.manual_seed(0)
    reference, port = Reference(), Port()
    if inner:
        reference = torch.nn.Sequential(torch.nn.Linear(8, 8), reference, torch.nn.Linear(8, 3))
        port = paddle.nn.Sequential(paddle.nn.Linear(8, 8), port, paddle.nn.Linear(8, 3))
    weights = {name: value.detach().numpy() for name, value in reference.state_dict().items()}
    linear = {f"{n}.weight" for n, layer in port.named_sublayers() if isinstance(layer, paddle.nn.Linear)}
    port.set_state_dict({name: value.T if name in linear else value for name, value in weights.items()})
    return reference.eval(), port.eval()


def cause(models, inputs, **options):
    """The culprits' layers, and the first one's cause."""
    from alignment import align

    culprits = align(*models, inputs, **options).culprits
    return [culprit.layer for culprit in culprits], culprits[0].cause if culprits else ""


def split(x, heads=2):
    """(B, N, C) as (B, heads, N, width)."""
    samples, tokens, width = x.shape
    return x.reshape([samples, tokens, heads, width // heads]).moveaxis(2, 1)


def attends(m, x, scale):
    q, k, v = map(split, m.qkv(x).chunk(3, -1))
    mixed = (q @ k.transpose(-2, -1) * scale).softmax(-1) @ v
    return m.proj(mixed.moveaxis(1, 2).flatten(2))


def attends_in_paddle(m, x, scale, exchanged=False):
    import paddle

    q, k, v = map(split, m.qkv(x).chunk(3, -1))
    q, k = (k, q) if exchanged else (q, k)
    shares = paddle.nn.functional.softmax(paddle.matmul(q, k, transpose_y=True) * scale, -1)
    return m.proj(paddle.matmul(shares, v).moveaxis(1, 2).flatten(2))


def of_attention(nn, linear, conv):
    return dict(qkv=linear(8, 24), proj=linear(8, 8))


@pytest.mark.parametrize(
    ("twin", "words"),
    [
        (lambda m, x: attends_in_paddle(m, x, 0.5), ""),
        (lambda m, x: attends_in_paddle(m, x, 1.0), "scores are scaled not at all"),
        (lambda m, x: attends_in_paddle(m, x, 0.25), "by 1 / (width of a head), without the root"),
        (lambda m, x: attends_in_paddle(m, x, 0.5, exchanged=True), "roles exchanged: k for q, q for k"),
    ],
)
def test_attention_in_code(twin, words):
    layers, found = cause(pair(of_attention, lambda m, x: attends(m, x, 0.5), twin, inner=True), drawn(2, 5, 8))
    assert (layers == ["1"] and words in found) if words else layers == []


@pytest.mark.parametrize(
    ("twin", "words"),
    [
        (lambda m, x: x + m.gamma * m.fc(x), ""),
        (lambda m, x: x + m.fc(x) + 0 * m.gamma, "gamma is not applied to the output of fc before it is added"),
        (lambda m, x: m.gamma * m.fc(x), "residual missing: input 0 is not added"),
        (lambda m, x: x + x + m.gamma * m.fc(x), "input 0 is added once more than in the reference"),
    ],
)
def test_a_residual_block_in_code(twin, words):
    models = pair(lambda nn, linear, conv: dict(fc=linear(8, 8)), lambda m, x: x + m.gamma * m.fc(x), twin,
                  {"gamma": 8}, inner=True)  # fmt: skip
    layers, found = cause(models, drawn(2, 5, 8))
    assert (layers == ["1"] and words in found) if words else layers == []


def normalises(epsilon, unbiased=False):
    def forward(m, x):
        centred = x - x.mean(-1, keepdim=True)
        square = (centred * centred).sum(-1, keepdim=True) / (x.shape[-1] - unbiased)
        return centred / (square + epsilon) ** 0.5 * m.weight + m.bias

    return forward


@pytest.mark.parametrize(
    ("twin", "words"),
    [
        (normalises(1e-6), ""),
        (normalises(1e-3), "epsilon 0.001 instead of 1e-06"),
        (normalises(1e-6, True), "unbiased (n - 1) deviation instead of the biased (n) one"),
        (lambda m, x: normalises(1e-6)(m, x) - m.bias, "bias is not added"),
    ],
)
def test_a_normalisation_in_code(twin, words):
    models = pair(lambda *_: {}, normalises(1e-6), twin, {"weight": 8, "bias": 8}, inner=True)
    layers, found = cause(models, drawn(2, 5, 8))
    assert (layers == ["1"] and words in found) if words else layers == []


def test_a_gate_that_is_left_out_and_one_that_is_another():
    import paddle

    def layers(nn, linear, conv):
        return dict(squeeze=conv(4, 4, 1), out=conv(4, 3, 1))

    def forward(m, x):
        return m.out(x * m.squeeze(x.mean((2, 3), keepdim=True)).sigmoid())

    def hard(m, x):
        return m.out(x * paddle.nn.functional.hardsigmoid(m.squeeze(x.mean((2, 3), keepdim=True))))

    found = cause(pair(layers, forward, lambda m, x: m.out(x + 0 * m.squeeze(x))), drawn(2, 4, 6, 5))[1]
    assert "computes input 0 instead of input 0 * sigmoid(the output of squeeze)" in found
    assert "input 0 * hardsigmoid" in cause(pair(layers, forward, hard), drawn(2, 4, 6, 5))[1]


@pytest.mark.parametrize(
    ("end", "twin", "words"),
    [
        (lambda y: y.argmax(1), lambda y: y.argmax(1).astype("int32"), ""),
        (lambda y: y.argmax(1), lambda y: y.argmax(1) + 1, "each number is larger by 1"),
        (lambda y: y.argmax(1), lambda y: y.argmin(1), "argmin over axis 1 of the output of fc instead of argmax"),
        (lambda y: y > 0, lambda y: y > 0, ""),
        (lambda y: y > 0, lambda y: y <= 0, "inverted"),
    ],
)
def test_outputs_of_whole_numbers_and_masks(end, twin, words):
    def forward(made):
        def run(m, x):
            y = m.fc(x)
            return y, made(y)

        return run

    models = pair(lambda nn, linear, conv: dict(fc=linear(6, 6)), forward(end), forward(twin))
    layers, found = cause(models, drawn(4, 6))
    assert (layers == ["(model)"] and words in found) if words else layers == []


def test_a_padding_row_that_is_not_zero():
    def layers(nn, linear, conv):
        return dict(embed=nn.Embedding(10, 6, padding_idx=1))

    models = pair(layers, lambda m, x: m.embed(x), lambda m, x: m.embed(x))
    for model in models:
        (weight,) = model.parameters()
        weight.detach()[1] = 0.5
    layers, found = cause(models, np.array([[1, 2, 3, 1], [4, 1, 9, 0]]))
    assert layers == ["embed"]
    assert "the row of padding_idx 1 is returned as zeros" in found
