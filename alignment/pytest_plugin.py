"""pytest helpers for your own port: ``assert_aligned`` in a test, and a suite with one test per layer.

A whole layer-diff suite::

    from alignment.pytest_plugin import layer_diff

    def pair():
        return torch_model, paddle_model, inputs

    test_layer = layer_diff(pair)

runs the comparison once, when the file is imported, and gives every compared tensor an id such as
``test_layer[layer1.0.conv1]`` or ``test_layer[layer1.0.conv1.weight-parameter gradient]``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from alignment.engine.result import Result, Row

Pair = Callable[[], tuple[Any, Any, Any]]


def assert_aligned(torch_module: Any, paddle_layer: Any, inputs: Any, **options: Any) -> Result:
    """Run ``align`` with these arguments; raise ``AssertionError`` with the whole report where the two differ."""
    from alignment import align

    result = align(torch_module, paddle_layer, inputs, **options)
    if not result.passed:
        raise AssertionError(str(result))
    return result


def layer_diff(pair: Pair, **options: Any) -> Callable[..., None]:
    """Return a test function with one test for each compared tensor, and one for the layers at fault.

    ``pair`` returns the torch module, the Paddle layer and the inputs; ``options`` are passed to ``align``, which runs
    at once.
    """
    from alignment import align

    result = align(*pair(), **options)

    @pytest.mark.parametrize("row", [*result.rows, None], ids=[*map(_identify, result.rows), "verdict"])
    def test_layer(row: Row | None) -> None:
        if row is None:
            assert result.passed, str(result)
            return
        assert row.aligned, f"relative error {row.relative:.2e} where rounding explains {row.floor:.2e}; {row.note}"

    return test_layer


def _identify(row: Row) -> str:
    call = f"#{row.call}" if row.call else ""
    return f"{row.layer}{call}" + ("" if row.direction == "forward" else f"-{row.direction}")
