"""Find the classifier and the first convolution of a port whose reference does not name them. Uses Paddle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from convert.porting.arguments import Arguments, named
from convert.porting.watching import run_watched


def ends_of(reference: Any, port: Any, inputs: Arguments) -> dict[str, Any]:
    """Return the card's entries ``classifier``, ``num_classes`` and ``first_conv``, found in a run of ``port``.

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

    calls: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}

    def see(name: str, given: Any, output: Any) -> None:
        if name in layers:
            calls.setdefault(name, []).append((given[0].numpy(), output.numpy()))

    kinds = (paddle.nn.Linear, paddle.nn.Conv2D)
    layers = {name: layer for name, layer in port.named_sublayers() if isinstance(layer, kinds)}
    output = run_watched(port, inputs, see)
    once = {name: found[0] for name, found in calls.items() if len(found) == 1}
    return {**_classifier(layers, once, output), **_first_conv(layers, once, next(iter(named(inputs).values())))}


def _classifier(layers: Mapping[str, Any], once: Mapping[str, Any], output: Any) -> dict[str, Any]:
    import paddle

    if not isinstance(output, paddle.Tensor) or output.ndim != 2:
        return {}
    logits = output.numpy()
    for name, (_, made) in once.items():
        layer = layers[name]
        is_head = isinstance(layer, paddle.nn.Linear) or list(layer.weight.shape[2:]) == [1, 1]
        if is_head and made.size == logits.size and np.array_equal(made.reshape(logits.shape), logits):
            return {"classifier": name, "num_classes": logits.shape[1]}
    return {}


def _first_conv(layers: Mapping[str, Any], once: Mapping[str, Any], images: np.ndarray) -> dict[str, Any]:
    import paddle

    for name, (given, _) in once.items():
        if isinstance(layers[name], paddle.nn.Conv2D) and np.array_equal(given, images):
            return {"first_conv": name}
    return {}
