"""What ``align_training`` takes and refuses: tensors that are tied, frozen or extra, batches, errors, limits."""

from __future__ import annotations

import numpy as np
import pytest
from training_recipes import CLASSES, batches, losses, paddle_momentum, small_pair, torch_sgd, train

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread")]
pytest.importorskip("torch")  # recipes are made while tests are collected


def plain(rate=0.1):
    import paddle
    import torch

    return (
        lambda model: torch.optim.SGD(model.parameters(), rate),
        lambda layer: paddle.optimizer.SGD(rate, [p for p in layer.parameters() if not p.stop_gradient]),
    )


def around(make_torch, make_paddle, pair=None):
    """A pair within modules of one's own: ``make(inner, base class)`` returns the ``forward``."""
    import paddle
    import torch

    class Outer(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return make_torch(self, x)

    class Around(paddle.nn.Layer):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return make_paddle(self, x)

    ours, theirs = pair or small_pair()
    return Outer(ours), Around(theirs)


# --- tensors that only one side has, ties or trains -----------------------------------------------------------------


def sentences(steps=3):
    rng = np.random.RandomState(0)
    return [(rng.randint(0, 11, (2, 5)), rng.randint(0, 11, (2, 5))) for _ in range(steps)]


def of_every_word():
    cross_entropy = losses()
    return tuple(
        lambda output, labels, half=half: half(output.flatten(0, 1), labels.flatten()) for half in cross_entropy
    )


def languages(ours, theirs):
    """An embedding and an output layer each; ``tied``, ``apart`` or by a ``function`` of the embedding's matrix."""
    import paddle
    import torch

    class Ours(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.fc = torch.nn.Embedding(11, 6), torch.nn.Linear(6, 6)
            if ours != "function":
                self.head = torch.nn.Linear(6, 11, bias=False)
                with torch.no_grad():
                    self.head.weight.copy_(self.embed.weight)
            if ours == "tied":
                self.head.weight = self.embed.weight

        def forward(self, words):
            hidden = self.fc(self.embed(words))
            return hidden @ self.embed.weight.T if ours == "function" else self.head(hidden)

    class Theirs(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.embed, self.fc = paddle.nn.Embedding(11, 6), paddle.nn.Linear(6, 6)
            if theirs != "function":
                self.head = paddle.nn.Linear(6, 11, bias_attr=False)

        def forward(self, words):
            hidden = self.fc(self.embed(words))
            if theirs == "function":
                return paddle.matmul(hidden, self.embed.weight, transpose_y=True)
            return self.head(hidden)

    torch.manual_seed(0)
    reference, port = Ours(), Theirs()
    port.embed.weight.set_value(reference.embed.weight.detach().numpy())
    port.fc.weight.set_value(reference.fc.weight.detach().numpy().T)
    port.fc.bias.set_value(reference.fc.bias.detach().numpy())
    if theirs != "function":
        port.head.weight.set_value(reference.embed.weight.detach().numpy().T)
    return reference, port


@pytest.mark.parametrize(("ours", "theirs"), [("tied", "function"), ("apart", "apart"), ("function", "function")])
def test_weights_that_are_tied_on_both_sides_or_on_neither_are_aligned(ours, theirs):
    result = train(languages(ours, theirs), plain(), data=sentences(), loss=of_every_word())
    assert result.passed, str(result)


@pytest.mark.parametrize(
    ("ours", "theirs", "where"),
    [("tied", "apart", "torch"), ("function", "apart", "torch"), ("apart", "function", "Paddle")],
)
def test_weights_that_are_tied_on_one_side_alone_are_named(ours, theirs, where):
    result = train(languages(ours, theirs), plain(), data=sentences(), loss=of_every_word())
    assert [(c.layer, c.kind) for c in result.culprits] == [("embed.weight", "wiring")]
    assert f"tied in {where} alone" in result.culprits[0].cause
    assert {row.depth for row in result.rows} == {0, 1}


@pytest.mark.parametrize(("side", "words"), [(0, "frozen in the reference"), (1, "stop_gradient")])
def test_a_parameter_that_is_frozen_on_one_side_alone_is_named(side, words):
    pair = small_pair()
    if side:
        pair[1][0].weight.stop_gradient = True
    else:
        pair[0][0].weight.requires_grad_(False)
    result = train(pair, plain())
    assert [c.layer for c in result.culprits] == ["0.weight"], result.culprits
    assert words in result.culprits[0].cause


def test_parameters_that_are_frozen_on_both_sides_are_aligned():
    pair = small_pair()
    pair[0][0].weight.requires_grad_(False)
    pair[1][0].weight.stop_gradient = True
    result = train(pair, plain())
    assert result.passed, str(result)


@pytest.mark.parametrize("side", [0, 1])
def test_a_parameter_that_one_side_alone_trains_is_a_fault_whatever_it_changes(side):
    import paddle
    import torch

    pair = small_pair()
    if side:
        one = paddle.nn.initializer.Constant(1.0)
        pair[1].gate = pair[1].create_parameter([1], default_initializer=one)
    else:
        pair[0].register_parameter("gate", torch.nn.Parameter(torch.ones(1)))
    result = train(pair, plain())
    assert [c.layer for c in result.culprits] == ["gate"]


def attention(packed_q=None):
    """Self-attention whose q, k and v are one matrix in torch and three in Paddle, and the key map between them."""
    import paddle
    import torch

    from convert.matching.key_map import KeyMap

    class Ours(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.fc = torch.nn.Linear(6, 18), torch.nn.Linear(6, CLASSES)

        def forward(self, x):
            q, k, v = self.qkv(x).chunk(3, -1)
            return self.fc(((q @ k.transpose(1, 2)).softmax(-1) @ v).mean(1))

    class Theirs(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = (paddle.nn.Linear(6, 6) for _ in range(3))
            self.fc = paddle.nn.Linear(6, CLASSES)

        def forward(self, x):
            q, k, v = self.q(x), self.k(x), self.v(x)
            scores = paddle.matmul(q, k, transpose_y=True)
            return self.fc(paddle.matmul(paddle.nn.functional.softmax(scores, -1), v).mean(1))

    torch.manual_seed(0)
    reference, port = Ours(), Theirs()
    parts = [f"qkv.weight -> {n}.weight (rows {6 * i}:{6 * i + 6}, transpose)" for i, n in enumerate("qkv")]
    parts += [f"qkv.bias -> {n}.bias (rows {6 * i}:{6 * i + 6})" for i, n in enumerate("qkv")]
    key_map = KeyMap.from_text("\n".join([*parts, "fc.weight -> fc.weight (transpose)", "fc.bias -> fc.bias"]))
    arrays = {name: value.detach().numpy() for name, value in reference.named_parameters()}
    for name, array in key_map.apply(arrays).items():
        dict(port.named_parameters())[name].set_value(np.ascontiguousarray(array))
    rng = np.random.RandomState(0)
    data = [(rng.standard_normal((4, 3, 6)), rng.randint(0, CLASSES, 4)) for _ in range(3)]
    return reference, port, key_map, data


def test_a_key_map_pairs_what_is_packed_on_one_side():
    from paddle.optimizer import Adam
    from torch import optim

    reference, port, key_map, data = attention()
    recipe = (lambda m: optim.Adam(m.parameters(), 0.01), lambda m: Adam(0.01, parameters=m.parameters()))
    result = train((reference, port), recipe, data=data, key_map=key_map)
    assert result.passed, str(result)
    assert {row.layer for row in result.rows if row.kind == "optimizer state"} == {*dict(reference.named_parameters())}
    wrong = train((reference, port), (recipe[0], plain(0.01)[1]), data=data, key_map=key_map)
    assert "another optimizer" in wrong.culprits[0].cause


def test_what_is_packed_on_one_side_is_found_by_its_names():
    reference, port, _, data = attention()
    result = train((reference, port), plain(), data=data)
    assert result.passed, str(result)


def test_parameters_that_the_key_map_does_not_pair_are_undecided():
    reference, port, _, data = attention()
    result = train((reference, port), plain(), data=data, key_map={"fc": "fc"})
    assert result.undecided
    assert result.verdict().startswith("UNDECIDED")
    assert "qkv.weight" in result.missing[0]


@pytest.mark.parametrize("side", ["torch", "Paddle"])
def test_statistics_that_one_side_alone_keeps_are_a_fault(side):
    import paddle
    import torch

    def counted(model, x, one, tensors):
        if tensors == side:
            model.seen.set_value(model.seen + 1) if one is paddle else model.seen.add_(1)
        return model.inner(x)

    pair = around(
        lambda model, x: counted(model, x, torch, "torch"), lambda layer, x: counted(layer, x, paddle, "Paddle")
    )
    if side == "torch":
        pair[0].register_buffer("seen", torch.zeros(1))
    else:
        pair[1].register_buffer("seen", paddle.zeros([1]))
    result = train(pair, plain())
    assert [(c.layer, c.kind) for c in result.culprits] == [("seen", "state")], result.verdict()


def test_a_constant_that_one_side_alone_keeps_is_none():
    import torch

    pair = small_pair()
    pair[0].register_buffer("anchors", torch.arange(4.0))
    result = train(pair, plain())
    assert result.passed, result.verdict()
    assert "anchors" in {item.layer for item in result.skipped}


def test_a_weight_that_weight_norm_makes_is_no_parameter_of_its_own():
    import paddle
    import torch

    torch.manual_seed(0)
    reference = torch.nn.Sequential(torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(6, CLASSES)))
    port = paddle.nn.Sequential(paddle.nn.utils.weight_norm(paddle.nn.Linear(6, CLASSES), dim=1))
    own = reference[0].parametrizations.weight
    port[0].weight_g.set_value(own.original0.detach().numpy().ravel())
    port[0].weight_v.set_value(own.original1.detach().numpy().T)
    port[0].bias.set_value(reference[0].bias.detach().numpy())
    rng = np.random.RandomState(0)
    data = [(rng.standard_normal((4, 6)), rng.randint(0, CLASSES, 4)) for _ in range(3)]
    result = train((reference, port), plain(), data=data)
    assert result.passed, str(result)
    assert "0.parametrizations.weight.original0" in {row.layer for row in result.rows}


def test_gradients_of_a_sparse_embedding_are_compared():
    import paddle
    import torch

    reference = torch.nn.Sequential(torch.nn.Embedding(11, 6, sparse=True), torch.nn.Linear(6, CLASSES))
    port = paddle.nn.Sequential(paddle.nn.Embedding(11, 6, sparse=True), paddle.nn.Linear(6, CLASSES))
    port[0].weight.set_value(reference[0].weight.detach().numpy())
    port[1].weight.set_value(reference[1].weight.detach().numpy().T)
    port[1].bias.set_value(reference[1].bias.detach().numpy())
    rng = np.random.RandomState(0)
    data = [(rng.randint(0, 11, 8), rng.randint(0, CLASSES, 8)) for _ in range(3)]
    result = train((reference, port), plain(), data=data)
    assert result.passed, str(result)


# --- what can be judged ---------------------------------------------------------------------------------------------


def test_no_limit_lets_everything_pass():
    """A bias before a BatchNorm, whose gradient is rounding and nothing else."""
    import paddle
    import torch

    recipe = (
        lambda model: torch.optim.Adam(model.parameters(), 0.01),
        lambda layer: paddle.optimizer.Adam(0.01, parameters=[p for p in layer.parameters() if not p.stop_gradient]),
    )
    result = train(small_pair(bias=True), recipe)
    assert result.passed
    assert max(row.allowed for row in result.rows) < 1e-5

    class Leaning(paddle.nn.Conv2D):
        """Its bias has a gradient of its own."""

        def forward(self, x):
            return super().forward(x) + 1e-4 * self.bias.reshape([1, -1, 1, 1]) * x.mean()

    pair = small_pair(bias=True)
    pair[1][0].__class__ = Leaning
    assert not train(pair, recipe).passed


def test_what_rounding_in_float32_may_change_by_a_percent_is_undecided():
    from alignment.engine.judging.step_limits import SHARE, Noise, StepLimits
    from alignment.engine.records.run import GRADIENT

    key, other = (GRADIENT, "a", ""), (GRADIENT, "b", "")
    spread = {(1, key): Noise(0.04, 1.0), (1, other): Noise(1e-8, 1e-17)}
    assert StepLimits(spread, "float32").of(1, key).undecided
    assert not StepLimits(spread, "float64").of(1, key).undecided
    for dtype in ("float32", "float64"):
        limit = StepLimits(spread, dtype).of(1, other)
        assert limit.scale and not limit.undecided, "what cancels is measured against what cancels in it"
        assert limit.allowed < SHARE


def test_a_step_in_which_chance_leaves_nothing_is_judged_as_the_others():
    from alignment.engine.judging.step_limits import Noise, StepLimits
    from alignment.engine.records.run import GRADIENT

    key = (GRADIENT, "bias", "")
    spread = {(1, key): Noise(1e-8, 1e-17), (2, key): Noise(0.0, 0.0), (3, key): Noise(1e-3, 2.0)}
    limits = StepLimits(spread, "float64")
    assert limits.of(2, key).scale == limits.of(1, key).scale > 0.1
    assert not limits.of(3, key).scale, "there the gradient is more than rounding"


def test_not_a_number_in_the_reference_is_undecided():
    data = [(images * np.nan, labels) for images, labels in batches(2)]
    result = train(small_pair(), plain(), data=data)
    assert result.undecided
    assert not result.passed
    assert result.verdict().startswith("UNDECIDED")


@pytest.mark.parametrize("random", ["torch", "Paddle"])
def test_a_model_that_does_not_agree_with_itself_is_undecided(random):
    import paddle
    import torch

    def drop(functional, x, side):
        return functional.dropout(x, 0.5) if side == random else x

    pair = around(
        lambda model, x: drop(torch.nn.functional, model.inner(x), "torch"),
        lambda layer, x: drop(paddle.nn.functional, layer.inner(x), "Paddle"),
    )
    result = train(pair, plain())
    assert result.undecided
    assert [words.partition("'")[0] for words in result.missing] == [random]


# --- batches, outputs, errors ---------------------------------------------------------------------------------------


def as_torch(array):
    import torch

    return torch.from_numpy(array)


def as_bfloat16(array):
    import torch

    return torch.from_numpy(array).bfloat16() if array.dtype.kind == "f" else torch.from_numpy(array)


def as_paddle(array):
    import paddle

    return paddle.to_tensor(array)


@pytest.mark.parametrize("kind", [as_torch, as_bfloat16, as_paddle, lambda array: array])
def test_batches_of_either_framework_are_taken_as_arrays(kind):
    data = [(kind(images), kind(labels)) for images, labels in batches(2)]
    result = train(small_pair(), plain(), data=data)
    assert result.passed, str(result)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_reference_in_half_precision_is_trained_with_the_numbers_that_it_has(dtype):
    import torch

    from convert.automap import apply, derive, read_layers

    reference, port = small_pair()
    reference.to(getattr(torch, dtype))
    shapes = {name: tuple(value.shape) for name, value in port.state_dict().items()}
    arrays = {name: value.float().numpy() for name, value in reference.state_dict().items()}
    carried = apply(derive(read_layers(reference), read_layers(port)), arrays, shapes)
    port.set_state_dict({name: array.copy() for name, array in carried.items()})
    result = train((reference, port), plain())
    assert result.passed, str(result)
    assert reference[0].weight.dtype == getattr(torch, dtype)


def test_labels_may_be_several_arrays():
    cross_entropy = losses()
    both = tuple(
        lambda output, labels, half=half: half(output, labels["class"]) + labels["more"][0].mean()
        for half in cross_entropy
    )
    data = [(images, {"class": labels, "more": (np.ones(3, np.float32),)}) for images, labels in batches(3)]
    result = train(small_pair(), plain(), data=data, loss=both)
    assert result.passed, str(result)


def test_labels_that_do_not_count_are_no_crash():
    import paddle

    def mean_of_all(logits, labels):
        return paddle.nn.functional.cross_entropy(logits, labels, reduction="none").mean()

    data = batches(3)
    for _, labels in data:
        labels[:3] = -100
    result = train(small_pair(), plain(), data=data, loss=(losses()[0], mean_of_all))
    assert [c.layer for c in result.culprits] == ["(loss)"]
    assert "not over the 5 of 8 labels that count" in result.culprits[0].cause


def test_a_softmax_before_a_loss_that_applies_its_own_is_named():
    import paddle

    def twice(logits, labels):
        return paddle.nn.functional.cross_entropy(paddle.nn.functional.softmax(logits), labels)

    result = train(small_pair(), plain(), loss=(losses()[0], twice))
    assert [c.layer for c in result.culprits] == ["(loss)"]
    assert "softmax" in result.culprits[0].cause


OUTPUTS = {
    "dict": lambda x, more: {"logits": x, "twice": more * x},
    "tuple": lambda x, more: (x, more * x),
    "nested": lambda x, more: [x, {"positive": x > more - 2}],
}


def first(output):
    return output["logits"] if isinstance(output, dict) else output[0] if isinstance(output, (tuple, list)) else output


def of_first():
    return tuple(lambda output, labels, half=half: half(first(output), labels) for half in losses())


@pytest.mark.parametrize("kind", OUTPUTS)
def test_every_tensor_of_the_output_is_compared(kind):
    for more, passed in ((2, True), (2.1, False)):
        pair = around(
            lambda model, x: OUTPUTS[kind](model.inner(x), 2),
            lambda layer, x, more=more: OUTPUTS[kind](layer.inner(x), more),
        )
        result = train(pair, plain(), loss=of_first())
        assert result.passed == passed, result.verdict()
        assert passed or result.culprits[0].layer == "(model)"


def test_an_output_of_another_structure_is_a_fault():
    pair = around(lambda model, x: OUTPUTS["dict"](model.inner(x), 2), lambda layer, x: layer.inner(x))
    result = train(pair, plain(), loss=of_first())
    assert "another structure" in result.culprits[0].cause
    assert "twice" in result.culprits[0].cause


@pytest.mark.parametrize(
    "wrong",
    [
        {"data": [batches(1)[0][0]]},
        {"data": [("images", 3)]},
        {"loss": "cross_entropy"},
        {"loss": (None, None)},
        {"optimizer": (torch_sgd(), None)},
        {"dtype": "float16"},
    ],
)
def test_what_is_no_training_is_refused(wrong):
    options = {"optimizer": (torch_sgd(), paddle_momentum())} | wrong
    with pytest.raises(ValueError):
        train(small_pair(), **options)


def test_swapped_models_are_refused():
    with pytest.raises(TypeError):
        train(small_pair()[::-1], plain())


def failing_at(step, half):
    calls = []

    def loss(output, labels):
        calls.append(1)
        if len(calls) == step:
            raise KeyError("gone")
        return half(output, labels)

    return loss


@pytest.mark.parametrize("side", ["torch", "Paddle"])
def test_an_exception_says_which_side_which_step_and_which_part(side):
    from alignment.engine.records.run import StepError

    ours, theirs = losses()
    loss = (failing_at(2, ours), theirs) if side == "torch" else (ours, failing_at(2, theirs))
    with pytest.raises(StepError, match="gone") as raised:
        train(small_pair(), plain(), loss=loss)
    assert (raised.value.side, raised.value.step, raised.value.part) == (side, 2, "the loss")
    assert isinstance(raised.value.__cause__, KeyError)


def test_a_clip_without_a_kernel_for_float64_says_what_to_do():
    import paddle

    from alignment.engine.records.run import StepError

    def make(layer):
        clip = paddle.nn.ClipGradByNorm(0.1)
        return paddle.optimizer.SGD(0.1, [p for p in layer.parameters() if not p.stop_gradient], grad_clip=clip)

    with pytest.raises(StepError, match="dtype='float32'") as raised:
        train(small_pair(), (plain()[0], make))
    assert (raised.value.side, raised.value.step) == ("Paddle", 1)
