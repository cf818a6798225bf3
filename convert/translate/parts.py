"""What Paddle lacks or does otherwise, each written once: functions and classes that are copied into ports.

A port imports paddle and nothing else, so these are not imported by it but written into it, those that it uses.

Legend: B batch, C channels, H height, W width, N positions.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn


class BatchNorm2D(nn.BatchNorm2D):
    """Batch normalisation that updates its running variance with the unbiased one, as torch does."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        count = x.size // x.shape[1]
        if count == 1:
            raise ValueError(f"more than one value per channel is needed in training, got input {x.shape}")
        mean, variance = paddle.zeros_like(self._mean), paddle.zeros_like(self._variance)
        out = F.batch_norm(x, mean, variance, self.weight, self.bias, True, 0.0, self._epsilon)
        with paddle.no_grad():
            keep, new = self._momentum, 1 - self._momentum
            paddle.assign(self._mean * keep + mean * new, self._mean)
            paddle.assign(self._variance * keep + variance * (new * count / (count - 1)), self._variance)
        return out


class BatchNorm1D(nn.BatchNorm1D):
    """Batch normalisation that updates its running variance with the unbiased one, as torch does."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        count = x.size // x.shape[1]
        if count == 1:
            raise ValueError(f"more than one value per channel is needed in training, got input {x.shape}")
        mean, variance = paddle.zeros_like(self._mean), paddle.zeros_like(self._variance)
        out = F.batch_norm(x, mean, variance, self.weight, self.bias, True, 0.0, self._epsilon)
        with paddle.no_grad():
            keep, new = self._momentum, 1 - self._momentum
            paddle.assign(self._mean * keep + mean * new, self._mean)
            paddle.assign(self._variance * keep + variance * (new * count / (count - 1)), self._variance)
        return out


class BatchNormAct2D(BatchNorm2D):
    """Batch normalisation and an activation."""

    def __init__(self, num_features, act, **kwargs):
        super().__init__(num_features, **kwargs)
        self.act = act

    def forward(self, x):
        return self.act(super().forward(x))


class DropPath(nn.Layer):
    """Stochastic depth: in training, a residual branch is left out for a share of the samples."""

    def __init__(self, drop_prob=0.0, scale_by_keep=True):
        super().__init__()
        self.drop_prob = drop_prob
        self.scale_by_keep = scale_by_keep

    def forward(self, x):
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = 1 - self.drop_prob
        mask = paddle.bernoulli(paddle.full([x.shape[0]] + [1] * (x.ndim - 1), keep, dtype=x.dtype))
        return x * mask / keep if self.scale_by_keep and keep > 0 else x * mask


def attention(query, key, value, mask=None, scale=None, causal=False):
    """Scaled dot-product attention over (..., N, C)."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    weights = paddle.matmul(query * scale, key, transpose_y=True)
    if causal:
        weights = weights + paddle.full(weights.shape[-2:], float("-inf"), dtype=weights.dtype).triu(1)
    if mask is not None and mask.dtype == paddle.bool:
        mask = paddle.where(mask, paddle.zeros([], weights.dtype), paddle.full([], float("-inf"), weights.dtype))
    if mask is not None:
        weights = weights + mask
    return F.softmax(weights, axis=-1) @ value


def rms_norm(x, weight=None, epsilon=1e-6):
    """``x`` over the root of its mean square along the last dimension."""
    x = x * paddle.rsqrt(x.square().mean(axis=-1, keepdim=True) + epsilon)
    return x if weight is None else x * weight


def leaky_relu(x, negative_slope):
    """Leaky ReLU whose slope is not rounded to float32."""
    return F.relu(x) - negative_slope * F.relu(-x)


def standardized(x, epsilon):
    """``x`` (B, C, ...) with mean 0 and variance 1 in each channel."""
    axes = [0, *range(2, x.ndim)]
    mean = x.mean(axis=axes, keepdim=True)
    variance = (x - mean).square().mean(axis=axes, keepdim=True)
    return (x - mean) / (variance + epsilon).sqrt()


def batch_standardized(x, weight, bias, epsilon):
    """``x`` (B, C, ...) standardized in each channel, then scaled and shifted."""
    shape = [1, -1] + [1] * (x.ndim - 2)
    x = standardized(x, epsilon)
    x = x if weight is None else x * weight.reshape(shape)
    return x if bias is None else x + bias.reshape(shape)


def cubic(distance):
    """Keys' cubic kernel with a = -0.5, as torch's antialiased bicubic filter."""
    x = distance.abs()
    near = ((1.5 * x - 2.5) * x) * x + 1
    far = (((-0.5 * x + 2.5) * x) - 4) * x + 2
    return paddle.where(x < 1, near, paddle.where(x < 2, far, paddle.zeros_like(x)))


def resize_weights(size, target, kernel, dtype):
    """(target, size): how much each pixel counts for each of the new ones, antialiased where it shrinks."""
    scale = size / target
    support = max(scale, 1.0)
    centers = (paddle.arange(target, dtype=dtype) + 0.5) * scale
    distance = (paddle.arange(size, dtype=dtype) + 0.5).unsqueeze(0) - centers.unsqueeze(1)
    weights = kernel(distance / support)
    return weights / weights.sum(axis=1, keepdim=True)


def resize_antialiased(x, size, kernel):
    """``x`` (B, C, H, W) at another size, by a separable filter that is widened where the image shrinks."""
    rows = resize_weights(x.shape[2], size[0], kernel, x.dtype)
    columns = resize_weights(x.shape[3], size[1], kernel, x.dtype)
    return rows @ x @ columns.T
