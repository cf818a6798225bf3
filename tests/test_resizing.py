"""The weights with which the installed Paddle mixes pixels are those of ``alignment.engine.sides.resizing``."""

import numpy as np
import pytest

from alignment.engine.sides.resizing import FORWARD, mixing

FORMATS = {1: "NCW", 2: "NCHW", 3: "NCDHW"}
SIZES = [(7, 13), (9, 5), (11, 4), (5, 17), (8, 3), (6, 19), (10, 7)]
ROUNDING = 1e-14
"""Of a sum of four products near 1 in float64; a constant in float32 is off by 1e-8 or more."""


def weights_of_paddle(mode, corners, axis, old, new):
    """(new, old): what each pixel of a line along ``axis`` becomes when it alone is 1."""
    import paddle
    import paddle.nn.functional as F

    dims = len(FORWARD[mode, corners])
    sizes, wanted = [3] * dims, [3] * dims
    sizes[axis], wanted[axis] = old, new
    lines = np.eye(old).reshape(old, 1, *(old if place == axis else 1 for place in range(dims)))
    images = paddle.to_tensor(np.broadcast_to(lines, (old, 1, *sizes)).copy())
    made = F.interpolate(images, wanted, mode=mode, align_corners=corners, data_format=FORMATS[dims]).numpy()
    middle = tuple(slice(None) if place == axis else 1 for place in range(dims))
    return made[(slice(None), 0, *middle)].T


@pytest.mark.parametrize(("mode", "corners"), FORWARD)
def test_pixels_are_mixed_as_paddle_does(mode, corners):
    for axis in range(len(FORWARD[mode, corners])):
        for old, new in SIZES:
            expected = weights_of_paddle(mode, corners, axis, old, new)
            sizes, wanted = [3] * len(FORWARD[mode, corners]), [3] * len(FORWARD[mode, corners])
            sizes[axis], wanted[axis] = old, new
            found = mixing(mode, corners, sizes, wanted, [None] * len(sizes)).ahead[axis]
            np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING, err_msg=f"axis {axis}, {old} to {new}")
