"""A torch module translated and run beside its port: outputs and gradients of both, in float64 or float32."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
import torch

from convert.porting.proof import torch_arrays
from convert.translate.float64 import float64_throughout
from convert.translate.translator import Translated, translate
from convert.translate.weights import port_arrays

TYPES = {"float64": torch.float64, "float32": torch.float32}


class Applied(torch.nn.Module):
    """A function of up to five tensors as a module."""

    def __init__(self, function: Callable):
        super().__init__()
        self.function = function

    def forward(self, x, y=None, z=None, w=None, v=None):
        """The function of those tensors that are given."""
        return self.function(*(value for value in (x, y, z, w, v) if value is not None))


class Holder(torch.nn.Module):
    """A module that holds one layer, as a model holds it."""

    def __init__(self, layer: torch.nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        """What the layer returns."""
        return self.layer(x)


@dataclass(frozen=True)
class Run:
    """``outputs``, and the gradients of a weighted sum of them: by position of an input, by name of a parameter."""

    outputs: list[np.ndarray]
    gradients: dict[int | str, np.ndarray]
    buffers: dict[str, np.ndarray]


@dataclass
class Port:
    """A translated module: its ``source`` and the Paddle model that it builds."""

    module: torch.nn.Module
    inputs: tuple[torch.Tensor, ...]
    translated: Translated

    @classmethod
    def of(cls, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], training: bool = True) -> Port:
        """Translate ``module``."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return cls(module, inputs, translate(copy.deepcopy(module).double(), inputs, training=training))

    def operators(self) -> set[str]:
        """The operators that the module uses."""
        return {op.name for op in self.translated.program.root.walk()}

    def model(self, dtype: str) -> paddle.nn.Layer:
        """The Paddle model with the module's weights."""
        names: dict[str, Any] = {}
        exec(compile(self.translated.source, "port.py", "exec"), names)
        paddle.set_default_dtype(dtype)
        try:
            model = names["build_model"]()
        finally:
            paddle.set_default_dtype("float32")
        held = {name: value.detach().cpu().numpy() for name, value in self.module.state_dict().items()}
        unsaved = torch_arrays(self.module)
        held |= {line.torch: unsaved[line.torch] for line in self.translated.key_map if line.torch in unsaved}
        arrays = port_arrays(self.translated.key_map, self.translated.program, held)
        missing, unexpected = model.set_state_dict(
            {name: value.astype(dtype) if value.dtype.kind == "f" else value for name, value in arrays.items()}
        )
        assert not missing and not unexpected, (missing, unexpected)
        return model

    def torch_run(self, dtype: str = "float64", training: bool = False) -> Run:
        """Run the torch module, and its gradients."""
        module = float64_throughout(copy.deepcopy(self.module).to(TYPES[dtype]).train(training))
        inputs = [value.to(TYPES[dtype]) if value.is_floating_point() else value for value in self.inputs]
        inputs = [value.clone().requires_grad_(value.is_floating_point()) for value in inputs]
        outputs = list(flat(module(*(value * 1 if value.is_floating_point() else value for value in inputs))))
        weighted = [(out * torch.from_numpy(weights(out.shape)).to(out.dtype)).sum() for out in outputs
                    if out.is_floating_point() and out.requires_grad]  # fmt: skip
        if weighted:
            sum(weighted).backward()
        gradients = {place: value.grad.numpy() for place, value in enumerate(inputs) if value.grad is not None}
        gradients |= {name: value.grad.numpy() for name, value in module.named_parameters() if value.grad is not None}
        buffers = {name: value.numpy() for name, value in module.named_buffers()}
        return Run([out.detach().numpy() for out in outputs], gradients, buffers)

    def paddle_run(self, dtype: str = "float64", training: bool = False) -> Run:
        """Run the port, and its gradients, under torch's names and in torch's layout."""
        paddle.set_default_dtype(dtype)
        try:
            return self._paddle_run(dtype, training)
        finally:
            paddle.set_default_dtype("float32")

    def _paddle_run(self, dtype: str, training: bool) -> Run:
        model = self.model(dtype)
        model.train() if training else model.eval()
        inputs = []
        for value in self.inputs:
            array = value.detach().numpy()
            tensor = paddle.to_tensor(array.astype(dtype) if array.dtype.kind == "f" else array)
            tensor.stop_gradient = not value.is_floating_point()
            inputs.append(tensor)
        outputs = list(flat(model(*inputs)))
        weighted = [(out * paddle.to_tensor(weights(tuple(out.shape))).astype(out.dtype)).sum() for out in outputs
                    if out.is_floating_point() and not out.stop_gradient]  # fmt: skip
        if weighted:
            sum(weighted).backward()
        gradients: dict[int | str, np.ndarray] = {
            place: value.grad.numpy() for place, value in enumerate(inputs) if value.grad is not None
        }
        held, buffers = dict(model.named_parameters()), {}
        state = model.state_dict()
        for line in self.translated.key_map.lines:
            if line.torch is None or line.paddle is None:
                continue
            if line.paddle in held and not held[line.paddle].stop_gradient:
                if held[line.paddle].grad is not None:
                    value = held[line.paddle].grad.numpy()
                    gradients[line.torch] = value.T if line.steps else value
            else:
                buffers[line.torch] = state[line.paddle].numpy()
        return Run([out.numpy() for out in outputs], gradients, buffers)


def flat(value: Any) -> Iterator[Any]:
    """Every tensor of a nested result."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from flat(item)
    elif isinstance(value, dict):
        yield from flat(list(value.values()))
    elif value is not None:
        yield value


def weights(shape: tuple[int, ...]) -> np.ndarray:
    """The weights of the sum whose gradients are compared: no two outputs count the same."""
    return np.random.default_rng(5).standard_normal(tuple(shape))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers; which ones depends on the shape too."""
    generator = torch.Generator().manual_seed(seed + sum(size * 31**place for place, size in enumerate(shape)))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def assert_close(ours: np.ndarray, theirs: np.ndarray, within: float) -> None:
    """Equal in shape, in kind of number and, relative to the largest element, ``within``."""
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    if theirs.dtype.kind in "biu":
        np.testing.assert_array_equal(ours, theirs)
        return
    finite = np.abs(theirs[np.isfinite(theirs)])
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=within * max(finite.max(initial=0.0), 1e-300))
