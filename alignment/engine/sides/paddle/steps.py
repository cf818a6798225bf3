"""Train a Paddle layer step by step and record what every step did, under the reference's names. Paddle only.

Paddle keeps an optimizer's state, clip and rates in private attributes; this file is the only one that reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle

from alignment.engine.records.run import (
    AVERAGE,
    BUFFER,
    FIRST,
    GIVEN,
    GRADIENT,
    LARGEST,
    LOSS,
    MEAN,
    MOMENTUM,
    NORM,
    OUTPUT,
    PARAMETER,
    POWER_1,
    POWER_2,
    SECOND,
    STATE,
    SUM,
    WHOLE,
    Kept,
    Key,
    Step,
    advance,
    doing,
    global_norm,
    update_average,
)
from alignment.engine.records.store import Store
from alignment.engine.records.tree import as_call, is_array, mapped, named_leaves

SIDE = "Paddle"

ROLES = {
    "velocity": MOMENTUM,
    "momentum": MOMENTUM,
    "moment1": FIRST,
    "moment2": SECOND,
    "moment2_max": LARGEST,
    "mean_square": SECOND,
    "mean_grad": MEAN,
    "moment": SUM,
    "_avg_squared_grad": SECOND,
    "_avg_squared_update": "acc_delta",
}
"""What Paddle's optimizers call their state. Other accumulators keep their own name as their role."""

OWN_ROLES = {("Adamax", "moment"): FIRST, ("Adamax", "inf_norm"): "exp_inf"}
"""Where one kind of optimizer means something else by a name."""

WITH_RATE = {("RMSProp", "momentum")}
"""State that holds steps, the learning rate in them, where torch's holds what the rate is multiplied with."""

POWERS = {"beta1_pow_acc": (POWER_1, "beta1"), "beta2_pow_acc": (POWER_2, "beta2")}

# Hyperparameters, by their names in torch, that a kernel takes as float32 whatever the type of the weights. Seen with
# 3.3.1: with them rounded in torch too, Momentum and AdamW agree with it to 1e-16, Adagrad, Adadelta and RAdam to
# 1e-12; without, to 1e-7 to 1e-12. Rates, and the betas and epsilon of Adam and AdamW, are float64 as the weights are.
FLOAT32_SETTINGS: dict[str, tuple[str, ...]] = {
    "Momentum": ("momentum", "weight_decay"),
    "AdamW": ("weight_decay",),
    "Lamb": ("betas", "eps", "weight_decay"),
    "RMSProp": ("alpha", "momentum", "eps"),
    "Adagrad": ("eps",),
    "Adadelta": ("rho", "eps"),
    "NAdam": ("betas",),
    "RAdam": ("betas",),
    "Adamax": ("betas", "eps"),
}

Batch = tuple[Any, Any]
"""Inputs, as ``as_call`` takes them, and labels: arrays, or lists, tuples and dicts of them."""

CLIP_ADVICE = (
    ". Paddle's ClipGradByNorm has no kernel for float64: pass dtype='float32' to align_training, or clip in grad_clip "
    "by a function of your own. It clips each tensor by its own norm, unlike torch's clip_grad_norm_ and "
    "ClipGradByGlobalNorm, which take the norm of all"
)


@dataclass(frozen=True)
class Recipe:
    """How to train: ``loss(output, labels)``; the others make an object from the layer or from the optimizer.

    ``scheduler`` left out: the ``LRScheduler`` that is the optimizer's learning rate, if it is one. ``clip``
    (of parameters that have a gradient) comes before what the optimizer itself does as its ``grad_clip``.
    """

    loss: Callable[[Any, Any], paddle.Tensor]
    optimizer: Callable[[paddle.nn.Layer], paddle.optimizer.Optimizer]
    scheduler: Callable[[paddle.optimizer.Optimizer], Any] | None = None
    ema: Callable[[paddle.nn.Layer], Any] | None = None
    clip: Callable[[list[paddle.Tensor]], Any] | None = None


class Training:
    """One training of ``layer``. ``names``: ``{name in Paddle: in the reference}``, others are left out.

    Weights of linear layers are recorded as the reference lays them out. ``kinds``: what is recorded of a step;
    everything unless it is set.
    """

    def __init__(self, layer: paddle.nn.Layer, recipe: Recipe, names: Mapping[str, str]):
        layer.clear_gradients()
        self.layer, self.recipe, self.names = layer, recipe, names
        self.kinds: frozenset[str] | None = None
        self.turned = _linear_weights(layer)
        own = {**dict(layer.named_parameters()), **layer.state_dict()}
        self.tensors = {name: value for name, value in own.items() if name in names}
        self.ema = None
        with doing(SIDE, 0, "making the optimizer"), paddle.utils.unique_name.guard():
            self.optimizer = recipe.optimizer(layer)  # the counters of automatic names stay where they are
        self.rates_of = getattr(self.optimizer, "_learning_rate", None)
        with doing(SIDE, 0, "making the scheduler"):
            self.scheduler = self._scheduler()
        if recipe.ema:
            with doing(SIDE, 0, "making the average"):
                self.ema = recipe.ema(layer)
        self.clipped: dict[str, np.ndarray] = {}
        self._clips: list[Any] = []
        self._watch_clip()

    def float32_settings(self) -> tuple[str, ...]:
        """The hyperparameters, by their names in torch, that this optimizer keeps in float32."""
        kinds = type(self.optimizer).__mro__
        return next((FLOAT32_SETTINGS[kind.__name__] for kind in kinds if kind.__name__ in FLOAT32_SETTINGS), ())

    def given(self) -> frozenset[str]:
        """The parameters that the optimizer holds."""
        held = {parameter.name for _, parameter in self._held()}
        return frozenset(self.names[name] for name, value in self.tensors.items() if value.name in held)

    def frozen(self) -> frozenset[str]:
        """The parameters that are set not to be trained."""
        return frozenset(self.names[name] for name, value in self.tensors.items() if value.stop_gradient)

    def clip_groups(self) -> list[list[str]]:
        """Parameters by group of the optimizer: Paddle clips each group by a norm of its own."""
        known = {value.name: self.names[name] for name, value in self.tensors.items()}
        groups: dict[int, list[str]] = {}
        for number, parameter in self._held():
            if parameter.name in known:
                groups.setdefault(number, []).append(known[parameter.name])
        return [*groups.values()]

    def run(self, batches: Sequence[Batch], store: Callable[[], Store]) -> Iterator[Step]:
        """The start, then each step as it was taken; each is kept in what ``store`` returns."""
        yield Step({}, Kept(store(), self._after(), self.kinds))
        for number, batch in enumerate(batches, 1):
            arrays = self._differentiate(number, batch)
            arrays |= self._gradients(GRADIENT)
            rates = self._rates()
            self._update(number)
            arrays |= {(GIVEN, name, ""): array for name, array in self.clipped.items()}
            arrays[NORM, WHOLE[NORM], ""] = global_norm(arrays, GIVEN if self.clipped else GRADIENT)
            arrays |= self._state(rates)
            if self.ema is not None:
                with doing(SIDE, number, "the average"):
                    update_average(self.ema, self.layer, number)
            if self.scheduler is not None:
                with doing(SIDE, number, "the scheduler"):
                    advance(self.scheduler, number)
            arrays |= self._after()
            self._clear()
            yield Step(rates, Kept(store(), arrays, self.kinds))

    def _update(self, number: int) -> None:
        """The recipe's clip and the optimizer's step, which may clip itself."""
        self.clipped = {}
        if self.recipe.clip:
            with doing(SIDE, number, "the clip", self._clip_advice()):
                self.recipe.clip([p for p in self.layer.parameters() if p.grad is not None])
            self.clipped = {name: array for (_, name, _), array in self._gradients(GIVEN).items()}
        with doing(SIDE, number, "the optimizer's step", self._clip_advice()):
            self.optimizer.step()

    def _clip_advice(self) -> str:
        by_norm = [clip for clip in [*self._clips, self.recipe.clip] if isinstance(clip, paddle.nn.ClipGradByNorm)]
        double = any(value.dtype == paddle.float64 for value in self.tensors.values())
        return CLIP_ADVICE if by_norm and double else ""

    def _scheduler(self) -> Any:
        if self.recipe.scheduler is not None:
            return self.recipe.scheduler(self.optimizer)
        return self.rates_of if isinstance(self.rates_of, paddle.optimizer.lr.LRScheduler) else None

    def _held(self) -> Iterator[tuple[int, paddle.Tensor]]:
        """Number of the group and parameter, for all that the optimizer holds."""
        for number, group in enumerate(self.optimizer._param_groups):
            if isinstance(group, dict):
                yield from ((number, parameter) for parameter in group["params"])
            else:
                yield 0, group

    def _watch_clip(self) -> None:
        groups = [group for group in self.optimizer._param_groups if isinstance(group, dict)]
        for group in groups:
            if group.get("grad_clip") is not None:
                group["grad_clip"] = self._watched(group["grad_clip"])
        if self.optimizer._grad_clip is not None:
            self.optimizer._grad_clip = self._watched(self.optimizer._grad_clip)

    def _watched(self, clip: Callable[..., Any]) -> Callable[..., Any]:
        """``clip``, that leaves here what it makes of the gradients."""
        self._clips.append(clip)
        known = {value.name: name for name, value in self.tensors.items()}

        def watched(pairs: Any) -> Any:
            pairs = clip(pairs)
            for parameter, grad in pairs:
                if parameter.name in known and grad is not None:
                    name = known[parameter.name]
                    self.clipped[self.names[name]] = self._array(name, grad)
            return pairs

        return watched

    def _differentiate(self, number: int, batch: Batch) -> dict[Key, np.ndarray]:
        dtype = next((p.dtype for p in self.layer.parameters() if p.is_floating_point()), paddle.float64)
        inputs, labels = (mapped(part, is_array, lambda array: _tensor(array, dtype)) for part in batch)
        args, kwargs = as_call(inputs)
        with doing(SIDE, number, "the model"):
            output = self.layer(*args, **kwargs)
        with doing(SIDE, number, "the loss"):
            loss = self.recipe.loss(output, labels)
            if not isinstance(loss, paddle.Tensor) or loss.size != 1:
                raise ValueError(f"it must return one number, not {_described(loss)}")
        with doing(SIDE, number, "the backward pass"):
            loss.backward()
        found = named_leaves(output, lambda value: isinstance(value, paddle.Tensor))
        outputs = {(OUTPUT, WHOLE[OUTPUT], path): array_of(tensor) for path, tensor in found}
        return {**outputs, (LOSS, WHOLE[LOSS], ""): array_of(loss).reshape(())}

    def _clear(self) -> None:
        """As a training loop does, and what the optimizer does not hold as well."""
        self.optimizer.clear_grad()
        held = {parameter.name for _, parameter in self._held()}
        for parameter in self.layer.parameters():
            if parameter.name not in held:
                parameter.clear_gradient(False)

    def _gradients(self, kind: str) -> dict[Key, np.ndarray]:
        return {
            (kind, self.names[name], ""): self._array(name, value.grad)
            for name, value in self.tensors.items()
            if not value.stop_gradient and value.grad is not None
        }

    def _rates(self) -> dict[str, float]:
        """What the optimizer will use: its rate, times the factor of the parameter's group."""
        rate, known = float(self.optimizer.get_lr()), {value.name: name for name, value in self.tensors.items()}
        rates = {}
        for _, parameter in self._held():
            if parameter.name in known:
                factor = (getattr(parameter, "optimize_attr", None) or {}).get("learning_rate", 1.0)
                rates[self.names[known[parameter.name]]] = rate * float(factor)
        return rates

    def _state(self, rates: Mapping[str, float]) -> dict[Key, np.ndarray]:
        found: dict[Key, np.ndarray] = {}
        known = {value.name: name for name, value in self.tensors.items()}
        for kind, accumulators in self.optimizer._accumulators.items():
            for unique, value in accumulators.items():
                if unique not in known:
                    continue
                name = known[unique]
                if kind in POWERS:
                    role, setting = POWERS[kind]
                    beta = self._beta(unique, setting)
                    # after step t it holds beta to the t + 1
                    found[STATE, self.names[name], role] = value.numpy().reshape(()) / (beta or 1.0)
                    continue
                role = OWN_ROLES.get((type(self.optimizer).__name__, kind), ROLES.get(kind, kind))
                array = self._array(name, value)
                if (type(self.optimizer).__name__, kind) in WITH_RATE:
                    array = array / (rates.get(self.names[name]) or 1.0)
                found[STATE, self.names[name], role] = array
        return found

    def _beta(self, unique: str, setting: str) -> float:
        for number, parameter in self._held():
            group = self.optimizer._param_groups[number]
            if parameter.name == unique and isinstance(group, dict) and setting in group:
                return float(group[setting])
        return float(getattr(self.optimizer, f"_{setting}"))

    def _after(self) -> dict[Key, np.ndarray]:
        found: dict[Key, np.ndarray] = {}
        parameters = _trainable_names(self.layer)
        for name, value in self.tensors.items():
            found[PARAMETER if name in parameters else BUFFER, self.names[name], ""] = self._array(name, value)
        if self.ema is not None:
            for name, value in _average(self.ema).items():
                if name in self.names:
                    found[AVERAGE, self.names[name], ""] = self._array(name, value)
        return found

    def _array(self, name: str, value: paddle.Tensor) -> np.ndarray:
        array = array_of(value)
        return array.T.copy() if name in self.turned else array


@contextmanager
def optimizer_attributes_restored(layer: paddle.nn.Layer) -> Iterator[None]:
    """Leave what an optimizer with groups writes on parameters (decay, factor of the rate) as it was; no gradients."""
    kept = [
        (p, getattr(p, "regularizer", None), dict(getattr(p, "optimize_attr", None) or {}), p.stop_gradient)
        for p in layer.parameters()
    ]
    try:
        yield
    finally:
        for parameter, regularizer, attributes, stopped in kept:
            parameter.regularizer, parameter.optimize_attr = regularizer, attributes
            parameter.stop_gradient = stopped
            parameter.clear_gradient(False)


@contextmanager
def schedule_restored(scheduler: Any) -> Iterator[None]:
    """Leave a learning rate scheduler, which its owner may hold, as it was."""
    kept = dict(vars(scheduler)) if isinstance(scheduler, paddle.optimizer.lr.LRScheduler) else None
    try:
        yield
    finally:
        if kept is not None:
            vars(scheduler).clear()
            vars(scheduler).update(kept)


def keeps_momentum_in_float32(layer: paddle.nn.Layer) -> bool:
    """Whether ``layer`` updates BatchNorm's statistics by Paddle's own kernel, which takes momentum as float32."""
    own = (paddle.nn.layer.norm._BatchNormBase.forward, paddle.nn.BatchNorm.forward)
    return type(layer).forward in own


def _linear_weights(layer: paddle.nn.Layer) -> frozenset[str]:
    named = layer.named_sublayers(include_self=True)
    linear = [path for path, sub in named if isinstance(sub, paddle.nn.Linear)]
    return frozenset(f"{path}.weight" if path else "weight" for path in linear)


def _trainable_names(layer: paddle.nn.Layer) -> frozenset[str]:
    """Parameters, without BatchNorm's statistics, which Paddle counts as such."""
    last = ("_mean", "_variance")
    return frozenset(name for name, _ in layer.named_parameters() if name.rpartition(".")[2] not in last)


def _average(ema: Any) -> Mapping[str, paddle.Tensor]:
    """The averaged weights: of ``ema.module``, else ``ema.state_dict()``."""
    module = getattr(ema, "module", None)
    return (module if isinstance(module, paddle.nn.Layer) else ema).state_dict()


def array_of(tensor: paddle.Tensor) -> np.ndarray:
    """A copy; complex numbers as pairs of real ones, bfloat16 as float32."""
    tensor = paddle.as_real(tensor) if tensor.is_complex() else tensor
    return (tensor.astype("float32") if tensor.dtype == paddle.bfloat16 else tensor).numpy().copy()


def _described(value: Any) -> str:
    return f"a tensor of shape {value.shape}" if isinstance(value, paddle.Tensor) else type(value).__name__


def _tensor(array: np.ndarray, dtype: Any) -> paddle.Tensor:
    tensor = paddle.to_tensor(array)
    return tensor.astype(dtype) if tensor.is_floating_point() else tensor
