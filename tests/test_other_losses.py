"""What a loss did otherwise: read off its value and its gradient, and never from its value alone."""

import numpy as np
import pytest

pytestmark = pytest.mark.torch

IGNORED = -100


def drawn(*shape, seed=0):
    return np.random.RandomState(seed).standard_normal(shape)


LOGITS, MAPS, LABELS = drawn(12, 5), drawn(2, 5, 3, 4), np.random.RandomState(1).randint(0, 5, 12)
SOME = np.where(np.arange(12) < 3, IGNORED, LABELS)
PIXELS = np.where(drawn(2, 3, 4, seed=2) > 1, IGNORED, np.random.RandomState(3).randint(0, 5, (2, 3, 4)))
NUMBERS = drawn(12, 5, seed=4)
SHARES = np.exp(NUMBERS) / np.exp(NUMBERS).sum(1, keepdims=True)
PROBABILITIES = 1 / (1 + np.exp(-LOGITS))
WEIGHTS = np.array([0.5, 1.0, 2.0, 3.0, 0.25])


def case(right, wrong, output=LOGITS, labels=LABELS, gradients=True):
    """A loss on either side, each in torch; the port's value and gradient are those of ``wrong``."""
    import torch

    from alignment.engine.records.losses import LossCase

    def ran(function):
        x = torch.from_numpy(output.copy()).requires_grad_()
        value = function(x, torch.from_numpy(labels.copy()))
        value.backward()
        return value.item(), x.grad.numpy()

    (expected, slope), (actual, other) = ran(right), ran(wrong)
    grads = (slope, other) if gradients else (None, None)
    return LossCase(output, (labels,), expected, actual, *grads)


def cause(right, wrong, output=LOGITS, labels=LABELS, gradients=True):
    from alignment.engine.sides.torch.other_losses import loss_cause

    return loss_cause(right, case(right, wrong, output, labels, gradients))


def cross_entropy(weighted=False, **options):
    def function(x, y):
        import torch

        weight = torch.from_numpy(WEIGHTS) if weighted else None
        return torch.nn.functional.cross_entropy(x, y, weight, **options)

    return function


def named(name, **options):
    def function(x, y):
        import torch

        return getattr(torch.nn.functional, name)(x, y, **options)

    return function


def kept(x, y):
    import torch

    return torch.nn.functional.cross_entropy(x, y, reduction="none").mean()


def by_sample(x, y):
    import torch

    each = torch.nn.functional.cross_entropy(x, y, reduction="none")
    return (each.flatten(1).sum(1) / (y != IGNORED).flatten(1).sum(1)).mean()


def of(change):
    """Cross entropy of something made of the output."""
    return lambda x, y: cross_entropy()(change(x), y)


def of_labels(change):
    return lambda x, y: cross_entropy()(x, change(y))


def kept_in_float32(x, y):
    return cross_entropy()(x, y) * float(np.float32(1.1)) / 1.1


@pytest.mark.parametrize(
    ("right", "wrong", "given", "words"),
    [
        (
            cross_entropy(), kept, dict(labels=SOME),
            "labels of -100, which do not count, are in the mean: it divides by 12 i",
        ),
        (cross_entropy(), kept, dict(output=MAPS, labels=PIXELS), "labels of -100, which do not count, are in the m"),
        (kept, cross_entropy(), dict(labels=SOME), "labels of -100 are left out of the mean"),
        (cross_entropy(ignore_index=2), cross_entropy(), {}, "labels of 2 count, which the reference ignores"),
        (cross_entropy(), cross_entropy(ignore_index=2), {}, "labels of 2 are ignored, which the reference counts"),
        (cross_entropy(label_smoothing=0.1), cross_entropy(), {}, "label smoothing of 0.1 is left out"),
        (
            cross_entropy(), cross_entropy(label_smoothing=0.05), {},
            "label smoothing of 0.05 where the reference has none",
        ),
        (
            cross_entropy(label_smoothing=0.1), cross_entropy(label_smoothing=0.2), dict(labels=SOME),
            "label smoothing of 0.2 instead of 0.1",
        ),
        (
            cross_entropy(label_smoothing=0.1), cross_entropy(), dict(labels=SHARES),
            "smoothing of 0.1 is left out",
        ),
        (cross_entropy(), cross_entropy(reduction="sum"), {}, "sum instead of mean"),
        (cross_entropy(reduction="sum"), cross_entropy(), dict(labels=SOME), "mean instead of sum"),
        (
            cross_entropy(label_smoothing=0.1), cross_entropy(reduction="sum"), {},
            "label smoothing of 0.1 is left out; sum instead of mean",
        ),
        (cross_entropy(weighted=True), cross_entropy(), {}, "class weights are left out"),
        (cross_entropy(), cross_entropy(weighted=True), {}, "class weights are applied"),
        (
            cross_entropy(weighted=True),
            lambda x, y: cross_entropy(weighted=True, reduction="none")(x, y).mean(), {}, "divided by another number",
        ),
        (cross_entropy(), by_sample, dict(output=MAPS, labels=PIXELS), "each element of the batch is averaged by it"),
        (cross_entropy(), of(lambda x: x.softmax(1)), {}, "softmax is applied before a loss that applies its own"),
        (
            cross_entropy(label_smoothing=0.1), lambda x, y: cross_entropy(label_smoothing=0.1)(x.softmax(1), y), {},
            "softmax is applied before a loss that applies its own",
        ),
        (cross_entropy(), of(lambda x: x.sigmoid()), {}, "sigmoid is applied before a loss"),
        (cross_entropy(), of(lambda x: x / 2), {}, "logits are divided by 2 instead of 1 (temperature)"),
        (of(lambda x: x / 0.07), cross_entropy(), {}, "logits are divided by 1 instead of 0.07 (temperature)"),
        (cross_entropy(), named("nll_loss"), {}, "log-softmax is missing"),
        (cross_entropy(), named("multi_margin_loss"), {}, "multi-margin loss instead of cross entropy"),
        (cross_entropy(), of_labels(lambda y: (y + 1) % 5), dict(labels=LABELS % 4), "labels are shifted by +1"),
        (cross_entropy(), of_labels(lambda y: y.flip(0)), {}, "labels of the batch in the reverse order"),
        (cross_entropy(), kept_in_float32, {}, "as by a constant that is kept in float32"),
        (named("mse_loss"), named("l1_loss"), dict(labels=NUMBERS), "l1_loss instead of mse_loss"),
        (
            named("l1_loss"), named("smooth_l1_loss"), dict(labels=NUMBERS),
            "smooth_l1_loss (beta 1) instead of l1",
        ),
        (named("mse_loss"), named("mse_loss", reduction="sum"), dict(labels=NUMBERS), "sum over all elements"),
        (
            named("mse_loss"), lambda x, y: ((x - y) ** 2).sum(1).mean(), dict(labels=NUMBERS),
            "scaled by 5: sum over the classes",
        ),
        (
            named("binary_cross_entropy_with_logits"), named("binary_cross_entropy"),
            dict(labels=SHARES, output=PROBABILITIES), "sigmoid is missing",
        ),
        (
            named("binary_cross_entropy_with_logits"),
            lambda x, y: named("binary_cross_entropy_with_logits")(x.sigmoid(), y), dict(labels=SHARES),
            "sigmoid is applied before a loss that applies its own",
        ),
        (lambda x, y: (x.sin() * 3).sum(), lambda x, y: (x.sin() * 4.5).sum(), {}, "scaled by 1.5"),
        (lambda x, y: x.sin().sum(), lambda x, y: x.cos().sum(), {}, ""),
        # nothing of this kind explains a penalty that is added, or one label that is another
        (cross_entropy(), lambda x, y: cross_entropy()(x, y) + 0.01 * (x**2).sum(), {}, ""),
        (cross_entropy(), of_labels(lambda y: y.index_fill(0, y.new_tensor([0]), 4)), dict(labels=LABELS % 4), ""),
        (cross_entropy(), lambda x, y: cross_entropy()(x, y) + 1, {}, ""),
    ],
)  # fmt: skip
def test_a_loss_tells_what_it_did(right, wrong, given, words):
    found = cause(right, wrong, **given)
    assert words in found if words else found == ""


@pytest.mark.parametrize("wrong", [kept, lambda x, y: cross_entropy(label_smoothing=0.1)(x, y)])
def test_a_value_alone_proves_nothing(wrong):
    assert cause(cross_entropy(), wrong, labels=SOME, gradients=False) == ""


def test_a_gradient_that_does_not_belong_to_the_value_is_not_explained():
    from dataclasses import replace

    from alignment.engine.sides.torch.other_losses import loss_cause

    right = cross_entropy(label_smoothing=0.1)
    honest = case(right, cross_entropy())
    assert loss_cause(right, replace(honest, actual=honest.actual * 1.01)) == ""
    bent = honest.actual_gradient.copy()
    bent[0, 0] += 1e-4
    assert loss_cause(right, replace(honest, actual_gradient=bent)) == ""


def test_what_is_no_output_of_numbers_is_left_alone():
    from alignment.engine.records.losses import LossCase
    from alignment.engine.sides.torch.other_losses import loss_cause

    for output in (np.array(1.0), np.ones(3), np.ones((2, 3), np.int64), np.ones((0, 4))):
        for labels in ((), (np.zeros(3, np.int64),), (np.ones(3),), (np.ones(3), np.ones(3))):
            for gradients in ((None, None), (np.ones(output.shape), 2 * np.ones(output.shape))):
                found = loss_cause(cross_entropy(), LossCase(output, labels, 1.0, 3.0, *gradients))
                assert "smoothing" not in found
