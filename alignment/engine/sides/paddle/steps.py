"""Train a Paddle layer step by step and record what every step did, under the reference's names. Paddle only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import paddle

from alignment.engine.pairing.tensors import Layout
from alignment.engine.records.run import BUFFER, GIVEN, PARAMETER, Key, doing
from alignment.engine.records.tree import as_call, is_array, mapped, named_leaves
from alignment.engine.sides.paddle import optimizers
from alignment.engine.sides.paddle.arrays import array_of, is_tensor
from alignment.engine.sides.training import Recipe, Training

LABEL: str = "Paddle"

CLIP_ADVICE = (
    ". Paddle's ClipGradByNorm has no kernel for float64: pass dtype='float32' to align_training, or clip in grad_clip "
    "by a function of your own. It clips each tensor by its own norm, unlike torch's clip_grad_norm_ and "
    "ClipGradByGlobalNorm, which take the norm of all"
)


class PaddleTraining(Training):
    """One training of ``layer``, recorded under the reference's names and in its ``layout``; others are left out."""

    label, model_class, tensor_class = LABEL, paddle.nn.Layer, paddle.Tensor
    array_of = staticmethod(array_of)

    def __init__(self, layer: paddle.nn.Layer, recipe: Recipe, layout: Layout):
        layer.clear_gradients()
        self.layout = layout
        own = {**dict(layer.named_buffers()), **dict(layer.named_parameters()), **layer.state_dict()}
        self.known = {name: own[name] for name in own if name in layout.tensors()}
        self._others = {
            name: (value, array_of(value))
            for name, value in own.items()
            if name not in self.known and value.stop_gradient and value.is_floating_point()
        }
        self._names = {value.name: name for name, value in self.known.items()}
        self.clipped: dict[str, np.ndarray] = {}
        super().__init__(layer, recipe)
        self._clips = optimizers.watch_clips(self.optimizer, self._see_clipped)

    def make_optimizer(self) -> paddle.optimizer.Optimizer:
        """The recipe's optimizer; the counters of automatic names stay where they are."""
        with paddle.utils.unique_name.guard():
            return self.recipe.optimizer(self.model)

    def make_scheduler(self) -> Any:
        """The recipe's scheduler, or the one that the optimizer has as its rate."""
        own = self.recipe.scheduler
        return optimizers.schedule(self.optimizer) if own is None else own(self.optimizer)

    def cast(self, array: np.ndarray) -> paddle.Tensor:
        """A tensor, in the type of the layer where it is floating point."""
        return _tensor(array, self.model)

    def float32_settings(self) -> tuple[str, ...]:
        """The hyperparameters, by their names in torch, that the optimizer keeps in float32."""
        return optimizers.float32_settings(self.optimizer)

    def inexact(self) -> float:
        """The share of its own steps by which the optimizer's may be off."""
        return optimizers.inexact(self.optimizer)

    def given(self) -> frozenset[str]:
        """The parameters that the optimizer holds."""
        held = {parameter.name for _, parameter in optimizers.held(self.optimizer)}
        return self._reference(name for name, value in self.known.items() if value.name in held)

    def frozen(self) -> frozenset[str]:
        """The parameters that are set not to be trained."""
        return self._reference(name for name, value in self.known.items() if value.stop_gradient)

    def _reference(self, names: Iterable[str]) -> frozenset[str]:
        """Names in torch of what these tensors are, or are a part of."""
        known = {*names}
        return frozenset(name for name, twins in self.layout.names().items() if known & {*twins})

    def changed(self) -> list[str]:
        """Tensors outside of the layout that are not trained, and have changed all the same."""
        return [name for name, (value, before) in self._others.items() if not np.array_equal(array_of(value), before)]

    def clip_groups(self) -> list[list[str]]:
        """Parameters by group of the optimizer: Paddle clips each group by a norm of its own."""
        groups: dict[int, list[str]] = {}
        for number, parameter in optimizers.held(self.optimizer):
            if parameter.name in self._names:
                groups.setdefault(number, []).append(self._names[parameter.name])
        return [sorted(self._reference(names)) for names in groups.values()]

    def as_reference(self, arrays: dict[Key, np.ndarray]) -> dict[Key, np.ndarray]:
        """What goes by names in Paddle, under the reference's names and in its layout."""
        apart: dict[tuple[str, str], dict[str, np.ndarray]] = {}
        for (kind, name, role), array in arrays.items():
            apart.setdefault((kind, role), {})[name] = array
        return {
            (kind, name, role): array
            for (kind, role), found in apart.items()
            for name, array in self.layout.carried(found).items()
        }

    def rates_as_reference(self, rates: dict[str, float]) -> dict[str, float]:
        """Of what is several tensors in Paddle the first one's rate."""
        found = {name: [rates[twin] for twin in twins if twin in rates] for name, twins in self.layout.names().items()}
        return {name: values[0] for name, values in found.items() if values}

    def trained(self) -> Mapping[str, paddle.Tensor]:
        """The tensors of the layout that are not frozen."""
        return {name: value for name, value in self.known.items() if not value.stop_gradient}

    def tensors(self) -> dict[Key, np.ndarray]:
        """Parameters and buffers as they are now."""
        found: dict[Key, np.ndarray] = {}
        parameters = _trainable_names(self.model)
        for name, value in self.known.items():
            if value.is_floating_point() or value.is_complex():
                found[PARAMETER if name in parameters else BUFFER, name, ""] = array_of(value)
        return found

    def is_averaged(self, name: str, value: paddle.Tensor) -> bool:
        """Whether it is in the layout."""
        return name in self.known

    def rates(self) -> dict[str, float]:
        """The learning rate of each parameter."""
        return optimizers.rates(self.optimizer, self._names)

    def update(self, number: int) -> dict[Key, np.ndarray]:
        """The recipe's clip and the optimizer's step, which may clip itself."""
        given = self.clip(number, self._clip_advice())
        self.clipped = {name: array for (_, name, _), array in given.items()}
        with doing(LABEL, number, "the optimizer's step", self._clip_advice()):
            self.optimizer.step()
        return {(GIVEN, name, ""): array for name, array in self.clipped.items()}

    def _clip_advice(self) -> str:
        by_norm = [clip for clip in [*self._clips, self.recipe.clip] if isinstance(clip, paddle.nn.ClipGradByNorm)]
        double = any(value.dtype == paddle.float64 for value in self.known.values())
        return CLIP_ADVICE if by_norm and double else ""

    def _see_clipped(self, pairs: Iterable[tuple[paddle.Tensor, paddle.Tensor | None]]) -> None:
        """What a clip of the optimizer's made of the gradients."""
        for parameter, grad in pairs:
            if parameter.name in self._names and grad is not None:
                self.clipped[self._names[parameter.name]] = array_of(grad)

    def state(self, rates: Mapping[str, float]) -> dict[Key, np.ndarray]:
        """What the optimizer keeps of each parameter."""
        return optimizers.state(self.optimizer, self._names, rates)

    def clear(self) -> None:
        """As a training loop does, and what the optimizer does not hold as well."""
        self.optimizer.clear_grad()
        held = {parameter.name for _, parameter in optimizers.held(self.optimizer)}
        for parameter in self.model.parameters():
            if parameter.name not in held:
                parameter.clear_gradient(False)


def outputs(model: paddle.nn.Layer, inputs: Any) -> dict[str, np.ndarray]:
    """What ``model`` returns, by the keys and positions that lead to each tensor."""
    args, kwargs = as_call(mapped(inputs, is_array, lambda array: _tensor(array, model)))
    with doing(LABEL, 1, "the model"), paddle.no_grad():
        output = model(*args, **kwargs)
    return {path: array_of(value) for path, value in named_leaves(output, is_tensor)}


def keeps_momentum_in_float32(layer: paddle.nn.Layer) -> bool:
    """Whether ``layer`` updates BatchNorm's statistics by Paddle's own kernel, which takes momentum as float32."""
    own = (paddle.nn.layer.norm._BatchNormBase.forward, paddle.nn.BatchNorm.forward)
    return type(layer).forward in own


def _trainable_names(layer: paddle.nn.Layer) -> frozenset[str]:
    """Parameters, without BatchNorm's statistics, which Paddle counts as such."""
    last = ("_mean", "_variance")
    return frozenset(name for name, _ in layer.named_parameters() if name.rpartition(".")[2] not in last)


def _tensor(array: np.ndarray, layer: paddle.nn.Layer) -> paddle.Tensor:
    tensor = paddle.to_tensor(array)
    dtype = next((p.dtype for p in layer.parameters() if p.is_floating_point()), paddle.float64)
    return tensor.astype(dtype) if tensor.is_floating_point() else tensor
