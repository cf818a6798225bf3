"""Compare a port with its reference as both are used: in float32, without gradients, in other batches, and twice.

A trace is one path through the reference, and a proof in float64 compares along that path. The reference may take
another path for other types (``if x.dtype == torch.float32``), without gradients (``torch.is_grad_enabled()``), for a
batch of one image, which ``torch.export`` treats specially, or in its next call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convert.porting.arguments import Arguments, called, each, named
from paddle_dla.errors import words_of

Outputs = dict[tuple[Any, ...], np.ndarray]
"""Tensors and plain values by their path of keys and positions."""
SAFETY = 64
"""Limit in units of the difference between the port's float32 and float64 outputs.

torch's kernels round differently, by up to 4 times as much.
"""
LEAST = 2.0**-16
"""Smallest limit, relative to the largest value, for outputs where the port's float32 happens to be exact.

torch's is not exact there. Another path changes more than this.
"""

PLAIN = (bool, int, float, complex, str)
"""Types of values other than tensors that a model may return, such as sizes."""
WIDE = {"f": np.float64, "c": np.complex128}
FEW = 2.0**-10
"""Share of integers and booleans that torch's own rounding may change."""


@dataclass(frozen=True)
class Use:
    """One call of both models with ``batch`` samples; ``what`` describes it in messages."""

    batch: int
    what: str


def other_use(reference: Any, port: Any, inputs: Arguments, batches: Sequence[int] = ()) -> str:
    """Describe the first use in which ``port`` and ``reference`` differ; empty if they agree in all.

    Both have the same weights, in float32. ``inputs`` are arrays whose first axis is the batch. ``batches`` are batch
    sizes to try in addition to 1 and one more than given. A batch that the reference itself refuses is skipped.
    """
    before = _remembered(reference)
    for use in _uses(inputs, batches):
        arrays = _batch(inputs, use.batch)
        theirs = _torch(reference, arrays)
        if theirs is None:
            continue
        found = _compared(theirs, port, arrays)
        if found:
            return f"{use.what}, the port differs from its reference: {found}{_by_gradients(reference, port, arrays)}"
        now = _remembered(reference)
        if use.what == AGAIN and (counted := [name for name, value in now.items() if before.get(name) != value]):
            return f"the reference keeps state between calls: {counted[0]} became {now[counted[0]]!r}"
        before = now
    return ""


AGAIN = "called twice with the same images"


def _uses(inputs: Arguments, batches: Sequence[int]) -> Iterator[Use]:
    """Yield the traced batch, the same again, and other batches if all inputs have the same batch size."""
    arrays = [*named(inputs).values()]
    given = len(arrays[0]) if arrays and arrays[0].ndim else 1
    yield Use(given, "in float32 and without gradients")
    yield Use(given, AGAIN)
    if all(array.ndim and len(array) == given for array in arrays):
        for count in (1, given + 1, *batches):
            yield Use(count, f"in a batch of {count}")


def _batch(inputs: Arguments, count: int) -> Arguments:
    """Return ``count`` samples of ``inputs``; they are repeated if there are fewer."""

    def taken(array: np.ndarray) -> np.ndarray:
        return array[np.arange(count) % len(array)] if array.ndim and len(array) != count else array

    return each(inputs, taken)


def _by_gradients(reference: Any, port: Any, inputs: Arguments) -> str:
    """Return an explanation if the reference agrees with the port only when gradients are enabled; otherwise empty."""
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
    """Return the reference's outputs, with ``gradients`` enabled or not; ``None`` if it raises for this batch."""
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
    """Return the tensors and plain values of nested ``outputs`` by path; ``side`` is that of their framework."""
    from alignment.engine.records.tree import paths

    found = paths(outputs, lambda value: side.is_tensor(value) or isinstance(value, PLAIN))
    return {path: side.to_numpy(leaf) if side.is_tensor(leaf) else np.asarray(leaf) for path, leaf in found}


def _compared(theirs: Outputs, port: Any, inputs: Arguments) -> str:
    """Describe how the outputs differ; empty if rounding explains the difference."""
    try:
        single, double = (_paddle(port, inputs, dtype) for dtype in ("float32", "float64"))
    except Exception as error:  # noqa: BLE001 - the port may raise anything
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
        return "different values are not finite"
    theirs, single, double = (array[finite].astype(WIDE[theirs.dtype.kind]) for array in (theirs, single, double))
    if not theirs.size:
        return ""
    rounding = np.abs(single - double).max()
    allowed = max(SAFETY * rounding, least * np.abs(theirs).max())
    error = np.abs(theirs - single).max()
    return "" if error <= allowed else f"outputs differ by {error:.1e}, where {allowed:.1e} would be rounding"


def _difference_of_whole(theirs: np.ndarray, single: np.ndarray, double: np.ndarray) -> str:
    """Like ``_difference``, for integers and booleans: rounding may change a few, e.g. the ``argmax`` of a tie."""
    count, rounded = np.sum(theirs != single), np.sum(single != double)
    allowed = max(SAFETY * rounded, int(FEW * theirs.size))
    return "" if count <= allowed else f"{count} of {theirs.size} elements differ, {allowed} might by rounding"


def _remembered(reference: Any) -> dict[str, Any]:
    """Return the plain numbers and strings that the modules of ``reference`` store, by path; NaN as a string."""
    return {
        f"{path}.{name}".lstrip("."): value if value == value else repr(value)
        for path, module in reference.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, (bool, int, float, str))
    }
