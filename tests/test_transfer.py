"""``transfer``: every kind of layer and of ambiguity, loaded so that both models compute the same, or refused."""

from itertools import pairwise

import numpy as np
import paddle
import pytest
from paddle import nn as pnn
from wired import (
    PaddleModel,
    TorchModel,
    distance,
    numbers,
    paddle_parameter,
    torch_parameter,
)

torch = pytest.importorskip("torch")
from torch import nn as tnn  # noqa: E402

from alignment import align, transfer  # noqa: E402
from convert.matching.key_map import AmbiguousMatch, KeyMap, KeyMapError  # noqa: E402

pytestmark = pytest.mark.torch
CLOSE = 1e-5  # of float32 models of a few layers


def t_attend(q, k, v, scale=1.0):
    return torch.softmax(q @ k.transpose(-1, -2) * scale, -1) @ v


def p_attend(q, k, v, scale=1.0):
    return pnn.functional.softmax(q @ k.transpose([0, 2, 1]) * scale, -1) @ v


def attention(names, order=None, scale=1.0, framework="torch"):
    """q, k and v by these names, called in ``order``, which counts into ``names``."""

    def forward(m, x):
        made = {names[i]: getattr(m, names[i])(x) for i in order or range(3)}
        q, k, v = (made[name] for name in names)
        return m.out((t_attend if framework == "torch" else p_attend)(q, k, v, scale))

    linear, model = (tnn.Linear, TorchModel) if framework == "torch" else (pnn.Linear, PaddleModel)
    defined = [names[i] for i in order or range(3)]
    return model(forward, **{name: linear(6, 6) for name in defined}, out=linear(6, 4))


def held(reference, port, key_map, pairs):
    """Whether the tensors of torch are those of Paddle that ``pairs`` of layers say."""
    found = {line.torch: line.paddle for line in key_map if line.paddle}
    return {path: found[f"{path}.weight"] == f"{twin}.weight" for path, twin in pairs.items()}


# --- what could be several --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (2, 0, 1)])
def test_q_k_and_v_of_other_names_are_settled_by_the_run(order):
    reference = attention("qkv")
    port = attention(("one", "two", "three"), order, framework="paddle")
    key_map = transfer(reference, port, numbers(2, 5, 6))
    assert distance(reference, port, numbers(2, 5, 6, seed=1)) < CLOSE
    assert all(held(reference, port, key_map, {"q": "one", "k": "two", "v": "three"}).values())


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0)])
def test_names_that_contradict_the_order_are_settled_by_the_run_and_noted(order):
    reference, port = attention("qkv"), attention(("query", "key", "value"), order, framework="paddle")
    key_map = transfer(reference, port, numbers(2, 5, 6))
    assert distance(reference, port, numbers(2, 5, 6, seed=1)) < CLOSE
    assert any(line.note for line in key_map if line.torch == f"{'qkv'[order[0]]}.weight")


def test_without_inputs_names_that_contradict_the_order_are_refused():
    reference, port = attention("qkv"), attention(("query", "key", "value"), (1, 0, 2), framework="paddle")
    before = {name: value.numpy().copy() for name, value in port.state_dict().items()}
    with pytest.raises(AmbiguousMatch) as refused:
        transfer(reference, port)
    assert refused.value.faults
    assert all(np.array_equal(before[name], value.numpy()) for name, value in port.state_dict().items())
    transfer(reference, port, key_map={"q": "query", "k": "key", "v": "value"})
    assert distance(reference, port, numbers(2, 5, 6)) < CLOSE


def test_what_a_fault_hides_from_the_run_is_refused():
    reference, port = attention("qkv"), attention(("a", "b", "c"), (1, 0, 2), scale=0.5, framework="paddle")
    with pytest.raises(AmbiguousMatch):
        transfer(reference, port, numbers(2, 5, 6))


def test_a_fault_elsewhere_hides_nothing_from_the_run():
    def model(cls, nn, names, order, framework, act):
        inner = [attention(names, order, framework=framework) for _ in range(2)]
        parts = dict(a=inner[0], act=act, mid=nn.Linear(4, 6), norm=nn.LayerNorm(6), b=inner[1])
        return cls(None, **parts)

    reference = model(TorchModel, tnn, "qkv", None, "torch", tnn.GELU())
    port = model(PaddleModel, pnn, ("one", "two", "three"), (2, 0, 1), "paddle", pnn.ReLU())
    key_map = transfer(reference, port, numbers(2, 5, 6))
    for block in ("a", "b"):
        pairs = {f"{block}.q": f"{block}.one", f"{block}.k": f"{block}.two", f"{block}.v": f"{block}.three"}
        assert all(held(reference, port, key_map, pairs).values())


def test_constants_that_paddle_keeps_in_float32_hide_nothing_from_the_run():
    reference = TorchModel(
        None, gate=tnn.Hardsigmoid(), one=tnn.Linear(6, 6), gate2=tnn.Hardsigmoid(), a=attention("qkv")
    )
    port = PaddleModel(None, gate=pnn.Hardsigmoid(), x=pnn.Linear(6, 6), gate2=pnn.Hardsigmoid(),
                       y=attention(("a", "b", "c"), (1, 2, 0), framework="paddle"))  # fmt: skip
    transfer(reference, port, numbers(2, 5, 6))
    assert distance(reference, port, numbers(2, 5, 6, seed=1)) < CLOSE


def branches(framework, names, merge, depth=2):
    """Two equal branches over one input, called in the order of ``names``; ``merge`` gets the outputs of a and b."""
    linear, model = (tnn.Linear, TorchModel) if framework == "torch" else (pnn.Linear, PaddleModel)
    sequential = tnn.Sequential if framework == "torch" else pnn.Sequential
    act = tnn.Tanh if framework == "torch" else pnn.Tanh

    def branch():
        return sequential(*[layer for _ in range(depth) for layer in (linear(6, 6), act())])

    def forward(m, x):
        made = {name: getattr(m, name)(x) for name in names}
        return m.out(merge(*(made[name] for name in sorted(made))))

    return model(forward, **{name: branch() for name in names}, out=linear(6, 3))


@pytest.mark.parametrize("depth", [1, 3])
def test_equal_branches_that_are_called_in_another_order_are_told_by_what_follows(depth):
    reference = branches("torch", ("a", "b"), lambda a, b: a - 2 * b, depth)
    port = branches("paddle", ("y", "x"), lambda a, b: a - 2 * b, depth)
    transfer(reference, port, numbers(3, 6))
    assert distance(reference, port, numbers(3, 6, seed=1)) < CLOSE


def test_branches_of_which_either_order_computes_the_same_are_paired():
    reference = branches("torch", ("a", "b"), lambda a, b: a + b)
    port = branches("paddle", ("y", "x"), lambda a, b: a + b)
    transfer(reference, port, numbers(3, 6))
    assert distance(reference, port, numbers(3, 6, seed=1)) < CLOSE


def test_blocks_in_one_flat_list_are_those_of_nested_stages():
    def block(nn, n):
        return nn.Sequential(nn.Linear(n, n), nn.LayerNorm(n), nn.Tanh())

    nested = tnn.Sequential(*[tnn.Sequential(*[block(tnn, 6) for _ in range(2)]) for _ in range(3)])
    flat = pnn.Sequential(*[block(pnn, 6) for _ in range(6)])
    reference = TorchModel(None, stages=nested, head=tnn.Linear(6, 2))
    port = PaddleModel(None, blocks=flat, fc=pnn.Linear(6, 2))
    transfer(reference, port, numbers(3, 6))
    assert distance(reference, port, numbers(3, 6, seed=1)) < CLOSE


def test_a_shortcut_that_is_computed_first_keeps_its_weights():
    def forward(first):
        def run(m, x):
            made = {name: getattr(m, name)(x) for name in (("short", "main") if first else ("main", "short"))}
            return m.head(made["main"] + made["short"])

        return run

    reference = TorchModel(forward(False), main=tnn.Sequential(tnn.Linear(6, 6), tnn.ReLU(), tnn.Linear(6, 6)),
                           short=tnn.Linear(6, 6), head=tnn.Linear(6, 2))  # fmt: skip
    port = PaddleModel(forward(True), main=pnn.Sequential(pnn.Linear(6, 6), pnn.ReLU(), pnn.Linear(6, 6)),
                       short=pnn.Linear(6, 6), head=pnn.Linear(6, 2))  # fmt: skip
    port = PaddleModel(lambda m, x: m.inner(x), inner=port)
    transfer(reference, port, numbers(3, 6))
    assert distance(reference, port, numbers(3, 6, seed=1)) < CLOSE


def test_parameters_of_one_shape_are_settled_by_the_run():
    def forward(lib, first, second):
        def run(m, x):
            tokens = [getattr(m, name).expand([x.shape[0], 1, 6]) for name in (first, second)]
            x = (torch.cat if lib is torch else paddle.concat)([*tokens, x], 1)
            return m.head(x[:, 0]) + 2 * m.head2(x[:, 1])

        return run

    reference = TorchModel(forward(torch, "first", "second"), first=torch_parameter(1, 1, 6),
                           second=torch_parameter(1, 1, 6), head=tnn.Linear(6, 3), head2=tnn.Linear(6, 3))  # fmt: skip
    port = PaddleModel(forward(paddle, "t2", "t1"), t1=paddle_parameter(1, 1, 6), t2=paddle_parameter(1, 1, 6),
                       y=pnn.Linear(6, 3), z=pnn.Linear(6, 3))  # fmt: skip
    port.wiring = lambda m, x: _two_heads(m, x)
    transfer(reference, port, numbers(2, 3, 6))
    assert distance(reference, port, numbers(2, 3, 6, seed=1)) < CLOSE


def _two_heads(m, x):
    tokens = [parameter.expand([x.shape[0], 1, 6]) for parameter in (m.t2, m.t1)]
    x = paddle.concat([*tokens, x], 1)
    return m.z(x[:, 0]) + 2 * m.y(x[:, 1])


# --- layers that are held otherwise -----------------------------------------------------------------------------------


def packed_attention():
    reference = TorchModel(
        lambda m, x: m.norm(x + m.attention(x, x, x, need_weights=False)[0]),
        attention=tnn.MultiheadAttention(8, 2, batch_first=True), norm=tnn.LayerNorm(8),
    )  # fmt: skip
    tnn.init.normal_(reference.attention.in_proj_bias)
    return reference


def test_packed_q_k_and_v_are_rows_for_three_layers():
    reference = packed_attention()
    port = PaddleModel(lambda m, x: m.norm(x + m.attention(x, x, x)),
                       attention=pnn.MultiHeadAttention(8, 2), norm=pnn.LayerNorm(8))  # fmt: skip
    for inputs in (None, numbers(2, 5, 8)):
        key_map = transfer(reference, port, inputs)
        assert distance(reference, port, numbers(2, 5, 8, seed=1)) < CLOSE
        rows = {line.paddle: line.steps[0].numbers for line in key_map if line.torch == "attention.in_proj_bias"}
        assert rows == {f"attention.{n}_proj.bias": (8 * i, 8 * i + 8) for i, n in enumerate("qkv")}


def test_three_layers_are_parts_of_a_packed_one():
    reference = attention("qkv")

    def forward(m, x):
        return m.out(p_attend(*m.qkv(x).split(3, -1)))

    port = PaddleModel(forward, qkv=pnn.Linear(6, 18), out=pnn.Linear(6, 4))
    for inputs in (None, numbers(2, 5, 6)):
        key_map = transfer(reference, port, inputs)
        assert distance(reference, port, numbers(2, 5, 6, seed=1)) < CLOSE
    assert KeyMap.from_text(str(key_map)) == key_map


def test_a_packed_layer_is_three_in_whatever_order_the_port_calls_them():
    reference = TorchModel(lambda m, x: m.out(t_attend(*m.qkv(x).chunk(3, -1))), qkv=tnn.Linear(6, 18),
                           out=tnn.Linear(6, 4))  # fmt: skip
    port = attention(("a", "b", "c"), (2, 0, 1), framework="paddle")
    transfer(reference, port, numbers(2, 5, 6))
    assert distance(reference, port, numbers(2, 5, 6, seed=1)) < CLOSE


@pytest.mark.parametrize("new_api", [False, True])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_weight_norm_of_either_api(new_api, kind):
    normed = torch.nn.utils.parametrizations.weight_norm if new_api else torch.nn.utils.weight_norm
    layer, twin, dim = (tnn.Linear(5, 6), pnn.Linear(5, 6), 1) if kind == "linear" else (
        tnn.Conv1d(5, 6, 3), pnn.Conv1D(5, 6, 3), 0)  # fmt: skip
    with pytest.warns() if not new_api else _nothing():
        reference = TorchModel(None, norm=normed(layer))
    port = PaddleModel(None, norm=paddle.nn.utils.weight_norm(twin, dim=dim))
    x = numbers(3, 5) if kind == "linear" else numbers(3, 5, 7)
    for inputs in (None, x):
        key_map = transfer(reference, port, inputs)
        assert distance(reference, port, x) < CLOSE
    assert key_map.layers() == {"norm": "norm"}


@pytest.mark.parametrize("new_api", [False, True])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_spectral_norm_of_either_api(new_api, kind):
    normed = torch.nn.utils.parametrizations.spectral_norm if new_api else torch.nn.utils.spectral_norm
    layer, twin = (tnn.Linear(5, 6), pnn.Linear(5, 6)) if kind == "linear" else (
        tnn.Conv1d(5, 6, 3), pnn.Conv1D(5, 6, 3))  # fmt: skip
    reference = TorchModel(None, norm=normed(layer))
    port = PaddleModel(None, norm=paddle.nn.utils.spectral_norm(twin))
    x = numbers(3, 5) if kind == "linear" else numbers(3, 5, 7)
    for inputs in (None, x):
        transfer(reference, port, inputs)
        assert distance(reference, port, x) < CLOSE


class _nothing:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "SimpleRNN"])
@pytest.mark.parametrize("layers", [1, 2])
def test_recurrent_layers_whose_tensors_paddle_lists_twice(cell, layers):
    torch_cell = tnn.RNN if cell == "SimpleRNN" else getattr(tnn, cell)
    rnn = torch_cell(8, 6, layers, bidirectional=True, batch_first=True)
    reference = TorchModel(lambda m, x: m.out(m.rnn(x)[0]), rnn=rnn, out=tnn.Linear(12, 4))
    port = PaddleModel(lambda m, x: m.out(m.rnn(x)[0]), rnn=getattr(pnn, cell)(8, 6, layers, direction="bidirect"),
                       out=pnn.Linear(12, 4))  # fmt: skip
    for inputs in (None, numbers(2, 3, 8)):
        key_map = transfer(reference, port, inputs)
        assert distance(reference, port, numbers(2, 3, 8, seed=1)) < CLOSE
    assert key_map.layers() == {"rnn": "rnn", "out": "out"}
    assert {line.paddle for line in key_map} == {*port.state_dict()}


def chain(nn, model, mid, twist=None):
    conv = nn.Conv2d if nn is tnn else nn.Conv2D
    return model(None, one=conv(3, 4, 3), mid=mid, two=conv(4, 2, 1))


@pytest.mark.parametrize(
    ("mid", "twin"),
    [
        (lambda: tnn.InstanceNorm2d(4, affine=True), lambda: pnn.InstanceNorm2D(4)),
        (lambda: tnn.PReLU(4), lambda: pnn.PReLU(4)),
        (lambda: tnn.GroupNorm(2, 4), lambda: pnn.GroupNorm(2, 4)),
        (lambda: tnn.BatchNorm2d(4), lambda: pnn.BatchNorm2D(4)),
        (lambda: tnn.ConvTranspose2d(4, 4, 2), lambda: pnn.Conv2DTranspose(4, 4, 2)),
        (lambda: tnn.BatchNorm2d(4), lambda: pnn.BatchNorm(4)),
    ],
)
def test_layers_whose_tensors_paddle_names_otherwise(mid, twin):
    reference, port = chain(tnn, TorchModel, mid()), chain(pnn, PaddleModel, twin())
    for tensor in reference.mid.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    for inputs in (None, numbers(2, 3, 6, 6)):
        transfer(reference, port, inputs)
        assert distance(reference, port, numbers(2, 3, 6, 6)) < CLOSE


def test_batch_norm_with_its_activation_in_it_beside_a_fault():
    def model(cls, nn, conv, norms, acts, last):
        parts = {}
        for i in range(2):
            parts |= {f"conv{i}": conv(3, 3, 3, padding=1), f"norm{i}": norms()} | ({f"act{i}": acts()} if acts else {})
        return cls(None, **parts, last=last, out=conv(3, 2, 1))

    reference = model(TorchModel, tnn, tnn.Conv2d, lambda: tnn.BatchNorm2d(3), tnn.ReLU, tnn.GELU())
    port = model(PaddleModel, pnn, pnn.Conv2D, lambda: pnn.BatchNorm(3, act="relu"), None, pnn.Tanh())
    port = PaddleModel(None, inner=port)
    key_map = transfer(reference, port, numbers(2, 3, 6, 6))
    pairs = {name: f"inner.{name}" for name in ("conv0", "norm0", "conv1", "norm1", "out")}
    assert all(held(reference, port, key_map, pairs).values())


def test_a_convolution_of_one_place_is_a_linear_layer():
    reference = TorchModel(lambda m, x: m.b(torch.relu(m.a(x))).mean([2, 3]), a=tnn.Conv2d(3, 4, 1),
                           b=tnn.Conv2d(4, 4, 1))  # fmt: skip
    port = PaddleModel(lambda m, x: m.y(pnn.functional.relu(m.x(x.transpose([0, 2, 3, 1])))).mean([1, 2]),
                       x=pnn.Linear(3, 4), y=pnn.Linear(4, 4))  # fmt: skip
    for inputs in (None, numbers(2, 3, 5, 5)):
        transfer(reference, port, inputs)
        assert distance(reference, port, numbers(2, 3, 5, 5, seed=1)) < CLOSE


def test_layer_scale_is_a_layer_on_one_side_and_a_parameter_of_its_block_on_the_other():
    class Scale(tnn.Module):
        def __init__(self):
            super().__init__()
            self.gamma = tnn.Parameter(1e-6 * torch.rand(6, 1, 1))

        def forward(self, x):
            return x * self.gamma

    def block():
        return TorchModel(lambda m, x: x + m.ls2(m.b(x + m.ls1(m.a(x)))), a=tnn.Conv2d(6, 6, 1), ls1=Scale(),
                          b=tnn.Conv2d(6, 6, 1), ls2=Scale())  # fmt: skip

    def twin():
        def forward(m, x):
            return x + m.gamma_2.reshape([1, 6, 1, 1]) * m.y(x + m.gamma_1.reshape([1, 6, 1, 1]) * m.x(x))

        return PaddleModel(forward, gamma_1=paddle_parameter(6), gamma_2=paddle_parameter(6), x=pnn.Conv2D(6, 6, 1),
                           y=pnn.Conv2D(6, 6, 1))  # fmt: skip

    reference, port = tnn.Sequential(block(), block()), pnn.Sequential(twin(), twin())
    for inputs in (None, numbers(2, 6, 3, 3)):
        key_map = transfer(reference, port, inputs)
        found = {line.torch: line.paddle for line in key_map}
        assert {f"{i}.ls{n}.gamma": f"{i}.gamma_{n}" for i in (0, 1) for n in (1, 2)}.items() <= found.items()


def test_a_class_token_of_another_name_beside_a_position():
    def forward(lib, token, position, head):
        def run(m, x):
            x = (torch.cat if lib is torch else paddle.concat)([getattr(m, token).expand([2, 1, 6]), x], 1)
            return getattr(m, head)((x + getattr(m, position))[:, 0])

        return run

    parts = dict(cls_token=torch_parameter(1, 1, 6), pos_embed=torch_parameter(1, 4, 6), head=tnn.Linear(6, 3))
    reference = TorchModel(forward(torch, "cls_token", "pos_embed", "head"), **parts)
    parts = dict(position=paddle_parameter(4, 6), class_token=paddle_parameter(1, 1, 6), fc=pnn.Linear(6, 3))
    port = PaddleModel(forward(paddle, "class_token", "position", "fc"), **parts)
    for inputs in (None, numbers(2, 3, 6)):
        transfer(reference, port, inputs)
        assert distance(reference, port, numbers(2, 3, 6, seed=1)) < CLOSE
    key_map = transfer(reference, port, key_map={"cls_token": "class_token"})
    assert key_map.layers() == {"(model)": "(model)", "head": "fc"}


def test_a_matrix_of_the_ports_own_for_a_linear_layer_and_an_embedding():
    reference = TorchModel(lambda m, x: m.head(m.fc(x) + m.pos.weight), fc=tnn.Linear(6, 6), pos=tnn.Embedding(3, 6),
                           head=tnn.Linear(6, 2, bias=False))  # fmt: skip
    port = PaddleModel(lambda m, x: (m.fc(x) + m.position) @ m.out, fc=pnn.Linear(6, 6),
                       position=paddle_parameter(1, 3, 6), out=paddle_parameter(6, 2))  # fmt: skip
    for inputs in (None, numbers(2, 3, 6)):
        transfer(reference, port, inputs)
        assert distance(reference, port, numbers(2, 3, 6, seed=1)) < CLOSE


@pytest.mark.parametrize("inputs", [None, numbers(2, 6)])
def test_a_square_matrix_of_the_ports_own_is_held_as_linear_layers_of_paddle_hold_theirs(inputs):
    reference = TorchModel(None, one=tnn.Linear(6, 6, bias=False), two=tnn.Linear(6, 6, bias=False))
    inner = PaddleModel(lambda m, x: x @ m.weight, weight=paddle_parameter(6, 6))
    port = PaddleModel(lambda m, x: m.a(x) @ m.b, a=inner, b=paddle_parameter(6, 6))
    transfer(reference, port, inputs)
    assert distance(reference, port, numbers(2, 6)) < CLOSE


# --- tensors that one side has, or has twice --------------------------------------------------------------------------


def tied(twice):
    reference = TorchModel(lambda m, x: m.head(m.fc(m.embed(x))), embed=tnn.Embedding(11, 6), fc=tnn.Linear(6, 6),
                           head=tnn.Linear(6, 11, bias=False))  # fmt: skip
    reference.head.weight = reference.embed.weight
    parts = dict(embed=pnn.Embedding(11, 6), fc=pnn.Linear(6, 6))
    if twice:
        parts["head"] = pnn.Linear(6, 11, bias_attr=False)
        return reference, PaddleModel(lambda m, x: m.head(m.fc(m.embed(x))), **parts)
    wiring = lambda m, x: paddle.matmul(m.fc(m.embed(x)), m.embed.weight, transpose_y=True)  # noqa: E731
    return reference, PaddleModel(wiring, **parts)


@pytest.mark.parametrize("twice", [False, True])
def test_tied_weights_in_a_port_with_one_matrix_or_two(twice):
    reference, port = tied(twice)
    x = np.random.RandomState(0).randint(0, 11, (2, 3))
    for inputs in (None, x):
        transfer(reference, port, inputs)
        assert distance(reference, port, x) < CLOSE


def test_weights_that_the_port_ties_and_torch_does_not_are_refused_unless_equal():
    reference = TorchModel(None, a=tnn.Linear(6, 6), b=tnn.Linear(6, 6))
    port = PaddleModel(None, a=pnn.Linear(6, 6), b=pnn.Linear(6, 6))
    port.b.weight = port.a.weight
    with pytest.raises(KeyMapError):
        transfer(reference, port)
    with torch.no_grad():
        reference.b.weight.copy_(reference.a.weight)
    transfer(reference, port)
    assert distance(reference, port, numbers(3, 6)) < CLOSE


def test_a_layer_of_two_names():
    reference = TorchModel(lambda m, x: m.b(m.a(x)), a=tnn.Linear(6, 6))
    reference.b = reference.a
    port = PaddleModel(lambda m, x: m.y(m.x(x)), x=pnn.Linear(6, 6))
    port.y = port.x
    for inputs in (None, numbers(3, 6)):
        transfer(reference, port, inputs)
        assert distance(reference, port, numbers(3, 6, seed=1)) < CLOSE


def test_constants_are_carried_where_both_save_them_and_else_left_as_they_are():
    def reference(saved):
        model = TorchModel(lambda m, x: m.fc(x + m.table[m.index]), table=torch_parameter(5, 4), fc=tnn.Linear(4, 4))
        model.register_buffer("index", torch.tensor([0, 2, 4]), persistent=saved)
        return model

    def port(saved):
        model = PaddleModel(lambda m, x: m.fc(x + paddle.gather(m.table, m.index)), table=paddle_parameter(5, 4),
                            fc=pnn.Linear(4, 4))  # fmt: skip
        model.register_buffer("index", paddle.to_tensor([0, 2, 4]), persistable=saved)
        return model

    for a, b in ((True, True), (True, False), (False, True), (False, False)):
        ours, theirs = reference(a), port(b)
        key_map = transfer(ours, theirs, numbers(2, 3, 4))
        assert distance(ours, theirs, numbers(2, 3, 4)) < CLOSE
        assert str(theirs.index.dtype) == "paddle.int64"
        assert {line.torch for line in key_map if line.torch} == {*ours.state_dict()}


def test_what_only_the_port_has_keeps_its_value_and_is_named():
    reference = TorchModel(None, conv=tnn.Conv2d(3, 4, 3, bias=False), norm=tnn.InstanceNorm2d(4),
                           group=tnn.GroupNorm(2, 4, affine=False), out=tnn.Conv2d(4, 2, 1))  # fmt: skip
    port = PaddleModel(lambda m, x: m.out(m.group(m.norm(m.conv(x)))) * m.gate, conv=pnn.Conv2D(3, 4, 3),
                       norm=pnn.InstanceNorm2D(4), group=pnn.GroupNorm(2, 4), out=pnn.Conv2D(4, 2, 1),
                       gate=paddle_parameter(1, value=1.5))  # fmt: skip
    for inputs in (None, numbers(2, 3, 6, 6)):
        key_map = transfer(reference, port, inputs)
        kept = {line.paddle for line in key_map if line.dropped and line.paddle}
        assert kept == {"conv.bias", "norm.scale", "norm.bias", "group.weight", "group.bias", "gate"}
        assert port.gate.numpy().tolist() == [1.5]


def test_a_scale_is_a_weight_in_instance_norm_alone():
    reference = TorchModel(lambda m, x: m.fc(x) * m.scale, scale=torch_parameter(4), fc=tnn.Linear(4, 4))
    port = PaddleModel(lambda m, x: m.fc(x) * m.scale, scale=paddle_parameter(4), fc=pnn.Linear(4, 4))
    transfer(reference, port)
    assert distance(reference, port, numbers(2, 4)) < CLOSE


def test_layers_that_evaluation_does_not_call():
    def forward(m, x):
        x = m.first(x)
        return (m.last(x), m.aux(x)) if m.training else m.last(x)

    reference = TorchModel(forward, first=tnn.Linear(6, 6), aux=tnn.Linear(6, 2), last=tnn.Linear(6, 2))
    port = PaddleModel(forward, aux=pnn.Linear(6, 2), last=pnn.Linear(6, 2), first=pnn.Linear(6, 6))
    port.wiring = lambda m, x: m.y(m.x(x))
    port = PaddleModel(lambda m, x: m.y(m.x(x)), helper=pnn.Linear(6, 2), y=pnn.Linear(6, 2), x=pnn.Linear(6, 6))
    key_map = transfer(reference.eval(), port, numbers(3, 6))
    assert key_map.layers() == {"first": "x", "last": "y", "aux": "helper"}


def test_layers_that_nothing_tells_apart_and_no_run_calls_are_noted():
    reference = TorchModel(lambda m, x: m.a(x), a=tnn.Linear(6, 6), b=tnn.Linear(6, 6), c=tnn.Linear(6, 6))
    port = PaddleModel(lambda m, x: m.x(x), x=pnn.Linear(6, 6), y=pnn.Linear(6, 6), z=pnn.Linear(6, 6))
    notes = {line.torch: bool(line.note) for line in transfer(reference, port, numbers(2, 6))}
    assert notes == {f"{n}.{role}": n != "a" for n in "abc" for role in ("weight", "bias")}


def test_a_port_that_raises_gets_its_weights():
    def forward(m, x):
        raise RuntimeError(f"no such operator for {m.x(x).shape}")

    reference = TorchModel(None, a=tnn.Linear(6, 6), b=tnn.Linear(6, 2))
    port = PaddleModel(forward, x=pnn.Linear(6, 6), y=pnn.Linear(6, 2))
    assert transfer(reference, port, numbers(3, 6)).layers() == {"a": "x", "b": "y"}


# --- refusals and loading ---------------------------------------------------------------------------------------------


def convs(nn, *sizes, bias=True):
    conv, norm = (nn.Conv2d, nn.BatchNorm2d) if nn is tnn else (nn.Conv2D, nn.BatchNorm2D)
    free = {} if bias else {"bias": False} if nn is tnn else {"bias_attr": False}
    return nn.Sequential(*[nn.Sequential(conv(a, b, 3, **free), norm(b)) for a, b in pairwise(sizes)])


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (convs(tnn, 3, 8, 16), convs(pnn, 3, 8, 8, 16), ("one convolution and one BatchNorm more", "0.1 and 1")),
        (convs(tnn, 3, 8, 8, 16), convs(pnn, 3, 8, 16), ("one convolution and one BatchNorm less",)),
        (convs(tnn, 3, 20, 8), convs(pnn, 3, 18, 8), ("0.0: 20 channels in torch, 18 in Paddle", "[20, 3, 3, 3]")),
        (convs(tnn, 3, 8), convs(pnn, 3, 8, bias=False), ("0.0: bias [8] in torch, none",)),
        (tnn.Conv2d(3, 8, 5), pnn.Conv2D(3, 8, 3), ("kernel 5x5 in torch, 3x3 in Paddle",)),
    ],
)
def test_a_refusal_says_in_its_first_line_what_differs(ours, theirs, said):
    before = {name: value.numpy().copy() for name, value in theirs.state_dict().items()}
    for inputs in (None, numbers(1, 3, 9, 9)):
        with pytest.raises(KeyMapError) as refused:
            transfer(ours, theirs, inputs)
        first, *others = str(refused.value).splitlines()
        assert all(words in first for words in said), first
        assert len(others) < 30
    assert all(np.array_equal(before[name], value.numpy()) for name, value in theirs.state_dict().items())


def test_swapped_models_are_named():
    with pytest.raises(TypeError, match="swapped"):
        transfer(pnn.Linear(3, 4), tnn.Linear(3, 4))


def test_types_of_the_port_are_kept():
    reference = tnn.Sequential(tnn.Linear(6, 4), tnn.BatchNorm1d(4)).bfloat16()
    port = pnn.Sequential(pnn.Linear(6, 4), pnn.BatchNorm1D(4))
    transfer(reference, port)
    assert {str(value.dtype) for value in port.state_dict().values()} == {"paddle.float32"}
    assert np.array_equal(reference[0].weight.detach().float().numpy().T, port[0].weight.numpy())


def test_both_models_are_given_back_as_they_were():
    reference, port = attention("qkv").train(), attention(("a", "b", "c"), (2, 0, 1), framework="paddle")
    port.train()
    before = {name: value.clone() for name, value in reference.state_dict().items()}
    transfer(reference, port, numbers(2, 5, 6))
    assert reference.training and port.training
    assert all(torch.equal(before[name], value) for name, value in reference.state_dict().items())
    assert {str(value.dtype) for value in port.state_dict().values()} == {"paddle.float32"}
    assert not any(layer._forward_pre_hooks for layer in port.sublayers(include_self=True))


def test_a_saved_key_map_loads_another_port(tmp_path):
    reference = packed_attention()
    ports = [PaddleModel(lambda m, x: m.norm(x + m.attention(x, x, x)), attention=pnn.MultiHeadAttention(8, 2),
                         norm=pnn.LayerNorm(8)) for _ in range(2)]  # fmt: skip
    transfer(reference, ports[0], numbers(2, 5, 8)).save(tmp_path / "map.txt")
    transfer(reference, ports[1], key_map=KeyMap.load(tmp_path / "map.txt"))
    assert distance(reference, ports[1], numbers(2, 5, 8)) < CLOSE


def test_a_key_map_that_does_not_fit_loads_nothing():
    reference, port = tnn.Sequential(tnn.Linear(6, 4)), pnn.Sequential(pnn.Linear(6, 4))
    before = port[0].weight.numpy().copy()
    with pytest.raises(KeyMapError) as refused:
        transfer(reference, port, key_map=KeyMap.from_text("0.weight -> 0.weight (transpose)\n0.bias -> ?\n"))
    assert len(refused.value.faults) == 2
    assert np.array_equal(before, port[0].weight.numpy())


def test_a_given_layer_that_does_not_exist_is_refused_with_what_is_close():
    with pytest.raises(KeyMapError, match="layer1"):
        transfer(TorchModel(None, layer1=tnn.Linear(3, 3)), PaddleModel(None, x=pnn.Linear(3, 3)),
                 key_map={"layr1": "x"})  # fmt: skip


class SharedConvolution(tnn.Module):
    """One convolution under a name of its own and in every block."""

    def __init__(self):
        super().__init__()
        self.shared = tnn.Conv2d(4, 4, 1)
        self.blocks = tnn.ModuleList([tnn.Sequential(self.shared, tnn.ReLU()) for _ in range(2)])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class PaddleSharedConvolution(pnn.Layer):
    """The same, blocks first; or one convolution in the first block alone."""

    def __init__(self, everywhere):
        super().__init__()
        shared = pnn.Conv2D(4, 4, 1)
        others = [shared if everywhere else pnn.Conv2D(4, 4, 1)]
        self.blocks = pnn.LayerList([pnn.Sequential(layer, pnn.ReLU()) for layer in [shared, *others]])
        self.shared = shared

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_layer_that_has_several_places_is_one_layer(everywhere):
    reference, port = SharedConvolution().eval(), PaddleSharedConvolution(everywhere)
    port.eval()
    x = np.random.RandomState(0).standard_normal((2, 4, 5, 5)).astype("float32")
    names = [name for name, _ in reference.named_parameters(remove_duplicate=False)]
    key_map = KeyMap.from_text("\n".join(f"{name} -> {name}" for name in names))
    state = {name: value.detach().numpy() for name, value in reference.state_dict().items()}
    port.set_state_dict({name: paddle.to_tensor(value) for name, value in state.items()})
    report = align(reference, port, x, key_map=key_map)
    assert report.passed == everywhere
    compared = {row.layer for row in report.rows if row.direction == "parameter gradient"}
    assert {"shared.weight", "shared.bias"} <= compared


@pytest.mark.parametrize(
    "weight", [torch.full((4, 4), 1e300, dtype=torch.float64), torch.eye(4).to(torch.complex64)]
)
def test_what_the_ports_type_would_lose_is_refused_and_nothing_is_loaded(weight):
    reference, port = torch.nn.Sequential(torch.nn.Linear(4, 4)), paddle.nn.Sequential(paddle.nn.Linear(4, 4))
    reference[0].weight = torch.nn.Parameter(weight)
    before = port[0].bias.numpy().copy()
    reference[0].bias.data.add_(1)
    with pytest.raises(KeyMapError):
        transfer(reference, port)
    assert (port[0].bias.numpy() == before).all()


def test_a_word_is_no_key_map():
    with pytest.raises(TypeError, match="key_map"):
        transfer(torch.nn.Linear(2, 2), paddle.nn.Linear(2, 2), key_map="auto")
