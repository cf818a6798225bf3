"""Modules that draw random numbers in training: their ports draw as many, or there is no port."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
import paddle  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402
from translating import Holder, Port, assert_close, normal  # noqa: E402

from convert.translate.plain import TranslationError  # noqa: E402
from convert.translate.translator import translate  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread")]

ROWS = torch.ones(40, 30, 20, dtype=torch.float64)


class ByFunction(nn.Module):
    """``function(x, training)`` in the forward method."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x, self.training)


DRAWN = {
    "dropout": (lambda x, training: F.dropout(x, 0.3, training), ROWS),
    "dropout in place": (lambda x, training: F.dropout(x * 1, 0.3, training, inplace=True), ROWS),
    "channels": (lambda x, training: F.dropout1d(x, 0.3, training), ROWS),
    "alpha": (lambda x, training: F.alpha_dropout(x, 0.3, training), ROWS),
    "channels, alpha": (lambda x, training: F.feature_alpha_dropout(x, 0.3, training), ROWS),
    "attention": (lambda x, training: F.scaled_dot_product_attention(x, x, x, None, 0.3 if training else 0.0), ROWS),
    "uniform": (lambda x, training: x + torch.rand_like(x) if training else x, ROWS),
    "normal": (lambda x, training: x + torch.randn(x.shape, dtype=x.dtype) if training else x, ROWS),
    "exponential": (lambda x, training: x + torch.empty_like(x).exponential_(2.0) if training else x, ROWS),
    "a share": (lambda x, training: x * torch.bernoulli(x * 0.3) if training else x, ROWS),
    "one share": (lambda x, training: x * torch.bernoulli(x.detach(), 0.3) if training else x, ROWS),
    "in place": (lambda x, training: x * x.new_empty(x.shape).bernoulli_(0.3) if training else x, ROWS),
    "leaky slope": (lambda x, training: F.rrelu(-x, 0.1, 0.9, training), ROWS),
}


@pytest.mark.parametrize("name", DRAWN)
def test_what_a_forward_method_draws_in_training_is_drawn_by_the_port(name):
    function, x = DRAWN[name]
    port = Port.of(ByFunction(function), (x,))
    assert_close(port.paddle_run().outputs[0], port.torch_run().outputs[0], 1e-7)  # a slope of RReLU is in float32
    torch.manual_seed(0)
    paddle.seed(0)
    (ours,), (theirs,) = port.paddle_run(training=True).outputs, port.torch_run(training=True).outputs
    # 1200 to 24,000 draws: five standard deviations of the mean and of the spread are below 0.1 of the spread
    assert theirs.std() > 0
    np.testing.assert_allclose(ours.mean(), theirs.mean(), atol=0.1 * theirs.std())
    np.testing.assert_allclose(ours.std(), theirs.std(), rtol=0.1)


def test_what_never_draws_stays_out_of_the_port():
    port = Port.of(ByFunction(lambda x, training: F.dropout(x * 2, 0.3, training=False)), (ROWS,))
    assert "dropout" not in port.translated.source


def test_a_slope_that_is_never_drawn_is_the_mean_in_training_too():
    port = Port.of(ByFunction(lambda x, training: F.rrelu(-x, 0.1, 0.9)), (ROWS,))
    assert_close(port.paddle_run(training=True).outputs[0], port.torch_run().outputs[0], 1e-7)


def test_the_layers_of_a_transformer_keep_their_dropout():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True)
    port = Port.of(Holder(layer), (normal(2, 5, 8),))
    assert port.translated.source.count("nn.Dropout(") == 3
    assert "dropout=0.3, training=self.training" in port.translated.source


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (ByFunction(lambda x, training: torch.poisson(x.abs()) if training else x), "no rule for the operator poisson"),
        (ByFunction(lambda x, training: F.dropout(x, 0.5)), "it draws random numbers in evaluation"),
        (Holder(nn.SyncBatchNorm(4)), "its statistics are those of all processes"),
        (ByFunction(lambda x, training: x.unknown() if training else x), "it cannot be run: "),
    ],
    ids=["no rule", "in evaluation", "of all processes", "only in training"],
)  # fmt: skip
def test_what_would_be_lost_in_silence_is_refused_with_its_line(module, said):
    with pytest.raises(TranslationError) as caught:
        translate(module, (normal(3, 4, 5, 5).float(),))
    assert said in str(caught.value)
    assert ".py:" in str(caught.value)


@pytest.mark.parametrize(
    "module",
    [nn.BatchNorm2d(4, momentum=None), nn.utils.spectral_norm(nn.Conv2d(4, 3, 1)),
     nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 3, 1))],
    ids=["average of all batches", "spectral norm", "spectral norm as a parametrization"],
)  # fmt: skip
def test_what_training_changes_in_a_way_that_no_port_has_is_refused_unless_for_evaluation_only(module):
    port = Port.of(Holder(module), (normal(3, 4, 5, 5),), training=False)
    assert_close(port.paddle_run().outputs[0], port.torch_run().outputs[0], 1e-10)
    with pytest.raises(TranslationError, match="for evaluation only"):
        translate(Holder(module), (normal(3, 4, 5, 5).float(),))


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_rows_that_the_forward_scales_are_refused(kind):
    for training in (False, True):
        with pytest.raises(TranslationError, match="max_norm"):
            translate(Holder(kind(5, 3, max_norm=1.0)), (torch.tensor([[0, 4]]),), training=training)


def test_complex_weights_are_refused():
    module = nn.Linear(4, 3, dtype=torch.complex64)
    with pytest.raises(TranslationError) as caught:
        translate(module, (normal(3, 4).float(),))
    assert [stop.path for stop in caught.value.stops] == ["weight", "bias"]


def test_a_port_for_evaluation_only_leaves_out_what_training_draws():
    module = ByFunction(lambda x, training: x + torch.rand_like(x) if training else x)
    assert "rand" not in translate(module, (normal(3, 4).float(),), training=False).source


def test_looking_for_draws_changes_neither_the_model_nor_the_generator():
    module = Holder(nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(0.5)))
    kept, state = {name: value.clone() for name, value in module.state_dict().items()}, torch.get_rng_state()
    translate(module, (normal(3, 4, 5, 5).float(),))
    assert torch.equal(state, torch.get_rng_state())
    assert module.training
    assert all(torch.equal(value, kept[name]) for name, value in module.state_dict().items())
