"""Every layer rule of the translator against torch, in evaluation and in training: outputs, gradients, statistics."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
import paddle  # noqa: E402
from torch import nn  # noqa: E402
from translating import Holder, Port, assert_close, normal  # noqa: E402

from convert.translate.layers import LAYERS  # noqa: E402
from convert.translate.plain import TranslationError  # noqa: E402
from torch_ref.model import import_timm  # noqa: E402

T = import_timm().layers
torchvision = importlib.import_module("torchvision")  # after timm, which may have to declare its operators

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread")]

ROUNDING = 1e-12
"""float64 rounding of a few sums, relative to the largest element."""
AVERAGE = 1e-7
"""The backward of Paddle's average pools divides by the area in float32."""
EPSILON = 1e-10
"""Paddle keeps the epsilon of a normalisation in float32."""
CONSTANT = 1e-7
"""A constant that Paddle or torch keeps in float32."""


@dataclass(frozen=True)
class Case:
    """A ``layer`` and the shape of its input; ``random``: what training does has no counterpart, number for number."""

    layer: nn.Module
    input: torch.Tensor
    within: float = ROUNDING
    random: bool = False

    @property
    def operator(self) -> str:
        """The class, as the table of rules has it."""
        return f"{type(self.layer).__module__}.{type(self.layer).__qualname__}"


def case(layer, x, within=ROUNDING, random=False):
    """A row; a shape stands for normal numbers, and parameters and buffers are drawn."""
    generator = torch.Generator().manual_seed(3)
    for name, value in [*layer.named_parameters(), *layer.named_buffers()]:
        if value.is_floating_point():
            drawn = torch.randn(value.shape, generator=generator)
            value.data.copy_(drawn.abs() + 0.5 if "var" in name else drawn)
    return Case(layer, normal(*x) if isinstance(x, tuple) else x, within, random)


IMAGE = (2, 4, 7, 6)
LINE = (2, 4, 9)
ROWS = (3, 5, 4)
VOLUME = (2, 2, 4, 5, 4)

CASES = [
    case(nn.Conv1d(4, 6, 3, 2, 1, 2, 2), LINE),
    case(nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), bias=False), IMAGE),
    case(nn.Conv2d(4, 4, 3, padding="same", groups=4), IMAGE),
    case(nn.Conv2d(4, 3, 3, padding="same", dilation=(1, 2)), IMAGE),
    case(nn.Conv2d(4, 3, (2, 4), padding="same"), IMAGE),
    case(nn.Conv2d(4, 3, 3, padding=(1, 2), padding_mode="circular"), IMAGE),
    case(nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"), IMAGE),
    case(nn.Conv3d(2, 3, (3, 2, 3), 2, 1), VOLUME),
    case(nn.ConvTranspose1d(4, 3, 3, 2, 1, 1), LINE),
    case(nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), 1, (1, 0), 2), IMAGE),
    case(nn.ConvTranspose3d(2, 3, 3, 2, 1, 1), VOLUME),
    case(T.Conv2dSame(4, 6, 3, 2), IMAGE),
    case(T.Conv2dSame(4, 4, (3, 5), (2, 3), dilation=2, groups=2, bias=False), IMAGE),
    case(T.StdConv2d(4, 6, 3, 2, 1), IMAGE, EPSILON),
    case(T.StdConv2dSame(4, 6, 3, 2), IMAGE, EPSILON),
    case(T.ScaledStdConv2d(4, 6, 3, 2, 1), IMAGE, EPSILON),
    case(T.ScaledStdConv2dSame(4, 6, 3, 2, bias=False), IMAGE, EPSILON),
    case(nn.Linear(4, 6), ROWS),
    case(nn.Linear(4, 6, bias=False), (3, 4)),
    case(T.Linear(4, 6), ROWS),
    case(nn.Embedding(7, 4), torch.tensor([[1, 3, 1], [0, 6, 2]])),
    case(nn.Embedding(7, 4, padding_idx=1), torch.tensor([[1, 3, 1], [0, 6, 2]])),
    case(nn.BatchNorm1d(4), (6, 4), EPSILON),
    case(nn.BatchNorm1d(4, momentum=0.3, affine=False), LINE, EPSILON),
    case(nn.BatchNorm2d(4, eps=1e-3), IMAGE, EPSILON),
    case(nn.BatchNorm2d(4, track_running_stats=False), IMAGE, EPSILON),
    case(nn.BatchNorm3d(2), VOLUME, EPSILON),
    case(T.BatchNormAct2d(4), IMAGE, EPSILON),
    case(T.BatchNormAct2d(4, act_layer=nn.SiLU), IMAGE, EPSILON),
    case(T.FrozenBatchNormAct2d(4), IMAGE, EPSILON),
    case(torchvision.ops.FrozenBatchNorm2d(4), IMAGE, EPSILON),
    case(nn.LayerNorm(4), ROWS, EPSILON),
    case(nn.LayerNorm((5, 4), eps=1e-6, elementwise_affine=False), ROWS, EPSILON),
    case(nn.LayerNorm(4, bias=False), ROWS, EPSILON),
    case(T.LayerNorm(4), ROWS, EPSILON),
    case(T.LayerNorm2d(4), IMAGE, EPSILON),
    case(T.LayerNormAct(4), ROWS, EPSILON),
    case(T.LayerNormAct2d(4, act_layer=nn.GELU), IMAGE, EPSILON),
    case(T.GroupNormAct(4, 2), IMAGE, EPSILON),
    case(T.GroupNorm1(4), IMAGE, EPSILON),
    case(T.RmsNorm(4), ROWS, EPSILON),
    case(nn.RMSNorm(4, eps=1e-6), ROWS, EPSILON),
    case(nn.GroupNorm(2, 4), IMAGE, EPSILON),
    case(nn.GroupNorm(2, 4, affine=False), IMAGE, EPSILON),
    case(nn.InstanceNorm1d(4), LINE, EPSILON),
    case(nn.InstanceNorm2d(4, affine=True), IMAGE, EPSILON),
    case(nn.InstanceNorm3d(2), VOLUME, EPSILON),
    case(nn.InstanceNorm1d(4, momentum=0.3, track_running_stats=True), LINE, EPSILON),
    case(nn.InstanceNorm2d(4, eps=1e-3, affine=True, track_running_stats=True), IMAGE, EPSILON),
    case(nn.MaxPool2d(3, stride=1, padding=1, dilation=2), IMAGE),
    case(nn.LocalResponseNorm(3), IMAGE, CONSTANT),
    case(nn.LSTM(4, 3), ROWS),
    case(nn.LSTM(4, 3, 2, batch_first=True, bidirectional=True), ROWS),
    case(nn.LSTM(4, 3, bias=False), ROWS),
    case(nn.LSTM(4, 3, 2, dropout=0.5), ROWS, random=True),
    case(nn.LSTM(4, 3, proj_size=2), ROWS),
    case(nn.RNN(4, 3, nonlinearity="relu", bidirectional=True), ROWS),
    case(nn.GRU(4, 3), ROWS),
    case(nn.GRU(4, 3, 2, batch_first=True, bidirectional=True), ROWS),
    case(nn.MaxPool1d(3, 2, 1), LINE),
    case(nn.MaxPool2d((3, 4), 2, 1, ceil_mode=True), IMAGE),
    case(nn.MaxPool3d(2), VOLUME),
    case(nn.AvgPool1d(3, 2, 1), LINE, AVERAGE),
    case(nn.AvgPool2d(3, 2, 1, count_include_pad=False), IMAGE, AVERAGE),
    case(nn.AvgPool2d(2), IMAGE),
    case(nn.AvgPool2d((3, 2), (2, 1), (1, 0), ceil_mode=True), IMAGE, AVERAGE),
    case(nn.AvgPool3d(2, 2, 1), VOLUME),
    case(nn.AdaptiveAvgPool2d((3, 4)), IMAGE),
    case(nn.AdaptiveMaxPool2d(3), IMAGE),
    case(T.pool2d_same.MaxPool2dSame(3, 2), IMAGE),
    case(T.pool2d_same.AvgPool2dSame((2, 4), 2), IMAGE),
    case(nn.Dropout(0.3), (40, 40), random=True),
    case(nn.Dropout1d(0.3), (40, 40, 2), random=True),
    case(nn.Dropout2d(0.3), (40, 40, 2, 2), random=True),
    case(nn.Dropout3d(0.3), (40, 40, 2, 1, 1), random=True),
    case(nn.AlphaDropout(0.3), (40, 40), random=True),
    case(nn.FeatureAlphaDropout(0.3), (40, 40, 2), random=True),
    case(T.DropPath(0.3), (900, 2, 2), random=True),
    case(T.DropPath(0.3, scale_by_keep=False), (900, 2, 2), random=True),
    case(torchvision.ops.StochasticDepth(0.3, "row"), (900, 2, 2), random=True),
    case(T.DropBlock2d(0.3, 3), (90, 2, 8, 8), random=True),
    case(T.DropBlock2d(0.1, 4, 0.5, couple_channels=False, scale_by_keep=False), (90, 4, 7, 9), random=True),
    case(T.DropBlock2d(0.2, 9, with_noise=True), (90, 2, 6, 7), random=True),
    case(T.PatchDropout(0.3), (9, 21, 4), random=True),
    case(T.PatchDropout(0.5, 0, ordered=True), (9, 20, 4), random=True),
    case(nn.ReLU(inplace=True), ROWS),
    case(nn.ReLU6(), ROWS),
    case(nn.SiLU(inplace=True), ROWS),
    case(nn.SiLU(), torch.tensor([-800.0, -100.0, 0.0, 100.0], dtype=torch.float64)),
    case(T.Swish(), ROWS),
    case(nn.Sigmoid(), ROWS),
    case(nn.Tanh(), ROWS),
    case(nn.Hardswish(), ROWS),
    case(T.HardSwish(), ROWS),
    case(T.HardSigmoid(), ROWS),
    case(nn.Hardsigmoid(), ROWS, CONSTANT),
    case(nn.Hardtanh(-0.5, 0.7), ROWS),
    case(nn.LeakyReLU(0.1, inplace=True), ROWS),
    case(nn.PReLU(), ROWS),
    case(nn.PReLU(5), ROWS),
    case(T.PReLU(), ROWS),
    case(nn.ELU(0.7), ROWS),
    case(nn.CELU(0.7), ROWS, CONSTANT),
    case(nn.SELU(), ROWS),
    case(nn.Softplus(2.0, 1.0), ROWS),
    case(nn.Softsign(), ROWS),
    case(nn.Tanhshrink(), ROWS),
    case(nn.LogSigmoid(), ROWS),
    case(nn.RReLU(0.1, 0.3), ROWS, CONSTANT, random=True),
    case(nn.Threshold(0.1, 0.5), ROWS),
    case(nn.GLU(), ROWS),
    case(nn.Mish(), ROWS),
    case(T.Mish(), ROWS),
    case(T.HardMish(), ROWS),
    case(nn.GELU(), ROWS),
    case(nn.GELU("tanh"), ROWS),
    case(T.GELU(), ROWS),
    case(T.GELUTanh(), ROWS),
    case(T.QuickGELU(), ROWS),
    case(nn.Softmax(dim=1), ROWS),
    case(nn.LogSoftmax(dim=1), ROWS),
    case(nn.Flatten(), IMAGE),
    case(nn.Flatten(2, 3), IMAGE),
    case(nn.PixelShuffle(2), IMAGE),
    case(nn.PixelUnshuffle(2), (2, 3, 4, 6)),
    case(nn.ZeroPad2d((1, 2, 0, 1)), IMAGE),
    case(nn.ReflectionPad1d(2), LINE),
    case(nn.Upsample(scale_factor=2, mode="bilinear"), IMAGE),
    case(nn.UpsamplingBilinear2d((9, 5)), IMAGE),
    case(nn.Unfold(3, padding=1), IMAGE),
    case(torchvision.ops.Conv2dNormActivation(4, 6, 3), IMAGE, EPSILON),
    case(torchvision.ops.SqueezeExcitation(4, 2), IMAGE, 1e-11),
]  # fmt: skip
"""Layers, taken whole or through their graphs."""

numbers = range(len(CASES))
names = [f"{type(row.layer).__name__}-{place}" for place, row in enumerate(CASES)]
every_case = pytest.mark.parametrize("position", numbers, ids=names)
exact = [place for place in numbers if not CASES[place].random]
drawn = [place for place in numbers if CASES[place].random and "Dro" in names[place] + CASES[place].operator]


@functools.cache
def port(position):
    """The port of a row, for all of its tests."""
    row = CASES[position]
    return Port.of(Holder(row.layer), (row.input,))


@functools.cache
def reference(position):
    return port(position).torch_run()


@functools.cache
def run(position):
    return port(position).paddle_run()


def test_every_layer_has_a_case():
    parameters = {"torch.nn.modules.container.ParameterList"}  # never called; its case is in test_port_modules
    assert {name for name, rule in LAYERS.items() if not rule.refused} <= {row.operator for row in CASES} | parameters


@every_case
def test_the_output_is_torchs(position):
    assert_runs(run(position).outputs, reference(position).outputs, CASES[position].within)


@every_case
def test_the_gradient_is_torchs(position):
    assert_gradients(run(position).gradients, reference(position).gradients, CASES[position].within)


@pytest.mark.parametrize("position", exact, ids=[names[place] for place in exact])
def test_training_is_torchs(position):
    ours, theirs, within = (
        port(position).paddle_run(training=True),
        port(position).torch_run(training=True),
        CASES[position].within,
    )
    assert_runs(ours.outputs, theirs.outputs, within)
    assert_gradients(ours.gradients, theirs.gradients, within)
    for name, value in ours.buffers.items():
        assert_close(value, theirs.buffers[name], within)


@pytest.mark.parametrize("name", ["Linear", "BatchNorm2d", "PReLU"])
def test_a_single_layer_is_a_model(name):
    row = next(row for row in CASES if type(row.layer).__name__ == name)
    alone = Port.of(row.layer, (row.input,))
    for training in (False, True):
        ours, theirs = alone.paddle_run(training=training), alone.torch_run(training=training)
        assert_runs(ours.outputs, theirs.outputs, EPSILON)
        assert_gradients(ours.gradients, theirs.gradients, EPSILON)


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), T.DropPath(0.5)], ids=lambda layer: type(layer).__name__)
def test_a_model_that_only_drops_is_refused(layer):
    with pytest.raises(TranslationError, match="does nothing in evaluation"):
        Port.of(layer, (normal(5, 4),))


@pytest.mark.parametrize("position", drawn, ids=[names[place] for place in drawn])
def test_what_training_draws_has_torchs_distribution(position):
    """As many zeros, mean and spread as torch's: each within what 900 draws leave open."""
    paddle.seed(0)
    torch.manual_seed(0)
    (ours,), (theirs,) = (
        port(position).paddle_run(training=True).outputs,
        port(position).torch_run(training=True).outputs,
    )
    assert ours.shape == theirs.shape
    assert abs((ours == 0).mean() - (theirs == 0).mean()) < 0.1
    assert abs(ours.std() - theirs.std()) < 0.1 * theirs.std() + 0.05
    np.testing.assert_allclose(ours.mean(), theirs.mean(), atol=0.15)


def assert_runs(ours, theirs, within):
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        assert_close(our, their, within)


def assert_gradients(ours, theirs, within):
    largest = max((np.abs(value).max(initial=0) for value in theirs.values()), default=0)
    for place in ours.keys() | theirs.keys():
        present = theirs.get(place, ours.get(place))
        our, their = ours.get(place, present * 0), theirs.get(place, present * 0)
        assert our.shape == their.shape
        np.testing.assert_allclose(our, their, rtol=0, atol=within * max(largest, 1e-300))
