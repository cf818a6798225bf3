"""The Paddle network itself, run layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from paddle_dla.cpu import usable_threads, use_vector_kernels
from paddle_dla.engines.base import NetworkError, check_images, require
from paddle_dla.errors import UserError
from paddle_dla.storage.shown import shown

if TYPE_CHECKING:
    from paddle import nn


class EagerEngine:
    """A Paddle layer in evaluation mode, without gradients.

    The layer is put into evaluation mode. ``threads`` sets the number of threads of Paddle's CPU kernels, which is a
    setting of the process: opening another engine with another number changes it for both. Paddle's own default is one.
    """

    name = "paddle"

    def __init__(self, layer: nn.Layer, threads: int | None = None):
        require("paddle", "cpu")
        import paddle

        use_vector_kernels()
        paddle.base.core.set_num_threads(threads or usable_threads())
        layer.eval()
        self.num_classes = int(getattr(layer, "num_classes", 0))
        self._layer, self._steady = layer, False
        self._channels = int(getattr(layer, "in_chans", -1))

    def run(self, images: np.ndarray) -> np.ndarray:
        """(B, C, H, W) float32 -> logits (B, K) float32.

        Raises ``NetworkError`` if the network raises or returns anything else. The first batch runs twice: different
        results raise ``NetworkError``, too.
        """
        images = check_images(images, (self._channels, -1, -1))
        found = outputs_of(self._layer, images, self.num_classes)
        if not self._steady:
            _refuse_unsteady(found, outputs_of(self._layer, images, self.num_classes))
            self._steady = True
        return found


def outputs_of(layer: nn.Layer, images: np.ndarray, num_classes: int = 0) -> np.ndarray:
    """Run ``layer`` on ``images`` (B, C, H, W): logits (B, K), or features (B, ...) if it has no classes.

    Raises ``NetworkError`` if it raises anything, or returns anything else.
    """
    import paddle

    try:
        with paddle.no_grad():
            found = layer(paddle.to_tensor(images))
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # the network may be a user's code
        raise NetworkError(
            f"the network raises {type(error).__name__}: {shown(' '.join(str(error).split()))}"
        ) from error
    if not isinstance(found, paddle.Tensor):
        raise NetworkError(f"the network returns a {type(found).__name__}; one tensor is expected, its logits")
    fits = found.shape[:1] == [len(images)] and found.is_floating_point()
    if not fits or (num_classes and found.shape != [len(images), num_classes]):
        wanted = f"[{len(images)}, {num_classes or '...'}]"
        kind = str(found.dtype).rpartition(".")[2]
        raise NetworkError(f"the network returns {kind} {list(found.shape)} instead of floating-point {wanted}")
    return found.numpy()


STEADY = 2.0**-10
"""Relative to the largest value: the variation allowed for kernels that add in a different order each time."""


def _refuse_unsteady(first: np.ndarray, second: np.ndarray) -> None:
    """Raise ``NetworkError`` for a network that is random, or changes itself, in evaluation."""
    with np.errstate(invalid="ignore"):
        change = np.abs(first - second)
    if np.any(change > STEADY * np.abs(first).max(initial=0)):
        raise NetworkError(
            f"the network does not return the same when it is called twice: outputs differ by {change.max():.1e}; it "
            "draws at random in evaluation, or remembers from call to call"
        )
