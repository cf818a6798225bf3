"""What Paddle lacks or does otherwise, each written once: functions and classes that are copied into ports.

A port imports paddle and nothing else, so these are not imported by it but written into it, those that it uses.

Legend: B batch, C channels, H height, W width, N positions.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn


def batch_norm(x, mean, variance, weight, bias, training, momentum, epsilon):
    """Batch normalisation of ``x`` (B, C, ...); training updates ``variance`` with the unbiased one, as torch does."""
    if not training:
        return F.batch_norm(x, mean, variance, weight, bias, False, momentum, epsilon)
    count = x.size // x.shape[1]
    if count == 1:
        raise ValueError(f"more than one value per channel is needed in training, got input {x.shape}")
    new_mean, new_variance = paddle.zeros_like(mean), paddle.zeros_like(variance)
    out = F.batch_norm(x, new_mean, new_variance, weight, bias, True, 0.0, epsilon)
    with paddle.no_grad():
        new_variance = new_variance * (count / (count - 1))
        paddle.assign(mean * momentum + new_mean * (1 - momentum), mean)
        paddle.assign(variance * momentum + new_variance * (1 - momentum), variance)
    return out


class BatchNorm1D(nn.BatchNorm1D):
    """Batch normalisation that updates its running variance with the unbiased one, as torch does."""

    def forward(self, x):
        statistics = self._mean, self._variance
        return batch_norm(x, *statistics, self.weight, self.bias, self.training, self._momentum, self._epsilon)


class BatchNorm2D(nn.BatchNorm2D):
    """Batch normalisation that updates its running variance with the unbiased one, as torch does."""

    def forward(self, x):
        statistics = self._mean, self._variance
        return batch_norm(x, *statistics, self.weight, self.bias, self.training, self._momentum, self._epsilon)


class BatchNorm3D(nn.BatchNorm3D):
    """Batch normalisation that updates its running variance with the unbiased one, as torch does."""

    def forward(self, x):
        statistics = self._mean, self._variance
        return batch_norm(x, *statistics, self.weight, self.bias, self.training, self._momentum, self._epsilon)


class BatchNormAct2D(BatchNorm2D):
    """Batch normalisation and an activation."""

    def __init__(self, num_features, act, **kwargs):
        super().__init__(num_features, **kwargs)
        self.act = act

    def forward(self, x):
        return self.act(super().forward(x))


class Dropout1D(nn.Layer):
    """In training, a share of the channels of ``x`` (B, C, N) is left out."""

    def __init__(self, p=0.5):
        super().__init__()
        self.p = p

    def forward(self, x):
        return F.dropout(x, self.p, axis=[0, 1], training=self.training)


class InstanceNorm(nn.Layer):
    """Instance normalisation of ``x`` (B, C, ...), in evaluation by running statistics."""

    def __init__(self, num_features, epsilon=1e-5, momentum=0.1, affine=False):
        super().__init__()
        self.epsilon = epsilon
        self.momentum = momentum
        self.register_buffer("running_mean", paddle.zeros([num_features]))
        self.register_buffer("running_var", paddle.ones([num_features]))
        ones = nn.initializer.Constant(1.0)
        self.weight = self.create_parameter([num_features], default_initializer=ones) if affine else None
        self.bias = self.create_parameter([num_features], is_bias=True) if affine else None

    def forward(self, x):
        if not self.training:
            statistics = self.running_mean, self.running_var
            return F.batch_norm(x, *statistics, self.weight, self.bias, epsilon=self.epsilon)
        axes = [*range(2, x.ndim)]
        with paddle.no_grad():
            mean = x.mean(axis=axes, keepdim=True)
            variance = (x - mean).square().mean(axis=axes)
            self.update(mean.flatten(1), variance, x.size // (x.shape[0] * x.shape[1]))
        return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.epsilon)

    def update(self, mean, variance, count):
        """Move the running statistics towards the mean of those (B, C) of all samples."""
        variance = variance * (count / (count - 1))
        for running, new in ((self.running_mean, mean), (self.running_var, variance)):
            paddle.assign(running * (1 - self.momentum) + new.mean(axis=0) * self.momentum, running)


class ParameterList(nn.ParameterList):
    """Parameters of these shapes, by number."""

    def __init__(self, shapes):
        super().__init__([paddle.create_parameter(shape, paddle.get_default_dtype()) for shape in shapes])

    def __getitem__(self, index):
        return [*self][index] if isinstance(index, slice) else super().__getitem__(index)


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


class StochasticDepth(nn.Layer):
    """In training, a residual branch is left out for a share of the samples ("row") or for all of them ("batch")."""

    def __init__(self, p, mode="row"):
        super().__init__()
        self.p = p
        self.mode = mode

    def forward(self, x):
        if self.p == 0.0 or not self.training:
            return x
        count = x.shape[0] if self.mode == "row" else 1
        mask = paddle.bernoulli(paddle.full([count] + [1] * (x.ndim - 1), 1 - self.p, dtype=x.dtype))
        return x * mask / (1 - self.p) if self.p < 1 else x * mask


class DropBlock2D(nn.Layer):
    """DropBlock (arXiv 1810.12890): in training, squares of ``x`` (B, C, H, W) are left out."""

    def __init__(
        self, drop_prob, block_size=7, gamma_scale=1.0, with_noise=False, couple_channels=True, scale_by_keep=True
    ):
        super().__init__()
        self.drop_prob = drop_prob
        self.block_size = block_size
        self.gamma_scale = gamma_scale
        self.with_noise = with_noise
        self.couple_channels = couple_channels
        self.scale_by_keep = scale_by_keep

    def forward(self, x):
        if self.drop_prob == 0.0 or not self.training:
            return x
        B, C, H, W = x.shape
        kh, kw = min(self.block_size, H), min(self.block_size, W)
        gamma = self.gamma_scale * self.drop_prob * H * W / (kh * kw * (H - kh + 1) * (W - kw + 1))
        centres = paddle.bernoulli(paddle.full([B, 1 if self.couple_channels else C, H, W], gamma, dtype=x.dtype))
        dropped = F.max_pool2d(centres, [kh, kw], 1, [kh // 2, kw // 2])[..., (kh + 1) % 2 :, (kw + 1) % 2 :]
        keep = 1 - dropped
        if self.with_noise:
            return x * keep + paddle.randn(keep.shape, dtype=x.dtype) * dropped
        return x * keep * (keep.size / (keep.sum() + 1e-7)) if self.scale_by_keep else x * keep


class PatchDropout(nn.Layer):
    """In training, a share of the tokens of ``x`` (B, N, C) is left out, but for the prefix tokens."""

    def __init__(self, prob, num_prefix_tokens=1, ordered=False):
        super().__init__()
        self.prob = prob
        self.num_prefix_tokens = num_prefix_tokens
        self.ordered = ordered

    def forward(self, x):
        if self.prob == 0.0 or not self.training:
            return x
        prefix, patches = x[:, : self.num_prefix_tokens], x[:, self.num_prefix_tokens :]
        B, N, C = patches.shape
        kept = paddle.argsort(paddle.randn([B, N]), axis=-1)[:, : max(1, int(N * (1 - self.prob)))]
        kept = kept.sort(axis=-1) if self.ordered else kept
        return paddle.concat([prefix, paddle.take_along_axis(patches, kept.unsqueeze(-1).tile([1, 1, C]), 1)], axis=1)


class SiLU(nn.Layer):
    """``x`` times its sigmoid; the gradient of ``nn.Silu`` is NaN where exp(-x) overflows."""

    def forward(self, x):
        return silu(x)


def pad_same(x, kernel_size, stride, dilation=(1, 1), value=0.0):
    """``x`` (B, C, H, W) padded so that ``stride`` alone decides the size of the output, as TensorFlow does."""
    pad = []
    for size, kernel, step, gap in zip(x.shape[2:], kernel_size, stride, dilation):
        total = max((-(-size // step) - 1) * step + (kernel - 1) * gap + 1 - size, 0)
        pad = [total // 2, total - total // 2, *pad]
    return F.pad(x, pad, value=value)


class Conv2DSame(nn.Conv2D):
    """Convolution with TensorFlow's "same" padding."""

    def forward(self, x):
        return super().forward(pad_same(x, self._kernel_size, self._stride, self._dilation))


class MaxPool2DSame(nn.Layer):
    """Max pooling with TensorFlow's "same" padding."""

    def __init__(self, kernel_size, stride):
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride

    def forward(self, x):
        x = pad_same(x, self.kernel_size, self.stride, value=float("-inf"))
        return F.max_pool2d(x, self.kernel_size, self.stride)


class AvgPool2DSame(nn.Layer):
    """Average pooling with TensorFlow's "same" padding, whose zeros count."""

    def __init__(self, kernel_size, stride):
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride

    def forward(self, x):
        return F.avg_pool2d(pad_same(x, self.kernel_size, self.stride), self.kernel_size, self.stride)


class StdConv2D(nn.Conv2D):
    """Convolution whose weight has mean 0 and variance 1 for each output channel; ``same``: TensorFlow's padding."""

    def __init__(self, in_channels, out_channels, kernel_size, epsilon=1e-6, same=False, **kwargs):
        super().__init__(in_channels, out_channels, kernel_size, **kwargs)
        self.epsilon = epsilon
        self.same = same

    def forward(self, x):
        if self.same:
            x = pad_same(x, self._kernel_size, self._stride, self._dilation)
        weight = self.standard_weight()
        return F.conv2d(x, weight, self.bias, self._stride, self._padding, self._dilation, self._groups)  # pyright: ignore[reportArgumentType]  Paddle's layer declares more paddings than its function

    def standard_weight(self):
        """The weight that is used."""
        centered = self.weight - self.weight.mean(axis=[1, 2, 3], keepdim=True)
        return centered / (centered.square().mean(axis=[1, 2, 3], keepdim=True) + self.epsilon).sqrt()


class ScaledStdConv2D(StdConv2D):
    """Convolution with a standardized weight, scaled by ``scale`` and by a gain for each output channel."""

    def __init__(self, in_channels, out_channels, kernel_size, scale, **kwargs):
        super().__init__(in_channels, out_channels, kernel_size, **kwargs)
        self.scale = scale
        self.gain = self.create_parameter([out_channels, 1, 1, 1], default_initializer=nn.initializer.Constant(1.0))

    def standard_weight(self):
        """The weight that is used."""
        return super().standard_weight() * (self.gain * self.scale)


def lstm_cell(x, states, weights):
    """One step: ``x`` (B, I), hidden and cell (B, H), and torch's weights (4H, I), (4H, H), biases, projection (P, H).

    Biases and projection may be missing.
    """
    hidden, cell = states
    gates = x @ weights[0].T + hidden @ weights[1].T
    gates = gates + weights[2] + weights[3] if len(weights) > 3 else gates
    enter, forget, new, leave = gates.chunk(4, axis=-1)
    cell = F.sigmoid(forget) * cell + F.sigmoid(enter) * paddle.tanh(new)
    hidden = F.sigmoid(leave) * paddle.tanh(cell)
    return hidden @ weights[-1].T if len(weights) % 2 else hidden, cell


def gru_cell(x, states, weights):
    """One step: ``x`` (B, I), hidden (B, H), and torch's weights (3H, I), (3H, H) and biases."""
    (hidden,) = states
    ours, theirs = x @ weights[0].T, hidden @ weights[1].T
    if len(weights) == 4:
        ours, theirs = ours + weights[2], theirs + weights[3]
    (reset, update, new), (reset_, update_, new_) = ours.chunk(3, axis=-1), theirs.chunk(3, axis=-1)
    new = paddle.tanh(new + F.sigmoid(reset + reset_) * new_)
    update = F.sigmoid(update + update_)
    return ((1 - update) * new + update * hidden,)


def rnn_cell(x, states, weights, activation=paddle.tanh):
    """One step: ``x`` (B, I), hidden (B, H), and torch's weights (H, I), (H, H) and biases."""
    (hidden,) = states
    hidden = x @ weights[0].T + hidden @ weights[1].T
    return (activation(hidden + weights[2] + weights[3] if len(weights) == 4 else hidden),)


def rnn_relu_cell(x, states, weights):
    """``rnn_cell`` with ReLU."""
    return rnn_cell(x, states, weights, F.relu)


def recurrent(cell, x, states, weights, layers, bidirectional, batch_first, dropout=0.0, training=False):
    """``cell`` along ``x`` (N, B, I), or (B, N, I); ``states``: one (layers * directions, B, H) for each of the cell's.

    ``weights``: torch's, the first layer's first, forward before backward. Returns the output and the last states.
    Written in plain operations, since the LSTM and GRU of Paddle have no gradient in evaluation.
    """
    x = x.transpose([1, 0, 2]) if batch_first else x
    directions = 2 if bidirectional else 1
    count = len(weights) // (layers * directions)
    last = []
    for layer in range(layers):
        x = F.dropout(x, dropout, training=training) if layer and dropout else x
        outputs = []
        for direction in range(directions):
            number = layer * directions + direction
            state, steps = tuple(held[number] for held in states), []
            for step in x.flip(0) if direction else x:
                state = cell(step, state, weights[number * count : (number + 1) * count])
                steps.append(state[0])
            outputs.append(paddle.stack(steps[::-1] if direction else steps))
            last.append(state)
        x = paddle.concat(outputs, axis=-1)
    x = x.transpose([1, 0, 2]) if batch_first else x
    return [x, *(paddle.stack(held) for held in zip(*last))]


def attention(query, key, value, mask=None, scale=None, causal=False, dropout=0.0, training=False):
    """Scaled dot-product attention over (..., N, C)."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    weights = paddle.matmul(query * scale, key, transpose_y=True)
    if causal:
        weights = weights + paddle.full(weights.shape[-2:], float("-inf"), dtype=weights.dtype).triu(1)
    if mask is not None and mask.dtype == paddle.bool:
        mask = paddle.where(mask, paddle.zeros([], weights.dtype), paddle.full([], float("-inf"), weights.dtype))
    if mask is not None:
        weights = weights + mask
    weights = F.softmax(weights, axis=-1)
    if dropout:
        weights = F.dropout(weights, dropout, training=training)
    return weights @ value


def rms_norm(x, weight=None, epsilon=1e-6):
    """``x`` over the root of its mean square along the last dimension; ``epsilon=None``: that of the type."""
    epsilon = paddle.finfo(x.dtype).eps if epsilon is None else epsilon
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


def silu(x):
    """``x`` times its sigmoid; the gradient of ``F.silu`` is NaN where exp(-x) overflows."""
    return x * F.sigmoid(x)


def elu(x, alpha=1.0):
    """ELU whose alpha is not rounded to float32."""
    return F.relu(x) + alpha * paddle.expm1(-F.relu(-x))


def celu(x, alpha=1.0):
    """CELU: alpha * (exp(x / alpha) - 1) below 0."""
    return F.relu(x) + alpha * paddle.expm1(-F.relu(-x) / alpha)


def selu(x):
    """SELU whose constants are not rounded to float32."""
    return 1.0507009873554805 * elu(x, 1.6732632423543772)


def thresholded(x, limit, value):
    """``x`` where it is above ``limit``, ``value`` elsewhere."""
    return paddle.where(x > limit, x, paddle.full_like(x, value))


def softshrink(x, limit):
    """``x`` brought nearer to 0 by ``limit``, which is not rounded to float32."""
    return x - x.clip(-limit, limit)


def hardshrink(x, limit):
    """``x`` where it is further than ``limit`` from 0, 0 elsewhere."""
    return paddle.where(x.abs() > limit, x, paddle.zeros_like(x))


def log_softmax(x, axis):
    """Logarithm of the softmax; that of Paddle ends 64 below the largest element."""
    x = x - x.max(axis=axis, keepdim=True).detach()
    return x - x.exp().sum(axis=axis, keepdim=True).log()


def power(x, exponent):
    """``x ** exponent``, whose exponent is not rounded to float32."""
    return x ** paddle.full([], exponent, dtype=x.dtype)


def root(x):
    """Square root with a finite gradient at 0, as torch's norms and deviations have it."""
    zero = (x == 0).astype(x.dtype)
    return (x + zero).sqrt() - zero


def cosine_similarity(x1, x2, axis, epsilon):
    """The products of ``x1`` and ``x2``, each over its norm, summed along ``axis``."""
    first, second = (root(x.square().sum(axis=axis, keepdim=True)).clip(min=epsilon) for x in (x1, x2))
    return (x1 / first * (x2 / second)).sum(axis=axis)


def distances(x1, x2, p=2.0):
    """(..., N, M): how far each row of ``x1`` (..., N, C) is from each of ``x2`` (..., M, C), in the ``p``-norm."""
    apart = x1.unsqueeze(-2) - x2.unsqueeze(-3)
    if p == 2:
        return root(apart.square().sum(axis=-1))
    if p == float("inf"):
        return apart.abs().amax(axis=-1)
    return apart.abs().sum(axis=-1) if p == 1 else power(power(apart.abs(), p).sum(axis=-1), 1 / p)


def bilinear(x1, x2, weight, bias=None):
    """(..., O): ``x1`` (..., I) and ``x2`` (..., J) by ``weight`` (O, I, J)."""
    outputs, size, other = weight.shape
    x1 = (x1 @ weight.transpose([1, 0, 2]).reshape([size, -1])).reshape([*x1.shape[:-1], outputs, other])
    x = (x1 @ x2.unsqueeze(-1)).squeeze(-1)
    return x if bias is None else x + bias


def to_complex(x):
    """``x`` as complex numbers."""
    return paddle.complex(x, paddle.zeros_like(x))


def xlogy(x, y):
    """``x`` by the logarithm of ``y``; 0 where ``x`` is."""
    zero = paddle.logical_and(x == 0, paddle.logical_not(paddle.isnan(y)))
    return paddle.where(zero, paddle.zeros_like(x), x * paddle.where(zero, paddle.ones_like(y), y).log())


def block_diag(blocks):
    """The matrices ``blocks`` along the diagonal of one that is 0 elsewhere."""
    blocks = [block.reshape([1, -1]) if block.ndim < 2 else block for block in blocks]
    rows, before, width = [], 0, sum(block.shape[1] for block in blocks)
    for block in blocks:
        rows.append(F.pad(block, [0, 0, before, width - before - block.shape[1]]))
        before += block.shape[1]
    return paddle.concat(rows)


def smooth_l1(x, beta):
    """The absolute value of ``x``, a parabola below ``beta``."""
    size = x.abs()
    return paddle.where(size < beta, 0.5 * x.square() / beta, size - 0.5 * beta)


def binary_cross_entropy(x, target):
    """Of probabilities ``x``; logarithms are at least -100."""
    return -(target * x.log().clip(min=-100) + (1 - target) * paddle.log1p(-x).clip(min=-100))


def binary_cross_entropy_with_logits(x, target, positive=None):
    """``positive``: the weight of the elements whose target is 1."""
    scale = 1 if positive is None else 1 + (positive - 1) * target
    return (1 - target) * x - scale * F.log_sigmoid(x)


def picked(x, target, weight=None, ignored=-100):
    """The elements of ``x`` (B, C, ...) at ``target`` (B, ...), by the weights of their classes; and those weights."""
    axis = min(x.ndim - 1, 1)
    counted = target != ignored
    place = paddle.where(counted, target, paddle.zeros_like(target))
    scale = counted.astype(x.dtype)
    scale = scale if weight is None else scale * F.embedding(place, weight.unsqueeze(1)).squeeze(-1)
    chosen = paddle.take_along_axis(x, place.unsqueeze(axis), axis=axis, broadcast=False).squeeze(axis)
    return chosen * scale, scale


def nll_loss(x, target, weight=None, reduction="mean", ignored=-100):
    """Minus the logarithms ``x`` (B, C, ...) at the classes ``target`` (B, ...)."""
    chosen, scale = picked(x, target, weight, ignored)
    if reduction == "none":
        return -chosen
    return -chosen.sum() / scale.sum() if reduction == "mean" else -chosen.sum()


def cross_entropy(x, target, weight=None, reduction="mean", ignored=-100, smoothing=0.0):
    """Of logits ``x`` (B, C, ...) and classes (B, ...) or probabilities (B, C, ...)."""
    axis = min(x.ndim - 1, 1)
    x = log_softmax(x, axis)
    weighted = x if weight is None else x * weight.reshape([-1] + [1] * (x.ndim - axis - 1))
    if target.is_floating_point():
        loss = -(weighted * (target * (1 - smoothing) + smoothing / x.shape[axis])).sum(axis=axis)
        return {"none": loss, "mean": loss.mean(), "sum": loss.sum()}[reduction]
    loss = nll_loss(x, target, weight, reduction, ignored)
    if not smoothing:
        return loss
    even = -weighted.sum(axis=axis) * (target != ignored).astype(x.dtype)
    if reduction != "none":
        even = even.sum() / (picked(x, target, weight, ignored)[1].sum() if reduction == "mean" else 1)
    return (1 - smoothing) * loss + smoothing / x.shape[axis] * even


def put(x, axis, indices, values):
    """``x`` with ``values`` at ``indices`` of its dimensions from ``axis`` on."""
    indices = paddle.broadcast_tensors(indices)
    rank, after = indices[0].ndim, axis + len(indices)
    values = values.expand([*x.shape[:axis], *indices[0].shape, *x.shape[after:]])
    values = paddle.moveaxis(values, [*range(axis, axis + rank)], [*range(rank)])
    indexed, first = [*range(axis, after)], [*range(len(indices))]
    return paddle.moveaxis(paddle.index_put(paddle.moveaxis(x, indexed, first), indices, values), first, indexed)


def max_pool2d_with_places(x, kernel_size, **options):
    """Maxima of ``x`` (B, C, H, W) and where they are, as positions in H * W."""
    values, places = F.max_pool2d(x, kernel_size, return_mask=True, **options)
    return values, places.astype("int64")


def max_unpool2d(x, places, size):
    """Zeros (B, C, *size) with ``x`` (B, C, H, W) at ``places``, positions in H * W of the result."""
    zeros = paddle.zeros([*x.shape[:2], size[0] * size[1]], dtype=x.dtype)
    filled = paddle.put_along_axis(zeros, places.flatten(2), x.flatten(2), axis=2, broadcast=False)
    return filled.reshape([*x.shape[:2], *size])


def dilated_max_pool(x, kernel_size, stride, padding, dilation):
    """Maxima of windows whose elements are ``dilation`` apart; the options have a number for each of the last axes."""
    options = zip(range(x.ndim - len(kernel_size), x.ndim), kernel_size, stride, padding, dilation)
    for axis, size, step, margin, gap in reversed([*options]):
        if margin:
            edge = paddle.full([*x.shape[:axis], margin, *x.shape[axis + 1 :]], float("-inf"), dtype=x.dtype)
            x = paddle.concat([edge, x, edge], axis=axis)
        count = (x.shape[axis] - gap * (size - 1) - 1) // step + 1
        places = (paddle.arange(count).unsqueeze(1) * step + paddle.arange(size) * gap).flatten()
        shape = [*x.shape[:axis], count, size, *x.shape[axis + 1 :]]
        x, _ = max_and_index(x.index_select(places, axis=axis).reshape(shape), axis + 1)
    return x


def lerp(start, end, weight):
    """From ``start`` to ``end``, by ``weight``."""
    return start + weight * (end - start)


def max_and_index(x, axis, keepdim=False):
    """The largest elements and where they are; the gradient goes to the first of equals."""
    index = x.argmax(axis=axis, keepdim=True)
    values = paddle.take_along_axis(x, index, axis=axis, broadcast=False)
    return (values, index) if keepdim else (values.squeeze(axis), index.squeeze(axis))


def min_and_index(x, axis, keepdim=False):
    """The smallest elements and where they are; the gradient goes to the first of equals."""
    values, index = max_and_index(-x, axis, keepdim)
    return -values, index


def moments(x, spread, axis=None, unbiased=True, keepdim=False):
    """``spread`` ("var" or "std") and mean along ``axis``."""
    variance = x.var(axis=axis, unbiased=unbiased, keepdim=keepdim)
    return root(variance) if spread == "std" else variance, x.mean(axis=axis, keepdim=keepdim)


def embedding(indices, weight, padding_idx):
    """Rows of ``weight``; the row ``padding_idx`` gets no gradient."""
    rows = F.embedding(indices, weight)
    return paddle.where((indices == padding_idx).unsqueeze(-1), rows.detach(), rows)


def embedding_bag(weight, indices, offsets, mode, scales=None):
    """(B, C): the rows of ``weight`` at ``indices`` (N), reduced in bags that begin at ``offsets`` (B).

    ``mode``: "sum", "mean" or "max"; ``scales`` (N) multiply the rows. A bag without rows is 0.
    """
    rows = F.embedding(indices, weight)
    rows = rows if scales is None else rows * scales.unsqueeze(-1)
    bag = (offsets.unsqueeze(1) <= paddle.arange(indices.shape[0], dtype=offsets.dtype)).astype("int64").sum(axis=0) - 1
    inside = F.one_hot(bag, offsets.shape[0]).astype(rows.dtype).T
    count = inside.sum(axis=1, keepdim=True)
    if mode == "max":
        outside = paddle.full([], float("-inf"), dtype=rows.dtype)
        values, _ = max_and_index(paddle.where(inside.unsqueeze(-1) > 0, rows, outside), 1)
        return paddle.where(count > 0, values, paddle.zeros_like(values))
    return inside @ rows / count.clip(min=1) if mode == "mean" else inside @ rows


def group_norm(x, groups, epsilon, weight=None, bias=None):
    """``x`` (B, C, ...) with mean 0 and variance 1 in each of ``groups`` of channels, then scaled and shifted."""
    grouped = x.reshape([x.shape[0], groups, -1])
    mean = grouped.mean(axis=-1, keepdim=True)
    variance = (grouped - mean).square().mean(axis=-1, keepdim=True)
    shape = [1, -1] + [1] * (x.ndim - 2)
    x = ((grouped - mean) / (variance + epsilon).sqrt()).reshape(x.shape)
    x = x if weight is None else x * weight.reshape(shape)
    return x if bias is None else x + bias.reshape(shape)


def windows(x, axis, size, step):
    """Every window of ``size`` elements along ``axis``, ``step`` apart; a window's elements are the last dimension."""
    axis = axis % x.ndim
    starts = paddle.arange(0, x.shape[axis] - size + 1, step)
    places = (starts.unsqueeze(1) + paddle.arange(size)).flatten()
    shape = [*x.shape[:axis], starts.shape[0], size, *x.shape[axis + 1 :]]
    x = x.index_select(places, axis=axis).reshape(shape)
    return paddle.moveaxis(x, axis + 1, -1)


def stft(x, size, step, window, normalized=False, onesided=True):
    """(..., frequencies, frames): transforms of every ``size`` elements of ``x`` (..., N), weighted by ``window``."""
    frames = windows(x, -1, size, step)
    missing = size - window.shape[0]
    frames = frames * F.pad(window, [missing // 2, missing - missing // 2])
    transformed = paddle.fft.rfft(frames) if onesided else paddle.fft.fft(frames)
    transformed = transformed * size**-0.5 if normalized else transformed
    return paddle.moveaxis(transformed, -1, -2)


def average_weights(size, target, dtype):
    """(target, size): how much each position counts for each of ``target`` averages, as adaptive pooling cuts them."""
    start = paddle.arange(target).unsqueeze(1) * size // target
    end = ((paddle.arange(target).unsqueeze(1) + 1) * size + target - 1) // target
    place = paddle.arange(size).unsqueeze(0)
    inside = paddle.logical_and(place >= start, place < end).astype(dtype)
    return inside / inside.sum(axis=1, keepdim=True)


def adaptive_avg_pool1d(x, size):
    """``x`` (B, C, W) averaged to ``size`` positions; the gradient of Paddle's own divides in float32."""
    return x @ average_weights(x.shape[2], size, x.dtype).T


def adaptive_avg_pool2d(x, size):
    """``x`` (B, C, H, W) averaged to ``size``, a number or two, ``None`` for what it is."""
    size = size if isinstance(size, (list, tuple)) else [size, size]
    if size[0] is not None:
        x = average_weights(x.shape[2], size[0], x.dtype) @ x
    return x if size[1] is None else x @ average_weights(x.shape[3], size[1], x.dtype).T


def adaptive_avg_pool3d(x, size):
    """``x`` (B, C, D, H, W) averaged to ``size``, a number or three, ``None`` for what it is."""
    depth, *sides = size if isinstance(size, (list, tuple)) else [size] * 3
    planes = adaptive_avg_pool2d(x.flatten(1, 2), sides)
    rows = planes.reshape([*x.shape[:3], -1])
    if depth is not None:
        rows = average_weights(x.shape[2], depth, x.dtype) @ rows
    return rows.reshape([*rows.shape[:3], *planes.shape[2:]])


def linear(distance):
    """Kernel of linear interpolation."""
    return F.relu(1 - distance.abs())


def cubic(distance):
    """Keys' cubic kernel with a = -0.75, as torch's bicubic interpolation."""
    x = distance.abs()
    near = ((1.25 * x - 2.25) * x) * x + 1
    far = ((-0.75 * x + 3.75) * x - 6) * x + 3
    return paddle.where(x < 1, near, paddle.where(x < 2, far, paddle.zeros_like(x)))


def interpolation(size, target, kernel, dtype, align_corners=False, factor=None):
    """(target, size): how much each position counts for each of the new ones; what is over the edge counts for it."""
    if align_corners:
        center = paddle.arange(target, dtype=dtype) * ((size - 1) / max(target - 1, 1))
    else:
        ratio = 1 / factor if factor else size / target
        center = (paddle.arange(target, dtype=dtype) + 0.5) * ratio - 0.5
    weights = paddle.zeros([target, size], dtype=dtype)
    for step in (-1, 0, 1, 2):
        place = center.floor() + step
        edge = F.one_hot(place.clip(0, size - 1).astype("int64"), size).astype(dtype)
        weights = weights + kernel(center - place).unsqueeze(1) * edge
    return weights


def resize(x, size, kernel, align_corners=False, factors=None):
    """``x`` (B, C, W) or (B, C, H, W) at another size, or ``factors`` as large; no constant is rounded to float32."""
    factors = factors or [None] * (x.ndim - 2)
    if size is None:
        size = [int(old * factor) for old, factor in zip(x.shape[2:], factors)]
    x = x @ interpolation(x.shape[-1], size[-1], kernel, x.dtype, align_corners, factors[-1]).T
    if x.ndim == 3:
        return x
    return interpolation(x.shape[2], size[0], kernel, x.dtype, align_corners, factors[0]) @ x


def resize_volume(x, size, kernel, align_corners=False, factors=None):
    """``x`` (B, C, D, H, W) at another size, or ``factors`` as large; no constant is rounded to float32."""
    factors = factors or [None] * 3
    if size is None:
        size = [int(old * factor) for old, factor in zip(x.shape[2:], factors)]
    planes = resize(x.flatten(1, 2), size[1:], kernel, align_corners, factors[1:]).reshape([*x.shape[:3], -1])
    planes = interpolation(x.shape[2], size[0], kernel, x.dtype, align_corners, factors[0]) @ planes
    return planes.reshape([*x.shape[:2], *size])


def keys(distance):
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
