"""Find the classifier and the first convolution of a port whose reference does not name them. Uses Paddle."""

from __future__ import annotations

from typing import Any

import numpy as np

from convert.porting.arguments import Arguments, named
from convert.porting.watching import run_watched

ENDS = ("classifier", "num_classes", "first_conv")
"""The entries of a card that ``ends_of`` finds."""


def ends_of(reference: Any, port: Any, inputs: Arguments) -> dict[str, Any]:
    """Return the card's entries ``ENDS``, found in a run of ``port``.

    The classifier is the ``Linear`` or 1x1 ``Conv2D`` whose output is the output of the model. The first convolution is
    the ``Conv2D`` that reads the images. An entry is missing if there is no such layer, if it is called several times,
    or if the model takes anything but one batch of images.
    """
    from alignment.engine.borrowed import borrow

    if len(named(inputs)) != 1 or next(iter(named(inputs).values())).ndim != 4:
        return {}
    with borrow(reference, port, "eval"):
        return _found(port, inputs)


def _found(port: Any, inputs: Arguments) -> dict[str, Any]:
    import paddle

    (images,) = named(inputs).values()
    layers = dict(port.named_sublayers())
    heads: dict[str, list[np.ndarray]] = {}
    stems: dict[str, list[bool]] = {}

    def see(name: str, given: Any, output: Any) -> None:
        layer = layers[name]
        if isinstance(layer, paddle.nn.Conv2D):
            stems.setdefault(name, []).append(np.array_equal(given[0].numpy(), images))
        if _is_head(layer, output):
            heads.setdefault(name, []).append(output.numpy())

    output = run_watched(port, inputs, see)
    first = next((name for name, same in stems.items() if same == [True]), None)
    found: dict[str, Any] = {} if first is None else {"first_conv": first}
    if not isinstance(output, paddle.Tensor) or output.ndim != 2:
        return found
    logits = output.numpy()
    for name, made in heads.items():
        if len(made) == 1 and made[0].size == logits.size and np.array_equal(made[0].reshape(logits.shape), logits):
            return {**found, "classifier": name, "num_classes": logits.shape[1]}
    return found


def _is_head(layer: Any, output: Any) -> bool:
    """Return whether ``layer`` may be a classifier: it returns one row, or one 1x1 map, for each image."""
    import paddle

    if isinstance(layer, paddle.nn.Conv2D):
        return list(layer.weight.shape[2:]) == [1, 1] and list(output.shape[2:]) == [1, 1]
    return isinstance(layer, paddle.nn.Linear) and output.ndim == 2
