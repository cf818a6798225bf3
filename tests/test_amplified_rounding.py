"""A network that makes much of rounding: where float32 saturates, what float64 leaves is measured in float64."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
paddle = pytest.importorskip("paddle")
pytestmark = pytest.mark.torch

from alignment import align, transfer  # noqa: E402

WIDTH = 256


class Reference(torch.nn.Module):
    """In half of the numbers in front of a sigmoid, terms of the size ``terms`` cancel to about 1.

    In float32 they leave nothing of it.
    """

    def __init__(self, terms, inputs):
        super().__init__()
        self.fc, self.gate, self.head = torch.nn.Linear(WIDTH, 8), torch.nn.Sigmoid(), torch.nn.Linear(8, 4)
        with torch.no_grad():
            self.fc.weight.normal_().mul_(terms)
            self.fc.double()
            cancelled = torch.linspace(-1, 1, 8).double() - self.fc.weight @ torch.from_numpy(inputs[0])
            self.fc.bias.copy_(torch.where(torch.arange(8) % 2 == 0, cancelled, 0.0))
            self.head.double()

    def forward(self, x):
        return self.head(self.gate(self.fc(x)))


class Halves(paddle.nn.Linear):
    """Adds up the terms in another order."""

    def forward(self, x):
        half = WIDTH // 2
        halves = [x[:, part].matmul(self.weight[part]) for part in (slice(half, None), slice(half))]
        return halves[0] + halves[1] + self.bias


class Port(paddle.nn.Layer):
    def __init__(self, slope=1.0):
        super().__init__()
        self.fc, self.gate, self.head = Halves(WIDTH, 8), paddle.nn.Sigmoid(), paddle.nn.Linear(8, 4)
        self.slope = slope

    def forward(self, x):
        return self.head(self.gate(self.fc(x) * self.slope))


def compared(terms, slope=1.0):
    torch.manual_seed(0)
    inputs = np.random.RandomState(0).standard_normal((1, WIDTH))
    reference, port = Reference(terms, inputs), Port(slope)
    port.to(dtype="float64")
    key_map = transfer(reference, port)
    return align(reference, port, inputs, key_map=key_map)


def test_rounding_that_a_sigmoid_shows_is_no_fault():
    found = compared(1e11)
    assert found.passed, found
    assert "units in the last place of float64" in found.facts["rounding"]


def test_rounding_that_leaves_nothing_is_undecided():
    found = compared(1e15)
    assert found.undecided and not found.culprits, found
    assert "rounding in float64 may reach" in found.verdict()


@pytest.mark.parametrize("terms", [1.0, 1e11])
def test_a_fault_beside_such_rounding_is_found(terms):
    found = compared(terms, slope=1.1)
    assert not found.passed and not found.undecided
    assert [culprit.layer for culprit in found.culprits] == ["(model)"]
