"""BatchNorm folded into convolutions: the same function, and only where it is the same."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from each import EXTREMES, each
from paddle import nn
from small_models import noise, small_model, train_norm

from paddle_dla import list_models
from paddle_dla.exporting.fold import fold_batch_norms

# Two roundings of each weight, and sums in another order, through a hundred layers: in float64 the twelve networks
# measure 5e-15 at most. A constant kept in float32 (1e-5 as epsilon) would be off by 1e-12.
LIMIT = 2.0**-53 * 2**8


def relative(actual, expected):
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def run(model, images):
    with paddle.no_grad():
        return model(paddle.to_tensor(images)).numpy()


def norms(model):
    return [name for name, layer in model.named_sublayers() if isinstance(layer, nn.BatchNorm2D)]


class Small(nn.Layer):
    """Two convolutions and a BN each; subclasses wire them."""

    def __init__(self, **norm):
        super().__init__()
        self.conv, self.bn = nn.Conv2D(3, 4, 3, padding=1), nn.BatchNorm2D(4, **norm)
        self.conv2, self.bn2 = nn.Conv2D(4, 4, 3, padding=1, groups=2, bias_attr=False), nn.BatchNorm2D(4)
        for seed, layer in enumerate((self.bn, self.bn2)):
            train_norm(layer, np.random.RandomState(seed))

    def forward(self, x):
        return self.bn2(self.conv2(F.relu(self.bn(self.conv(x)))))


class ReadByAddition(Small):
    def forward(self, x):
        y = self.conv(x)
        return self.bn2(self.conv2(self.bn(y) + y))


class ReadByConcatenation(Small):
    def forward(self, x):
        y = self.conv(x)
        return paddle.concat([self.bn2(self.conv2(self.bn(y))), y], 1)


class ReadByTwoNorms(Small):
    def forward(self, x):
        y = self.conv(x)
        return self.bn(y) * self.bn2(y)


class NotDirectlyBehind(Small):
    def forward(self, x):
        return self.bn2(self.conv2(self.bn(F.relu(self.conv(x)))))


class BehindTwoConvolutions(Small):
    def forward(self, x):
        y = self.bn(self.conv(x))
        return self.bn2(self.conv2(self.bn(self.conv2(y))))


class ReadByAnotherNormThroughRelu(Small):
    def forward(self, x):
        y = self.conv(x)
        return self.bn(y) + self.bn2(F.relu(y))


class Returned(Small):
    def forward(self, x):
        y = self.conv(x)
        return self.bn2(self.conv2(self.bn(y))) + y


@pytest.mark.parametrize("name", each(list_models(), EXTREMES))
def test_every_batch_norm_is_folded_exactly(name):
    model = small_model(name)
    model.to(dtype="float64")
    images = noise(2).astype(np.float64)
    folded, names = fold_batch_norms(model, images)
    assert names == norms(model) and not norms(folded)
    assert relative(run(folded, images), run(model, images)) < LIMIT


@pytest.mark.parametrize("norm", [{}, {"weight_attr": False, "bias_attr": False}, {"epsilon": 0.1}], ids=str)
def test_biases_groups_epsilon_and_missing_affine_parameters_are_respected(norm):
    model = Small(**norm)
    model.to(dtype="float64")
    model.eval()
    images = noise(2).astype(np.float64)
    folded, names = fold_batch_norms(model, images)
    assert names == ["bn", "bn2"]
    assert relative(run(folded, images), run(model, images)) < LIMIT


@pytest.mark.parametrize(
    ("wiring", "kept"),
    [
        (ReadByAddition, ["bn"]),
        (ReadByConcatenation, ["bn"]),
        (ReadByTwoNorms, ["bn", "bn2"]),
        (NotDirectlyBehind, ["bn"]),
        (BehindTwoConvolutions, ["bn", "bn2"]),
        (ReadByAnotherNormThroughRelu, ["bn", "bn2"]),
        (Returned, ["bn"]),
    ],
)
def test_what_is_read_elsewhere_too_is_left(wiring, kept):
    model = wiring()
    model.eval()
    images = noise(2)
    folded, _ = fold_batch_norms(model, images)
    assert norms(folded) == kept
    # float32 here: a wrong fold is off by the size of the values
    assert relative(run(folded, images), run(model, images)) < 1e-5


def test_statistics_of_the_batch_itself_are_not_folded():
    model = Small(use_global_stats=False)
    assert fold_batch_norms(model, noise(2))[1] == ["bn2"]


def test_a_convolution_with_a_hook_is_not_folded():
    model = Small()
    model.conv.register_forward_post_hook(lambda layer, inputs, output: output * 2)
    assert fold_batch_norms(model, noise(2))[1] == ["bn2"]


def test_what_is_read_elsewhere_is_seen_without_gradients_too():
    with paddle.no_grad():
        assert norms(fold_batch_norms(ReadByAddition(), noise(2))[0]) == ["bn"]


def test_the_model_is_left_alone():
    model = Small()
    model.train()
    before = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    fold_batch_norms(model, noise(2))
    assert model.training and norms(model) == ["bn", "bn2"]
    assert not any(layer._forward_post_hooks for layer in model.sublayers())
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name], err_msg=name)


@pytest.mark.parametrize("forgotten", ["_mean", "_variance", "weight", "bias"])
def test_a_fold_that_forgets_a_term_is_seen(forgotten):
    model = Small()
    model.to(dtype="float64")
    model.eval()
    images = noise(2).astype(np.float64)
    expected = run(model, images)
    neutral = 1.0 if forgotten in ("_variance", "weight") else 0.0
    getattr(model.bn, forgotten).set_value(np.full(4, neutral))
    assert relative(run(fold_batch_norms(model, images)[0], images), expected) > LIMIT * 1000


class Activated(nn.BatchNorm2D):
    """As timm's BatchNormAct2d: one layer that normalises and activates."""

    def __init__(self, channels: int, act: nn.Layer):
        super().__init__(channels)
        self.act = act

    def forward(self, x):
        return self.act(super().forward(x))


class Doubled(nn.BatchNorm2D):
    """Not the affine map that its statistics say."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("norm", [Activated(6, nn.ReLU6()), Activated(6, nn.Identity()), Doubled(6)])
def test_a_norm_that_does_more_keeps_the_rest(norm):
    train_norm(norm, np.random.RandomState(1))
    model = nn.Sequential(nn.Conv2D(3, 6, 3, bias_attr=False), norm)
    model.eval()
    images = noise(2)
    folded, names = fold_batch_norms(model, images)
    with paddle.no_grad():
        ours, expected = folded(paddle.to_tensor(images)).numpy(), model(paddle.to_tensor(images)).numpy()
    assert np.abs(ours - expected).max() <= 1e-5 * np.abs(expected).max()
    assert names == ([] if isinstance(norm, Doubled) else ["1"])
