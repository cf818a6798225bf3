"""Optimizers, groups and clipping: the parameters that torch and timm have after every one of twenty steps."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_dla import create_model
from paddle_dla.optim import (
    OPTIMIZERS,
    AdamW,
    ParamGroup,
    adaptive_clip_grad_,
    clip_grad_,
    clip_grad_norm_,
    clip_grad_value_,
    create_optimizer,
    layer_decay_groups,
    weight_decay_groups,
)

STEPS = 20
SHAPES = {"conv.weight": (4, 3, 3, 3), "bn.weight": (4,), "bn.bias": (4,), "fc.weight": (5, 4, 1, 1), "fc.bias": (5,)}

# parameters in float64 after 20 steps: a few hundred roundings; the asked 1e-8 would hide a constant in float32
CLOSE = 1e-13


def start(name):
    """Weights as they are drawn, BatchNorm's as it begins: 1 and 0."""
    if name.startswith("bn"):
        return np.full(SHAPES[name], float(name == "bn.weight"))
    return np.random.RandomState(len(name)).standard_normal(SHAPES[name]) * 0.3


def noise(name, step):
    return np.random.RandomState(1000 * step + sum(map(ord, name))).standard_normal(SHAPES[name])


def gradient(name, step, value):
    """Of a bowl, and noise: an error of the parameter comes back as one of the gradient."""
    return (0.5 * value.astype("float64") + noise(name, step)).astype(value.dtype)


class Toy(paddle.nn.Layer):
    """Parameters of the names and shapes above, nothing else."""

    def __init__(self, dtype="float64"):
        super().__init__()
        for name, shape in SHAPES.items():
            layer, _, last = name.partition(".")
            if not hasattr(self, layer):
                setattr(self, layer, paddle.nn.Layer())
            made = getattr(self, layer).create_parameter(list(shape), dtype=dtype)
            made.set_value(start(name).astype(dtype))
            setattr(getattr(self, layer), last, made)


def torch_toy(dtype="float64"):
    import torch

    model = torch.nn.Module()
    for name in SHAPES:
        layer, _, last = name.partition(".")
        if not hasattr(model, layer):
            model.add_module(layer, torch.nn.Module())
        tensor = torch.from_numpy(start(name).astype(dtype))
        getattr(model, layer).register_parameter(last, torch.nn.Parameter(tensor))
    return model


def rate(step):
    """Changes at each step, as under a schedule."""
    return 0.05 * (1 + step) / STEPS


def give_gradients(model, step, late=""):
    """To all; to ``late`` from step 5 on only."""
    for name, parameter in model.named_parameters():
        if name == late and step < 5:
            continue
        parameter.grad = paddle.to_tensor(gradient(name, step, parameter.numpy()))


def our_run(make, dtype="float64", steps=range(STEPS), model=None, state=None, late=""):
    """The parameters after each step; gradients come from the parameters themselves."""
    model = model or Toy(dtype)
    optimizer = make(model)
    if state is not None:
        optimizer.set_state_dict(state)
    found = []
    for step in steps:
        give_gradients(model, step, late)
        optimizer.set_lr(rate(step))
        optimizer.step()
        optimizer.clear_grad()
        found.append({name: value.numpy().copy() for name, value in model.named_parameters()})
    return found, model, optimizer


def torch_run(make, dtype="float64", late=""):
    import torch

    model = torch_toy(dtype)
    optimizer = make(model)
    found = []
    for step in range(STEPS):
        for name, parameter in model.named_parameters():
            if name != late or step >= 5:
                parameter.grad = torch.from_numpy(gradient(name, step, parameter.detach().numpy()))
        for group in optimizer.param_groups:
            group["lr"] = rate(step) * group.get("lr_scale", 1.0)
        optimizer.step()
        found.append({name: value.detach().numpy().copy() for name, value in model.named_parameters()})
    return found


def timm_optimizer(name, **options):
    from torch_ref.model import import_timm

    import_timm()
    from timm.optim import create_optimizer_v2

    return lambda model: create_optimizer_v2(model, name, lr=0.1, **options)


def own(name, **options):
    return lambda model: create_optimizer(model, name, 0.1, **options)


def apart(ours, theirs):
    """The largest error of any parameter after any step, relative to the tensor's largest element."""
    errors = [np.abs(a[n] - b[n]).max() / np.abs(b[n]).max() for a, b in zip(ours, theirs) for n in b]
    assert len(errors) == STEPS * len(SHAPES)
    return max(errors)


CASES = {
    "sgd": ("sgd", dict(weight_decay=1e-4)),
    "sgd, no decay": ("sgd", dict()),
    "sgd, momentum 0.99": ("sgd", dict(weight_decay=0.1, momentum=0.99)),
    "sgd, bias decayed": ("sgd", dict(weight_decay=0.1, filter_bias_and_bn=False)),
    "momentum": ("momentum", dict(weight_decay=1e-4)),
    "momentum 0": ("momentum", dict(weight_decay=1e-2, momentum=0.0)),
    "adamw": ("adamw", dict(weight_decay=0.05)),
    "adamw, betas and eps": ("adamw", dict(weight_decay=0.3, betas=(0.8, 0.95), eps=1e-3)),
    "lamb": ("lamb", dict(weight_decay=0.02)),
    "lamb, no decay": ("lamb", dict()),
    "lamb, no clip": ("lamb", dict(weight_decay=0.02, max_grad_norm=None)),
    "lamb, betas and eps": ("lamb", dict(weight_decay=0.3, betas=(0.8, 0.95), eps=1e-3)),
}


def accepted(name, options):
    """timm hands every option to the class, and only Lamb knows this one."""
    return {k: v for k, v in options.items() if k != "max_grad_norm" or name == "lamb"}


@pytest.mark.torch
@pytest.mark.parametrize("case", CASES)
def test_parameters_follow_the_references_over_twenty_steps(case):
    name, options = CASES[case]
    ours, *_ = our_run(own(name, **options))
    assert apart(ours, torch_run(timm_optimizer(name, **accepted(name, options)))) < CLOSE


@pytest.mark.torch
@pytest.mark.parametrize("case", CASES)
def test_in_float32_the_error_is_that_of_torch_in_float32(case):
    name, options = CASES[case]
    exact = torch_run(timm_optimizer(name, **options))
    noise_of_torch = apart(torch_run(timm_optimizer(name, **options), "float32"), exact)
    ours, *_ = our_run(own(name, **options), "float32")
    assert ours[0]["fc.bias"].dtype == np.float32
    # either rounds some numbers of 20 steps to 6e-8, in another order
    assert apart(ours, exact) < 4 * noise_of_torch


@pytest.mark.torch
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_parameter_that_is_trained_later_follows_the_reference_too(name):
    options = dict(weight_decay=0.02)
    ours, *_ = our_run(own(name, **options), late="conv.weight")
    assert apart(ours, torch_run(timm_optimizer(name, **options), late="conv.weight")) < CLOSE


@pytest.mark.torch
@pytest.mark.parametrize(("trust_clip", "always_adapt"), [(True, False), (False, True)])
def test_lambs_options_are_timms(trust_clip, always_adapt):
    from paddle_dla.optim import Lamb

    options = dict(trust_clip=trust_clip, always_adapt=always_adapt)
    ours, *_ = our_run(lambda model: Lamb(weight_decay_groups(model, 0.02), 0.1, **options))
    assert apart(ours, torch_run(timm_optimizer("lamb", weight_decay=0.02, **options))) < CLOSE


def paddles(kind, **options):
    """Paddle's own optimizer with timm's groups."""

    def make(model):
        groups = [
            {"params": [*group.parameters.values()], "weight_decay": group.weight_decay}
            for group in weight_decay_groups(model, 0.02)
        ]
        return getattr(paddle.optimizer, kind)(0.1, parameters=groups, **options)

    return make


class CoupledAdamW(AdamW):
    """Adam with the decay in the gradient."""

    def update(self, name, parameter, gradient, lr, weight_decay):
        super().update(name, parameter, gradient + parameter * weight_decay, lr, 0.0)


class Uncorrected(AdamW):
    """Without the correction of the moments."""

    def update(self, name, parameter, gradient, lr, weight_decay):
        self.counts[f"{name}.step"] = 10**6
        super().update(name, parameter, gradient, lr, weight_decay)


def with_groups(kind):
    return lambda model: kind(weight_decay_groups(model, 0.02), 0.1)


WRONG = {
    "no Nesterov": ("sgd", own("momentum", weight_decay=0.02)),
    "momentum in float32": ("sgd", paddles("Momentum", momentum=0.9, use_nesterov=True)),
    "bias decayed": ("sgd", own("sgd", weight_decay=0.02, filter_bias_and_bn=False)),
    "decay in float32": ("adamw", own("adamw", weight_decay=float(np.float32(0.02)))),
    "decay in the gradient": ("adamw", with_groups(CoupledAdamW)),
    "moments not corrected": ("adamw", with_groups(Uncorrected)),
    "another epsilon": ("adamw", own("adamw", weight_decay=0.02, eps=1.001e-8)),
    "Adam's epsilon": ("lamb", own("lamb", weight_decay=0.02, eps=1e-8)),
    "Lamb without its clip": ("lamb", own("lamb", weight_decay=0.02, max_grad_norm=None)),
    "no ratio of norms": ("lamb", own("adamw", weight_decay=0.02)),
    "Paddle's Lamb": ("lamb", lambda model: paddle.optimizer.Lamb(0.1, 0.02, parameters=model.parameters())),
}


@pytest.mark.torch
@pytest.mark.parametrize("fault", WRONG)
def test_another_optimizer_is_seen(fault):
    name, make = WRONG[fault]
    ours, *_ = our_run(make)
    assert apart(ours, torch_run(timm_optimizer(name, weight_decay=0.02))) > 100 * CLOSE


# --- groups ---------------------------------------------------------------------------------------------------------


def timm_groups(name, **options):
    """``{parameter: (weight decay, scale of the rate)}`` as timm's optimizer has them."""
    from torch_ref.model import create_model as create_timm

    model = create_timm(name, num_classes=10)
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    groups = timm_optimizer("sgd", **options)(model).param_groups
    return {
        names[id(parameter)]: (group["weight_decay"], group.get("lr_scale", 1.0))
        for group in groups
        for parameter in group["params"]
    }


def own_groups(groups):
    return {name: (group.weight_decay, group.lr_scale) for group in groups for name in group.parameters}


@pytest.mark.torch
@pytest.mark.parametrize("options", [{}, dict(filter_bias_and_bn=False)], ids=["BN and bias apart", "all alike"])
@pytest.mark.parametrize("name", ["dla34", "dla60_res2net"])
def test_decay_groups_are_timms(name, options):
    ours = create_optimizer(create_model(name, num_classes=10), weight_decay=1e-4, **options).groups
    assert own_groups(ours) == timm_groups(name, weight_decay=1e-4, **options)


@pytest.mark.torch
@pytest.mark.parametrize("least", [0.0, 0.3])
@pytest.mark.parametrize("name", ["dla34", "dla60_res2net"])
def test_layer_decay_groups_are_timms(name, least):
    options = dict(weight_decay=0.05, layer_decay=0.75, layer_decay_min_scale=least)
    ours = create_optimizer(create_model(name, num_classes=10), **options).groups
    assert own_groups(ours) == timm_groups(name, **options)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_scaled_group_moves_as_with_a_scaled_rate(name):
    def run(scale, lr):
        model = Toy()
        optimizer = create_optimizer(model, name, lr, layer_decay=None)
        optimizer.groups = tuple(ParamGroup(g.parameters, g.weight_decay, scale) for g in optimizer.groups)
        give_gradients(model, 0)
        optimizer.step()
        return {key: value.numpy() for key, value in model.named_parameters()}

    # a power of two: nothing is rounded
    scaled, slow = run(0.25, 0.1), run(1.0, 0.025)
    assert all(np.array_equal(scaled[key], slow[key]) for key in scaled)


def test_what_is_frozen_is_in_no_group_and_statistics_neither():
    model = create_model("dla46x_c", num_classes=3)
    for parameter in model.base_layer.parameters():
        parameter.stop_gradient = True
    names = own_groups(weight_decay_groups(model, 1e-4)).keys()
    assert names == {name for name, value in model.named_parameters() if not value.stop_gradient}
    assert not any(name.startswith("base_layer") or name.endswith(("_mean", "_variance")) for name in names)
    assert names == own_groups(layer_decay_groups(model, 1e-4, 0.9)).keys()


# --- clipping -------------------------------------------------------------------------------------------------------

CLIPS = {
    "norm, far above": ("norm", 0.5),
    "norm, not reached": ("norm", 1e6),
    "norm, tiny": ("norm", 1e-7),
    "value": ("value", 0.3),
    "agc": ("agc", 0.05),
}


def our_clipped(clip):
    model = Toy()
    give_gradients(model, 0)
    clip(model.parameters())
    return {name: value.grad.numpy() for name, value in model.named_parameters()}


def timm_clipped(value, mode):
    import torch

    from torch_ref.model import import_timm

    import_timm()
    from timm.utils import dispatch_clip_grad

    model = torch_toy()
    for name, parameter in model.named_parameters():
        parameter.grad = torch.from_numpy(gradient(name, 0, parameter.detach().numpy()))
    dispatch_clip_grad(model.parameters(), value, mode)
    return {name: value.grad.numpy() for name, value in model.named_parameters()}


def of_one_step(ours, theirs):
    return max(np.abs(ours[name] - theirs[name]).max() / np.abs(theirs[name]).max() for name in SHAPES)


@pytest.mark.torch
@pytest.mark.parametrize("case", CLIPS)
def test_gradients_are_clipped_as_timm_clips_them(case):
    mode, value = CLIPS[case]
    assert of_one_step(our_clipped(lambda p: clip_grad_(p, value, mode)), timm_clipped(value, mode)) < CLOSE


def each_alone(parameters):
    for parameter in parameters:
        clip_grad_norm_([parameter], 0.5)


def by_paddle(parameters):
    clip = paddle.nn.ClipGradByGlobalNorm(0.5)
    for parameter, clipped in clip([(p, p.grad) for p in parameters]):
        parameter.grad = clipped


@pytest.mark.torch
@pytest.mark.parametrize("clip", [each_alone, by_paddle, lambda p: clip_grad_value_(p, 0.5)])
def test_another_clip_is_seen(clip):
    # Paddle's own differs by the 1e-6 that torch adds to a norm of about 12
    assert of_one_step(our_clipped(clip), timm_clipped(0.5, "norm")) > 1e-8


def test_the_norm_before_clipping_is_returned_and_the_norm_after_is_the_limit():
    model = Toy()
    give_gradients(model, 0)
    before = np.sqrt(sum((p.grad.numpy() ** 2).sum() for p in model.parameters()))
    assert float(clip_grad_norm_(model.parameters(), 0.5)) == pytest.approx(before, rel=1e-14)
    after = np.sqrt(sum((p.grad.numpy() ** 2).sum() for p in model.parameters()))
    assert after == pytest.approx(0.5 * before / (before + 1e-6), rel=1e-14)


def test_the_norm_of_many_small_numbers_in_float32_is_good():
    parameter = paddle.create_parameter([2**20], "float32")
    values = np.random.RandomState(0).standard_normal(2**20).astype("float32")
    parameter.grad = paddle.to_tensor(values)
    exact = np.sqrt((values.astype("float64") ** 2).sum())
    # a sum in one float32 register would be off by up to 2**20 roundings; sums of parts by some dozens
    assert float(clip_grad_norm_([parameter], 1.0)) == pytest.approx(exact, rel=32 * 2.0**-23)


def test_where_there_is_no_gradient_nothing_is_clipped():
    model = Toy()
    assert float(clip_grad_norm_(model.parameters(), 1.0)) == 0
    clip_grad_value_(model.parameters(), 1.0)
    adaptive_clip_grad_(model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


# --- state ----------------------------------------------------------------------------------------------------------


def saved(state):
    """As a file holds it: arrays by name."""
    return {name: np.array(value) for name, value in state.items()}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_run_is_the_same_whatever_was_built_before(name, dtype):
    make = own(name, weight_decay=0.02)
    whole, *_ = our_run(make, dtype)
    _, model, optimizer = our_run(make, dtype, range(8))
    weights, state = saved(model.state_dict()), saved(optimizer.state_dict())
    paddle.nn.Conv2D(3, 3, 3)  # moves Paddle's counters of names on
    again = Toy(dtype)
    again.set_state_dict(weights)
    resumed, *_ = our_run(make, dtype, range(8, STEPS), again, state)
    assert all(np.array_equal(whole[-1][key], resumed[-1][key]) for key in SHAPES)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resume_without_the_state_is_another_run(name):
    make = own(name, weight_decay=0.02, momentum=0.9)
    whole, *_ = our_run(make)
    _, model, _ = our_run(make, steps=range(8))
    resumed, *_ = our_run(make, "float64", range(8, STEPS), model)
    assert not np.array_equal(whole[-1]["conv.weight"], resumed[-1]["conv.weight"])


def test_the_state_of_a_dla_goes_by_the_names_of_the_model():
    model = create_model("dla46x_c", num_classes=3)
    names = create_optimizer(model, "sgd").state_dict().keys()
    assert names == {f"{name}.velocity" for name, value in model.named_parameters() if not value.stop_gradient}
    assert "level2.tree1.conv1.weight.velocity" in names


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("bn.bias.moment1"), "missing: bn.bias.moment1"),
        (lambda state: state.pop("bn.bias.step"), "missing: bn.bias.step"),
        (lambda state: state.update(other=np.zeros(1)), "unknown: other"),
        (
            lambda state: state.update({"fc.bias.moment2": np.zeros(3)}),
            r"fc.bias.moment2: \[3\] float64 instead of \[5\]",
        ),
        (lambda state: state.update({"fc.bias.moment2": np.zeros(5, "float32")}), "float32 instead of"),
    ],
)
def test_state_that_does_not_fit_is_refused_and_nothing_is_changed(change, words):
    _, _, optimizer = our_run(own("adamw"), steps=range(2))
    before = saved(optimizer.state_dict())
    given = {name: np.zeros_like(array) for name, array in before.items()}
    change(given)
    with pytest.raises(ValueError, match=words):
        optimizer.set_state_dict(given)
    after = saved(optimizer.state_dict())
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_state_of_another_optimizer_is_refused():
    with pytest.raises(ValueError, match="another model or optimizer"):
        create_optimizer(Toy(), "sgd").set_state_dict(create_optimizer(Toy(), "lamb").state_dict())


# --- what else is promised ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_has_no_gradient_does_not_move(name):
    model = Toy()
    optimizer = create_optimizer(model, name, 0.1, 0.02)
    give_gradients(model, 0)
    optimizer.step()
    optimizer.clear_grad()
    before = {key: value.numpy().copy() for key, value in model.named_parameters()}
    model.fc.weight.grad = paddle.ones_like(model.fc.weight)
    optimizer.step()
    assert [key for key, value in model.named_parameters() if not np.array_equal(value.numpy(), before[key])] == [
        "fc.weight"
    ]


def test_a_step_with_infinite_gradients_is_left_out_as_the_loss_scaler_says():
    model = Toy("float32")
    optimizer = create_optimizer(model, "adamw", 0.1)
    give_gradients(model, 0)
    for found, moved in ((True, False), (False, True)):
        before = model.fc.bias.numpy().copy()
        optimizer._set_auxiliary_var("found_inf", paddle.to_tensor([found]))  # as GradScaler.step does
        optimizer.step()
        assert optimizer._get_auxiliary_var("found_inf") is found
        assert np.array_equal(before, model.fc.bias.numpy()) is not moved
    assert optimizer.counts["fc.bias.step"] == 1


def test_nothing_is_left_on_the_parameters_that_another_optimizer_would_obey():
    model = Toy()
    create_optimizer(model, "sgd", 0.1, 0.02)
    assert all(parameter.regularizer is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(name="adam"), "no optimizer 'adam'; known are sgd"),
        (dict(lr=-1.0), "not negative"),
        (dict(lr=float("nan")), "finite"),
        (dict(weight_decay=-1e-4), "weight_decay is not negative"),
        (dict(momentum=1.0), "below 1"),
        (dict(name="sgd", momentum=0.0), "Nesterov momentum needs"),
        (dict(name="adamw", betas=(0.9, 1.0)), "betas"),
        (dict(name="lamb", eps=-1.0), "eps"),
        (dict(name="lamb", max_grad_norm=0.0), "max_grad_norm"),
        (dict(layer_decay=0.0), "layer_decay is above 0"),
        (dict(layer_decay=0.9), "Toy has no layer_groups"),
    ],
)
def test_settings_that_make_no_optimizer_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        create_optimizer(Toy(), **options)


def test_a_model_with_nothing_to_train_is_refused():
    model = Toy()
    for parameter in model.parameters():
        parameter.stop_gradient = True
    with pytest.raises(ValueError, match="every parameter of the model is frozen"):
        create_optimizer(model)


def test_weights_in_low_precision_are_refused():
    model = create_model("dla46x_c", num_classes=3)
    model.to(dtype="bfloat16")
    with pytest.raises(ValueError, match=r"base_layer.*auto_cast"):
        create_optimizer(model)


@pytest.mark.parametrize(("value", "mode"), [(1.0, "global"), (0.0, "norm"), (float("nan"), "value")])
def test_a_clip_that_makes_no_sense_is_refused(value, mode):
    with pytest.raises(ValueError, match="not"):
        clip_grad_([], value, mode)
