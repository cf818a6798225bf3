"""A running mean that only rounding keeps from 0 is judged by what was averaged."""

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
import paddle  # noqa: E402

from alignment import align  # noqa: E402

pytestmark = pytest.mark.torch
AXES = [0, 2, 3]


class Reference(torch.nn.Module):
    """What is normalised is centred: its mean is 0, or 1e-17."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(6)

    def forward(self, x):
        return self.norm(x - x.mean(AXES, keepdim=True))


class Port(paddle.nn.Layer):
    """The same; the mean that it keeps moves by ``shift`` too far."""

    def __init__(self, shift=0.0):
        super().__init__()
        self.norm = paddle.nn.BatchNorm2D(6)
        self.shift = shift

    def forward(self, x):
        y = self.norm(x - x.mean(AXES, keepdim=True))
        if self.training:
            paddle.assign(self.norm._mean + self.shift, self.norm._mean)
        return y


def causes(shift):
    x = np.random.RandomState(0).standard_normal((4, 6, 5, 5))
    return " ".join(culprit.cause for culprit in align(Reference(), Port(shift), x, mode="train").culprits)


def test_a_mean_of_nothing_but_rounding_is_no_fault():
    found = causes(0.0)
    assert "running_var" in found and "running_mean" not in found  # Paddle's variance is the biased one


def test_a_mean_that_is_wrong_by_little_is_one():
    assert "running_mean" in causes(1e-9)
