"""Run two trainings in lockstep and measure how far they separate and where the separation begins.

``align_training`` records whole trainings and finds causes. This module only measures and records nothing, so it takes
any model and any number of steps. It uses both frameworks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from alignment.engine.borrowed import PORT, REFERENCE, PaddleLayer, TorchModule, borrow
from alignment.engine.judging.error import Difference, compare
from alignment.engine.judging.limits import BITS, MARGIN
from alignment.engine.judging.rows import tensor_row
from alignment.engine.records.layout import laid_out
from alignment.engine.records.run import AVERAGE, BUFFER, LOSS, OUTPUT, PARAMETER, RATE, WHOLE, Key, Step
from alignment.engine.records.store import Budget, Store
from alignment.engine.result import Result, Row, Skipped
from alignment.engine.sides.paddle.optimizers import optimizer_attributes_restored
from alignment.engine.sides.paddle.steps import PaddleTraining
from alignment.engine.sides.torch.borrow import copied
from alignment.engine.sides.torch.steps import TorchTraining
from alignment.engine.sides.training import Batch, Recipe
from alignment.engine.training_pairs import pair_tensors

Progress = Callable[[str], None]

LIMITS = {RATE: 2.0**-50, LOSS: 1e-9, PARAMETER: 1e-8, BUFFER: 1e-8, AVERAGE: 1e-8}
"""Allowed relative errors in float64.

A rate may differ by some roundings, the rest by what rounding may grow into within some twenty steps. One constant in
float32 is 6e-8.
"""

# Two disturbances of one size, in different elements, grow into different separations: the port's was at most 2.6 times
# what the reference's measures (13 trainings, of a small network and of dla46x_c, SGD and AdamW, learning rates from
# 0.001 to 1). The factor is twice that, rounded up to a power of two.
GROWTH = 2.0**3

CHAOTIC = 2.0**-7
"""If float32 separates torch's outputs from its own by more, a training in float32 cannot be judged any more."""

RECORDED = frozenset({OUTPUT, LOSS, PARAMETER, BUFFER, AVERAGE})


@dataclass
class _Judge:
    """The limits that rounding explains: the largest of each kind so far, measured by the reference's second run."""

    dtype: str
    worst: dict[str, float] = field(default_factory=dict)

    def see(self, exact: Step, again: Step) -> None:
        for key in exact.arrays:
            # reversed samples give an output with reversed rows
            if key[0] != OUTPUT or self.dtype == "float32":
                found = compare(exact.arrays[key], again.arrays[key]).relative
                self.worst[key[0]] = max(self.worst.get(key[0], 0.0), found)

    def limits(self, kind: str) -> tuple[float, float]:
        """Return the floor and the limit of a kind of tensor."""
        floor = max(2.0 ** -BITS[self.dtype], self.worst.get(kind, 0.0))
        return floor, LIMITS[kind] if self.dtype == "float64" else MARGIN["float32"] * floor

    @property
    def chaotic(self) -> str:
        """The reason why two correct trainings need not agree any more; empty if they must."""
        if self.dtype == "float32":
            far = self.worst.get(OUTPUT, 0.0) > CHAOTIC
            return "rounding in float32 alone separates torch from itself by more than a percent" if far else ""
        far = any(spread * GROWTH > LIMITS[kind] for kind, spread in self.worst.items() if kind in LIMITS)
        return "torch's own float64 rounding, with the samples in another order, grows to the limits" if far else ""


def lockstep(
    title: str,
    torch_module: TorchModule,
    paddle_layer: PaddleLayer,
    batches: Sequence[Batch],
    ours: Recipe,
    theirs: Recipe,
    dtype: str = "float64",
    max_memory: int = 256 * 2**20,
    progress: Progress = lambda line: None,
) -> Result:
    """Train both models on the same ``batches``, torch in float64 and Paddle in ``dtype``, and compare every step.

    The rows are the learning rate and the loss of every step, and every parameter, statistic and averaged tensor after
    the last step. If one of these departs earlier, the comparison ends with the tensors of that step. It also ends when
    rounding alone has separated torch from itself. A second torch run measures that: with ``dtype="float64"`` it
    reverses the samples of each batch, which changes only the order of sums; with ``dtype="float32"`` it runs in
    float32. Both models are returned as they came.
    """
    result = Result(title, dtype)
    with borrow(torch_module, paddle_layer, "train") as models:
        layout = pair_tensors(models).layout
        result.facts = dict(models.notes)
        attributes = optimizer_attributes_restored(paddle_layer)
        with REFERENCE.in_type(torch_module, "float64"), attributes, PORT.in_type(paddle_layer, dtype):
            again = copied(torch_module, dtype)
            runs = [
                (TorchTraining(torch_module, ours), batches),
                (TorchTraining(again, ours), [*map(_reversed, batches)] if dtype == "float64" else batches),
                (PaddleTraining(paddle_layer, theirs, layout), batches),
            ]
            for training, _ in runs:
                training.kinds = RECORDED
            steps = zip(*(training.run(data, lambda: Store(Budget(max_memory))) for training, data in runs))
            _compare(result, steps, len(batches), _Judge(dtype), progress)
    return result


def _reversed(batch: Batch) -> Batch:
    inputs, labels = batch
    return [np.ascontiguousarray(array[::-1]) for array in inputs], np.ascontiguousarray(labels[::-1])


def _compare(
    result: Result, steps: Iterator[tuple[Step, Step, Step]], last: int, judge: _Judge, progress: Progress
) -> None:
    before: list[Row] = []
    for number, (exact, again, port) in enumerate(steps):
        progress(f"step {number} of {last}")
        judge.see(exact, again)
        if judge.chaotic and number > 1:
            result.rows += before
            result.skipped.append(Skipped(f"steps {number} to {last}", "training", "both", judge.chaotic))
            return
        if number:
            result.rows += [*_of_step(number, exact, port, judge)]
        tensors = [*_tensors(number, exact, port, judge)]
        if number == last or not all(row.aligned for row in [*result.rows, *tensors]):
            result.rows += tensors
            return
        before = tensors


def _of_step(number: int, exact: Step, port: Step, judge: _Judge) -> Iterator[Row]:
    """Yield the rows of all parameters' rates and of the loss."""
    names = [*exact.rates]
    rates = [np.array([side.rates.get(name, np.nan) for name in names]) for side in (exact, port)]
    yield _row(number, (RATE, WHOLE[RATE], ""), compare(*rates), rates[0].shape, judge)
    key = (LOSS, WHOLE[LOSS], "")
    yield _row(number, key, compare(exact.arrays[key], port.arrays[key]), (), judge)


def _tensors(number: int, exact: Step, port: Step, judge: _Judge) -> Iterator[Row]:
    for key in exact.arrays:
        if key[0] not in (PARAMETER, BUFFER, AVERAGE):
            continue
        array, other = exact.arrays[key], port.arrays.get(key)
        if other is None:
            yield _row(number, key, Difference(np.inf, np.inf, (), 0), array.shape, judge, "missing in Paddle")
        else:
            yield _row(number, key, compare(array, laid_out(other, array.shape)), array.shape, judge)


def _row(number: int, key: Key, found: Difference, shape: tuple[int, ...], judge: _Judge, note: str = "") -> Row:
    kind, name, _ = key
    direction = f"step {number} {kind}"
    return tensor_row(name, name, kind, number, shape, found, judge.limits(kind), direction=direction, note=note)
