"""What a verdict rests on: nothing passes unproven, nothing right is accused, nothing is left changed."""

import numpy as np
import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
paddle = pytest.importorskip("paddle")

from paddle import nn as pnn  # noqa: E402
from paddle.nn import functional as PF  # noqa: E402
from torch import nn as tnn  # noqa: E402
from wired import PaddleModel, TorchModel, numbers, paddle_parameter, torch_parameter  # noqa: E402

from alignment import align, transfer  # noqa: E402
from alignment.engine.sides.model import ModelRaised  # noqa: E402


def filled(reference, port):
    """A port with the reference's weights."""
    transfer(reference.eval(), port)
    port.eval()
    return reference, port


def ended(end, twin_end):
    """A linear layer on both sides, and what is made of its output."""
    return filled(
        TorchModel(lambda m, x: end(m.fc(x)), fc=tnn.Linear(6, 6)),
        PaddleModel(lambda m, x: twin_end(m.fc(x)), fc=pnn.Linear(6, 6)),
    )


def layers_of(result):
    return [culprit.layer for culprit in result.culprits]


# --- what a model returns -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "twin_end"),
    [
        (lambda y: {"a": y, "b": 2 * y}, lambda y: {"b": 2 * y, "a": y}),
        (lambda y: (y, y > 0), lambda y: [y, y > 0]),
        (lambda y: (y, None, 3), lambda y: (y, None, 3)),
        (lambda y: (y, y.argmax(1)), lambda y: (y, y.argmax(1).astype("int32"))),
    ],
    ids=["order of keys", "list for tuple", "None and a number", "int32 for int64"],
)
def test_the_same_structure_is_aligned(end, twin_end):
    assert align(*ended(end, twin_end), numbers(3, 6)).passed


@pytest.mark.parametrize(
    ("end", "twin_end"),
    [
        (lambda y: {"a": y, "b": 2 * y}, lambda y: {"a": y, "c": 2 * y}),
        (lambda y: (y, y), lambda y: (y,)),
        (lambda y: y, lambda y: (y,)),
        (lambda y: (y, None), lambda y: (y, y)),
        (lambda y: (y, 3), lambda y: (y, 4)),
        (lambda y: (y, y > 0), lambda y: (y, (y > 0).astype("float32"))),
        (lambda y: y.reshape(2, 3, 3), lambda y: y.reshape([3, 6])),
        (lambda y: (y, y > 0), lambda y: (y, y <= 0)),
        (lambda y: (y, y.argmax(1)), lambda y: (y, y.argmax(1) + 1)),
    ],
    ids=["key", "length", "nesting", "None", "number", "kind", "shape", "mask", "integer"],
)
def test_another_structure_or_element_is_a_fault_of_the_model(end, twin_end):
    result = align(*ended(end, twin_end), numbers(3, 6))
    assert not result.passed
    assert layers_of(result) == ["(model)"]


def test_a_failed_result_is_false_and_an_aligned_one_true():
    assert align(*ended(lambda y: y, lambda y: y), numbers(3, 6))
    assert not align(*ended(lambda y: y, lambda y: 2 * y), numbers(3, 6))


# --- tensors --------------------------------------------------------------------------------------------------------


def test_a_parameter_that_only_the_port_trains_is_a_fault_though_it_changes_nothing():
    port = PaddleModel(lambda m, x: m.fc(x) * m.gate, fc=pnn.Linear(6, 4), gate=paddle_parameter(1, value=1.0))
    result = align(*filled(TorchModel(fc=tnn.Linear(6, 4)), port), numbers(3, 6))
    assert layers_of(result) == ["(model)"]
    assert "gate" in result.culprits[0].cause


def test_a_parameter_that_the_port_lacks_is_a_fault_though_it_changes_nothing():
    reference = TorchModel(lambda m, x: m.fc(x) + 0 * m.shift, fc=tnn.Linear(6, 4), shift=torch_parameter(4))
    port = PaddleModel(fc=pnn.Linear(6, 4))
    port.fc.weight.set_value(reference.fc.weight.detach().numpy().T)
    port.fc.bias.set_value(reference.fc.bias.detach().numpy())
    result = align(reference.eval(), port, numbers(3, 6))
    assert not result.passed
    assert "shift" in result.culprits[0].cause


def test_a_weight_that_one_side_alone_trains_is_a_fault():
    reference, port = filled(TorchModel(fc=tnn.Linear(6, 4)), PaddleModel(fc=pnn.Linear(6, 4)))
    port.fc.weight.stop_gradient = True
    (culprit,) = align(reference, port, numbers(3, 6)).culprits
    assert (culprit.layer, culprit.kind) == ("fc", "weights")
    assert "frozen" in culprit.cause


def test_a_gradient_that_is_zero_in_theory_is_judged_by_what_cancels_in_it():
    def reference(m, x):
        return m.out(m.norm(m.fc(x)))

    parts = dict(fc=tnn.Linear(6, 5), norm=tnn.BatchNorm1d(5), out=tnn.Linear(5, 3))
    twins = dict(fc=pnn.Linear(6, 5), norm=pnn.BatchNorm1D(5, use_global_stats=False), out=pnn.Linear(5, 3))
    models = filled(TorchModel(reference, **parts), PaddleModel(reference, **twins))
    rows = align(*models, numbers(16, 6), mode="train").rows
    (row,) = [row for row in rows if row.layer == "fc.bias"]
    assert row.aligned
    assert all(row.allowed < 1e-5 for row in rows)


# --- what cannot be judged ------------------------------------------------------------------------------------------


def test_a_reference_that_is_nan_leaves_it_undecided():
    result = align(*ended(lambda y: y, lambda y: y), numbers(3, 6) * np.nan)
    assert result.undecided
    assert not result.passed


@pytest.mark.parametrize("side", ["torch", "Paddle"])
def test_a_side_that_does_not_agree_with_itself_is_named(side):
    def noisy(m, x):
        return m.fc2(torch.nn.functional.dropout(m.fc1(x), 0.5, m.training))

    def twin(m, x):
        return m.fc2(PF.dropout(m.fc1(x), 0.5, training=m.training))

    def plain(m, x):
        return m.fc2(m.fc1(x))

    reference = TorchModel(noisy if side == "torch" else plain, fc1=tnn.Linear(6, 8), fc2=tnn.Linear(8, 4))
    port = PaddleModel(plain if side == "torch" else twin, fc1=pnn.Linear(6, 8), fc2=pnn.Linear(8, 4))
    result = align(*filled(reference, port), numbers(5, 6), mode="train")
    assert result.undecided
    assert result.missing[0].startswith(side)
    assert align(reference, port, numbers(5, 6)).passed


# --- nothing right is accused ---------------------------------------------------------------------------------------


def test_tokens_in_another_layout_are_the_same():
    def rows(m, x):  # (B, C, H, W) -> (B, HW, C)
        return m.out(m.mid(m.conv(x).flatten(2).transpose(1, 2)).mean(1))

    def maps(m, x):  # (B, C, H, W) -> (B, H, W, C)
        return m.out(m.mid(m.conv(x).transpose([0, 2, 3, 1])).mean([1, 2]))

    parts = dict(conv=tnn.Conv2d(3, 4, 2, 2), mid=tnn.Linear(4, 5), out=tnn.Linear(5, 3))
    twins = dict(conv=pnn.Conv2D(3, 4, 2, 2), mid=pnn.Linear(4, 5), out=pnn.Linear(5, 3))
    assert align(*filled(TorchModel(rows, **parts), PaddleModel(maps, **twins)), numbers(2, 3, 6, 6)).passed


def test_a_norm_of_the_first_token_alone_is_as_good_as_one_of_all():
    reference = TorchModel(lambda m, x: m.head(m.norm(m.fc(x))[:, 0]), fc=tnn.Linear(6, 8), norm=tnn.LayerNorm(8),
                           head=tnn.Linear(8, 3))  # fmt: skip
    port = PaddleModel(lambda m, x: m.head(m.norm(m.fc(x)[:, 0])), fc=pnn.Linear(6, 8), norm=pnn.LayerNorm(8),
                       head=pnn.Linear(8, 3))  # fmt: skip
    assert align(*filled(reference, port), numbers(2, 4, 6)).passed


def test_padding_that_is_cropped_again_is_a_remark_also_beside_a_true_fault():
    def cropped(m, x):
        return m.out(m.norm(m.conv(x)[:, :, 1:, 1:]))

    parts = dict(conv=tnn.Conv2d(3, 4, 3, 2, 1), norm=tnn.BatchNorm2d(4), out=tnn.Conv2d(4, 2, 1))
    # two more rows above and on the left: the first window lies in them alone and is cut off
    twins = dict(conv=pnn.Conv2D(3, 4, 3, 2, [3, 1, 3, 1]), norm=pnn.BatchNorm2D(4), out=pnn.Conv2D(4, 2, 1))
    reference, port = filled(TorchModel(**parts), PaddleModel(cropped, **twins))
    assert align(reference, port, numbers(2, 3, 8, 8)).passed
    port.norm._epsilon = 1e-2
    assert layers_of(align(reference, port, numbers(2, 3, 8, 8))) == ["norm"]


def test_a_fault_blames_no_container_that_it_passes_through():
    def block(framework, linear, model):
        return model(lambda m, x: m.act(m.fc2(m.act(m.fc1(x))) + x), fc1=linear(6, 6), fc2=linear(6, 6),
                     act=framework.ReLU())  # fmt: skip

    def whole(m, x):
        return m.head(m.b(m.a(x)))

    reference = TorchModel(whole, a=block(tnn, tnn.Linear, TorchModel), b=block(tnn, tnn.Linear, TorchModel),
                           head=tnn.Linear(6, 3))  # fmt: skip
    port = PaddleModel(whole, a=block(pnn, pnn.Linear, PaddleModel), b=block(pnn, pnn.Linear, PaddleModel),
                       head=pnn.Linear(6, 3))  # fmt: skip
    filled(reference, port)
    assert align(reference, port, numbers(4, 6)).passed
    port.a.wiring = lambda m, x: m.act(m.fc2(m.act(m.fc1(x)))) + x
    assert layers_of(align(reference, port, numbers(4, 6))) == ["a"]


def test_an_accepted_setting_is_said_in_the_verdict_and_judges_nothing_else():
    parts = dict(fc=tnn.Linear(6, 5), act=tnn.LeakyReLU(0.2), out=tnn.Linear(5, 3))
    twins = dict(fc=pnn.Linear(6, 5), act=pnn.LeakyReLU(0.1), out=pnn.Linear(5, 3))
    models = filled(TorchModel(**parts), PaddleModel(**twins))
    assert layers_of(align(*models, numbers(3, 6))) == ["act"]
    accepted = align(*models, numbers(3, 6), accept={"slope": "as published"})
    assert accepted.passed
    assert "as published" in accepted.verdict()
    models[1].out.bias.set_value(models[1].out.bias.numpy() + 1)
    assert layers_of(align(*models, numbers(3, 6), accept={"slope": "as published"})) == ["out"]


# --- nothing crashes, nothing is left changed -----------------------------------------------------------------------


def test_an_exception_of_the_reference_names_its_layer():
    def raising(m, x):
        raise KeyError("no such option")

    inner = TorchModel(raising, fc=tnn.Linear(6, 6))
    with pytest.raises(ModelRaised) as raised:
        align(TorchModel(inner=inner), PaddleModel(inner=PaddleModel(fc=pnn.Linear(6, 6))), numbers(3, 6))
    assert raised.value.path == "inner"
    assert isinstance(raised.value.error, KeyError)


def test_models_that_are_swapped_are_refused():
    with pytest.raises(TypeError):
        align(PaddleModel(fc=pnn.Linear(6, 4)), TorchModel(fc=tnn.Linear(6, 4)), numbers(3, 6))


@pytest.mark.parametrize("fails", [False, True], ids=["aligned", "raising"])
def test_models_come_back_with_their_caches_tables_and_random_states(fails):
    def remembering(m, x):
        m.cache["last"] = x
        m.calls = m.calls + 1
        if fails and m.calls > 10:
            raise RuntimeError("too often")
        return m.fc(x + m.table[m.index].mean())

    port = PaddleModel(remembering, fc=pnn.Linear(6, 4), table=paddle_parameter(5, 6, value=0.5))
    port.register_buffer("index", paddle.to_tensor(np.array([0, 2], np.int64)))
    port.cache, port.calls = {}, 10 if fails else 0
    reference = TorchModel(lambda m, x: m.fc(x + m.table[[0, 2]].mean()), fc=tnn.Linear(6, 4),
                           table=torch_parameter(5, 6))  # fmt: skip
    transfer(reference, port)
    before = {name: value.numpy().copy() for name, value in port.state_dict().items()}
    hooks = len(port.fc._forward_post_hooks), len(reference.fc._forward_hooks)
    paddle.seed(3), torch.manual_seed(3), np.random.seed(3)
    expected = paddle.rand([2]).numpy(), torch.rand(2).numpy(), np.random.rand(2)
    paddle.seed(3), torch.manual_seed(3), np.random.seed(3)
    align(reference, port, numbers(3, 6))
    drawn = paddle.rand([2]).numpy(), torch.rand(2).numpy(), np.random.rand(2)
    after = port.state_dict()
    assert all(np.array_equal(before[name], value.numpy()) for name, value in after.items())
    assert after["index"].dtype == paddle.int64
    assert after["fc.weight"].dtype == paddle.float32
    assert (port.cache, port.calls) == ({}, 10 if fails else 0)
    assert (len(port.fc._forward_post_hooks), len(reference.fc._forward_hooks)) == hooks
    assert all(map(np.array_equal, drawn, expected))
