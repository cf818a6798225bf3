"""What layers are set to: every class that a reader lists, in all spellings, on both sides."""

import numpy as np
import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
import paddle  # noqa: E402
from paddle import nn as P  # noqa: E402
from torch import nn as T  # noqa: E402

from alignment.engine.judging import settings as judging  # noqa: E402
from alignment.engine.judging.settings import Given, seen, setting_differences  # noqa: E402
from alignment.engine.sides.paddle.probe import prober as probe_paddle  # noqa: E402
from alignment.engine.sides.paddle.settings import describe as describe_paddle  # noqa: E402
from alignment.engine.sides.settings import CONTAINER, OTHER, disagreements  # noqa: E402
from alignment.engine.sides.torch.probe import prober as probe_torch  # noqa: E402
from alignment.engine.sides.torch.probe import roles  # noqa: E402
from alignment.engine.sides.torch.settings import describe as describe_torch  # noqa: E402

MAP1, MAP2, MAP3 = (2, 4, 9), (2, 4, 9, 8), (2, 4, 7, 6, 5)
LIKE = {1: MAP1, 2: MAP2, 3: MAP3}


def differing(reference, port, shape=MAP2):
    """The fields in which two layers differ, each read by its side."""
    return set(disagreements(describe_torch(reference), describe_paddle(port), shape))


def pairs():
    """``(reference, port set alike, {field: port with that changed}, shape of the input)`` by name."""
    for n in (1, 2, 3):
        shape, ones, twos = LIKE[n], [1] * n, [2] * n
        conv, turned = getattr(T, f"Conv{n}d"), getattr(T, f"ConvTranspose{n}d")
        conv_p, turned_p = getattr(P, f"Conv{n}D"), getattr(P, f"Conv{n}DTranspose")
        yield f"conv{n}", conv(4, 6, 3), conv_p(4, 6, 3), dict(
            stride=conv_p(4, 6, 3, stride=2), padding=conv_p(4, 6, 3, padding=1), groups=conv_p(4, 6, 3, groups=2),
            dilation=conv_p(4, 6, 3, dilation=2), bias=conv_p(4, 6, 3, bias_attr=False),
        ), shape  # fmt: skip
        yield f"conv{n}_given", conv(4, 6, 3, 2, 1, 2, 2, False), conv_p(
            4, 6, [3] * n, twos, [1] * 2 * n, twos, 2, bias_attr=False
        ), dict(padding=conv_p(4, 6, 3, 2, [1, 0] * n, 2, 2, bias_attr=False)), shape  # fmt: skip
        yield f"conv{n}_reflect", conv(4, 6, 3, padding=1, padding_mode="reflect"), conv_p(
            4, 6, 3, padding=1, padding_mode="reflect"
        ), dict(padding_mode=conv_p(4, 6, 3, padding=1)), shape  # fmt: skip
        yield f"conv{n}_transpose", turned(4, 6, 3, 2, 1, 1), turned_p(4, 6, 3, twos, ones, 1), dict(
            output_padding=turned_p(4, 6, 3, 2, 1, 0), stride=turned_p(4, 6, 3, 1, 1, 1)
        ), shape  # fmt: skip
        for kind in ("Max", "Avg"):
            pool, pool_p = getattr(T, f"{kind}Pool{n}d"), getattr(P, f"{kind}Pool{n}D")
            yield f"{kind}{n}", pool(2), pool_p([2] * n), dict(
                kernel_size=pool_p(3, 2), stride=pool_p(2, 1), ceil_mode=pool_p(2, ceil_mode=True)
            ), shape  # fmt: skip
            given = dict(exclusive=False) if kind == "Avg" else {}
            yield f"{kind}{n}_given", pool(3, 2, 1), pool_p([3] * n, twos, ones, **given), dict(
                padding=pool_p(3, 2, 0, **given)
            ), shape  # fmt: skip
            small, small_p = getattr(T, f"Adaptive{kind}Pool{n}d"), getattr(P, f"Adaptive{kind}Pool{n}D")
            yield f"Adaptive{kind}{n}", small(2), small_p(2 if n == 1 else twos), dict(output_size=small_p(3)), shape
        norm, norm_p = getattr(T, f"BatchNorm{n}d"), getattr(P, f"BatchNorm{n}D")
        yield f"batch_norm{n}", norm(4), norm_p(4), dict(
            epsilon=norm_p(4, epsilon=1e-3), momentum=norm_p(4, 0.1), affine=norm_p(4, weight_attr=False),
            use_batch=norm_p(4, use_global_stats=True),
        ), shape  # fmt: skip
        norm, norm_p = getattr(T, f"InstanceNorm{n}d"), getattr(P, f"InstanceNorm{n}D")
        off = dict(weight_attr=False, bias_attr=False)
        yield f"instance_norm{n}", norm(4), norm_p(4, **off), dict(
            epsilon=norm_p(4, epsilon=1e-3, **off), affine=norm_p(4)
        ), shape  # fmt: skip
        for kind, name in (("Reflection", "reflect"), ("Replication", "replicate"), ("Circular", "circular")):
            pad, pad_p = getattr(T, f"{kind}Pad{n}d"), getattr(P, f"Pad{n}D")
            sides = [1, 2, 0, 1, 1, 0][: 2 * n]
            yield f"{kind}{n}", pad(tuple(sides)), pad_p(sides, mode=name), dict(
                padding=pad_p(sides[::-1], mode=name), mode=pad_p(sides)
            ), shape  # fmt: skip
        sides = 1 if n < 3 else [1] * 6
        yield f"zero_pad{n}", getattr(T, f"ZeroPad{n}d")(1), getattr(P, f"ZeroPad{n}D")(sides), dict(
            value=getattr(P, f"Pad{n}D")(1, value=1.0)
        ), shape  # fmt: skip
        yield f"constant_pad{n}", getattr(T, f"ConstantPad{n}d")(1, 2.0), getattr(P, f"Pad{n}D")(1, value=2.0), dict(
            padding=getattr(P, f"Pad{n}D")(2, value=2.0)
        ), shape  # fmt: skip
    for n in (2, 3):
        drop, drop_p = getattr(T, f"Dropout{n}d"), getattr(P, f"Dropout{n}D")
        yield f"dropout{n}", drop(0.3), drop_p(0.3), dict(rate=drop_p(0.5), drops=P.Dropout(0.3)), LIKE[n]
    for n in (1, 2, 3):
        yield f"unpool{n}", getattr(T, f"MaxUnpool{n}d")(2), getattr(P, f"MaxUnPool{n}D")([2] * n), dict(
            stride=getattr(P, f"MaxUnPool{n}D")(2, 1)
        ), LIKE[n]  # fmt: skip
    for n in (1, 2):
        pool, pool_p = getattr(T, f"LPPool{n}d"), getattr(P, f"LPPool{n}D")
        yield f"lp_pool{n}", pool(2, 3), pool_p(2.0, [3] * n), dict(
            power=pool_p(3, 3), kernel_size=pool_p(2, 2, 3)
        ), LIKE[n]  # fmt: skip
    yield from plain_pairs()
    yield from activations()


def plain_pairs():
    """Layers of one kind of input."""
    yield "linear", T.Linear(8, 3), P.Linear(8, 3), dict(bias=P.Linear(8, 3, bias_attr=False)), MAP2
    yield "bilinear", T.Bilinear(8, 8, 3), P.Bilinear(8, 8, 3), dict(bias=P.Bilinear(8, 8, 3, bias_attr=False)), (4, 8)
    yield "old_batch_norm", T.BatchNorm2d(4), P.BatchNorm(4), dict(momentum=P.BatchNorm(4, momentum=0.5)), MAP2
    yield "sync_batch_norm", T.SyncBatchNorm(4), P.SyncBatchNorm(4), dict(epsilon=P.SyncBatchNorm(4, 0.9, 1e-3)), MAP2
    yield "layer_norm", T.LayerNorm(8), P.LayerNorm([8]), dict(
        epsilon=P.LayerNorm(8, 1e-6), normalized_shape=P.LayerNorm([9, 8]), bias=P.LayerNorm(8, bias_attr=False),
        weight=P.LayerNorm(8, weight_attr=False),
    ), MAP2  # fmt: skip
    yield "group_norm", T.GroupNorm(2, 4), P.GroupNorm(2, 4), dict(
        groups=P.GroupNorm(4, 4), epsilon=P.GroupNorm(2, 4, 1e-3)
    ), MAP2  # fmt: skip
    yield "response_norm", T.LocalResponseNorm(5), P.LocalResponseNorm(5), dict(
        size_of_window=P.LocalResponseNorm(3), alpha=P.LocalResponseNorm(5, 1e-3), k=P.LocalResponseNorm(5, k=2.0)
    ), MAP2  # fmt: skip
    yield "dropout", T.Dropout(0.3), P.Dropout(0.3), dict(
        rate=P.Dropout(0.1), mode=P.Dropout(0.3, mode="downscale_in_infer"), drops=P.Dropout2D(0.3)
    ), MAP2  # fmt: skip
    yield "alpha_dropout", T.AlphaDropout(0.3), P.AlphaDropout(0.3), dict(alpha=P.Dropout(0.3)), MAP2
    yield "feature_alpha_dropout", T.FeatureAlphaDropout(0.3), P.FeatureAlphaDropout(0.3), dict(
        drops=P.AlphaDropout(0.3)
    ), MAP2  # fmt: skip
    yield "flatten", T.Flatten(), P.Flatten(1, 3), dict(start=P.Flatten(2, 3), stop=P.Flatten(1, 2)), MAP2
    yield "upsample", T.Upsample(scale_factor=2), P.Upsample(scale_factor=[2, 2.0]), dict(
        mode=P.Upsample(scale_factor=2, mode="bicubic"), scale_factor=P.Upsample(scale_factor=3)
    ), MAP2  # fmt: skip
    bilinear = dict(mode="bilinear", size=12)
    yield "bilinear_upsample", T.Upsample(**bilinear), P.Upsample([12, 12], mode="BILINEAR"), dict(
        align_mode=P.Upsample([12, 12], mode="bilinear", align_mode=1), size=P.Upsample([12, 13], mode="bilinear"),
        align_corners=P.Upsample([12, 12], mode="bilinear", align_corners=True),
    ), MAP2  # fmt: skip
    yield "upsampling_bilinear", T.UpsamplingBilinear2d(12), P.UpsamplingBilinear2D([12, 12]), dict(
        align_corners=P.Upsample([12, 12], mode="bilinear")
    ), MAP2  # fmt: skip
    yield "upsampling_nearest", T.UpsamplingNearest2d(scale_factor=2), P.UpsamplingNearest2D(scale_factor=2), dict(
        scale_factor=P.UpsamplingNearest2D(scale_factor=3)
    ), MAP2  # fmt: skip
    yield "unfold", T.Unfold(3, 1, 1, 2), P.Unfold([3, 3], 1, [1, 1, 1, 1], 2), dict(
        padding=P.Unfold(3, 1, [1, 0, 1, 0], 2), dilation=P.Unfold(3, 2, 1, 2)
    ), MAP2  # fmt: skip
    yield (
        "fold",
        T.Fold(8, 3, 1, 1, 2),
        P.Fold([8, 8], 3, 1, 1, 2),
        dict(output_size=P.Fold([8, 9], 3, 1, 1, 2)),
        (2, 36, 16),
    )
    yield "embedding", T.Embedding(9, 4), P.Embedding(9, 4), dict(
        padding_idx=P.Embedding(9, 4, padding_idx=0), max_norm=P.Embedding(9, 4, max_norm=1.0)
    ), (2, 5)  # fmt: skip
    yield "embedding_with_padding", T.Embedding(9, 4, padding_idx=-2), P.Embedding(9, 4, padding_idx=7), dict(
        padding_idx=P.Embedding(9, 4, padding_idx=-1)
    ), (2, 5)  # fmt: skip
    yield "prelu", T.PReLU(4), P.PReLU(4), {}, MAP2
    yield "identity", T.Identity(), P.Identity(), dict(category=P.ReLU()), MAP2
    yield "pixel_shuffle", T.PixelShuffle(2), P.PixelShuffle(2), dict(factor=P.PixelShuffle(1)), MAP2
    yield "pixel_unshuffle", T.PixelUnshuffle(2), P.PixelUnshuffle(2), dict(factor=P.PixelUnshuffle(3)), (2, 4, 8, 6)
    yield "channel_shuffle", T.ChannelShuffle(2), P.ChannelShuffle(2), dict(groups=P.ChannelShuffle(4)), MAP2
    yield "unflatten", T.Unflatten(1, (2, 2)), P.Unflatten(-3, [2, 2]), dict(sizes=P.Unflatten(1, [4, 1])), MAP2
    yield "cosine", T.CosineSimilarity(1), P.CosineSimilarity(-3), dict(dim=P.CosineSimilarity(2)), MAP2
    yield "distance", T.PairwiseDistance(), P.PairwiseDistance(), dict(power=P.PairwiseDistance(1)), (4, 5)
    yield "lstm", T.LSTM(4, 5, 2, batch_first=True), P.LSTM(4, 5, 2), dict(
        batch_first=P.LSTM(4, 5, 2, time_major=True), layers=P.LSTM(4, 5), kind=P.GRU(4, 5, 2),
        bidirectional=P.LSTM(4, 5, 2, "bidirect"), rate=P.LSTM(4, 5, 2, dropout=0.5), hidden_size=P.LSTM(4, 6, 2),
    ), (2, 7, 4)  # fmt: skip
    yield "gru", T.GRU(4, 5, bidirectional=True, batch_first=True), P.GRU(4, 5, 1, "bidirect"), dict(
        bidirectional=P.GRU(4, 5)
    ), (2, 7, 4)  # fmt: skip
    yield "rnn", T.RNN(4, 5, batch_first=True), P.SimpleRNN(4, 5), dict(
        kind=P.SimpleRNN(4, 5, activation="relu")
    ), (2, 7, 4)  # fmt: skip
    yield "lstm_cell", T.LSTMCell(4, 5), P.LSTMCell(4, 5), dict(kind=P.GRUCell(4, 5)), (2, 4)
    yield "rnn_cell", T.RNNCell(4, 5), P.SimpleRNNCell(4, 5), dict(kind=P.SimpleRNNCell(4, 5, "relu")), (2, 4)
    yield "attention", T.MultiheadAttention(8, 2), P.MultiHeadAttention(8, 2), dict(
        heads=P.MultiHeadAttention(8, 4), rate=P.MultiHeadAttention(8, 2, 0.1)
    ), (2, 5, 8)  # fmt: skip


def activations():
    """Layers that work element by element or along one axis."""
    for name, twin in {
        "ReLU": "ReLU", "ReLU6": "ReLU6", "SELU": "SELU", "SiLU": "Silu", "Sigmoid": "Sigmoid", "Tanh": "Tanh",
        "LogSigmoid": "LogSigmoid", "Hardswish": "Hardswish", "Tanhshrink": "Tanhshrink", "Softsign": "Softsign",
        "Mish": "Mish", "Softmax2d": "Softmax2D",
    }.items():  # fmt: skip
        other = P.ReLU() if name != "ReLU" else P.GELU()
        yield name, getattr(T, name)(), getattr(P, twin)(), dict(kind=other), MAP2
    yield "swish", T.SiLU(), P.Swish(), dict(kind=P.Mish()), MAP2
    yield "leaky_relu", T.LeakyReLU(), P.LeakyReLU(), dict(slope=P.LeakyReLU(0.2)), MAP2
    yield "rrelu", T.RReLU(), P.RReLU(), dict(lower=P.RReLU(0.2)), MAP2
    yield "elu", T.ELU(), P.ELU(), dict(alpha=P.ELU(0.5)), MAP2
    yield "celu", T.CELU(), P.CELU(), dict(alpha=P.CELU(0.5)), MAP2
    yield "other_selu", T.SELU(), P.SELU(), dict(kind=P.SELU(alpha=1.7)), MAP2
    yield "gelu", T.GELU(), P.GELU(), dict(approximate=P.GELU(True)), MAP2
    yield "gelu_tanh", T.GELU("tanh"), P.GELU(True), dict(approximate=P.GELU()), MAP2
    yield "hardtanh", T.Hardtanh(), P.Hardtanh(), dict(min=P.Hardtanh(-2.0), max=P.Hardtanh(-1.0, 2.0)), MAP2
    yield "hardshrink", T.Hardshrink(), P.Hardshrink(), dict(threshold=P.Hardshrink(0.1)), MAP2
    yield "softshrink", T.Softshrink(), P.Softshrink(), dict(threshold=P.Softshrink(0.1)), MAP2
    yield "softplus", T.Softplus(), P.Softplus(), dict(beta=P.Softplus(2), threshold=P.Softplus(1, 10)), MAP2
    yield "threshold", T.Threshold(1, 0), P.ThresholdedReLU(), dict(threshold=P.ThresholdedReLU(2.0)), MAP2
    yield "maxout", T.ReLU(), P.ReLU(), dict(kind=P.Maxout(2)), MAP2
    yield "softmax", T.Softmax(1), P.Softmax(-3), dict(dim=P.Softmax()), MAP2
    yield "softmax_without_axis", T.Softmax(), P.Softmax(1), dict(dim=P.Softmax()), MAP2
    yield "log_softmax", T.LogSoftmax(1), P.LogSoftmax(-3), dict(dim=P.LogSoftmax()), MAP2
    yield "glu", T.GLU(), P.GLU(3), dict(dim=P.GLU(1)), MAP2


PAIRS = {name: rest for name, *rest in pairs()}


@pytest.mark.parametrize("name", PAIRS)
def test_equal_settings_are_equal_and_each_changed_one_is_seen(name):
    reference, port, changed, shape = PAIRS[name]
    assert differing(reference, port, shape) == set()
    for field, other in changed.items():
        assert field in differing(reference, other, shape), field


@pytest.mark.parametrize("name", PAIRS)
def test_every_class_has_a_kind_of_its_own(name):
    reference, port, *_ = PAIRS[name]
    a, b = describe_torch(reference), describe_paddle(port)
    assert a.category == b.category != OTHER
    assert a.category != CONTAINER or a.fields["kind"] == b.fields["kind"]


def listed(settings):
    """Names of the classes that a reader lists."""
    for known, _ in settings._READERS:
        for kind in known if isinstance(known, tuple) else (known,):
            yield kind.__name__
    yield from (kind if isinstance(kind, str) else kind.__name__ for kind in settings.ACTIVATIONS)


def test_no_class_that_is_listed_goes_untested():
    from alignment.engine.sides.paddle import settings as of_paddle
    from alignment.engine.sides.torch import settings as of_torch

    ports = [port for _, port, changed, _ in PAIRS.values() for port in (port, *changed.values())]
    met = {kind.__name__ for port in ports for kind in type(port).__mro__}
    # Hardsigmoid has a test of its own, SiLU is another name of Silu, torch's spectral_norm is no layer
    assert set(listed(of_paddle)) - met == {"Hardsigmoid", "SiLU", "SpectralNorm"}
    met = {kind.__name__ for reference, *_ in PAIRS.values() for kind in type(reference).__mro__}
    assert set(listed(of_torch)) - met == {"Hardsigmoid", "RMSNorm"}  # which Paddle does not have


def test_a_layer_of_one_side_alone_is_read():
    assert describe_torch(T.RMSNorm(4)).fields["normalized_shape"] == (4,)
    assert describe_paddle(P.SpectralNorm([3, 4])).fields["steps"] == 1


def test_paddles_hardsigmoid_has_another_slope():
    assert differing(T.Hardsigmoid(), P.Hardsigmoid()) == {"slope"}


@pytest.mark.parametrize(
    ("reference", "port"),
    [
        (T.Conv2d(4, 6, 3, padding="same"), P.Conv2D(4, 6, 3, padding=1)),
        (T.Conv2d(4, 6, (4, 3), padding="same"), P.Conv2D(4, 6, (4, 3), padding=[1, 2, 1, 1])),
        (T.Conv2d(4, 6, 3, padding="same", dilation=2), P.Conv2D(4, 6, 3, padding=[2, 2, 2, 2], dilation=2)),
        (T.Conv2d(4, 6, 4, padding="same"), P.Conv2D(4, 6, 4, padding="SAME")),
        (T.Conv2d(4, 6, 3, padding="valid"), P.Conv2D(4, 6, 3, padding="VALID")),
        (T.Conv2d(4, 6, 1, padding="same"), P.Conv2D(4, 6, 1)),
        (T.Conv2d(4, 6, 3, padding=(1, 2)), P.Conv2D(4, 6, 3, padding=[[0, 0], [0, 0], [1, 1], [2, 2]])),
        (T.Conv2d(4, 6, 3, padding_mode="reflect"), P.Conv2D(4, 6, 3)),
        (T.AvgPool2d(2, count_include_pad=False), P.AvgPool2D(2, exclusive=False)),
        (T.Dropout(0.0), P.Dropout(0, mode="downscale_in_infer")),
        (T.Dropout(0.0), P.Identity()),
        (T.Identity(), P.Dropout2D(0.0)),
        (T.AdaptiveAvgPool2d((None, 1)), P.AdaptiveAvgPool2D([None, 1])),
        (T.Upsample(scale_factor=(2, 3)), P.Upsample(scale_factor=paddle.to_tensor([2.0, 3.0]))),
        (T.Upsample(scale_factor=2, mode="bilinear"), P.Upsample(scale_factor=2, mode="bilinear", align_mode=0)),
        (T.Upsample(scale_factor=2), P.Upsample(scale_factor=2, align_mode=1)),
        (T.BatchNorm2d(4, momentum=0.1), P.BatchNorm2D(4, momentum=float(np.float32(0.9)))),
    ],
    ids=str,
)
def test_another_spelling_is_the_same_setting(reference, port):
    assert differing(reference, port) == set()


@pytest.mark.parametrize(
    ("reference", "port", "fields"),
    [
        (T.Conv2d(4, 6, 3, padding="same"), P.Conv2D(4, 6, 3, padding=2), {"padding"}),
        (T.Conv2d(4, 6, 4, padding="same"), P.Conv2D(4, 6, 4, padding=[2, 1, 2, 1]), {"padding"}),
        # Paddle's kernel drops the dilation then
        (
            T.Conv2d(4, 6, 3, padding="same", dilation=2),
            P.Conv2D(4, 6, 3, padding="SAME", dilation=2),
            {"padding", "dilation"},
        ),
        (T.Conv2d(4, 6, 3, padding=1, stride=2), P.Conv2D(4, 6, 3, padding="SAME", stride=2), {"padding"}),
        (T.Conv2d(4, 6, 3, padding=1), P.Conv2D(4, 6, 3, padding=[1, 0, 1, 0]), {"padding"}),
        (T.Dropout(0.5), P.Identity(), {"category"}),
        (T.Dropout(0.0), P.Dropout(0.5), {"rate"}),
        (T.BatchNorm2d(4).eval(), P.BatchNorm2D(4), {"training", "use_batch"}),
        (T.BatchNorm2d(4, track_running_stats=False).eval(), P.BatchNorm2D(4).eval(), {"use_batch"}),
        (T.BatchNorm2d(4).eval(), P.BatchNorm2D(4, use_global_stats=True), {"global_stats"}),
        (T.InstanceNorm2d(4, affine=True).eval(), P.InstanceNorm2D(4), set()),
        (T.Conv2d(4, 6, 3).eval(), P.Conv2D(4, 6, 3), set()),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
def test_what_differs_is_named(reference, port, fields):
    assert differing(reference, port) == fields


def test_the_other_spelling_is_shown_as_it_was_given():
    found = disagreements(describe_torch(T.Softmax(1)), describe_paddle(P.Softmax()), MAP2)
    assert found == {"dim": (1, -1)}


# --- probing --------------------------------------------------------------------------------------------------------


def probed(reference, port, *shapes, largest=None):
    """``{field: fault}`` of two layers that took inputs of these shapes."""
    before = state_of(reference), state_of(port)
    found = setting_differences(
        describe_torch(reference), describe_paddle(port), [Given(shape, largest) for shape in shapes], roles(reference),
        probe_torch(reference), probe_paddle(port),
    )  # fmt: skip
    assert before == (state_of(reference), state_of(port))
    return {difference.field: difference.fault for difference in found}


def state_of(layer):
    """Everything that a probe might leave changed."""
    own = dict(layer.state_dict())
    values = {name: (str(value.dtype), value.numpy().tobytes()) for name, value in own.items()}
    return values, layer.training, [p.grad is None for p in layer.parameters()], sorted(vars(layer))


@pytest.mark.parametrize(
    ("reference", "port", "field"),
    [
        (T.MaxPool2d(3, 2, 1), P.MaxPool2D(3, 2, 1, return_mask=True), "indices"),
        (T.Conv2d(4, 6, 2, 2, 0), P.Conv2D(4, 6, 2, 2, [0, 1, 0, 1]), "padding"),  # on an even image it is cut off
        (T.MaxPool2d(2), P.MaxPool2D(2, ceil_mode=True), "ceil_mode"),
        (T.BatchNorm2d(4).eval(), P.BatchNorm2D(4, 0.1).eval(), "momentum"),
        (T.BatchNorm2d(4).eval(), P.BatchNorm2D(4, epsilon=1.1e-5).eval(), "epsilon"),
        (T.BatchNorm2d(4).eval(), P.BatchNorm2D(4, use_global_stats=True).eval(), "global_stats"),
        (T.Hardsigmoid(), P.Hardsigmoid(), "slope"),
        (T.Softplus(), P.Softplus(threshold=15), "threshold"),
        (T.AdaptiveAvgPool2d((4, 4)), P.AdaptiveAvgPool2D([None, None]), "output_size"),
        (T.Upsample(scale_factor=2), P.Upsample(size=[16, 16]), "size"),
        (T.AvgPool2d(3, 1, 1), P.AvgPool2D(3, 1, 1, exclusive=True), "count_include_pad"),
        (T.InstanceNorm2d(4), P.InstanceNorm2D(4, epsilon=1e-4, weight_attr=False, bias_attr=False), "epsilon"),
        (T.ReLU(), P.ReLU6(), "kind"),
    ],
    ids=str,
)
def test_a_setting_that_shows_on_other_inputs_or_in_training_is_a_fault(reference, port, field):
    assert probed(reference, port, (2, 4, 8, 8))[field]


@pytest.mark.parametrize(
    ("reference", "port"),
    [
        (T.Conv2d(4, 6, 3, padding=1), P.Conv2D(4, 6, 3, padding=1, data_format="NHWC", padding_mode="zeros")),
        (T.Conv2d(4, 6, 1, dilation=2), P.Conv2D(4, 6, 1)),  # a dilated kernel of one
        (T.Conv2d(4, 6, 1, padding_mode="reflect"), P.Conv2D(4, 6, 1)),
        (T.MaxPool2d(1, 1), P.MaxPool2D(1, 1, ceil_mode=True)),
        (T.AdaptiveAvgPool2d((None, 1)), P.AdaptiveAvgPool2D([None, 1])),
        (T.Hardtanh(0, 6), P.ReLU6()),
        (T.Threshold(0, 0), P.ReLU()),
        (T.LeakyReLU(0.0), P.ReLU()),
        (T.ELU(), P.CELU()),
        (T.Unfold((3, 3)), P.Unfold(3, [1, 1], 0, 1)),
        (T.LayerNorm(8), P.LayerNorm([8])),
        (T.LSTM(8, 5, batch_first=True), P.LSTM(8, 5)),
        (T.GroupNorm(4, 4), P.GroupNorm(4, 4)),
        (T.AvgPool2d(2, ceil_mode=False), P.AvgPool2D(2, ceil_mode=False, divisor_override=4)),
        (T.Softmax(1), P.Softmax2D()),
    ],
    ids=str,
)
def test_a_setting_that_changes_nothing_is_no_fault(reference, port):
    assert not any(probed(reference, port, (2, 4, 8, 8) if "LSTM" not in str(reference) else (2, 6, 8)).values())


DEVIATING = {
    "batch_norm": "running_var",  # Paddle keeps the biased variance
    "old_batch_norm": "running_var",
    "sync_batch_norm": "raises",  # no kernel for CPUs
    "lp_pool": "output",  # computed in float32
    "lstm_cell": "3 outputs instead of 2",  # the hidden state and, again, both states
    "rnn_cell": "2 outputs instead of 1",
    "embedding_with_padding": "output",  # zeros in Paddle, the row in torch
}
"""Layers that are set alike and are not the same, and where it shows."""
NOT_ALONE = ("dropout", "rrelu", "unpool", "attention")
"""Layers that draw numbers, take indices, or keep their weights otherwise."""


@pytest.mark.parametrize("name", [name for name in PAIRS if not any(kind in name for kind in NOT_ALONE)])
def test_layers_that_are_set_alike_compute_the_same_wherever_they_are_tried(name, monkeypatch):
    few = [*judging.neighbours([PAIRS[name][-1]])][:3]  # as recorded, another batch, larger in space
    monkeypatch.setattr(judging, "neighbours", lambda shapes: ([shape] * len(shapes) for (shape,) in few))
    reference, port, _, shape = PAIRS[name]
    inputs = [Given(shape, 8 if "embedding" in name else None)]
    inputs *= 2 if name in ("bilinear", "cosine", "distance") else 1
    found = seen(inputs, roles(reference), probe_torch(reference), probe_paddle(port))
    assert found is not None
    expected = DEVIATING.get(name.rstrip("123"), "")
    assert (expected in found.differ) if expected else found.differ == ""


def test_a_setting_of_a_layer_that_cannot_be_run_alone_stays_a_fault():
    assert probed(T.Conv2d(4, 6, 3), P.Conv2D(4, 6, 3, bias_attr=False), (2, 4, 8, 8)) == {"bias": True}
    assert probed(T.ReLU(), P.ReLU6()) == {"kind": True}


def test_random_layers_are_judged_by_their_settings_alone():
    assert probed(T.Dropout(0.3), P.Dropout2D(0.3), (2, 4, 8, 8)) == {"drops": True}


def test_padding_of_an_embedding_shows_in_the_gradient_of_its_row():
    reference, port = T.Embedding(9, 4), P.Embedding(9, 4, padding_idx=8)
    assert probed(reference, port, (2, 5), largest=8) == {"padding_idx": True}


def test_a_mode_is_no_matter_of_probing():
    assert probed(T.BatchNorm2d(4).eval(), P.BatchNorm2D(4), (2, 4, 8, 8)) == {"training": True, "use_batch": True}


@pytest.mark.parametrize(
    ("reference", "port"),
    [
        (T.BatchNorm2d(4), P.BatchNorm2D(4)),
        (T.LayerNorm(8), P.LayerNorm(8)),
        (T.GroupNorm(2, 4), P.GroupNorm(2, 4)),
        (T.InstanceNorm2d(4, affine=True), P.InstanceNorm2D(4)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_epsilons_are_as_the_twins_kernel_keeps_them(reference, port):
    """Inputs whose variance is as small as epsilon show it; with epsilon in the other type they are 1e-9 apart."""
    x = 1e-2 * np.random.RandomState(0).standard_normal((2, 4, 8, 8))
    tensors = {role: np.ones(shape) for role, shape in roles(reference).items()}
    ours, theirs = (probe(layer)([x], "train", tensors, True) for probe, layer in
                    ((probe_torch, reference), (probe_paddle, port)))  # fmt: skip
    assert abs(ours.outputs[0] - theirs.outputs[0]).max() <= 1e-14


# --- in a comparison ------------------------------------------------------------------------------------------------


def compared(middle, twin):
    """``align`` of a convolution, this layer and a convolution, with the same weights."""
    from alignment import align

    torch.manual_seed(0)
    reference = T.Sequential(T.Conv2d(3, 4, 3), middle, T.Conv2d(4, 2, 1)).eval()
    port = P.Sequential(P.Conv2D(3, 4, 3), twin, P.Conv2D(4, 2, 1))
    port.set_state_dict({name: value.numpy() for name, value in reference.state_dict().items()})
    port.eval()
    return align(reference, port, np.random.RandomState(0).standard_normal((2, 3, 10, 10)))


def test_a_harmless_setting_is_a_remark_of_the_report():
    report = compared(T.MaxPool2d(1, 1), P.MaxPool2D(1, 1, ceil_mode=True))
    assert report.passed and any("ceil_mode" in words for words in report.facts.values())


def test_a_setting_that_the_given_input_does_not_show_is_a_fault_of_its_layer():
    report = compared(T.MaxPool2d(2), P.MaxPool2D(2, ceil_mode=True))
    assert not report.passed
    assert [(found.layer, found.kind) for found in report.culprits] == [("1", "config")]
