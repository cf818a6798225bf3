"""A port takes the sizes of images that its reference takes."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import paddle  # noqa: E402
from torch import nn  # noqa: E402
from translating import Port, assert_close, normal  # noqa: E402

from torch_ref.model import import_timm  # noqa: E402

T = import_timm().layers

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread")]

ROUNDING = 1e-12
"""float64 rounding of a few sums, relative to the largest element."""


class PadsSame(nn.Module):
    """A stem of convolutions and a pool that pad as TensorFlow does, by what the side leaves over."""

    def __init__(self):
        super().__init__()
        self.convs = nn.Sequential(*[T.create_conv2d(3, 3, 3, stride=2, padding="same") for _ in range(5)])
        self.pool = T.create_pool2d("max", 3, stride=2, padding="same")

    def forward(self, x):
        return self.pool(self.convs(x) + 1).flatten(2)


@pytest.mark.parametrize(("module", "traced", "others"), [(PadsSame, (3, 128, 128), [(3, 129, 225), (3, 97, 64)])])
def test_another_size_than_the_traced_one_gives_what_the_reference_gives(module, traced, others):
    torch.manual_seed(0)
    module = module().eval()
    port = Port.of(module, (normal(2, *traced),))
    model = port.model("float64")
    model.eval()
    for shape in [traced, *others]:
        x = normal(1, *shape).double()
        with torch.no_grad():
            expected = module.double()(x).numpy()
        assert_close(model(paddle.to_tensor(x.numpy())).numpy(), expected, ROUNDING)


def test_a_side_at_which_a_condition_divides_by_nothing_is_one_that_does_not_hold():
    import sympy
    from torch.utils._sympy.functions import FloorDiv, PythonMod

    from convert.translate.plain import Limit
    from convert.translate.symbols import limit_of

    height, width = sympy.symbols("height width", integer=True, positive=True)
    guard = sympy.Eq(PythonMod(64, FloorDiv(height, 16), evaluate=False), 0)
    assert limit_of([guard], (height, width), (64, 64)) == Limit(equal=(64, 64))
