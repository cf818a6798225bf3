"""The key map between any two models: found, saved, edited and applied; what is ambiguous or left over is refused."""

import numpy as np
import pytest

from convert.automap import KeyMapError, apply, call_order, derive, from_text, ordered, read_layers, to_text
from convert.matching.key_map import KeyMap
from convert.matching.pairing import AmbiguousMatch, Layer, pair_layers

BN = {"weight": (4,), "bias": (4,), "running_mean": (4,), "running_var": (4,), "num_batches_tracked": ()}
PADDLE_BN = {"weight": (4,), "bias": (4,), "_mean": (4,), "_variance": (4,)}
TORCH = [
    Layer("stem.conv", "conv", {"weight": (4, 3, 3, 3)}),
    Layer("stem.norm", "batchnorm", BN),
    Layer("fc1", "conv", {"weight": (6, 4, 2, 2), "bias": (6,)}),
    Layer("fc2", "linear", {"weight": (6, 6), "bias": (6,)}),
]
PADDLE = [
    Layer("features.0", "conv", {"weight": (4, 3, 3, 3)}),
    Layer("features.1", "batchnorm", PADDLE_BN),
    Layer("classifier.0", "linear", {"weight": (16, 6), "bias": (6,)}),
    Layer("classifier.3", "linear", {"weight": (6, 6), "bias": (6,)}),
]


def values(layers, seed=0):
    rng = np.random.RandomState(seed)
    return {f"{layer.path}.{role}": rng.standard_normal(s) for layer in layers for role, s in layer.shapes.items()}


def shapes(layers):
    return {f"{layer.path}.{role}": shape for layer in layers for role, shape in layer.shapes.items()}


def linears(*paths):
    return [Layer(path, "linear", {"weight": (4, 4)}) for path in paths]


def test_the_table_says_what_happens_to_every_tensor():
    assert to_text(derive(TORCH, PADDLE)).splitlines() == [
        "stem.conv.weight -> features.0.weight",
        "stem.norm.weight -> features.1.weight",
        "stem.norm.bias -> features.1.bias",
        "stem.norm.running_mean -> features.1._mean",
        "stem.norm.running_var -> features.1._variance",
        "stem.norm.num_batches_tracked -> dropped: a step counter that BatchNorm reads only with momentum=None; "
        "Paddle has none (its value is kept in the manifest)",
        "fc1.weight -> classifier.0.weight (reshape 6x16, transpose)",
        "fc1.bias -> classifier.0.bias",
        "fc2.weight -> classifier.3.weight (transpose)",
        "fc2.bias -> classifier.3.bias",
    ]


@pytest.mark.parametrize(("ours", "theirs"), [(TORCH, PADDLE), (TORCH, PADDLE[:3]), (TORCH[:3], PADDLE)])
def test_a_saved_table_comes_back_as_it_was(ours, theirs):
    key_map = derive(ours, theirs)
    assert from_text("# a comment\n\n" + to_text(key_map)) == key_map


def test_a_square_linear_weight_is_transposed_too():
    arrays = values(TORCH)
    made = apply(derive(TORCH, PADDLE), arrays, shapes(PADDLE))
    assert np.array_equal(made["classifier.3.weight"], arrays["fc2.weight"].T)


def test_a_convolution_over_its_whole_input_becomes_a_linear_layer():
    arrays, x = values(TORCH), np.random.RandomState(1).standard_normal((5, 4, 2, 2))
    made = apply(derive(TORCH, PADDLE), arrays, shapes(PADDLE))
    expected = np.einsum("ochw,bchw->bo", arrays["fc1.weight"], x)
    assert np.allclose(x.reshape(5, -1) @ made["classifier.0.weight"], expected, rtol=1e-13)


def test_a_linear_layer_becomes_a_convolution():
    theirs = [Layer("head", "conv", {"weight": (6, 6, 1, 1), "bias": (6,)})]
    made = apply(derive(TORCH[3:], theirs), values(TORCH[3:]), shapes(theirs))
    assert np.array_equal(made["head.weight"][:, :, 0, 0], values(TORCH[3:])["fc2.weight"])


def test_names_settle_what_the_order_does_not():
    assert pair_layers(linears("q", "k", "v"), linears("v", "q", "k")) == {"q": "q", "k": "k", "v": "v"}


def test_the_order_settles_what_the_names_do_not():
    assert pair_layers(linears("a", "b"), linears("c", "d")) == {"a": "c", "b": "d"}
    assert pair_layers(linears("l.0", "l.2", "l.4"), linears("l.0", "l.1", "l.2")) == {
        "l.0": "l.0", "l.2": "l.1", "l.4": "l.2",
    }  # fmt: skip


def test_the_order_of_calls_counts_where_it_is_given():
    calls = ordered(linears("second", "first", "unused"), ["first", "second"])
    assert [layer.path for layer in calls] == ["first", "second", "unused"]


@pytest.mark.parametrize(
    ("ours", "theirs", "candidates"),
    [
        (("a", "b", "c"), ("d", "e"), ["d", "e"]),
        (("a", "b"), ("c", "d", "e"), ["a", "b"]),
        (("one", "same"), ("same", "two"), ["two (by order)", "same (by name)"]),
    ],
)
def test_an_ambiguous_match_is_refused_with_the_candidates(ours, theirs, candidates):
    with pytest.raises(AmbiguousMatch) as refused:
        derive(linears(*ours), linears(*theirs))
    assert all(name in str(refused.value) for name in candidates), refused.value
    assert "key map" in str(refused.value)


def test_a_given_pair_resolves_an_ambiguous_match():
    assert pair_layers(linears("a", "b", "c"), linears("d", "e"), {"a": "d", "c": "e"}) == {"a": "d", "c": "e"}


def test_a_given_pair_that_does_not_exist_is_refused_with_what_is_close():
    with pytest.raises(ValueError, match=r"layr1.*reference has no such layer.*close to it: layer1"):
        pair_layers(linears("layer1"), linears("x"), {"layr1": "x"})


def test_leftovers_of_both_sides_are_listed_and_nothing_is_made():
    key_map = derive(TORCH[:3], [*PADDLE[:2], Layer("extra", "linear", {"weight": (9, 9)})])
    text = to_text(key_map)
    assert "fc1.weight -> ?\n" in text
    assert "? -> extra.weight\n" in text
    with pytest.raises(KeyMapError) as refused:
        apply(key_map, values(TORCH[:3]))
    assert refused.value.faults == [
        "fc1.weight -> ?: without a twin", "fc1.bias -> ?: without a twin", "? -> extra.weight: without a twin",
    ]  # fmt: skip


def test_an_edited_table_is_applied():
    text = to_text(derive(TORCH, PADDLE)).replace("stem.conv.weight -> features.0.weight", "stem.conv.weight -> ?")
    fixed = from_text(text.replace("-> ?", "-> features.0.weight"))
    assert fixed == derive(TORCH, PADDLE)


@pytest.mark.parametrize("line", ["a.weight", "a -> b (turn)", "a -> b (reshape 2,3)", "a => b", "a ->"])
def test_a_line_that_cannot_be_read_is_named_by_its_number(line):
    with pytest.raises(KeyMapError, match=r"line 2: .*") as refused:
        from_text(f"x -> y\n{line}\n")
    assert len(refused.value.faults) == 1


def test_every_fault_is_listed_at_once():
    key_map = from_text("a -> x\nb -> x\nc -> z (reshape 7x7)\nd -> w\n")
    with pytest.raises(KeyMapError) as refused:
        apply(key_map, {"a": np.ones(3), "b": np.ones(3), "c": np.ones(3), "e": np.ones(3)}, {"x": (2,), "y": (1,)})
    text = str(refused.value)
    for fault in (
        "d: in the key map, not among the tensors", "e: not in the key map", "x: more than once",
        "c: [3] cannot be reshaped to [7, 7]", "y: the model needs it", "x: shape [3] instead of [2]",
    ):  # fmt: skip
        assert fault in text


@pytest.mark.torch
def test_layers_of_both_frameworks_are_read_and_mapped_in_the_order_of_calls():
    import paddle
    import torch

    def twisted(nn, linear, norm):
        """Defined in another order than called, with classes derived from the framework's."""

        class Norm(norm):
            pass

        class Net(nn.Layer if hasattr(nn, "Layer") else nn.Module):
            def __init__(self, names):
                super().__init__()
                self.names = names
                for name in names:
                    setattr(self, name, linear(4, 4))
                self.last = Norm(4)
                self.slope = nn.PReLU(4)

            def forward(self, x):
                for name in sorted(self.names):
                    x = getattr(self, name)(x)
                return self.slope(self.last(x))

        return Net

    torch_model = twisted(torch.nn, torch.nn.Linear, torch.nn.BatchNorm1d)(["c1", "a1", "b1"]).eval()
    paddle_model = twisted(paddle.nn, paddle.nn.Linear, paddle.nn.BatchNorm1D)(["a2", "b2", "c2"])
    paddle_model.eval()
    x = np.random.RandomState(0).standard_normal((3, 4)).astype("float32")
    torch_layers = ordered(read_layers(torch_model), call_order(torch_model, lambda: torch_model(torch.from_numpy(x))))
    key_map = derive(torch_layers, read_layers(paddle_model))
    assert {e.torch: e.paddle for e in key_map if e.transpose} == {f"{n}1.weight": f"{n}2.weight" for n in "abc"}
    assert not any(m._forward_pre_hooks for m in torch_model.modules())
    arrays = {name: value.numpy() for name, value in torch_model.state_dict().items()}
    made = apply(key_map, arrays, {name: tuple(v.shape) for name, v in paddle_model.state_dict().items()})
    paddle_model.set_state_dict({name: np.ascontiguousarray(array) for name, array in made.items()})
    with torch.no_grad():
        expected = torch_model(torch.from_numpy(x)).numpy()
    assert np.allclose(expected, paddle_model(paddle.to_tensor(x)).numpy(), atol=1e-6)


LOSING = {
    "rows that nothing takes": "w -> a (rows 0:1)\nw -> b (rows 2:4)\n",
    "rows at the end": "w -> a (rows 0:3)\n",
    "rows that are taken twice and others not": "w -> a (rows 0:2, concatenate 0)\nw -> a (rows 0:2, concatenate 0)\n",
    "dropped and mapped": "w -> a\nw -> dropped: not needed\n",
    "several axes": "w -> a (rows 0:2, concatenate 0)\nw -> a (rows 2:4, concatenate 1)\n",
}


@pytest.mark.parametrize("table", LOSING)
def test_a_table_that_loses_a_part_is_refused(table):
    with pytest.raises(KeyMapError):
        apply(from_text(LOSING[table]), {"w": np.zeros((4, 2))})


def test_rows_may_be_dropped_in_a_line_that_says_so():
    made = apply(from_text("w -> a (rows 0:3)\nw -> dropped: the last is padding\n"), {"w": np.arange(4)})
    assert made["a"].tolist() == [0, 1, 2]


def test_parts_are_joined_last():
    with pytest.raises(KeyMapError, match="concatenate is the last step"):
        from_text("w -> a (concatenate 0, transpose)\n")


def test_a_table_that_is_not_there_is_told_as_one_that_cannot_be_read(tmp_path):
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    for name in ("missing.txt", "bytes.txt", "."):
        with pytest.raises(KeyMapError, match="cannot read"):
            KeyMap.load(tmp_path / name)
