"""Rules for operators: the Paddle expression that computes the same as a torch operator. No framework.

A rule is a template whose names are the operator's arguments, as torch's schema names them, or a function that inspects
the arguments and returns a template. Names of ``parts`` are functions and classes that are copied into the port.

    OPERATORS["relu.default"] = "F.relu(self)"

To add a rule, pass another entry: ``port_model(..., operators={"my_lib.op.default": "paddle.sin(self)"})``.
"""

from __future__ import annotations

import ast
import struct
from collections.abc import Callable, Mapping
from typing import Any

from convert.translate.plain import WORKING, Ref, State, Tensor, Type, open_ended
from convert.translate.sizes import Expression


class Unsupported(ValueError):
    """Raised for a form of an operator that no rule supports; the message states what a rule must do."""


class Arguments:
    """The arguments of one operator, by torch's names; ``set`` adds or replaces a name of the template."""

    def __init__(self, plain: Mapping[str, Any], tensors: Callable[[Ref | State], Tensor], results: list[Tensor]):
        self.plain, self._tensors, self.results = plain, tensors, results
        self.written: dict[str, ast.expr] = {}
        self.replaced: dict[str, Any] = {}
        self.defaults: dict[str, Any] = {}
        self.first_only = False  # the template computes only the first of several results; the others are not supported

    def __getattr__(self, name: str) -> Any:
        try:
            return self.plain[name]
        except KeyError:
            raise AttributeError(name) from None

    def tensor(self, name: str) -> Tensor:
        """Return shape and type of the tensor ``name``. Raises ``Unsupported`` if it is not a tensor."""
        value = self.plain[name]
        if not isinstance(value, (Ref, State)):
            raise Unsupported(f"{name} is not a tensor")
        return self._tensors(value)

    def is_tensor(self, name: str) -> bool:
        """Return whether ``name`` is a tensor."""
        return isinstance(self.plain.get(name), (Ref, State))

    @property
    def result(self) -> Tensor:
        """Shape and type of the operator's first result."""
        return self.results[0]

    def axis(self, name: str = "dim", rank_of: str = "self") -> int:
        """Return the dimension ``name`` as a non-negative number."""
        rank = self.tensor(rank_of).rank
        return self.plain[name] % rank if rank else 0

    def set(self, name: str, value: Any) -> None:
        """Set the meaning of ``name`` in the template: a plain value, or a reference to a tensor."""
        self.replaced[name] = value


Rule = str | Callable[[Arguments], str]
"""A template, or a function that inspects the arguments and returns one."""


def square(value: Any) -> Any:
    """Simplify ``[3, 3]`` to ``3``: the same in every direction."""
    if isinstance(value, (list, tuple)) and value and all(item == value[0] for item in value):
        return value[0]
    return list(value) if isinstance(value, tuple) else value


def options(a: Arguments, **wanted: tuple[str, Any]) -> str:
    """Return keywords: ``paddle_name=(torch's name, Paddle's default)``; a default is left out in the end."""
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
    """Return ``name``, cast to the type of the result if Paddle would refuse to mix the types."""
    if not a.is_tensor(name) or not a.is_tensor("self" if name == "other" else "other"):
        if a.is_tensor(name) and a.tensor(name).dtype != a.result.dtype and not a.result.complex:
            return cast(a, name, a.result.dtype)
        return name
    if a.tensor(name).dtype == a.result.dtype:
        return name
    if a.result.complex:
        return f"to_complex({name})" if not a.tensor(name).complex else name
    return cast(a, name, a.result.dtype)


def cast(a: Arguments, name: str, dtype: str) -> str:
    """Return ``name`` cast to ``dtype``."""
    a.set("cast_dtype", Type(dtype))
    return f"{name}.astype(cast_dtype)"


ORDER = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", WORKING)


def _common(a: Arguments, *names: str) -> list[str]:
    """Cast tensors to the largest of their types, which Paddle does not do by itself between kinds of numbers."""
    types = [a.tensor(name).dtype for name in names]
    largest = max(types, key=ORDER.index)
    return [name if dtype == largest else cast(a, name, largest) for name, dtype in zip(names, types, strict=True)]


def _compared(operator: str) -> Callable[[Arguments], str]:
    def rule(a: Arguments) -> str:
        left, right = _common(a, "self", "other") if a.is_tensor("other") else ("self", "other")
        return f"{left} {operator} {right}"

    return rule


def _of_common_type(function: str, *names: str) -> Callable[[Arguments], str]:
    return lambda a: f"{function}({', '.join(_common(a, *names))})"


def _numbered(a: Arguments) -> list[str]:
    """Return names for the tensors of a list, for use in a template."""
    names = [f"tensor{number}" for number in range(len(a.tensors))]
    a.plain = {**a.plain, **dict(zip(names, a.tensors, strict=True))}
    return names


def _listed(function: str) -> Callable[[Arguments], str]:
    """Return the rule of a ``function`` of a list of tensors, cast to one type."""

    def rule(a: Arguments) -> str:
        names = _numbered(a)
        items = _common(a, *names)
        return f"{function}({'tensors' if items == names else '[' + ', '.join(items) + ']'}, axis=dim)"

    return rule


def _broadcast(a: Arguments) -> str:
    """Avoid ``paddle.broadcast_tensors``, whose backward pass may crash if one of the tensors gets no gradient."""
    a.set("size", list(a.result.shape))
    names = _numbered(a)
    same = (a.tensor(name).shape == a.result.shape for name in names)
    return f"[{', '.join(name if as_it_is else f'{name}.expand(size)' for name, as_it_is in zip(names, same))}]"


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


def _same_padding(a: Arguments) -> Any:
    """Return padding ``"same"`` in numbers: Paddle's own ignores the dilation."""
    weight = a.tensor("weight")
    kernel = [size for size in weight.shape[2:] if isinstance(size, int)]
    if len(kernel) < weight.rank - 2:
        raise Unsupported("padding 'same' for a kernel whose size is not known: pad by numbers")
    dilation = a.dilation if len(a.dilation) == len(kernel) else [*a.dilation] * len(kernel)
    total = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
    if all(size % 2 == 0 for size in total):
        return [size // 2 for size in total]
    return [part for size in total for part in (size // 2, size - size // 2)]


def _conv(function: str, rank: int) -> Callable[[Arguments], str]:
    def rule(a: Arguments) -> str:
        if isinstance(a.padding, str):
            a.plain = {**a.plain, "padding": _same_padding(a) if a.padding == "same" else 0}
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
        raise Unsupported("RMSNorm over several dimensions: write x * rsqrt(mean of its square over them + epsilon)")
    if a.eps is None:
        return "rms_norm(input, weight, epsilon=None)" if a.weight is not None else "rms_norm(input, epsilon=None)"
    return "rms_norm(input, weight, eps)" if a.weight is not None else "rms_norm(input, epsilon=eps)"


def _batch_norm(a: Arguments) -> str:
    if a.running_mean is None:
        if a.weight is None and a.bias is None:
            return "standardized(input, eps)"
        return "batch_standardized(input, weight, bias, eps)"
    a.set("momentum", 1 - a.momentum)
    return (
        "batch_norm(input, running_mean, running_var, weight, bias, training=self_module.training, "
        "momentum=momentum, epsilon=eps)"
    )


def outside(pool: Mapping[str, Any]) -> bool:
    """Return whether the last window of a pool may lie outside of its input: torch omits it, Paddle keeps it."""
    kernel, padding = pool["kernel_size"], pool["padding"]
    sizes = [
        size if isinstance(size, (list, tuple)) else [size] for size in (kernel, pool["stride"] or kernel, padding)
    ]
    rank = max(map(len, sizes))
    full = [list(size) * rank if len(size) == 1 else size for size in sizes]
    return bool(pool["ceil_mode"]) and any(step > size - pad for size, step, pad in zip(*full, strict=True))


def _pool(function: str, spatial: int) -> Callable[[Arguments], str]:
    def rule(a: Arguments) -> str:
        stride = a.stride or a.kernel_size
        if square(a.plain.get("dilation", 1)) not in (1, [1]):
            return _dilated_pool(a, stride, spatial)
        a.set("kernel_size", square(a.kernel_size))
        text = f"{function}(self, kernel_size"
        if stride != a.kernel_size:
            a.set("stride", square(stride))
            text += ", stride=stride"
        text += options(a, padding=("padding", 0), ceil_mode=("ceil_mode", False))
        if outside(a.plain):
            raise Unsupported("ceil_mode with a stride above kernel_size - padding: pad the input instead")
        if a.plain.get("divisor_override") is not None:
            raise Unsupported("a divisor of its own: scale an average pool without padding by area / divisor")
        if "avg" in function and square(a.padding) != 0 and a.count_include_pad:
            text += ", exclusive=False"
        return text + ")"

    return rule


def _dilated_pool(a: Arguments, stride: list[int], spatial: int) -> str:
    if a.ceil_mode or len(a.results) > 1:
        raise Unsupported("a max pool with dilation and ceil_mode, or with indices: pad the input instead")
    for name, value in (("kernel_size", a.kernel_size), ("stride", stride), ("padding", a.padding),
                        ("dilation", a.dilation)):  # fmt: skip
        value = value if isinstance(value, (list, tuple)) else [value]
        a.set(name, list(value) * (spatial if len(value) == 1 else 1))
    return "dilated_max_pool(self, kernel_size, stride, padding, dilation)"


def _adaptive(function: str, kept: str) -> Callable[[Arguments], str]:
    def rule(a: Arguments) -> str:
        size = a.output_size
        if all(value == 1 for value in size):
            a.set("axes", [*range(a.tensor("self").rank - len(size), a.tensor("self").rank)])
            return f"self.{kept}(axis=axes, keepdim=True)"
        size = [None if value == old else value for value, old in zip(size, a.tensor("self").shape[-len(size) :])]
        a.set("output_size", square(size))
        return f"{function}(self, output_size)"

    return rule


def _permute(a: Arguments) -> str:
    rank = len(a.dims)
    a.set("dims", [dim % rank for dim in a.dims])
    return "self.transpose(dims)"


def _transpose(one: str = "dim0", other: str = "dim1") -> Callable[[Arguments], str]:
    def rule(a: Arguments) -> str:
        order = list(range(a.tensor("self").rank))
        first, second = a.axis(one), a.axis(other)
        if first == second:
            return "self"
        order[first], order[second] = order[second], order[first]
        a.set("order", order)
        return "self.T" if len(order) == 2 else "self.transpose(order)"

    return rule


def _indexed(a: Arguments, dim: int, index: ast.expr) -> str:
    a.written["place"] = ast.Tuple([*(ast.Slice() for _ in range(dim)), index], ast.Load()) if dim else index
    return "self[place]"


def _slice(a: Arguments) -> str:
    dim, end = a.axis(), a.end
    start = None if a.start in (None, 0) else a.start
    end = None if open_ended(end) else end
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


def _split_along(a: Arguments, dim: int) -> str:
    a.plain = {**a.plain, "dim": dim}
    return _split(a)


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
    """Return ``shape`` with the size whose expression is the most complex as -1."""
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
        if rank not in (3, 4, 5) or len(pad) != 2 * (rank - 2):
            raise Unsupported(
                f"{mode} padding of {len(pad) // 2} of {rank} dimensions: concatenate slices of the tensor"
            )
        a.set("mode", mode)
        layout = {3: ", data_format='NCL'", 4: "", 5: ", data_format='NCDHW'"}[rank]
        return f"F.pad(self, pad, mode=mode{layout})"
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
    if len(a.tensors) != 2:
        raise Unsupported(f"meshgrid of {len(a.tensors)} tensors with indexing='xy': swap the first two dimensions")
    return "[grid.T for grid in paddle.meshgrid(*tensors)]"


def _nearest(a: Arguments) -> str:
    name = "output_size" if a.plain.get("output_size") is not None else "scale_factors"
    keyword = "" if name == "output_size" else "scale_factor="
    if a.tensor("input").rank == 3:  # Paddle supports it for images only
        a.set(name, [1, *a.plain[name]])
        return f"F.interpolate(input.unsqueeze(2), {keyword}{name}, mode='nearest').squeeze(2)"
    a.set(name, a.plain[name] if name == "output_size" else square(a.plain[name]))
    layout = ", data_format='NCDHW'" if a.tensor("input").rank == 5 else ""
    return f"F.interpolate(input, {keyword}{name}, mode='nearest'{layout})"


def _resized(kernel: str) -> Callable[[Arguments], str]:
    """Return the rule of a resize. Paddle stores the ratio of sizes in float32, which is exact if sizes are doubled."""

    def rule(a: Arguments) -> str:
        corners = ", align_corners=True" if a.align_corners else ""
        resize = "resize_volume" if a.tensor("input").rank == 5 else "resize"
        if a.plain.get("output_size") is not None:
            return f"{resize}(input, output_size, {kernel}{corners})"
        factors = a.scale_factors
        if kernel == "linear" and not corners and len(factors) == 2 and all(factor in (2.0, 4.0) for factor in factors):
            a.set("scale_factors", square(factors))
            return "F.interpolate(input, scale_factor=scale_factors, mode='bilinear', align_corners=False)"
        return f"{resize}(input, None, {kernel}{corners}, factors=scale_factors)"

    return rule


def _antialiased(kernel: str) -> Callable[[Arguments], str]:
    def rule(a: Arguments) -> str:
        if a.align_corners or a.plain.get("output_size") is None:
            raise Unsupported("antialiased resizing with align_corners, or by a factor: give it a size, without")
        return f"resize_antialiased(input, output_size, {kernel})"

    return rule


def _dropout(function: str, more: str = "") -> Callable[[Arguments], str]:
    """Return the rule of a dropout. Modules that draw in training are traced in training, so others never draw."""

    def rule(a: Arguments) -> str:
        taken = "input" if "input" in a.plain else "self"  # in place
        return f"{function}({taken}, p{more}, training=self_module.training)" if a.p and a.train else taken

    return rule


def _gelu(a: Arguments) -> str:
    return "F.gelu(self)" if a.approximate == "none" else "F.gelu(self, approximate=True)"


def _rrelu(a: Arguments) -> str:
    return f"F.rrelu(self, lower, upper, training={'self_module.training' if a.training else False})"


def _attention(a: Arguments) -> str:
    text = "attention(query, key, value"
    if a.is_causal:
        text += ", causal=True"
    if a.attn_mask is not None:
        text += ", mask=attn_mask"
    if a.scale is not None:
        text += ", scale=scale"
    if a.dropout_p:
        text += ", dropout=dropout_p, training=self_module.training"
    if a.enable_gqa:
        queries, keys = a.tensor("query").shape[-3], a.tensor("key").shape[-3]
        if not isinstance(queries, int) or not isinstance(keys, int):
            raise Unsupported("attention with groups of queries, whose number is not known: repeat keys and values")
        a.set("repeats", queries // keys)
        for name in ("key", "value"):
            text = text.replace(name, f"{name}.repeat_interleave(repeats, axis=-3)", 1)
    return text + ")"


def _div_mode(a: Arguments) -> str:
    if a.rounding_mode == "floor":
        return "self // other"
    if a.rounding_mode is None:
        return "self / other"
    if a.tensor("self").floating:
        return "paddle.trunc(self / other)"
    return f"paddle.trunc(self.astype('float64') / other).astype({cast(a, 'self', a.result.dtype)[12:]}"


def _div(a: Arguments) -> str:
    return f"{_promoted(a, 'self')} / {_promoted(a, 'other')}"


def _cumsum(a: Arguments) -> str:
    return f"{_promoted_to_result(a)}.cumsum(axis=dim)"


def _matmul(a: Arguments) -> str:
    """Equalise the ranks: Paddle's product of tensors with, for example, 4 and 3 dimensions has no backward pass."""
    ranks = {name: a.tensor(name).rank for name in ("self", "other")}
    missing = max(ranks.values()) - min(ranks.values())
    if min(ranks.values()) < 3 or not missing:
        return "self @ other"
    a.set("missing", [*range(missing)] if missing > 1 else 0)
    least = min(ranks.values())
    return " @ ".join(f"{name}.unsqueeze(missing)" if rank == least else name for name, rank in ranks.items())


def _diff(a: Arguments) -> str:
    if a.tensor("self").dtype == "bool":
        raise Unsupported("the differences of booleans: write them with logical_xor")
    ends = "".join(f", {name}={name}" for name in ("prepend", "append") if a.is_tensor(name))
    return f"paddle.diff(self{options(a, n=('n', 1), axis=('dim', -1))}{ends})"


def _promoted_to_result(a: Arguments) -> str:
    return "self" if a.tensor("self").dtype == a.result.dtype else cast(a, "self", a.result.dtype)


def _norm_of_order(a: Arguments) -> str:
    kept = ", keepdim=True" if a.keepdim else ""
    order = a.plain.get("ord", a.plain.get("p", 2))
    where = f"axis=dim{kept}" if a.dim not in (None, []) else kept.removeprefix(", ")
    a.set("dim", _axes(a.dim))
    if order is None or order == 2:
        return f"root(self.square().sum({where}))"
    if order == 1:
        return f"self.abs().sum({where})"
    if order == float("inf"):
        return f"self.abs().amax({where})"
    if order <= 0:
        raise Unsupported(f"the norm of order {order}: write it with abs, amin or a sum of comparisons")
    a.set("order", order)
    return f"power(power(self.abs(), order).sum({where}), 1 / order)"


def _norm_of_any(a: Arguments) -> str:
    """Write the norm of vectors or the Frobenius norm of matrices, depending on the dimensions."""
    plain = {"dim": None, "keepdim": False, **a.plain}
    kind = plain.get("ord")
    vectors = (plain["dim"] is not None and len(plain["dim"]) == 1) or a.tensor("self").rank == 1
    if kind not in (None, "fro") and not vectors:
        raise Unsupported(f"the norm of order {kind} of a matrix: write it by its singular values")
    a.plain = {**plain, "ord": None if kind == "fro" else kind}
    return _norm_of_order(a)


def _narrow(a: Arguments) -> str:
    if not (isinstance(a.start, int) and isinstance(a.length, int)):
        raise Unsupported("narrow by what depends on the input: write it as a slice")
    a.plain = {**a.plain, "end": a.start + a.length, "step": 1}
    return _slice(a)


def _variance(spread: str) -> Callable[[Arguments], str]:
    def rule(a: Arguments) -> str:
        correction = a.plain.get("correction", 1)
        unbiased = correction is None or correction == 1
        if "unbiased" in a.plain:
            unbiased = a.unbiased
        elif correction not in (None, 0, 1):
            raise Unsupported(f"a variance with correction {correction}: scale the one without by n / (n - correction)")
        text = "self.var("
        if a.plain.get("dim") is not None:
            a.set("dim", _axes(a.dim))
            text += "axis=dim, "
        text += "" if unbiased else "unbiased=False, "
        text += "keepdim=True" if a.plain.get("keepdim") else ""
        text = text.removesuffix(", ") + ")"
        return f"root({text})" if spread == "std" else text

    return rule


def _moments(spread: str) -> Callable[[Arguments], str]:
    def rule(a: Arguments) -> str:
        correction = a.plain.get("correction", int(a.plain.get("unbiased", True)))
        if correction not in (None, 0, 1):
            raise Unsupported(f"a variance with correction {correction}: scale the one without by n / (n - correction)")
        a.set("dim", _axes(a.plain.get("dim")))
        more = ", unbiased=False" if correction == 0 else ""
        more += ", keepdim=True" if a.keepdim else ""
        return f"moments(self, {spread!r}, dim{more})"

    return rule


def _clamp(a: Arguments) -> str:
    if a.is_tensor("min") or a.is_tensor("max"):
        text = "self" if a.plain.get("min") is None else "paddle.maximum(self, min)"
        return text if a.plain.get("max") is None else f"paddle.minimum({text}, max)"
    low = "min=min" if a.plain.get("min") is not None else ""
    high = "max=max" if a.plain.get("max") is not None else ""
    return f"self.clip({', '.join(part for part in (low, high) if part)})"


def in_float32(number: float) -> bool:
    """Return whether float32 represents ``number`` exactly."""
    return struct.unpack("f", struct.pack("f", number))[0] == number


def _pow(a: Arguments) -> str:
    return "self ** exponent" if in_float32(a.exponent) else "power(self, exponent)"


def _scalar_pow(a: Arguments) -> str:
    dtype = a.tensor("exponent").dtype
    return "self ** exponent" if dtype == a.result.dtype else f"self ** {cast(a, 'exponent', a.result.dtype)}"


def _tensor_pow(a: Arguments) -> str:
    return f"{_promoted(a, 'self')} ** {_promoted(a, 'exponent')}"


def _group_norm(a: Arguments) -> str:
    if a.weight is None or a.tensor("input").rank == 2:
        more = (", weight" if a.weight is not None else "") + (", bias" if a.bias is not None else "")
        return f"group_norm(input, num_groups, eps{more})"
    return "F.group_norm(input, num_groups, epsilon=eps, weight=weight, bias=bias)"


def _recurrent(cell: str, states: str) -> Callable[[Arguments], str]:
    def rule(a: Arguments) -> str:
        if "batch_sizes" in a.plain:
            raise Unsupported("a packed sequence: pad it, and mask what follows each end")
        text = f"recurrent({cell}, input, {states}, params, num_layers, bidirectional, batch_first"
        return text + (", dropout, self_module.training)" if a.dropout else ")")

    return rule


def _step(cell: str, states: str) -> Callable[[Arguments], str]:
    """Return the rule of one step of a recurrent cell."""

    def rule(a: Arguments) -> str:
        biases = ", b_ih, b_hh" if a.b_ih is not None else ""
        return f"{cell}(input, {states}, [w_ih, w_hh{biases}])" + ("" if states == "hx" else "[0]")

    return rule


def _embedding_bag(a: Arguments) -> str:
    if a.include_last_offset or a.padding_idx is not None:
        raise Unsupported("bags with include_last_offset or padding_idx: leave out the last offset, and padding before")
    a.first_only = True
    a.set("mode", ("sum", "mean", "max")[a.mode])
    return "embedding_bag(weight, indices, offsets, mode" + (
        ", per_sample_weights)" if a.per_sample_weights is not None else ")"
    )


def _fourier(name: str) -> Callable[[Arguments], str]:
    """Return the rule of a transform of ``paddle.fft``, whose arguments have other names."""

    def rule(a: Arguments) -> str:
        size, axis = ("n", "axis") if "n" in a.plain else ("s", "axes")
        text = f"paddle.fft.{name}(self"
        if a.plain[size] is not None:
            text += f", {size}={size}"
        if a.dim is not None:
            a.set("dim", list(a.dim) if axis == "axes" else a.dim)
            text += f", {axis}=dim"
        return text + (", norm=norm)" if a.norm not in (None, "backward") else ")")

    return rule


def _shifted(sign: int) -> Callable[[Arguments], str]:
    """Return the rule of ``fftshift`` or its inverse as a roll: ``paddle.fft.ifftshift`` fails for one dimension."""

    def rule(a: Arguments) -> str:
        shape = a.tensor("self").shape
        dims = [dim % len(shape) for dim in (range(len(shape)) if a.dim is None else a.dim)]
        a.set("shifts", [_times(_half(shape[dim]), sign) for dim in dims])
        a.set("dims", dims)
        return "self.roll(shifts, axis=dims)"

    return rule


def _half(size: int | Expression) -> int | Expression:
    return size // 2 if isinstance(size, int) else Expression("floordiv", (size, 2))


def _times(size: int | Expression, sign: int) -> int | Expression:
    if isinstance(size, int):
        return sign * size
    return size if sign == 1 else Expression("mul", (sign, size))


def _index_put(a: Arguments) -> str:
    given = [index for index in a.indices if index is not None]
    axis = len(a.indices) - len(given)
    number = not a.is_tensor("values")
    values = "values"
    if number:
        a.set("dtype", Type(a.result.dtype))
        values = "paddle.full([], values, dtype=dtype)"
    elif a.tensor("values").dtype != a.result.dtype:
        values = cast(a, "values", a.result.dtype)
    if a._tensors(given[0]).dtype == "bool":
        if len(a.indices) > 1 or a.accumulate or not (number or a.tensor("values").shape in ((), (1,))):
            raise Unsupported("several values at a mask: their number depends on the mask; use torch.where")
        a.set("mask", given[0])
        missing = a.result.rank - a._tensors(given[0]).rank
        mask = f"mask.unsqueeze({list(range(-missing, 0))})" if missing else "mask"
        return f"paddle.where({mask}, {values}, self)"
    if any(index is not None for index in a.indices[:axis]):
        raise Unsupported("values at places of dimensions that are not neighbours: transpose the tensor before")
    a.set("given", given)
    a.set("axis", axis)
    if axis == 0:
        return f"paddle.index_put(self, given, {values}{', accumulate=True' if a.accumulate else ''})"
    if a.accumulate:
        raise Unsupported("adding at places of some dimensions: index the dimensions before them too")
    return f"put(self, axis, given, {values})"


def _scatter_reduce(a: Arguments) -> str:
    names = {"sum": "add", "prod": "multiply", "mean": "mean", "amax": "amax", "amin": "amin"}
    if a.reduce not in ("sum", "prod") or not a.include_self:
        raise Unsupported(f"scatter_reduce by {a.reduce}, or without the tensor itself: write it with scatter_add")
    a.set("reduce", names[a.reduce])
    return "paddle.put_along_axis(self, index, src, axis=dim, reduce=reduce, broadcast=False)"


def _middle(a: Arguments) -> str:
    a.set("size", a.tensor("self").shape[a.axis()])
    kept = ", keepdim=True" if a.keepdim else ""
    return f"self.kthvalue((size + 1) // 2, axis=dim{kept})"


def _quantile(a: Arguments) -> str:
    if a.interpolation != "linear":
        raise Unsupported(f"a quantile with interpolation {a.interpolation!r}: sort, and index the place")
    where = "" if a.dim is None else ", axis=dim"
    return f"paddle.quantile(self, q{where}{', keepdim=True' if a.keepdim else ''})"


def _fmod(a: Arguments) -> str:
    if not a.is_tensor("other"):
        a.set("other", abs(a.other))
        return "paddle.sign(self) * (self.abs() % other)"
    return "paddle.sign(self) * (self.abs() % other.abs())"


def _searchsorted(a: Arguments) -> str:
    if a.sorter is not None or a.out_int32:
        raise Unsupported("searchsorted with a sorter, or as int32: gather the sequence before, cast behind")
    right = a.right or a.side == "right"
    return f"paddle.searchsorted(sorted_sequence, self{', right=True' if right else ''})"


def _weight_norm(a: Arguments) -> str:
    rank = a.tensor("v").rank
    if a.dim == -1:
        return "g * (v / root(v.square().sum()))"
    a.set("axes", [axis for axis in range(rank) if axis != a.dim % rank])
    return "g * (v / root(v.square().sum(axis=axes, keepdim=True)))"


def _diag_embed(a: Arguments) -> str:
    if (a.offset, a.dim1, a.dim2) != (0, -2, -1):
        raise Unsupported("diagonals beside the main one, or of other than the last dimensions: transpose or pad")
    a.set("size", a.tensor("self").shape[-1])
    a.set("dtype", Type(a.result.dtype))
    return "self.unsqueeze(-1) * paddle.eye(size, dtype=dtype)"


def _solve(a: Arguments) -> str:
    if not a.left:
        raise Unsupported("solve with left=False: transpose both sides")
    a.first_only = len(a.results) > 1
    return "paddle.linalg.solve(A, B)"


def _pool_with_places(a: Arguments) -> str:
    return _pool("max_pool2d_with_places", 2)(a)


def _pairwise_distance(a: Arguments) -> str:
    a.plain = {**a.plain, "ord": a.p, "dim": [-1]}
    return _norm_of_order(a).replace("self", "(x1 - x2 + eps)")


def _instance_norm(a: Arguments) -> str:
    if a.running_mean is not None:
        raise Unsupported("instance norm with running statistics: take the layer whole, by its class")
    affine = "".join(f", {name}={name}" for name in ("weight", "bias") if a.plain.get(name) is not None)
    return f"F.instance_norm(input{affine}, eps=eps)"


def _where(a: Arguments) -> str:
    left, right = _common(a, "self", "other")
    return f"paddle.where(condition, {left}, {right})"


def _where_number(number: str) -> Callable[[Arguments], str]:
    def rule(a: Arguments) -> str:
        a.set("dtype", Type(a.result.dtype))
        full = f"paddle.full([], {number}, dtype=dtype)"
        left, right = ("self", full) if number == "other" else (full, "other")
        tensor = "self" if number == "other" else "other"
        if a.tensor(tensor).dtype != a.result.dtype:
            raise Unsupported("where of an integer tensor and a real number: cast the tensor")
        return f"paddle.where(condition, {left}, {right})"

    return rule


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


def _extreme(method: str) -> Callable[[Arguments], str]:
    def rule(a: Arguments) -> str:
        kept = ", keepdim=True" if a.keepdim else ""
        return f"{method}_and_index(self, dim{kept})"

    return rule


def _any(method: str) -> Callable[[Arguments], str]:
    def rule(a: Arguments) -> str:
        kept = ", keepdim=True" if a.plain.get("keepdim") else ""
        return f"self.{method}()" if a.plain.get("dim") is None else f"self.{method}(axis=dim{kept})"

    return rule


def _sorted(a: Arguments) -> str:
    more = ", descending=True" if a.descending else ""
    return f"(self.sort(axis=dim{more}), self.argsort(axis=dim{more}))"


def _argsort(a: Arguments) -> str:
    return "self.argsort(axis=dim, descending=True)" if a.descending else "self.argsort(axis=dim)"


def _topk(a: Arguments) -> str:
    return f"self.topk(k, axis=dim{'' if a.largest else ', largest=False'})"


def added(product: str) -> Callable[[Arguments], str]:
    """Return the rule of ``product`` times alpha plus the first tensor times beta."""

    def rule(a: Arguments) -> str:
        first = "self" if a.beta == 1 else "beta * self"
        return f"{first} + ({product})" if a.alpha == 1 else f"{first} + alpha * ({product})"

    return rule


def _softmax(function: str) -> Callable[[Arguments], str]:
    return lambda a: function.replace("self", _promoted_to_result(a))


def _embedding(a: Arguments) -> str:
    if a.padding_idx is None or a.padding_idx < 0:
        return "F.embedding(indices, weight)"
    return "embedding(indices, weight, padding_idx)"


def _moved(a: Arguments) -> str:
    rank = a.tensor("self").rank
    source = [dim % rank for dim in (a.source if isinstance(a.source, list) else [a.source])]
    target = [dim % rank for dim in (a.destination if isinstance(a.destination, list) else [a.destination])]
    order = [dim for dim in range(rank) if dim not in source]
    for place, dim in sorted(zip(target, source, strict=True)):
        order.insert(place, dim)
    a.set("order", order)
    return "self.transpose(order)"


def _last_two_swapped(a: Arguments) -> str:
    a.plain = {**a.plain, "dim0": -2, "dim1": -1}
    return _transpose()(a)


def _grid_sample(a: Arguments) -> str:
    if a.interpolation_mode > 1:
        raise Unsupported("bicubic grid_sample: sum the 16 neighbours with the cubic kernel's weights")
    a.set("mode", ("bilinear", "nearest")[a.interpolation_mode])
    a.set("padding_mode", ("zeros", "border", "reflection")[a.padding_mode])
    return "F.grid_sample(input, grid, mode=mode, padding_mode=padding_mode, align_corners=align_corners)"


def _like(function: str, value: str = "") -> Callable[[Arguments], str]:
    def rule(a: Arguments) -> str:
        if a.tensor("self").dtype == a.result.dtype:
            return f"{function}(self{value})"
        a.set("dtype", Type(a.result.dtype))
        return f"{function}(self{value}, dtype=dtype)"

    return rule


def _fill(a: Arguments) -> str:
    if a.is_tensor("value"):
        return f"paddle.zeros_like(self) + {_promoted(a, 'value')}"
    return "paddle.full_like(self, value)"


def _index_add(a: Arguments) -> str:
    if a.plain.get("alpha", 1) != 1:
        raise Unsupported("index_add with alpha: scale the source")
    return "paddle.index_add(self, index, dim, source)"


def _one_hot(a: Arguments) -> str:
    a.set("cast_dtype", Type("int64"))
    return "F.one_hot(self, num_classes).astype(cast_dtype)"


def typed(text: str) -> Callable[[Arguments], str]:
    """Return the rule ``text``, in which ``dtype`` is the type of the result."""

    def rule(a: Arguments) -> str:
        a.set("dtype", Type(a.result.dtype))
        return text

    return rule


def _adaptive_max(function: str) -> Callable[[Arguments], str]:
    def rule(a: Arguments) -> str:
        size = [None if value == old else value
                for value, old in zip(a.output_size, a.tensor("self").shape[-len(a.output_size) :], strict=True)]
        a.set("output_size", square(size))
        return f"{function}(self, output_size, return_mask=True)"

    return rule


def _elu(a: Arguments) -> str:
    if a.scale != 1 or a.input_scale != 1:
        raise Unsupported("an ELU with scales: multiply its input and output")
    return "elu(self, alpha)"


def _threshold(a: Arguments) -> str:
    a.set("limit", a.threshold)
    return "thresholded(self, limit, value)"


def _unfold(a: Arguments) -> str:
    return "F.unfold(self, kernel_size" + options(
        a, strides=("stride", 1), paddings=("padding", 0), dilations=("dilation", 1)
    ) + ")"  # fmt: skip


def _fold(a: Arguments) -> str:
    return "F.fold(self, output_size, kernel_size" + options(
        a, strides=("stride", 1), paddings=("padding", 0), dilations=("dilation", 1)
    ) + ")"  # fmt: skip


REDUCTIONS = ("none", "mean", "sum")
"""In the order of torch's numbers."""


def loss(elements: str) -> Callable[[Arguments], str]:
    """Return the rule of a loss of each element, followed by its reduction."""

    def rule(a: Arguments) -> str:
        text = elements
        if a.plain.get("weight") is not None:
            text = f"{text} * weight"
        how = REDUCTIONS[a.reduction]
        return text if how == "none" else f"({text}).{how}()"

    return rule


def _kl_div(a: Arguments) -> str:
    return loss("target.exp() * (target - self)" if a.log_target else "xlogy(target, target) - target * self")(a)


def _logits(a: Arguments) -> str:
    positive = ", pos_weight" if a.pos_weight is not None else ""
    return loss(f"binary_cross_entropy_with_logits(self, target{positive})")(a)


def _classes(function: str) -> Callable[[Arguments], str]:
    """Return the rule of a classification loss."""

    def rule(a: Arguments) -> str:
        a.set("reduction", REDUCTIONS[a.reduction])
        text = f"{function}(self, target"
        if a.weight is not None:
            text += ", weight=weight"
        if REDUCTIONS[a.reduction] != "mean":
            text += ", reduction=reduction"
        if a.ignore_index != -100:
            text += ", ignored=ignore_index"
        return text + (", smoothing=label_smoothing)" if a.plain.get("label_smoothing") else ")")

    return rule


def _stft(a: Arguments) -> str:
    if a.plain.get("align_to_window"):
        raise Unsupported("stft with align_to_window: center the input")
    size = a.n_fft
    a.set("step", a.hop_length or size // 4)
    a.set("width", a.win_length or size)
    a.set("dtype", Type(a.tensor("self").dtype))
    window = "window" if a.window is not None else "paddle.ones([width], dtype=dtype)"
    text = f"stft(self, n_fft, step, {window}" + (", normalized=True" if a.normalized else "")
    text += ", onesided=False)" if a.onesided is False else ")"
    return text if a.result.complex else f"paddle.as_real({text})"


def _elementwise(function: str) -> str:
    return f"paddle.{function}(self)"


OPERATORS: dict[str, Rule] = {
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
    "remainder.Tensor": "self % other",
    "remainder.Scalar": "self % other",
    "rsub.Scalar": "other - self",
    "neg.default": "-self",
    "pow.Tensor_Scalar": _pow,
    "pow.Scalar": _scalar_pow,
    "pow.Tensor_Tensor": _tensor_pow,
    "addcmul.default": lambda a: "self + tensor1 * tensor2" if a.value == 1 else "self + value * tensor1 * tensor2",
    "addcdiv.default": lambda a: "self + tensor1 / tensor2" if a.value == 1 else "self + value * tensor1 / tensor2",
    "lerp.Scalar": "lerp(self, end, weight)",
    "lerp.Tensor": "lerp(self, end, weight)",
    "atan2.default": "paddle.atan2(self, other)",
    "nan_to_num.default": "paddle.nan_to_num(self, nan, posinf, neginf)",
    "hypot.default": "paddle.hypot(self, other)",
    "xlogy.Tensor": "xlogy(self, other)",
    "logaddexp.default": "paddle.logaddexp(self, other)",
    "fmod.Scalar": _fmod,
    "fmod.Tensor": _fmod,
    "exp2.default": "2.0 ** self",
    "erfc.default": "1 - paddle.erf(self)",
    "special_erfc.default": "1 - paddle.erf(self)",
    "logit.default": lambda a: "paddle.logit(self)" if a.eps is None else "paddle.logit(self, eps)",
    "reciprocal.default": "1 / self",
    "square.default": "self.square()",
    "maximum.default": _of_common_type("paddle.maximum", "self", "other"),
    "minimum.default": _of_common_type("paddle.minimum", "self", "other"),
    "max.other": _of_common_type("paddle.maximum", "self", "other"),
    "min.other": _of_common_type("paddle.minimum", "self", "other"),
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
            "isinf",
            "isfinite",
            "log2",
            "log10",
            "tan",
            "asin",
            "acos",
            "sinh",
            "cosh",
            "erfinv",
            "trunc",
            "frac",
            "lgamma",
            "digamma",
            "asinh",
            "acosh",
            "atanh",
            "real",
            "imag",
            "angle",
            "conj",
        )
    },
    "_conj.default": "paddle.conj(self)",
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
    "__and__.Tensor": "self & other",
    "logical_xor.default": "paddle.logical_xor(self, other)",
    "bitwise_xor.Tensor": "self ^ other",
    "__xor__.Tensor": "self ^ other",
    "logical_or.default": "paddle.logical_or(self, other)",
    "bitwise_or.Tensor": "self | other",
    "__or__.Tensor": "self | other",
    "where.self": _where,
    "where.ScalarOther": _where_number("other"),
    "where.ScalarSelf": _where_number("self"),
    "masked_fill.Tensor": "paddle.where(mask, value, self)",
    "masked_fill.Scalar": _masked_fill,
    # activations
    "relu.default": "F.relu(self)",
    "relu6.default": "F.relu6(self)",
    "gelu.default": _gelu,
    "silu.default": "silu(self)",
    "sigmoid.default": "F.sigmoid(self)",
    "hardsigmoid.default": "F.relu6(self + 3) / 6",
    "hardswish.default": "F.hardswish(self)",
    "hardtanh.default": "self.clip(min_val, max_val)",
    "leaky_relu.default": "leaky_relu(self, negative_slope)",
    "elu.default": _elu,
    "celu.default": "celu(self, alpha)",
    "threshold.default": _threshold,
    "softshrink.default": "softshrink(self, lambd)",
    "hardshrink.default": "hardshrink(self, lambd)",
    "rrelu.default": _rrelu,
    "selu.default": "selu(self)",
    "mish.default": "F.mish(self)",
    "softplus.default": "F.softplus(self, beta, threshold)",
    "log_sigmoid.default": "F.log_sigmoid(self)",
    "prelu.default": "F.prelu(self, weight)",
    "softmax.int": _softmax("F.softmax(self, axis=dim)"),
    "log_softmax.int": _softmax("log_softmax(self, dim)"),
    "glu.default": "F.glu(self, axis=dim)",
    # reductions
    "mean.dim": _reduced("mean"),
    "mean.default": _reduced("mean"),
    "sum.dim_IntList": _reduced("sum"),
    "sum.default": _reduced("sum"),
    "amax.default": _reduced("amax"),
    "amin.default": _reduced("amin"),
    "prod.dim_int": _reduced("prod"),
    "prod.default": _reduced("prod"),
    "any.dim": _any("any"),
    "any.default": _any("any"),
    "all.dim": _any("all"),
    "all.default": _any("all"),
    "max.dim": _extreme("max"),
    "min.dim": _extreme("min"),
    "max.default": "self.amax()",
    "min.default": "self.amin()",
    "argmin.default": "self.argmin(axis=dim, keepdim=keepdim)",
    "argmax.default": "self.argmax(axis=dim, keepdim=keepdim)",
    "cumsum.default": _cumsum,
    "diff.default": _diff,
    "cumprod.default": "self.cumprod(dim)",
    "cummax.default": "self.cummax(axis=dim)",
    "cummin.default": "self.cummin(axis=dim)",
    "logcumsumexp.default": "paddle.logcumsumexp(self, axis=dim)",
    "kthvalue.default": lambda a: f"self.kthvalue(k, axis=dim{', keepdim=True' if a.keepdim else ''})",
    "median.dim": _middle,
    "quantile.scalar": _quantile,
    "topk.default": _topk,
    "sort.default": _sorted,
    "argsort.default": _argsort,
    "var.correction": _variance("var"),
    "var.dim": _variance("var"),
    "std.correction": _variance("std"),
    "std.dim": _variance("std"),
    "var_mean.correction": _moments("var"),
    "var_mean.dim": _moments("var"),
    "std_mean.correction": _moments("std"),
    "std_mean.dim": _moments("std"),
    "linalg_vector_norm.default": _norm_of_order,
    "norm.ScalarOpt_dim": _norm_of_order,
    "linalg_norm.default": _norm_of_any,
    "linalg_matrix_norm.str_ord": _norm_of_any,
    "logsumexp.default": _reduced("logsumexp"),
    "cosine_similarity.default": "cosine_similarity(x1, x2, dim, eps)",
    # products
    "linear.default": _linear,
    "matmul.default": _matmul,
    "bmm.default": "self @ mat2",
    "mm.default": "self @ mat2",
    "mv.default": "self @ vec",
    "dot.default": "self @ tensor",
    "vdot.default": "self @ other",
    "block_diag.default": "block_diag(tensors)",
    "outer.default": "paddle.outer(self, vec2)",
    "addmm.default": added("mat1 @ mat2"),
    "baddbmm.default": added("batch1 @ batch2"),
    "bilinear.default": lambda a: f"bilinear(input1, input2, weight{'' if a.bias is None else ', bias'})",
    "cdist.default": "distances(x1, x2, p)",
    "pairwise_distance.default": _pairwise_distance,
    "tensordot.default": "paddle.tensordot(self, other, [dims_self, dims_other])",
    "addmv.default": added("mat @ vec"),
    "linalg_cross.default": "paddle.cross(self, other, axis=dim)",
    "kron.default": "paddle.kron(self, other)",
    "linalg_det.default": "paddle.linalg.det(A)",
    "linalg_inv.default": "paddle.linalg.inv(A)",
    "linalg_solve.default": _solve,
    "linalg_cholesky.default": lambda a: "paddle.linalg.cholesky(self" + (", upper=True)" if a.upper else ")"),
    # losses
    "mse_loss.default": loss("(self - target).square()"),
    "l1_loss.default": loss("(self - target).abs()"),
    "smooth_l1_loss.default": loss("smooth_l1(self - target, beta)"),
    "huber_loss.default": loss("delta * smooth_l1(self - target, delta)"),
    "binary_cross_entropy.default": loss("binary_cross_entropy(self, target)"),
    "binary_cross_entropy_with_logits.default": _logits,
    "kl_div.default": _kl_div,
    "nll_loss_nd.default": _classes("nll_loss"),
    "cross_entropy_loss.default": _classes("cross_entropy"),
    # Fourier transforms and complex numbers
    "stft.default": _stft,
    **{
        f"fft_{name}{kind}.default": _fourier(f"{name}{kind}")
        for kind in ("", "2", "n")
        for name in ("fft", "ifft", "rfft", "irfft")
    },
    "fft_fftshift.default": _shifted(1),
    "fft_ifftshift.default": _shifted(-1),
    "complex.default": "paddle.complex(real, imag)",
    "polar.default": "paddle.complex(abs * paddle.cos(angle), abs * paddle.sin(angle))",
    "view_as_complex.default": "paddle.as_complex(self)",
    "view_as_real.default": "paddle.as_real(self)",
    "einsum.default": "paddle.einsum(equation, *tensors)",
    "scaled_dot_product_attention.default": _attention,
    "conv1d.default": _conv("F.conv1d", 1),
    "conv2d.default": _conv("F.conv2d", 2),
    "conv3d.default": _conv("F.conv3d", 3),
    "conv2d.padding": _conv("F.conv2d", 2),
    "conv1d.padding": _conv("F.conv1d", 1),
    "conv_transpose1d.default": _conv_transpose("F.conv1d_transpose"),
    "conv_transpose2d.input": _conv_transpose("F.conv2d_transpose"),
    "conv_transpose3d.input": _conv_transpose("F.conv3d_transpose"),
    "lstm.input": _recurrent("lstm_cell", "hx"),
    "gru.input": _recurrent("gru_cell", "[hx]"),
    "rnn_tanh.input": _recurrent("rnn_cell", "[hx]"),
    "rnn_relu.input": _recurrent("rnn_relu_cell", "[hx]"),
    "lstm_cell.default": _step("lstm_cell", "hx"),
    "gru_cell.default": _step("gru_cell", "[hx]"),
    "rnn_tanh_cell.default": _step("rnn_cell", "[hx]"),
    "rnn_relu_cell.default": _step("rnn_relu_cell", "[hx]"),
    "embedding_bag.padding_idx": _embedding_bag,
    "embedding.default": _embedding,
    "one_hot.default": _one_hot,
    # normalisation
    "layer_norm.default": _norm,
    "_weight_norm.default": _weight_norm,
    "rms_norm.default": _rms_norm,
    "group_norm.default": _group_norm,
    "instance_norm.default": _instance_norm,
    "batch_norm.default": _batch_norm,
    # pools and resizing
    "max_pool2d.default": _pool("F.max_pool2d", 2),
    "max_pool1d.default": _pool("F.max_pool1d", 1),
    "max_pool3d.default": _pool("F.max_pool3d", 3),
    "avg_pool3d.default": _pool("F.avg_pool3d", 3),
    "avg_pool2d.default": _pool("F.avg_pool2d", 2),
    "avg_pool1d.default": _pool("F.avg_pool1d", 1),
    "adaptive_avg_pool1d.default": _adaptive("adaptive_avg_pool1d", "mean"),
    "adaptive_avg_pool2d.default": _adaptive("adaptive_avg_pool2d", "mean"),
    "adaptive_avg_pool3d.default": _adaptive("adaptive_avg_pool3d", "mean"),
    "adaptive_max_pool1d.default": _adaptive_max("F.adaptive_max_pool1d"),
    "adaptive_max_pool2d.default": _adaptive_max("F.adaptive_max_pool2d"),
    "adaptive_max_pool3d.default": _adaptive_max("F.adaptive_max_pool3d"),
    "max_pool2d_with_indices.default": _pool_with_places,
    "max_unpool2d.default": "max_unpool2d(self, indices, output_size)",
    "upsample_nearest1d.vec": _nearest,
    "upsample_nearest2d.vec": _nearest,
    "upsample_nearest3d.vec": _nearest,
    "upsample_trilinear3d.vec": _resized("linear"),
    "upsample_linear1d.vec": _resized("linear"),
    "upsample_bilinear2d.vec": _resized("linear"),
    "upsample_bicubic2d.vec": _resized("cubic"),
    "_upsample_bicubic2d_aa.vec": _antialiased("keys"),
    "_upsample_bilinear2d_aa.vec": _antialiased("linear"),
    "grid_sampler.default": _grid_sample,
    "affine_grid_generator.default": "F.affine_grid(theta, size, align_corners=align_corners)",
    "channel_shuffle.default": "F.channel_shuffle(self, groups)",
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
    "transpose.int": _transpose(),
    "swapaxes.default": _transpose("axis0", "axis1"),
    "swapdims.default": _transpose(),
    "t.default": "self.T",
    "numpy_T.default": "self.T",
    "mT.default": _last_two_swapped,
    "movedim.int": _moved,
    "moveaxis.int": _moved,
    "squeeze.default": "self.squeeze()",
    "squeeze.dim": _squeeze,
    "squeeze.dims": _squeeze,
    "unsqueeze.default": "self.unsqueeze(axis=dim)",
    "expand.default": _expand,
    "expand_as.default": lambda a: _expand_as(a),
    "broadcast_tensors.default": _broadcast,
    "repeat.default": _repeat,
    "tile.default": lambda a: "self.tile(dims)",
    "repeat_interleave.self_int": "self.repeat_interleave(repeats, axis=dim)",
    "cat.default": _listed("paddle.concat"),
    "stack.default": _listed("paddle.stack"),
    "chunk.default": _split,
    "split.Tensor": _split,
    "tensor_split.sections": _split,
    "tensor_split.indices": _split,
    "hsplit.int": lambda a: _split_along(a, 0 if a.tensor("self").rank == 1 else 1),
    "vsplit.int": lambda a: _split_along(a, 0),
    "split_with_sizes.default": _split_sizes,
    "unbind.int": "self.unbind(axis=dim)",
    "slice.Tensor": _slice,
    "narrow.default": _narrow,
    "select.int": _select,
    "index.Tensor": _index,
    "index_select.default": "self.index_select(index, axis=dim)",
    "gather.default": "paddle.take_along_axis(self, index, axis=dim, broadcast=False)",
    "scatter.src": "paddle.put_along_axis(self, index, src, axis=dim, broadcast=False)",
    "scatter.value": "paddle.put_along_axis(self, index, value, axis=dim, broadcast=False)",
    "scatter_add.default": "paddle.put_along_axis(self, index, src, axis=dim, reduce='add', broadcast=False)",
    "scatter_reduce.two": _scatter_reduce,
    "index_put.default": _index_put,
    "index_add.default": _index_add,
    "roll.default": _roll,
    "flip.default": "self.flip(axis=dims)",
    "rot90.default": "paddle.rot90(self, k, dims)",
    "trace.default": "self.diagonal().sum()",
    "diag_embed.default": _diag_embed,
    "diagonal.default": "self.diagonal(offset, dim1, dim2)",
    "pad.default": _pad,
    "constant_pad_nd.default": _pad,
    "unfold.default": "windows(self, dimension, size, step)",
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
    "linspace.default": typed("paddle.linspace(start, end, steps, dtype=dtype)"),
    "logspace.default": typed("base ** paddle.linspace(start, end, steps, dtype=dtype)"),
    "rand.default": typed("paddle.rand(size, dtype=dtype)"),
    "randn.default": typed("paddle.randn(size, dtype=dtype)"),
    "rand_like.default": typed("paddle.rand(self.shape, dtype=dtype)"),
    "randn_like.default": typed("paddle.randn(self.shape, dtype=dtype)"),
    "exponential.default": typed("-paddle.log(1 - paddle.rand(self.shape, dtype=dtype)) / lambd"),
    "bernoulli.default": typed("(paddle.rand(self.shape, dtype=dtype) < self).astype(dtype)"),
    "bernoulli.float": typed("(paddle.rand(self.shape, dtype=dtype) < p).astype(dtype)"),
    "bernoulli.p": typed("(paddle.rand(self.shape, dtype=dtype) < p).astype(dtype)"),
    # uninitialised in torch
    "empty.memory_format": typed("paddle.zeros(size, dtype=dtype)"),
    "new_empty.default": typed("paddle.zeros(size, dtype=dtype)"),
    "empty_like.default": _like("paddle.zeros_like"),
    "eye.default": typed("paddle.eye(n, dtype=dtype)"),
    "full.default": _full,
    "new_full.default": _full,
    "zeros_like.default": _like("paddle.zeros_like"),
    "ones_like.default": _like("paddle.ones_like"),
    "full_like.default": _like("paddle.full_like", ", fill_value"),
    "zero.default": "paddle.zeros_like(self)",
    "fill.Scalar": _fill,
    "fill.Tensor": _fill,
    "meshgrid.indexing": _meshgrid,
    "meshgrid.default": _meshgrid,
    "searchsorted.Tensor": _searchsorted,
    "bucketize.Tensor": "paddle.bucketize(self, boundaries, right=right)",
    "to.dtype": _cast,
    "to.device": _cast,
    "to.dtype_layout": _cast,
    "to.other": _cast,
    "_to_copy.default": _cast,
    "type_as.default": _cast,
    # no operation in Paddle
    "contiguous.default": _same,
    "clone.default": _same,
    "lift_fresh_copy.default": _same,
    "dropout.default": _dropout("F.dropout"),
    "feature_dropout.default": _dropout("F.dropout", ", axis=[0, 1]"),
    "alpha_dropout.default": _dropout("F.alpha_dropout"),
    "feature_alpha_dropout.default": _dropout("F.feature_alpha_dropout"),
    "detach.default": _detach,
    "detach_.default": _detach,
}
"""Operator of torch, with its overload -> rule."""


def _expand_as(a: Arguments) -> str:
    a.plain = {**a.plain, "size": list(a.result.shape)}
    return _expand(a)


def functional(name: str) -> str:
    """Return the name of the functional form: ``relu_.default`` as ``relu.default``."""
    base, _, overload = name.partition(".")
    return f"{base.rstrip('_')}.{overload}" if base.endswith("_") and not base.endswith("__") else name
