"""The layer-diff suite: one test for each layer of each variant, so a failure names the layer.

timm's models and their Paddle twins run on the same weights and images; float64 judges, and float32 must stay within
the noise that timm's own float32 makes.
"""

from functools import lru_cache

import fingerprints
import pytest
from numpy_weights import images, timm_weights

from convert.conversion import convert_source
from convert.readers import source_from_arrays
from paddle_dla.models.variants import VARIANTS

pytestmark = pytest.mark.torch

LAYERS = [
    pytest.param(name, dtype, layer, id=f"{name}-{dtype}-{layer}")
    for name in VARIANTS
    for dtype in ("float64", "float32")
    for layer in fingerprints.load(name).names
    if not layer.startswith(("global_pool.pool#", "global_pool.flatten#"))
]


@lru_cache(maxsize=1)
def rows(name, dtype):
    from alignment.pairs import align_forward

    source = source_from_arrays(timm_weights(name))
    result = align_forward(source, convert_source(source, name), images(batch=2), dtype)
    return {f"{row.layer}#{row.call}": row for row in result.rows}


@pytest.mark.parametrize(("name", "dtype", "layer"), LAYERS)
def test_layer(name, dtype, layer):
    row = rows(name, dtype)[layer]
    assert row.aligned, f"relative error {row.relative:.2e} where rounding explains {row.floor:.2e}; {row.note}"
    if dtype == "float64":
        assert row.relative < 1e-11  # what a port must reach; 1e-15 is usual
