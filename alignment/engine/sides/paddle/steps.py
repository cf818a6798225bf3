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
    """One training of ``layer``, recorded under the reference's names in its ``layout``; other tensors are left out."""

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
        """Return the recipe's optimizer; the counters of automatic names are kept."""
        with paddle.utils.unique_name.guard():
            return self.recipe.optimizer(self.model)

    def make_scheduler(self) -> Any:
        """Return the recipe's scheduler, or the one that is the optimizer's rate."""
        own = self.recipe.scheduler
        return optimizers.schedule(self.optimizer) if own is None else own(self.optimizer)

    def cast(self, array: np.ndarray) -> paddle.Tensor:
        """Return a tensor, in the dtype of the layer if it is floating point."""
        return _tensor(array, self.model)

    def float32_settings(self) -> tuple[str, ...]:
        """Return the hyperparameters, by their names in torch, that the optimizer keeps in float32."""
        return optimizers.float32_settings(self.optimizer)

    def inexact(self) -> float:
        """Return the share of its own steps by which the optimizer may be off."""
        return optimizers.inexact(self.optimizer)

    def given(self) -> frozenset[str]:
        """Return the parameters that the optimizer holds."""
        held = {parameter.name for _, parameter in optimizers.held(self.optimizer)}
        return self._reference(name for name, value in self.known.items() if value.name in held)

    def frozen(self) -> frozenset[str]:
        """Return the parameters that are set not to be trained."""
        return self._reference(name for name, value in self.known.items() if value.stop_gradient)

    def _reference(self, names: Iterable[str]) -> frozenset[str]:
        """Return the names in torch of these tensors, or of the tensors that they are a part of."""
        known = {*names}
        return frozenset(name for name, twins in self.layout.names().items() if known & {*twins})

    def changed(self) -> list[str]:
        """Return tensors outside of the layout that are not trained and have still changed."""
        return [name for name, (value, before) in self._others.items() if not np.array_equal(array_of(value), before)]

    def clip_groups(self) -> list[list[str]]:
        """Return parameters by group of the optimizer: Paddle clips each group by its own norm."""
        groups: dict[int, list[str]] = {}
        for number, parameter in optimizers.held(self.optimizer):
            if parameter.name in self._names:
                groups.setdefault(number, []).append(self._names[parameter.name])
        return [sorted(self._reference(names)) for names in groups.values()]

    def as_reference(self, arrays: dict[Key, np.ndarray]) -> dict[Key, np.ndarray]:
        """Convert arrays to the reference's names and layout."""
        apart: dict[tuple[str, str], dict[str, np.ndarray]] = {}
        for (kind, name, role), array in arrays.items():
            apart.setdefault((kind, role), {})[name] = array
        return {
            (kind, name, role): array
            for (kind, role), found in apart.items()
            for name, array in self.layout.carried(found).items()
        }

    def rates_as_reference(self, rates: dict[str, float]) -> dict[str, float]:
        """Rename rates; for several tensors in Paddle the first one's rate counts."""
        found = {name: [rates[twin] for twin in twins if twin in rates] for name, twins in self.layout.names().items()}
        return {name: values[0] for name, values in found.items() if values}

    def trained(self) -> Mapping[str, paddle.Tensor]:
        """Return the tensors of the layout that are not frozen."""
        return {name: value for name, value in self.known.items() if not value.stop_gradient}

    def tensors(self) -> dict[Key, np.ndarray]:
        """Return the current parameters and buffers."""
        found: dict[Key, np.ndarray] = {}
        parameters = _trainable_names(self.model)
        for name, value in self.known.items():
            if value.is_floating_point() or value.is_complex():
                found[PARAMETER if name in parameters else BUFFER, name, ""] = array_of(value)
        return found

    def is_averaged(self, name: str, value: paddle.Tensor) -> bool:
        """Return whether the tensor is in the layout."""
        return name in self.known

    def rates(self) -> dict[str, float]:
        """Return the learning rate of each parameter."""
        return optimizers.rates(self.optimizer, self._names)

    def update(self, number: int) -> dict[Key, np.ndarray]:
        """Run the recipe's clip and the optimizer's step, which may also clip."""
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
        """Store the gradients after the optimizer's own clip."""
        for parameter, grad in pairs:
            if parameter.name in self._names and grad is not None:
                self.clipped[self._names[parameter.name]] = array_of(grad)

    def state(self, rates: Mapping[str, float]) -> dict[Key, np.ndarray]:
        """Return the optimizer's state of each parameter."""
        return optimizers.state(self.optimizer, self._names, rates)

    def clear(self) -> None:
        """Clear gradients as a training loop does, including those that the optimizer does not hold."""
        self.optimizer.clear_grad()
        held = {parameter.name for _, parameter in optimizers.held(self.optimizer)}
        for parameter in self.model.parameters():
            if parameter.name not in held:
                parameter.clear_gradient(False)


def outputs(model: paddle.nn.Layer, inputs: Any) -> dict[str, np.ndarray]:
    """Return the outputs of ``model``, by the keys and positions that lead to each tensor."""
    args, kwargs = as_call(mapped(inputs, is_array, lambda array: _tensor(array, model)))
    with doing(LABEL, 1, "the model"), paddle.no_grad():
        output = model(*args, **kwargs)
    return {path: array_of(value) for path, value in named_leaves(output, is_tensor)}


def keeps_momentum_in_float32(layer: paddle.nn.Layer) -> bool:
    """Return whether ``layer`` updates BatchNorm's statistics by Paddle's kernel, which has a float32 momentum."""
    own = (paddle.nn.layer.norm._BatchNormBase.forward, paddle.nn.BatchNorm.forward)
    return type(layer).forward in own


def _trainable_names(layer: paddle.nn.Layer) -> frozenset[str]:
    """Return the parameters without BatchNorm's statistics, which Paddle counts as such."""
    last = ("_mean", "_variance")
    return frozenset(name for name, _ in layer.named_parameters() if name.rpartition(".")[2] not in last)


def _tensor(array: np.ndarray, layer: paddle.nn.Layer) -> paddle.Tensor:
    tensor = paddle.to_tensor(array)
    dtype = next((p.dtype for p in layer.parameters() if p.is_floating_point()), paddle.float64)
    return tensor.astype(dtype) if tensor.is_floating_point() else tensor
