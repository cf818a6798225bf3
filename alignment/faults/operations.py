"""Count the operations that the code of a layer calls, and replace them by wrong ones. Paddle only.

An operation belongs to the layer whose method called it, directly or through plain functions. Functions are replaced
where they are looked up (``paddle.nn.functional.softmax``, ``Tensor.__add__``). Code that imported a function by name
is therefore not seen; a fault that needs it does not apply.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from alignment.engine.records.tree import as_call, is_array, mapped
from alignment.engine.sides.paddle.capture import to_tensor

Right = Callable[..., Any]
Handler = Callable[[nn.Layer, Right, tuple[Any, ...], dict[str, Any]], Any]


def _two_tensors(x: Any, y: Any = None, *rest: Any, **kwargs: Any) -> bool:
    """Return whether both arguments are tensors and neither is a parameter."""
    return all(isinstance(t, Tensor) and not isinstance(t, _PARAMETER) for t in (x, y))


def _of_one_shape(x: Any, y: Any = None, *rest: Any, **kwargs: Any) -> bool:
    return _two_tensors(x, y) and x.shape == y.shape and x.ndim > 1


def _gate(x: Any, y: Any = None, *rest: Any, **kwargs: Any) -> bool:
    """Return whether a map is multiplied by one value for each channel."""
    return _two_tensors(x, y) and x.shape[:2] == y.shape[:2] and x.ndim == 4 and (1, 1) in (_side(x), _side(y))


def _side(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape[2:])


def _any(*args: Any, **kwargs: Any) -> bool:
    return True


_PARAMETER = type(nn.Linear(1, 1).weight)
OPERATIONS: Mapping[str, tuple[tuple[tuple[Any, str], ...], Callable[..., bool]]] = {
    "residual addition": (((Tensor, "__add__"), (paddle, "add")), _of_one_shape),
    "gate": (((Tensor, "__mul__"), (paddle, "multiply")), _gate),
    "concat": (((paddle, "concat"),), _any),
    "softmax": (((F, "softmax"),), _any),
    "roll": (((paddle, "roll"), (Tensor, "roll")), _any),
    "mean": (((paddle, "mean"), (Tensor, "mean")), _any),
    "relu": (((F, "relu"),), _any),
    "relu6": (((F, "relu6"),), _any),
    "gelu": (((F, "gelu"),), _any),
    "silu": (((F, "silu"), (F, "swish")), _any),
    "sigmoid": (((F, "sigmoid"),), _any),
    "hardswish": (((F, "hardswish"),), _any),
    "hardsigmoid": (((F, "hardsigmoid"),), _any),
}  # fmt: skip
"""For each name: where the operation is looked up, and which calls count."""


@dataclass
class Seen:
    """The calls of one run: ``calls`` of each layer, and ``operations`` over all calls of a layer, both by id."""

    calls: Counter[int] = field(default_factory=Counter)
    operations: Counter[tuple[int, str]] = field(default_factory=Counter)

    def number(self, layer: nn.Layer, operation: str) -> int:
        """Return how often one call of ``layer`` calls ``operation``."""
        calls = self.calls[id(layer)]
        return self.operations[id(layer), operation] // calls if calls else 0


def seen(model: nn.Layer, inputs: Any) -> Seen:
    """Run ``model`` on ``inputs``, as ``align`` takes them, in its current mode, and return its calls."""
    found = Seen()

    def count(name: str) -> Handler:
        def handle(layer: nn.Layer, right: Right, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            found.operations[id(layer), name] += 1
            return right(*args, **kwargs)

        return handle

    layers = model.sublayers(include_self=True)

    def called(layer: nn.Layer, args: Any) -> None:
        found.calls[id(layer)] += 1

    hooks = [
        layer.register_forward_pre_hook(called)  # pyright: ignore[reportArgumentType]  Paddle takes None as well
        for layer in layers
    ]
    try:
        with ExitStack() as stack, paddle.no_grad():
            for name in OPERATIONS:
                stack.enter_context(handled(name, count(name)))
            args, kwargs = mapped(as_call(inputs), is_array, lambda a: to_tensor(a, model, False))
            model(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@contextmanager
def handled(name: str, handler: Handler) -> Iterator[None]:
    """Pass the calls of an operation to ``handler``, with the calling layer and the right operation."""
    places, counts = OPERATIONS[name]
    inside = False

    def exchanged(right: Right) -> Right:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            layer = None if inside or not counts(*args, **kwargs) else _caller()
            if layer is None:
                return right(*args, **kwargs)
            inside = True
            try:
                return handler(layer, right, args, kwargs)
            finally:
                inside = False

        return call

    kept = [(owner, attribute, getattr(owner, attribute)) for owner, attribute in places]
    try:
        for owner, attribute, right in kept:
            setattr(owner, attribute, exchanged(right))
        yield
    finally:
        for owner, attribute, right in kept:
            setattr(owner, attribute, right)


def _caller() -> nn.Layer | None:
    """Return the layer whose method is innermost on the stack."""
    frame = sys._getframe(2)
    while frame is not None:
        layer = frame.f_locals.get("self")
        if isinstance(layer, nn.Layer):
            return layer
        frame = frame.f_back
    return None
