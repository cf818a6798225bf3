"""Run a port and observe each of its layers. Uses Paddle."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from convert.porting.arguments import Arguments, called, each

See = Callable[[str, Any, Any], None]


def run_watched(port: Any, inputs: Arguments, see: See) -> Any:
    """Run ``port`` on the arrays ``inputs`` without gradients and return its output.

    ``see(name, inputs, output)`` is called after each call of a layer, inner layers first.
    """
    import paddle

    def hook(name: str, _layer: Any, given: Any, output: Any) -> None:
        see(name, given, output)

    handles = [layer.register_forward_post_hook(partial(hook, name)) for name, layer in port.named_sublayers()]
    try:
        with paddle.no_grad():
            return called(port, each(inputs, paddle.to_tensor))
    finally:
        for handle in handles:
            handle.remove()
