"""The check of the initialisation: the port draws as timm does, and each mistake of one layer or all is found."""

import math

import pytest
from each import EXTREMES, each

from alignment import check_init
from paddle_dla import list_models

SMALL = "dla46x_c"
pytestmark = pytest.mark.torch


def check(model=SMALL, seeds=2):
    return check_init.check_init(check_init.InitOptions(model=model, seeds=seeds), lambda line: None)


@pytest.mark.slow
@pytest.mark.parametrize("model", each(list_models(), EXTREMES))
def test_the_port_starts_from_the_distribution_of_timm(model):
    result = check(model)
    assert result.passed, result.verdict()
    assert all(row.direction == "init" for row in result.rows)


def conv_std(layer, fan):
    return math.sqrt(2.0 / fan(*layer.weight.shape))


def fan_in(layer):
    import paddle

    std = conv_std(layer, lambda out, inner, kh, kw: inner * kh * kw)
    paddle.assign(paddle.normal(0.0, std, layer.weight.shape), layer.weight)


def xavier(layer):
    import paddle

    bound = math.sqrt(3) * conv_std(layer, lambda out, inner, kh, kw: (out + inner) * kh * kw)
    paddle.assign(paddle.uniform(layer.weight.shape, min=-bound, max=bound), layer.weight)


# mistake -> what is done instead to each convolution, and what must be said of the classifier, whose fans differ
MISTAKES = {
    "fan_in": (fan_in, "He's by fan_in) instead of"),
    "Xavier uniform": (xavier, "uniform instead of normal; standard deviation"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_another_rule_for_all_convolutions_is_named(mistake, monkeypatch):
    import paddle
    from paddle import nn

    from paddle_dla.models import dla

    change, words = MISTAKES[mistake]

    @paddle.no_grad()
    def mistaken(model):
        for layer in model.sublayers():
            if isinstance(layer, nn.Conv2D):
                change(layer)

    monkeypatch.setattr(dla, "init_weights", mistaken)
    result = check()
    causes = {found.layer: found.cause for found in result.culprits}
    assert words in causes["fc.weight"]
    assert not any("bn" in layer for layer in causes)


def after(monkeypatch, change):
    """The port's initialisation with ``change(model)`` behind it."""
    import paddle

    from paddle_dla.models import dla

    right = dla.init_weights

    @paddle.no_grad()
    def mistaken(model):
        right(model)
        change(model)

    monkeypatch.setattr(dla, "init_weights", mistaken)


def test_a_batch_norm_that_starts_at_zero_is_named(monkeypatch):
    import paddle

    def zero(model):
        weight = model.level3.tree1.tree1.bn3.weight
        paddle.assign(paddle.zeros_like(weight), weight)

    after(monkeypatch, zero)
    (found,) = check().culprits
    assert (found.layer, found.cause) == ("level3.tree1.tree1.bn3.weight", "constant 0 instead of constant 1")


def test_one_tensor_that_is_there_twice_is_named(monkeypatch):
    import paddle

    def copy(model):
        paddle.assign(model.level3.tree1.tree1.conv2.weight, model.level3.tree1.tree2.conv2.weight)

    after(monkeypatch, copy)
    (found,) = check().culprits
    assert found.layer == "level3.tree1.tree2.conv2.weight"
    assert found.cause.startswith("the same random numbers as level3.tree1.tree1.conv2.weight")


def test_numbers_that_no_seed_of_paddle_reaches_are_named(monkeypatch):
    import numpy as np
    import paddle

    def from_numpy(model):
        values = np.random.default_rng().normal(0, math.sqrt(2 / 1000), model.fc.weight.shape)
        paddle.assign(paddle.to_tensor(values.astype(np.float32)), model.fc.weight)

    after(monkeypatch, from_numpy)
    (found,) = check().culprits
    assert (found.layer, "seed does not reach it" in found.cause) == ("fc.weight", True)


def test_random_states_stay_as_they_were():
    import paddle
    import torch

    paddle.seed(7)
    torch.manual_seed(7)
    expected = paddle.randn([3]).tolist(), torch.randn(3).tolist()
    paddle.seed(7)
    torch.manual_seed(7)
    check_init.fresh_paddle(SMALL, 1)
    check_init.fresh_timm(SMALL, 1)
    assert (paddle.randn([3]).tolist(), torch.randn(3).tolist()) == expected


def test_the_command_reports_and_ends_with_0(capsys, tmp_path):
    arguments = ["--model", SMALL, "--seeds", "2", "--html", str(tmp_path / "page.html")]
    assert check_init.main(arguments) == 0
    out = capsys.readouterr().out
    assert "distance" in out
    assert "base_layer.1.num_batches_tracked and 47 more like it" in out
    assert "chance" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("seeds", ["1", "0", "two"])
def test_fewer_than_two_seeds_are_refused(seeds, capsys):
    with pytest.raises(SystemExit) as ended:
        check_init.main(["--model", SMALL, "--seeds", seeds])
    assert ended.value.code == 2
    assert "cannot tell random from constant" in capsys.readouterr().err
