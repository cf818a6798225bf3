"""The moving average of a model during training: timm 1.0.31 ``ModelEmaV3`` (``timm/utils/model_ema.py``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_dla.errors import WrongValue
from paddle_dla.models.grouping import STATISTICS


class ModelEma:
    """Moving averages of all parameters and, as in timm, of BatchNorm's statistics, under the names of ``model``.

    After update number ``step``, counted from 1, ``update(model, step)`` computes ``average += (1 - d) * (weight -
    average)``, with d from ``decay_at``. In the first ``update_after_step + 1`` steps the average is a copy of the
    weights. With ``exclude_buffers``, statistics are copied instead of averaged. timm's ``device``, ``dtype`` and its
    rounding of bfloat16 are left out: averages have the type of the weights, which here is never less than float32.

    The object keeps no counter. The caller passes ``step``, so a resumed run needs only the averages.
    """

    def __init__(
        self,
        model: nn.Layer,
        decay: float = 0.9999,
        *,
        min_decay: float = 0.0,
        update_after_step: int = 0,
        use_warmup: bool = False,
        warmup_gamma: float = 1.0,
        warmup_power: float = 2 / 3,
        exclude_buffers: bool = False,
    ):
        """Start with the weights of ``model``. Raises ``ValueError`` for invalid settings."""
        if not 0 <= min_decay <= decay < 1:
            raise WrongValue(f"0 <= min_decay <= decay < 1 is required, not {min_decay} and {decay}")
        if update_after_step < 0 or not warmup_gamma > 0 or not warmup_power > 0:
            given = f"{update_after_step}, {warmup_gamma} and {warmup_power}"
            raise WrongValue(f"update_after_step is not negative, warmup_gamma and warmup_power above 0; not {given}")
        self.decay, self.min_decay, self.update_after_step = decay, min_decay, update_after_step
        self.use_warmup, self.warmup_gamma, self.warmup_power = use_warmup, warmup_gamma, warmup_power
        self.exclude_buffers = exclude_buffers
        self._averages = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def decay_at(self, step: int | None = None) -> float:
        """Return the decay of the average after update ``step``, or ``decay`` itself if no step is given.

        With ``use_warmup``: ``1 - (1 + t / gamma) ** -power``, at most ``decay`` and at least ``min_decay``, where t
        counts from the first averaged step. Power 2/3 suits long trainings, 3/4 shorter ones.
        """
        if step is None:
            return self.decay
        t = max(0, step - self.update_after_step - 1)
        if t == 0:
            return 0.0
        if not self.use_warmup:
            return self.decay
        return max(min(1 - (1 + t / self.warmup_gamma) ** -self.warmup_power, self.decay), self.min_decay)

    @paddle.no_grad()
    def update(self, model: nn.Layer, step: int | None = None) -> None:
        """Update the averages with the weights of ``model``; call it after an optimizer update."""
        decay = self.decay_at(step)
        weights: dict[paddle.dtype, Tensor] = {}
        for name, tensor in model.state_dict().items():
            average = self._averages[name]
            if decay == 0 or not tensor.is_floating_point() or (self.exclude_buffers and name.endswith(STATISTICS)):
                paddle.assign(tensor, average)
                continue
            if tensor.dtype not in weights:
                weights[tensor.dtype] = paddle.full([], 1 - decay, tensor.dtype)
            average.lerp_(tensor, weights[tensor.dtype])

    def set(self, model: nn.Layer) -> None:
        """Start again with the weights of ``model``."""
        self.set_state_dict(model.state_dict())

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averages by name, as ``set_state_dict`` of a model takes them. The tensors are not copied."""
        return dict(self._averages)

    def set_state_dict(self, state_dict: Mapping[str, Tensor | np.ndarray]) -> None:
        """Load averages from tensors or arrays.

        Raises ``ValueError``, and changes nothing, if a name is missing or unknown, or if a shape or type differs.
        """
        given = {name: np.asarray(value) for name, value in state_dict.items()}
        wrong = sorted(given.keys() ^ self._averages.keys())
        if wrong:
            raise WrongValue(f"these averages are of another model: {', '.join(wrong[:10])} on one side only")
        for name, average in self._averages.items():
            found, own = given[name], average.numpy()
            if (found.shape, found.dtype) != (own.shape, own.dtype):
                raise WrongValue(f"{name}: {found.shape} {found.dtype} instead of {own.shape} {own.dtype}")
        for name, average in self._averages.items():
            average.set_value(given[name])

    @contextmanager
    def applied(self, model: nn.Layer) -> Iterator[None]:
        """Within the block, ``model`` holds the averages as weights. Afterwards its own are restored bit for bit."""
        own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        _put(self._averages, model)
        try:
            yield
        finally:
            _put(own, model)


@paddle.no_grad()
def _put(tensors: Mapping[str, Tensor], model: nn.Layer) -> None:
    for name, tensor in model.state_dict().items():
        paddle.assign(tensors[name], tensor)
