"""A setting that differs on purpose is accepted by name and reason, and is then all that differs."""

import doctest

import numpy as np
import pytest

from alignment.engine.judging import accepted
from alignment.engine.judging.accepted import in_words, split
from alignment.engine.judging.settings import SettingDifference

SLOPE = SettingDifference("slope", 1 / 6, 0.1666667, True, "slope 0.1666667 instead of 0.16666667")
STRIDE = SettingDifference("stride", (1, 1), (2, 2), True, "stride (2, 2) instead of (1, 1)")
REMARK = SettingDifference("dilation", (2, 2), (1, 1), False, "dilation (1, 1) instead of (2, 2)")


def test_the_named_field_alone_is_accepted():
    found = split({"a": [SLOPE], "b": [STRIDE, SLOPE]}, {"slope": "Paddle's"})
    assert found.faults == {"b": [STRIDE]}
    assert [(one.layer, one.field, one.reason) for one in found.accepted] == [
        ("a", "slope", "Paddle's"),
        ("b", "slope", "Paddle's"),
    ]
    assert found.wanted() == {"a": {"slope": 0.1666667}, "b": {"slope": 0.1666667}}


def test_a_field_of_one_layer_is_accepted_there_alone():
    found = split({"a": [SLOPE], "b": [SLOPE]}, {"b:slope": "Paddle's"})
    assert found.faults == {"a": [SLOPE]} and [one.layer for one in found.accepted] == ["b"]


def test_a_name_that_nothing_bears_is_told_and_a_remark_needs_no_acceptance():
    found = split({"a": [REMARK]}, {"slop": "Paddle's", "dilation": "the kernel is 1"})
    assert (found.unused, found.accepted) == (["slop"], []) and found.faults == {"a": [REMARK]}


@pytest.mark.parametrize("accept", [{"slope": ""}, {"slope": "  "}, {"slope": None}, {"a:training": "frozen"}])
def test_what_has_no_reason_or_is_a_mode_cannot_be_accepted(accept):
    with pytest.raises(ValueError):
        split({}, accept)


def test_layers_of_one_setting_are_one_clause():
    words = in_words(split({"a": [SLOPE], "b": [SLOPE]}, {"slope": "Paddle's"}).accepted)
    assert words.count("slope") == 1 and "Paddle's" in words and "a and 1 more" in words


def test_the_example_runs():
    assert doctest.testmod(accepted).failed == 0


# --- the reference, set as the port is ------------------------------------------------------------------------------


def cases():
    """``(torch layer, Paddle layer, fields)``."""
    import paddle.nn as P
    import torch.nn as T

    return {
        "slope": (T.Hardsigmoid(), P.Hardsigmoid()),
        "epsilon": (T.BatchNorm2d(4), P.BatchNorm2D(4, epsilon=1e-3)),
        "group_epsilon": (T.GroupNorm(2, 4), P.GroupNorm(2, 4, 1e-3)),
        "padding": (T.Conv2d(4, 6, 3, padding=1), P.Conv2D(4, 6, 3, padding=2)),
        "pool": (T.AvgPool2d(3, 2, 1), P.AvgPool2D(3, 2, 1)),
        "corners": (T.Upsample(12, mode="bilinear"), P.Upsample([12, 12], mode="bilinear", align_corners=True)),
        "axis": (T.Softmax(1), P.Softmax(2)),
        "leak": (T.LeakyReLU(), P.LeakyReLU(0.3)),
        "alpha": (T.ELU(), P.ELU(0.3)),
        "tanh": (T.GELU(), P.GELU(True)),
        "output_size": (T.AdaptiveAvgPool2d(2), P.AdaptiveAvgPool2D(3)),
    }


@pytest.mark.torch
@pytest.mark.parametrize("name", ["slope", "epsilon", "group_epsilon", "padding", "pool", "corners", "axis", "leak",
                                  "alpha", "tanh", "output_size"])  # fmt: skip
def test_the_reference_set_as_the_port_computes_what_the_port_does(name):
    pytest.importorskip("torch")
    from alignment.engine.sides.paddle.probe import prober as probe_paddle
    from alignment.engine.sides.paddle.settings import describe as describe_paddle
    from alignment.engine.sides.settings import disagreements
    from alignment.engine.sides.torch.probe import prober as probe_torch
    from alignment.engine.sides.torch.probe import roles
    from alignment.engine.sides.torch.resetting import set_as_port
    from alignment.engine.sides.torch.settings import describe as describe_torch

    reference, port = cases()[name]
    x, before = np.random.RandomState(0).standard_normal((2, 4, 8, 7)) * 3, sorted(vars(reference))
    tensors = {role: np.random.RandomState(1).uniform(0.5, 2, shape) for role, shape in roles(reference).items()}
    found = disagreements(describe_torch(reference), describe_paddle(port), x.shape)
    theirs = probe_paddle(port)([x], "eval", tensors, True)

    def error():
        ours = probe_torch(reference)([x], "eval", tensors, True)
        if ours.outputs[0].shape != theirs.outputs[0].shape:
            return np.inf
        pairs = [*zip(ours.outputs, theirs.outputs), *zip(ours.input_grads, theirs.input_grads)]
        return max(abs(a - b).max() / abs(a).max() for a, b in pairs)

    assert found and error() > 1e-8
    with set_as_port({"layer": reference}, {"layer": {field: value for field, (_, value) in found.items()}}):
        assert error() < 1e-14
    assert sorted(vars(reference)) == before and error() > 1e-8


@pytest.mark.torch
@pytest.mark.parametrize(("field", "value"), [("padding", ((1, 0), (1, 0))), ("groups", 2), ("kind", "relu6")])
def test_what_torch_cannot_be_set_to_is_not_accepted(field, value):
    torch = pytest.importorskip("torch")
    from alignment.engine.sides.torch.resetting import CannotSet, set_as_port

    layer = torch.nn.Conv2d(4, 4, 3)
    with pytest.raises(CannotSet) as refused, set_as_port({"conv": layer}, {"conv": {field: value}}):
        pass
    assert (refused.value.layer, refused.value.field, refused.value.value) == ("conv", field, value)
    assert layer.padding == (0, 0)
