"""Every fault of the catalogue is found, in the right layer, as the right kind; and causes are what they are called."""

import sys

import numpy as np
import pytest

pytestmark = pytest.mark.torch

# every run covers dla46x_c; here the other blocks, with the faults that need the engine most
MODELS = ("dla34", "dla60", "dla60_res2net")
FEW = (
    "bn_biased_variance", "conv_padding_0", "conv_weights_swapped", "relu_gradient_doubled", "global_pool_axes",
    "root_concat_permuted", "block_residual_missing", "block_branch_detached", "cascade_missing", "pool_exclusive",
)  # fmt: skip


def faults():
    from alignment.faults.catalogue import FAULTS

    return FAULTS


@pytest.fixture(scope="module")
def bench():
    from alignment.bench import DlaBench

    return DlaBench("dla46x_c", 0, trained=True)


def test_names_are_unique_and_there_are_enough():
    names = [fault.name for fault in faults()]
    assert len(names) == len({*names}) >= 40


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_without_a_fault_there_is_no_alarm(bench, mode):
    result = bench.compare(mode)
    assert result.passed, result.verdict()


def test_every_fault_is_found_in_its_layer_as_its_kind_with_its_cause(bench):
    """One test for all: the reference runs once."""
    outcomes = [bench.try_fault(fault) for fault in faults()]
    made = [outcome for outcome in outcomes if outcome.applicable]
    wrong = {o.fault: o.note for o in made if not (o.passed and o.cause)}
    assert wrong == {}
    assert len(made) >= 70


def test_the_model_comes_back_as_it_was(bench):
    from alignment.faults.fault import injected
    from alignment.faults.targets import NotApplicable

    model = bench.port
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    layers = [*model.named_sublayers()]
    for fault in faults():
        try:
            with injected(fault, model):
                pass
        except NotApplicable:
            continue
    after = model.state_dict()
    assert [(name, id(layer)) for name, layer in model.named_sublayers()] == [(n, id(x)) for n, x in layers]
    assert all(np.array_equal(array, after[name].numpy()) for name, array in before.items())
    assert all(not layer.training and "forward" not in layer.__dict__ for _, layer in layers)


@pytest.mark.heavy
@pytest.mark.parametrize("name", MODELS)
def test_faults_are_found_in_other_models(name):
    from alignment.bench import DlaBench
    from alignment.faults.catalogue import by_name

    bench = DlaBench(name, 1, trained=True)
    outcomes = [bench.try_fault(by_name(fault)) for fault in FEW]
    assert {o.fault: o.note for o in outcomes if o.applicable and not (o.passed and o.cause)} == {}


def test_a_fault_goes_where_it_is_told_to_go(bench):
    from alignment.faults.catalogue import by_name
    from alignment.faults.fault import injected

    fault, path = by_name("bn_epsilon_1e-3"), "level2.project.1"
    with injected(fault, bench.port, path) as layers:
        result = bench.compare("eval")
    assert layers == (path,)
    assert [culprit.layer for culprit in result.culprits] == [path]


def test_a_global_pool_is_one_over_a_map():
    from paddle import nn

    from alignment.faults import targets

    pools = [nn.AdaptiveAvgPool1D(1), nn.AdaptiveMaxPool1D(1), nn.AdaptiveAvgPool2D(1), nn.AdaptiveMaxPool2D(1)]
    assert [targets.global_pool("pool", pool) for pool in pools] == [False, False, True, True]


def test_a_model_that_raises_is_still_compared_layer_by_layer(bench):
    from alignment.faults.catalogue import by_name
    from alignment.faults.fault import injected

    with injected(by_name("conv_padding_0"), bench.port) as layers:
        result = bench.compare("eval")
    assert "Paddle raised" in result.facts
    assert [culprit.layer for culprit in result.culprits] == [*layers]


def test_the_script_fails_on_a_fault_that_it_cannot_name():
    from alignment import selftest

    with pytest.raises(SystemExit) as stopped:
        selftest.main(["--fault", "no_such_fault"])
    assert stopped.value.code == 2


# --- pairs of other structure ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transformer_bench():
    from alignment.bench import pair_bench

    return pair_bench("small_ports:transformer")


def test_a_pair_of_another_structure_raises_no_alarm(transformer_bench):
    assert [transformer_bench.clean(mode).passed for mode in ("eval", "train")] == [True, True]


def test_every_fault_that_applies_to_a_transformer_is_found_and_nine_of_ten_in_their_layer(transformer_bench):
    outcomes = [transformer_bench.try_fault(fault) for fault in transformer_bench.faults]
    made = [outcome for outcome in outcomes if outcome.applicable]
    assert {o.fault: o.note for o in made if not o.found} == {}
    assert len(made) >= 50
    assert sum(o.layer for o in made) >= 0.9 * len(made), [o.note for o in made if not o.layer]


def test_a_transformer_comes_back_as_it_was(transformer_bench):
    from alignment.faults.fault import injected
    from alignment.faults.targets import NotApplicable

    for fault in transformer_bench.faults:
        try:
            with injected(fault, transformer_bench.port, seen=transformer_bench.seen):
                pass
        except NotApplicable:
            continue
    assert transformer_bench.is_as_before("eval")
    assert "forward" not in {name for layer in transformer_bench.port.sublayers() for name in layer.__dict__}


def test_operations_are_counted_for_the_layer_whose_code_calls_them():
    import paddle
    from paddle import nn

    from alignment.faults.operations import seen

    class Gated(nn.Layer):
        def forward(self, x):
            def mixed(y):
                return y + x

            return paddle.concat([mixed(x.roll(1, 2)), x * x.mean((2, 3), keepdim=True)], 1)

    class Outer(nn.Layer):
        def __init__(self):
            super().__init__()
            self.gated, self.act = Gated(), nn.GELU()

        def forward(self, x):
            return self.act(self.gated(x)) + self.gated(x)

    model = Outer()
    found = seen(model, np.zeros((2, 3, 4, 4), np.float32))
    counts = {name: found.number(model.gated, name) for name in ("residual addition", "concat", "roll", "mean", "gate")}
    assert counts == dict.fromkeys(counts, 1)
    assert found.number(model.act, "gelu") == found.number(model, "residual addition") == 1
    assert found.number(model, "gelu") == found.number(model, "concat") == 0


def test_a_wrong_operation_leaves_other_layers_and_other_calls_alone():
    import paddle
    import paddle.nn.functional as F
    from paddle import nn

    from alignment.faults import changes as do
    from alignment.faults.operations import seen
    from alignment.faults.targets import Target

    class Twice(nn.Layer):
        def forward(self, x):
            return F.relu(F.relu(x) - 1)

    model = nn.Sequential(Twice(), Twice())
    x = paddle.to_tensor([[-3.0, 0.5, 3.0]])
    target = Target(model, "1", model[1], seen(model, x.numpy()))
    do.operation("relu", lambda right, x, *args, **kwargs: -x, call=-1)(target)
    assert model[0](x).tolist() == [[0, 0, 2]]
    assert model(x).tolist() == [[1, 1, -1]]


def test_the_script_takes_pairs_and_refuses_what_is_none(capsys):
    from alignment import selftest

    assert selftest.main(["--pair", "small_ports:transformer", "--fault", "gelu_tanh", "relu6"]) == 0
    assert "1 faults: 1 found, 1 in the right layer" in capsys.readouterr().out
    for arguments in (["small_ports"], ["small_ports:transformer", "--model", "dla34"]):
        with pytest.raises(SystemExit) as stopped:
            selftest.main(["--pair", *arguments])
        assert stopped.value.code == 2


PAIRS = """
import numpy as np, paddle, torch

def ends(): raise SystemExit(0)
def raises(): raise RuntimeError("a")
def nothing(): return None
def swapped(): return paddle.nn.Linear(2, 2), torch.nn.Linear(2, 2), np.ones((1, 2), np.float32)
class Ending(paddle.nn.Layer):
    def forward(self, x): raise SystemExit(0)
def port_ends(): return torch.nn.Linear(2, 2), Ending(), np.ones((1, 2), np.float32)
number = 3
"""


@pytest.mark.parametrize("name", ["ends", "raises", "nothing", "swapped", "port_ends", "number", "missing"])
def test_a_pair_that_is_none_is_no_success(name, tmp_path, monkeypatch, capsys):
    from alignment import selftest

    (tmp_path / "no_pairs.py").write_text(PAIRS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        selftest.main(["--pair", f"no_pairs:{name}", "--clean"])
    sys.modules.pop("no_pairs", None)
    assert stopped.value.code == 2 and name in capsys.readouterr().err.splitlines()[-1]


# --- causes ---------------------------------------------------------------------------------------------------------


def array(*shape, seed=0):
    return np.random.RandomState(seed).standard_normal(shape)


def explained(expected, actual, **known):
    from alignment.engine.explaining.known_causes import FORWARD, Case, explain

    return explain(Case(expected, actual, known), FORWARD)


A, B, C = array(2, 8, 4, 4), array(2, 8, 4, 4, seed=1), array(2, 8, 4, 4, seed=2)


@pytest.mark.parametrize(
    ("expected", "actual", "words"),
    [
        (A, A * 1.0001, "scaled by 1.0001"),
        (A, A[:, ::-1], "channels reversed"),
        (A, np.roll(A, 3, 1), "channels permuted: 5-7, 0-4"),
        (A, A * 0, "all zero"),
        (A + B, A, "residual missing: b is not added"),
        (A + B, A + B / 2, "residual scaled: b is added 0.5 times"),
        (A + B, A + C, "residual: c is added instead of b"),
        (A + B, np.maximum(A, 0) + B, "relu on a before it is added"),
        (np.maximum(A, 0), A, "relu is missing"),
        (np.maximum(A, 0), A / (1 + np.exp(-A)), "silu (swish) of a instead of relu"),
        (np.concatenate([A, B], 1), np.concatenate([B, A], 1), "concatenates b, a instead of a, b"),
        (A.mean((2, 3)), A.mean((1, 2))[:, :1].repeat(8, 1), ""),
        (A.mean((2, 3), keepdims=True), A.mean((1, 2), keepdims=True), "mean over axes [1, 2] of a"),
        (A, np.where(array(2, 8, 4, 4, seed=9) > 0, 2 * A, 0), "dropout is active, rate 0.5"),
        (A, A.astype(np.float32).astype(np.float64), "computed in float32"),
        (A, A + np.arange(8).reshape(1, 8, 1, 1), "bias"),
        (A, array(2, 8, 4, 4, seed=7), ""),
    ],
)
def test_a_hypothesis_explains_what_was_done_and_nothing_else(expected, actual, words):
    found = explained(np.ascontiguousarray(expected), np.ascontiguousarray(actual), a=A, b=B, c=C)
    assert words in found if words else found == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.swapaxes(0, 1), "transposed"),
        (lambda w: w[:, :, ::-1, ::-1], "flipped in space"),
        (lambda w: w[[1, 0, *range(2, 8)]], "entries of axis 0 permuted: 1, 0, 2-7"),
        (lambda w: w.astype(np.float16).astype(np.float32), "rounded to float16"),
        (lambda w: w * np.float32(1.5), "scaled by 1.5"),
        (lambda w: -w, "negated"),
        (lambda w: np.zeros_like(w), "0 everywhere"),
        (lambda w: array(8, 8, 3, 3, seed=5).astype(np.float32), "the reference's other"),
        (lambda w: w + (np.arange(3) == 1).astype(np.float32), "192 of 576 elements differ"),
        (lambda w: w + array(8, 8, 3, 3, seed=6).astype(np.float32), "all 576 elements differ"),
    ],
)
def test_a_weight_tells_what_was_done_to_it(change, words):
    from alignment.engine.explaining.explain_layer import WeightIndex, weight_cause

    weight, other = (array(8, 8, 3, 3, seed=s).astype(np.float32) for s in (4, 5))
    index = WeightIndex({"weight": weight, "other": other})
    assert words in weight_cause(weight, np.ascontiguousarray(change(weight)), index)


@pytest.mark.parametrize(
    ("actual", "words"),
    [
        (lambda before, batch: before, "never updated"),
        (lambda before, batch: 0.1 * before + 0.9 * batch, "momentum 0.9 instead of 0.1"),
        (lambda before, batch: 0.9 * before + 0.1 * batch * 31 / 32, "n = 32"),
        (lambda before, batch: before * batch, ""),
    ],
)
def test_statistics_tell_how_they_were_updated(actual, words):
    from alignment.engine.explaining.statistics import state_cause

    before, batch = np.abs(array(16)) + 1, np.abs(array(16, seed=1)) + 1
    found = state_cause(before, 0.9 * before + 0.1 * batch, actual(before, batch), 0.1)
    assert words in found if words else found == ""


def test_an_epsilon_is_solved():
    from alignment.engine.explaining.explain_layer import other_epsilon
    from alignment.engine.sides.settings import Settings

    variance, bias = np.linspace(0.5, 2, 8), np.linspace(-1, 1, 8)
    shape = (1, 8, 1, 1)
    right, wrong = (A / np.sqrt(variance + e).reshape(shape) + bias.reshape(shape) for e in (1e-5, 1e-3))
    settings = Settings("batch_norm", dict(epsilon=1e-5))
    assert "epsilon 0.001" in other_epsilon(A, right, wrong, dict(running_var=variance, bias=bias), settings)
    assert other_epsilon(A, right, right + 0.1 * C, dict(running_var=variance, bias=bias), settings) == ""
