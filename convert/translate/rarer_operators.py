"""Rules for operators that timm's models hardly use but others do: one table in the form of ``operators``.

A rule uses Paddle's own function if it computes the same. ``tests/test_translate_operators.py`` tests each rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from convert.translate.operators import REDUCTIONS, Arguments, Rule, Unsupported, added, loss, typed
from convert.translate.plain import Type


def _with_number(function: str) -> Callable[[Arguments], str]:
    """Return the rule of a ``function`` of a tensor and a number that Paddle requires as a tensor."""

    def rule(a: Arguments) -> str:
        a.set("dtype", Type(a.tensor("self").dtype))
        return f"paddle.{function}(self, paddle.full([], other, dtype=dtype))"

    return rule


def _window(whole: float) -> Callable[[Arguments], str]:
    """Return the rule of a raised cosine window; ``whole`` is its constant term: 0.5 for Hann, 0.54 for Hamming."""

    def rule(a: Arguments) -> str:
        length = a.window_length
        if not isinstance(length, int) or length < 2:
            raise Unsupported(f"a window of length {length}: its length must be a number of at least 2")
        a.set("dtype", Type(a.result.dtype))
        a.set("whole", whole)
        a.set("rest", round(1 - whole, 2))
        a.set("step", 2 * math.pi / (length if a.plain.get("periodic", True) else length - 1))
        return "whole - rest * paddle.cos(step * paddle.arange(window_length, dtype=dtype))"

    return rule


def _along(function: str) -> Callable[[Arguments], str]:
    """Return the rule ``paddle.function(self, axis=dim)``, or of the whole tensor without ``dim``."""

    def rule(a: Arguments) -> str:
        kept = ", keepdim=True" if a.plain.get("keepdim") else ""
        dim = a.plain.get("dim")
        return f"paddle.{function}(self{kept})" if dim in (None, []) else f"paddle.{function}(self, axis=dim{kept})"

    return rule


def _aminmax(a: Arguments) -> str:
    kept = ", keepdim=True" if a.keepdim else ""
    where = "" if a.dim is None else f"axis=dim{kept}"
    return f"(self.amin({where}), self.amax({where}))"


def _cross(a: Arguments) -> str:
    if a.dim is None:
        raise Unsupported("torch.cross without dim, which looks for an axis of 3: name it")
    return "paddle.cross(self, other, axis=dim)"


def _triangular(a: Arguments) -> str:
    if not a.left:
        raise Unsupported("solve_triangular with left=False: transpose both sides")
    ones = ", unitriangular=True" if a.unitriangular else ""
    return f"paddle.linalg.triangular_solve(self, B, upper={a.upper}{ones})"


def _triplet(a: Arguments) -> str:
    swapped = ", swap=True" if a.swap else ""
    a.set("reduction", REDUCTIONS[a.reduction])
    return f"F.triplet_margin_loss(anchor, positive, negative, margin, p, eps{swapped}, reduction=reduction)"


def _poisson(a: Arguments) -> str:
    if a.full or not a.log_input:
        raise Unsupported("poisson_nll_loss with full=True or log_input=False: write it as a formula")
    return loss("input.exp() - target * input")(a)


RARER: dict[str, Rule] = {
    # bits, of whole numbers and booleans
    "__and__.Scalar": _with_number("bitwise_and"),
    "__or__.Scalar": _with_number("bitwise_or"),
    "__xor__.Scalar": _with_number("bitwise_xor"),
    "__lshift__.Scalar": _with_number("bitwise_left_shift"),
    "__rshift__.Scalar": _with_number("bitwise_right_shift"),
    "gcd.default": "paddle.gcd(self, other)",
    # element by element
    "special_i0.default": "paddle.i0(self)",
    "sinc.default": "paddle.sinc(self)",
    "copysign.Tensor": "paddle.copysign(self, other)",
    "deg2rad.default": "paddle.deg2rad(self)",
    "rad2deg.default": "paddle.rad2deg(self)",
    "ldexp.Tensor": "paddle.ldexp(self, other)",
    "signbit.default": "paddle.signbit(self)",
    "isclose.default": "paddle.isclose(self, other, rtol, atol, equal_nan)",
    # reductions
    "any.dims": _along("any"),
    "all.dims": _along("all"),
    "aminmax.default": _aminmax,
    "nanmean.default": _along("nanmean"),
    "nansum.default": _along("nansum"),
    "count_nonzero.default": _along("count_nonzero"),
    "trapezoid.dx": "paddle.trapezoid(y, dx=dx, axis=dim)",
    # products and linear algebra
    "inner.default": "paddle.inner(self, other)",
    "addbmm.default": added("(batch1 @ batch2).sum(axis=0)"),
    "addr.default": added("paddle.outer(vec1, vec2)"),
    "cross.default": _cross,
    "linalg_multi_dot.default": "paddle.linalg.multi_dot(tensors)",
    "linalg_matrix_power.default": "paddle.linalg.matrix_power(self, n)",
    "linalg_slogdet.default": "paddle.linalg.slogdet(A).unbind(axis=0)",
    "linalg_solve_triangular.default": _triangular,
    "diag.default": "paddle.diag(self, diagonal)",
    "diagflat.default": "paddle.diagflat(self, offset)",
    # shapes and places
    "ravel.default": "self.flatten()",
    "hstack.default": "paddle.hstack(tensors)",
    "vstack.default": "paddle.vstack(tensors)",
    "dstack.default": "paddle.dstack(tensors)",
    "column_stack.default": "paddle.column_stack(tensors)",
    "cartesian_prod.default": "paddle.cartesian_prod(tensors)",
    "take.default": "paddle.take(self, index)",
    "take_along_dim.default": "paddle.take_along_axis(self, indices, axis=dim)",
    "masked_scatter.default": "paddle.masked_scatter(self, mask, source)",
    "index_fill.int_Scalar": "paddle.index_fill(self, index, dim, value)",
    "index_copy.default": "paddle.index_add(paddle.index_fill(self, index, dim, 0), index, dim, source)",
    "isin.Tensor_Tensor": "paddle.isin(elements, test_elements)",
    # new tensors
    "eye.m": typed("paddle.eye(n, m, dtype=dtype)"),
    "scalar_tensor.default": typed("paddle.full([], s, dtype=dtype)"),
    "tril_indices.default": "paddle.tril_indices(row, col, offset)",
    "triu_indices.default": "paddle.triu_indices(row, col, offset)",
    "hann_window.default": _window(0.5),
    "hann_window.periodic": _window(0.5),
    "hamming_window.default": _window(0.54),
    "hamming_window.periodic": _window(0.54),
    # losses
    "triplet_margin_loss.default": _triplet,
    "margin_ranking_loss.default": loss("F.relu(-target * (input1 - input2) + margin)"),
    "soft_margin_loss.default": loss("F.softplus(-target * self)"),
    "hinge_embedding_loss.default": loss("paddle.where(target == 1, self, F.relu(margin - self))"),
    "poisson_nll_loss.default": _poisson,
}
"""Operator of torch, with its overload -> rule."""
