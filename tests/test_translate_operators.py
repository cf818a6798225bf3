"""Every operator rule of the translator against torch, in float64: outputs, their types, and gradients."""

# ruff: noqa: E501 - a row of the table is a line

from __future__ import annotations

import functools
from dataclasses import dataclass

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from translating import Applied, Port, assert_close, normal  # noqa: E402

from convert.translate.operators import OPERATORS, functional  # noqa: E402
from convert.translate.plain import TranslationError  # noqa: E402
from convert.translate.rarer_operators import RARER  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread")]

ROUNDING = 1e-12
"""float64 rounding of a few sums, relative to the largest element."""


AVERAGE = 1e-7
"""The backward of Paddle's average pools divides by the area in float32."""


@dataclass(frozen=True)
class Case:
    """``function`` of ``inputs`` uses ``operator``; ``within``: a looser tolerance than rounding, with its reason."""

    operator: str
    function: object
    inputs: tuple
    within: float = ROUNDING


def case(operator, function, *inputs, within=ROUNDING):
    """A row; a shape stands for normal numbers."""
    return Case(
        operator, function, tuple(normal(*value) if isinstance(value, tuple) else value for value in inputs), within
    )


X = (2, 3, 4)
IMAGE = (2, 4, 7, 6)
P = normal(2, 3, 4).abs() + 0.5  # positive numbers
U = normal(2, 3, 4).tanh() * 0.9  # between -1 and 1
FLAT = normal(2, 3, 4) * torch.tensor([1.0, 0.0, 1.0]).double()[:, None]  # rows of zeros among others
WHOLE = torch.tensor([[3, -2, 7, 0], [1, 5, -4, 2], [-6, 2, 3, 1]])
COUNT = torch.tensor([[3, 2, 7, 4], [1, 5, 4, 2], [6, 2, 3, 1]])
MASK = WHOLE > 1
OTHER_MASK = WHOLE % 2 == 0
SINGLE = normal(3, 4).float()
KERNEL = normal(5, 4, 2, 3).float().double()  # a constant that a port keeps in float32
OTHER = normal(2, 3, 4).flip(-1) * 2  # as X, with other numbers
INDEX = torch.tensor([2, 0, 1, 2])
VOLUME = (1, 2, 4, 3, 5)
SQUARE = normal(2, 3, 3) + 4 * torch.eye(3)
LSTM = normal(20, 4).float().double(), normal(20, 3).float().double(), normal(3, 5).float().double()

CASES = [
    # arithmetic
    case("add.Tensor", lambda x, y: x + y, X, (4,)),
    case("add.Tensor", lambda x, y: torch.add(x, y, alpha=2.5), X, (3, 1)),
    case("add.Tensor", lambda x: x + 1, X),
    case("add.Tensor", lambda x: 1.5 + x, WHOLE),
    case("add.Tensor", lambda x, y: x + y, (3, 4), WHOLE),
    case("add.Tensor", lambda x, y: x + y, MASK, WHOLE),
    case("add.Tensor", lambda x: x + 2, MASK),
    case("add.Tensor", lambda x: x + x, MASK),
    case("add.Tensor", lambda x, y: x.float() + y, X, X),
    case("add.Scalar", lambda x: torch.ops.aten.add.Scalar(x, 2, 3), X),
    case("sub.Tensor", lambda x, y: x - y, X, (4,)),
    case("sub.Tensor", lambda x, y: torch.sub(x, y, alpha=3), X, X),
    case("sub.Tensor", lambda x: x - 1, WHOLE),
    case("mul.Tensor", lambda x, y: x * y, X, (4,)),
    case("mul.Tensor", lambda x: x * 0.5, WHOLE),
    case("mul.Tensor", lambda x, y: x * y, (3, 4), MASK),
    case("mul.Tensor", lambda x, y: x * y, WHOLE, WHOLE.int()),
    case("mul.Tensor", lambda x: x * True, WHOLE),
    case("mul.Scalar", lambda x: torch.ops.aten.mul.Scalar(x, 0.3), X),
    case("div.Scalar", lambda x: torch.ops.aten.div.Scalar(x, 3), WHOLE),
    case("div.Tensor", lambda x, y: x / y, X, P),
    case("div.Tensor", lambda x: x / 3, X),
    case("div.Tensor", lambda x: x / 3, WHOLE),
    case("div.Tensor", lambda x, y: x / y, WHOLE, COUNT),
    case("div.Tensor_mode", lambda x, y: torch.div(x, y, rounding_mode="floor"), WHOLE, COUNT),
    case("div.Tensor_mode", lambda x: torch.div(x, 3, rounding_mode="floor"), WHOLE),
    case("div.Tensor_mode", lambda x: torch.div(x, 3, rounding_mode="trunc"), WHOLE),
    case("div.Tensor_mode", lambda x: torch.div(x, 0.3, rounding_mode="trunc"), X),
    case("floor_divide.default", lambda x: x // 3, WHOLE),
    case("floor_divide.default", lambda x, y: x // y, WHOLE, COUNT),
    case("remainder.Scalar", lambda x: x % 3, WHOLE),
    case("remainder.Scalar", lambda x: x % 0.7, X),
    case("remainder.Tensor", lambda x, y: x % y, WHOLE, COUNT),
    case("rsub.Scalar", lambda x: 1 - x, X),
    case("rsub.Scalar", lambda x: 1.5 - x, WHOLE),
    case("neg.default", lambda x: -x, X),
    case("pow.Tensor_Scalar", lambda x: x**3, X),
    case("pow.Tensor_Scalar", lambda x: x**2, WHOLE),
    case("pow.Tensor_Scalar", lambda x: x**-0.5, P),
    case("pow.Tensor_Scalar", lambda x: x**0.5, COUNT),
    case("pow.Tensor_Scalar", lambda x: x**2.2, P),
    case("pow.Scalar", lambda x: 2.0**x, X),
    case("pow.Scalar", lambda x: 10000.0**x, COUNT),
    case("pow.Scalar", lambda x: 0.1**x, X),
    case("pow.Tensor_Tensor", lambda x, y: x**y, P, X),
    case("pow.Tensor_Tensor", lambda x, y: x**y, (3, 4), COUNT),
    case("addcmul.default", lambda x, y, z: torch.addcmul(x, y, z), X, X, X),
    case("addcmul.default", lambda x, y, z: torch.addcmul(x, y, z, value=0.3), X, (4,), X),
    case("addcdiv.default", lambda x, y, z: torch.addcdiv(x, y, z, value=0.3), X, X, P),
    case("lerp.Scalar", lambda x, y: torch.lerp(x, y, 0.3), X, X),
    case("lerp.Tensor", lambda x, y, z: torch.lerp(x, y, z), X, X, X),
    case("reciprocal.default", lambda x: x.reciprocal(), P),
    case("hypot.default", torch.hypot, X, P),
    case("logaddexp.default", torch.logaddexp, X, P),
    case("fmod.Scalar", lambda x: torch.fmod(x, -0.7), X),
    case("fmod.Tensor", torch.fmod, X, P),
    case("exp2.default", torch.exp2, X),
    case("erfc.default", torch.erfc, X),
    case("special_erfc.default", torch.special.erfc, X),
    case("logit.default", torch.logit, (U + 1) / 2),
    case("logit.default", lambda x: torch.logit(x, 2.0**-4), (U + 1) / 2),
    case("lgamma.default", torch.lgamma, P),
    case("digamma.default", torch.digamma, P, within=1e-8),  # Paddle's trigamma has fewer terms
    case("asinh.default", torch.asinh, X),
    case("acosh.default", torch.acosh, P + 1),
    case("atanh.default", torch.atanh, U),
    case("square.default", lambda x: x.square(), X),
    case("maximum.default", lambda x, y: torch.maximum(x, y), X, P),
    case("maximum.default", lambda x: torch.maximum(x, x.detach()), X),
    case("minimum.default", lambda x, y: torch.minimum(x, y), X, P),
    case("clamp.default", lambda x: x.clamp(-0.3, 0.5), X),
    case("clamp.default", lambda x: x.clamp(max=2), WHOLE),
    case("clamp.default", lambda x: x.clamp(min=0.0), X),
    case("clamp.Tensor", lambda x, y: x.clamp(min=y), X, (4,)),
    case("clamp.Tensor", lambda x, y, z: torch.clamp(x, y, z), X, (4,), P),
    case("clamp_min.default", lambda x: torch.clamp_min(x, 0.1), X),
    case("clamp_max.default", lambda x: torch.clamp_max(x, 0.1), X),
    case("exp.default", torch.exp, X),
    case("log.default", torch.log, P),
    case("log2.default", torch.log2, P),
    case("log10.default", torch.log10, P),
    case("sqrt.default", torch.sqrt, P),
    case("rsqrt.default", torch.rsqrt, P),
    case("sin.default", torch.sin, X),
    case("cos.default", torch.cos, X),
    case("tan.default", torch.tan, U),
    case("asin.default", torch.asin, U),
    case("acos.default", torch.acos, U),
    case("sinh.default", torch.sinh, X),
    case("cosh.default", torch.cosh, X),
    case("tanh.default", torch.tanh, X),
    case("abs.default", torch.abs, X),
    case("abs.default", torch.abs, WHOLE),
    case("erf.default", torch.erf, X),
    case("erfinv.default", torch.erfinv, U),
    case("floor.default", torch.floor, X),
    case("ceil.default", torch.ceil, X),
    case("round.default", torch.round, X),
    case("round.default", lambda x: torch.round(x * 2) / 2 + torch.round(torch.full_like(x, 2.5)), X),
    case("trunc.default", torch.trunc, X),
    case("frac.default", torch.frac, X),
    case("sign.default", torch.sign, X),
    case("log1p.default", torch.log1p, P),
    case("expm1.default", torch.expm1, X),
    case("atan.default", torch.atan, X),
    case("atan2.default", torch.atan2, X, P),
    case("isnan.default", torch.isnan, X),
    case("isfinite.default", torch.isfinite, X),
    case("isinf.default", torch.isinf, X),
    case("nan_to_num.default", lambda x: torch.nan_to_num(torch.log(x), 2.0, 3.0, 4.0), X),
    # comparisons and masks
    case("eq.Scalar", lambda x: x == 2, WHOLE),
    case("eq.Tensor", lambda x, y: x == y, WHOLE, COUNT),
    case("ne.Scalar", lambda x: x != 2, WHOLE),
    case("ne.Tensor", lambda x, y: x != y, WHOLE, COUNT),
    case("lt.Scalar", lambda x: x < 0.5, WHOLE),
    case("lt.Tensor", lambda x, y: x < y, X, P),
    case("le.Scalar", lambda x: x <= 2, WHOLE),
    case("le.Tensor", lambda x, y: x <= y, WHOLE, COUNT),
    case("gt.Scalar", lambda x: x > 0, X),
    case("gt.Tensor", lambda x, y: x > y, (3, 4), WHOLE),
    case("ge.Scalar", lambda x: x >= 2, WHOLE),
    case("ge.Tensor", lambda x, y: x >= y, WHOLE, COUNT),
    case("bitwise_not.default", lambda x: ~x, MASK),
    case("bitwise_not.default", lambda x: ~x, WHOLE),
    case("logical_not.default", torch.logical_not, MASK),
    case("logical_and.default", torch.logical_and, MASK, OTHER_MASK),
    case("bitwise_and.Tensor", torch.bitwise_and, MASK, OTHER_MASK),
    case("__and__.Tensor", lambda x, y: x & y, MASK, OTHER_MASK),
    case("logical_or.default", torch.logical_or, MASK, OTHER_MASK),
    case("logical_xor.default", torch.logical_xor, MASK, OTHER_MASK),
    case("bitwise_or.Tensor", torch.bitwise_or, WHOLE, COUNT),
    case("__or__.Tensor", lambda x, y: x | y, WHOLE, COUNT),
    case("bitwise_xor.Tensor", torch.bitwise_xor, WHOLE, COUNT),
    case("__xor__.Tensor", lambda x, y: x ^ y, WHOLE, COUNT),
    case("where.self", lambda m, x, y: torch.where(m, x, y), MASK, (3, 4), (4,)),
    case("where.self", lambda m, x, y: torch.where(m, x, y), MASK, (3, 4), WHOLE),
    case("where.ScalarOther", lambda m, x: torch.where(m, x, 0.0), MASK, (3, 4)),
    case("where.ScalarSelf", lambda m, x: torch.where(m, -1, x), MASK, WHOLE),
    case("masked_fill.Scalar", lambda x, m: x.masked_fill(m, -3.0), (3, 4), MASK),
    case("masked_fill.Scalar", lambda x, m: x.masked_fill(m, float("-inf")).softmax(-1), (3, 4), MASK),
    case("masked_fill.Scalar", lambda x, m: x.masked_fill(m, 7), WHOLE, MASK),
    case("masked_fill.Tensor", lambda x, m, y: x.masked_fill(m, y.sum()), (3, 4), MASK, (2,)),
    # activations
    case("relu.default", F.relu, X),
    case("relu6.default", F.relu6, normal(2, 3, 4) * 8),
    case("gelu.default", F.gelu, X),
    case("gelu.default", lambda x: F.gelu(x, approximate="tanh"), X),
    case("silu.default", F.silu, X),
    case("silu.default", F.silu, torch.tensor([-800.0, -710.0, -30.0, 0.0, 30.0, 800.0], dtype=torch.float64)),
    case("sigmoid.default", torch.sigmoid, X),
    case("hardsigmoid.default", F.hardsigmoid, normal(2, 3, 4) * 4, within=1e-7),  # torch's gradient takes 1 / 6 in float32
    case("hardswish.default", F.hardswish, normal(2, 3, 4) * 4),
    case("hardtanh.default", lambda x: F.hardtanh(x, -0.5, 0.8), X),
    case("leaky_relu.default", lambda x: F.leaky_relu(x, 0.1), X),
    case("elu.default", lambda x: F.elu(x, 0.7), X),
    case("celu.default", lambda x: F.celu(x, 0.7), X, within=1e-7),  # torch's gradient takes 1 / alpha in float32
    case("selu.default", F.selu, X),
    case("mish.default", F.mish, X),
    case("softplus.default", lambda x: F.softplus(x, 2.0, 1.0), X),
    case("softplus.default", F.softplus, normal(2, 3, 4) * 30),
    case("log_sigmoid.default", F.logsigmoid, normal(2, 3, 4) * 30),
    case("threshold.default", lambda x: F.threshold(x, 0.3, 0.7), X),
    case("softshrink.default", lambda x: F.softshrink(x, 0.3), X),
    case("hardshrink.default", lambda x: F.hardshrink(x, 0.3), X),
    case("rrelu.default", lambda x: F.rrelu(x, 0.1, 0.3), X, within=1e-7),  # Paddle keeps the slope in float32
    case("prelu.default", lambda x, w: F.prelu(x, w), X, (3,)),
    case("prelu.default", lambda x, w: F.prelu(x, w), X, (1,)),
    case("softmax.int", lambda x: x.softmax(-1), X),
    case("softmax.int", lambda x: x.softmax(1), X),
    case("softmax.int", lambda x: x.softmax(1), normal(2, 3, 4) * 80),
    case("softmax.int", lambda x: x.softmax(-1, dtype=torch.float32), X),
    case("log_softmax.int", lambda x: x.log_softmax(1), X),
    case("log_softmax.int", lambda x: x.log_softmax(1), normal(2, 3, 4) * 80),
    case("glu.default", lambda x: F.glu(x, -1), X),
    # reductions
    case("mean.dim", lambda x: x.mean(-1), X),
    case("mean.dim", lambda x: x.mean((0, 2), keepdim=True), X),
    case("mean.dim", lambda x: x.mean(1, dtype=torch.float32), X),
    case("mean.default", lambda x: x.mean(), X),
    case("mean.dim", lambda x: x.mean((2, 3)), (2, 3, 7, 7)),
    case("sum.dim_IntList", lambda x: x.sum(1), X),
    case("sum.dim_IntList", lambda x: x.sum((-1, 0), keepdim=True), X),
    case("sum.dim_IntList", lambda x: x.sum(1), MASK),
    case("sum.dim_IntList", lambda x: x.sum(1), WHOLE.int()),
    case("sum.default", lambda x: x.sum(), X),
    case("sum.default", lambda x: x.sum(), MASK),
    case("amax.default", lambda x: x.amax(1), X),
    case("amax.default", lambda x: x.amax((1, 2), keepdim=True), torch.zeros(2, 3, 4, dtype=torch.float64)),
    case("amin.default", lambda x: x.amin((0, -1)), X),
    case("prod.dim_int", lambda x: x.prod(1), X),
    case("prod.default", lambda x: x.prod(), X),
    case("any.dim", lambda x: x.any(1), MASK),
    case("any.default", lambda x: x.any(), MASK),
    case("all.dim", lambda x: x.all(1, keepdim=True), MASK),
    case("all.default", lambda x: x.all(), MASK),
    case("max.dim", lambda x: x.max(1), X),
    case("max.dim", lambda x: x.max(-1, keepdim=True), X),
    case("max.dim", lambda x: x.max(1)[0], torch.zeros(2, 3, dtype=torch.float64)),
    case("min.dim", lambda x: x.min(1), X),
    case("max.default", lambda x: x.max(), X),
    case("min.default", lambda x: x.min(), X),
    case("argmax.default", lambda x: x.argmax(1), X),
    case("argmax.default", lambda x: x.argmax(-1, keepdim=True), X),
    case("argmax.default", lambda x: x.argmax(), X),
    case("argmin.default", lambda x: x.argmin(1), X),
    case("cumsum.default", lambda x: x.cumsum(1), X),
    case("cumsum.default", lambda x: x.cumsum(-1), MASK),
    case("cumsum.default", lambda x: x.cumsum(1, dtype=torch.float32), X),
    case("cumprod.default", lambda x: x.cumprod(1), X),
    case("cummax.default", lambda x: x.cummax(1), X),
    case("cummin.default", lambda x: x.cummin(-1)[0], X),
    case("logcumsumexp.default", lambda x: x.logcumsumexp(1), X),
    case("kthvalue.default", lambda x: x.kthvalue(2, 1), X),
    case("median.dim", lambda x: x.median(-1, keepdim=True), X),
    case("median.dim", lambda x: x.median(1)[0], X),
    case("quantile.scalar", lambda x: x.quantile(0.3, 1), X),
    case("var.correction", lambda x: torch.var(x, dim=1, correction=1), X),
    case("var.correction", lambda x: x.var((1, 2), correction=0, keepdim=True), X),
    case("var.dim", lambda x: x.var((1, 2), unbiased=False), X),
    case("std.correction", lambda x: torch.std(x, dim=-1, correction=1), X),
    case("std.correction", lambda x: x.std(dim=None, correction=0), X),
    case("std.dim", lambda x: x.std(1, unbiased=True, keepdim=True), X),
    case("var_mean.correction", lambda x: torch.var_mean(x, 1, correction=0, keepdim=True), X),
    case("var_mean.dim", lambda x: torch.var_mean(x, (1, 2)), X),
    case("std_mean.dim", lambda x: torch.std_mean(x, (1, 2), keepdim=True), X),
    case("std_mean.correction", lambda x: torch.std_mean(x, 1, correction=0), X),
    case("std.dim", lambda x: x.std(-1), FLAT),
    case("std_mean.dim", lambda x: torch.std_mean(x, -1), FLAT),
    case("linalg_vector_norm.default", lambda x: torch.linalg.vector_norm(x, dim=-1), FLAT),
    case("linalg_vector_norm.default", lambda x: F.normalize(x, dim=-1, eps=0.5), FLAT),
    case("cosine_similarity.default", lambda x, y: F.cosine_similarity(x, y, dim=1), X, (1, 3, 4)),
    case("cosine_similarity.default", lambda x, y: F.cosine_similarity(x, y, dim=-1, eps=0.5), FLAT, P),
    case("linalg_vector_norm.default", lambda x: torch.linalg.vector_norm(x, dim=1, keepdim=True), X),
    case("linalg_vector_norm.default", lambda x: torch.linalg.vector_norm(x), X),
    case("linalg_vector_norm.default", lambda x: torch.linalg.vector_norm(x, 1, dim=-1), X),
    case("linalg_vector_norm.default", lambda x: torch.linalg.vector_norm(x, float("inf"), dim=-1), X),
    case("linalg_vector_norm.default", lambda x: torch.linalg.vector_norm(x, 3, dim=-1), X),
    case("linalg_vector_norm.default", lambda x: F.normalize(x, dim=1), X),
    case("norm.ScalarOpt_dim", lambda x: torch.ops.aten.norm.ScalarOpt_dim(x, 2, [1], True), X),
    case("logsumexp.default", lambda x: x.logsumexp(1), X),
    case("topk.default", lambda x: x.topk(2, dim=-1), X),
    case("topk.default", lambda x: x.topk(2, dim=1, largest=False), X),
    case("sort.default", lambda x: x.sort(dim=1, descending=True), X),
    case("argsort.default", lambda x: x.argsort(dim=-1), X),
    # products
    case("linear.default", F.linear, X, (5, 4), (5,)),
    case("linear.default", F.linear, X, (5, 4)),
    case("matmul.default", lambda x, y: x @ y, (3, 2, 5, 7), (2, 7, 4)),
    case("matmul.default", lambda x, y: x @ y, (5, 7), (3, 2, 7, 4)),
    case("matmul.default", lambda x, y: x @ y, (2, 5, 7), (1, 3, 2, 7, 4)),
    case("matmul.default", torch.matmul, X, (4, 5)),
    case("matmul.default", torch.matmul, X, (4,)),
    case("matmul.default", torch.matmul, (4,), (2, 4, 3)),
    case("bmm.default", torch.bmm, X, (2, 4, 5)),
    case("mm.default", torch.mm, (3, 4), (4, 2)),
    case("mv.default", torch.mv, (3, 4), (4,)),
    case("dot.default", torch.dot, (4,), (4,)),
    case("vdot.default", torch.vdot, (4,), (4,)),
    case("block_diag.default", torch.block_diag, (2, 3), (1, 4), (3,)),
    case("xlogy.Tensor", lambda x, y: torch.xlogy(x, y.abs()), X, OTHER),
    case("xlogy.Tensor", lambda x, y: torch.xlogy(x.relu(), y.relu()), X, P),
    case("max_pool1d.default", lambda x: F.max_pool1d(x, 3, 2, 1, 2), (2, 3, 9)),
    case("max_pool2d.default", lambda x: F.max_pool2d(x, (3, 2), (1, 2), (1, 0), (2, 1)), IMAGE),
    case("max_pool2d.default", lambda x: F.max_pool2d(x.sign(), 2, 1, dilation=2), IMAGE),
    case("max_pool3d.default", lambda x: F.max_pool3d(x, 2, 1, 0, 2), (2, 2, 4, 3, 5)),
    case("stft.default", lambda x: torch.view_as_real(torch.stft(x, 16, 4, return_complex=True)), (2, 40)),
    case("stft.default", lambda x, w: torch.stft(x, 16, 4, 12, w, center=False, return_complex=True).abs(), (2, 40), (12,)),
    case("stft.default", lambda x: torch.view_as_real(torch.stft(x, 8, normalized=True, onesided=False, return_complex=True)), (40,)),
    # losses
    case("mse_loss.default", F.mse_loss, X, OTHER),
    case("mse_loss.default", lambda x, y: F.mse_loss(x, y, reduction="none"), X, OTHER),
    case("l1_loss.default", lambda x, y: F.l1_loss(x, y, reduction="sum"), X, OTHER),
    case("smooth_l1_loss.default", lambda x, y: F.smooth_l1_loss(x, y, beta=0.7), X, OTHER),
    case("l1_loss.default", lambda x, y: F.smooth_l1_loss(x, y, beta=0.0), X, OTHER),
    case("huber_loss.default", lambda x, y: F.huber_loss(x, y, delta=0.7), X, OTHER),
    case("binary_cross_entropy.default", lambda x, y: F.binary_cross_entropy(x.sigmoid(), y.sigmoid()), X, OTHER),
    case("binary_cross_entropy.default", lambda x, y, w: F.binary_cross_entropy(x.sigmoid(), y.sigmoid(), w.detach().abs(), reduction="sum"), X, OTHER, P),
    case("binary_cross_entropy_with_logits.default", lambda x, y: F.binary_cross_entropy_with_logits(x * 9, y.sigmoid()), X, OTHER),
    case("binary_cross_entropy_with_logits.default", lambda x, y, p: F.binary_cross_entropy_with_logits(x, y.sigmoid(), pos_weight=p.detach(), reduction="none"), X, OTHER, P),
    case("kl_div.default", lambda x, y: F.kl_div(x.log_softmax(1), (2 * y).softmax(1), reduction="batchmean"), (3, 4), (3, 4)),
    case("kl_div.default", lambda x, y: F.kl_div(x.log_softmax(1), (2 * y).log_softmax(1), log_target=True), (3, 4), (3, 4)),
    case("nll_loss_nd.default", F.nll_loss, (4, 3), INDEX),
    case("nll_loss_nd.default", lambda x, t: F.nll_loss(x, t, reduction="none"), (2, 8, 3, 4), torch.stack([COUNT, COUNT])),
    case("nll_loss_nd.default", lambda x, t, w: F.nll_loss(x, t, w.detach(), ignore_index=2), (4, 3), INDEX, P[0, 0, :3]),
    case("cross_entropy_loss.default", F.cross_entropy, (4, 3), INDEX),
    case("cross_entropy_loss.default", lambda x, t: F.cross_entropy(x * 90, t, reduction="sum"), (4, 3), INDEX),
    case("cross_entropy_loss.default", lambda x, t, w: F.cross_entropy(x, t, w.detach(), label_smoothing=0.1, ignore_index=0), (4, 3), INDEX, P[0, 0, :3]),
    case("cross_entropy_loss.default", lambda x, t: F.cross_entropy(x, t, label_smoothing=0.2, reduction="none"), (2, 8, 3, 4), torch.stack([COUNT, COUNT])),
    case("cross_entropy_loss.default", lambda x, y, w: F.cross_entropy(x, (2 * y).softmax(1), w.detach(), label_smoothing=0.1), (2, 4, 3), (2, 4, 3), P[0, 0, :4]),
    case("outer.default", torch.outer, (3,), (4,)),
    case("bilinear.default", F.bilinear, (2, 3, 5), (2, 3, 6), (4, 5, 6), (4,)),
    case("bilinear.default", F.bilinear, (3, 5), (3, 6), (4, 5, 6)),
    case("cdist.default", torch.cdist, X, (2, 5, 4)),
    case("cdist.default", lambda x: torch.cdist(x, x), X),
    case("cdist.default", lambda x, y: torch.cdist(x, y, p=1), X, (5, 4)),
    case("cdist.default", lambda x, y: torch.cdist(x, y, p=3), X, (2, 5, 4)),
    case("cdist.default", lambda x, y: torch.cdist(x, y, p=float("inf")), X, (2, 5, 4)),
    case("linalg_cross.default", lambda x, y: torch.linalg.cross(x, y.exp()), (2, 4, 3), (2, 4, 3)),
    case("linalg_cross.default", lambda x, y: torch.linalg.cross(x, y, dim=1), X, P),
    case("pairwise_distance.default", F.pairwise_distance, X, P),
    case("pairwise_distance.default", lambda x, y: F.pairwise_distance(x, y, p=1, keepdim=True), X, (4,)),
    case("tensordot.default", lambda x, y: torch.tensordot(x, y, dims=([2, 1], [0, 1])), X, (4, 3, 5)),
    case("addmv.default", torch.addmv, (3,), (3, 4), (4,)),
    case("kron.default", torch.kron, (3, 4), (2, 2)),
    case("linalg_det.default", torch.linalg.det, SQUARE),
    case("linalg_inv.default", torch.linalg.inv, SQUARE),
    case("linalg_solve.default", torch.linalg.solve, SQUARE, (2, 3, 4)),
    case("linalg_cholesky.default", lambda x: torch.linalg.cholesky(x @ x.mT), SQUARE),
    case("linalg_cholesky.default", lambda x: torch.linalg.cholesky(x @ x.mT, upper=True), SQUARE),
    # Fourier transforms and complex numbers
    case("fft_fft.default", lambda x: torch.fft.fft(x, dim=1).real, X),
    case("fft_ifft.default", lambda x: torch.fft.ifft(x, n=6, norm="ortho").imag * 2, X),
    case("fft_rfft.default", lambda x: torch.fft.rfft(x, dim=1).abs(), X),
    case("fft_irfft.default", lambda x: torch.fft.irfft(torch.fft.rfft(x), n=x.shape[-1]), (2, 5)),
    case("fft_fft2.default", lambda x: torch.fft.fft2(x).real, IMAGE),
    case("fft_ifft2.default", lambda x: torch.fft.ifft2(torch.fft.fft2(x) * 2).real, IMAGE),
    case("fft_rfft2.default", lambda x, w: torch.view_as_real(torch.fft.rfft2(x, dim=(1, 2), norm="ortho") * w), IMAGE, (4, 4, 6)),
    case("fft_irfft2.default", lambda x: torch.fft.irfft2(torch.fft.rfft2(x), s=(7, 6), norm="forward"), IMAGE),
    case("fft_fftn.default", lambda x: torch.fft.fftn(x, dim=(1, 2)).imag * 2, X),
    case("fft_ifftn.default", lambda x: torch.fft.ifftn(x).real, X),
    case("fft_rfftn.default", lambda x: torch.fft.rfftn(x).real, X),
    case("fft_irfftn.default", lambda x: torch.fft.irfftn(torch.fft.rfftn(x)), X),
    case("fft_fftshift.default", lambda x: torch.fft.fftshift(x), (2, 5)),
    case("fft_ifftshift.default", lambda x: torch.fft.ifftshift(x, dim=1), (2, 5)),
    case("real.default", lambda x: torch.fft.fft(x).real, X),
    case("imag.default", lambda x: torch.fft.fft(x).imag * 2, X),
    case("angle.default", lambda x, y: torch.complex(x, y).angle(), X, P),
    case("_conj.default", lambda x: (torch.fft.fft(x) * torch.fft.fft(x).conj()).real, X),
    case("conj.default", lambda x: (torch.fft.fft(x) * torch.ops.aten.conj(torch.fft.fft(x))).real, X),
    case("complex.default", lambda x, y: (torch.complex(x, y) * torch.complex(x, y)).imag, X, P),
    case("polar.default", lambda x, y: torch.polar(x, y).real, P, X),
    case("view_as_complex.default", lambda x, y: (torch.view_as_complex(x) * torch.polar(y.exp(), y)).real, (3, 4, 2), (4,)),
    case("view_as_real.default", lambda x: torch.view_as_real(torch.fft.fft(x) * 2 + 1), X),
    case("addmm.default", torch.addmm, (2,), (3, 4), (4, 2)),
    case("addmm.default", lambda b, x, y: torch.addmm(b, x, y, beta=0.5, alpha=2), (3, 2), (3, 4), (4, 2)),
    case("baddbmm.default", lambda b, x, y: torch.baddbmm(b, x, y, beta=0.5, alpha=2), (2, 3, 5), X, (2, 4, 5)),
    case("einsum.default", lambda x, y: torch.einsum("bij,bkj->bik", x, y), X, (2, 5, 4)),
    case("scaled_dot_product_attention.default", F.scaled_dot_product_attention, (2, 2, 5, 3), (2, 2, 6, 3), (2, 2, 6, 4)),
    case("scaled_dot_product_attention.default", lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True), (2, 2, 5, 3)),
    case("scaled_dot_product_attention.default", lambda q, m: F.scaled_dot_product_attention(q, q, q, m), (2, 2, 3, 3), torch.tensor([[True, False, True], [True, True, False], [False, False, True]])),
    case("scaled_dot_product_attention.default", lambda q, m: F.scaled_dot_product_attention(q, q, q, m, scale=0.3), (2, 2, 5, 3), (5, 5)),
    case("scaled_dot_product_attention.default", lambda q, k: F.scaled_dot_product_attention(q, k, k, enable_gqa=True), (1, 4, 3, 2), (1, 2, 3, 2)),
    case("conv1d.default", lambda x, w, b: F.conv1d(x, w, b, 2, 1, 2, 2), (2, 4, 9), (6, 2, 3), (6,)),
    case("conv2d.default", lambda x, w: F.conv2d(x, w, None, (2, 1), (1, 2), (1, 2)), IMAGE, (5, 4, 3, 2)),
    case("conv2d.default", lambda x, w, b: F.conv2d(x, w, b, groups=4, padding=1), IMAGE, (4, 1, 3, 3), (4,)),
    case("conv3d.default", lambda x, w, b: F.conv3d(x, w, b, 2, 1), (1, 2, 5, 5, 4), (3, 2, 3, 3, 2), (3,)),
    case("conv2d.padding", lambda x: F.conv2d(x, KERNEL, padding="same"), IMAGE),
    case("conv2d.padding", lambda x: F.conv2d(x, KERNEL, padding="same", dilation=(3, 1)), IMAGE),
    case("conv2d.padding", lambda x, w: F.conv2d(x, w, padding="valid"), IMAGE, (5, 4, 3, 3)),
    case("conv1d.padding", lambda x: F.conv1d(x, KERNEL[0], padding="same"), (2, 2, 9)),
    case("conv_transpose1d.default", lambda x, w, b: F.conv_transpose1d(x, w, b, 2, 1, 1), (2, 4, 5), (4, 3, 3), (3,)),
    case("conv_transpose2d.input", lambda x, w: F.conv_transpose2d(x, w, None, (2, 3), 1, (1, 0), 2), IMAGE, (4, 3, 3, 2)),
    case("conv_transpose3d.input", lambda x, w: F.conv_transpose3d(x, w, None, 2, 1, 1), (1, 2, 3, 3, 4), (2, 3, 3, 3, 3)),
    case("lstm.input", lambda x, h, c, w, u: torch.lstm(x, (h, c), (w, u), False, 1, 0.0, False, False, True), (2, 3, 4), (1, 2, 5), (1, 2, 5), (20, 4), (20, 5)),
    case("gru.input", lambda x, h, w, u: torch.gru(x, h, (w, u), False, 1, 0.0, False, False, True), (2, 3, 4), (1, 2, 5), (15, 4), (15, 5)),
    case("lstm.input", lambda x, h, c: torch.lstm(x, (h, c), (LSTM[0], LSTM[1], LSTM[2]), False, 1, 0.0, False, False, True)[0], (2, 3, 4), (1, 2, 3), (1, 2, 5)),  # a projection
    case("rnn_tanh.input", lambda x, h, w, u: torch.rnn_tanh(x, h, (w, u), False, 1, 0.0, False, False, True), (2, 3, 4), (1, 2, 5), (5, 4), (5, 5)),
    case("rnn_relu.input", lambda x, h, w, u: torch.rnn_relu(x, h, (w, u, w[:, 0], u[0]), True, 1, 0.0, False, False, False), (3, 2, 4), (1, 2, 5), (5, 4), (5, 5)),
    case("lstm_cell.default", lambda x, h, c, w, u: torch.lstm_cell(x, (h, c), w, u), (2, 4), (2, 5), (2, 5), (20, 4), (20, 5)),
    case("gru_cell.default", lambda x, h, w, u, b: torch.gru_cell(x, h, w, u, b, b * 2), (2, 4), (2, 5), (15, 4), (15, 5), (15,)),
    case("rnn_tanh_cell.default", lambda x, h, w, u: torch.rnn_tanh_cell(x, h, w, u), (2, 4), (2, 5), (5, 4), (5, 5)),
    case("rnn_relu_cell.default", lambda x, h, w, u: torch.rnn_relu_cell(x, h, w, u), (2, 4), (2, 5), (5, 4), (5, 5)),
    case("embedding_bag.padding_idx", lambda i, w: F.embedding_bag(i.reshape(2, 2), w), INDEX, (3, 4)),
    case("embedding_bag.padding_idx", lambda i, w: F.embedding_bag(i.reshape(2, 2), w, mode="max"), INDEX, (3, 4)),
    case("embedding_bag.padding_idx", lambda i, w, o, s: F.embedding_bag(i, w, o, mode="sum", per_sample_weights=s), INDEX, (3, 4), torch.tensor([0, 1, 1]), (4,)),
    case("embedding.default", lambda i, w: F.embedding(i, w), INDEX, (3, 4)),
    case("embedding.default", lambda i, w: F.embedding(i, w, padding_idx=0), INDEX, (3, 4)),
    case("one_hot.default", lambda i: F.one_hot(i, 5), INDEX),
    # normalisation
    case("layer_norm.default", lambda x, w, b: F.layer_norm(x, (4,), w, b), X, (4,), (4,)),
    case("layer_norm.default", lambda x: F.layer_norm(x, (3, 4), eps=2.0**-10), X),
    case("layer_norm.default", lambda x, w: F.layer_norm(x, (4,), w), X, (4,)),
    case("rms_norm.default", lambda x, w: F.rms_norm(x, (4,), w, 1e-6), X, (4,)),
    case("rms_norm.default", lambda x: F.rms_norm(x, (4,), None, 1e-6), X),
    case("rms_norm.default", lambda x: F.rms_norm(x, (4,)), X),
    case("_weight_norm.default", lambda v, g: torch._weight_norm(v, g, 0), (3, 4, 2), (3, 1, 1)),
    case("_weight_norm.default", lambda v, g: torch._weight_norm(v, g, 1), (3, 4), (1, 4)),
    case("group_norm.default", lambda x, w, b: F.group_norm(x, 2, w, b), IMAGE, (4,), (4,)),
    case("group_norm.default", lambda x: F.group_norm(x, 2), IMAGE),
    case("group_norm.default", lambda x, w, b: F.group_norm(x, 2, w, b), (3, 4), (4,), (4,), within=1e-10),  # of two elements
    case("instance_norm.default", lambda x, w, b: F.instance_norm(x, weight=w, bias=b, eps=2**-17), IMAGE, (4,), (4,)),
    case("instance_norm.default", lambda x: F.instance_norm(x, eps=2**-17), (2, 4, 5)),
    case("batch_norm.default", lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True), IMAGE, (4,), (4,)),
    case("batch_norm.default", lambda x: F.batch_norm(x, None, None, training=True), IMAGE),
    case("batch_norm.default", lambda x, m, v: F.batch_norm(x, m.detach(), v.detach().abs() + 1), IMAGE, (4,), (4,)),
    # pools and resizing
    case("max_pool2d.default", lambda x: F.max_pool2d(x, 3, 2, 1), IMAGE),
    case("max_pool2d.default", lambda x: F.max_pool2d(x, (2, 3), ceil_mode=True), IMAGE),
    case("max_pool2d.default", lambda x: F.max_pool2d(x, 3, 2, 1, 1, True), IMAGE),
    case("max_pool1d.default", lambda x: F.max_pool1d(x, 3, 2, 1), (2, 4, 9)),
    case("max_pool3d.default", lambda x: F.max_pool3d(x, 2, 2, 1), (1, 2, 5, 5, 4)),
    case("avg_pool2d.default", lambda x: F.avg_pool2d(x, 3, 2, 1), IMAGE, within=AVERAGE),
    case("avg_pool2d.default", lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), IMAGE, within=AVERAGE),
    case("avg_pool2d.default", lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True), IMAGE),
    case("avg_pool2d.default", lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True), (2, 4, 8, 6), within=AVERAGE),
    case("avg_pool2d.default", lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False), (2, 4, 8, 6), within=AVERAGE),
    case("avg_pool1d.default", lambda x: F.avg_pool1d(x, 3, 2, 1), (2, 4, 9), within=AVERAGE),
    case("avg_pool1d.default", lambda x: F.avg_pool1d(x, 2), (2, 4, 9)),
    case("avg_pool3d.default", lambda x: F.avg_pool3d(x, 2, 2, 1), (1, 2, 5, 5, 4)),
    case("adaptive_avg_pool1d.default", lambda x: F.adaptive_avg_pool1d(x, 1), (2, 4, 9)),
    case("adaptive_avg_pool1d.default", lambda x: F.adaptive_avg_pool1d(x, 3), (2, 4, 9)),
    case("adaptive_avg_pool1d.default", lambda x: F.adaptive_avg_pool1d(x, 4), (2, 4, 9)),
    case("adaptive_avg_pool2d.default", lambda x: F.adaptive_avg_pool2d(x, 1), IMAGE),
    case("adaptive_avg_pool2d.default", lambda x: F.adaptive_avg_pool2d(x, (1, 3)), IMAGE),
    case("adaptive_avg_pool2d.default", lambda x: F.adaptive_avg_pool2d(x, (7, 4)), IMAGE),
    case("adaptive_avg_pool2d.default", lambda x: F.adaptive_avg_pool2d(x, (9, None)), IMAGE),
    case("adaptive_avg_pool3d.default", lambda x: F.adaptive_avg_pool3d(x, 1), VOLUME),
    case("adaptive_avg_pool3d.default", lambda x: F.adaptive_avg_pool3d(x, (2, 3, None)), VOLUME),
    case("adaptive_max_pool3d.default", lambda x: F.adaptive_max_pool3d(x, 2), VOLUME),
    case("max_pool2d_with_indices.default", lambda x: F.max_pool2d(x, 2, return_indices=True), IMAGE),
    case("max_unpool2d.default", lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2, output_size=(7, 6)), IMAGE),
    case("adaptive_max_pool1d.default", lambda x: F.adaptive_max_pool1d(x, 4), (2, 4, 9)),
    case("adaptive_max_pool2d.default", lambda x: F.adaptive_max_pool2d(x, 1), IMAGE),
    case("adaptive_max_pool2d.default", lambda x: F.adaptive_max_pool2d(x, (3, 4)), IMAGE),
    case("upsample_nearest1d.vec", lambda x: F.interpolate(x, scale_factor=2.0), (2, 3, 5)),
    case("upsample_nearest2d.vec", lambda x: F.interpolate(x, (9, 3)), IMAGE),
    case("upsample_nearest2d.vec", lambda x: F.interpolate(x, scale_factor=2), IMAGE),
    case("upsample_nearest2d.vec", lambda x: F.interpolate(x, scale_factor=(2.0, 0.5)), IMAGE),
    case("upsample_nearest3d.vec", lambda x: F.interpolate(x, (5, 3, 7)), VOLUME),
    case("upsample_nearest3d.vec", lambda x: F.interpolate(x, scale_factor=2), VOLUME),
    case("upsample_trilinear3d.vec", lambda x: F.interpolate(x, (5, 3, 7), mode="trilinear"), VOLUME),
    case("upsample_trilinear3d.vec", lambda x: F.interpolate(x, scale_factor=2, mode="trilinear"), VOLUME),
    case("upsample_trilinear3d.vec", lambda x: F.interpolate(x, (5, 1, 7), mode="trilinear", align_corners=True), VOLUME),
    case("upsample_linear1d.vec", lambda x: F.interpolate(x, 8, mode="linear"), (2, 3, 5)),
    case("upsample_bilinear2d.vec", lambda x: F.interpolate(x, (9, 3), mode="bilinear"), IMAGE),
    case("upsample_bilinear2d.vec", lambda x: F.interpolate(x, (9, 3), mode="bilinear", align_corners=True), IMAGE),
    case("upsample_bilinear2d.vec", lambda x: F.interpolate(x, (1, 1), mode="bilinear", align_corners=True), IMAGE),
    case("upsample_bilinear2d.vec", lambda x: F.interpolate(x, (1, 5), mode="bilinear"), IMAGE),
    case("upsample_bilinear2d.vec", lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), IMAGE),
    case("upsample_bilinear2d.vec", lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"), IMAGE),
    case("upsample_bicubic2d.vec", lambda x: F.interpolate(x, (9, 3), mode="bicubic"), IMAGE),
    case("upsample_bicubic2d.vec", lambda x: F.interpolate(x, (9, 5), mode="bicubic", align_corners=True), IMAGE),
    case("upsample_bicubic2d.vec", lambda x: F.interpolate(x, (1, 1), mode="bicubic"), IMAGE),
    case("_upsample_bicubic2d_aa.vec", lambda x: F.interpolate(x, (9, 3), mode="bicubic", antialias=True), IMAGE),
    case("_upsample_bicubic2d_aa.vec", lambda x: F.interpolate(x, (4, 5), mode="bicubic", antialias=True), IMAGE),
    case("_upsample_bilinear2d_aa.vec", lambda x: F.interpolate(x, (4, 8), mode="bilinear", antialias=True), IMAGE),
    case("im2col.default", lambda x: F.unfold(x, 3, 1, 1, 2), IMAGE),
    case("im2col.default", lambda x: F.unfold(x, (2, 3), padding=(1, 0), stride=(2, 1)), IMAGE),
    case("col2im.default", lambda x: F.fold(x, (7, 6), 3, padding=1, stride=2), (2, 18, 12)),
    case("grid_sampler.default", lambda x, g: F.grid_sample(x, g, align_corners=False), IMAGE, (2, 3, 5, 2)),
    case("grid_sampler.default", lambda x, g: F.grid_sample(x, g, "bilinear", "border", align_corners=True), IMAGE, (2, 3, 5, 2)),
    case("affine_grid_generator.default", lambda t: F.affine_grid(t, (2, 1, 3, 5), align_corners=False), (2, 2, 3)),
    case("pixel_shuffle.default", lambda x: F.pixel_shuffle(x, 2), IMAGE),
    case("pixel_unshuffle.default", lambda x: F.pixel_unshuffle(x, 2), (2, 3, 4, 6)),
    case("channel_shuffle.default", lambda x: F.channel_shuffle(x, 2), IMAGE),
    # shapes
    case("reshape.default", lambda x: x.reshape(x.shape[0], -1), X),
    case("view.default", lambda x: x.view(x.shape[0], 2, 6), X),
    case("_unsafe_view.default", lambda x: torch.ops.aten._unsafe_view(x, [2, 12]), X),
    case("reshape_as.default", lambda x, y: x.reshape_as(y), (2, 6), (3, 4)),
    case("view_as.default", lambda x, y: x.view_as(y), (2, 6), (3, 4)),
    case("unflatten.int", lambda x: x.unflatten(-1, (2, 2)), X),
    case("flatten.using_ints", lambda x: x.flatten(1), X),
    case("flatten.using_ints", lambda x: x.flatten(-3, -2), IMAGE),
    case("permute.default", lambda x: x.permute(0, -1, 1), X),
    case("transpose.int", lambda x: x.transpose(-1, 1), X),
    case("transpose.int", lambda x: x.transpose(0, 1), (3, 4)),
    case("movedim.int", lambda x: x.movedim(1, -1), IMAGE),
    case("t.default", lambda x: x.t(), (3, 4)),
    case("numpy_T.default", lambda x: x.T, (3, 4)),
    case("mT.default", lambda x: x.mT, X),
    case("squeeze.dim", lambda x: x.squeeze(1), (2, 1, 4)),
    case("squeeze.dim", lambda x: x.squeeze(-1), X),
    case("squeeze.dims", lambda x: x.squeeze((1, -1)), (2, 1, 4, 1)),
    case("squeeze.default", lambda x: x.squeeze(), (2, 1, 4, 1)),
    case("unsqueeze.default", lambda x: x.unsqueeze(-1), X),
    case("expand.default", lambda x: x.expand(2, -1, 4), (2, 3, 1)),
    case("expand.default", lambda x: x.expand(5, 3, 4), (3, 4)),
    case("expand_as.default", lambda x, y: x.expand_as(y), (3, 1), X),
    case("broadcast_tensors.default", lambda x, y: torch.broadcast_tensors(x, y), (3, 1), (1, 4)),
    case("repeat.default", lambda x: x.repeat(2, 1, 3), (3, 4)),
    case("tile.default", lambda x: torch.tile(x, (2, 3)), X),
    case("repeat_interleave.self_int", lambda x: x.repeat_interleave(2, dim=1), X),
    case("repeat_interleave.self_int", lambda x: x.repeat_interleave(3), (3, 4)),
    case("cat.default", lambda x, y: torch.cat([x, y], -1), X, (2, 3, 2)),
    case("cat.default", lambda x, y: torch.cat([x, y], 1), (3, 4), WHOLE),
    case("stack.default", lambda x, y: torch.stack([x, y], -1), X, X),
    case("chunk.default", lambda x: x.chunk(3, -1), (2, 7)),
    case("chunk.default", lambda x: x.chunk(2, 1), (2, 6)),
    case("split.Tensor", lambda x: x.split(3, -1), (2, 8)),
    case("split.Tensor", lambda x: x.split(8, -1), (2, 8)),
    case("split_with_sizes.default", lambda x: x.split([3, 1, 4], 1), (2, 8)),
    case("split_with_sizes.default", lambda x: x.split([4, 4], -1), (2, 8)),
    case("tensor_split.indices", lambda x: x.tensor_split([2, 3], 1), (2, 8)),
    case("hsplit.int", lambda x: torch.hsplit(x, 2), (2, 8)),
    case("vsplit.int", lambda x: torch.vsplit(x, 2), (2, 8)),
    case("tensor_split.sections", lambda x: x.tensor_split(3, 1), (2, 8)),
    case("unbind.int", lambda x: x.unbind(-1), X),
    case("slice.Tensor", lambda x: x[:, 1:], X),
    case("slice.Tensor", lambda x: x[..., :-1], X),
    case("slice.Tensor", lambda x: x[:, ::2, 1:3], X),
    case("slice.Tensor", lambda x: x[:, -2:], X),
    case("select.int", lambda x: x[:, 0], X),
    case("select.int", lambda x: x[..., -1], X),
    case("index.Tensor", lambda x, i: x[i], (3, 4), INDEX),
    case("index.Tensor", lambda x, i: x[:, i], (2, 3, 4), INDEX),
    case("index.Tensor", lambda x, i: x[i, i], (3, 4), INDEX),
    case("index.Tensor", lambda x, i: x[i, :, i], (3, 2, 4), INDEX),
    case("index.Tensor", lambda x, i: x[:, i[:, None], i], (2, 3, 4), INDEX),
    case("index.Tensor", lambda x, i: x[i.reshape(2, 2)], (3, 4), INDEX),
    case("index_select.default", lambda x, i: x.index_select(-1, i), X, INDEX),
    case("gather.default", lambda x, i: x.gather(1, i), (3, 4), WHOLE.abs() % 4),
    case("scatter.src", lambda x, i, y: x.scatter(1, i, y), (3, 4), torch.tensor([[0, 2], [1, 3], [2, 0]]), (3, 2)),
    case("scatter.value", lambda x, i: x.scatter(1, i, 2.5), (3, 4), torch.tensor([[0, 2], [1, 3], [2, 0]])),
    case("scatter_add.default", lambda x, i, y: x.scatter_add(1, i, y), (3, 4), torch.tensor([[0, 0], [1, 3], [2, 0]]), (3, 2)),
    case("index_add.default", lambda x, i, y: x.index_add(0, i, y), (3, 4), INDEX, (4, 4)),
    case("scatter_reduce.two", lambda x, i, y: x.scatter_reduce(1, i, y, "sum"), (3, 4), torch.tensor([[0, 0], [1, 3], [2, 0]]), (3, 2)),
    case("scatter_reduce.two", lambda x, i, y: x.scatter_reduce(1, i, y, "prod"), (3, 4), torch.tensor([[0, 2], [1, 3], [2, 0]]), (3, 2)),
    case("index_put.default", lambda x, i, y: x.index_put((i[:3],), y), (3, 4), INDEX, (3, 4)),
    case("index_put.default", lambda x, i, y: x.index_put((i, i), y, accumulate=True), (3, 4), INDEX, (4,)),
    case("index_put.default", lambda x, i: _placed(x * 2, (slice(None), i[:2]), 1.5), X, INDEX),
    case("index_put.default", lambda x, i, y: _placed(x * 2, (slice(None), i[:2], i[:2]), y), X, INDEX, (2, 2)),
    case("index_put.default", lambda x, m: _placed(x * 2, m, 0.0), (3, 4), MASK),
    case("index_put.default", lambda x, m: _placed(x * 2, m, 3), WHOLE, MASK),
    case("roll.default", lambda x: x.roll((1, -2), (1, 2)), X),
    case("roll.default", lambda x: x.roll(1, -1), X),
    case("roll.default", lambda x: x.roll(5), X),
    case("flip.default", lambda x: x.flip(-1), X),
    case("flip.default", lambda x: x.flip((0, 2)), X),
    case("rot90.default", lambda x: torch.rot90(x, 1, (2, 3)), IMAGE),
    case("pad.default", lambda x: F.pad(x, (1, 2)), X),
    case("pad.default", lambda x: F.pad(x, (0, 0, 1, 2)), X),
    case("pad.default", lambda x: F.pad(x, (1, 2, 0, 1), value=0.5), IMAGE),
    case("pad.default", lambda x: F.pad(x, (0, 0, 1, 2, 0, 1)), IMAGE),
    case("pad.default", lambda x: F.pad(x, (-1, 0, 0, -2)), IMAGE),
    case("pad.default", lambda x: F.pad(x, (1, 1, 1, 1), value=float("-inf")).amax((2, 3)), IMAGE),
    case("pad.default", lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"), IMAGE),
    case("pad.default", lambda x: F.pad(x, (1, 2, 2, 1), mode="replicate"), IMAGE),
    case("pad.default", lambda x: F.pad(x, (1, 2, 2, 1), mode="circular"), IMAGE),
    case("pad.default", lambda x: F.pad(x, (1, 2), mode="reflect"), X),
    case("pad.default", lambda x: F.pad(x, (1, 2), mode="circular"), X),
    case("pad.default", lambda x: F.pad(x, (1, 1, 1, 0, 0, 1), mode="replicate"), (1, 2, 3, 3, 4)),
    case("constant_pad_nd.default", lambda x: torch.constant_pad_nd(x, (1, 1, 0, 2), 2), X),
    case("unfold.default", lambda x: x.unfold(1, 3, 2), (2, 7, 3)),
    case("tril.default", lambda x: x.tril(-1), X),
    case("triu.default", lambda x: x.triu(1), X),
    case("diagonal.default", lambda x: x.diagonal(1, 1, 2), X),
    case("trace.default", torch.trace, (3, 3)),
    case("diff.default", lambda x: x.diff(), X),
    case("diff.default", lambda x, y: x.diff(2, 1, prepend=y), (2, 4, 3), (2, 1, 3)),
    case("diff.default", lambda x: x.diff(dim=0, append=x[:1]), WHOLE),
    case("max.other", lambda x, y: torch.max(x, y), X, (4,)),
    case("min.other", lambda x, y: torch.min(x, y), WHOLE, (4,)),
    case("diag_embed.default", torch.diag_embed, X),
    # new tensors and types
    case("arange.default", lambda x: x + torch.arange(x.shape[-1]), X),
    case("arange.default", lambda x: x + torch.arange(x.shape[-1], dtype=x.dtype), X),
    case("arange.start", lambda x: x + torch.arange(1, x.shape[-1] + 1), X),
    case("arange.start_step", lambda x: x + torch.arange(0, 8, 2), X),
    case("logspace.default", lambda x: x + torch.logspace(-1, 1, 4, dtype=x.dtype), X),
    case("linspace.default", lambda x: x + torch.linspace(-1, 1, 4, dtype=x.dtype), X),
    case("zeros.default", lambda x: x + torch.zeros(4, dtype=x.dtype), X),
    case("ones.default", lambda x: x + torch.ones(x.shape[0], 1, 4, dtype=torch.int64), X),
    case("new_zeros.default", lambda x: x.new_zeros(x.shape[0], 3), X),
    case("new_ones.default", lambda x: x.new_ones(2, dtype=torch.int32), X),
    case("new_full.default", lambda x: x.new_full((2, 3), 1.5), X),
    case("eye.default", lambda x: x * torch.eye(3, dtype=x.dtype), (2, 3, 3)),
    case("full.default", lambda x: x + torch.full((3, 4), 0.1, dtype=x.dtype), X),
    case("full.default", lambda x: x + torch.full((4,), 3), X),
    case("zeros_like.default", lambda x: torch.zeros_like(x), X),
    case("zeros_like.default", lambda x: torch.zeros_like(x, dtype=torch.bool), X),
    case("ones_like.default", lambda x: torch.ones_like(x), WHOLE),
    case("full_like.default", lambda x: torch.full_like(x, 0.1), X),
    case("swapaxes.default", lambda x: torch.swapaxes(x, -1, 0) * 2, X),
    case("swapdims.default", lambda x: torch.swapdims(x, 0, 1) * 2, (3, 4)),
    case("moveaxis.int", lambda x: torch.moveaxis(x, 0, -1) * 2, X),
    case("zero.default", lambda x: _middle_cleared(x.clone()) * 2, X),
    case("empty.memory_format", lambda x: torch.empty(x.shape, dtype=x.dtype).fill_(0.5) + x, X),
    case("new_empty.default", lambda x: x.new_empty(x.shape).fill_(0.5) + x, X),
    case("empty_like.default", lambda x: torch.empty_like(x).fill_(0.5) + x, X),
    case("fill.Scalar", lambda x: torch.ops.aten.fill_.Scalar(x * 2, 0.1) + x, X),
    case("fill.Tensor", lambda x: _slices_filled(x, 3) + x, X),
    case("fill.Tensor", lambda x, y: (x * 2).fill_(y.sum()) + x, X, (3,)),
    case("meshgrid.indexing", lambda x, y: torch.meshgrid(x, y, indexing="ij"), (3,), (4,)),
    case("meshgrid.indexing", lambda x, y: torch.meshgrid(x, y, indexing="xy"), (3,), (4,)),
    case("meshgrid.default", lambda x, y: torch.ops.aten.meshgrid([x, y]), (3,), (4,)),
    case("searchsorted.Tensor", lambda x: torch.searchsorted(torch.tensor([-0.5, 0.0, 0.5], dtype=x.dtype), x, right=True), X),
    case("bucketize.Tensor", lambda x: torch.bucketize(x, torch.tensor([-0.5, 0.0, 0.5], dtype=x.dtype)), X),
    case("to.dtype", lambda x: x.to(torch.int64), X),
    case("to.dtype", lambda x: x.bool(), WHOLE),
    case("to.device", lambda x: x.to("cpu", torch.float32), WHOLE),
    case("to.dtype_layout", lambda x: torch.ops.aten.to.dtype_layout(x, dtype=torch.float32), WHOLE),
    case("to.other", lambda x, y: torch.ops.aten.to.other(y, x) + x, (3, 4), WHOLE),
    case("_to_copy.default", lambda x: torch.ops.aten._to_copy(x, dtype=torch.float32), X),
    case("type_as.default", lambda x, y: y.type_as(x), (3, 4), WHOLE),
    # nothing, in Paddle
    case("contiguous.default", lambda x: x.transpose(1, 2).contiguous() * 2, X),
    case("clone.default", lambda x: x.clone() * 2, X),
    case("lift_fresh_copy.default", lambda x: x * torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=x.dtype), X),
    case("dropout.default", lambda x: F.dropout(x * 2, 0.3, training=False), X),
    case("feature_dropout.default", lambda x: F.dropout2d(x * 2, 0.3, training=False), IMAGE),
    case("alpha_dropout.default", lambda x: F.alpha_dropout(x * 2, 0.3, training=False), X),
    case("feature_alpha_dropout.default", lambda x: F.feature_alpha_dropout(x * 2, 0.3, training=False), IMAGE),
    case("detach.default", lambda x: x * x.detach(), X),
    case("detach_.default", lambda x: x * (x * 2).detach_(), X),
    # rarer ones
    case("__and__.Scalar", lambda x: x & 3, COUNT),
    case("__and__.Scalar", lambda x: x & True, MASK),
    case("__or__.Scalar", lambda x: x | 4, WHOLE),
    case("__xor__.Scalar", lambda x: x ^ 5, WHOLE),
    case("__lshift__.Scalar", lambda x: x << 2, COUNT),
    case("__rshift__.Scalar", lambda x: x >> 1, WHOLE),
    case("gcd.default", torch.gcd, WHOLE, COUNT),
    case("special_i0.default", torch.special.i0, X),
    case("sinc.default", torch.sinc, X),
    case("copysign.Tensor", torch.copysign, X, OTHER),
    case("deg2rad.default", torch.deg2rad, X),
    case("rad2deg.default", torch.rad2deg, X),
    case("ldexp.Tensor", lambda x, y: torch.ldexp(x, y), (3, 4), COUNT),
    case("signbit.default", torch.signbit, X),
    case("isclose.default", lambda x, y: torch.isclose(x, x + 1e-9 * y), X, X),
    case("any.dims", lambda x: x.any((0, 1)), MASK),
    case("all.dims", lambda x: x.all((1,), keepdim=True), MASK),
    case("aminmax.default", lambda x: torch.aminmax(x, dim=1, keepdim=True), X),
    case("aminmax.default", torch.aminmax, X),
    case("nanmean.default", lambda x: torch.nanmean(x, -1), X),
    case("nansum.default", lambda x: torch.nansum(x, 1, keepdim=True), X),
    case("nansum.default", torch.nansum, X),
    case("count_nonzero.default", lambda x: x.count_nonzero(1), WHOLE),
    case("count_nonzero.default", lambda x: x.count_nonzero(), WHOLE),
    case("trapezoid.dx", lambda x: torch.trapezoid(x, dx=0.5, dim=1), X),
    case("inner.default", torch.inner, X, (5, 4)),
    case("addbmm.default", lambda x, y, z: torch.addbmm(x, y, z, beta=0.5, alpha=2), (3, 5), X, (2, 4, 5)),
    case("addr.default", torch.addr, (3, 4), (3,), (4,)),
    case("cross.default", lambda x, y: torch.cross(x, y, dim=1), X, OTHER),
    case("linalg_multi_dot.default", lambda x, y, z: torch.linalg.multi_dot([x, y, z]), (2, 3), (3, 4), (4, 5)),
    case("linalg_matrix_power.default", lambda x: torch.linalg.matrix_power(x, 3), SQUARE),
    case("linalg_slogdet.default", torch.linalg.slogdet, SQUARE),
    case("linalg_solve_triangular.default", lambda x, y: torch.linalg.solve_triangular(x.tril(), y, upper=False), SQUARE, (2, 3, 2)),
    case("linalg_norm.default", lambda x: torch.linalg.norm(x, dim=-1), X),
    case("linalg_norm.default", lambda x: torch.linalg.norm(x, 1, dim=(0,), keepdim=True), X),
    case("linalg_matrix_norm.str_ord", lambda x: torch.linalg.matrix_norm(x), X),
    case("diag.default", lambda x: torch.diag(x, 1), (4,)),
    case("diag.default", torch.diag, (3, 4)),
    case("diagflat.default", lambda x: torch.diagflat(x, -1), (2, 3)),
    case("narrow.default", lambda x: x.narrow(1, 1, 2), X),
    case("ravel.default", lambda x: x.ravel() * 2, X),
    case("hstack.default", lambda x, y: torch.hstack((x, y)), X, OTHER),
    case("vstack.default", lambda x, y: torch.vstack((x, y)), (3,), (2, 3)),
    case("dstack.default", lambda x, y: torch.dstack((x, y)), (3, 2), (3, 2)),
    case("column_stack.default", lambda x, y: torch.column_stack((x, y)), (3,), (3, 2)),
    case("cartesian_prod.default", lambda x, y: torch.cartesian_prod(x, y), (3,), (2,)),
    case("take.default", lambda x: x.take(INDEX), X),
    case("take_along_dim.default", lambda x: torch.take_along_dim(x, x.argsort(-1), -1), X),
    case("masked_scatter.default", lambda x, y: x.masked_scatter(x > 0, y), X, OTHER),
    case("index_fill.int_Scalar", lambda x: x.index_fill(1, torch.tensor([0, 2]), 1.5), X),
    case("index_copy.default", lambda x, y: x.index_copy(1, torch.tensor([2, 0]), y), X, (2, 2, 4)),
    case("isin.Tensor_Tensor", lambda x: torch.isin(x, INDEX), WHOLE),
    case("eye.m", lambda x: x @ torch.eye(4, 5, dtype=x.dtype), X),
    case("scalar_tensor.default", lambda x: x * torch.scalar_tensor(2.5, dtype=x.dtype), X),
    case("tril_indices.default", lambda x: x[tuple(torch.tril_indices(3, 4, -1))], (3, 4)),
    case("triu_indices.default", lambda x: x[tuple(torch.triu_indices(3, 4))], (3, 4)),
    case("hann_window.default", lambda x: x * torch.hann_window(4, dtype=x.dtype), X),
    case("hann_window.periodic", lambda x: x * torch.hann_window(4, False, dtype=x.dtype), X),
    case("hamming_window.default", lambda x: x * torch.hamming_window(4, dtype=x.dtype), X),
    case("hamming_window.periodic", lambda x: x * torch.hamming_window(4, False, dtype=x.dtype), X),
    case("triplet_margin_loss.default", lambda x, y, z: F.triplet_margin_loss(x, y, z, margin=0.5), (3, 4), (3, 4), normal(3, 4).flip(0)),
    case("margin_ranking_loss.default", lambda x, y: F.margin_ranking_loss(x, y, y.sign(), margin=0.1), X, OTHER),
    case("soft_margin_loss.default", lambda x, y: F.soft_margin_loss(x, y.detach().sign(), reduction="sum"), X, OTHER),
    case("hinge_embedding_loss.default", lambda x, y: F.hinge_embedding_loss(x, y.sign(), margin=0.5), X, OTHER),
    case("poisson_nll_loss.default", lambda x, y: F.poisson_nll_loss(x, y), X, P),
]  # fmt: skip
"""An operator, a use of it, and its inputs."""

REFUSED = [
    case("avg_pool2d.default", lambda x: F.avg_pool2d(x, 2, divisor_override=3), IMAGE),
    case("max_pool2d.default", lambda x: F.max_pool2d(x, 2, 3, ceil_mode=True), IMAGE),
    case("instance_norm.default", lambda x, m, v: F.instance_norm(x, m, v, use_input_stats=False), IMAGE, (4,), (4,)),
    case("rms_norm.default", lambda x: F.rms_norm(x, (3, 4), None, 1e-6), X),
    case("var.correction", lambda x: torch.var(x, dim=1, correction=2), X),
    case("linalg_vector_norm.default", lambda x: torch.linalg.vector_norm(x, 0), X),
    case("meshgrid.indexing", lambda x, y, z: torch.meshgrid(x, y, z, indexing="xy"), (2,), (3,), (4,)),
    case("max_pool2d.default", lambda x: F.max_pool2d(x, 2, dilation=2, ceil_mode=True), IMAGE),
    case("grid_sampler.default", lambda x, g: F.grid_sample(x, g, "bicubic", align_corners=False), IMAGE, (2, 3, 5, 2)),
    case("_upsample_bicubic2d_aa.vec", lambda x: F.interpolate(x, (4, 5), mode="bicubic", antialias=True, align_corners=True), IMAGE),
    case("index_add.default", lambda x, i, y: x.index_add(0, i, y, alpha=2), (3, 4), INDEX, (4, 4)),
    case("index_put.default", lambda x, m, y: _placed(x * 2, m, y), (3, 4), MASK, (7,)),
    case("scatter_reduce.two", lambda x, i, y: x.scatter_reduce(1, i, y, "amax"), (3, 4), torch.tensor([[0, 0], [1, 3], [2, 0]]), (3, 2)),
    case("embedding_bag.padding_idx", lambda i, w: F.embedding_bag(i.reshape(2, 2), w, padding_idx=0), INDEX, (3, 4)),
    case("quantile.scalar", lambda x: x.quantile(0.3, 1, interpolation="lower"), X),
    case("diag_embed.default", lambda x: torch.diag_embed(x, 1), X),
    case("linalg_solve.default", lambda a, b: torch.linalg.solve(a, b, left=False), SQUARE, SQUARE),
    case("pad.default", lambda x: F.pad(x, (1, 1), mode="reflect"), (3, 4)),
]  # fmt: skip
"""Uses that no rule serves."""


def _slices_filled(x: torch.Tensor, count: int) -> torch.Tensor:
    """Whole numbers that a loop writes, as the masks of shifted windows are made."""
    mask = x.new_zeros(x.shape[1:])
    for number in range(count):
        mask[number, number : number + 2] = number
    return mask


def _scaled(x: torch.Tensor) -> torch.Tensor:
    scale = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=x.dtype)
    return x * scale


def _placed(x: torch.Tensor, place: object, values: object) -> torch.Tensor:
    x[place] = values
    return x


def _middle_cleared(x: torch.Tensor) -> torch.Tensor:
    x[:, 1:3].zero_()
    return x


def named(row: Case) -> str:
    return row.operator


@functools.cache
def port(position: int) -> Port:
    """The port of a row, for all of its tests."""
    row = CASES[position]
    return Port.of(Applied(row.function), row.inputs)


@functools.cache
def reference(position: int):
    return port(position).torch_run()


@functools.cache
def run(position: int):
    return port(position).paddle_run()


every_case = pytest.mark.parametrize(
    "position", range(len(CASES)), ids=[f"{row.operator}-{place}" for place, row in enumerate(CASES)]
)


DRAWN = {"rand.default", "randn.default", "rand_like.default", "randn_like.default", "bernoulli.default",
         "bernoulli.float", "bernoulli.p", "exponential.default"}  # fmt: skip
"""Operators whose cases are in ``test_translate_draws``: no two runs of them are the same."""


def test_every_operator_has_a_case():
    assert {*OPERATORS, *RARER} == {row.operator for row in CASES} | DRAWN
    assert not OPERATORS.keys() & RARER.keys()


@every_case
def test_the_case_uses_its_operator(position):
    used = port(position).operators()
    assert CASES[position].operator in used | {functional(name) for name in used}


@every_case
def test_the_output_is_torchs(position):
    ours, theirs = run(position).outputs, reference(position).outputs
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        assert_close(our, their, CASES[position].within)


@every_case
def test_the_gradient_is_torchs(position):
    ours, theirs = run(position).gradients, reference(position).gradients
    assert_gradients(ours, theirs, CASES[position].within)


def assert_gradients(ours, theirs, within):
    for place in ours.keys() | theirs.keys():
        present = theirs.get(place, ours.get(place))
        assert_close(ours.get(place, present * 0), theirs.get(place, present * 0), within)


@pytest.mark.parametrize("row", REFUSED, ids=named)
def test_a_form_without_a_rule_is_refused(row):
    with pytest.raises(TranslationError):
        Port.of(Applied(row.function), row.inputs)


def test_values_are_named_by_the_statement_that_makes_them():
    source = Port.of(Applied(_scaled), (normal(2, 4),)).translated.source
    assert 'self.register_buffer("scale", ' in source and "return x * self.scale" in source
    assert "CASES" not in Port.of(Applied(CASES[0].function), CASES[0].inputs).translated.source
