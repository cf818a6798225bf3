"""The runs that ``align`` compares: the reference's in float64 and float32, the port's, and where gradients start."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle
import torch
import torch.nn.functional
from threadpoolctl import threadpool_limits

from alignment.engine.borrowed import Borrowed
from alignment.engine.judging.echo import EchoStore
from alignment.engine.judging.noise import NoiseFloor, run_in_both
from alignment.engine.pairing.points import Point
from alignment.engine.records.losses import LOSS
from alignment.engine.records.store import Budget, Store
from alignment.engine.records.tape import Key, Record, Tape
from alignment.engine.records.tree import is_array, leaves, mapped
from alignment.engine.sides.model import LossError
from alignment.engine.sides.paddle import capture as capture_paddle
from alignment.engine.sides.paddle import cut
from alignment.engine.sides.paddle.borrow import paddle_in
from alignment.engine.sides.torch import capture as capture_torch
from alignment.engine.sides.torch.borrow import torch_in
from alignment.engine.sides.torch.constants import Constant, constants_of_paddle

Loss = Callable[..., Any]
"""``(output, *labels) -> number``, in one framework."""

LOSSES: Mapping[str, tuple[Loss, Loss]] = {
    "cross_entropy": (torch.nn.functional.cross_entropy, paddle.nn.functional.cross_entropy),
    "binary_cross_entropy_with_logits": (
        torch.nn.functional.binary_cross_entropy_with_logits,
        paddle.nn.functional.binary_cross_entropy_with_logits,
    ),
    "mse_loss": (torch.nn.functional.mse_loss, paddle.nn.functional.mse_loss),
    "l1_loss": (torch.nn.functional.l1_loss, paddle.nn.functional.l1_loss),
    "smooth_l1_loss": (torch.nn.functional.smooth_l1_loss, paddle.nn.functional.smooth_l1_loss),
}
"""Losses that both frameworks have under one name: in torch and in Paddle, the mean over all elements."""


@dataclass
class Reference:
    """The reference's run, its errors in float32 by the index of the tensor, and the functions that it called of which
    Paddle keeps constants in float32.

    Kept so that several ports can be compared with it.
    Filled by the first ``align`` that it is given to; good for the same module, weights, inputs and options only.
    """

    tape: Tape | None = None
    errors: dict[int, float] = field(default_factory=dict)
    constants: Mapping[str, Constant] = field(default_factory=dict)

    def floor(self, dtype: str) -> NoiseFloor:
        """What rounding explains in ``dtype``."""
        return NoiseFloor(dtype, self.errors)


@dataclass(frozen=True)
class Start:
    """Where gradients start: at the loss, or from a random direction, drawn with ``seed``, at every output."""

    seed: int
    labels: tuple[Any, ...] = ()
    torch_loss: torch.nn.Module | None = None
    paddle_loss: paddle.nn.Layer | None = None

    def in_torch(self, output: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The tensors from which gradients start and those gradients."""
        if self.torch_loss is None:
            return capture_torch.in_random_directions(output, self.seed)
        like = next(leaves(output, lambda v: isinstance(v, torch.Tensor)))
        labels = mapped(self.labels, is_array, lambda a: _cast(torch.from_numpy(np.array(a)), like))
        loss = self.torch_loss(output, *labels)
        _refuse_vector(tuple(loss.shape), loss.numel(), "torch")
        return [loss], [torch.ones_like(loss)]

    def in_paddle(self, output: Any) -> tuple[list[paddle.Tensor], list[paddle.Tensor]]:
        """The same for Paddle."""
        if self.paddle_loss is None:
            return capture_paddle.in_random_directions(output, self.seed)
        like = next(leaves(output, capture_paddle.is_tensor))
        labels = mapped(self.labels, is_array, lambda a: _cast(paddle.to_tensor(a), like))
        loss = self.paddle_loss(output, *labels)
        _refuse_vector(tuple(loss.shape), loss.size, "Paddle")
        return [loss], [paddle.ones_like(loss)]


def start_of(loss: str | tuple[Loss, Loss] | None, labels: Any, seed: int) -> Start:
    """The start that ``align``'s arguments name. Raises ``ValueError`` for a loss of an unknown name."""
    if loss is None and labels is None:
        return Start(seed)
    chosen = "cross_entropy" if loss is None else loss
    if isinstance(chosen, str):
        if chosen not in LOSSES:
            raise ValueError(f"no loss called {chosen!r}; give one of {', '.join(LOSSES)}, or (for torch, for Paddle)")
        chosen = LOSSES[chosen]
    given = () if labels is None else tuple(labels) if isinstance(labels, (list, tuple)) else (labels,)
    for_torch, for_paddle = chosen
    return Start(seed, given, _TorchLoss(for_torch), _PaddleLoss(for_paddle))


@contextmanager
def threads_as_torch() -> Iterator[None]:
    """Within it Paddle computes with as many threads as torch; by itself it takes one."""
    with threadpool_limits(torch.get_num_threads(), user_api="openmp"):
        yield


def give_back_memory() -> None:
    """What an earlier phase freed goes back to the system; glibc keeps it otherwise, and peaks add up."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def run_reference(
    models: Borrowed, inputs: Any, start: Start | None, budget: Budget, progress: Callable[[str], None],
    as_paddle: bool = False,
) -> Reference:  # fmt: skip
    """Run torch in float64, and in float32 for its errors; ``as_paddle`` with the constants of Paddle's kernels."""
    constants = constants_of_paddle(apply=as_paddle)

    def run(dtype: str, store: Store) -> Tape:
        progress(f"torch in {dtype}" + (", for the noise floor" if dtype == "float32" else ""))
        with constants:
            return _torch_run(models, inputs, start, getattr(torch, dtype), store)

    return Reference(*run_in_both(run, budget), constants.used)


def _torch_run(models: Borrowed, inputs: Any, start: Start | None, dtype: torch.dtype, store: Store) -> Tape:
    loss = start.torch_loss if start else None
    with ExitStack() as stack:
        for module in (models.torch_module, loss and loss.function):
            if isinstance(module, torch.nn.Module):
                stack.enter_context(torch_in(module, dtype))
        return capture_torch.capture(models.torch_module, inputs, store, start and start.in_torch, _named(loss))


def run_port(
    models: Borrowed, inputs: Any, start: Start | None, dtype: str, budget: Budget, guide: Mapping[Key, Record],
    reference: Tape, failed: Callable[[Exception], None],
) -> Tape:  # fmt: skip
    """Run Paddle in ``dtype``, in which the model then stays; its buffers are put back.

    Of what the ``reference`` holds already only the difference is kept; ``guide`` holds its calls by the port's.
    """
    loss = start.paddle_loss if start else None
    with paddle_in(models.paddle_layer, dtype):
        return capture_paddle.capture(
            models.paddle_layer,
            inputs,
            EchoStore(reference.store, budget),
            start and start.in_paddle,
            failed,
            _named(loss),
            guide,
        )


def run_torch_again(models: Borrowed, inputs: Any, budget: Budget, as_paddle: bool) -> Tape:
    """torch in float64 once more, forward alone."""
    with constants_of_paddle(apply=as_paddle):
        return _torch_run(models, inputs, None, torch.float64, Store(budget))


def run_paddle_again(models: Borrowed, inputs: Any, budget: Budget) -> Tape:
    """Paddle in float64 once more, forward alone."""
    with paddle_in(models.paddle_layer, "float64"):
        return capture_paddle.capture(models.paddle_layer, inputs, Store(budget), failed=lambda error: None)


def cut_port(
    models: Borrowed, inputs: Any, start: Start | None, tape: Tape, points: Mapping[str, Sequence[Point]],
    judge: cut.Judge,
) -> cut.CutRun:  # fmt: skip
    """Run Paddle in float64 once more, cut at ``points``."""
    loss = start.paddle_loss if start else None
    begin = start.in_paddle if start is not None and loss is not None else None
    with paddle_in(models.paddle_layer, "float64"):
        return cut.run_cut(models.paddle_layer, inputs, tape, points, judge, start is not None, _named(loss), begin)


def _named(loss: Any) -> dict[str, Any]:
    return {} if loss is None else {LOSS: loss}


def _cast(label: Any, like: Any) -> Any:
    """Labels that are numbers in the type of the output; class indices as they are."""
    return label.to(like.dtype) if label.is_floating_point() else label


def _refuse_vector(shape: tuple[int, ...], size: int, framework: str) -> None:
    if size != 1:
        raise LossError(f"the loss must be one number, got shape {list(shape)} in {framework}; take its mean or sum")


class _TorchLoss(torch.nn.Module):
    """A loss as a layer without sublayers, whatever it is made of."""

    def __init__(self, function: Loss):
        super().__init__()
        object.__setattr__(self, "function", function)  # past nn.Module, which would make a module of it a child

    def forward(self, output: Any, *labels: torch.Tensor) -> torch.Tensor:
        return self.function(output, *labels)


class _PaddleLoss(paddle.nn.Layer):
    """A loss as a layer without sublayers, whatever it is made of."""

    def __init__(self, function: Loss):
        super().__init__()
        self.__dict__["function"] = function

    def forward(self, output: Any, *labels: paddle.Tensor) -> paddle.Tensor:
        return self.function(output, *labels)
