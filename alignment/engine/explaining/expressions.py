"""Find the expression that a container computes of known tensors: sums, products, an activation, a mean. numpy only.

The shortest expressions that give the reference's and the port's tensor are searched; the cause states both. An
expression has no free number, so one that holds in every element is the computation, or indistinguishable from it on
these inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice, permutations, product

import numpy as np

from alignment.engine.explaining.activations import ACTIVATIONS
from alignment.engine.explaining.case import Case, broadcasts

MOST = 8
"""The number of known tensors in expressions; the layer's inputs come first."""
FEW, FEW_OF_MEANS = 16, 3
"""The number of elements on which an expression is tested first, and that of a mean, each of many elements."""
GATES = (
    "sigmoid", "hardsigmoid", "hardsigmoid (slope 0.1666667, Paddle's)", "hardsigmoid (slope 1 / 6 in float32)",
    "tanh", "relu", "gelu", "silu (swish)", "softplus",
)  # fmt: skip
MEANS: dict[str, Callable[..., np.ndarray]] = {"mean": np.mean, "maximum": np.max}


@dataclass(frozen=True)
class Expression:
    """The ``words`` of an expression and its elementwise function of the tensors of these names."""

    words: str
    names: tuple[str, ...]
    function: Callable[..., np.ndarray]


def expression(case: Case) -> str:
    """Test for another expression of the same tensors."""
    if not case.same_shape or case.expected.size < 2:
        return ""
    for shape, reductions in _shapes(case).items():
        operands = dict(islice(_operands(case, shape), MOST))
        choices = [*_expressions([*operands])]
        right = _found(case, case.expected, shape, operands, reductions, choices)
        # prefer the reference's own expression with another reduction over a shorter one
        if right is None:
            continue
        wrong = _found(case, case.actual, shape, operands, reductions, [right[1], *choices])
        if wrong and wrong[0] != right[0]:
            return f"computes {wrong[0]} instead of {right[0]}"
    return ""


def _shapes(case: Case) -> dict[tuple[int, ...], list[tuple[int, ...]]]:
    """Return possible shapes of the value before axes are reduced, with those axes."""
    target = case.expected.shape
    found: dict[tuple[int, ...], list[tuple[int, ...]]] = {target: [()]}
    for array in case.known.values():
        if array.size <= case.expected.size or array.shape in found:
            continue
        choices = ((2, 3), (1, 2), (1,), (2,)) if array.ndim == 4 else ((1,), (2,)) if array.ndim == 3 else ()
        fits = [axes for axes in choices if _without(array.shape, axes) in (target, _squeezed(target))]
        if fits:
            found[array.shape] = fits
    return found


def _without(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Drop axes of length 1 behind the first two, as pools may keep them or not."""
    return (*shape[:2], *(size for size in shape[2:] if size != 1))


def _operands(case: Case, shape: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield known tensors and parameters that broadcast to ``shape``; (B, C) counts as (B, C, 1, 1)."""
    tensors: Mapping[str, np.ndarray] = {**case.known, **case.parameters}
    for name, array in tensors.items():
        if array.ndim == 2 and len(shape) == 4 and array.shape == shape[:2]:
            array = array[:, :, None, None]
        if broadcasts(array, shape) and array.size > 1 and array.dtype.kind == "f":
            yield name, np.broadcast_to(array, shape)


def _found(
    case: Case, side: np.ndarray, shape: tuple[int, ...], operands: Mapping[str, np.ndarray],
    reductions: list[tuple[int, ...]], choices: Sequence[Expression],
) -> tuple[str, Expression] | None:  # fmt: skip
    """Return the first of ``choices`` that gives ``side``, with its reduction in the description."""
    near = case.limit * float(np.abs(side).max())
    for axes in reductions:
        few, goal = _sampled(side, shape, axes, operands)
        for made in choices:
            values = made.function(*(few[name] for name in made.names))
            for kind, reduce in MEANS.items() if axes else (("", None),):
                reduced = reduce(values, tuple(range(1, values.ndim))) if reduce else values
                if not (np.abs(reduced - goal) <= near).all():
                    continue
                whole = made.function(*(operands[name] for name in made.names))
                whole = reduce(whole, axes) if reduce else whole
                if case.same(side.reshape(-1), whole.reshape(-1)):
                    return (f"{kind} over axes {list(axes)} of {made.words}" if kind else made.words), made
    return None


def _sampled(
    side: np.ndarray, shape: tuple[int, ...], axes: tuple[int, ...], operands: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Sample a few elements of ``side``, and the elements of each operand that they depend on: (elements, *axes)."""
    kept = _without(shape, axes)
    flat = np.random.RandomState(0).randint(0, np.prod(kept, dtype=int), FEW_OF_MEANS if axes else FEW)
    places = np.unravel_index(flat, kept)
    few = {name: np.moveaxis(array, axes, range(-len(axes), 0))[places] for name, array in operands.items()}
    return few, side.reshape(kept)[places]


def _expressions(names: list[str]) -> Iterator[Expression]:
    """Yield expressions of up to three tensors, shorter ones first."""
    yield from (Expression(name, (name,), lambda a: a) for name in names)
    sums = [*_sums(names)]
    yield from (Expression(f"{kind}({name})", (name,), f) for name, (kind, f) in product(names, ACTIVATIONS.items()))
    yield from sums
    for one in sums:
        for kind, f in ACTIVATIONS.items() if len(one.names) < 3 else (("relu", ACTIVATIONS["relu"]),):
            yield Expression(f"{kind}({one.words})", one.names, lambda *a, f=f, g=one.function: f(g(*a)))
    for a, b in permutations(names, 2):
        for kind in GATES:
            f = ACTIVATIONS[kind]
            yield Expression(f"{a} * {kind}({b})", (a, b), lambda x, y, f=f: x * f(y))
            yield Expression(f"{a} + {kind}({b})", (a, b), lambda x, y, f=f: x + f(y))
            yield Expression(f"{a} + {a} * {kind}({b})", (a, b), lambda x, y, f=f: x + x * f(y))


def _sums(names: list[str]) -> Iterator[Expression]:
    for a, b in combinations(names, 2):
        yield Expression(f"{a} + {b}", (a, b), lambda x, y: x + y)
        yield Expression(f"{a} * {b}", (a, b), lambda x, y: x * y)
    for a, b in permutations(names, 2):
        yield Expression(f"{a} - {b}", (a, b), lambda x, y: x - y)
        yield Expression(f"{a} + {a} * {b}", (a, b), lambda x, y: x + x * y)
    for a, b, c in combinations(names, 3):
        yield Expression(f"{a} + {b} + {c}", (a, b, c), lambda x, y, z: x + y + z)
    for a, b, c in permutations(names, 3):
        if b < c:
            yield Expression(f"{a} + {b} * {c}", (a, b, c), lambda x, y, z: x + y * z)
