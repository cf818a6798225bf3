"""Find the origin of the first NaN or infinity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import paddle
from paddle import Tensor, nn

from paddle_dla.optim import NamedOptimizer


def finite(tensor: Tensor) -> bool:
    """Return whether all elements are finite."""
    return bool(paddle.isfinite(tensor).all()) if tensor.is_floating_point() else True


@paddle.no_grad()
def first_non_finite(network: nn.Layer, forward: Callable[[], Any]) -> str | None:
    """Return the first layer, in the order of computation, whose output is not finite while ``forward`` runs.

    The text names the layer and its type, and says whether its own weights are the cause. ``None`` if all are finite.
    """
    found: list[str] = []

    def looking(name: str) -> Callable[..., Any]:
        def look(layer: nn.Layer, inputs: tuple[Any, ...], output: Any) -> None:
            if not found and not all(map(finite, _tensors(output))):
                found.append(_described(name, layer))

        return look

    hooks = [layer.register_forward_post_hook(looking(name)) for name, layer in network.named_sublayers()]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (list, tuple)):
        for item in output:
            yield from _tensors(item)


def _described(name: str, layer: nn.Layer) -> str:
    bad = [key for key, value in layer.named_parameters() if not finite(value)]
    why = f", whose {', '.join(bad[:3])} is not finite already" if bad else ", whose weights are finite"
    return f"the first layer with an output that is not finite is {name} ({type(layer).__name__}){why}"


def last_bad_gradient(optimizer: NamedOptimizer) -> str:
    """Return the parameter nearest to the output whose gradient is not finite: the first one in the backward pass."""
    names = [name for name, p in optimizer.named_parameters() if p.grad is not None and not finite(p.grad)]
    # parameter groups change the order of the model; fc comes after every level, and levels are numbered
    return max(
        names, key=lambda name: (name.startswith("fc"), name.startswith("level"), name), default="the norm alone"
    )
