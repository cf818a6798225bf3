"""What the comparison asks of Paddle works on every version that is supported, without torch."""

import numpy as np
import paddle
from paddle import nn

from alignment.engine.records.store import Budget, Store
from alignment.engine.sides.paddle import side
from alignment.engine.sides.paddle.arrays import clear_gradients


class TwoHeads(nn.Layer):
    """The second output is made from the first."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        features = self.stem(x)
        return {"features": features, "logits": self.head(nn.functional.relu(features))}


def gradients(layer):
    tape = side.capture(
        layer, np.ones((2, 3)), Store(Budget(2**20)), lambda output: side.in_random_directions(output, seed=0)
    )
    return {name: tape.get(ref) for name, ref in tape.param_grads.items()}


def test_an_output_may_be_made_from_another():
    layer = TwoHeads().to(dtype="float64")
    found = gradients(layer)
    roots, directions = side.in_random_directions(layer(paddle.ones((2, 3), "float64")), seed=0)
    sum((root * direction).sum() for root, direction in zip(roots, directions)).backward()
    assert found.keys() == {"stem.weight", "stem.bias", "head.weight", "head.bias"}
    for name, parameter in layer.named_parameters():
        np.testing.assert_allclose(found[name], parameter.grad.numpy(), rtol=1e-12)  # both add a few terms


def test_a_parameter_without_gradient_has_none_again():
    layer = TwoHeads()
    layer(paddle.ones((2, 3)))["logits"].sum().backward()
    clear_gradients(layer)
    assert all(parameter.grad is None for parameter in layer.parameters())
