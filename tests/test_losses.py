"""Losses: value and gradient are those of torch and timm in float64, for ordinary and for very large logits."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from paddle_dla.losses import (
    SSLD,
    BinaryCrossEntropy,
    CrossEntropy,
    Distillation,
    LabelSmoothingCrossEntropy,
    SoftTargetCrossEntropy,
    log_softmax,
    softplus,
)

BATCH, CLASSES = 6, 7

# of a loss in float64: a sum of 42 terms and some logarithms, each good to 1e-16; a thousandth of what is asked for
CLOSE = 1e-12


def logits(scale):
    """Logits up to about 2 * ``scale``; one row is sure of a class, one undecided, one all zero."""
    values = np.random.RandomState(0).standard_normal((BATCH, CLASSES)) * scale
    values[0, 2] = 4 * scale
    values[1] = values[1, 0]
    values[2] = 0.0
    return values


def classes():
    return np.array([2, 0, 1, 6, 3, 3])


def mixed():
    """Probabilities as mixup makes them from smoothed labels."""
    rows = np.full((BATCH, CLASSES), 0.1 / CLASSES)
    rows[np.arange(BATCH), classes()] += 0.9 * 0.7
    rows[np.arange(BATCH), classes()[::-1]] += 0.9 * 0.3
    return rows


def teacher(scale=1.0):
    return np.random.RandomState(1).standard_normal((BATCH, CLASSES)) * scale


def ours(loss, values, *others, dtype="float64"):
    """Value and gradient of the loss in Paddle."""
    x = paddle.to_tensor(values, dtype=dtype, stop_gradient=False)
    value = loss(x, *map(paddle.to_tensor, others))
    value.backward()
    return float(value), x.grad.numpy()


def torchs(loss, values, *others, dtype="float64"):
    """Value and gradient of the loss in torch."""
    import torch

    x = torch.tensor(values, dtype=getattr(torch, dtype), requires_grad=True)
    value = loss(x, *map(torch.from_numpy, others))
    value.backward()
    return float(value.detach()), x.grad.numpy()


def apart(found, expected):
    """The largest error of value and gradient, each relative to its own size."""
    value, gradient = expected
    of_value = abs(found[0] - value) / max(abs(value), 1e-300)
    return max(of_value, np.abs(found[1] - gradient).max() / max(np.abs(gradient).max(), 1e-300))


def timm_loss(name, *args, **options):
    from torch_ref.model import import_timm

    import_timm()
    import timm.loss

    return getattr(timm.loss, name)(*args, **options)


def hinton(task=0.5, distill=0.5, temperature=1.0):
    """timm 1.0.31 ``LogitDistillationTask`` in its own terms."""
    from torch.nn import functional as F

    def loss(x, target, of_teacher):
        pair = (F.log_softmax(logs / temperature, dim=-1) for logs in (x, of_teacher))
        soft = F.kl_div(*pair, reduction="batchmean", log_target=True) * temperature**2
        return task * F.cross_entropy(x, target) + distill * soft

    return loss


def jsdiv(x, target, of_teacher):
    """PaddleClas's JSDivLoss in torch's terms: the mean over all elements, times the classes, is the batch's mean."""
    p, q = x.log_softmax(-1), of_teacher.log_softmax(-1)
    both = p.exp() * (p - q) + q.exp() * (q - p)
    return (both * x.shape[1] / 2).mean()


def dense_ce(x, target, of_teacher):
    from torch.nn import functional as F

    return F.cross_entropy(x, of_teacher.softmax(-1))


def torch_cross_entropy():
    import torch

    return torch.nn.CrossEntropyLoss()


SMOOTHED = LabelSmoothingCrossEntropy
CASES = {
    "cross entropy": (CrossEntropy(), torch_cross_entropy, [classes()]),
    "smoothing 0.1": (SMOOTHED(), lambda: timm_loss("LabelSmoothingCrossEntropy"), [classes()]),
    "smoothing 0": (SMOOTHED(0.0), lambda: timm_loss("LabelSmoothingCrossEntropy", 0.0), [classes()]),
    "smoothing 0.3": (SMOOTHED(0.3), lambda: timm_loss("LabelSmoothingCrossEntropy", 0.3), [classes()]),
    "soft targets": (SoftTargetCrossEntropy(), lambda: timm_loss("SoftTargetCrossEntropy"), [mixed()]),
    "teacher, T=1": (Distillation(), hinton, [classes(), teacher()]),
    "teacher, T=4": (Distillation(0.3, temperature=4.0), lambda: hinton(0.3, 0.7, 4.0), [classes(), teacher(3)]),
    "teacher, weights": (Distillation(1.0, 2.0, 2.0), lambda: hinton(1.0, 2.0, 2.0), [classes(), teacher()]),
    "SSLD, js": (SSLD(), lambda: jsdiv, [classes(), teacher()]),
    "SSLD, ce": (SSLD("ce"), lambda: dense_ce, [classes(), teacher()]),
}
BINARY = {
    "BCE": {},
    "BCE, smoothing 0": dict(smoothing=0.0),
    "BCE, threshold": dict(target_threshold=0.2),
    "BCE, threshold 0": dict(target_threshold=0.0, smoothing=0.0),
    "BCE, sum": dict(sum_classes=True, smoothing=0.2),
    "BCE, smooth dense": dict(smooth_dense=True),
}
for name, options in BINARY.items():
    twin = (BinaryCrossEntropy(**options), lambda options=options: timm_loss("BinaryCrossEntropy", **options))
    CASES |= {f"{name}, classes": (*twin, [classes()]), f"{name}, mixed": (*twin, [mixed()])}


@pytest.mark.torch
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 300.0])
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_are_the_references(case, scale):
    loss, twin, others = CASES[case]
    assert apart(ours(loss, logits(scale), *others), torchs(twin(), logits(scale), *others)) < CLOSE


@pytest.mark.torch
@pytest.mark.parametrize("scale", [1.0, 300.0])
@pytest.mark.parametrize("case", CASES)
def test_in_float32_the_error_is_that_of_torch_in_float32(case, scale):
    loss, twin, others = CASES[case]
    single = [a.astype("float32") if a.dtype == np.float64 else a for a in others]
    values = logits(scale).astype("float32")
    # the same float32 numbers in float64 are the truth of both; 8 ulp where torch happens to hit it
    exact = torchs(twin(), values, *(a.astype("float64") if a.dtype == np.float32 else a for a in single))
    own = apart(torchs(twin(), values, *single, dtype="float32"), exact)
    assert apart(ours(loss, values, *single, dtype="float32"), exact) <= max(4 * own, 8 * 2.0**-23)


WRONG = {
    "smoothing": (SMOOTHED(0.1 + 1e-9), "smoothing 0.1"),
    "smoothing in float32": (SMOOTHED(float(np.float32(0.1))), "smoothing 0.1"),
    "Paddle's own smoothing": (
        lambda x, t: paddle.nn.functional.cross_entropy(x, t, label_smoothing=0.1),
        "smoothing 0.1",
    ),
    "biased off value": (BinaryCrossEntropy(0.1 * (1 - 1 / CLASSES)), "BCE, classes"),
    "threshold above a target": (BinaryCrossEntropy(target_threshold=0.3), "BCE, threshold, mixed"),
    "sum for mean": (BinaryCrossEntropy(0.2), "BCE, sum, classes"),
    "temperature not squared": (Distillation(0.3, 0.7 / 16, 4.0), "teacher, T=4"),
    "KL turned round": (
        lambda x, t, of_teacher: SSLD()(x, t, of_teacher) * 2 - SSLD("ce")(x, t, of_teacher),
        "SSLD, ce",
    ),
}


@pytest.mark.torch
@pytest.mark.parametrize("fault", WRONG)
def test_another_loss_is_seen(fault):
    loss, right = WRONG[fault]
    _, twin, others = CASES[right]
    assert apart(ours(loss, logits(1.0), *others), torchs(twin(), logits(1.0), *others)) > 1e-10


@pytest.mark.torch
def test_paddles_own_cross_entropy_would_be_seen_at_large_logits():
    found = ours(paddle.nn.functional.cross_entropy, logits(300.0), classes())
    assert apart(found, torchs(torch_cross_entropy(), logits(300.0), classes())) > 0.1


# --- without torch ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_log_softmax_does_not_clip(dtype):
    found = log_softmax(paddle.to_tensor([[0.0, 100.0, 300.0]], dtype=dtype))
    assert found.numpy().tolist() == [[-300.0, -200.0, 0.0]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_gradient_of_log_softmax_sums_to_zero_and_is_that_of_the_formula(dtype):
    x = paddle.to_tensor(logits(30.0), dtype=dtype, stop_gradient=False)
    log_softmax(x)[:, 0].sum().backward()
    exact = logits(30.0).astype(dtype).astype("float64")
    soft = np.exp(exact - exact.max(1, keepdims=True))
    soft /= soft.sum(1, keepdims=True)
    # a softmax is as good as an exponential of numbers up to 120: 120 roundings of the type
    assert np.abs(x.grad.numpy() - (np.eye(CLASSES)[0] - soft)).max() < 120 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softplus_and_its_gradient_hold_everywhere(dtype):
    at = np.array([-1000.0, -30.0, -1.0, 0.0, 1.0, 30.0, 1000.0])
    x = paddle.to_tensor(at, dtype=dtype, stop_gradient=False)
    values = softplus(x)
    values.sum().backward()
    few = 8 * np.finfo(dtype).eps
    with np.errstate(over="ignore"):
        slope = 1 / (1 + np.exp(-at))
    expected = np.maximum(at, 0) + np.log1p(np.exp(-np.abs(at)))
    # Paddle's exponential ends at the smallest normal number instead of at 0
    np.testing.assert_allclose(values.numpy(), expected, rtol=few, atol=np.finfo(dtype).tiny)
    np.testing.assert_allclose(x.grad.numpy(), slope, rtol=few, atol=np.finfo(dtype).tiny)


@pytest.mark.parametrize("loss", [CrossEntropy(), SMOOTHED(), BinaryCrossEntropy()], ids=lambda x: type(x).__name__)
def test_low_precision_logits_are_computed_in_float32(loss):
    low = paddle.to_tensor(logits(1.0), dtype="float32").astype("bfloat16")
    found = loss(low, paddle.to_tensor(classes()))
    assert found.dtype == paddle.float32
    assert float(found) == float(loss(low.astype("float32"), paddle.to_tensor(classes())))


def test_one_hot_soft_targets_are_plain_cross_entropy():
    one_hot = np.eye(CLASSES)[classes()]
    found = ours(SoftTargetCrossEntropy(), logits(3.0), one_hot)
    assert apart(found, ours(CrossEntropy(), logits(3.0), classes())) < CLOSE


@pytest.mark.parametrize("form", ["js", "ce"])
def test_nothing_is_learnt_from_a_teacher_that_agrees(form):
    _, gradient = ours(SSLD(form), logits(3.0), classes(), logits(3.0))
    assert np.abs(gradient).max() < CLOSE


def test_no_gradient_reaches_the_teacher():
    of_teacher = paddle.to_tensor(teacher(), stop_gradient=False)
    for loss in (SSLD(), SSLD("ce"), Distillation()):
        x = paddle.to_tensor(logits(1.0), stop_gradient=False)
        loss(x, paddle.to_tensor(classes()), of_teacher).backward()
        assert x.grad is not None
    assert of_teacher.grad is None


@pytest.mark.parametrize("label", [-1, CLASSES])
@pytest.mark.parametrize("loss", [CrossEntropy(), SMOOTHED(), BinaryCrossEntropy()], ids=lambda x: type(x).__name__)
def test_a_label_that_is_no_class_is_refused(loss, label):
    with pytest.raises(ValueError, match="they go from 0 to 6"):
        loss(paddle.to_tensor(logits(1.0)), paddle.to_tensor([0, 1, label, 0, 1, 2]))


@pytest.mark.parametrize(
    ("loss", "others"),
    [
        (CrossEntropy(), [classes()[:3]]),
        (CrossEntropy(), [mixed()]),
        (SoftTargetCrossEntropy(), [classes()]),
        (BinaryCrossEntropy(), [mixed()[:, :3]]),
        (Distillation(), [classes(), teacher()[:, :3]]),
        (SSLD(), [classes(), teacher()[:3]]),
    ],
)
def test_a_target_of_another_shape_is_refused(loss, others):
    with pytest.raises(ValueError, match=r"logits \[6, 7\]"):
        loss(paddle.to_tensor(logits(1.0)), *map(paddle.to_tensor, others))


@pytest.mark.parametrize(
    "make",
    [
        lambda: SMOOTHED(1.0),
        lambda: SMOOTHED(-0.1),
        lambda: BinaryCrossEntropy(smoothing=math.nan),
        lambda: BinaryCrossEntropy(target_threshold=1.0),
        lambda: Distillation(temperature=0.0),
        lambda: SSLD("kl"),
    ],
)
def test_settings_that_make_no_loss_are_refused(make):
    with pytest.raises(ValueError, match="not"):
        make()
