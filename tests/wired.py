"""Small models of either framework, wired by a function, for tests that compare them."""

import numpy as np
import paddle
import pytest
from paddle import nn as pnn

torch = pytest.importorskip("torch")  # where it is not, what imports these models is skipped
from torch import nn as tnn  # noqa: E402


class TorchModel(tnn.Module):
    """Named layers and parameters, and ``forward(model, *inputs)``, which wires them."""

    def __init__(self, forward=None, /, **parts):
        super().__init__()
        self.wiring = forward or in_order(*parts)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs):
        return self.wiring(self, *inputs)


class PaddleModel(pnn.Layer):
    """As ``TorchModel``."""

    def __init__(self, forward=None, /, **parts):
        super().__init__()
        self.wiring = forward or in_order(*parts)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs):
        return self.wiring(self, *inputs)


def in_order(*names):
    """A wiring: the layers of these names, one after the other."""

    def forward(model, x):
        for name in names:
            x = getattr(model, name)(x)
        return x

    return forward


def torch_parameter(*shape):
    return tnn.Parameter(torch.randn(shape))


def paddle_parameter(*shape, value=0.0):
    return paddle.create_parameter([*shape], "float32", default_initializer=pnn.initializer.Constant(value))


def numbers(*shape, seed=0):
    return np.random.RandomState(seed).standard_normal(shape).astype("float32")


def outputs(reference, port, *inputs):
    """What both return, in float32 and in evaluation."""
    reference.eval(), port.eval()
    with torch.no_grad(), paddle.no_grad():
        mine = reference(*map(torch.from_numpy, inputs))
        yours = port(*map(paddle.to_tensor, inputs))
    return mine.numpy(), yours.numpy()


def distance(reference, port, *inputs):
    """The largest difference of both outputs, relative to the largest value."""
    mine, yours = outputs(reference, port, *inputs)
    return np.abs(mine - yours).max() / np.abs(mine).max()
