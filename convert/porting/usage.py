"""A port as it is used, beside its reference: in float32, without gradients, in other batches, and once more.

A trace is one path through the reference, and a proof in float64 compares along that path. A reference may take
another one for other types (``if x.dtype == torch.float32``), without gradients (``torch.is_grad_enabled()``), for a
batch of one image, which ``torch.export`` sets apart, or in its next call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convert.porting.arguments import Arguments, called, each, named
from paddle_dla.errors import words_of

Outputs = dict[tuple[Any, ...], np.ndarray]
"""Tensors and plain values by the keys and positions that lead to them."""
SAFETY = 64
"""Times what the port's own float32 is from its float64: torch's kernels round elsewhere, by up to 4 times as much."""
LEAST = 2.0**-16
"""Of the largest value: where the port's float32 happens to be exact, torch's is not. Another path changes more."""

PLAIN = (bool, int, float, complex, str)
"""Values beside tensors that a model may return, such as sizes."""
WIDE = {"f": np.float64, "c": np.complex128}
FEW = 2.0**-10
"""Of integers and booleans: the share that torch's own rounding may change."""


@dataclass(frozen=True)
class Use:
    """One call of both models, with ``batch`` samples, told as ``what``."""

    batch: int
    what: str


def other_use(reference: Any, port: Any, inputs: Arguments, batches: Sequence[int] = ()) -> str:
    """In which use the ``port`` does not compute what the ``reference`` does, in words; empty where it does in all.

    Both have the same weights, in float32. ``inputs`` are arrays whose first axis is the batch; ``batches`` are sizes
    of it that are tried beside 1 and one more than was given. What the reference itself refuses is no use of it.
    """
    before = _remembered(reference)
    for use in _uses(inputs, batches):
        arrays = _batch(inputs, use.batch)
        theirs = _torch(reference, arrays)
        if theirs is None:
            continue
        found = _compared(theirs, port, arrays)
        if found:
            return f"{use.what}, the port is not its reference: {found}{_by_gradients(reference, port, arrays)}"
        now = _remembered(reference)
        if use.what == AGAIN and (counted := [name for name, value in now.items() if before.get(name) != value]):
            return f"the reference remembers from call to call: {counted[0]} became {now[counted[0]]!r}"
        before = now
    return ""


AGAIN = "called twice with the same images"


def _uses(inputs: Arguments, batches: Sequence[int]) -> Iterator[Use]:
    """As it was traced, twice, and in other batches where all inputs have one batch."""
    arrays = [*named(inputs).values()]
    given = len(arrays[0]) if arrays and arrays[0].ndim else 1
    yield Use(given, "in float32 and without gradients")
    yield Use(given, AGAIN)
    if all(array.ndim and len(array) == given for array in arrays):
        for count in (1, given + 1, *batches):
            yield Use(count, f"in a batch of {count}")


def _batch(inputs: Arguments, count: int) -> Arguments:
    """``count`` samples of ``inputs``, which are repeated where there are fewer."""

    def taken(array: np.ndarray) -> np.ndarray:
        return array[np.arange(count) % len(array)] if array.ndim and len(array) != count else array

    return each(inputs, taken)


def _by_gradients(reference: Any, port: Any, inputs: Arguments) -> str:
    """Words for a reference that computes what the port does, but only where it keeps a graph for gradients."""
    from torch.nn import TransformerEncoder

    with_graph = _torch(reference, inputs, gradients=True)
    if with_graph is None or _compared(with_graph, port, inputs):
        return ""
    modules = reference.named_modules()
    paths = [path for path, module in modules if isinstance(module, TransformerEncoder) and module.use_nested_tensor]
    words = "; the reference itself computes something else without gradients than with them"
    if not paths:
        return words
    where = paths[0] or "(model)"
    advice = f"nn.TransformerEncoder leaves masked positions out then ({where}); give it enable_nested_tensor=False"
    return f"{words}: {advice}"


def _torch(reference: Any, inputs: Arguments, gradients: bool = False) -> Outputs | None:
    """What the reference returns, with a graph for ``gradients`` or without; ``None`` where it takes no such batch."""
    import torch

    from alignment.engine.borrowed import REFERENCE

    with torch.set_grad_enabled(gradients):
        try:
            outputs = called(reference, each(inputs, lambda array: torch.from_numpy(array.copy())))
        except Exception:  # noqa: BLE001 - the module may raise anything
            return None
    return _by_place(outputs, REFERENCE)


def _paddle(port: Any, inputs: Arguments, dtype: str) -> Outputs:
    import paddle

    from alignment.engine.borrowed import PORT

    def tensor(array: np.ndarray) -> Any:
        return paddle.to_tensor(array.astype(dtype) if array.dtype.kind == "f" else array)

    with paddle.no_grad(), PORT.in_type(port, dtype):
        outputs = called(port, each(inputs, tensor))
    return _by_place(outputs, PORT)


def _by_place(outputs: Any, side: Any) -> Outputs:
    """The tensors and plain values of nested ``outputs`` by what leads to each; ``side``: that of their framework."""
    from alignment.engine.records.tree import paths

    found = paths(outputs, lambda value: side.is_tensor(value) or isinstance(value, PLAIN))
    return {path: side.to_numpy(leaf) if side.is_tensor(leaf) else np.asarray(leaf) for path, leaf in found}


def _compared(theirs: Outputs, port: Any, inputs: Arguments) -> str:
    """How the outputs differ, in words; empty where they do not by more than rounding explains."""
    try:
        single, double = (_paddle(port, inputs, dtype) for dtype in ("float32", "float64"))
    except Exception as error:  # noqa: BLE001 - the port is code, too
        return f"it raises {type(error).__name__}: {(words_of(error).splitlines() or [''])[-1]}"
    ours, wanted = ({path: array.shape for path, array in outputs.items()} for outputs in (single, theirs))
    if ours != wanted:
        return f"it returns {_shapes(ours)}, torch {_shapes(wanted)}"
    differing = (_difference(theirs[path], single[path], double[path]) for path in theirs)
    return next(filter(None, differing), "")


def _shapes(outputs: Mapping[tuple[Any, ...], tuple[int, ...]]) -> str:
    return ", ".join(f"{'.'.join(map(str, path))} {shape}".strip() for path, shape in outputs.items()) or "nothing"


def _difference(theirs: np.ndarray, single: np.ndarray, double: np.ndarray) -> str:
    if not theirs.size:
        return ""
    if theirs.dtype.kind not in WIDE:
        return _difference_of_whole(theirs, single, double)
    finite, least = np.isfinite(theirs), max(LEAST, float(np.finfo(theirs.dtype).eps))
    if not np.array_equal(theirs[~finite], single[~finite], equal_nan=True):
        return "other values are not finite"
    theirs, single, double = (array[finite].astype(WIDE[theirs.dtype.kind]) for array in (theirs, single, double))
    if not theirs.size:
        return ""
    rounding = np.abs(single - double).max()
    allowed = max(SAFETY * rounding, least * np.abs(theirs).max())
    error = np.abs(theirs - single).max()
    return "" if error <= allowed else f"outputs differ by {error:.1e}, where {allowed:.1e} would be rounding"


def _difference_of_whole(theirs: np.ndarray, single: np.ndarray, double: np.ndarray) -> str:
    """The same of integers and booleans, of which rounding changes single ones, as an ``argmax`` between two values."""
    count, rounded = np.sum(theirs != single), np.sum(single != double)
    allowed = max(SAFETY * rounded, int(FEW * theirs.size))
    return "" if count <= allowed else f"{count} of {theirs.size} elements differ, {allowed} might by rounding"


def _remembered(reference: Any) -> dict[str, Any]:
    """Plain numbers and texts that the modules of ``reference`` keep beside tensors, by path; NaN as a text."""
    return {
        f"{path}.{name}".lstrip("."): value if value == value else repr(value)
        for path, module in reference.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, (bool, int, float, str))
    }
