"""The checks of losses, optimizers and schedules: ours pass, and a wrong one fails in its own rows alone."""

from __future__ import annotations

import numpy as np
import pytest

from alignment import check_loss, check_optimizer, check_schedule
from alignment.command import CheckOptions
from alignment.engine.judging.parts import part_row

SMALL = "dla46x_c"


def check(made, kind=CheckOptions, **options):
    return made(kind(model=SMALL, **options), lambda line: None)


def check_two_steps():
    return check(check_optimizer.check_optimizer, check_optimizer.OptimizerOptions, steps=2)


def differing(result):
    return {(row.layer, row.direction) for row in result.rows if not row.aligned}


# --- losses ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def few_logits(monkeypatch):
    """Instead of running timm's model."""
    logits = np.random.RandomState(0).standard_normal((4, 9))
    monkeypatch.setattr(check_loss, "timm_logits", lambda model, seed: logits)


@pytest.mark.torch
def test_every_loss_is_aligned_in_value_and_gradient_on_a_models_logits():
    result = check(check_loss.check_loss)
    assert result.passed, result.verdict()
    losses = check_loss.paddle_losses()
    assert len(result.rows) == 2 * len(losses) * len(check_loss.LARGEST)
    assert {row.layer for row in result.rows} == losses.keys()


def paddles_cross_entropy(x, target):
    import paddle

    return paddle.nn.functional.cross_entropy(x, target)


def slightly_smoothed(x, target):
    from paddle_dla.losses import LabelSmoothingCrossEntropy

    return LabelSmoothingCrossEntropy(float(np.float32(0.1)))(x, target)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "wrong", "scales"),
    [("cross entropy", paddles_cross_entropy, {300.0}), ("label smoothing", slightly_smoothed, {*check_loss.LARGEST})],
)
def test_another_loss_fails_where_it_differs(name, wrong, scales, few_logits, monkeypatch):
    right = check_loss.paddle_losses()
    monkeypatch.setattr(check_loss, "paddle_losses", lambda: right | {name: wrong})
    found = differing(check(check_loss.check_loss))
    assert {layer for layer, _ in found} == {name}
    assert {scale for scale in check_loss.LARGEST if any(d.endswith(f" {scale:g}") for _, d in found)} == scales


# --- optimizers ------------------------------------------------------------------------------------------------------


@pytest.mark.torch
def test_every_optimizer_is_aligned_on_a_models_weights():
    result = check_two_steps()
    assert result.passed, result.verdict()
    assert {row.direction for row in result.rows} == check_optimizer.CASES.keys()
    # what the margin would hide
    assert result.worst.relative < 1e-13


@pytest.mark.torch
@pytest.mark.parametrize(
    ("cases", "options"),
    [
        ({"sgd", "momentum"}, dict(momentum=float(np.float32(0.9)))),
        ({"adamw", "adamw, layer decay", "lamb"}, dict(betas=(0.9, float(np.float32(0.999))))),
        ({*check_optimizer.CASES}, dict(filter_bias_and_bn=False)),
        ({"lamb"}, dict(max_grad_norm=0.5)),
    ],
)
def test_another_optimizer_fails_its_own_rows(cases, options, monkeypatch):
    import paddle_dla.optim

    right = paddle_dla.optim.create_optimizer

    def wrong(*given, **known):
        return right(*given, **known | options)

    monkeypatch.setattr(paddle_dla.optim, "create_optimizer", wrong)
    assert {case for _, case in differing(check_two_steps())} == cases


@pytest.mark.torch
def test_clipping_each_tensor_by_its_own_norm_fails(monkeypatch):
    import paddle_dla.optim

    right = paddle_dla.optim.clip_grad_norm_
    monkeypatch.setattr(
        paddle_dla.optim, "clip_grad_norm_", lambda parameters, limit: [right([p], limit) for p in parameters]
    )
    assert not check_two_steps().passed


def test_no_steps_are_no_check():
    with pytest.raises(SystemExit) as ended:
        check_optimizer.main(["--model", SMALL, "--steps", "0"])
    assert ended.value.code == 2


# --- schedules -------------------------------------------------------------------------------------------------------


@pytest.mark.torch
def test_every_schedule_is_aligned_for_every_parameter():
    result = check(check_schedule.check_schedule)
    assert result.passed, result.verdict()
    assert len(result.rows) == 2 * len(check_schedule.CASES)
    assert result.worst.relative == 0


@pytest.mark.torch
@pytest.mark.parametrize(
    ("options", "cases"),
    [
        (
            dict(warmup_lr=1.1e-5),
            {case for case, (_, given) in check_schedule.CASES.items() if "warmup_epochs" in given},
        ),
        (dict(cycle_decay=0.4), {"cosine, restarts"}),
        (dict(min_lr=1e-6), {case for case, (name, _) in check_schedule.CASES.items() if name in ("cosine", "poly")}),
    ],
)
def test_another_schedule_fails_its_own_rows(options, cases, monkeypatch):
    import paddle_dla.schedule

    right = paddle_dla.schedule.create_schedule

    def wrong(*given, **known):
        return right(*given, **known | options)

    monkeypatch.setattr(paddle_dla.schedule, "create_schedule", wrong)
    assert {case for case, _ in differing(check(check_schedule.check_schedule))} == cases


# --- one row, without a framework ------------------------------------------------------------------------------------


def row(port, exact=(1.0, 2.0), rounded=(1.0, 2.0 + 2**-22)):
    arrays = (np.array(values) for values in (exact, rounded))
    return part_row("a", "parameter", 0, *arrays, None if port is None else np.array(port), "sgd")


def test_the_floor_is_the_references_own_float32_error_scaled():
    # 2**-22 of 2 in float32, times 2**-29
    assert row((1.0, 2.0)).floor == 2.0**-52


@pytest.mark.parametrize(("port", "aligned"), [((1.0, 2.0), True), ((1.0, 2 + 2e-8), False), ((1.0, 2 + 1e-14), True)])
def test_a_constant_in_float32_is_no_rounding(port, aligned):
    assert row(port).aligned is aligned


def test_what_is_missing_or_of_another_shape_is_said():
    assert row(None).note == "missing in Paddle"
    assert row((1.0, 2.0, 3.0)).note == "shape [3] instead of [2]"
