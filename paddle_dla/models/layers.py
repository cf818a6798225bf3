"""Layers whose Paddle counterpart differs from torch's, and the two pools needed for dilation.

Legend: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_dla.errors import WrongValue


class BatchNorm2D(nn.BatchNorm2D):
    """Batch normalisation with the running statistics of ``torch.nn.BatchNorm2d``.

    In evaluation it is Paddle's own layer. In training, Paddle updates the running variance with the *biased* batch
    variance, torch with the unbiased one (times ``n / (n - 1)``, ``n = B * H * W``); torch refuses ``n == 1``, for
    which the variance is meaningless. This layer follows torch in both. ``momentum`` keeps Paddle's convention: 0.9 is
    torch's 0.1.

    Cost: the kernel writes the batch statistics into two new vectors of C values, and four operations on such vectors
    update the running ones. No tensor of the size of the activation is read or stored twice.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` (B, C, H, W); same shape and type.

        Raises ``ValueError`` in training if there is only one value per channel.
        """
        if not self.training or self._use_global_stats:
            return super().forward(x)
        count = x.shape[0] * x.shape[2] * x.shape[3]
        if count == 1:
            raise WrongValue(
                f"batch normalisation in training needs more than one value per channel, got input {list(x.shape)}; "
                "use a larger batch or image, or eval()"
            )
        mean, variance = paddle.zeros_like(self._mean), paddle.zeros_like(self._variance)
        # momentum 0: the buffers receive the statistics of this batch only
        out = F.batch_norm(
            x,
            mean,
            variance,
            self.weight,
            self.bias,
            training=True,
            momentum=0.0,
            epsilon=self._epsilon,
            data_format=self._data_format,  # pyright: ignore[reportArgumentType] - Paddle declares its own as str
        )
        self._update(mean, variance * (count / (count - 1)))
        return out

    @paddle.no_grad()
    def _update(self, mean: Tensor, variance: Tensor) -> None:
        keep = self._momentum
        paddle.assign(self._mean * keep + mean * (1 - keep), output=self._mean)
        paddle.assign(self._variance * keep + variance * (1 - keep), output=self._variance)


class SelectAdaptivePool2D(nn.Layer):
    """Global pooling by name, as ``timm.layers.SelectAdaptivePool2d``: ``avg max avgmax catavgmax`` or ``''``.

    (B, C, H, W) -> (B, C, 1, 1); ``catavgmax`` doubles C, ``''`` passes the map through.

    The average is ``x.mean``, not ``nn.AdaptiveAvgPool2D``, whose backward multiplies by a float32 1/(H*W) also in
    float64 and so puts a uniform relative error of 2e-8 on every gradient below it.

    Raises ``ValueError`` for another name.
    """

    TYPES = ("avg", "max", "avgmax", "catavgmax", "")

    def __init__(self, pool_type: str = "avg"):
        super().__init__()
        if pool_type not in self.TYPES:
            raise WrongValue(f"unknown global_pool {pool_type!r}; one of {', '.join(map(repr, self.TYPES))}")
        self.pool_type = pool_type

    def feat_mult(self) -> int:
        """Factor by which the pool multiplies the number of channels."""
        return 2 if self.pool_type == "catavgmax" else 1

    def forward(self, x: Tensor) -> Tensor:
        """Pool ``x`` (B, C, H, W) over H and W."""
        if not self.pool_type:
            return x
        if self.pool_type == "avg":
            return x.mean([2, 3], keepdim=True)
        maximum = F.adaptive_max_pool2d(x, 1)
        if self.pool_type == "max":
            return maximum
        average = x.mean([2, 3], keepdim=True)
        if self.pool_type == "avgmax":
            return 0.5 * (average + maximum)
        return paddle.concat([average, maximum], 1)

    def extra_repr(self) -> str:
        """Return the text that ``print(model)`` shows for this layer."""
        return f"pool_type={self.pool_type!r}"


class DenseMaxPool2D(nn.Layer):
    """The 2x2 stride-2 max pool on a dilated grid: stride 1, the four taps ``dilation`` apart, same size.

    At every position of the strided pool's output grid the value equals that of the strided pool. Taps beyond the lower
    and right border read the lowest value, so they are never the maximum.
    """

    def __init__(self, dilation: int):
        super().__init__()
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        d, height, width = self.dilation, x.shape[2], x.shape[3]
        padded = F.pad(x, [0, d, 0, d], value=float(paddle.finfo(x.dtype).min))
        rows = paddle.maximum(padded[:, :, :height], padded[:, :, d:])
        return paddle.maximum(rows[:, :, :, :width], rows[:, :, :, d:])


class AvgPool2D(nn.Layer):
    """The 3x3 average pool with padding 1, counting zeros outside, as timm's ``nn.AvgPool2d(3, stride, padding=1)``.

    ``dilation`` is the distance of the nine taps, which Paddle's pools do not support.

    It is a depthwise convolution with the constant weight 1/9. ``nn.AvgPool2D`` would suffice for the forward pass, but
    its backward pass multiplies by a float32 1/9 also in float64, an error of 1e-8 in every gradient below it. On a CPU
    both take the same time (25 ms a step for 8 x 28 x 112 x 112 inputs).
    """

    kernel_size = 3

    def __init__(self, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.stride = stride
        self.dilation = dilation
        self.padding = dilation

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / stride, W / stride)."""
        channels = x.shape[1]
        weight = paddle.full([channels, 1, 3, 3], 1 / 9, dtype=x.dtype)
        return F.conv2d(x, weight, stride=self.stride, padding=self.padding, dilation=self.dilation, groups=channels)

    def extra_repr(self) -> str:
        """Return the text that ``print(model)`` shows for this layer."""
        return f"kernel_size=3, stride={self.stride}, padding={self.padding}, dilation={self.dilation}"
