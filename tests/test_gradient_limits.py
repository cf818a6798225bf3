"""How far a gradient may be off: by its noise floor, and by what the kernels' own constants in float32 do to it."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
paddle = pytest.importorskip("paddle")
pytestmark = pytest.mark.torch

from alignment import align, align_training, transfer  # noqa: E402
from alignment.engine import session  # noqa: E402
from alignment.engine.runs import leaks_into  # noqa: E402

SHAPE = 4, 3, 7, 7


class Reference(torch.nn.Module):
    """Its mean is exact; or it takes the largest number in place of the mean, which has no constants."""

    def __init__(self, mean):
        super().__init__()
        self.mean = mean
        self.conv, self.fc = torch.nn.Conv2d(3, 5, 3), torch.nn.Linear(5, 4)

    def forward(self, x):
        x = self.conv(x)
        return self.fc(x.mean((2, 3)) if self.mean else x.amax((2, 3)))


class Port(paddle.nn.Layer):
    """With ``pool`` "mean" it has Paddle's, whose gradient is multiplied by 1/25 in float32; "exact", as the reference.

    ``share``: what its gradient is off by.
    """

    def __init__(self, pool, share=0.0):
        super().__init__()
        self.conv, self.fc = paddle.nn.Conv2D(3, 5, 3), paddle.nn.Linear(5, 4)
        self.pool, self.share = pool, share

    def forward(self, x):
        x = self.conv(x)
        pools = {"mean": lambda x: paddle.nn.functional.adaptive_avg_pool2d(x, 1).flatten(1),
                 "exact": lambda x: x.mean((2, 3)), "max": lambda x: x.amax((2, 3))}  # fmt: skip
        x = pools[self.pool](x)
        return self.fc(x + self.share * (x - x.detach()))


def pair(port):
    torch.manual_seed(0)
    reference = Reference(mean=port.pool != "max")
    inputs = np.random.RandomState(0).standard_normal(SHAPE).astype("float32")
    return reference, port, inputs, transfer(reference, port, inputs)


def aligned(port):
    reference, port, inputs, key_map = pair(port)
    return align(reference, port, inputs, key_map=key_map, mode="train")


def trained(port):
    reference, port, inputs, key_map = pair(port)
    batch = inputs, np.arange(4) % 4
    return align_training(
        reference, port, [batch, batch], key_map=key_map,
        loss=(torch.nn.functional.cross_entropy, paddle.nn.functional.cross_entropy),
        optimizer=(lambda module: torch.optim.SGD(module.parameters(), 0.1),
                   lambda layer: paddle.optimizer.SGD(0.1, parameters=layer.parameters())),
    )  # fmt: skip


def largest_limit(report):
    return max(row.allowed for row in report.rows if "gradient" in row.direction)


@pytest.mark.parametrize("compared", [aligned, trained])
def test_a_pool_in_place_of_a_mean_is_aligned_and_named(compared):
    report = compared(Port("mean"))
    assert report.passed, report.verdict()
    assert any("keep in float32" in words for words in report.facts.values())
    assert 1e-9 < largest_limit(report) < 2e-7, "four times what 1/25 in float32 does"


@pytest.mark.parametrize("compared", [aligned, trained])
@pytest.mark.parametrize(("pool", "share"), [("mean", 5e-7), ("max", 1e-10)])
def test_a_gradient_that_is_off_by_more_is_a_fault(compared, pool, share):
    report = compared(Port(pool, share))
    assert not report.passed and report.verdict().startswith("NOT ALIGNED")


def test_a_module_without_parameters_is_compared_in_float64():
    class Ours(torch.nn.Module):
        def forward(self, x):
            return torch.sinc(x)

    class Theirs(paddle.nn.Layer):
        def forward(self, x):
            return paddle.sin(np.pi * x) / (np.pi * x)

    report = align(Ours(), Theirs(), np.random.RandomState(0).standard_normal((2, 3)).astype("float32"))
    assert report.passed, report.verdict()
    assert max(row.relative for row in report.rows) < 1e-14


@pytest.mark.parametrize("compared", [aligned, trained])
@pytest.mark.parametrize("pool", ["exact", "max"])
def test_where_they_make_no_difference_rounding_alone_is_allowed(compared, pool):
    report = compared(Port(pool))
    assert report.passed and largest_limit(report) < 1e-10


@pytest.mark.parametrize("share, bias, measured", [(0.0, 0.0, 1), (1e-9, 0.0, 1), (0.5, 0.0, 0), (0.0, 0.5, 0)])
def test_the_constants_are_measured_only_where_they_may_be_the_first_difference(monkeypatch, share, bias, measured):
    """Not behind values that differ, nor where a gradient differs by far more before theirs does."""
    reference, port, inputs, key_map = pair(Port("mean", share))
    with paddle.no_grad():
        port.fc.bias.add_(paddle.full([4], bias))
    runs = []
    monkeypatch.setattr(session, "leaks_into", lambda *args: runs.append(args) or leaks_into(*args))
    report = align(reference, port, inputs, key_map=key_map)
    assert len(runs) == measured
    assert report.passed is (share < 1e-8 and not bias), report.verdict()
