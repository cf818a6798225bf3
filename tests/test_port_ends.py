"""A port of a module that names no classifier and no first convolution: both are found, and can be replaced."""

import json

import pytest

torch = pytest.importorskip("torch")

import paddle  # noqa: E402
from torch import nn  # noqa: E402

from convert import port_model  # noqa: E402
from paddle_dla import create_model  # noqa: E402
from paddle_dla.models.registry import ModelError  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread")]
IMAGES = torch.randn(2, 3, 16, 16)


class Net(nn.Module):
    """``head`` makes the output, or a ``tail`` behind it does."""

    def __init__(self, head, tail=None):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 8, 1)
        self.head, self.tail = head, tail

    def forward(self, x):
        x = self.body(self.norm(self.stem(x)).relu()).mean((2, 3), keepdim=isinstance(self.head, nn.Conv2d))
        x = self.head(x).flatten(1)
        return x if self.tail is None else self.tail(x)


def ported(tmp_path, module):
    folder = tmp_path / "port"
    assert port_model(module, (IMAGES,), folder, eval_only=True).proved
    return folder, json.loads((folder / "card.json").read_text())


@pytest.mark.parametrize("head", [nn.Linear(8, 5), nn.Conv2d(8, 5, 1)], ids=["Linear", "Conv2d"])
def test_both_ends_are_found_and_replaced(head, tmp_path):
    folder, card = ported(tmp_path, Net(head))
    assert (card["classifier"], card["num_classes"], card["first_conv"]) == ("head", 5, "stem")
    model = create_model(folder, num_classes=3, in_chans=1)
    model.eval()
    assert list(model(paddle.randn([2, 1, 16, 16])).shape) == [2, 3]


def test_a_layer_that_does_not_make_the_output_is_no_classifier(tmp_path):
    folder, card = ported(tmp_path, Net(nn.Linear(8, 5), nn.Softmax(1)))
    assert card["classifier"] is None and card["first_conv"] == "stem"
    with pytest.raises(ModelError, match="classifier"):
        create_model(folder, num_classes=3)
