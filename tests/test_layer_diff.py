"""The layer-diff suite: every layer of every variant, each named where it differs.

timm's models and their Paddle twins run on the same weights and images; float64 judges, and float32 must stay within
the noise that timm's own float32 makes.
"""

from functools import lru_cache

import fingerprints
import pytest
from each import DIFFERENT, each
from numpy_weights import images, timm_weights

from convert.conversion import convert_source
from convert.readers import source_from_arrays
from paddle_dla.models.variants import VARIANTS

pytestmark = [pytest.mark.slow, pytest.mark.torch]

ONLY_IN_TIMM = {"global_pool.pool#0", "global_pool.flatten#0"}
REACHED = 1e-11
"""What a port must reach in float64; 1e-15 is usual."""


@lru_cache(maxsize=1)
def converted(name):
    source = source_from_arrays(timm_weights(name))
    return source, convert_source(source, name)


def rows(name, dtype):
    from alignment.pairs import align_forward

    result = align_forward(*converted(name), images(batch=2), dtype)
    return {f"{row.layer}#{row.call}": row for row in result.rows}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", each(VARIANTS, DIFFERENT))
def test_every_layer_is_aligned(name, dtype):
    found = rows(name, dtype)
    wanted = [layer for layer in fingerprints.load(name).names if layer not in ONLY_IN_TIMM]
    assert [layer for layer in wanted if layer not in found] == [], "not compared"
    differing = [
        f"{layer}: relative error {row.relative:.2e}, rounding explains {row.floor:.2e}; {row.note}"
        for layer, row in ((layer, found[layer]) for layer in wanted)
        if not (row.aligned and (dtype == "float32" or row.relative < REACHED))
    ]
    assert differing == []
