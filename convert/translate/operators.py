"""One rule an operator: how Paddle writes what torch's operator computes. No framework.

A rule is a template, in which the names are the operator's arguments as torch's schema names them, or a function that
looks at the arguments and returns one. Names of ``parts`` are functions and classes that are copied into the port.

    OPERATORS["relu.default"] = "F.relu(self)"

A rule of one's own is one more entry: ``port_model(..., operators={"my_lib.op.default": "paddle.sin(self)"})``.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

from convert.translate.plain import WORKING, Ref, State, Tensor, Type
from convert.translate.sizes import Expression
from convert.translate.templates import literal


class Unsupported(ValueError):
    """A form of an operator that no rule serves; the message says what a rule must do."""


class Arguments:
    """The arguments of one operator, by torch's names; ``write`` adds or replaces what a name in the template means."""

    def __init__(self, plain: Mapping[str, Any], tensors: Callable[[Any], Tensor | None], results: list[Tensor]):
        self.plain, self._tensors, self.results = plain, tensors, results
        self.written: dict[str, ast.expr] = {}
        self.replaced: dict[str, Any] = {}
        self.defaults: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        try:
            return self.plain[name]
        except KeyError:
            raise AttributeError(name) from None

    def tensor(self, name: str) -> Tensor:
        """Shape and type of the tensor that ``name`` is."""
        found = self._tensors(self.plain[name])
        if found is None:
            raise Unsupported(f"{name} is no tensor")
        return found

    def is_tensor(self, name: str) -> bool:
        """Whether ``name`` is one."""
        return isinstance(self.plain.get(name), (Ref, State))

    @property
    def result(self) -> Tensor:
        """Shape and type of what the operator returns."""
        return self.results[0]

    def axis(self, name: str = "dim", rank_of: str = "self") -> int:
        """A dimension, counted from the front."""
        rank = self.tensor(rank_of).rank
        return self.plain[name] % rank if rank else 0

    def set(self, name: str, value: Any) -> None:
        """``name`` in the template means ``value``: a plain value, or a reference to a tensor."""
        self.replaced[name] = value


Rule = "str | Callable[[Arguments], str]"


def square(value: Any) -> Any:
    """``[3, 3]`` as ``3``: the same in every direction."""
    if isinstance(value, (list, tuple)) and value and all(item == value[0] for item in value):
        return value[0]
    return list(value) if isinstance(value, tuple) else value


def options(a: Arguments, **wanted: tuple[str, Any]) -> str:
    """Keywords: ``paddle_name=(torch's name, Paddle's default)``; the default is left out in the end."""
    for keyword, (name, default) in wanted.items():
        a.set(name, square(a.plain.get(name, default)))
        a.defaults[keyword] = default
    return "".join(f", {keyword}={name}" for keyword, (name, _) in wanted.items())


def _binary(operator: str) -> Callable[[Arguments], str]:
    def rule(a: Arguments) -> str:
        left, right = _promoted(a, "self"), _promoted(a, "other")
        if a.plain.get("alpha", 1) != 1:
            right = f"alpha * {right}"
        return f"{left} {operator} {right}"

    return rule


def _promoted(a: Arguments, name: str) -> str:
    """``name`` cast to the type of the result where Paddle would refuse to mix the types."""
    if not a.is_tensor(name) or not a.is_tensor("self" if name == "other" else "other"):
        if a.is_tensor(name) and a.tensor(name).dtype != a.result.dtype:
            return cast(a, name, a.result.dtype)
        return name
    if a.tensor(name).dtype == a.result.dtype:
        return name
    return cast(a, name, a.result.dtype)


def cast(a: Arguments, name: str, dtype: str) -> str:
    """``name`` as ``dtype``."""
    a.set("cast_dtype", Type(dtype))
    return f"{name}.astype(cast_dtype)"


def _compared(operator: str) -> Callable[[Arguments], str]:
    return lambda a: f"self {operator} other"


def _reduced(method: str) -> Callable[[Arguments], str]:
    def rule(a: Arguments) -> str:
        kept = ", keepdim=True" if a.plain.get("keepdim") else ""
        if a.plain.get("dim") in (None, []):
            return f"self.{method}()"
        a.set("dim", _axes(a.dim))
        source = "self" if a.plain.get("dtype") is None else cast(a, "self", a.result.dtype)
        return f"{source}.{method}(axis=dim{kept})"

    return rule


def _axes(dim: Any) -> Any:
    return dim[0] if isinstance(dim, list) and len(dim) == 1 else dim


def _cast(a: Arguments) -> str:
    wanted = a.result.dtype
    if a.tensor("self").dtype == wanted:
        return "self"
    return cast(a, "self", wanted)


def _conv(function: str, rank: int) -> Callable[[Arguments], str]:
    def rule(a: Arguments) -> str:
        return f"{function}(input, weight, bias" + options(
            a, stride=("stride", 1), padding=("padding", 0), dilation=("dilation", 1), groups=("groups", 1)
        ) + ")"  # fmt: skip

    return rule


def _conv_transpose(function: str) -> Callable[[Arguments], str]:
    def rule(a: Arguments) -> str:
        return f"{function}(input, weight, bias" + options(
            a, stride=("stride", 1), padding=("padding", 0), output_padding=("output_padding", 0),
            groups=("groups", 1), dilation=("dilation", 1),
        ) + ")"  # fmt: skip

    return rule


def _linear(a: Arguments) -> str:
    bias = "" if a.bias is None else ", bias"
    return f"F.linear(input, transposed(weight){bias})"


def _norm(a: Arguments) -> str:
    a.set("normalized_shape", square(a.normalized_shape) if len(a.normalized_shape) == 1 else a.normalized_shape)
    if a.weight is None and a.bias is None:
        return "F.layer_norm(input, normalized_shape, epsilon=eps)"
    return "F.layer_norm(input, normalized_shape, weight, bias, epsilon=eps)"


def _rms_norm(a: Arguments) -> str:
    if len(a.normalized_shape) != 1:
        raise Unsupported("RMSNorm over more than the last dimension")
    if a.eps is None:
        raise Unsupported("RMSNorm whose epsilon is the type's own")
    return "rms_norm(input, weight, eps)" if a.weight is not None else "rms_norm(input, epsilon=eps)"


def _batch_norm(a: Arguments) -> str:
    if a.running_mean is None:
        if a.weight is None and a.bias is None:
            return "standardized(input, eps)"
        return "batch_standardized(input, weight, bias, eps)"
    a.set("momentum", 1 - a.momentum)
    return (
        "F.batch_norm(input, running_mean, running_var, weight, bias, training=self_module.training, "
        "momentum=momentum, epsilon=eps)"
    )


def _pool(function: str, spatial: int) -> Callable[[Arguments], str]:
    def rule(a: Arguments) -> str:
        stride = a.stride or a.kernel_size
        a.set("kernel_size", square(a.kernel_size))
        text = f"{function}(self, kernel_size"
        if stride != a.kernel_size:
            a.set("stride", square(stride))
            text += ", stride=stride"
        text += options(a, padding=("padding", 0), ceil_mode=("ceil_mode", False))
        if square(a.plain.get("dilation", 1)) != 1:
            raise Unsupported("a max pool with dilation")
        if a.plain.get("divisor_override") is not None:
            raise Unsupported("an average pool with a divisor of its own")
        if "avg" in function and square(a.padding) != 0 and a.count_include_pad:
            text += ", exclusive=False"
        return text + ")"

    return rule


def _adaptive(function: str, kept: str) -> Callable[[Arguments], str]:
    def rule(a: Arguments) -> str:
        size = a.output_size
        if all(value == 1 for value in size):
            a.set("axes", [*range(a.tensor("self").rank - len(size), a.tensor("self").rank)])
            return f"self.{kept}(axis=axes, keepdim=True)"
        a.set("output_size", square(size))
        return f"{function}(self, output_size)"

    return rule


def _permute(a: Arguments) -> str:
    rank = len(a.dims)
    a.set("dims", [dim % rank for dim in a.dims])
    return "self.transpose(dims)"


def _transpose(a: Arguments) -> str:
    rank = a.tensor("self").rank
    if rank == 2 and a.dim0 % 2 != a.dim1 % 2:
        return "self.T"
    order = list(range(rank))
    first, second = a.axis("dim0"), a.axis("dim1")
    order[first], order[second] = order[second], order[first]
    a.set("order", order)
    return "self.transpose(order)" if first != second else "self"


def _indexed(a: Arguments, dim: int, index: ast.expr) -> str:
    a.written["place"] = ast.Tuple([*(ast.Slice() for _ in range(dim)), index], ast.Load()) if dim else index
    return "self[place]"


LAST = 2**62
"""torch's ``slice`` ends here or above where it has no end."""


def _slice(a: Arguments) -> str:
    dim, end = a.axis(), a.end
    start = None if a.start in (None, 0) else a.start
    end = None if end is None or (isinstance(end, int) and end >= LAST) else end
    size = a.tensor("self").shape[dim]
    end = None if end == size else end
    if start is None and end is None and a.step == 1:
        return "self"
    for name, value in (("start_", start), ("end_", end), ("step_", None if a.step == 1 else a.step)):
        if value is not None:
            a.set(name, value)
    index = ast.Slice(
        ast.Name("start_") if start is not None else None,
        ast.Name("end_") if end is not None else None,
        ast.Name("step_") if a.step != 1 else None,
    )
    return _indexed(a, dim, index)


def _select(a: Arguments) -> str:
    a.set("index_", a.index)
    return _indexed(a, a.axis(), ast.Name("index_"))


def _index(a: Arguments) -> str:
    items: list[ast.expr] = []
    for number, index in enumerate(a.indices):
        if index is None:
            items.append(ast.Slice())
        else:
            a.set(f"index{number}", index)
            items.append(ast.Name(f"index{number}"))
    a.written["place"] = items[0] if len(items) == 1 else ast.Tuple(items, ast.Load())
    return "self[place]"


def _split(a: Arguments) -> str:
    sizes = [result.shape[a.axis()] for result in a.results]
    a.set("dim", a.axis())
    if len(sizes) > 1 and all(size == sizes[0] for size in sizes):
        a.set("parts", len(sizes))
        return "self.split(parts, axis=dim)"
    a.set("parts", sizes)
    return "self.split(parts, axis=dim)"


def _split_sizes(a: Arguments) -> str:
    a.set("dim", a.axis())
    sizes = a.split_sizes
    if all(size == sizes[0] for size in sizes):
        a.set("split_sizes", len(sizes))
    return "self.split(split_sizes, axis=dim)"


def _flatten(a: Arguments) -> str:
    rank = a.tensor("self").rank
    start, end = a.start_dim % rank, a.end_dim % rank
    if start == end:
        return "self"
    a.set("start_dim", start)
    a.set("end_dim", end)
    return "self.flatten(start_dim)" if end == rank - 1 else "self.flatten(start_dim, end_dim)"


def _reshape(name: str) -> Callable[[Arguments], str]:
    def rule(a: Arguments) -> str:
        a.set(name, shape_written(a.plain[name]))
        return f"self.reshape({name})"

    return rule


def shape_written(shape: list[Any]) -> list[Any]:
    """``shape`` with the one size that is hardest to say as -1."""
    if -1 in shape:
        return shape
    hard = [position for position, size in enumerate(shape) if isinstance(size, Expression) and size.op != "symbol"]
    if not hard:
        hard = [position for position, size in enumerate(shape) if isinstance(size, Expression)][1:]
    if not hard:
        return shape
    longest = max(hard, key=lambda position: (len(str(shape[position])), position))
    return [-1 if position == longest else size for position, size in enumerate(shape)]


def _to_result_shape(a: Arguments) -> str:
    a.set("shape", shape_written(list(a.result.shape)))
    return "self.reshape(shape)"


def _expand(a: Arguments) -> str:
    source, target = a.tensor("self"), a.size
    offset = len(target) - source.rank
    if offset == 0 and all(size in (-1, source.shape[i]) for i, size in enumerate(target)):
        return "self"
    a.set("size", [-1 if i >= offset and size == source.shape[i - offset] else size for i, size in enumerate(target)])
    return "self.expand(size)"


def _pad(a: Arguments) -> str:
    pad, rank, mode = a.pad, a.tensor("self").rank, a.plain.get("mode", "constant")
    value = a.plain.get("value") or 0.0
    tail = "" if value == 0 else ", value=value"
    if all(size == 0 for size in pad):
        return "self"
    if mode != "constant":
        if rank != 4 or len(pad) != 4:
            raise Unsupported(f"padding of {len(pad) // 2} dimensions by {mode}")
        a.set("mode", mode)
        return "F.pad(self, pad, mode=mode)"
    if rank == 4 and len(pad) == 4:
        return f"F.pad(self, pad{tail})"
    pairs = [pad[i : i + 2] for i in range(0, len(pad), 2)][::-1]
    pairs = [[0, 0]] * (rank - len(pairs)) + pairs
    a.set("pad", [size for pair in pairs for size in pair])
    return f"F.pad(self, pad{tail})"


def _arange(a: Arguments) -> str:
    a.set("dtype", Type(a.result.dtype))
    start, step = a.plain.get("start", 0), a.plain.get("step", 1)
    if step != 1:
        return "paddle.arange(start, end, step, dtype=dtype)"
    return "paddle.arange(end, dtype=dtype)" if start == 0 else "paddle.arange(start, end, dtype=dtype)"


def _filled(function: str, name: str = "size") -> Callable[[Arguments], str]:
    def rule(a: Arguments) -> str:
        a.set("dtype", Type(a.result.dtype))
        return f"{function}({name}, dtype=dtype)"

    return rule


def _full(a: Arguments) -> str:
    a.set("dtype", Type(a.result.dtype))
    return "paddle.full(size, fill_value, dtype=dtype)"


def _meshgrid(a: Arguments) -> str:
    if a.plain.get("indexing", "ij") == "ij":
        return "paddle.meshgrid(*tensors)"
    raise Unsupported("meshgrid with indexing='xy'")


def _interpolate(mode: str) -> Callable[[Arguments], str]:
    def rule(a: Arguments) -> str:
        aligned = a.plain.get("align_corners")
        tail = f", mode={mode!r}" + (", align_corners=align_corners" if aligned is not None else "")
        if a.plain.get("output_size") is not None:
            size = a.output_size
            return f"F.interpolate(input, output_size{tail})" if size else f"F.interpolate(input{tail})"
        a.set("scale_factors", square(a.scale_factors))
        return f"F.interpolate(input, scale_factor=scale_factors{tail})"

    return rule


def _antialiased(a: Arguments) -> str:
    if a.align_corners or a.plain.get("output_size") is None:
        raise Unsupported("antialiased resizing with align_corners, or by a factor")
    return "resize_antialiased(input, output_size, cubic)" if "input" in a.plain else ""


def _dropout(name: str = "input") -> Callable[[Arguments], str]:
    return lambda a: name if not a.p else f"F.dropout({name}, p, training=self_module.training)"


def _gelu(a: Arguments) -> str:
    return "F.gelu(self)" if a.approximate == "none" else "F.gelu(self, approximate=True)"


def _attention(a: Arguments) -> str:
    text = "attention(query, key, value"
    if a.is_causal:
        text += ", causal=True"
    if a.attn_mask is not None:
        text += ", mask=attn_mask"
    if a.scale is not None:
        text += ", scale=scale"
    if a.enable_gqa:
        raise Unsupported("attention with groups of queries")
    return text + ")"


def _div_mode(a: Arguments) -> str:
    if a.rounding_mode == "floor":
        return "self // other"
    if a.rounding_mode is None:
        return "self / other"
    raise Unsupported(f"division rounded by {a.rounding_mode}")


def _div(a: Arguments) -> str:
    return f"{_promoted(a, 'self')} / {_promoted(a, 'other')}"


def _cumsum(a: Arguments) -> str:
    return f"{_promoted_to_result(a)}.cumsum(axis=dim)"


def _promoted_to_result(a: Arguments) -> str:
    return "self" if a.tensor("self").dtype == a.result.dtype else cast(a, "self", a.result.dtype)


def _norm_2(a: Arguments) -> str:
    kept = ", keepdim=True" if a.keepdim else ""
    if a.plain.get("ord", 2) != 2:
        raise Unsupported(f"the norm of order {a.ord}")
    if a.dim is None:
        return "self.square().sum().sqrt()"
    a.set("dim", _axes(a.dim))
    return f"self.square().sum(axis=dim{kept}).sqrt()"


def _variance(method: str) -> Callable[[Arguments], str]:
    def rule(a: Arguments) -> str:
        correction = a.plain.get("correction", 1)
        unbiased = correction is None or correction == 1
        if "unbiased" in a.plain:
            unbiased = a.unbiased
        elif correction not in (None, 0, 1):
            raise Unsupported(f"a variance with correction {correction}")
        text = f"self.{method}("
        if a.plain.get("dim") is not None:
            a.set("dim", _axes(a.dim))
            text += "axis=dim, "
        text += "" if unbiased else "unbiased=False, "
        text += "keepdim=True" if a.plain.get("keepdim") else ""
        return text.removesuffix(", ") + ")"

    return rule


def _clamp(a: Arguments) -> str:
    low = "min=min" if a.plain.get("min") is not None else ""
    high = "max=max" if a.plain.get("max") is not None else ""
    return f"self.clip({', '.join(part for part in (low, high) if part)})"


def _pow(a: Arguments) -> str:
    return "self ** exponent"


def _scalar_pow(a: Arguments) -> str:
    dtype = a.tensor("exponent").dtype
    return "self ** exponent" if dtype == a.result.dtype else f"self ** {cast(a, 'exponent', a.result.dtype)}"


def _group_norm(a: Arguments) -> str:
    return "F.group_norm(input, num_groups, epsilon=eps, weight=weight, bias=bias)"


def _where(a: Arguments) -> str:
    return "paddle.where(condition, self, other)"


def _masked_fill(a: Arguments) -> str:
    a.set("dtype", Type(a.result.dtype))
    return "paddle.where(mask, paddle.full([], value, dtype=dtype), self)"


def _repeat(a: Arguments) -> str:
    return "self.tile(repeats)"


def _squeeze(a: Arguments) -> str:
    a.set("dim", _axes(a.dim))
    return "self.squeeze(axis=dim)"


def _roll(a: Arguments) -> str:
    a.set("shifts", _axes(a.shifts))
    a.set("dims", _axes(a.dims))
    return "self.roll(shifts, axis=dims)"


def _same(a: Arguments) -> str:
    return "self"


def _detach(a: Arguments) -> str:
    return "self.detach()"


def _max_of(a: Arguments) -> str:
    kept = ", keepdim=True" if a.keepdim else ""
    return f"(self.max(axis=dim{kept}), self.argmax(axis=dim{kept}))"


def _unfold(a: Arguments) -> str:
    return "F.unfold(self, kernel_size" + options(
        a, strides=("stride", 1), paddings=("padding", 0), dilations=("dilation", 1)
    ) + ")"  # fmt: skip


def _fold(a: Arguments) -> str:
    return "F.fold(self, output_size, kernel_size" + options(
        a, strides=("stride", 1), paddings=("padding", 0), dilations=("dilation", 1)
    ) + ")"  # fmt: skip


def _elementwise(function: str) -> str:
    return f"paddle.{function}(self)"


OPERATORS: dict[str, Any] = {
    # arithmetic
    "add.Tensor": _binary("+"),
    "add.Scalar": _binary("+"),
    "sub.Tensor": _binary("-"),
    "mul.Tensor": _binary("*"),
    "mul.Scalar": _binary("*"),
    "div.Tensor": _div,
    "div.Scalar": _div,
    "div.Tensor_mode": _div_mode,
    "floor_divide.default": "self // other",
    "remainder.Scalar": "self % other",
    "rsub.Scalar": "other - self",
    "neg.default": "-self",
    "pow.Tensor_Scalar": _pow,
    "pow.Scalar": _scalar_pow,
    "pow.Tensor_Tensor": "self ** exponent",
    "addcmul.default": lambda a: "self + tensor1 * tensor2" if a.value == 1 else "self + value * tensor1 * tensor2",
    "reciprocal.default": "1 / self",
    "square.default": "self.square()",
    "maximum.default": "paddle.maximum(self, other)",
    "minimum.default": "paddle.minimum(self, other)",
    "clamp.default": _clamp,
    "clamp.Tensor": _clamp,
    "clamp_min.default": "self.clip(min=min)",
    "clamp_max.default": "self.clip(max=max)",
    **{
        f"{name}.default": _elementwise(name)
        for name in (
            "exp",
            "log",
            "sqrt",
            "rsqrt",
            "sin",
            "cos",
            "tanh",
            "abs",
            "erf",
            "floor",
            "ceil",
            "round",
            "sign",
            "log1p",
            "expm1",
            "atan",
            "isnan",
        )
    },
    # comparisons and masks
    "eq.Scalar": _compared("=="),
    "eq.Tensor": _compared("=="),
    "ne.Scalar": _compared("!="),
    "ne.Tensor": _compared("!="),
    "lt.Scalar": _compared("<"),
    "lt.Tensor": _compared("<"),
    "le.Scalar": _compared("<="),
    "le.Tensor": _compared("<="),
    "gt.Scalar": _compared(">"),
    "gt.Tensor": _compared(">"),
    "ge.Scalar": _compared(">="),
    "ge.Tensor": _compared(">="),
    "bitwise_not.default": "~self",
    "logical_not.default": "paddle.logical_not(self)",
    "logical_and.default": "paddle.logical_and(self, other)",
    "bitwise_and.Tensor": "self & other",
    "logical_or.default": "paddle.logical_or(self, other)",
    "bitwise_or.Tensor": "self | other",
    "where.self": _where,
    "masked_fill.Scalar": _masked_fill,
    # activations
    "relu.default": "F.relu(self)",
    "relu6.default": "F.relu6(self)",
    "gelu.default": _gelu,
    "silu.default": "F.silu(self)",
    "sigmoid.default": "F.sigmoid(self)",
    "hardsigmoid.default": "F.relu6(self + 3) / 6",
    "hardswish.default": "F.hardswish(self)",
    "hardtanh.default": "self.clip(min_val, max_val)",
    "leaky_relu.default": "leaky_relu(self, negative_slope)",
    "elu.default": "F.elu(self, alpha)",
    "selu.default": "F.selu(self)",
    "mish.default": "F.mish(self)",
    "softplus.default": "F.softplus(self, beta, threshold)",
    "log_sigmoid.default": "F.log_sigmoid(self)",
    "prelu.default": "F.prelu(self, weight)",
    "softmax.int": "F.softmax(self, axis=dim)",
    "log_softmax.int": "F.log_softmax(self, axis=dim)",
    "glu.default": "F.glu(self, axis=dim)",
    # reductions
    "mean.dim": _reduced("mean"),
    "mean.default": _reduced("mean"),
    "sum.dim_IntList": _reduced("sum"),
    "sum.default": _reduced("sum"),
    "amax.default": _reduced("amax"),
    "amin.default": _reduced("amin"),
    "prod.dim_int": _reduced("prod"),
    "max.dim": _max_of,
    "argmax.default": "self.argmax(axis=dim, keepdim=keepdim)",
    "cumsum.default": _cumsum,
    "var.correction": _variance("var"),
    "var.dim": _variance("var"),
    "std.correction": _variance("std"),
    "std.dim": _variance("std"),
    "linalg_vector_norm.default": _norm_2,
    "logsumexp.default": _reduced("logsumexp"),
    # products
    "linear.default": _linear,
    "matmul.default": "self @ other",
    "bmm.default": "self @ mat2",
    "mm.default": "self @ mat2",
    "einsum.default": "paddle.einsum(equation, *tensors)",
    "scaled_dot_product_attention.default": _attention,
    "conv1d.default": _conv("F.conv1d", 1),
    "conv2d.default": _conv("F.conv2d", 2),
    "conv3d.default": _conv("F.conv3d", 3),
    "conv2d.padding": _conv("F.conv2d", 2),
    "conv1d.padding": _conv("F.conv1d", 1),
    "conv_transpose1d.default": _conv_transpose("F.conv1d_transpose"),
    "conv_transpose2d.input": _conv_transpose("F.conv2d_transpose"),
    "embedding.default": "F.embedding(indices, weight)",
    "one_hot.default": "F.one_hot(self, num_classes)",
    # normalisation
    "layer_norm.default": _norm,
    "rms_norm.default": _rms_norm,
    "group_norm.default": _group_norm,
    "batch_norm.default": _batch_norm,
    # pools and resizing
    "max_pool2d.default": _pool("F.max_pool2d", 2),
    "max_pool1d.default": _pool("F.max_pool1d", 1),
    "avg_pool2d.default": _pool("F.avg_pool2d", 2),
    "avg_pool1d.default": _pool("F.avg_pool1d", 1),
    "adaptive_avg_pool1d.default": _adaptive("F.adaptive_avg_pool1d", "mean"),
    "adaptive_avg_pool2d.default": _adaptive("F.adaptive_avg_pool2d", "mean"),
    "adaptive_max_pool2d.default": _adaptive("F.adaptive_max_pool2d", "amax"),
    "upsample_nearest2d.vec": _interpolate("nearest"),
    "upsample_bilinear2d.vec": _interpolate("bilinear"),
    "upsample_bicubic2d.vec": _interpolate("bicubic"),
    "_upsample_bicubic2d_aa.vec": _antialiased,
    "im2col.default": _unfold,
    "col2im.default": _fold,
    "pixel_shuffle.default": "F.pixel_shuffle(self, upscale_factor)",
    "pixel_unshuffle.default": "F.pixel_unshuffle(self, downscale_factor)",
    # shapes
    "reshape.default": _reshape("shape"),
    "view.default": _reshape("size"),
    "_unsafe_view.default": _reshape("size"),
    "reshape_as.default": _to_result_shape,
    "view_as.default": _to_result_shape,
    "unflatten.int": _to_result_shape,
    "flatten.using_ints": _flatten,
    "permute.default": _permute,
    "transpose.int": _transpose,
    "t.default": "self.T",
    "numpy_T.default": "self.T",
    "squeeze.dim": _squeeze,
    "squeeze.dims": _squeeze,
    "unsqueeze.default": "self.unsqueeze(axis=dim)",
    "expand.default": _expand,
    "expand_as.default": lambda a: _expand_as(a),
    "repeat.default": _repeat,
    "tile.default": lambda a: "self.tile(dims)",
    "repeat_interleave.self_int": "self.repeat_interleave(repeats, axis=dim)",
    "cat.default": "paddle.concat(tensors, axis=dim)",
    "stack.default": "paddle.stack(tensors, axis=dim)",
    "chunk.default": _split,
    "split.Tensor": _split,
    "split_with_sizes.default": _split_sizes,
    "unbind.int": "self.unbind(axis=dim)",
    "slice.Tensor": _slice,
    "select.int": _select,
    "index.Tensor": _index,
    "index_select.default": "self.index_select(index, axis=dim)",
    "gather.default": "paddle.take_along_axis(self, index, axis=dim, broadcast=False)",
    "roll.default": _roll,
    "flip.default": "self.flip(axis=dims)",
    "pad.default": _pad,
    "constant_pad_nd.default": _pad,
    "unfold.default": "self.unfold(dimension, size, step)",
    "tril.default": "paddle.tril(self, diagonal)",
    "triu.default": "paddle.triu(self, diagonal)",
    # new tensors and types
    "arange.default": _arange,
    "arange.start": _arange,
    "arange.start_step": _arange,
    "zeros.default": _filled("paddle.zeros"),
    "ones.default": _filled("paddle.ones"),
    "new_zeros.default": _filled("paddle.zeros"),
    "new_ones.default": _filled("paddle.ones"),
    "full.default": _full,
    "zeros_like.default": "paddle.zeros_like(self)",
    "ones_like.default": "paddle.ones_like(self)",
    "full_like.default": "paddle.full_like(self, fill_value)",
    "meshgrid.indexing": _meshgrid,
    "meshgrid.default": _meshgrid,
    "to.dtype": _cast,
    "to.device": _cast,
    "to.dtype_layout": _cast,
    "to.other": _cast,
    "_to_copy.default": _cast,
    "type_as.default": _cast,
    # nothing, in Paddle
    "contiguous.default": _same,
    "clone.default": _same,
    "alias.default": _same,
    "lift_fresh_copy.default": _same,
    "dropout.default": _dropout(),
    "feature_dropout.default": _dropout(),
    "detach.default": _detach,
    "detach_.default": _detach,
}
"""Operator of torch, with its overload -> rule."""


def _expand_as(a: Arguments) -> str:
    a.plain = {**a.plain, "size": list(a.result.shape)}
    return _expand(a)


IN_PLACE = ("_",)


def functional(name: str) -> str:
    """``relu_.default`` as ``relu.default``."""
    base, _, overload = name.partition(".")
    return f"{base.rstrip('_')}.{overload}" if base.endswith("_") and not base.endswith("__") else name


__all__ = ["OPERATORS", "WORKING", "Arguments", "Unsupported", "functional", "literal"]
