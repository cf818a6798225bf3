"""``transfer``: every kind of layer and of ambiguity, loaded so that both models compute the same, or refused."""

import numpy as np
import paddle
import pytest
import torch
from paddle import nn as pnn
from torch import nn as tnn

from alignment import transfer
from convert.matching.key_map import AmbiguousMatch
from tests.wired import (
    PaddleModel,
    TorchModel,
    distance,
    numbers,
    paddle_parameter,
    torch_parameter,
)

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
        return nn.Sequential(nn.Linear(n, n), nn.LayerNorm(n), nn.Tanh() if nn is tnn else nn.Tanh())

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
