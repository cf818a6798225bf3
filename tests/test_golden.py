"""Without torch: every layer of every variant computes what timm recorded, and a damaged layer shows."""

import fingerprints
import numpy as np
import pytest
from each import DIFFERENT, each
from numpy_weights import images, timm_weights

from alignment.engine.sides.paddle.capture import capture
from convert.conversion import convert_source
from convert.readers import source_from_arrays
from paddle_dla import create_model
from paddle_dla.models.variants import VARIANTS

# Independent rounding errors of 1e-15 relative (what float64 leaves after 700 layers) move a projection by as much;
# a constant kept in float32 moves it by 6e-8. The limit lies between the two.
LIMIT = 1e-11

ONLY_IN_TIMM = {"global_pool.pool", "global_pool.flatten"}


def paddle_model(name):
    arrays = convert_source(source_from_arrays(timm_weights(name)), name).arrays
    model = create_model(name)
    model.set_state_dict(arrays)
    model.eval()
    return model.to(dtype="float64")


def differing_layers(name, model):
    golden = fingerprints.load(name)
    tape = capture(model, [images()])
    records = {f"{record.path}#{record.call}": record for record in tape}
    assert set(golden.names) - records.keys() == {f"{layer}#0" for layer in ONLY_IN_TIMM}
    differing = []
    for layer, expected, scale in zip(golden.names, golden.projections, golden.scales):
        if layer in records:
            projection, _ = fingerprints.fingerprint(layer, tape.outputs(records[layer])[0])
            if np.abs(projection - expected).max() > LIMIT * scale:
                differing.append(layer)
    return differing


@pytest.mark.parametrize("name", each(VARIANTS, DIFFERENT))
def test_every_layer_computes_what_timm_recorded(name):
    assert differing_layers(name, paddle_model(name)) == []


def test_one_changed_weight_shows_from_its_layer_on():
    model = paddle_model("dla46x_c")
    norm = model.level3.tree1.tree2.bn2
    changed = norm.bias.numpy()
    changed[3] += 1e-6
    norm.bias.set_value(changed)
    differing = differing_layers("dla46x_c", model)
    assert differing[0] == "level3.tree1.tree2.bn2#0"
    assert differing[-1] == "(model)#0"
