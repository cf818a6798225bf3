"""Both frameworks have the protocol by which a comparison speaks to them, with the same signatures."""

import inspect

import pytest

pytestmark = pytest.mark.torch
pytest.importorskip("torch")

from alignment.engine.sides.paddle import side as paddle_side  # noqa: E402
from alignment.engine.sides.side import Side  # noqa: E402
from alignment.engine.sides.torch import side as torch_side  # noqa: E402

SIDES = {"torch": torch_side, "Paddle": paddle_side}
METHODS = {name: function for name, function in vars(Side).items() if inspect.isfunction(function) and name[0] != "_"}
VALUES = set(Side.__annotations__)


def parameters(function):
    """Name, kind and default of each, without ``self``."""
    found = inspect.signature(function).parameters.values()
    return [(one.name, one.kind, one.default) for one in found if one.name != "self"]


def test_the_protocol_is_there():
    assert len(METHODS) > 10


@pytest.mark.parametrize("side", SIDES.values(), ids=SIDES)
@pytest.mark.parametrize("name", METHODS)
def test_a_function_of_either_side_takes_what_the_protocol_says(side, name):
    # a side may take more, if it need not be given
    wanted, taken = parameters(METHODS[name]), parameters(getattr(side, name))
    assert taken[: len(wanted)] == wanted
    assert all(default is not inspect.Parameter.empty for _, _, default in taken[len(wanted) :])


@pytest.mark.parametrize("side", SIDES.values(), ids=SIDES)
def test_a_side_has_the_protocol_and_nothing_else(side):
    assert {*side.__all__} == METHODS.keys() | VALUES
    assert all(hasattr(side, name) for name in side.__all__)


@pytest.mark.parametrize(("label", "side"), SIDES.items(), ids=SIDES)
def test_a_side_is_called_as_reports_call_it(label, side):
    assert label == side.LABEL
