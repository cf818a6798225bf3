"""Is this port still its reference? Run it with ``pytest test_port.py``.

Where torch is installed, every layer is compared (one test a layer); where it is not, the outputs are held against
those that torch gave when the port was made.
"""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parent
CARD = json.loads((FOLDER / "card.json").read_text(encoding="utf-8"))
REBUILT = bool(CARD["reference"]["model"] or CARD["reference"]["factory"]) and find_spec("torch") is not None


def golden_inputs():
    generator = np.random.RandomState(CARD["golden"]["seed"])
    return [generator.standard_normal(shape).astype("float32") for shape in CARD["golden"]["shapes"]]


def test_golden():
    import paddle

    from paddle_dla.models.ported import open_port

    with paddle.no_grad():
        outputs = open_port(FOLDER)(*map(paddle.to_tensor, golden_inputs()))
    leaves = paddle.utils.flatten(outputs)
    for ours, golden in zip(leaves, CARD["golden"]["outputs"], strict=True):
        wanted = np.array(golden["values"])
        found = ours.numpy().reshape(-1)[: wanted.size]
        # what torch's own float32 differs by from its float64, ten times: other machines round elsewhere
        assert np.abs(found - wanted).max() <= 10 * golden["float32_error"] * golden["largest"]


if REBUILT:
    from alignment.pytest_plugin import layer_diff

    def pair():
        from convert.porting.opening import reference_of
        from paddle_dla.models.ported import open_port

        module, key_map = reference_of(FOLDER)
        pair.options["key_map"] = key_map
        return module, open_port(FOLDER), golden_inputs()

    pair.options = {}
    test_layer = layer_diff(pair)
    test_layer.aligned_options = pair.options
else:

    @pytest.mark.skip(reason="torch is not installed, or the port was made of a module that only its maker has")
    def test_layer():
        pass
